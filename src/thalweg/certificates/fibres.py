"""Moves that change no output, and then a step down: saddles that the Hessian does not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.certificates.case import Case
from thalweg.certificates.claims import Certificate, ClaimKind, Hypothesis, Level, Scope, State
from thalweg.certificates.fibre_moves import FibreMove, find_moves
from thalweg.certificates.gradient import gradient_with_error
from thalweg.certificates.lower_point import LowerPoint, compared, lowest_along
from thalweg.certificates.registry import Certifier, register_certifier
from thalweg.certificates.rounding import gamma
from thalweg.certificates.smoothness import differentiable
from thalweg.certificates.work import Work
from thalweg.foundation import NotApplicableError

__all__ = ["FibreDescent"]

DRAWS = 3
"""Random moves of each size."""

TRIED = 3
"""Moved points of each family from which a step down is tried."""

SAME = 1e-9
"""Relative change of the outputs beyond which a move that should leave them has been misread."""


@dataclass(frozen=True)
class FibreDescent(Certifier):
    """No local minimum where a move that changes no output leads to points with a gradient.

    If the point were a local minimum, all points near it with the same outputs would be local minima too, for their
    loss is the same; so the gradient would vanish at each of them. Along the moves looked at here (units without
    outgoing or without incoming weights, kernels of linear products) the gradient is an analytic function of the length
    of the move: where it does not vanish at some length it does not at lengths as small as one likes. No convexity is
    needed, nor negative curvature: the Hessian may be zero. The step down that follows is shown by evaluation.
    """

    name: ClassVar[str] = "fibre descent"
    kind: ClassVar[ClaimKind] = ClaimKind.NOT_A_MINIMUM
    scope: ClassVar[Scope] = Scope.POINT
    source: ClassVar[str] = "Kawaguchi & Kaelbling 2020, the perturbable gradient basis; analytic along the move"
    stage: ClassVar[int] = 30

    def work(self, case: Case) -> Work:
        """Gradients at moved points, and lines searched from the best of them."""
        if not find_moves(case):
            raise NotApplicableError(
                "it needs parameters that change no output: units without outgoing or without incoming weights, or "
                "linear layers that follow one another and narrow, and no weight decay on them"
            )
        return Work(gradients=150, bytes=8 * 6 * DRAWS * case.theta.numel())

    def prove(self, case: Case, earlier: Sequence[Certificate]) -> Certificate:
        """Try each family of moves."""
        moves = find_moves(case)
        why = "no moved point had a gradient beyond rounding from which a step lowers the loss"
        for move in moves:
            if case.control.why_stop():
                why = "there was no time for all moves"
                break
            found = self._try(case, move)
            if found is not None:
                return found
        return self.undecided(f"{why} ({'; '.join(move.text for move in moves)})")

    def _try(self, case: Case, move: FibreMove) -> Certificate | None:
        for direction in _promising(case, move):
            if not (_leaves_outputs(case, direction) and move.stays(case, direction)):
                continue
            moved = case.at(case.theta + direction)
            gradient, error, level = gradient_with_error(moved)
            sure = float((gradient.abs() - error).clamp_min(0).norm()) * (1 - gamma(len(error) + 8))
            smooth = differentiable(moved)
            if not sure > 0 or not smooth.met:
                continue
            lower = compared(case, lowest_along(case, moved.theta, -gradient))
            if lower.shown:
                level = level if move.exact and lower.level is Level.RIGOROUS else Level.NUMERIC
                return self._claim(move, direction, sure, smooth, lower, level)
        return None

    def _claim(
        self, move: FibreMove, direction: Tensor, sure: float, smooth: Hypothesis, lower: LowerPoint, level: Level
    ) -> Certificate:
        still = State.PROVED if move.exact else State.CHECKED
        hypotheses = [
            Hypothesis("outputs stay as they are along the move", still, note=move.text),
            Hypothesis("no other term of the loss depends on what is moved", State.PROVED),
            Hypothesis("the gradient is analytic in the length of the move", State.PROVED),
            Hypothesis(
                f"{smooth.statement.removesuffix(' here')} at the moved point", smooth.state, smooth.margin, smooth.note
            ),
        ]
        size = float(direction.norm())
        return self.claimed(
            f"no local minimum: {move.text}; moved by {size:.3g}, the outputs stay, the gradient becomes at least "
            f"{sure:.3g}, and a step from there ends {lower.bound:.3g} below the loss here",
            level=level,
            rounding=lower.rounding,
            hypotheses=hypotheses,
            evidence={"theta": lower.theta, "direction": direction, "gradient": sure, "decrease": lower.bound},
        )


def _promising(case: Case, move: FibreMove) -> list[Tensor]:
    """The moves, of some drawn at several sizes, after which the gradient is largest."""
    generator = torch.Generator().manual_seed(case.seed)
    drawn = [move.draw(generator, size).to(case.theta) for size in _sizes(case) for _ in range(DRAWS)]
    gradients = torch.stack([case.objective.gradient(case.theta + direction) for direction in drawn])
    norms = torch.nan_to_num(gradients, nan=0.0, posinf=0.0, neginf=0.0).norm(dim=1)
    order = norms.argsort(descending=True)[:TRIED].tolist()
    return [drawn[number] for number in order if float(norms[number]) > 0]


def _sizes(case: Case) -> tuple[float, ...]:
    """Sizes of entries to try: those of theta, and those that make weighted sums of the inputs about one."""
    used = case.theta[case.theta != 0]
    own = float(used.square().mean().sqrt()) if len(used) else 1.0
    risk = case.data_term()
    leaves = [leaf for leaf in pytree.tree_leaves(risk.inputs) if isinstance(leaf, Tensor) and leaf.numel()]
    largest = max((float(leaf.abs().max()) for leaf in leaves if leaf.is_floating_point()), default=1.0)
    return tuple(dict.fromkeys((own, 1.0, 1 / largest if largest > 0 else 1.0)))


def _leaves_outputs(case: Case, direction: Tensor) -> bool:
    outputs = case.data_term().outputs(case.theta + direction)
    change = float((outputs - case.outputs).abs().max())
    return change <= SAME * (1 + float(case.outputs.abs().max()))


register_certifier(FibreDescent())
