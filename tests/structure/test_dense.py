"""The view as a multilayer perceptron, against the module."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn

from thalweg.foundation import InvalidInputError
from thalweg.structure import explain_trace, trace


def net(*widths, activation=nn.Tanh, flatten=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Flatten()] if flatten else []
        for inside, out in pairwise(widths):
            layers += [nn.Linear(inside, out), activation()]
    return nn.Sequential(*layers[:-1])


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def thetas(structure, batch=()):
    return torch.randn(*batch, structure.space.size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("samples", [1, 2, 5, 40])
@pytest.mark.parametrize(("shape", "flatten"), [((3,), False), ((6, 3), False), ((3, 1), True)])
def test_any_number_of_samples_and_of_networks(samples, shape, flatten):
    model = net(3, 5, 4, 2, flatten=flatten)
    dense = trace(model, data(5, *shape)).as_dense()
    theta = thetas(trace(model, data(5, *shape)), (2, 3))
    inputs = data(samples, *shape, seed=9)
    found = dense.outputs(theta, inputs)
    double = copy.deepcopy(model).double()
    linears = [m for m in double if isinstance(m, nn.Linear)]
    seen = []
    for linear in linears:
        linear.register_forward_hook(lambda module, args, result: seen.append(result))
    for i in range(2):
        for j in range(3):
            seen.clear()
            nn.utils.vector_to_parameters(theta[i, j], double.parameters())
            expected = double(inputs)
            assert torch.allclose(found[i, j], expected.reshape(samples, -1), rtol=1e-12, atol=1e-13)
            for ours, theirs in zip(dense.preactivations(theta, inputs), seen, strict=True):
                assert torch.allclose(ours[i, j], theirs.reshape(-1, theirs.shape[-1]), rtol=1e-12, atol=1e-13)
            for ours, theirs in zip(dense.activations(theta, inputs)[:-1], seen[:-1], strict=True):
                values = torch.tanh(theirs).reshape(-1, theirs.shape[-1])
                assert torch.allclose(ours[i, j], values, rtol=1e-12, atol=1e-13)


def test_units_are_where_the_module_has_them():
    model = net(3, 5, 2)
    structure = trace(model, data(4, 3))
    units = structure.as_dense().units(0)
    theta = nn.utils.parameters_to_vector(model.parameters())
    assert torch.equal(theta[units.incoming], model[0].weight)
    assert torch.equal(theta[units.bias], model[0].bias)
    assert torch.equal(theta[units.outgoing], model[2].weight.T)
    with pytest.raises(InvalidInputError, match="1 hidden layers"):
        structure.as_dense().units(1)


def test_removing_one_unit_by_its_coordinates():
    """Setting the outgoing coordinates of a unit to zero removes exactly that unit's contribution."""
    model = net(3, 5, 4, 2)
    structure = trace(model, data(4, 3))
    dense, theta = structure.as_dense(), thetas(structure)
    units = dense.units(1)
    without = theta.clone()
    without[units.outgoing[2]] = 0.0
    x = data(6, 3, seed=3)
    contribution = dense.activations(theta, x)[1][:, 2:3] * theta[units.outgoing[2]]
    assert torch.allclose(dense.outputs(theta, x) - dense.outputs(without, x), contribution, rtol=1e-11, atol=1e-13)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 4.0]))
        self.net = net(3, 4, 2)

    def forward(self, x):
        return self.net((x - 1) / self.scale)


def test_what_happens_to_the_inputs_first_is_part_of_the_features():
    model = Scaled()
    dense = trace(model, data(4, 3)).as_dense()
    x = data(11, 3, seed=5)
    assert torch.allclose(dense.features(x), (x - 1) / model.scale.double())
    theta = nn.utils.parameters_to_vector(model.parameters()).detach().double()
    assert torch.allclose(dense.outputs(theta, x), copy.deepcopy(model).double()(x))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.inner(torch.tanh(self.inner(h))))).squeeze(-1)


def test_tied_layers_are_told():
    structure = trace(Shared(), data(4, 3))
    dense = structure.as_dense()
    assert dense.tied
    assert dense.widths == (3, 4, 4, 4, 1)
    theta = thetas(structure)
    model = Shared().double()
    nn.utils.vector_to_parameters(theta, model.parameters())
    assert torch.allclose(dense.outputs(theta, data(6, 3)).squeeze(-1), model(data(6, 3)))
    assert not trace(net(3, 4, 2), data(4, 3)).as_dense().tied


class Crossed(nn.Module):
    """Mixes positions and features: the second layer does not see the first one's rows."""

    def __init__(self, back):
        super().__init__()
        self.first, self.second, self.back = nn.Linear(4, 4), nn.Linear(4, 4), back

    def forward(self, x):
        h = self.second(torch.tanh(self.first(x)).transpose(1, 2))
        return h.transpose(1, 2) if self.back else h


class TransposedOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.first(x)).transpose(1, 2)


class TwoFunctions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = torch.tanh(self.first(x)).flatten(0, 1)
        return self.second(torch.exp(h).view(x.shape))


class Before(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.first = nn.Parameter(torch.ones(4)), nn.Linear(4, 4)

    def forward(self, x):
        return self.first(x * self.scale)


@pytest.mark.parametrize(
    ("make", "shape", "reason"),
    [
        (lambda: Crossed(True), (5, 4, 4), "rearranged between rows and features before 'second'"),
        (lambda: Crossed(False), (5, 4, 4), "rearranged between rows and features before 'second'"),
        (TransposedOutput, (5, 4, 4), "outputs are rearranged"),
        (Before, (5, 4), "is not a step of a multilayer perceptron"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU()), (5, 1, 4, 4), "is not a step.*convolution"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), (5, 4), "softmax"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), (5, 4), "are computed from"),
    ],
)
def test_declined_with_a_reason(make, shape, reason):
    structure = trace(make(), data(*shape))
    assert structure.as_dense() is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(structure.explain_dense())


def test_two_functions_in_a_row():
    structure = trace(TwoFunctions(), data(5, 3, 4))
    assert structure.as_dense() is None or len(structure.as_dense().layers) == 2
    assert structure.explain_dense().startswith("two elementwise functions follow 'first'") or structure.as_dense()


def test_a_single_sample_is_not_enough():
    structure = trace(net(3, 4, 2), data(1, 3))
    assert structure.as_dense() is None
    assert "trace it with several" in structure.explain_dense()


def test_it_pickles():
    structure = trace(net(3, 4, 2, activation=nn.GELU), data(4, 3))
    dense = pickle.loads(pickle.dumps(structure)).as_dense()
    theta = thetas(structure)
    assert torch.equal(dense.outputs(theta, data(6, 3)), structure.as_dense().outputs(theta, data(6, 3)))


def test_gradients_flow_through_it():
    structure = trace(net(3, 4, 2), data(4, 3))
    dense, theta, x = structure.as_dense(), thetas(structure), data(6, 3)
    slope = torch.func.grad(lambda t: dense.outputs(t, x).square().sum())(theta)
    model = net(3, 4, 2).double()
    nn.utils.vector_to_parameters(theta, model.parameters())
    model(x).square().sum().backward()
    assert torch.allclose(slope, nn.utils.parameters_to_vector([p.grad for p in model.parameters()]), rtol=1e-11)


def test_explain_is_empty_for_a_perceptron():
    assert explain_trace(net(3, 4, 2), data(4, 3)).structure.explain_dense() == ""


def test_inputs_that_would_be_cut_across_samples_are_refused():
    """Six samples of two numbers are not four rows of three."""
    dense = trace(net(3, 5, 2), data(5, 3)).as_dense()
    theta = thetas(dense)
    for inputs, shape in ((data(6, 2), r"\(6, 2\)"), (data(6, 9), r"\(6, 9\)"), (data(6), r"\(6,\)")):
        with pytest.raises(InvalidInputError, match=rf"reads 3 numbers a row, which inputs {shape} do not hold"):
            dense.outputs(theta, inputs)
    images = trace(net(12, 5, 2, flatten=True), data(5, 3, 4)).as_dense()
    assert images.features(data(7, 3, 4)).shape == images.features(data(7, 12)).shape == (7, 12)
    with pytest.raises(InvalidInputError, match="reads 12 numbers a row"):
        images.features(data(8, 3, 3))
