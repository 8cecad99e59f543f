"""Every named direction leaves the outputs as they are, as far as it says; and the count is what theory says."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg.foundation import InvalidInputError, MemoryLimitError, memory_limit
from thalweg.structure import (
    FlatDirection,
    flat_directions,
    output_shifts,
    span_basis,
    stack_directions,
    symmetry_tangents,
    trace,
    unused_parameters,
)


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().double()


def net(*widths, activation=nn.Tanh, bias=True):
    def make():
        layers = []
        for inside, out in pairwise(widths):
            layers += [nn.Linear(inside, out, bias=bias), activation()]
        return nn.Sequential(*layers[:-1])

    return seeded(make)


class Square(nn.Module):
    def forward(self, x):
        return x**2


def own(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def output(model, theta, x):
    again = copy.deepcopy(model)
    nn.utils.vector_to_parameters(theta, again.parameters())
    return again(x).detach()


def jacobian(model, theta, x):
    names = {n: p.shape for n, p in model.named_parameters()}

    def f(t):
        parts, start = {}, 0
        for name, shape in names.items():
            parts[name] = t[start : start + shape.numel()].reshape(shape)
            start += shape.numel()
        return torch.func.functional_call(model, parts, (x,)).reshape(-1)

    return torch.func.jacrev(f)(theta)


def holds(model, theta, direction, x):
    """Whether the outputs stay along the direction, for as long as it claims."""
    reach = {"line": 1.0, "segment": 1e-6, "curve": 0.0}[direction.extent]
    before = output(model, theta, x)
    size = max(float(before.abs().max()), 1.0)
    for t in (reach, -0.7 * reach):
        if float((output(model, theta + t * direction.direction, x) - before).abs().max()) > 1e-9 * size:
            return False
    slope = jacobian(model, theta, x) @ direction.direction
    return float(slope.abs().max()) <= 1e-9 * max(size, float(jacobian(model, theta, x).abs().max()))


def kinds(directions):
    return {kind: sum(d.kind == kind for d in directions) for kind in sorted({d.kind for d in directions})}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (net(3, 4, 2, activation=nn.ReLU), {"rescaled unit": 4}),
        (net(3, 4, 5, 2, activation=nn.LeakyReLU), {"rescaled unit": 9}),
        (net(3, 4, 2), {}),
        (net(3, 4, 2, activation=Square), {"rescaled unit": 4}),
        (net(3, 2, 2, activation=nn.Identity, bias=False), {"rescaled unit": 2, "mixed linear units": 2}),
    ],
)
def test_tangents_of_continuous_symmetries(model, expected):
    x, theta = data(20, 3), own(model)
    found = symmetry_tangents(trace(model, x), theta)
    assert kinds(found) == expected
    assert all(holds(model, theta, d, x) for d in found)
    assert all(abs(float(d.direction.norm()) - 1) < 1e-12 for d in found)


def nullity(model, theta, x):
    values = torch.linalg.svdvals(jacobian(model, theta, x))
    return int((values < 1e-9 * values[0]).sum()) + max(0, theta.numel() - len(values))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
def test_the_directions_span_the_null_space_of_a_deep_network_with_corners(activation):
    """With ample data the Jacobian's kernel is the span of what was found, no more and no less."""
    model, x = net(3, 4, 3, 2, activation=activation), data(300, 3)
    with torch.no_grad():
        model[2].bias[0] = 0.3
    theta = own(model)
    found = flat_directions(trace(model, x), theta, x)
    assert all(holds(model, theta, d, x) for d in found)
    assert len(span_basis(found)) == nullity(model, theta, x) >= 7


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("sides", [(1,), (1, 1), (1, 1, 1), (1, -1), (-1,)])
def test_units_on_one_side_of_their_kink(activation, sides):
    """Biases of such units are traded for those of the outputs, and the units are mixed with each other."""
    model, x = net(4, 6, 2, activation=activation), data(200, 4)
    with torch.no_grad():
        for unit, side in enumerate(sides):
            model[0].bias[unit] = 30.0 * side
    theta = own(model)
    found = flat_directions(trace(model, x), theta, x)
    assert all(holds(model, theta, d, x) for d in found)
    alive = [s for s in sides if s > 0 or activation is nn.LeakyReLU]
    assert kinds(found).get("one-sided unit", 0) == len(alive) ** 2
    assert len(span_basis(found)) == nullity(model, theta, x)


def test_the_tangents_span_the_null_space_of_a_linear_network():
    """A chain of invertible linear layers has the kernel of all products: sum of squares of the hidden widths."""
    model, x = net(4, 3, 3, 4, activation=nn.Identity, bias=False), data(50, 4)
    theta = own(model)
    basis = span_basis(symmetry_tangents(trace(model, x), theta))
    assert len(basis) == nullity(model, theta, x) == 9 + 9


@pytest.mark.parametrize("ranks", [(2, 3), (3, 1), (1, 1), (0, 2)])
def test_the_null_space_of_a_two_layer_linear_network_of_any_rank(ranks):
    """V W with W of rank r and V of rank s: what was found spans the kernel of the Jacobian, rank-deficient or not."""
    model, x = net(4, 5, 3, activation=nn.Identity, bias=False), data(50, 4)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer, rank in zip((model[0], model[2]), ranks, strict=True):
            out, inside = layer.weight.shape
            left = torch.randn(out, rank, generator=generator, dtype=torch.float64)
            layer.weight.copy_(left @ torch.randn(rank, inside, generator=generator, dtype=torch.float64))
    theta = own(model)
    found = flat_directions(trace(model, x), theta, x)
    assert all(holds(model, theta, d, x) for d in found)
    assert len(span_basis(found)) == nullity(model, theta, x)


class Exponential(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.b(torch.exp(self.a(x)))


def test_exponential_units_trade_bias_for_outgoing_weights():
    model, x = seeded(Exponential), data(20, 3)
    found = flat_directions(trace(model, x), own(model), x)
    assert kinds(found) == {"exponential shift": 2}
    assert all(holds(model, own(model), d, x) for d in found)
    assert nullity(model, own(model), x) == 2


# -- duplicates and dead units -----------------------------------------------------------------------------------------


def test_duplicates():
    model, x = net(3, 5, 2), data(20, 3)
    with torch.no_grad():
        for source, copied, sign in ((0, 2, 1.0), (0, 4, -1.0)):
            model[0].weight[copied] = sign * model[0].weight[source]
            model[0].bias[copied] = sign * model[0].bias[source]
    theta = own(model)
    found = flat_directions(trace(model, x), theta, x)
    assert kinds(found) == {"duplicate units": 2 * 2}
    assert all(d.extent == "line" and holds(model, theta, d, x) for d in found)


def test_the_tolerance_of_duplicates():
    from thalweg.structure import duplicate_units

    model, x = net(3, 4, 2), data(20, 3)
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = model[0].weight[1] + 1e-6, model[0].bias[1]
        longest = float(torch.cat([model[0].weight, model[0].bias[:, None]], 1)[1:3].norm(dim=1).max())
    structure = trace(model, x)
    assert duplicate_units(structure, own(model)) == []
    (cluster,) = duplicate_units(structure, own(model), tolerance=1e-5)
    assert cluster.units.tolist() == [1, 2]
    assert abs(cluster.distance - 1e-6 * 3**0.5 / longest) < 1e-9
    with pytest.raises(InvalidInputError, match="must be positive"):
        duplicate_units(structure, own(model), tolerance=0.0)


def test_parallel_units_of_a_homogeneous_activation_are_duplicates():
    model, x = net(3, 4, 2, activation=nn.ReLU), data(20, 3)
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 2.5 * model[0].weight[1], 2.5 * model[0].bias[1]
        model[0].weight[2], model[0].bias[2] = -model[0].weight[1], -model[0].bias[1]  # opposite: not a duplicate
    theta = own(model)
    found = flat_directions(trace(model, x), theta, x)
    assert kinds(found) == {"duplicate units": 2, "rescaled unit": 4}
    assert all(holds(model, theta, d, x) for d in found)


FUNCTIONS = [lambda z: z**2, lambda z: z**3, torch.abs, lambda z: z, torch.cos, functional.relu]


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("factor", [1.0, -1.0, 3.0, -0.5])
def test_duplicates_up_to_a_factor(activation, factor):
    """Where the values are proportional on all inputs the units are found, with the right factor; else they are not."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x):
            return self.b(activation(self.a(x)))

    from thalweg.structure import duplicate_units

    model, x = seeded(Net), data(20, 3)
    with torch.no_grad():
        model.a.weight[1], model.a.bias[1] = factor * model.a.weight[0], factor * model.a.bias[0]
    theta = own(model)
    h = activation(model.a(x))[:, :2].detach()
    ratio = h[:, 1] / h[:, 0]
    ratio = ratio[ratio.isfinite()]
    together = bool(((h[:, 0] == 0) == (h[:, 1] == 0)).all())
    proportional = len(ratio) and float(ratio.max() - ratio.min()) < 1e-9 and together
    clusters = duplicate_units(trace(model, x), theta)
    assert len(clusters) == int(proportional)
    if proportional:
        assert torch.allclose(h[:, 1], clusters[0].factors[1] * h[:, 0])
        found = [d for d in flat_directions(trace(model, x), theta, x) if d.kind == "duplicate units"]
        assert all(holds(model, theta, d, x) for d in found)


def test_duplicates_behind_duplicates():
    """In the second layer two units whose rows differ, but only in how they share out two duplicates of the first."""
    model, x = net(3, 4, 3, 2), data(20, 3)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight[2], model[2].bias[2] = model[2].weight[0], model[2].bias[0]
        model[2].weight[2, 0] += 0.7
        model[2].weight[2, 1] -= 0.7
    theta = own(model)
    found = [d for d in flat_directions(trace(model, x), theta, x) if d.kind == "duplicate units"]
    assert len(found) == 3 + 2
    assert all(holds(model, theta, d, x) for d in found)


def test_units_without_outgoing_weights():
    model, x = net(3, 4, 2), data(20, 3)
    with torch.no_grad():
        model[2].weight[:, 1] = 0.0
    found = flat_directions(trace(model, x), own(model), x)
    assert kinds(found) == {"silent unit": 4}
    assert all(holds(model, own(model), d, x) for d in found)


def test_units_that_are_zero_on_all_inputs():
    model, x = net(3, 4, 2, activation=nn.ReLU), data(20, 3)
    with torch.no_grad():
        model[0].bias[2] = -100.0
    theta = own(model)
    found = flat_directions(trace(model, x), theta, x)
    assert kinds(found) == {"dead unit": 2 + 4, "rescaled unit": 4}
    assert [d.extent for d in found if d.kind == "dead unit"] == ["line"] * 2 + ["segment"] * 4
    assert all(holds(model, theta, d, x) for d in found)
    assert kinds(flat_directions(trace(model, x), theta)) == {"rescaled unit": 4}  # without data it cannot be known


def test_a_unit_at_the_edge_of_its_flat_piece_has_no_free_incoming_weights():
    """All preactivations exactly zero: the unit is dead, but a step in one direction wakes it."""
    model, x = net(3, 3, 2, activation=nn.ReLU), data(20, 3)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0.0, 0.0
    found = [d for d in flat_directions(trace(model, x), own(model), x) if d.kind == "dead unit"]
    assert [d.extent for d in found] == ["line", "line"]
    assert all(holds(model, own(model), d, x) for d in found)


@pytest.mark.parametrize("part_bytes", [2**28, 10_000])
def test_a_unit_alive_on_one_of_many_samples_is_not_dead(monkeypatch, part_bytes):
    monkeypatch.setattr("thalweg.structure.network.PART_BYTES", part_bytes)
    model, x = net(3, 4, 2, activation=nn.ReLU), data(3000, 3)
    with torch.no_grad():
        model[0].weight[2] = torch.tensor([1.0, 0.0, 0.0])
        model[0].bias[2] = -float(x[:, 0].sort().values[-2])
    assert "dead unit" not in kinds(flat_directions(trace(model, x), own(model), x))
    kept = x[x[:, 0] < x[:, 0].max()]
    assert "dead unit" in kinds(flat_directions(trace(model, x), own(model), kept))


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 3, 2), nn.Linear(27, 2)

    def forward(self, x):
        return self.head(functional.relu(self.conv(x)).flatten(1))


def test_channels():
    model, x = seeded(Pictures), data(10, 1, 4, 4)
    with torch.no_grad():
        model.conv.bias[0] = -100.0
        model.conv.weight[2], model.conv.bias[2] = model.conv.weight[1], model.conv.bias[1]
    theta = own(model)
    found = flat_directions(trace(model, x), theta, x)
    assert kinds(found) == {"dead unit": 18 + 5, "duplicate units": 18, "rescaled unit": 3}
    assert all(holds(model, theta, d, x) for d in found)


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_unused_constant_and_dependent_inputs():
    model, x = net(5, 4, 2), data(30, 5)
    x[:, 1] = 0.0
    x[:, 3] = 2.7
    x[:, 4] = 3 * x[:, 0] - x[:, 2] + 0.5
    theta = own(model)
    found = flat_directions(trace(model, x), theta, x)
    assert kinds(found) == {"constant input": 4, "dependent inputs": 4, "unused input": 4}
    assert all(d.extent == "line" and holds(model, theta, d, x) for d in found)
    assert len(span_basis(found)) == nullity(model, theta, x) == 12


def test_without_a_bias_a_constant_input_is_of_use():
    model, x = net(3, 4, 2, bias=False), data(30, 3)
    x[:, 1] = 2.5
    assert flat_directions(trace(model, x), own(model), x) == []


def test_fewer_samples_than_inputs():
    model, x = net(6, 3, 2), data(4, 6)
    found = flat_directions(trace(model, x), own(model), x)
    assert kinds(found) == {"dependent inputs": 3 * (7 - 4)}
    assert all(holds(model, own(model), d, x) for d in found)


def test_features_of_very_different_size_are_not_taken_for_dependent():
    model, x = net(3, 4, 2), data(30, 3)
    x = x * torch.tensor([1.0, 1e-9, 1e9], dtype=torch.float64)
    assert flat_directions(trace(model, x), own(model), x) == []


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_softmax_shift():
    model, x = net(3, 4, 5), data(20, 3)
    structure, theta = trace(model, x), own(model)
    labels = torch.arange(20) % 5
    found = output_shifts(structure)
    assert kinds(found) == {"softmax shift": 5}

    def loss(t):
        return functional.cross_entropy(output(model, t, x), labels)

    for direction in found:
        assert abs(float(loss(theta + 3 * direction.direction) - loss(theta))) < 1e-12
        assert not torch.allclose(output(model, theta + direction.direction, x), output(model, theta, x))
    assert kinds(flat_directions(structure, theta, x, shift_invariant_outputs=True)) == {"softmax shift": 5}
    assert output_shifts(trace(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), x)) == []


class Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


def test_unused_parameters():
    model, x = seeded(Spare), data(10, 3)
    found = unused_parameters(trace(model, x))
    assert len(found) == 6
    assert all(holds(model, own(model), d, x) for d in found)
    assert {d.description.split()[0] for d in found} == {"spare.weight", "spare.bias"}


def test_stacking_and_its_refusals():
    one = FlatDirection("a", "b", 3, torch.tensor([0, 2]), torch.tensor([3.0, 4.0]))
    assert torch.allclose(stack_directions([one, one])[1], torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64))
    with pytest.raises(InvalidInputError, match="no direction"):
        stack_directions([])
    with pytest.raises(InvalidInputError, match="positive length"):
        FlatDirection("a", "b", 3, torch.tensor([0]), torch.tensor([0.0]))
    large = FlatDirection("a", "b", 10**6, torch.tensor([0]), torch.tensor([1.0]))
    with memory_limit("10MB"), pytest.raises(MemoryLimitError, match="3 dense directions"):
        stack_directions([large] * 3)


def test_one_theta_at_a_time():
    model, x = net(3, 4, 2, activation=nn.ReLU), data(10, 3)
    structure = trace(model, x)
    for wrong in (own(model).expand(2, -1), own(model)[:-1]):
        with pytest.raises(InvalidInputError, match="one parameter vector \\(26,\\) is needed"):
            flat_directions(structure, wrong, x)
    live = nn.utils.parameters_to_vector(model.parameters())  # it requires a gradient, and is single precision here
    assert len(flat_directions(structure, live.float(), x)) == len(flat_directions(structure, own(model), x))


def test_a_direction_may_list_a_coordinate_twice():
    twice = FlatDirection("a", "b", 2, torch.tensor([0, 0]), torch.tensor([1.0, 1.0]))
    assert float(twice.direction.norm()) == pytest.approx(1.0)
