"""The loss as a function of a last linear layer alone, with everything before it fixed: convex if the loss is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thalweg.certificates.convex_newton import minimise
from thalweg.certificates.loss_forms import squares
from thalweg.foundation import Cost, InvalidInputError, NotApplicableError, ParameterSpace, RunControl, require_memory
from thalweg.objectives import L2, EmpiricalRisk, Objective, OutputObjective

__all__ = ["AffineHead", "best_head", "decay_of", "ridge"]

CUTOFF = 1e-13
"""Singular values of the features below this part of the largest count as zero."""

GONE = 1e-12
"""Part of the loss of no head at all at which Newton's method ends: separable classes go on for ever."""


class _Piece(NamedTuple):
    """Some samples of the risk, and their numbers, by which their features are found."""

    samples: Any
    numbers: Tensor


class AffineHead(OutputObjective):
    """``U -> loss(features U^T + rest) + decay``, over the matrix U ``(m, k)``.

    Args:
        risk: whose loss, targets and weights are taken.
        features: ``(N, r, k)``, r rows a sample.
        rest: ``(N, r, m)``, added to what the matrix makes.
        decay: strength of weight decay on each entry, ``(m, k)``.
        center: towards what, ``(m, k)``.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        features: Float[Tensor, "N r k"],
        rest: Float[Tensor, "N r m"],
        decay: Float[Tensor, "m k"],
        center: Float[Tensor, "m k"],
    ) -> None:
        self.risk, self.features, self.rest, self.decay, self.center = risk, features, rest, decay, center
        self.space = ParameterSpace({"head": tuple(decay.shape)})
        self.dtype, self.device, self.path = risk.dtype, risk.device, risk.path
        self.n_samples, self.n_outputs = risk.n_samples, risk.n_outputs

    def chunks(self, samples: int) -> Iterator[_Piece]:
        """The chunks of the risk, each with its features."""
        start = 0
        for chunk in self.risk.chunks(samples):
            stop = start + len(chunk.weights)
            yield _Piece(chunk, torch.arange(start, stop, device=self.device))
            start = stop

    def chunk_outputs(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, "n C"]:
        """Outputs of the head."""
        matrix = theta.reshape(self.decay.shape)
        return (self.features[chunk.numbers] @ matrix.T + self.rest[chunk.numbers]).flatten(1)

    def chunk_loss(self, outputs: Float[Tensor, "n C"], chunk: Any) -> Float[Tensor, ""]:
        """The risk's loss of these outputs."""
        return self.risk.chunk_loss(outputs, chunk.samples)

    def chunk_value(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, ""]:
        """Loss of outputs, and a share of the decay."""
        share = len(chunk.numbers) / self.n_samples
        apart = theta.reshape(self.decay.shape) - self.center
        return super().chunk_value(theta, chunk) + share * (self.decay * apart**2).sum() / 2

    def hessian(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P P"]:
        """The Hessian: blocks ``F^T diag(B_kl) F`` where every sample has one row of features F."""
        width, size = self.features.shape[-1], self.space.size
        if theta.dim() > 1 or self.features.shape[1] > 1:
            return super().hessian(theta)
        self._require_matrices(3, "a dense Hessian", "hessian_operator")
        bend, features = self.output_hessian(theta), self.features[:, 0]
        found = torch.diag(self.decay.reshape(-1))
        for k in range(self.n_outputs):
            for j in range(k + 1):
                block = features.T @ (bend[:, k, j].unsqueeze(1) * features)
                found[k * width : (k + 1) * width, j * width : (j + 1) * width] += block
        return torch.tril(found) + torch.tril(found, -1).mT if size else found

    def subset(self, indices: Tensor | Sequence[int]) -> Self:
        """Not needed here: a head always belongs to all samples of its risk."""
        raise NotApplicableError("a head of fixed features belongs to all samples of its risk")

    def content(self) -> Iterable[object]:
        """Risk, features and decay."""
        return [self.risk.fingerprint(), self.features, self.rest, self.decay, self.center]

    @property
    def cost(self) -> Cost:
        """A linear layer, and the loss."""
        width = self.features[0].numel() + 6 * self.n_outputs
        return Cost(self.n_samples, 8 * 4 * width, 8 * 8 * self.space.size)

    def execution_context(self) -> AbstractContextManager[None]:
        """That of the risk."""
        return self.risk.execution_context()


def best_head(head: AffineHead, start: Float[Tensor, "m k"], control: RunControl) -> tuple[Tensor, str]:
    """The matrix that minimises the loss: by least squares for squared errors, else by Newton's method.

    Args:
        head: the problem.
        start: where Newton's method begins, ``(m, k)``.
        control: time budget and stop event.

    Returns:
        ``(m, k)``, and how it was found.

    Raises:
        NotApplicableError: for a loss not declared convex.
    """
    if isinstance(head.risk.loss, nn.MSELoss):
        return _least_squares(head), "least squares"
    if not head.risk.loss_facts.convex:
        raise NotApplicableError(
            f"it needs a loss convex in the outputs, {head.risk.loss_facts.name} is not declared so"
        )
    nothing = torch.zeros_like(start).reshape(-1)
    found = minimise(head, start.reshape(-1), gone=GONE * abs(float(head.value(nothing))), control=control)
    return found.theta.reshape(start.shape), f"{found.iterations} Newton steps, {found.ended}"


def _least_squares(head: AffineHead) -> Tensor:
    """Rows of the matrix one by one where the decay differs between them, all at once where it does not."""
    form = squares(head.risk)
    outputs, width = head.decay.shape
    rows = head.features.shape[1]
    require_memory(
        4 * 8 * (head.features.numel() + head.rest.numel() + width**2), "least squares", "Use fewer samples."
    )
    scale = form.weight.sqrt().repeat_interleave(rows).unsqueeze(1)
    design = scale * head.features.reshape(-1, width)
    aim = scale * (form.target.reshape(-1, outputs) - head.rest.reshape(-1, outputs))
    if bool((head.decay == head.decay[:1]).all()):
        return ridge(design, aim, head.decay[0], head.center).contiguous()
    solved = [
        ridge(design, aim[:, k : k + 1], head.decay[k], head.center[k : k + 1]) for k in range(outputs)
    ]  # fmt: skip
    return torch.cat(solved)


def ridge(design: Tensor, aim: Tensor, decay: Tensor, center: Tensor) -> Tensor:
    """The ``U`` with the least ``|design U^T - aim|^2 + sum_k decay_k / 2 |U_k - center_k|^2``, ``(m, k)``."""
    if not bool(torch.isfinite(design).all() and torch.isfinite(aim).all()):
        raise InvalidInputError("features or targets are not finite")
    kept = decay > 0
    if bool(kept.any()):
        root = (decay / 2).sqrt()
        design = torch.cat([design, torch.diag(root)[kept]])
        aim = torch.cat([aim, (root.unsqueeze(1) * center.T)[kept]])
    size = design.norm(dim=0)
    size = torch.where(size > 0, size, torch.ones_like(size))  # columns of one size: the cutoff is not for their units
    solution = torch.linalg.lstsq(design / size, aim, rcond=CUTOFF, driver="gelsd").solution
    return (solution / size.unsqueeze(1)).T


def decay_of(others: Sequence[Objective], coordinates: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Strength and center of weight decay on some coordinates, shaped as they are; zero where they are frozen.

    Raises:
        NotApplicableError: if another term than weight decay is there.
    """
    decay, pull = torch.zeros_like(coordinates, dtype=theta.dtype), torch.zeros_like(coordinates, dtype=theta.dtype)
    free = coordinates >= 0
    for term in others:
        if not isinstance(term, L2):
            raise NotApplicableError(f"it needs a loss whose other terms are weight decay, not {term!r}")
        own = torch.where(free, (term.strength * term.mask)[coordinates.clamp_min(0)], 0.0)
        decay = decay + own
        pull = pull + own * term.center[coordinates.clamp_min(0)]
    return decay, torch.where(decay > 0, pull / decay.clamp_min(math.ulp(0.0)), 0.0)
