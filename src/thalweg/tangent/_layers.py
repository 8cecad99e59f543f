"""The layer engine: which blocks the layers' factors explain, and their kernel, tile by tile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.foundation import MemoryLimitError, Progress, current_limit, plan_passes
from thalweg.foundation.memory import WORKING_SET
from thalweg.objectives import Capability, OutputObjective
from thalweg.objectives.samples import chunk_length
from thalweg.tangent._factors import Factor
from thalweg.tangent._recording import (
    Layout,
    Use,
    Watched,
    factors_of,
    find_layout,
    record,
    signals_of,
    watched_modules,
)

__all__ = ["LayerEngine", "LayerPlan"]

_DISAGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Relative difference from autograd's gradient beyond which a layer's factors are not believed."""

_MOST_ORDERS = 64
"""Combinations of orders that are tried for calls whose samples and places lie in one dimension."""

Factors = dict[str, Factor]


@dataclass
class LayerPlan:
    """What the layers explain.

    Attributes:
        rules: block -> kind of layer.
        reasons: block -> why not.
        discrepancy: largest relative difference from autograd seen.
        factor_bytes: memory of one sample's factors.
        predicted_bytes: memory planned for factors.
    """

    rules: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    discrepancy: float = 0.0
    factor_bytes: int = 0
    predicted_bytes: int = 0


class _NotExplained(Exception):  # noqa: N818  a signal between two functions of this file, no error
    """Some blocks' factors disagree with autograd on some pass."""

    def __init__(self, blocks: list[str]) -> None:
        self.blocks = blocks


class LayerEngine:
    """Kernels of the blocks that layer rules cover.

    Args:
        sides: the two objectives, the same one twice for a symmetric kernel.
        point: ``(P,)``.
        blocks: those wanted.
        room: bytes for factors.
    """

    def __init__(self, sides: Sequence[OutputObjective], point: Tensor, blocks: Sequence[str], room: int) -> None:
        self.sides, self.point, self.room = sides, point, room
        self.symmetric = sides[0] is sides[1]
        self.plan = LayerPlan()
        self._watched: list[tuple[list[Watched], list[Layout]]] = []
        if blocks:
            self._survey(list(blocks))

    def add_to(self, total: Tensor, shares: Mapping[str, Tensor], bar: Progress) -> LayerPlan:
        """Add the blocks' kernels to `total` ``(N, C, M, D)`` and to their own `shares`."""
        while self.plan.rules:
            try:
                self._add_tiles(total, shares, bar)
                break
            except _NotExplained as found:  # a pass behaved otherwise than the survey: without these blocks, again
                self._give_up(found.blocks, "its module explains only part of its use")
                for tensor in (total, *shares.values()):
                    tensor.zero_()
        return self.plan

    # -- which blocks -------------------------------------------------------------------------------------------------

    def _survey(self, blocks: list[str]) -> None:
        """Run two and three samples of each side: where the samples are in every call, and which blocks check out."""
        for side in self.sides[: 1 if self.symmetric else 2]:
            if Capability.MODEL not in side.capabilities:
                self._give_up(blocks, "the objective is not computed by a torch module")
                return
            watched, reasons = watched_modules(side.model, blocks)  # type: ignore[attr-defined]  # MODEL promises it
            self.plan.reasons.update(reasons)
            self._watched.append((watched, self._layouts(side, watched)))
        owned = [[n for w in watched for n in w.blocks.values()] for watched, _ in self._watched]
        for watched, _ in self._watched:
            for one in watched:
                for name in one.blocks.values():
                    if all(name in names for names in owned):
                        self.plan.rules[name] = one.rule.name
        for number, side in enumerate(self.sides[: len(self._watched)]):
            self._verify(number, side)

    def _layouts(self, side: OutputObjective, watched: list[Watched]) -> list[Layout]:
        """The layout of every call in order; modules with a call that has none are no longer watched."""
        while watched:
            short, long = (self._calls(side, watched, _samples(side, n)) for n in (2, 3))
            if [id(u.watched) for u in short] != [id(u.watched) for u in long]:
                hopeless, found = {id(w) for w in watched}, []
            else:
                found = [find_layout(*pair, (2, 3)) for pair in zip(short, long, strict=True)]
                called = {id(use.watched) for use in short}
                hopeless = {id(u.watched) for u, layout in zip(short, found, strict=True) if layout is None}
                hopeless |= {id(w) for w in watched if id(w) not in called}
            if not hopeless:
                return [layout for layout in found if layout is not None]
            for one in [w for w in watched if id(w) in hopeless]:
                self._give_up(list(one.blocks.values()), "its module is not called with one row per sample")
                watched.remove(one)
        return []

    def _verify(self, number: int, side: OutputObjective) -> None:
        """Check the factors of three samples; where samples and places lie in one dimension, try both orders."""
        chunk = _samples(side, 3)
        watched, layouts = self._watched[number]
        fewest: list[str] | None = None
        for turned in itertools.islice(itertools.product(*(_orders(layout) for layout in layouts)), _MOST_ORDERS):
            self._watched[number] = (watched, list(turned))
            failing = self._factors(side, number, chunk)[1]
            if fewest is None or len(failing) < len(fewest):
                fewest, layouts = failing, list(turned)
            if not fewest:
                break
        self._watched[number] = (watched, layouts)
        self._give_up(fewest or [], "its module explains only part of its use")
        factors = self._factors(side, number, chunk)[0] if self.plan.rules else {}
        size = sum(factor.bytes() for factor in factors.values()) // 3
        self.plan.factor_bytes = max(self.plan.factor_bytes, size)

    def _give_up(self, blocks: Sequence[str], reason: str) -> None:
        for name in blocks:
            self.plan.rules.pop(name, None)
            self.plan.reasons.setdefault(name, reason)

    # -- factors of a pass --------------------------------------------------------------------------------------------

    def _calls(self, side: OutputObjective, watched: list[Watched], chunk: Any) -> list[Use]:
        with side.execution_context(), torch.no_grad(), record(watched) as uses:
            side.chunk_outputs(self.point, chunk)
        return uses

    def _factors(self, side: OutputObjective, number: int, chunk: Any) -> tuple[Factors, list[str]]:
        """Factors of every block that has a rule, and the names of those that disagree with autograd."""
        watched, layouts = self._watched[number]
        names = list(self.plan.rules)
        with side.execution_context(), torch.enable_grad(), record(watched) as uses:
            leaf = self.point.detach().requires_grad_()
            outputs = side.chunk_outputs(leaf, chunk)
            if len(uses) != len(layouts):
                return {}, names
            signals = signals_of(outputs, uses)
            weights = _signs(outputs)
            (pulled,) = torch.autograd.grad((weights * outputs).sum(), leaf, materialize_grads=True)
        try:
            found = factors_of(uses, layouts, signals, len(outputs))
        except (RuntimeError, ValueError):  # shapes that do not come apart as the survey said
            return {}, names
        factors = {name: factor for name, factor in found.items() if name in self.plan.rules}
        failing = [name for name in names if name not in factors]
        for name, factor in factors.items():
            block = side.space[name]
            ours, theirs = factor.pull(weights.double(), block.size), pulled[block.slice].double()
            scale = max(factor.magnitude(), float(torch.linalg.vector_norm(theirs)))
            off = float(torch.linalg.vector_norm(ours - theirs)) / scale if scale else 0.0
            if off <= _DISAGREEMENT[side.dtype]:
                self.plan.discrepancy = max(self.plan.discrepancy, off)
            else:
                failing.append(name)
        return factors, failing

    # -- tiles --------------------------------------------------------------------------------------------------------

    def _add_tiles(self, total: Tensor, shares: Mapping[str, Tensor], bar: Progress) -> None:
        """Hold the factors of as many samples as fit, and let each such group meet every other."""
        groups = [self._groups(side) for side in self.sides]
        for i, rows in enumerate(groups[0]):
            left = self._held(0, rows)
            for j, columns in enumerate(groups[1]):
                if self.symmetric and j < i:
                    continue
                bar.update(description=f"tangent kernel: samples to {rows[-1][0].stop} of {self.sides[0].n_samples}")
                right = left if self.symmetric and i == j else self._held(1, columns)
                self._meet(left, right, total, shares)

    def _meet(
        self,
        left: list[tuple[slice, Factors]],
        right: list[tuple[slice, Factors]],
        total: Tensor,
        shares: Mapping[str, Tensor],
    ) -> None:
        for rows, ours in left:
            for columns, theirs in right:
                if self.symmetric and columns.start < rows.start:
                    continue
                for name in ours:
                    if name in shares:
                        tile = torch.zeros_like(shares[name][rows, :, columns])
                        ours[name].add_gram(theirs[name], tile)
                        shares[name][rows, :, columns] += tile
                        total[rows, :, columns] += tile
                    else:
                        ours[name].add_gram(theirs[name], total[rows, :, columns])

    def _held(self, number: int, group: list[tuple[slice, Any]]) -> list[tuple[slice, Factors]]:
        held = []
        which = 0 if self.symmetric else number
        for where, chunk in group:
            factors, failing = self._factors(self.sides[number], which, chunk)
            if failing:
                raise _NotExplained(failing)
            held.append((where, factors))
        return held

    def _groups(self, side: OutputObjective) -> list[list[tuple[slice, Any]]]:
        """Passes over the data, gathered into groups whose factors take half the room each."""
        each = max(1, self.plan.factor_bytes)
        working = 3 * each + side.n_outputs * 8 + side.cost.bytes_per_sample  # of a sample while its pass runs
        passes = max(1, min(WORKING_SET, self.room) // 3 // working)
        fit = (self.room - passes * working) // (2 * each)
        if fit < 1:
            needed = current_limit() - self.room + working + 2 * each
            what = "one sample's activations and signals"
            raise MemoryLimitError(what, needed, current_limit(), "Use kernel_operator(objective, theta).")
        passes = min(passes, plan_passes(side.cost, 1).samples, fit)
        held_at_once = min(2 * fit, self.sides[0].n_samples + self.sides[1].n_samples)
        self.plan.predicted_bytes = held_at_once * each + passes * working
        groups: list[list[tuple[slice, Any]]] = [[]]
        held = 0
        for where, chunk in _placed(side, passes):
            length = where.stop - where.start
            if groups[-1] and held + length > fit:
                groups.append([])
                held = 0
            groups[-1].append((where, chunk))
            held += length
        return groups


def _orders(layout: Layout) -> list[Layout]:
    """A layout, and its other order where samples and places lie in one dimension."""
    return [layout] if layout.places == 1 else [layout, Layout(layout.axis, layout.places, not layout.outer)]


def _placed(side: OutputObjective, samples: int) -> Iterator[tuple[slice, Any]]:
    start = 0
    for chunk in side.chunks(samples):
        stop = start + chunk_length(chunk)
        yield slice(start, stop), chunk
        start = stop


def _samples(side: OutputObjective, count: int) -> Any:
    """The first `count` samples; the first ones again where there are fewer."""
    chunk = next(iter(side.chunks(count)))
    have = chunk_length(chunk)
    index = torch.arange(count, device=side.device) % have
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[index], chunk)


def _signs(outputs: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
