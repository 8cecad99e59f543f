"""Every refusal at the door: its kind, what it says was found, and what it says to do."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.foundation import (
    InvalidInputError,
    MemoryLimitError,
    StochasticModelError,
    ThalwegError,
    UnsupportedModelError,
    memory_limit,
)
from thalweg.objectives import EmpiricalRisk

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
Y = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])


def net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 2))


class Of(nn.Module):
    """A linear model with something done to its outputs or inputs."""

    def __init__(self, after: Any = lambda y: y, before: Any = lambda x: x) -> None:
        super().__init__()
        self.linear, self.after, self.before = nn.Linear(3, 2), after, before

    def forward(self, x: Tensor) -> Any:
        return self.after(self.linear(self.before(x)))


def make(model: Any = None, loss: Any = None, x: Any = X, y: Any = Y, **settings: Any) -> EmpiricalRisk:
    return EmpiricalRisk(net() if model is None else model, loss or nn.MSELoss(), x, y, **settings)


def refused(kind: type[ThalwegError], found: str, *advice: str, act: Any) -> None:
    with pytest.raises(kind) as caught:
        act()
    message = str(caught.value)
    assert found in message
    for part in advice:
        assert part in message
    assert "  " not in message


# -- modules -----------------------------------------------------------------------------------------------------------


def test_what_is_no_module() -> None:
    refused(UnsupportedModelError, "must be an nn.Module, got function", act=lambda: make(lambda x: x))
    refused(UnsupportedModelError, "must be an nn.Module, got type", act=lambda: make(nn.Linear))


def test_lazy_modules() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    refused(UnsupportedModelError, "lazy parameters have no shape yet: 0.weight, 0.bias", "run the model once",
            act=lambda: make(model))  # fmt: skip
    model(X)
    make(model)


@pytest.mark.parametrize("inside", [False, True])
def test_scripted_and_traced_modules(inside: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for hidden in (torch.jit.script(net()), torch.jit.trace(net(), X)):
            model = nn.Sequential(hidden, nn.Linear(2, 2)) if inside else hidden
            refused(UnsupportedModelError, "scripted or traced", "pass the nn.Module it was made from",
                    act=lambda model=model: make(model))  # fmt: skip


def test_compiled_modules() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(net())
    refused(UnsupportedModelError, "a compiled module", "_orig_mod", act=lambda: make(compiled))


def test_quantised_modules() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = torch.backends.quantized.engine
        if before == "none":
            torch.backends.quantized.engine = next(e for e in torch.backends.quantized.supported_engines if e != "none")
        model = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)
        mixed = nn.Sequential(nn.Linear(3, 3), model)
        for one in (model, mixed):
            refused(UnsupportedModelError, "quantised module has no derivatives", "floating-point model",
                    act=lambda one=one: make(one))  # fmt: skip


def test_a_module_of_ones_own_may_be_called_quantized() -> None:
    kind = type("Net", (Of,), {"__module__": "my.quantized.networks"})
    make(kind())


def test_complex_parameters() -> None:
    refused(UnsupportedModelError, "complex parameters are not supported", "real and imaginary",
            act=lambda: make(nn.Linear(3, 2, dtype=torch.complex64)))  # fmt: skip


def test_no_parameters_and_none_that_is_free() -> None:
    refused(UnsupportedModelError, "has no parameters", act=lambda: make(nn.Flatten()))
    frozen = net().requires_grad_(False)
    refused(UnsupportedModelError, "no trainable parameter", "unfreeze some", "parameters=",
            act=lambda: make(frozen))  # fmt: skip
    assert make(frozen, parameters="1.*").space.names == ("1.weight", "1.bias")


def test_a_glob_that_matches_nothing() -> None:
    for patterns in ("head.*", ["0.*", "head.*"], []):
        with pytest.raises(InvalidInputError, match=r"parameters=\[.*\] matches none of 0.weight, 0.bias, 1.weight"):
            make(parameters=patterns)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite(bad: float) -> None:
    model = net()
    with torch.no_grad():
        model[1].weight[0, 1] = bad
    refused(InvalidInputError, "parameter '1.weight' holds NaN or infinite entries", "load sound weights",
            act=lambda: make(model))  # fmt: skip


def test_a_module_that_cannot_be_copied() -> None:
    class Locked(Of):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("there is one of me only")

    refused(UnsupportedModelError, "cannot be copied (there is one of me only)", act=lambda: make(Locked()))


def test_modules_that_hold_no_numbers_or_lie_in_several_places() -> None:
    refused(UnsupportedModelError, "on the meta device and holds no numbers", "load its weights",
            act=lambda: make(nn.Linear(3, 2, device="meta")))  # fmt: skip
    apart = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, device="meta"))
    refused(UnsupportedModelError, "several devices (cpu, meta)", "model.to(device)", act=lambda: make(apart))


# -- forward passes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.5), nn.AlphaDropout(0.3), nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Dropout1d(0.5),
                                                                   nn.Flatten())]
)  # fmt: skip
def test_dropout_in_train_mode(layer: nn.Module) -> None:
    model = net(layer).train()
    refused(StochasticModelError, "two forward passes on the same samples differ (in train mode: 1",
            "call model.eval() first", act=lambda: make(model))  # fmt: skip
    make(model.eval())


def test_data_that_do_not_fit_the_model() -> None:
    refused(InvalidInputError, "the forward pass fails on samples of (2, 2) torch.float64: RuntimeError: mat1 and mat2",
            "check that the data fit the model", "forward=", act=lambda: make(x=X[:, :2]))  # fmt: skip
    refused(InvalidInputError, "fails on samples of (2, 3) torch.uint8", "whole numbers keep their type: pass .float()",
            act=lambda: make(x=torch.zeros(8, 3, dtype=torch.uint8)))  # fmt: skip
    refused(InvalidInputError, "fails on samples of (2, 3) torch.float64, (2, 3) torch.float64: TypeError",
            act=lambda: make(x=(X, X)))  # fmt: skip


def test_a_sample_far_down_that_does_not_fit_the_model() -> None:
    words = torch.zeros(600, 1, dtype=torch.int64)
    words[599] = 5
    model = nn.Sequential(nn.Embedding(5, 2), nn.Flatten())
    refused(InvalidInputError, "the forward pass fails on samples of (88, 1) torch.int64: IndexError: index out of",
            act=lambda: make(model, x=words, y=torch.zeros(600, 2)))  # fmt: skip


def test_one_sample_for_batch_statistics() -> None:
    refused(InvalidInputError, "ValueError: Expected more than 1 value per channel", "call model.eval() first",
            "(in train mode: 1)", act=lambda: make(net(nn.BatchNorm1d(4)), x=X[:1], y=Y[:1]))  # fmt: skip


def test_a_refusal_of_one_s_own_in_the_forward_pass_is_passed_on() -> None:
    def short(y: Tensor) -> Tensor:
        raise MemoryLimitError("a table", 2, 1, "Use less.")

    refused(MemoryLimitError, "a table would need 2 B", act=lambda: make(Of(short)))


def test_dropout_inside_a_layer_in_train_mode() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.2, batch_first=True)
    x = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    refused(StochasticModelError, "differ (in train mode: ", "model.eval()", act=lambda: make(model, x=x, y=x))
    make(model.eval(), x=x, y=x)
    off = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
    make(off.train(), x=x, y=x)  # nothing is dropped: the mode does not matter


def test_batch_norm_in_train_mode() -> None:
    model = net(nn.BatchNorm1d(4))
    refused(StochasticModelError, "changes 1.running_mean, 1.running_var", "(in train mode: 1)", "model.eval()",
            act=lambda: make(model))  # fmt: skip
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert int(model[1].num_batches_tracked) == 0
    make(model.eval())


def test_batch_statistics_without_a_memory() -> None:
    model = net(nn.BatchNorm1d(4, track_running_stats=False))
    refused(StochasticModelError, "depends on the other samples of its batch", "model.eval()", act=lambda: make(model))
    refused(StochasticModelError, "depends on the other samples of its batch", "of each sample alone",
            act=lambda: make(model.eval()))  # fmt: skip


def test_instance_norm_in_train_mode_is_a_function_of_each_sample() -> None:
    model = net(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2), nn.Flatten()).train()
    make(model)
    tracking = net(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()).train()
    refused(StochasticModelError, "changes 2.running_mean", "(in train mode: 2)", act=lambda: make(tracking))


def test_randomness_in_the_forward_pass() -> None:
    model = Of(lambda y: y + torch.rand_like(y)).eval()
    refused(StochasticModelError, "two forward passes on the same samples differ; remove what is random",
            act=lambda: make(model))  # fmt: skip
    refused(StochasticModelError, "call model.eval() first, or remove what is random", act=lambda: make(model.train()))


@pytest.mark.usefixtures("untouched_random_state")
def test_randomness_of_python_and_numpy_is_seen_and_not_moved() -> None:
    import random

    import numpy as np

    for draw in (random.random, np.random.rand):
        with torch.random.fork_rng(devices=[]):
            model = Of(lambda y, draw=draw: y * draw())
        refused(StochasticModelError, "two forward passes", act=lambda model=model: make(model))


def test_a_memory_of_earlier_calls() -> None:
    class Counting(Of):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.linear(x) * self.calls

    model = Counting()
    refused(StochasticModelError, "two forward passes on the same samples differ", act=lambda: make(model))
    assert model.calls == 0


def test_parameters_changed_by_the_forward_pass() -> None:
    model = nn.Sequential(nn.Embedding(5, 2, max_norm=0.1), nn.Flatten())
    words = torch.tensor([[0], [1], [2], [4]])
    refused(
        StochasticModelError, "changes 0.weight of the model", act=lambda: make(model, x=words, y=torch.zeros(4, 2))
    )


def test_outputs_that_mix_samples() -> None:
    refused(StochasticModelError, "depends on the other samples", act=lambda: make(Of(lambda y: y - y.mean(0))))


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda y: y.sum(), "shape () for 8 samples"),
        (lambda y: y.T, "shape (2, 8) for 8 samples"),
        (lambda y: y[:-1], "shape (7, 2) for 8 samples"),
        (lambda y: (y, y.mean()), "shape () for 8 samples"),
    ],
)
def test_outputs_without_a_row_for_each_sample(after: Any, message: str) -> None:
    refused(InvalidInputError, message, "must count the samples", "forward=", act=lambda: make(Of(after)))


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (lambda y: {"logits": y, "loss": None}, "NoneType"),
        (lambda y: (y, "text"), "str"),
        (lambda y: [], "nothing"),
    ],
)
def test_outputs_that_are_no_tensors(after: Any, found: str) -> None:
    refused(InvalidInputError, f"returned {found} where tensors are needed", "forward=", act=lambda: make(Of(after)))


def test_outputs_that_cannot_be_differentiated() -> None:
    refused(InvalidInputError, "a tensor of torch.int64", "forward=", act=lambda: make(Of(lambda y: y.argmax(1))))
    refused(InvalidInputError, "a tensor of torch.complex", act=lambda: make(Of(lambda y: y.to(torch.complex128))))


def test_outputs_that_are_not_finite() -> None:
    refused(InvalidInputError, "NaN or infinite outputs on finite data", "check weights and inputs",
            act=lambda: make(Of(lambda y: y / 0)))  # fmt: skip


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_data_that_are_not_finite(bad: float) -> None:
    x, y = X.clone(), Y.clone()
    x[5, 1], x[6, 0], y[3, 1] = bad, bad, bad
    refused(InvalidInputError, "the data hold 2 NaN or infinite entries, the first in sample 5", "impute",
            act=lambda: make(x=x))  # fmt: skip
    refused(InvalidInputError, "the targets hold 1 NaN or infinite entries, the first in sample 3",
            act=lambda: make(y=y))  # fmt: skip


def test_empty_sets_and_unequal_lengths() -> None:
    refused(InvalidInputError, "the data are empty", act=lambda: make(x=X[:0], y=Y[:0]))
    refused(InvalidInputError, "8 samples but 7 targets", "one target per sample", act=lambda: make(y=Y[:7]))
    refused(InvalidInputError, "need one common leading length", act=lambda: make(x=(X, X[:3])))
    refused(InvalidInputError, "need one common leading length", act=lambda: make(y=torch.tensor(1.0)))
    refused(InvalidInputError, "need one common leading length", act=lambda: make(x=()))
    refused(InvalidInputError, "no data given", act=lambda: make(x=None))


def test_what_is_no_tensor() -> None:
    refused(InvalidInputError, "the data hold a str, which is no tensor", "Dataset", act=lambda: make(x="mnist"))
    refused(InvalidInputError, "the targets hold a NoneType", act=lambda: make(y={"a": None}))
    refused(InvalidInputError, "the data are complex", act=lambda: make(x=X.to(torch.complex64)))


def test_tensors_that_are_not_dense() -> None:
    refused(InvalidInputError, "the data hold a sparse_coo tensor", ".to_dense()", act=lambda: make(x=X.to_sparse()))
    refused(InvalidInputError, "the targets hold a sparse_coo tensor", act=lambda: make(y=Y.to_sparse()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([X[0], X[1, :2]])
    refused(InvalidInputError, "the data hold a nested tensor", "padded", act=lambda: make(x=nested, y=Y[:2]))


def test_missing_targets() -> None:
    refused(InvalidInputError, "compares one tensor of outputs with one of targets", "targets=",
            act=lambda: make(y=None))  # fmt: skip
    batch = {"x": X, "labels": LABELS}
    refused(InvalidInputError, "targets='label' names no entry of the data; its entries: x, labels",
            act=lambda: make(x=batch, y="label"))  # fmt: skip
    refused(InvalidInputError, "names no entry of the data; its entries: none, for the data is no dictionary",
            act=lambda: make(y="labels"))  # fmt: skip
    refused(InvalidInputError, "nothing but the targets 'labels'", act=lambda: make(x={"labels": LABELS}, y="labels"))


# -- losses and targets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [nn.MSELoss(), nn.L1Loss(), nn.HuberLoss(), nn.SmoothL1Loss(), nn.SoftMarginLoss(), nn.PoissonNLLLoss()],
    ids=lambda loss: type(loss).__name__,
)  # fmt: skip
def test_shapes_that_torch_would_broadcast(loss: nn.Module) -> None:
    one = nn.Linear(3, 1)
    refused(InvalidInputError, "compares outputs (8, 1) with targets (8,)", "silently broadcast",
            "Reshape the targets to (8, 1)", act=lambda: make(one, loss, y=Y[:, 0]))  # fmt: skip
    refused(InvalidInputError, "compares outputs (8, 2) with targets (8, 1)", act=lambda: make(loss=loss, y=Y[:, :1]))
    flat = nn.Sequential(one, nn.Flatten(0))
    refused(InvalidInputError, "compares outputs (8,) with targets (8, 1)", "Reshape the targets to (8,)",
            act=lambda: make(flat, loss, y=Y[:, :1]))  # fmt: skip


def test_probabilities_out_of_range() -> None:
    refused(InvalidInputError, "needs targets in [0, 1], found values from -1 to 1", "SoftMarginLoss",
            act=lambda: make(loss=nn.BCEWithLogitsLoss(), y=torch.sign(Y)))  # fmt: skip
    refused(InvalidInputError, "needs floating targets, got torch.int64", "targets.float()",
            act=lambda: make(loss=nn.BCEWithLogitsLoss(), y=(Y > 0).long()))  # fmt: skip
    refused(InvalidInputError, "compares outputs (8, 2) with targets (8,)",
            act=lambda: make(loss=nn.BCEWithLogitsLoss(), y=torch.rand(8)))  # fmt: skip


def test_labels_out_of_range() -> None:
    ce = nn.CrossEntropyLoss()
    refused(InvalidInputError, "labels run from 1 to 2, but the model has 2 outputs", "0..1",
            act=lambda: make(loss=ce, y=LABELS + 1))  # fmt: skip
    refused(InvalidInputError, "labels run from -1 to 0", act=lambda: make(loss=ce, y=LABELS - 1))
    refused(InvalidInputError, "labels run from -100 to 1", act=lambda: make(
        loss=nn.CrossEntropyLoss(ignore_index=-1), y=torch.where(LABELS == 0, -100, 1)))  # fmt: skip


def test_labels_all_ignored() -> None:
    refused(InvalidInputError, "every label equals ignore_index=-100", "nothing is left",
            act=lambda: make(loss=nn.CrossEntropyLoss(), y=torch.full((8,), -100)))  # fmt: skip
    risk = make(loss=nn.CrossEntropyLoss(), y=torch.where(LABELS == 0, -100, 1))
    refused(InvalidInputError, "every label equals", act=lambda: risk.subset([0]))


def test_labels_of_the_wrong_kind() -> None:
    ce = nn.CrossEntropyLoss()
    refused(InvalidInputError, "labels (N, ...), got outputs (8, 2) and labels (8, 1)",
            act=lambda: make(loss=ce, y=LABELS[:, None]))  # fmt: skip
    refused(InvalidInputError, "needs labels of type int64, got torch.int32", "targets.long()",
            act=lambda: make(loss=ce, y=LABELS.int()))  # fmt: skip
    refused(InvalidInputError, "takes floating targets for class probabilities", "targets.long()",
            act=lambda: make(loss=ce, y=LABELS.float()))  # fmt: skip
    refused(InvalidInputError, "a negative class probability, -0.5",
            act=lambda: make(loss=ce, y=torch.tensor([[1.5, -0.5]] * 8)))  # fmt: skip


def test_a_weight_for_each_sample_inside_the_loss() -> None:
    weight, every = torch.rand(8, 1), torch.rand(8, 2)
    refused(InvalidInputError, "weight of BCEWithLogitsLoss has shape (8, 1), one entry per sample", "sample_weight=",
            act=lambda: make(loss=nn.BCEWithLogitsLoss(weight=weight), y=torch.rand(8, 2)))  # fmt: skip
    refused(InvalidInputError, "pos_weight of BCEWithLogitsLoss has shape (8, 2)",
            act=lambda: make(loss=nn.BCEWithLogitsLoss(pos_weight=every), y=torch.rand(8, 2)))  # fmt: skip
    make(loss=nn.BCEWithLogitsLoss(weight=weight[:1]), y=torch.rand(8, 2))


def test_what_is_no_loss() -> None:
    refused(InvalidInputError, "got the class MSELoss; make an instance of it", act=lambda: make(loss=nn.MSELoss))
    refused(InvalidInputError, "must be a torch loss or a callable (outputs, targets), got str",
            act=lambda: make(loss="mse"))  # fmt: skip
    refused(InvalidInputError, "gives no single number; use 'mean' or 'sum'",
            act=lambda: make(loss=nn.MSELoss(reduction="none")))  # fmt: skip
    refused(InvalidInputError, "reduction='sum' contradicts the loss, which has reduction='mean'",
            act=lambda: make(reduction="sum"))  # fmt: skip
    assert make(reduction="mean").reduction == "mean"


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets) ** 2


def test_a_callable_without_or_with_a_false_reduction() -> None:
    mean, total = lambda o, t: squares(o, t).mean(), lambda o, t: squares(o, t).sum()
    refused(InvalidInputError, "must declare what it does over the samples", "got None", act=lambda: make(loss=mean))
    refused(InvalidInputError, "got 'average'", act=lambda: make(loss=mean, reduction="average"))
    refused(InvalidInputError, "it is not a mean over samples", act=lambda: make(loss=total, reduction="mean"))
    refused(InvalidInputError, "it is not a sum over samples", act=lambda: make(loss=mean, reduction="sum"))
    root = lambda o, t: squares(o, t).mean().sqrt()  # noqa: E731
    refused(InvalidInputError, "it is not a mean over samples", "compares samples with each other",
            act=lambda: make(loss=root, reduction="mean"))  # fmt: skip
    refused(InvalidInputError, "a tensor of shape (8,), not one number; declare reduction='none'",
            act=lambda: make(loss=lambda o, t: squares(o, t).sum(1), reduction="sum"))  # fmt: skip
    refused(InvalidInputError, "must return one number per sample, 8 here, but it returned shape ()",
            act=lambda: make(loss=mean, reduction="none"))  # fmt: skip
    refused(InvalidInputError, "the loss returned a float",
            act=lambda: make(loss=lambda o, t: 1.0, reduction="mean"))  # fmt: skip


def test_a_loss_that_wants_something_else() -> None:
    refused(InvalidInputError, "fails on the model's outputs and the targets as loss(outputs, targets)",
            "write a callable", act=lambda: make(loss=nn.GaussianNLLLoss()))  # fmt: skip
    refused(InvalidInputError, "fails on the model's outputs", "takes 1 positional argument but 2 were given",
            act=lambda: make(loss=lambda o: o.sum(), reduction="sum"))  # fmt: skip


def test_weights_that_make_no_sense() -> None:
    for weight, message in (
        (torch.ones(7), "sample_weight has shape (7,), expected (8,)"),
        (torch.ones(8, 1), "sample_weight has shape (8, 1)"),
        (-torch.ones(8), "finite, not negative and not all zero"),
        (torch.zeros(8), "finite, not negative and not all zero"),
        (torch.full((8,), float("nan")), "finite, not negative and not all zero"),
        ("heavy", "sample_weight must hold one number per sample"),
    ):
        refused(InvalidInputError, message, act=lambda weight=weight: make(sample_weight=weight))
    refused(InvalidInputError, "sample_weight needs one loss per sample", "reduction='none'",
            act=lambda: make(loss=lambda o, t: squares(o, t).mean(), reduction="mean",
                             sample_weight=torch.ones(8)))  # fmt: skip


def test_a_loss_that_is_infinite_from_the_start() -> None:
    refused(InvalidInputError, "the loss of the model as given is inf", "check outputs, targets and weights",
            act=lambda: make(loss=lambda o, t: torch.exp(1e4 + o).mean(), reduction="mean"))  # fmt: skip
    none_left = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0]))
    refused(InvalidInputError, "the loss of the model as given is nan",
            act=lambda: make(loss=none_left, y=torch.zeros(8, dtype=torch.int64)))  # fmt: skip


def test_settings_that_make_no_sense() -> None:
    refused(InvalidInputError, "dtype must be torch.float64 or torch.float32, got torch.float16",
            act=lambda: make(dtype=torch.float16))  # fmt: skip
    for size in (0, -3, 2.5, "8", True):
        refused(InvalidInputError, f"batch_size must be a positive whole number of samples, got {size!r}",
                act=lambda size=size: make(batch_size=size))  # fmt: skip


# -- points ------------------------------------------------------------------------------------------------------------


def test_parameter_vectors_of_the_wrong_kind() -> None:
    risk = make()
    size = risk.space.size
    for method in (risk.value, risk.gradient, risk.hessian, risk.outputs, risk.jacobian, risk.kink_margin):
        refused(InvalidInputError, f"theta has shape ({size + 1},), expected (*batch, {size})",
                act=lambda method=method: method(torch.zeros(size + 1)))  # fmt: skip
        refused(InvalidInputError, "theta has shape (), expected", act=lambda method=method: method(torch.tensor(1.0)))
        refused(InvalidInputError, "theta must be a floating tensor, got torch.int64",
                act=lambda method=method: method(torch.zeros(size, dtype=torch.int64)))  # fmt: skip
        refused(InvalidInputError, "theta must be a tensor, got list", "as_theta",
                act=lambda method=method: method([0.0] * size))  # fmt: skip
    for method in (risk.hessian_operator, risk.gauss_newton_operator, risk.jacobian_operator, risk.kinks):
        refused(InvalidInputError, f"one parameter vector ({size},) is needed here, got (2, {size})",
                act=lambda method=method: method(torch.zeros(2, size)))  # fmt: skip
    refused(InvalidInputError, "order must be 0, 1 or 2, got 3", "taylor",
            act=lambda: risk.evaluate(risk.initial, 3))  # fmt: skip


def test_directions_of_the_wrong_shape() -> None:
    risk = make()
    size, theta = risk.space.size, torch.zeros(4, 3, risk.space.size)
    for wrong in (torch.zeros(size + 1), torch.zeros(4, size), torch.zeros(1, 4, 3, size), torch.tensor(0.0)):
        refused(InvalidInputError, f"the vector has shape {tuple(wrong.shape)}, expected (4, 3, {size})",
                act=lambda wrong=wrong: risk.hessian_product(theta, wrong))  # fmt: skip
    refused(InvalidInputError, f"expected ({size},)",
            act=lambda: risk.hessian_product(risk.initial, torch.zeros(2, size)))  # fmt: skip
    refused(InvalidInputError, "the vector must be a floating tensor, got torch.int64",
            act=lambda: risk.hessian_product(theta, torch.zeros(size, dtype=torch.int64)))  # fmt: skip
    for right in (torch.ones(size), torch.ones(3, size), torch.ones(4, 1, size)):
        assert risk.hessian_product(theta, right).shape == theta.shape


# -- what is accepted --------------------------------------------------------------------------------------------------


def test_small_and_dull_problems_are_accepted() -> None:
    assert make(x=X[:1], y=Y[:1]).n_samples == 1
    single = nn.Linear(3, 1, bias=False)
    single.weight = nn.Parameter(torch.ones(1, 1))
    tiny = make(single, x=X[:, :1], y=Y[:, :1])
    assert tiny.space.size == 1
    assert tiny.hessian(tiny.initial).shape == (1, 1)
    constant = make(y=torch.ones(8, 2))
    assert constant.value(constant.initial) > 0
    twice = make(x=X[[0, 0, 1]], y=Y[[0, 0, 1]])
    torch.testing.assert_close(twice.sample_values(twice.initial)[0], twice.sample_values(twice.initial)[1])
    make(loss=nn.CrossEntropyLoss(), y=torch.zeros(8, dtype=torch.int64))


# -- memory ------------------------------------------------------------------------------------------------------------


def test_what_would_not_fit_is_refused_with_figure_and_alternative() -> None:
    wide = nn.Sequential(nn.Linear(3, 1200), nn.Tanh(), nn.Linear(1200, 2))
    risk = make(wide)
    size = risk.space.size
    theta = risk.initial
    for act, what, alternative in (
        (lambda: risk.hessian(theta), f"1 dense Hessian(s) of {size} x {size} would need 791", "hessian_operator"),
        (lambda: risk.gauss_newton(theta), f"of {size} x {size} would need 791", "gauss_newton_operator(theta)"),
        (lambda: risk.hessian_operator(theta).dense(), f"a dense {size} x {size} matrix would need 1.", "products"),
        (
            lambda: risk.jacobian(theta.expand(200, -1)),
            "200 dense Jacobian(s) of 16 x 7202 would need 175.8 MiB",
            "jacobian_operator(theta)",
        ),
        (lambda: risk.sample_gradients(theta.expand(300, -1)), "8 gradients of 7202 coordinates", "indices="),
        (lambda: risk.outputs(theta.expand(1_000_000, -1)), "2 numbers for each of 8 samples", "fewer parameter"),
        (lambda: risk.hessian_operator(theta, keep=True), "a kept graph of the gradient", "keep=False"),
        (lambda: risk.gauss_newton_operator(theta, keep=True), "a kept graph of the outputs", "keep=False"),
    ):
        limit = "100MiB" if "kept" not in what else "100KiB"
        with memory_limit(limit):
            refused(MemoryLimitError, what, alternative, "the limit is 100.0", "memory_limit('", act=act)
