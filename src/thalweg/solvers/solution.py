"""The result of a search for critical points: a frozen record, batched over starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.solvers.limit_point import LimitPoint
from thalweg.solvers.status import Status

__all__ = ["Solution"]


@dataclass(frozen=True, repr=False, eq=False)
class Solution:
    """Where every start ended, what was measured there, and what it cost.

    All tensors and arrays have the batch shape ``*b`` of the starts; for a single start ``(P,)`` they are scalars and
    `status` and `message` are a plain `Status` and text.

    Attributes:
        theta: ``(*b, P)``.
        value: ``(*b)``.
        gradient_norm: maximum norm of the gradient.
        gradient_floor: maximum norm that rounding alone gives the gradient here (two units in the last place of every
            parameter); infinite where it was not measured.
        newton_decrement: decrease of the value that a Newton step predicts, ``g^T |H|^-1 g / 2`` over the directions
            whose curvature stands above rounding; NaN where no Hessian was taken at the end.
        index: number of Hessian eigenvalues below minus their rounding noise; -1 where the spectrum was not computed.
        undecided: number of eigenvalues within rounding noise of zero; -1 where the spectrum was not computed.
        iterations: of the method.
        evaluations: values and gradients computed.
        hessians: Hessians computed; for a matrix-free method, products with the Hessian.
        status: how each start ended, an object array of `Status`.
        message: one sentence each, with figures.
        end: where each way to infinity ends that a resolver followed, an object array of `LimitPoint` and None.
        seconds: wall time of the whole batch.
        method: the method with its settings.
        seed: that of the random starts, None where starts were given.
    """

    theta: Float[Tensor, "*b P"]
    value: Float[Tensor, "*b"]
    gradient_norm: Float[Tensor, "*b"]
    gradient_floor: Float[Tensor, "*b"]
    newton_decrement: Float[Tensor, "*b"]
    index: Int[Tensor, "*b"]
    undecided: Int[Tensor, "*b"]
    iterations: Int[Tensor, "*b"]
    evaluations: Int[Tensor, "*b"]
    hessians: Int[Tensor, "*b"]
    status: Any
    message: Any
    end: Any
    seconds: float
    method: str
    seed: int | None = None

    @property
    def batch(self) -> torch.Size:
        """The batch shape ``*b``."""
        return self.value.shape

    @property
    def converged(self) -> Bool[Tensor, "*b"]:
        """Which starts converged."""
        flags = [status is Status.CONVERGED for status in self.statuses]
        return torch.tensor(flags, dtype=torch.bool).reshape(self.batch)

    @property
    def statuses(self) -> list[Status]:
        """The statuses of all starts in one flat list."""
        return [self.status] if isinstance(self.status, Status) else list(self.status.ravel())

    @property
    def messages(self) -> list[str]:
        """The messages of all starts in one flat list."""
        return [self.message] if isinstance(self.message, str) else list(self.message.ravel())

    @property
    def ends(self) -> list[LimitPoint | None]:
        """The ends at infinity of all starts in one flat list."""
        return list(self.end.ravel()) if isinstance(self.end, np.ndarray) else [self.end]

    @property
    def limit(self) -> Float[Tensor, "*b"]:
        """The loss at the end of a way to infinity, where a resolver followed it; else NaN."""
        values = [float("nan") if end is None else end.value for end in self.ends]
        return torch.tensor(values, dtype=self.value.dtype, device=self.value.device).reshape(self.batch)

    def __len__(self) -> int:
        return self.value.numel()

    def __iter__(self) -> Iterator[Solution]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, number: int) -> Solution:
        """The start with this number, counted along the flattened batch, as a Solution of its own."""
        count = len(self)
        if not -count <= number < count:
            raise InvalidInputError(f"there is no start {number}: this solution holds {count}")
        changes: dict[str, Any] = {
            "status": self.statuses[number],
            "message": self.messages[number],
            "end": self.ends[number],
        }
        for name in tensor_fields():
            tensor = getattr(self, name)
            changes[name] = tensor.reshape(count, -1)[number] if name == "theta" else tensor.reshape(-1)[number]
        return replace(self, **changes)

    def best(self) -> Solution:
        """The start of lowest value among those converged; among all where none converged."""
        values = self.value.reshape(-1).clone()
        good = self.converged.reshape(-1).to(values.device)
        values[~torch.isfinite(values)] = torch.inf
        if bool(good.any()):
            values[~good] = torch.inf
        return self[int(values.argmin())]

    def summary(self) -> str:
        """One screen: how many ended how, the levels reached, the cost; and the message of up to ten that failed."""
        count = len(self)
        lines = [f"{self.method} on {count} start{'s' if count != 1 else ''}, {self.seconds:.2f} s"]
        for status, number in Counter(self.statuses).most_common():
            lines.append(f"  {number:6d}  {status.value}: {status.sentence}")
        finite = self.value[torch.isfinite(self.value)]
        if finite.numel():
            lines.append(f"value: best {float(finite.min()):.10g}, median {float(finite.median()):.10g}")
        ends = self.limit[torch.isfinite(self.limit)]
        if ends.numel():
            lines.append(f"at infinity: {ends.numel()} ways end at losses of {float(ends.min()):.10g} and above")
        lines.append(f"largest gradient (maximum norm): {float(self.gradient_norm.max()):.3g}")
        lines.append(
            f"cost: at most {int(self.iterations.max())} iterations; in all {int(self.evaluations.sum())} values and "
            f"gradients, {int(self.hessians.sum())} Hessians or products"
        )
        pairs = list(zip(self.statuses, self.messages, strict=True))
        failed = [(i, s, m) for i, (s, m) in enumerate(pairs) if s is not Status.CONVERGED]
        lines += [f"  start {i}: {status.value}. {message}" for i, status, message in failed[:10]]
        if len(failed) > 10:
            lines.append(f"  and {len(failed) - 10} more that did not converge")
        return "\n".join(lines)

    def __repr__(self) -> str:
        count = len(self)
        done = int(self.converged.sum())
        if count == 1:
            head = self.statuses[0].value if done else f"NOT CONVERGED: {self.statuses[0].value}"
            return f"<Solution {head}; value {float(self.value):.10g}, gradient {float(self.gradient_norm):.2g}>"
        head = f"all {count} converged" if done == count else f"NOT ALL CONVERGED: {done} of {count}"
        rest = Counter(s.value for s in self.statuses if s is not Status.CONVERGED)
        tail = "".join(f", {number} {name}" for name, number in rest.most_common())
        return f"<Solution {head}{tail}; best value {float(self.best().value):.10g}>"


def tensor_fields() -> list[str]:
    plain = {"status", "message", "end", "seconds", "method", "seed"}
    return [field.name for field in fields(Solution) if field.name not in plain]


def in_batch_shape(items: list[Any], batch: torch.Size) -> Any:
    """Objects in the shape of a batch: the object itself for an empty shape, else an object array."""
    if batch == torch.Size([]):
        return items[0]
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(tuple(batch))
