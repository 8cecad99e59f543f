"""Any module: described and checked, or declined with a reason. The live module is left as it was."""

import copy
import pickle
import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from thalweg.foundation import InvalidInputError, ParameterSpace
from thalweg.structure import explain_trace, trace


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make()


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape):
    return torch.randint(0, 7, shape, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Base of modules with one dense layer; the default forward is that layer."""

    def __init__(self, inside=3, out=4):
        super().__init__()
        self.layer = nn.Linear(inside, out)

    def forward(self, x):
        return self.layer(x)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(functional.relu(self.first(x)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.head = nn.GroupNorm(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = functional.relu(self.stem(x))
        h = h + self.b(functional.gelu(self.norm(self.a(h))))
        return self.head(functional.adaptive_avg_pool2d(functional.relu(h), 1).flatten(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(functional.gelu(self.inner(self.embed(x))))


class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class DictBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 8), nn.Linear(8, 3)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)

    def forward(self, ids, mask):
        h = self.block(self.embed(ids), src_key_padding_mask=mask)
        return self.head((h * (~mask).unsqueeze(-1)).sum(1))


class InPlace(Small):
    def forward(self, x):
        h = self.layer(x)
        h[:, 0] *= 2
        h += 1
        return functional.relu_(h)


class SeveralOutputs(Small):
    def forward(self, x):
        h = self.layer(x)
        return {"features": torch.tanh(h), "rest": (h, functional.softmax(h, -1))}


class PerNeuron(Small):
    def forward(self, x):
        h = self.layer(x)
        return torch.cat([functional.relu(h[:, :2]), torch.tanh(h[:, 2:])], 1)


class Recurrence(nn.Module):
    """A loop in Python over the sequence, unrolled for the example's length."""

    def __init__(self):
        super().__init__()
        self.inside, self.across = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = torch.zeros(len(x), 4, dtype=x.dtype)
        for t in range(x.shape[1]):
            h = torch.tanh(self.inside(x[:, t]) + self.across(h))
        return h


class Ignores(Small):
    def forward(self, x):
        return self.layer.weight * 2


class Inside(Small):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return torch.sin(self.factor * self.layer(x))


class FarOut(Small):
    """ReLU at every point that a test is likely to meet."""

    def forward(self, x):
        h = self.layer(x)
        return torch.where(h > 1e4, torch.zeros_like(h), functional.relu(h))


class Twice(Small):
    def forward(self, x):
        h = functional.relu(self.layer(x))
        return h, torch.tanh(h)


class MoreAxes(Small):
    """One number, but it adds an axis: not an elementwise step."""

    def forward(self, x):
        return torch.tanh(self.layer(x)[:, 0]) * torch.full((1, 1), 2.0, dtype=torch.float64)


class Keeps(Small):
    """Keeps what it computed, as attention modules keep their maps for pictures."""

    last = None

    def forward(self, x):
        self.last = self.layer(x)
        self.history = {"last": [self.last]}
        return torch.tanh(self.last)


class WritesInput(Small):
    def forward(self, x):
        x += 1
        return self.layer(x)


class TwiceTheSame(nn.Module):
    """One module in two places."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.stack = nn.Sequential(self.inner, nn.Tanh(), self.inner)

    def forward(self, x):
        return self.stack(x)


class FixedBatch(Small):
    def forward(self, x):
        return self.layer(x).view(6, 4)


class Centred(Small):
    def forward(self, x):
        return torch.tanh(self.layer(x - x.mean(0)))


class Preprocessed(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", data(3, seed=1))
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x):
        return self.net((x - self.mean) / 2.5)


DESCRIBED = {
    "class with functional relu": (Functional, data(10, 3), "dense activation:relu dense"),
    "sequential": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), data(10, 3), "dense activation:tanh dense"
    ),
    "sequence": (Functional, data(5, 6, 3), "dense activation:relu dense"),
    "residual convolutions, group norm": (
        Residual, data(6, 1, 5, 5),
        "convolution activation:relu convolution norm activation:gelu convolution add activation:relu pool dense",
    ),
    "sparse gradients": (
        lambda: nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Tanh(), nn.Linear(4, 2)), tokens(6, 3),
        "embedding activation:tanh dense",
    ),
    "root mean square norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4), nn.Linear(4, 2)), data(6, 3), None
    ),
    "leaky relu of random slope, evaluated": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.RReLU(0.1, 0.3)).eval(), data(6, 3), None
    ),
    "log of a sigmoid": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LogSigmoid()), data(6, 3), "dense activation:-1 log(1+exp(z))(-z)"
    ),
    "tied": (Tied, tokens(6, 3), "embedding dense activation:gelu dense"),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Sigmoid(), nn.Linear(4, 1)),
        data(10, 3), "dense activation:sigmoid dense",
    ),
    "several outputs": (SeveralOutputs, data(10, 3), "dense activation:tanh softmax"),
    "mixed activations": (PerNeuron, data(10, 3), "dense activation:relu activation:tanh concatenate"),
    "eval batch norm and dropout": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.MaxPool2d(2)).eval(),
        data(6, 2, 8, 8), "convolution norm activation:relu pool",
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.SiLU()), data(9, 3), "dense norm activation:silu"
    ),
    "a function of a function": (Twice, data(5, 3), "dense activation:relu activation:tanh"),
    "a number with more axes": (MoreAxes, data(5, 3), "dense activation:tanh other"),
    "a number inside": (lambda: Inside(30.0), data(5, 3), "dense activation:sin(30z)"),
    "a number inside, as a tensor": (lambda: Inside(torch.tensor(30.0)), data(5, 3), "dense activation:sin(30z)"),
    "a threshold far out": (FarOut, data(5, 3), "dense activation:elementwise_2"),
    "keeps what it computed": (Keeps, data(5, 3), "dense activation:tanh"),
    "writes into its input": (WritesInput, data(5, 3), "add dense"),
    "one module twice": (TwiceTheSame, data(5, 3), "dense activation:tanh dense"),
    "input ignored": (Ignores, data(5, 3), "other"),
    "preprocessed": (Preprocessed, data(9, 3), "other other dense activation:tanh dense"),
    "fixed batch": (FixedBatch, data(6, 3), "dense"),
    "samples that interact": (Centred, data(6, 3), "pool add dense activation:tanh"),
    "python recurrence": (Recurrence, data(6, 2, 3), None),
    "in place": (InPlace, data(6, 3), None),
    "dict batch with attention": (
        DictBatch, {"ids": tokens(6, 5), "mask": torch.arange(5).expand(6, 5) > torch.arange(6).unsqueeze(1)}, None,
    ),
    "lstm cell free transformer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), data(6, 3, 8),
        "dense activation:0.707107 identity activation:0.707107 identity matmul softmax matmul dense add norm dense "
        "activation:relu dense add norm",
    ),
    "transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.ELU()), data(4, 2, 3, 3), "convolution activation:elu"
    ),
    "learned slopes": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 1)), data(9, 3), "dense other dense"
    ),
}  # fmt: skip


def kinds(structure):
    names = []
    for step in structure.steps:
        if step.kind == "activation":
            names.append(f"activation:{step.activation.name}")
        elif step.kind not in {"input", "rearrange"}:
            names.append(step.kind)
    return " ".join(names)


@pytest.mark.parametrize("name", DESCRIBED)
def test_described(name):
    make, inputs, expected = DESCRIBED[name]
    model = seeded(make)
    report = explain_trace(model, inputs)
    assert report.reason == ""
    structure = report.structure
    if expected is not None:
        assert kinds(structure) == expected

    theta = torch.randn(3, structure.space.size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    given = inputs if isinstance(inputs, dict) else inputs.double()
    given = inputs if not isinstance(inputs, dict) and not inputs.is_floating_point() else given
    kept = copy.deepcopy(given)
    found = structure.outputs_at(theta, given)
    double = copy.deepcopy(model).double()
    for row, parameters in enumerate(theta):
        nn.utils.vector_to_parameters(parameters, double.parameters())
        again = copy.deepcopy(kept)
        result = double(**again) if isinstance(again, dict) else double(again)
        expected_outputs = torch.utils._pytree.tree_leaves(result)
        assert len(found) == len(expected_outputs)
        for ours, theirs in zip(found, expected_outputs, strict=True):
            assert torch.allclose(ours[row], theirs, rtol=1e-10, atol=1e-12)


def test_weight_normalisation_by_hooks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2))
    model(data(2, 3))  # now the module holds a computed tensor, which deepcopy refuses
    structure = trace(model, data(5, 3))
    assert structure.layers[0].weight.kind == "computed"
    assert set(structure.layers[0].weight.names) == {"0.weight_g", "0.weight_v"}


def test_what_a_module_keeps_of_a_call_is_not_in_the_structure():
    structure = trace(Keeps(), data(5, 3))
    structure.outputs_at(torch.zeros(2, structure.space.size, dtype=torch.float64), data(9, 3))
    inner = structure._source.caller.module
    assert inner.last is None
    assert not hasattr(inner, "history")
    pickle.dumps(structure)


class Branch(Small):
    def forward(self, x):
        h = self.layer(x)
        return h if h.sum() > 0 else -h


class ReadsNumpy(Small):
    def forward(self, x):
        h = self.layer(x)
        return h * float(h.detach().numpy().max())


class ReadsList(Small):
    def forward(self, x):
        return self.layer(x) * max(self.layer.bias.tolist())


class Counter(Small):
    """Its graph is right at each call and wrong at the next."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * self.calls


class CachedScale(Small):
    """A number taken from the weights at construction: right at the own parameters, wrong at others."""

    def forward(self, x):
        return self.layer(x) / self.norm

    def __init__(self):
        super().__init__()
        self.norm = float(self.layer.weight.detach().norm())


class ReadsMemory(Small):
    """Looks at the weights through their memory, behind the tracer's back."""

    def forward(self, x):
        import ctypes

        pointer = self.layer.bias.data_ptr()
        first = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_double))[0] if pointer else 1.0
        return self.layer(x) * (1.0 + abs(first))


class Detached(Small):
    def forward(self, x):
        h = self.layer(x)
        return h * torch.sigmoid(h).detach()


class HiddenNoGrad(Small):
    def forward(self, x):
        h = self.layer(x)
        with torch.no_grad():
            gate = torch.sigmoid(h)
        return h * gate


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, g):
        return g


class OwnStatistics(Small):
    """Batch statistics without the counter that nn.BatchNorm1d keeps."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x):
        return functional.batch_norm(self.layer(x), self.mean, self.var, training=True)


class StraightThrough(Small):
    def forward(self, x):
        return Sign.apply(self.layer(x))


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(Small())


class Undone(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise RuntimeError("no way back")


class NoBackward(Small):
    def forward(self, x):
        return Undone.apply(self.layer(x))


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2, dtype=torch.complex64)

    def forward(self, x):
        return self.layer(x.to(torch.complex64)).abs()


class NoTensor(Small):
    def forward(self, x):
        return self.layer(x), 3.0


class Fails(Small):
    def forward(self, x):
        raise ValueError("no such mode")


class Unfollowed(Small):
    def forward(self, x):
        return torch.bernoulli(torch.sigmoid(self.layer(x)))


DECLINED = {
    "gru": (Gru, data(5, 6, 3), "recurrent \\('rnn'\\)"),
    "lstm cell": (lambda: nn.LSTMCell(3, 4), data(5, 3), "recurrent"),
    "data-dependent branch": (Branch, data(5, 3), "reads numbers out of tensors"),
    "numpy": (ReadsNumpy, data(5, 3), "numpy or tolist"),
    "tolist": (ReadsList, data(5, 3), "numpy or tolist"),
    "dropout": (lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout()), data(5, 3), "model.eval\\(\\)"),
    "batch norm": (lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), data(5, 3), "batch statistics"),
    "own statistics": (OwnStatistics, data(5, 3), "batch statistics"),
    "counter": (Counter, data(5, 3), "differs from the module"),
    "memory": (ReadsMemory, data(5, 3), "."),
    "detach": (Detached, data(5, 3), "gradients are not the derivatives"),
    "no_grad": (HiddenNoGrad, data(5, 3), "gradients are not the derivatives"),
    "straight through": (StraightThrough, data(5, 3), "gradients"),
    "a number": (NoTensor, data(5, 3), "not a tensor \\(float\\)"),
    "error": (Fails, data(5, 3), "ValueError: no such mode"),
    "written piece by piece": (
        lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), data(2, 1, 5, 5), "parts of tensors"
    ),
    "leaky relu of random slope": (lambda: nn.Sequential(nn.Linear(3, 4), nn.RReLU()), data(5, 3), "draws random"),
    "random": (Unfollowed, data(5, 3), "draws random numbers"),
    "no parameters": (nn.ReLU, data(5, 3), "no parameters"),
    "scripted": (scripted, data(5, 3), "the module is scripted"),
    "cannot be differentiated": (NoBackward, data(5, 3), "cannot be differentiated"),
    "lazy": (lambda: nn.LazyLinear(3), data(5, 3), "lazy"),
    "complex": (Complex, data(5, 3), "'layer.weight' .*complex"),
    "weights renormalised in place": (lambda: nn.Embedding(7, 3, max_norm=1.0), tokens(5), "in place|writes to"),
    "no tensor": (Small, ("text",), "hold no tensor"),
    "no sample": (Small, data(0, 3), "hold no sample, on which the description could be checked"),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLINED)
def test_declined_with_a_reason(name):
    make, inputs, reason = DECLINED[name]
    report = explain_trace(seeded(make), inputs)
    assert not report
    assert report.structure is None
    assert re.search(reason, report.reason), report.reason
    assert trace(seeded(make), inputs) is None


def test_a_number_cached_from_the_weights_is_a_constant_of_the_function():
    """The module keeps the number when its parameters change, so the description with the number is right."""
    assert trace(seeded(CachedScale), data(5, 3)) is not None


def normed():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("make", [Functional, Residual, InPlace, normed])
@pytest.mark.parametrize("train", [True, False])
def test_the_live_module_and_the_random_state_are_untouched(make, train):
    model = seeded(make).train(train)
    inputs = data(6, 1, 5, 5) if make is Residual else data(6, 3)
    before, kept = copy.deepcopy(model.state_dict()), inputs.clone()
    modes = [m.training for m in model.modules()]
    state = torch.random.get_rng_state()
    explain_trace(model, inputs)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(inputs, kept)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.backends.mha.get_fastpath_enabled()


def test_float32_modules_are_described_in_float64():
    structure = trace(seeded(Functional), data(5, 3))
    assert structure.frozen.dtype == torch.float64


def test_a_forward_of_the_users_own():
    model = seeded(Functional)
    batch = {"x": data(6, 3), "factor": torch.tensor(2.0)}
    structure = trace(model, batch, forward=lambda m, given: m(given["x"] * given["factor"]))
    theta = nn.utils.parameters_to_vector(model.parameters()).detach().double()
    found = structure.outputs_at(theta, batch)[0]
    assert torch.allclose(found, copy.deepcopy(model).double()(2 * data(6, 3).double()))


def test_a_space_of_some_parameters_freezes_the_others():
    model = seeded(Functional)
    space = ParameterSpace({"second.weight": (2, 4), "first.bias": (4,)})
    structure = trace(model, data(6, 3), space)
    dense = structure.as_dense()
    assert bool((dense.layers[0].weight_coordinates == -1).all())
    assert dense.layers[0].bias_coordinates.tolist() == [8, 9, 10, 11]
    assert dense.layers[1].weight_coordinates.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    theta = torch.randn(2, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    double = copy.deepcopy(model).double()
    for row in range(2):
        with torch.no_grad():
            double.second.weight.copy_(theta[row, :8].reshape(2, 4))
            double.first.bias.copy_(theta[row, 8:])
        assert torch.allclose(structure.outputs_at(theta, data(6, 3))[0][row], double(data(6, 3).double()))
        assert torch.allclose(dense.outputs(theta, data(6, 3))[row], double(data(6, 3).double()))
    assert all(not group.symmetries for group in structure.unit_groups)


def test_requires_grad_decides_the_default_space():
    model = seeded(Functional)
    model.first.requires_grad_(False)
    assert trace(model, data(6, 3)).space.names == ("second.weight", "second.bias")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [({"third.weight": (2, 4)}, "'third.weight'.*does not exist"), ({"second.weight": (4, 2)}, "has shape \\(2, 4\\)")],
)
def test_a_space_that_does_not_fit_is_refused(shapes, message):
    with pytest.raises(InvalidInputError, match=message):
        trace(seeded(Functional), data(6, 3), ParameterSpace(shapes))


def test_independence_of_samples():
    assert trace(seeded(Functional), data(6, 3)).independent_samples is True
    assert trace(seeded(Centred), data(6, 3)).independent_samples is False
    assert trace(seeded(FixedBatch), data(6, 3)).independent_samples is None
    assert trace(seeded(Functional), data(1, 3)).independent_samples is None


def test_what_is_no_module_is_refused():
    with pytest.raises(InvalidInputError, match=r"traced from an nn.Module, got str"):
        explain_trace("net", data(5, 3))
    with pytest.raises(InvalidInputError, match=r"traced from an nn.Module, got type"):
        trace(nn.Linear, data(5, 3))
