"""What a structure answers about the whole network."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.structure import flat_directions, trace


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(functional.relu(self.norm(self.conv(x))).mean((2, 3)))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make().double()


@pytest.mark.parametrize("samples", [1, 3, 4, 50])
def test_what_enters_each_activation_for_any_number_of_samples(samples):
    model = seeded(Pictures)
    structure = trace(model, data(4, 1, 6, 6))
    theta = torch.randn(2, structure.space.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = data(samples, 1, 6, 6, seed=2)
    (name,) = structure.activation_inputs(theta, x)
    found = structure.activation_inputs(theta, x)[name]
    again = copy.deepcopy(model)
    for row in range(2):
        nn.utils.vector_to_parameters(theta[row], again.parameters())
        assert torch.allclose(found[row], again.norm(again.conv(x)), rtol=1e-11, atol=1e-12)


def test_recording_in_parts_is_recording_at_once(monkeypatch):
    from thalweg.structure import network

    model = seeded(Pictures)
    structure = trace(model, data(4, 1, 6, 6))
    theta = nn.utils.parameters_to_vector(model.parameters()).detach()
    x = data(11, 1, 6, 6)
    monkeypatch.setattr(network, "PART_BYTES", 4_000)
    parts = list(structure.record_parts(theta, x, structure.outputs))
    assert len(parts) > 2
    assert torch.allclose(torch.cat([p[0] for p in parts]), model(x))


class ByLength(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        h = self.layer(x)
        return torch.tanh(h) if len(x) > 6 else functional.relu(h)


def test_a_network_that_computes_something_else_for_other_shapes_is_refused():
    structure = trace(ByLength(), data(4, 3))
    theta = torch.zeros(12, dtype=torch.float64)
    assert structure.outputs_at(theta, data(5, 3))[0].shape == (5, 3)
    with pytest.raises(InvalidInputError, match="computes other steps"):
        structure.outputs_at(theta, data(10, 3))


def test_last_layers_and_linear_outputs():
    def linear(model, *shape):
        structure = trace(model, data(5, *shape))
        return structure.linear_output, [step and step.name for step in structure.last_layers]

    assert linear(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 3) == (True, ["2"])
    assert linear(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1), nn.Flatten(0)), 3) == (True, ["2"])
    assert linear(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), 3) == (False, [None])
    assert linear(nn.Sequential(nn.Linear(3, 4), nn.LogSoftmax(-1)), 3) == (False, [None])


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.spare = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 1), nn.Linear(2, 2)

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        return {"a": self.a(h), "b": torch.sigmoid(self.b(h))}


def test_several_heads():
    structure = trace(Heads(), data(5, 3))
    assert len(structure.outputs) == 2
    assert [step and step.name for step in structure.last_layers] == ["a", None]
    assert structure.unused == ("spare.weight", "spare.bias")
    assert [group.name for group in structure.unit_groups] == ["stem"]
    assert structure.explain_dense() == "it has 2 outputs"


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x)))


def test_tied_parameters():
    structure = trace(Tied(), torch.arange(5))
    ((name, steps),) = structure.tied.items()
    assert name == "embed.weight"
    assert [structure.steps[s].kind for s in steps] == ["embedding", "dense"]
    assert structure.space.names == ("embed.weight", "head.bias")


def test_computed_weights_have_no_coordinates():
    structure = trace(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), data(5, 3))
    (layer,) = structure.layers
    with pytest.raises(NotApplicableError, match="computed"):
        structure.coordinates(layer.weight)
    assert set(layer.weight.names) == {"parametrizations.weight.original0", "parametrizations.weight.original1"}


def test_attention_uses_parts_of_one_parameter():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x, y):
            return self.inner(x, y, y)[0]

    structure = trace(seeded(Attention), (data(3, 2, 4), data(3, 5, 4, seed=1)))
    projections = [step for step in structure.layers if "inner.in_proj_weight" in step.parameters]
    covered = torch.cat([structure.coordinates(step.weight).reshape(-1) for step in projections])
    block = structure.space["inner.in_proj_weight"]
    assert covered.sort().values.tolist() == list(range(block.start, block.stop))
    assert len(projections) == 2


def test_description_for_people_and_pickling():
    structure = trace(seeded(Pictures), data(4, 1, 6, 6))
    assert structure.describe().splitlines() == [
        "convolution  conv                           3x4x4",
        "norm         norm                           3x4x4",
        "activation   relu                           3x4x4",
        "pool         mean_4                         3",
        "dense        head                           2",
    ]
    again = pickle.loads(pickle.dumps(structure))
    theta = torch.randn(structure.space.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = data(7, 1, 6, 6)
    assert torch.equal(again.outputs_at(theta, x)[0], structure.outputs_at(theta, x)[0])
    assert repr(again) == "<NetworkStructure of 44 parameters: conv, norm, head>"


def test_a_theta_of_another_length_is_refused():
    structure = trace(seeded(Pictures), data(4, 1, 6, 6))
    x = data(4, 1, 6, 6)
    with pytest.raises(InvalidInputError, match=r"theta must be a tensor \(\*batch, 44\), got \(3,\)"):
        structure.outputs_at(torch.zeros(3, dtype=torch.float64), x)
    with pytest.raises(InvalidInputError, match=r"got list"):
        structure.outputs_at([0.0] * 44, x)
    for wrong, found in ((torch.zeros(2, 44), r"\(2, 44\)"), ([0.0] * 44, "list")):
        with pytest.raises(InvalidInputError, match=rf"one parameter vector \(44,\) is needed, got {found}"):
            flat_directions(structure, wrong)
    with pytest.raises(InvalidInputError, match="theta holds 2 NaN or infinite entries"):
        flat_directions(structure, torch.zeros(44).index_fill(0, torch.tensor([1, 5]), float("nan")))


def test_no_parameter_vector_has_no_outputs():
    structure = trace(seeded(Pictures), data(4, 1, 6, 6))
    (found,) = structure.outputs_at(torch.zeros(0, 3, 44, dtype=torch.float64), data(7, 1, 6, 6))
    assert found.shape == (0, 3, 7, 2)


def test_one_name_is_as_good_as_a_list_of_one():
    structure = trace(nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)), data(5, 3))
    assert structure.homogeneity("0.weight") == structure.homogeneity(["0.weight"]) == 1
    with pytest.raises(InvalidInputError, match=r"no parameter 'weight'; there are 0\.weight, 2\.weight"):
        structure.homogeneity("weight")


class Bag(nn.Module):
    def __init__(self, mode, weighted=""):
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(7, 4, mode=mode), nn.Linear(4, 3)
        self.factors, self.weighted = nn.Parameter(data(5)), weighted

    def forward(self, x):
        by = {"data": (x + 1).to(self.factors), "theta": self.factors.expand(x.shape).contiguous()}.get(self.weighted)
        return self.head(torch.tanh(self.words(x, per_sample_weights=by)))


@pytest.mark.parametrize(
    ("mode", "weighted", "kind"),
    [("sum", "", "embedding"), ("mean", "", "embedding"), ("max", "", "other"), ("sum", "data", "embedding"),
     ("sum", "theta", "other")],
)  # fmt: skip
def test_bags_of_embeddings(mode, weighted, kind, recwarn):
    model = seeded(lambda: Bag(mode, weighted))
    words = torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(0))
    structure = trace(model, words)
    (bag,) = [step for step in structure.steps if "words.weight" in step.parameters]
    assert bag.kind == kind
    thetas = torch.randn(2, structure.space.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    more = torch.randint(0, 7, (9, 5), generator=torch.Generator().manual_seed(2))
    (found,) = structure.outputs_at(thetas, more)
    for theta, output in zip(thetas, found, strict=True):
        named = structure.space.unflatten(theta)
        wanted = torch.func.functional_call(copy.deepcopy(model).double(), named, (more,))
        torch.testing.assert_close(output, wanted)
    known = {group.name: group.symmetries for group in structure.unit_groups}
    assert known == ({"words": {"permutation", "sign"}} if kind == "embedding" else {})
    assert not recwarn.list
