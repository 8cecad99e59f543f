"""Parameters as bytes: the format of safetensors, which keeps every bit and runs no code."""

from __future__ import annotations

from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

__all__ = ["from_blob", "to_blob"]


def to_blob(theta: Float[Tensor, "*batch P"]) -> bytes:
    """Parameters of any batch shape as bytes."""
    return save({"theta": theta.detach().cpu().contiguous()})


def from_blob(blob: bytes) -> Float[Tensor, "*batch P"]:
    """The parameters again, bit for bit."""
    return load(bytes(blob))["theta"]
