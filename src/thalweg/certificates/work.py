"""What an attempt will cost, told before it is made."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.foundation import format_bytes

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """Predicted cost of a certificate.

    Attributes:
        gradients: passes forward and back over all data.
        flops: arithmetic besides, in floating-point operations.
        bytes: memory at the peak.

    >>> Work(gradients=2) + Work(gradients=1, bytes=2**20)
    Work(gradients=3, flops=0.0, bytes=1048576)
    """

    gradients: float = 0.0
    flops: float = 0.0
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        """One after the other: times add up, memory does not."""
        return Work(self.gradients + other.gradients, self.flops + other.flops, max(self.bytes, other.bytes))

    def seconds(self, gradient_seconds: float, flops_per_second: float) -> float:
        """Predicted time on a machine measured beforehand."""
        return self.gradients * gradient_seconds + self.flops / flops_per_second

    def describe(self) -> str:
        """In words.

        >>> Work(gradients=12, bytes=3 * 2**30).describe()
        '12 gradients, 3.0 GiB'
        """
        parts = []
        if self.gradients:
            parts.append(f"{self.gradients:.3g} gradients")
        if self.flops >= 1e6:
            parts.append(f"{self.flops:.1e} operations")
        if self.bytes >= 2**20:
            parts.append(format_bytes(self.bytes))
        return ", ".join(parts) or "next to nothing"
