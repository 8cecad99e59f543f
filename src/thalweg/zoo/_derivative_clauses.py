"""Clauses that hold every derivative against finite differences, and every operator against its dense matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from thalweg.foundation import NotApplicableError
from thalweg.objectives import Capability, OutputObjective, taylor
from thalweg.zoo._case import Case, Clause

__all__ = ["CLAUSES"]

MOST_DIRECTIONS = 64
"""Above as many parameters, differences are taken along this many random directions instead of every coordinate."""

Function = Callable[[Tensor], Tensor]


def check_gradient(case: Case) -> None:
    """The gradient is that of the value, by central differences."""
    gradient = case.dense.gradient
    assert gradient is not None
    _compare(case, case.objective.value, gradient, "gradient")


def check_hessian(case: Case) -> None:
    """The Hessian is the derivative of the gradient, by central differences, and symmetric."""
    if not case.twice:
        return
    hessian = case.dense.hessian
    assert hessian is not None
    case.expect_close(hessian, hessian.mT, "Hessian and its transpose", tolerance=100 * case.eps)
    _compare(case, case.objective.gradient, hessian, "Hessian")


def check_products(case: Case) -> None:
    """Products with the Hessian, batched, by operator, kept and not kept, are those of the dense matrix."""
    if not case.twice:
        return
    hessian = case.dense.hessian
    assert hessian is not None
    scale = float(hessian.abs().max())
    vectors = case.draw(*case.thetas.shape)
    wanted = torch.einsum("bij,bj->bi", hessian, vectors)
    products = case.objective.hessian_product(case.thetas, vectors)
    case.expect_close(products, wanted, "hessian_product of a batch and H v", scale=scale)
    product = case.objective.hessian_product(case.thetas[0], vectors[0])
    case.expect_close(product, wanted[0], "hessian_product of one vector and H v", scale=scale)
    for keep in (True, False, None):
        operator, name = case.objective.hessian_operator(case.thetas[0], keep=keep), f"hessian_operator(keep={keep})"
        case.expect_close(operator.dense(), hessian[0], f"{name} and the dense Hessian", scale=scale)
        case.expect_close(operator @ vectors[0], wanted[0], f"{name} @ v and H v", scale=scale)


def check_taylor(case: Case) -> None:
    """Derivatives along a line: orders 0 to 2 as by gradient and Hessian, 3 and 4 by differences of the Hessian."""
    if not case.twice:
        return
    gradient, hessian = case.dense.gradient, case.dense.hessian
    assert gradient is not None
    assert hessian is not None
    direction = case.draw(case.size)
    direction = direction / direction.norm()
    found = taylor(case.objective, case.thetas, direction, 2)
    case.expect_shape(found, (len(case.thetas), 3), "taylor of order 2")
    bend = torch.einsum("i,bij,j->b", direction, hessian, direction)
    lower = ((case.dense.value, case.dense.value), (gradient @ direction, gradient), (bend, hessian))
    for k, (wanted, whole) in enumerate(lower):
        case.expect_close(found[:, k], wanted, f"taylor, order {k}", scale=float(whole.abs().max()))
    _check_higher_orders(case, direction, float(hessian[0].abs().max()))


def _check_higher_orders(case: Case, direction: Tensor, curvature: float) -> None:
    """Orders 3 and 4 at the first theta only, because nested derivatives are dear; they may be declined by name."""
    theta, found = case.thetas[0], _highest_taylor(case, direction)
    step = case.eps**0.2 * max(1.0, float(theta.abs().max()))
    line = theta + torch.arange(-2, 3).to(theta).unsqueeze(1) * step * direction
    bends = torch.einsum("i,bij,j->b", direction, case.objective.hessian(line), direction)
    third = bends @ bends.new_tensor([1, -8, 0, 8, -1]) / (12 * step)
    fourth = bends @ bends.new_tensor([-1, 16, -30, 16, -1]) / (12 * step**2)
    size, tolerance = max(float(found.abs().max()), curvature), 1e-4 if case.eps < 1e-10 else 0.2
    for k, wanted in ((3, third), (4, fourth))[: len(found) - 3]:
        scale = size + 100 * case.eps * size / step ** (k - 2) / tolerance  # what rounding does to the difference
        case.expect_close(found[k], wanted, f"taylor, order {k}", tolerance=tolerance, scale=scale)


def _highest_taylor(case: Case, direction: Tensor) -> Tensor:
    for order in (4, 3):
        try:
            return taylor(case.objective, case.thetas[0], direction, order)
        except NotApplicableError:
            continue
    return taylor(case.objective, case.thetas[0], direction, 2)


def check_gauss_newton(case: Case) -> None:
    """Where declared: symmetric, semidefinite for a convex loss, as its operator says. Else it is declined by name."""
    objective, theta = case.objective, case.thetas[0]
    if Capability.GAUSS_NEWTON not in objective.capabilities:
        what = "gauss_newton_operator, which is not declared,"
        case.expect_refusal(lambda: objective.gauss_newton_operator(theta), what, NotApplicableError)
        return
    matrices = objective.gauss_newton(case.thetas)
    case.expect_shape(matrices, (*case.thetas.shape, case.size), "gauss_newton of a batch")
    case.expect_close(matrices, matrices.mT, "Gauss-Newton matrix and its transpose", tolerance=100 * case.eps)
    case.expect_close(objective.gauss_newton(theta), matrices[0], "gauss_newton of one vector and in a batch")
    nothing = objective.gauss_newton(case.thetas[:0])
    case.expect_shape(nothing, (0, case.size, case.size), "gauss_newton of an empty batch")
    facts = getattr(objective, "loss_facts", None)
    if facts is None or facts.convex:
        spectrum = torch.linalg.eigvalsh(matrices)
        low, high = float(spectrum.min()), float(spectrum.abs().max())
        what = f"the Gauss-Newton matrix has the eigenvalue {low:.3g} below zero (largest {high:.3g})"
        case.expect(low >= -1e4 * case.eps * high, what)
    for keep in (None, False):
        found = objective.gauss_newton_operator(theta, keep=keep).dense()
        case.expect_close(found, matrices[0], f"gauss_newton_operator(keep={keep}) and the dense matrix")


def check_outputs(case: Case) -> None:
    """Where declared: outputs, Jacobian, contributions of samples and Gauss-Newton fit together."""
    if Capability.OUTPUTS not in case.objective.capabilities:
        return
    case.expect(isinstance(case.objective, OutputObjective), "declares OUTPUTS but is no OutputObjective")
    objective = cast(OutputObjective, case.objective)
    b, n, width = len(case.thetas), objective.n_samples, objective.n_outputs
    outputs, jacobian = objective.outputs(case.thetas), objective.jacobian(case.thetas)
    case.expect_shape(outputs, (b, n, width), "outputs")
    case.expect_shape(jacobian, (b, n * width, case.size), "jacobian")
    _compare(case, lambda theta: objective.outputs(theta).flatten(1), jacobian.mT, "Jacobian")
    _check_jacobian_operator(case, objective, jacobian[0])
    _check_loss_derivatives(case, objective, jacobian)
    _check_samples(case, objective)


def _check_jacobian_operator(case: Case, objective: OutputObjective, jacobian: Tensor) -> None:
    operator = objective.jacobian_operator(case.thetas[0])
    case.expect_close(operator.dense(), jacobian, "jacobian_operator and the dense Jacobian")
    signal = case.draw(len(jacobian))
    found, scale = operator.transpose_matmul(signal), float(jacobian.abs().sum(0).max())
    case.expect_close(found, jacobian.T @ signal, "transposed product and J^T v", scale=scale)


def _check_loss_derivatives(case: Case, objective: OutputObjective, jacobian: Tensor) -> None:
    slopes, gradient = objective.output_gradient(case.thetas).flatten(1), case.dense.gradient
    assert gradient is not None
    found = torch.einsum("bqp,bq->bp", jacobian, slopes)
    scale = float(torch.einsum("bqp,bq->bp", jacobian.abs(), slopes.abs()).max())
    case.expect_close(found, gradient, "J^T output_gradient and the gradient", scale=scale)
    blocks = objective.output_hessian(case.thetas)
    rows = jacobian.reshape(*blocks.shape[:3], case.size)
    wanted = torch.einsum("bncp,bncd,bndq->bpq", rows, blocks, rows)
    case.expect_close(objective.gauss_newton(case.thetas), wanted, "gauss_newton and J^T B J")


def _check_samples(case: Case, objective: OutputObjective) -> None:
    values, slopes = objective.sample_values(case.thetas), objective.sample_gradients(case.thetas)
    case.expect_shape(values, (len(case.thetas), objective.n_samples), "sample_values")
    case.expect_shape(slopes, (*values.shape, case.size), "sample_gradients")
    gradient = case.dense.gradient
    assert gradient is not None
    for name, parts, whole in (("values", values, case.dense.value), ("gradients", slopes, gradient)):
        scale = float(parts.abs().sum(1).max())
        case.expect_close(parts.sum(1), whole, f"sum of sample_{name} and the whole", scale=scale)
    everything = objective.subset(torch.arange(objective.n_samples))
    case.expect_close(everything.value(case.thetas), case.dense.value, "subset of all samples and the whole")


def check_kinks(case: Case) -> None:
    """The margin is a distance for every theta, infinite without kinks."""
    margins = case.objective.kink_margin(case.thetas)
    case.expect_shape(margins, (len(case.thetas),), "kink_margin")
    case.expect(bool((margins >= 0).all()), f"kink_margin is {margins.tolist()}, expected distances")
    report = case.objective.kinks(case.thetas[0])
    case.expect(report.margin == float(margins[0]), f"kinks says {report.margin}, kink_margin {float(margins[0])}")
    if not report.operations:
        case.expect(report.margin == float("inf"), f"no kinks, but a margin of {report.margin}")


CLAUSES: dict[str, Clause] = {
    "gradient": check_gradient,
    "hessian": check_hessian,
    "products": check_products,
    "taylor": check_taylor,
    "gauss-newton": check_gauss_newton,
    "outputs": check_outputs,
    "kinks": check_kinks,
}


def _compare(case: Case, function: Function, derivative: Tensor, what: str) -> None:
    """Hold a derivative ``(n, P, *out)`` of a function ``(m, P) -> (m, *out)`` against differences of the fourth order.

    The agreement asked for is ``1e3 * eps^(2/3)`` (4e-8 in double precision) of the largest entry, plus the function's
    rounding noise over the step. Steps begin at ``eps^(1/5)`` times the size of theta and shrink by factors of 8, as
    long as the noise stays the smaller part, until the two agree: so a kink or a sharp bend nearby does no harm, and
    a wrong derivative agrees at no step.
    """
    directions = torch.eye(case.size).to(case.thetas)
    if case.size > MOST_DIRECTIONS:
        directions = torch.linalg.qr(case.draw(case.size, MOST_DIRECTIONS))[0].T
    for i, theta in enumerate(case.thetas):
        wanted = torch.tensordot(directions, derivative[i], dims=1)
        scale, noise = float(wanted.abs().max()), 30 * _noise(case, function, theta)
        share, step = 1e3 * case.eps ** (2 / 3) * scale, case.eps**0.2 * max(1.0, float(theta.abs().max()))
        gaps: list[float] = []
        while not gaps or noise / step <= share:
            gaps.append(float((_differences(function, theta, directions, step) - wanted).abs().max()))
            if gaps[-1] <= share + noise / step:
                break
            step /= 8
        else:
            case.fail(f"{what} and central differences, row {i}: they differ by {min(gaps):.3g} of {scale:.3g}")


def _differences(function: Function, theta: Tensor, directions: Tensor, step: float) -> Tensor:
    """Central differences of the fourth order along every direction, ``(q, *out)``."""
    q = len(directions)
    offsets = torch.cat([k * step * directions for k in (-2, -1, 1, 2)])
    values = function(theta + offsets)
    parts = values.reshape(4, q, *values.shape[1:])
    return (parts[0] - 8 * parts[1] + 8 * parts[2] - parts[3]) / (12 * step)


def _noise(case: Case, function: Function, theta: Tensor) -> float:
    """How much the function's rounding moves it: spread over a few neighbours within rounding of theta."""
    wiggles = 1 + 2 * case.eps * case.draw(6, case.size)
    values = function(torch.cat([theta.unsqueeze(0), theta * wiggles]))
    spread = float((values - values[0]).abs().max())
    return spread + case.eps * float(values.abs().max())
