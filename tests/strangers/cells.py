"""The verbs, and what each gives for a stranger: an answer held against plain PyTorch, or a refusal with its reason.

A later room adds its verbs to `VERBS`: a name, and a function of a `Case` that checks an answer (with `assert`) or lets
the refusal of the package through. Anything else that is raised is a bug.
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from functools import cached_property

import torch
from plain_torch import PlainRun
from tests.strangers.models import FACTORIES, Stranger
from tests.strangers.upper_cells import UPPER
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.foundation import ThalwegError, memory_limit
from thalweg.objectives import EmpiricalRisk, taylor

Verb = Callable[["Case"], None]


class Case:
    """A stranger, its objective, and what plain PyTorch says about it at one point."""

    def __init__(self, name: str) -> None:
        self.stranger: Stranger = FACTORIES[name]()
        self.exact = self.stranger.settings.get("dtype", torch.float64) == torch.float64
        self.plain = PlainRun(
            self.stranger.model,
            self.stranger.loss,
            self.stranger.data,
            self.stranger.targets,
            forward=self.stranger.forward,
            dtype=self.stranger.settings.get("dtype", torch.float64),
        )
        source = torch.Generator().manual_seed(1)
        start = self.plain.initial
        noise = torch.randn(2, len(start), generator=source, dtype=torch.float64).to(start)
        self.theta = start + 0.05 * noise[0]
        self.direction = noise[1] / noise[1].norm()

    @cached_property
    def risk(self) -> EmpiricalRisk:
        return self.fresh()

    def fresh(self, **changes: object) -> EmpiricalRisk:
        s = self.stranger
        return EmpiricalRisk(s.model, s.loss, s.data, s.targets, forward=s.forward, **{**s.settings, **changes})

    @cached_property
    def value(self) -> Tensor:
        return self.plain.value(self.theta)

    @cached_property
    def gradient(self) -> Tensor:
        return self.plain.gradient(self.theta)

    @cached_property
    def hessian(self) -> Tensor:
        return self.plain.hessian(self.theta)

    @cached_property
    def jacobian(self) -> Tensor:
        return self.plain.jacobian(self.theta)

    @cached_property
    def gauss_newton(self) -> Tensor:
        return self.jacobian.T @ self.plain.loss_curvature(self.theta) @ self.jacobian

    def close(self, found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
        """Within `tolerance` of the largest entry expected, or of one; single precision allows 1e-4."""
        assert found.shape == expected.shape, f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
        assert found.dtype == expected.dtype
        limit = (tolerance if self.exact else 1e-4) * max(1.0, float(expected.abs().max()))
        off = float((found - expected).abs().max())
        assert off <= limit, f"off by {off:.2e}, allowed {limit:.2e}"


@functools.cache
def case(name: str) -> Case:
    """The case of a stranger, made once."""
    return Case(name)


# -- what is asked -----------------------------------------------------------------------------------------------------


def value(c: Case) -> None:
    c.close(c.risk.value(c.theta), c.value, 1e-12)
    c.close(c.risk.value(c.risk.initial), c.plain.value(c.plain.initial), 1e-12)


def gradient(c: Case) -> None:
    c.close(c.risk.gradient(c.theta), c.gradient)


def hessian(c: Case) -> None:
    c.close(c.risk.hessian(c.theta), c.hessian)


def hessian_product(c: Case) -> None:
    c.close(c.risk.hessian_product(c.theta, c.direction), c.hessian @ c.direction)


def hessian_operator(c: Case) -> None:
    both = torch.stack([c.direction, c.gradient / c.gradient.norm()], dim=1)
    for keep in (None, False):
        c.close(c.risk.hessian_operator(c.theta, keep=keep) @ both, c.hessian @ both)


def jacobian(c: Case) -> None:
    c.close(c.risk.outputs(c.theta), c.plain.outputs(c.theta), 1e-12)
    c.close(c.risk.jacobian(c.theta), c.jacobian)
    operator = c.risk.jacobian_operator(c.theta)
    c.close(operator @ c.direction, c.jacobian @ c.direction)
    row = torch.linspace(-1, 1, operator.shape[0], dtype=c.theta.dtype)
    c.close(operator.transpose_matmul(row), c.jacobian.T @ row)


def sample_gradients(c: Case) -> None:
    slopes = c.risk.sample_gradients(c.theta)
    c.close(slopes.sum(0), c.gradient)
    c.close(c.risk.sample_values(c.theta).sum(), c.value)
    third = c.risk.subset([2])
    scale = c.risk.sample_values(c.theta)[2] / third.value(c.theta)
    c.close(slopes[2], scale * third.gradient(c.theta))


def gauss_newton(c: Case) -> None:
    c.close(c.risk.gauss_newton(c.theta), c.gauss_newton)
    for keep in (None, False):
        c.close(
            c.risk.gauss_newton_operator(c.theta, keep=keep) @ c.direction,
            c.gauss_newton @ c.direction,
        )


def batch(c: Case) -> None:
    """Several parameter vectors at once give what each gives alone."""
    thetas = torch.stack([c.theta, c.risk.initial, c.theta - 0.1 * c.direction]).reshape(3, 1, -1)
    found = c.risk.evaluate(thetas, order=1)
    assert found.gradient is not None
    for i in range(3):
        c.close(found.value[i, 0], c.plain.value(thetas[i, 0]), 1e-12)
        c.close(found.gradient[i, 0], c.plain.gradient(thetas[i, 0]))
    c.close(c.risk.outputs(thetas)[2, 0], c.plain.outputs(thetas[2, 0]), 1e-12)


def chunks(c: Case) -> None:
    """The data cut into pieces give what they give whole."""
    c.close(c.fresh(batch_size=3).gradient(c.theta), c.gradient)
    with memory_limit(4 * c.risk.cost.bytes_fixed + 8 * c.risk.cost.bytes_per_sample):
        c.close(c.risk.value(c.theta), c.value, 1e-12)
        c.close(c.risk.gradient(c.theta), c.gradient)


def kinks(c: Case) -> None:
    """Kinks are seen where there are some; the loss is as smooth along a line as the margin says."""
    report = c.risk.kinks(c.theta)
    assert report.smooth != c.stranger.kinked, report.describe()
    assert float(c.risk.kink_margin(c.theta)) == report.margin
    assert (report.margin == float("inf")) == (not report.operations)


def taylor_series(c: Case) -> None:
    found = taylor(c.risk, c.theta, c.direction, order=2)
    c.close(found[0], c.value, 1e-12)
    c.close(found[1], c.gradient @ c.direction)
    c.close(found[2], c.direction @ c.hessian @ c.direction)


def fingerprint(c: Case) -> None:
    first = c.risk.fingerprint()
    assert c.fresh().fingerprint() == first
    other = c.risk.subset(range(1, c.risk.n_samples))
    assert other.fingerprint() != first


def pickled(c: Case) -> None:
    twin = pickle.loads(pickle.dumps(c.risk))
    assert twin.fingerprint() == c.risk.fingerprint()
    c.close(twin.value(c.theta), c.value, 1e-12)
    c.close(twin.gradient(c.theta), c.gradient)


def load_into_model(c: Case) -> None:
    live = copy.deepcopy(c.risk.model)
    norm = c.risk.load_into_model(c.theta, live)
    loaded = PlainRun(
        live,
        c.stranger.loss,
        c.stranger.data,
        c.stranger.targets,
        forward=c.stranger.forward,
        names=c.plain.names,
        dtype=c.plain.dtype,
    )
    c.close(loaded.value(loaded.initial), c.value, 1e-12)
    assert abs(norm - float(c.gradient.abs().max())) <= (1e-9 if c.exact else 1e-4) * max(1.0, norm)


def untouched(c: Case) -> None:
    """Nothing that is live changes: parameters, gradients, buffers, mode, data, the global random state."""
    model = c.stranger.model
    own = {k: v.detach().clone() for k, v in [*model.named_parameters(), *model.named_buffers()]}
    marks = {k: torch.full_like(p, 7.0) for k, p in model.named_parameters()}
    for k, p in model.named_parameters():
        p.grad = marks[k].clone()
    flags = [(p.requires_grad, p.dtype) for p in model.parameters()], [m.training for m in model.modules()]
    data = pytree.tree_map_only(Tensor, torch.clone, (c.stranger.data, c.stranger.targets))
    state = torch.get_rng_state()
    risk = c.fresh()
    risk.evaluate(risk.initial, 1)
    risk.outputs(risk.initial)
    risk.jacobian(risk.initial)
    risk.kinks(risk.initial)
    assert torch.equal(torch.get_rng_state(), state)
    for k, v in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(v, own[k]), f"{k} changed"
    for k, p in model.named_parameters():
        assert p.grad is not None
        assert torch.equal(p.grad, marks[k]), f"the gradient of {k} changed"
        p.grad = None
    assert ([(p.requires_grad, p.dtype) for p in model.parameters()], [m.training for m in model.modules()]) == flags
    pairs = zip(pytree.tree_leaves(data), pytree.tree_leaves((c.stranger.data, c.stranger.targets)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor)), "the data changed"


VERBS: dict[str, Verb] = {
    "value": value,
    "gradient": gradient,
    "Hessian": hessian,
    "Hessian product": hessian_product,
    "Hessian operator": hessian_operator,
    "Jacobian": jacobian,
    "sample gradients": sample_gradients,
    "Gauss-Newton": gauss_newton,
    "batch of seeds": batch,
    "chunks": chunks,
    "kinks": kinks,
    "Taylor": taylor_series,
    "fingerprint": fingerprint,
    "pickle": pickled,
    "load into model": load_into_model,
    **UPPER,
    "left untouched": untouched,
}


def answer(stranger: str, verb: str) -> str:
    """``"ok"`` or ``"refused: reason"``; anything else is raised."""
    try:
        VERBS[verb](case(stranger))
    except ThalwegError as refusal:
        return f"refused: {refusal}"
    return "ok"
