"""Verbs of the rooms above the objectives, each held against plain PyTorch or against what defines the answer."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch.utils import _pytree as pytree

from thalweg.catalogue import Catalogue, survey
from thalweg.certificates import ClaimKind, certify
from thalweg.foundation import NotApplicableError, ParameterSpace
from thalweg.inspection import Kind, inspect
from thalweg.solvers import find_critical_point, gradient_flow, minimize
from thalweg.structure import explain_trace
from thalweg.tangent import extreme_eigenpairs, inertia, tangent_kernel

if TYPE_CHECKING:
    from tests.strangers.cells import Case, Verb

STEPS = 4


def structure(c: Case) -> None:
    """The description, computed again at other parameters, gives what the module gives."""
    report = explain_trace(c.risk.model, c.risk.inputs, c.risk.space, c.risk.forward)
    if report.structure is None:
        raise NotApplicableError(report.reason)
    found = report.structure.outputs_at(c.theta.double(), c.risk.inputs)
    flat = torch.cat([pytree.tree_leaves(o)[0].reshape(c.risk.n_samples, -1) for o in found], dim=1)
    c.close(flat.to(c.theta), c.risk.outputs(c.theta))


def kernel(c: Case) -> None:
    """J J^T from plain PyTorch's Jacobian."""
    found = tangent_kernel(c.risk, c.theta).matrix
    expected = (c.jacobian @ c.jacobian.T).double()
    assert float((found - expected).abs().max()) <= (1e-9 if c.exact else 1e-3) * max(1.0, float(expected.abs().max()))


def eigenpairs(c: Case) -> None:
    """Both ends of the spectrum of plain PyTorch's Hessian."""
    pairs = extreme_eigenpairs(c.risk.hessian_operator(c.theta), smallest=1, largest=1, tolerance=1e-6)
    exact = torch.linalg.eigvalsh(c.hessian.double())
    scale = float(exact.abs().max())
    assert abs(float(pairs.largest[0]) - float(exact[-1])) <= (1e-5 if c.exact else 1e-3) * scale
    assert float(pairs.smallest[0]) >= float(exact[0]) - (1e-9 if c.exact else 1e-3) * scale


def signs(c: Case) -> None:
    """The number of negative eigenvalues lies within the counts given."""
    counts = inertia(c.risk.hessian(c.theta), samples=c.risk.n_samples)
    exact = torch.linalg.eigvalsh(c.hessian.double())
    certain = int((exact < -10 * counts.threshold).sum())
    assert certain <= counts.negative + counts.undecided
    assert counts.negative <= int((exact < 0).sum())


def minimise(c: Case) -> None:
    """A few steps lower the loss, as plain PyTorch sees it, and nothing is called converged that is not."""
    solution = minimize(c.risk, c.theta, method="newton-cg", max_iterations=STEPS)
    c.close(c.plain.value(solution.theta), solution.value)
    assert float(solution.value) < float(c.value)
    if bool(solution.converged):
        assert float(c.plain.gradient(solution.theta).abs().max()) <= 1e-6


def flow(c: Case) -> None:
    """A moment of gradient flow against its series: theta - t g + t^2 / 2 H g, by plain PyTorch."""
    moment = 1e-2 / (1 + float(torch.linalg.eigvalsh(c.hessian.double()).abs().max()))
    path = gradient_flow(c.risk, c.theta, times=torch.tensor([moment], dtype=torch.float64), rtol=1e-8)
    expected = c.theta - moment * c.gradient + moment**2 / 2 * (c.hessian @ c.gradient)
    moved = float((moment * c.gradient).norm())
    rounding = torch.finfo(c.theta.dtype).eps * float(c.theta.norm())
    assert path.ended == "end of time"
    assert float((path.end - expected).norm()) <= 1e-3 * moved + 10 * rounding


def surveyed(c: Case) -> None:
    """Two starts near the point: what the catalogue keeps is what plain PyTorch says of the parameters it keeps."""

    def near(space: ParameterSpace, generator: torch.Generator) -> torch.Tensor:
        return c.theta.double() + 0.01 * torch.randn(space.size, generator=generator, dtype=torch.float64)

    with TemporaryDirectory() as folder:
        place = Path(folder) / "catalogue.db"
        found = survey(
            c.risk, 2, storage=place, workers=0, method="l-bfgs", max_iterations=STEPS, initializer=near, progress=False
        )
        with Catalogue(place) as catalogue:
            thetas = catalogue.thetas_of(found.number)
    assert found.progress.seeds == len(thetas) == 2
    for value, theta in zip(found.runs["value"], thetas, strict=True):
        c.close(c.plain.value(theta), torch.tensor(value, dtype=theta.dtype))
        assert value < float(c.value)


def critical_point(c: Case) -> None:
    """A few steps lower the gradient."""
    solution = find_critical_point(c.risk, c.theta, max_iterations=STEPS)
    found = c.plain.gradient(solution.theta)
    assert float(found.norm()) < float(c.gradient.norm())


def verdict(c: Case) -> None:
    """Not stationary, with gains that plain PyTorch confirms."""
    found = inspect(c.risk, c.theta, certificates=["gradient"])  # the others have a column of their own
    assert found.complete
    assert found.kind is Kind.NOT_STATIONARY or found.curvature is None
    assert abs(found.value - float(c.value)) <= (1e-12 if c.exact else 1e-4) * max(1.0, abs(found.value))
    for step in found.steps:
        gain = float(c.value) - float(c.plain.value(c.theta + step.step))
        assert abs(gain - step.measured) <= (1e-9 if c.exact else 1e-4) * max(1.0, abs(found.value))
        if step.verified:
            assert abs(step.predicted - step.measured) <= 0.2 * step.measured
    if found.curvature is None:
        raise NotApplicableError(next(one.why for one in found.skipped if one.what == "curvature"))
    assert found.best_step is not None


def certified(c: Case) -> None:
    """What is claimed agrees with plain PyTorch: bounds with the value, better points with their loss."""
    value = float(c.value)
    found = certify(c.risk, c.theta)
    slack = 1e-9 * max(1.0, abs(value))
    claims = [one for one in found if one.established]
    assert any(one.kind is ClaimKind.NOT_A_MINIMUM for one in claims)  # a random point
    for one in claims:
        better = one.evidence.get("theta")
        if one.kind is ClaimKind.LOWER_BOUND and one.bound is not None:
            assert one.bound <= value + slack
        if one.kind is ClaimKind.SUBOPTIMAL and isinstance(better, torch.Tensor) and one.bound is not None:
            assert float(c.plain.value(better)) <= value - one.bound + slack
        if one.kind is ClaimKind.NOT_A_MINIMUM and isinstance(better, torch.Tensor):
            assert float(c.plain.value(better)) < value + slack
    for one in found:
        assert one.established or len(one.reason) > 10


UPPER: dict[str, Verb] = {
    "structure": structure,
    "kernel": kernel,
    "eigenpairs": eigenpairs,
    "inertia": signs,
    "minimize": minimise,
    "flow": flow,
    "survey": surveyed,
    "critical point": critical_point,
    "certify": certified,
    "inspect": verdict,
}
