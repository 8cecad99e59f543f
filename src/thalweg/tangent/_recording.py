"""Activations and backpropagated signals of a forward pass, caught at the modules.

Each watched module's output has a zero added to it, a *probe*; the gradient with respect to the probe is the signal.
In-place operations behind the module do not change the probe, and its input they cannot change: autograd needs it too.
Hooks are put on the objective's private copy of the model for one pass and taken off again.

What a hook sees is not always all there is: a parameter may be used a second time by a function, a module may be called
without its samples in front. Every pass is therefore checked against the gradient that autograd gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.tangent._factors import Factor, joined
from thalweg.tangent._layer_rules import Rule, rule_of

__all__ = ["Layout", "Use", "Watched", "factors_of", "find_layout", "record", "signals_of", "watched_modules"]


@dataclass(frozen=True)
class Watched:
    """A module that a rule covers, and the blocks of the space that its parameters are."""

    module: nn.Module
    rule: Rule
    blocks: dict[str, str]  # parameter of the module -> block of the space


@dataclass
class Use:
    """One call of a watched module."""

    watched: Watched
    inputs: Tensor
    probe: Tensor


@dataclass(frozen=True)
class Layout:
    """Where the samples are among the leading dimensions of a call: dimension `axis`, alone or together with places.

    `outer` says that samples are the slower index of the two.
    """

    axis: int
    places: int
    outer: bool

    def bring(self, tensor: Tensor, lead: int, samples: int) -> Tensor:
        """From ``(*lead, ...)`` to ``(n, L, ...)``."""
        split = (samples, self.places) if self.outer else (self.places, samples)
        parts = tensor.unflatten(self.axis, split)
        parts = parts.movedim(self.axis + (0 if self.outer else 1), 0)
        return parts.flatten(1, lead)  # the lead has one dimension more by now, the samples are the first of them


def watched_modules(model: nn.Module, blocks: Sequence[str]) -> tuple[list[Watched], dict[str, str]]:
    """Modules that a rule covers and that own one of the blocks; and for each block that none owns, why."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wanted, found = set(blocks), []
    reasons = dict.fromkeys(blocks, "belongs to no module with a rule")
    for path, module in model.named_modules():
        own = {key: names[id(p)] for key, p in module._parameters.items() if p is not None and id(p) in names}
        own = {key: name for key, name in own.items() if name in wanted}
        rule = rule_of(module) if own else None
        if rule is not None:
            found.append(Watched(module, rule, own))
        for name in own.values():
            if rule is None:
                reasons[name] = f"no rule for {type(module).__name__} ({path or 'the model itself'})"
    owned = {name for watched in found for name in watched.blocks.values()}
    return found, {name: reason for name, reason in reasons.items() if name not in owned}


@contextmanager
def record(watched: Sequence[Watched]) -> Iterator[list[Use]]:
    """Collect the calls of the modules while the block runs."""
    uses: list[Use] = []
    handles = []

    def hook_for(which: Watched) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
            inputs = args[0] if args else next(iter(kwargs.values()))
            if not isinstance(output, Tensor) or not isinstance(inputs, Tensor):
                return output
            probe = torch.zeros_like(output, requires_grad=True)
            uses.append(Use(which, inputs.detach(), probe))
            return output + probe

        return hook

    try:
        for one in watched:
            handles.append(one.module.register_forward_hook(hook_for(one), with_kwargs=True))  # noqa: PERF401  on failure those made before must be known
        yield uses
    finally:
        for handle in handles:
            handle.remove()


def signals_of(outputs: Tensor, uses: Sequence[Use]) -> list[Tensor]:
    """Gradient of each output, summed over the samples, at each probe: ``(C, *shape of the module's output)``.

    Samples do not interact, so the sum over samples keeps every sample's own signal; one backward pass per output.
    """
    probes = [use.probe for use in uses]
    collected: list[list[Tensor]] = [[] for _ in uses]
    for c in range(outputs.shape[1]):
        found = torch.autograd.grad(
            outputs[:, c].sum(), probes, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for store, signal in zip(collected, found, strict=True):
            store.append(signal)
    return [torch.stack(store) for store in collected]


def find_layout(short: Use, long: Use, samples: tuple[int, int]) -> Layout | None:
    """Where the samples are, from two calls that differ only in their number; None where there is no such dimension."""
    shapes = [tuple(use.probe.shape) for use in (short, long)]
    if len(shapes[0]) != len(shapes[1]):
        return None
    lead = short.watched.rule.lead(short.watched.module, len(shapes[0]))
    differ = [axis for axis, pair in enumerate(zip(*shapes, strict=True)) if pair[0] != pair[1]]
    if len(differ) != 1 or differ[0] >= lead:
        return None
    axis = differ[0]
    places = shapes[0][axis] // samples[0]
    if places == 0 or any(shape[axis] != places * n for shape, n in zip(shapes, samples, strict=True)):
        return None
    return Layout(axis, places, True)


def factors_of(
    uses: Sequence[Use], layouts: Sequence[Layout], signals: Sequence[Tensor], samples: int
) -> dict[str, Factor]:
    """A factor for every block, all its uses joined; blocks whose uses do not fit together are left out."""
    by_block: dict[str, list[Factor]] = {}
    for use, layout, signal in zip(uses, layouts, signals, strict=True):
        module, rule = use.watched.module, use.watched.rule
        lead = rule.lead(module, use.probe.dim())
        prepared = layout.bring(rule.prepare(module, use.inputs), lead, samples)
        prepared = prepared.double() if prepared.is_floating_point() else prepared
        ordered = torch.stack([layout.bring(s, lead, samples) for s in signal.unbind()], dim=1).double()
        for parameter, factor in rule.factors(module, prepared, ordered).items():
            block = use.watched.blocks.get(parameter)
            if block is not None:
                by_block.setdefault(block, []).append(factor)
    together = {block: joined(factors) for block, factors in by_block.items()}
    return {block: factor for block, factor in together.items() if factor is not None}
