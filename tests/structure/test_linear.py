"""A dense layer is a dense layer, however it is written."""

import pytest
import torch
from torch import nn

from thalweg.structure import trace


class Net(nn.Module):
    """Two layers on (N, 3) with 4 hidden units and 2 outputs, written in one way."""

    def __init__(self, write, transposed=False, vector=False):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = {"W": (3, 4) if transposed else (4, 3), "b": (4,), "V": (4,) if vector else (2, 4), "c": (1,)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))
        self.write = write

    def forward(self, x):
        return self.write(self, x)


def hidden(z):
    return torch.tanh(z)


TWO_OUTPUTS = {
    "matmul and add": lambda m, x: hidden(x @ m.W.T + m.b) @ m.V.T,
    "bias first": lambda m, x: hidden(m.b + torch.mm(x, m.W.t())) @ m.V.mT,
    "F.linear": lambda m, x: nn.functional.linear(hidden(nn.functional.linear(x, m.W, m.b)), m.V),
    "addmm": lambda m, x: torch.mm(hidden(torch.addmm(m.b, x, m.W.T)), m.V.T),
    "bias after turning back": lambda m, x: (m.V @ hidden((m.W @ x.T).T + m.b).T).T,
    "einsum": lambda m, x: torch.einsum("nh,oh->no", hidden(torch.einsum("nd,hd->nh", x, m.W) + m.b), m.V),
    "from the left": lambda m, x: (m.V @ hidden(m.W @ x.T + m.b[:, None])).T,
    "tensordot": lambda m, x: torch.tensordot(hidden(torch.tensordot(x, m.W, ([1], [1])) + m.b), m.V, ([1], [1])),
    "bias as a row": lambda m, x: hidden(x @ m.W.T + m.b.view(1, 4)) @ m.V.T,
    "weights put together": lambda m, x: hidden(x @ torch.cat([m.W[:1], m.W[1:]]).T + m.b) @ m.V.flip(0).T,
    "through another shape": lambda m, x: hidden((x.view(-1, 1, 3) @ m.W.T).squeeze(1) + m.b) @ m.V.T,
}


@pytest.mark.parametrize("way", TWO_OUTPUTS)
def test_ways_of_writing_two_layers(way):
    model = Net(TWO_OUTPUTS[way])
    structure = trace(model, torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    dense = structure.as_dense()
    assert dense is not None, structure.explain_dense()
    assert dense.widths == (3, 4, 2)
    assert [layer.activation.name for layer in dense.layers] == ["tanh", "identity"]
    check(model, dense, structure)


def check(model, dense, structure):
    """Each coordinate that the layers name is the number that the module holds there."""
    theta = nn.utils.parameters_to_vector([model.get_parameter(n) for n in structure.space.names]).detach().double()
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h = x
    for layer in dense.layers:
        h = h @ theta[layer.weight_coordinates].T
        if layer.bias_coordinates is not None:
            h = h + theta[layer.bias_coordinates]
        h = layer.activation(h)
    expected = model.double()(x)
    assert torch.allclose(h.reshape(expected.shape), expected, rtol=1e-12, atol=1e-13)
    assert torch.allclose(dense.outputs(theta, x), expected.reshape(7, -1), rtol=1e-12, atol=1e-13)


ONE_OUTPUT = {
    "matrix times vector": lambda m, x: hidden(x @ m.W.T + m.b) @ m.V,
    "... plus a number": lambda m, x: hidden(x @ m.W.T + m.b) @ m.V + m.c,
    "product and sum": lambda m, x: (hidden(x @ m.W.T + m.b) * m.V).sum(-1),
    "product and sum, kept": lambda m, x: (m.V * hidden(x @ m.W.T + m.b)).sum(1, keepdim=True) + m.c,
    "mean field": lambda m, x: hidden(x @ m.W.T + m.b) @ m.V / 4,
    "unsqueezed": lambda m, x: (hidden(x @ m.W.T + m.b) @ m.V.unsqueeze(1)).squeeze(-1),
}


@pytest.mark.parametrize("way", ONE_OUTPUT)
def test_ways_of_writing_a_single_output(way):
    model = Net(ONE_OUTPUT[way], vector=True)
    structure = trace(model, torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    dense = structure.as_dense()
    assert dense is not None, structure.explain_dense()
    assert dense.widths == (3, 4, 1)
    assert structure.linear_output
    assert dense.layers[1].weight == "V"
    assert ("c" in structure.unused) == (dense.layers[1].bias is None)
    check(model, dense, structure)


def test_transposed_parameters_are_named_so():
    model = Net(lambda m, x: hidden(x @ m.W + m.b) @ m.V.T, transposed=True)
    structure = trace(model, torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    dense = structure.as_dense()
    names = [(layer.weight, layer.transposed, layer.bias) for layer in dense.layers]
    assert names == [("W", True, "b"), ("V", False, None)]
    assert dense.layers[0].weight_coordinates.tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    check(model, dense, structure)


@pytest.mark.parametrize(
    "write",
    [
        lambda m, x: hidden(x @ m.W.T - m.b) @ m.V.T,  # minus a bias
        lambda m, x: hidden(x @ m.W.T + 2 * m.b) @ m.V.T,  # a computed bias
        lambda m, x: hidden(torch.addmm(m.b, x, m.W.T, beta=2.0)) @ m.V.T,
        lambda m, x: hidden(x @ m.W.T + m.b[0]) @ m.V.T,  # one bias for all units
        lambda m, x: hidden(x @ m.W.T + m.b[:, None][:1].expand(len(x), 4)) @ m.V.T,
        lambda m, x: hidden(x @ m.W.T + torch.cat([m.b, m.b + 1])[None, :4].expand(len(x), 4)) @ m.V.T,
        lambda m, x: hidden(x @ m.W.T) @ m.V.T + x[:, :2] * m.c,
        lambda m, x: hidden(x @ (m.W * m.W).T + m.b) @ m.V.T,  # computed weights
    ],
)
def test_what_is_not_quite_a_dense_layer_is_described_but_no_perceptron(write):
    model = Net(write)
    structure = trace(model, torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    assert structure is not None
    assert structure.as_dense() is None
    assert structure.explain_dense()


def test_a_bias_in_two_places_is_added_once_in_each():
    """The sum with the bias is read twice, which must not add it twice."""
    model = Net(lambda m, x: (lambda z: hidden(z) @ m.V.T + z[:, :2])(x @ m.W.T + m.b))
    structure = trace(model, torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    theta = torch.randn(structure.space.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    nn.utils.vector_to_parameters(theta, model.double().parameters())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()
    assert torch.allclose(structure.outputs_at(theta, x)[0], model(x))


class ByRow(nn.Module):
    """Adds to each of four samples its own row: as wide as a bias, but none."""

    def __init__(self):
        super().__init__()
        self.layer, self.rows = nn.Linear(3, 4, bias=False), nn.Parameter(torch.arange(16.0).reshape(4, 4))

    def forward(self, x):
        return torch.tanh(self.layer(x) + self.rows)


def test_what_differs_from_row_to_row_is_no_bias():
    structure = trace(ByRow(), torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    assert structure is not None
    assert [step.bias for step in structure.layers] == [None]
    assert [step.parameters for step in structure.steps if step.kind == "other"] == [("rows",)]


@pytest.mark.parametrize("arrange", [lambda p: p.flip(0), lambda p: p.roll(1, 1), lambda p: p.T.flip(1)])
def test_a_square_matrix_in_another_order_is_neither_whole_nor_transposed(arrange):
    class Arranged(nn.Module):
        def __init__(self):
            super().__init__()
            self.P = nn.Parameter(torch.arange(9.0).reshape(3, 3))

        def forward(self, x):
            return x @ arrange(self.P).T

    dense = trace(Arranged(), torch.randn(5, 3, generator=torch.Generator().manual_seed(1))).as_dense()
    assert dense.layers[0].weight is None
    assert torch.equal(dense.layers[0].weight_coordinates, arrange(torch.arange(9).reshape(3, 3)))
