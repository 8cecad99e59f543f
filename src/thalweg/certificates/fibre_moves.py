"""Moves of the parameters that leave every output as it is.

Three kinds are found without search:

- a unit whose outgoing weights are all zero has free incoming weights; so has a unit that feeds none but such units;
- a unit whose incoming weights and bias are zero, with an activation that is zero at zero, has free outgoing weights;
- where two linear maps follow one another, ``B (A x + ...)``, columns in the kernel of B may be added to A.

The moves of one kind may all be made at once. A minimum that can be moved so remains one, for the loss stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.certificates.case import Case
from thalweg.certificates.forward import bounded_layers
from thalweg.certificates.linear_kernels import kernel_moves
from thalweg.foundation import NotApplicableError
from thalweg.objectives import L2
from thalweg.structure import ActivationFacts, DenseNetwork, NetworkStructure, UnitGroup
from thalweg.structure.weights import evaluate_weights

__all__ = ["FibreMove", "find_moves"]


@dataclass(frozen=True, eq=False)
class FibreMove:
    """One family of moves.

    Attributes:
        text: what makes them possible.
        draw: ``(generator, size) -> (P,)``, a random move whose entries are about that size.
        exact: whether it is proved that the outputs stay, whatever is drawn; else it is to be checked.
        stays: ``(case, move) -> bool``, whether along the straight way to the moved point no argument of an activation
            crosses a kink, so that the gradient is an analytic function of the length.
    """

    text: str
    draw: Callable[[torch.Generator, float], Tensor]
    exact: bool
    stays: Callable[[Case, Tensor], bool]


def find_moves(case: Case) -> list[FibreMove]:
    """The moves that there are at a point.

    Args:
        case: the problem.

    Raises:
        NotApplicableError: without a network's structure, and where another term of the loss than weight decay may
            touch any parameter.
    """
    structure = case.structure()
    loose = _untouched(case)
    network = structure.as_dense()
    found = list(_of_kernels(structure, case.theta, loose))
    if network is not None:
        return [*_dense_moves(case, network, loose), *found] if not network.tied else found
    return [*_group_moves(structure, case.theta, loose), *_without_last_layer(structure, case.theta, loose), *found]


def _untouched(case: Case) -> Tensor:
    """Which coordinates no term of the loss but the data term depends on, ``(P,)``."""
    loose = torch.ones_like(case.theta, dtype=torch.bool)
    for term in case.others:
        if not isinstance(term, L2):
            raise NotApplicableError(f"it needs a loss whose other terms the moves leave alone; {term!r} may see them")
        if term.strength:
            loose &= term.mask == 0
    return loose


def _of_coordinates(
    text: str, coordinates: Tensor, size: int, stays: Callable[[Case, Tensor], bool], exact: bool = True
) -> FibreMove:
    def draw(generator: torch.Generator, scale: float) -> Tensor:
        move = torch.zeros(size, dtype=torch.float64)
        move[coordinates.cpu()] = scale * torch.randn(len(coordinates), generator=generator, dtype=torch.float64)
        return move

    return FibreMove(text, draw, exact, stays)


def _of_kernels(structure: NetworkStructure, theta: Tensor, loose: Tensor) -> Iterator[FibreMove]:
    for move in kernel_moves(structure, theta, loose):
        yield FibreMove(move.text, move.draw, False, _always)


def _always(case: Case, move: Tensor) -> bool:
    return True


# -- multilayer perceptrons --------------------------------------------------------------------------------------------


def _dense_moves(case: Case, network: DenseNetwork, loose: Tensor) -> Iterator[FibreMove]:
    weights = network.matrices(case.theta)
    yield from _silent_moves(network, _silent(weights), loose)
    idle = _idle(network, weights, network.features(case.data_term().inputs))
    columns = [after.weight_coordinates[:, which] for after, which in zip(network.layers[1:], idle, strict=True)]
    outgoing = _free(_joined(*columns), loose)
    if len(outgoing):
        text = f"{sum(int(which.sum()) for which in idle)} units are zero whatever their inputs"
        yield _of_coordinates(text, outgoing, len(loose), _always)


def _silent_moves(network: DenseNetwork, silent: list[Tensor], loose: Tensor) -> Iterator[FibreMove]:
    """Incoming weights of units that reach no output: of several layers at once where all that they reach is analytic.

    What is moved in one layer changes the silent units of the later ones too. So from the last layer down to the first
    where silent units have kinks all may move together; the units of that layer may move by themselves, as long as they
    stay between the kinks.
    """
    together, count = torch.zeros(0, dtype=torch.long), 0
    for number in reversed(range(len(network.hidden))):
        layer, which = network.layers[number], silent[number]
        tables = [table for table in (layer.weight_coordinates, layer.bias_coordinates) if table is not None]
        rows = _free(_joined(*(table[which] for table in tables)), loose)
        if layer.activation.analytic is True:
            together, count = torch.cat([rows, together]), count + int(which.sum())
        elif bool(which.any()):
            if len(rows):
                text = f"{int(which.sum())} units of {layer.name!r} feed no output"
                yield _of_coordinates(text, rows, len(loose), _SamePieces(number, which))
            break
    if len(together):
        yield _of_coordinates(f"{count} units feed no output", together, len(loose), _always)


def _joined(*tables: Tensor) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.long), *(table.reshape(-1) for table in tables)])


def _free(coordinates: Tensor, loose: Tensor) -> Tensor:
    kept = coordinates[coordinates >= 0]
    return kept[loose.cpu()[kept]]


def _silent(weights: list[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    """For each hidden layer which units reach no output: their outgoing weights but those into such units are zero."""
    found: list[Tensor] = []
    reached = torch.ones(len(weights[-1][0]), dtype=torch.bool)
    for matrix, _ in reversed(weights[1:]):
        silent = (matrix.cpu()[reached] == 0).all(0)
        found.insert(0, silent)
        reached = ~silent
    return found


def _idle(network: DenseNetwork, weights: list[tuple[Tensor, Tensor | None]], features: Tensor) -> list[Tensor]:
    """For each hidden layer which units are zero on all samples, and differentiable there."""
    found = []
    zero = (features == 0).all(0).cpu()
    for layer, (matrix, bias) in zip(network.hidden, weights[:-1], strict=True):
        off = (matrix.cpu()[:, ~zero] == 0).all(1)
        if bias is not None:
            off &= bias.cpu() == 0
        zero = off & _through_zero(layer.activation)
        found.append(zero)
    return found


def _through_zero(facts: ActivationFacts) -> bool:
    """Whether an activation is zero at zero, and differentiable there."""
    if not facts.recognised or facts.kinks is None or facts.smoothness is None:
        return False
    return facts.value_at_zero == 0 and (facts.smoothness >= 1 or 0.0 not in facts.kinks)


@dataclass(frozen=True)
class _SamePieces:
    """Whether the weighted sums of some units stay between the same kinks on the straight way to a moved point.

    They are linear in the length of the move, so both ends tell; from a row of zeros every sum leaves a kink at zero
    at once.
    """

    layer: int
    units: Tensor

    def __call__(self, case: Case, move: Tensor) -> bool:
        network, inputs = case.dense(), case.data_term().inputs
        facts = network.layers[self.layer].activation
        if facts.kinks is None or not facts.recognised:
            return False
        features = network.features(inputs)
        try:
            ends = [bounded_layers(network, case.theta, features)[self.layer].before]
            ends.append(bounded_layers(network, case.theta + move, features)[self.layer].before)
        except NotApplicableError:
            return False
        weight, bias = network.matrices(case.theta)[self.layer]
        zero = (weight == 0).all(1) & (True if bias is None else bias == 0)
        for kink in facts.kinks:
            gaps = [(end.value - kink)[:, self.units] for end in ends]
            clear = [gap.abs() > end.error[:, self.units] for gap, end in zip(gaps, ends, strict=True)]
            same = clear[0] & (gaps[0].sign() == gaps[1].sign())
            leaving = zero[self.units] if kink == 0 else torch.zeros_like(zero[self.units])
            if not bool((clear[1] & (same | leaving)).all()):
                return False
        return True


# -- other networks ----------------------------------------------------------------------------------------------------


def _smooth_throughout(case: Case, move: Tensor) -> bool:
    return case.objective.kinks(case.theta).smooth and case.objective.kinks(case.theta + move).smooth


def _group_moves(structure: NetworkStructure, theta: Tensor, loose: Tensor) -> Iterator[FibreMove]:
    """Units of networks of any form, one group at a time."""
    at = theta.cpu()
    for group in structure.unit_groups:
        inside = torch.cat([group.incoming, group.bias, group.scale], 1)
        if group.frozen or not group.outgoing.shape[1] or _meet(inside, group.outgoing):
            continue
        silent = (at[group.outgoing] == 0).all(1)
        rows = _free(inside[silent].reshape(-1), loose)
        if len(rows):
            text = f"{int(silent.sum())} units of {group.name!r} have no outgoing weights"
            yield _of_coordinates(text, rows, len(at), _smooth_throughout, exact=False)
        idle = _idle_of_group(group, at)
        columns = _free(group.outgoing[idle].reshape(-1), loose)
        if len(columns):
            text = f"{int(idle.sum())} units of {group.name!r} have no incoming weights"
            yield _of_coordinates(text, columns, len(at), _smooth_throughout, exact=False)


def _meet(left: Tensor, right: Tensor) -> bool:
    return bool(torch.isin(left.reshape(-1), right.reshape(-1)).any())


def _idle_of_group(group: UnitGroup, at: Tensor) -> Tensor:
    plain = group.plain and all(_through_zero(facts) for facts in group.activations)
    if not plain:
        return torch.zeros(group.size, dtype=torch.bool)
    return (at[group.incoming] == 0).all(1) & (at[group.bias] == 0).all(1)


def _without_last_layer(structure: NetworkStructure, theta: Tensor, loose: Tensor) -> Iterator[FibreMove]:
    """Everything before a last layer whose weights are all zero."""
    if len(structure.outputs) != 1 or structure.last_layers[0] is None:
        return
    last = structure.last_layers[0]
    if last.weight is None or last.weight.kind == "computed" or set(last.parameters) & set(structure.tied):
        return
    if bool((evaluate_weights(last.weight, structure.named(theta), structure.parameters) != 0).any()):
        return
    own = {name for name in last.parameters if name in structure.space}
    before = [torch.arange(block.start, block.stop) for block in structure.space if block.name not in own]
    coordinates = _free(_joined(*before), loose)
    if len(coordinates):
        text = f"the weights of the last layer, {last.name!r}, are all zero"
        yield _of_coordinates(text, coordinates, len(loose), _smooth_throughout, exact=False)
