"""Groups of exchangeable units: every claimed symmetry holds in the module itself, and none is missing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg.foundation import InvalidInputError
from thalweg.structure import trace, unit_activations


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make()


class Written(nn.Module):
    """Parameters of several shapes, combined in one way."""

    def __init__(self, write):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = {"W": (4, 3), "b": (4,), "V": (4, 4), "d": (4,), "a": (2, 4), "c": (2,), "U": (8, 3), "e": (8,)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))
        self.write = write

    def forward(self, x):
        return self.write(self, x)


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.deep, self.head = nn.Conv2d(4, 4, 3, groups=4), nn.Linear(36, 3)

    def forward(self, x):
        h = functional.relu(self.stem(x))
        h = functional.pad(functional.relu(h + self.inner(h)), (1, 1, 1, 1))
        return self.head(functional.max_pool2d(self.deep(h), 2).flatten(1))


def image_chain():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 1), nn.GroupNorm(1, 6),
        nn.MaxPool2d(2), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        nn.GELU(), nn.Linear(3, 2),
    ).eval()  # fmt: skip


def relu_residual(m, x):
    h = functional.relu(x @ m.W.T + m.b)
    return functional.relu(h + torch.tanh(h @ m.V.T) @ m.V) @ m.a.T


P, S, X, M = "permutation", "sign", "scaling", "mixing"
CASES = {
    "relu": (lambda m, x: functional.relu(x @ m.W.T + m.b) @ m.a.T, (3,), {"W": {P, X}}),
    "tanh": (lambda m, x: torch.tanh(x @ m.W.T + m.b) @ m.a.T, (3,), {"W": {P, S}}),
    "sigmoid": (lambda m, x: torch.sigmoid(x @ m.W.T + m.b) @ m.a.T, (3,), {"W": {P}}),
    "square": (lambda m, x: (x @ m.W.T + m.b) ** 2 @ m.a.T, (3,), {"W": {P, S, X}}),
    "cube": (lambda m, x: (x @ m.W.T) ** 3 @ m.a.T, (3,), {"W": {P, S, X}}),
    "abs": (lambda m, x: (x @ m.W.T).abs() @ m.a.T, (3,), {"W": {P, S, X}}),
    "linear": (lambda m, x: (x @ m.W.T + m.b) @ m.a.T, (3,), {"W": {P, S, X, M}}),
    "deep": (lambda m, x: torch.tanh(functional.relu(x @ m.W.T) @ m.V.T) @ m.a.T, (3,), {"W": {P, X}, "V": {P, S}}),
    "from the left": (lambda m, x: (m.a @ torch.tanh(m.W @ x.T)).T, (3,), {"W": {P, S}}),
    "one output": (lambda m, x: functional.relu(x @ m.W.T) @ m.d, (3,), {"W": {P, X}}),
    "sequence": (lambda m, x: functional.relu(x @ m.W.T).mean(1) @ m.a.T, (5, 3), {"W": {P, X}}),
    "largest over a sequence": (lambda m, x: torch.tanh(x @ m.W.T).amax(1) @ m.a.T, (5, 3), {"W": {P}}),
    "gated": (
        lambda m, x: (lambda u, v: u * torch.sigmoid(v))(*(x @ m.U.T + m.e).chunk(2, 1)) @ m.a.T, (3,), {"U": {P}}
    ),
    "bilinear": (lambda m, x: (lambda u, v: u * v)(*(x @ m.U.T).chunk(2, 1)) @ m.a.T, (3,), {"U": {P, S, X}}),
    "two activations": (
        lambda m, x: torch.cat([functional.relu(h := x @ m.W.T)[:, :2], torch.tanh(h[:, 2:])], 1) @ m.a.T, (3,),
        {"W": {P, X}, "W'": {P, S}},
    ),
    "read twice": (lambda m, x: (lambda h: torch.tanh(h @ m.V.T) @ m.a.T + h @ m.a.T)(torch.tanh(x @ m.W.T)), (3,), {}),
    "skip to the output": (lambda m, x: torch.tanh(x @ m.W.T) @ m.a.T + x[:, :2], (3,), {"W": {P, S}}),
    "softmax over units": (lambda m, x: functional.softmax(x @ m.W.T, -1) @ m.a.T, (3,), {"W": {P}}),
    "rolled": (lambda m, x: functional.relu(x @ m.W.T).roll(1, 1) @ m.a.T, (3,), {"W": {P, X}}),
    "with a constant": (lambda m, x: functional.relu(x @ m.W.T + torch.arange(4.0)) @ m.a.T, (3,), {}),
    "sorted": (lambda m, x: functional.relu(x @ m.W.T).sort(-1).values @ m.a.T, (3,), {}),
    "running sum": (lambda m, x: functional.relu(x @ m.W.T).cumsum(-1) @ m.a.T, (3,), {}),
    "tied": (lambda m, x: torch.tanh(torch.tanh(x @ m.W.T) @ m.V.T @ m.V.T) @ m.a.T, (3,), {"W": None}),
    "one matrix twice in a layer": (
        lambda m, x: torch.cat([torch.tanh(x @ m.W.T), torch.relu(x @ m.U[:4].T)], 1) @ torch.cat([m.a, m.a], 1).T,
        (3,), {},
    ),
    "partly joined with data": (
        lambda m, x: ((torch.cat([torch.tanh(x @ m.W.T), x[:, :1]], 1) + x @ m.U[:5].T) * m.e[:5]).sum(1),
        (3,), {"W + U": {P, S}},
    ),
    "parameters used bare": (lambda m, x: torch.tanh(x @ m.W.T) @ m.a.T * m.W.sum(), (3,), {}),
}  # fmt: skip


def claimed(structure):
    return {group.name + "'" * i: set(group.symmetries)
            for i, group in [(sum(g.name == h.name for h in structure.unit_groups[:k]), g)
                             for k, g in enumerate(structure.unit_groups)]}  # fmt: skip


def moves(group, theta, seed=0):
    """Theta under every symmetry that the group claims."""
    generator = torch.Generator().manual_seed(seed)
    m = group.size
    if P in group.symmetries:
        yield P, group.permuted(theta, torch.randperm(m, generator=generator))
        yield P, group.permuted(theta, torch.arange(m).roll(1))
    if S in group.symmetries:
        yield S, group.flipped(theta, 1 - 2.0 * torch.randint(0, 2, (m,), generator=generator))
        yield S, group.flipped(theta, torch.tensor([-1.0] + [1.0] * (m - 1)))
    if X in group.symmetries:
        yield X, group.scaled(theta, 0.3 + 2 * torch.rand(m, generator=generator, dtype=torch.float64))
    if M in group.symmetries:
        yield M, group.mixed(theta, torch.randn(m, m, generator=generator, dtype=torch.float64) + 3 * torch.eye(m))


def output(model, theta, x):
    double = copy.deepcopy(model).double()
    nn.utils.vector_to_parameters(theta, double.parameters())
    return double(x.double())


def check_groups(model, structure, x):
    theta = torch.randn(structure.space.size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    before = output(model, theta, x)
    for group in structure.unit_groups:
        for symmetry, changed in moves(group, theta):
            gap = (output(model, changed, x) - before).abs().max()
            assert gap <= 1e-9 * before.abs().max(), (group, symmetry)
            if symmetry != P:
                assert not torch.equal(changed, theta)


@pytest.mark.parametrize("name", CASES)
def test_dense_networks(name):
    write, shape, expected = CASES[name]
    model = Written(write)
    structure = trace(model, data(5, *shape))
    assert structure is not None
    if name == "tied":  # the first layer's units are read by the tied matrix, too
        expected = {}
    assert claimed(structure) == expected
    check_groups(model, structure, data(6, *shape, seed=1))


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (Images, (1, 6, 6), {"stem + inner": {P}}),
        (image_chain, (1, 8, 8), {"3": {P}, "10": {P}}),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 2, 1)), (2, 8, 8),
            {"0": {P, X}},
        ),
        (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 2)), (2, 8), {"0": {P, S}}),
        (lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 1, 2)), (2, 3, 3), {"0": {P, X}}),
        (
            lambda: nn.Sequential(
                nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Conv2d(3, 3, 2, groups=3, bias=False), nn.ReLU(), nn.Conv2d(3, 1, 1)
            ),
            (2, 4, 4), {"0": {P, X}},
        ),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 1)), (4, 3, 3), {}),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), (3,), {"0": {P}}),
        (
            lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2)), (3,),
            {"0": {P}},
        ),
        (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), (3, 8), {"linear1": {P, X}}),
    ],
)  # fmt: skip
def test_layers_of_other_kinds(make, shape, expected):
    model = seeded(make)
    structure = trace(model, data(5, *shape))
    assert claimed(structure) == expected
    check_groups(model, structure, data(6, *shape, seed=1))


def test_a_residual_stream_is_one_group():
    class Stream(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.head = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 2)
            self.b = nn.Linear(5, 4, bias=False)

        def forward(self, x):
            h = functional.relu(self.stem(x))
            return self.head(functional.relu(h + self.b(torch.tanh(self.a(h)))))

    model = seeded(Stream)
    structure = trace(model, data(5, 3))
    assert claimed(structure) == {"stem + b": {P, X}, "a": {P, S}}
    stream = structure.unit_groups[0]
    assert (stream.incoming.shape, stream.bias.shape, stream.outgoing.shape) == ((4, 8), (4, 1), (4, 7))
    check_groups(model, structure, data(6, 3, seed=1))


def test_a_square_matrix_inside_the_stream():
    """h + relu(V h): the rows of V are units joined with those of the stream, its columns read the stream."""
    model = Written(lambda m, x: (lambda h: (h + functional.relu(h @ m.V.T)) @ m.a.T)(functional.relu(x @ m.W.T)))
    structure = trace(model, data(5, 3))
    assert claimed(structure) == {"W + V": {P, X}}
    check_groups(model, structure, data(6, 3, seed=1))


def test_why_units_keep_their_places():
    model = seeded(image_chain)
    structure = trace(model, data(5, 1, 8, 8))
    assert any("'0' keep their places: '1' normalises them in groups" in reason for reason in structure.pinned)
    tied = trace(Written(CASES["tied"][0]), data(5, 3))
    assert any("(tied)" in reason for reason in tied.pinned)


def test_a_unit_joined_with_data_keeps_its_place():
    structure = trace(Written(CASES["partly joined with data"][0]), data(5, 3))
    assert [group.size for group in structure.unit_groups] == [4]
    assert [reason for reason in structure.pinned if "joins them with other things" in reason]


def test_the_coordinates_of_a_group():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    (group,) = trace(model, data(5, 3)).unit_groups
    theta = nn.utils.parameters_to_vector(model.parameters())
    assert torch.equal(theta[group.incoming], model[0].weight)
    assert torch.equal(theta[group.bias], model[0].bias.unsqueeze(1))
    assert torch.equal(theta[group.outgoing], model[2].weight.T)
    assert group.degree.isnan().all()
    assert group.parity.tolist() == [-1, -1]
    assert [a.name for a in group.activations] == ["tanh"]


def test_permuting_puts_unit_i_in_the_place_of_order_i():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    (group,) = trace(model, data(5, 3)).unit_groups
    theta = nn.utils.parameters_to_vector(model.parameters()).detach().double()
    order = torch.tensor([2, 0, 3, 1])
    moved = group.permuted(theta.expand(3, -1), order)
    assert torch.equal(moved[1][group.incoming][order], theta[group.incoming])
    assert torch.equal(moved[1][group.outgoing][order], theta[group.outgoing])


def test_refusals():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    (group,) = trace(model, data(5, 3)).unit_groups
    theta = nn.utils.parameters_to_vector(model.parameters()).detach()
    with pytest.raises(InvalidInputError, match="no scaling symmetry"):
        group.scaled(theta, torch.ones(4))
    with pytest.raises(InvalidInputError, match="no mixing symmetry"):
        group.mixed(theta, torch.eye(4))
    with pytest.raises(InvalidInputError, match="expected a permutation"):
        group.permuted(theta, torch.tensor([0, 0, 1, 2]))
    with pytest.raises(InvalidInputError, match="expected a permutation"):
        group.permuted(theta, torch.tensor([0.0, 1.0, 2.0, 3.0]))
    for signs in (torch.full((4,), 0.5), torch.ones(3), torch.ones(4, 1)):
        with pytest.raises(InvalidInputError, match=r"4 signs are needed, each 1 or -1, got \["):
            group.flipped(theta, signs)
    for moved in (lambda g, t: g.permuted(t, torch.arange(4)), lambda g, t: g.flipped(t, torch.ones(4))):
        with pytest.raises(InvalidInputError, match=r"theta has shape \(2, 25\), expected \(\*batch, 26\)"):
            moved(group, torch.zeros(2, 25))
    relu = trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), data(5, 3)).unit_groups[0]
    for factors in ([1.0, 2.0, -1.0, 1.0], [1.0, 2.0, float("inf"), 1.0], [1.0, float("nan"), 1.0, 1.0], [1.0, 1.0]):
        with pytest.raises(InvalidInputError, match=r"4 positive finite factors are needed, got \["):
            relu.scaled(theta, torch.tensor(factors))
    linear = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), data(5, 3)).unit_groups[0]
    for matrix, found in ((torch.ones(4, 4), "a singular one"), (torch.eye(3), r"\(3, 3\)")):
        with pytest.raises(InvalidInputError, match=rf"an invertible matrix \(4, 4\) is needed, got {found}"):
            linear.mixed(theta, matrix)


def test_what_readers_see_of_each_unit():
    model = seeded(Images)
    structure = trace(model, data(5, 1, 6, 6))
    (group,) = structure.unit_groups
    theta = nn.utils.parameters_to_vector(model.parameters()).detach().double()
    inner, flat = unit_activations(structure, group, theta, data(7, 1, 6, 6, seed=2))
    double = copy.deepcopy(model).double()
    x = data(7, 1, 6, 6, seed=2).double()
    h = functional.relu(double.stem(x))
    assert torch.allclose(inner.squeeze(-1), h.movedim(1, -1).reshape(-1, 4))
    pooled = functional.max_pool2d(double.deep(functional.pad(functional.relu(h + double.inner(h)), (1, 1, 1, 1))), 2)
    assert torch.allclose(flat, pooled.flatten(2))


def test_a_symmetry_that_fails_numerically_is_struck_off():
    """A fact that is wrong on purpose leads to a claim that the numbers refute."""
    from dataclasses import replace

    structure = trace(seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))), data(5, 3))
    lying = tuple(
        replace(step, activation=replace(step.activation, parity="odd", homogeneity=1)) if step.activation else step
        for step in structure.steps
    )
    structure.steps = lying
    (group,) = structure.unit_groups
    assert group.symmetries == {P}
    assert sum("after all" in reason for reason in structure.pinned) == 2
