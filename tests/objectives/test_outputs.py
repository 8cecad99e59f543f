"""What is said of outputs and of single samples, against autograd on the loss of all outputs at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_torch import PlainRun
from torch import Tensor, nn

from thalweg.foundation import InvalidInputError, memory_limit
from thalweg.objectives import EmpiricalRisk

N = 7


def network(outputs: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs))


def branching(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss with a branch that no vmap takes."""
    error = outputs - targets
    return (error**2).sum() if float(error.detach().abs().max()) < 1e6 else error.abs().sum()


def case(name: str, **settings: Any) -> tuple[EmpiricalRisk, PlainRun]:
    source = torch.Generator().manual_seed(1)
    x = torch.randn(N, 3, generator=source)
    loss, targets, outputs = {
        "cross entropy": (nn.CrossEntropyLoss(label_smoothing=0.1), torch.randint(0, 3, (N,), generator=source), 3),
        "mse": (nn.MSELoss(), torch.randn(N, 2, generator=source), 2),
        "poisson sum": (nn.PoissonNLLLoss(reduction="sum"), torch.rand(N, 2, generator=source), 2),
        "wide": (nn.CrossEntropyLoss(), torch.randint(0, 40, (N,), generator=source), 40),
        "branching": (branching, torch.randn(N, 2, generator=source), 2),
    }[name]
    if loss is branching:
        settings["reduction"] = "sum"
    model = network(outputs)
    return EmpiricalRisk(model, loss, x, targets, **settings), PlainRun(model, loss, x, targets)


NAMES = ["cross entropy", "mse", "poisson sum", "wide", "branching"]


def points(risk: EmpiricalRisk) -> Tensor:
    noise = torch.randn(2, 2, risk.space.size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return risk.initial + 0.3 * noise


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", ["vmap", "loop"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_derivatives_in_the_outputs(name: str, batch: str, batch_size: int | None) -> None:
    risk, plain = case(name, batch_size=batch_size)
    if name == "branching":
        assert risk.path.batch == "loop"
    else:
        object.__setattr__(risk.path, "batch", batch)
    thetas = points(risk)
    outputs, slopes, blocks = risk.outputs(thetas), risk.output_gradient(thetas), risk.output_hessian(thetas)
    width = risk.n_outputs
    for i, j in ((0, 1), (1, 0)):
        torch.testing.assert_close(outputs[i, j], plain.outputs(thetas[i, j]), rtol=1e-12, atol=1e-12)
        jacobian = plain.jacobian(thetas[i, j])
        torch.testing.assert_close(slopes[i, j].reshape(-1) @ jacobian, plain.gradient(thetas[i, j]))
        whole = plain.loss_curvature(thetas[i, j])
        wanted = torch.stack([whole[n * width :, n * width :][:width, :width] for n in range(N)])
        torch.testing.assert_close(blocks[i, j], wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", ["vmap", "loop"])
def test_values_and_gradients_of_single_samples(name: str, samples: str) -> None:
    risk, plain = case(name, batch_size=3)
    object.__setattr__(risk.path, "samples", samples if name != "branching" else "loop")
    thetas = points(risk)
    values, slopes = risk.sample_values(thetas), risk.sample_gradients(thetas)
    chosen = torch.tensor([5, 0, 0, 3])
    for i, j in ((0, 1), (1, 0)):
        theta = thetas[i, j]
        torch.testing.assert_close(values[i, j].sum(), plain.value(theta), rtol=1e-12, atol=0)
        outputs = plain.outputs(theta)
        curvature_free = risk.output_gradient(theta)
        jacobian = plain.jacobian(theta).reshape(N, risk.n_outputs, -1)
        wanted = torch.einsum("nc,ncp->np", curvature_free, jacobian)
        torch.testing.assert_close(slopes[i, j], wanted, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(risk.sample_gradients(theta, chosen), wanted[chosen], rtol=1e-9, atol=1e-11)
        alone = [float(risk.subset([n]).value(theta)) for n in range(N)]
        share = values[i, j] / torch.tensor(alone, dtype=torch.float64)
        torch.testing.assert_close(share, share[:1].expand(N), rtol=1e-10, atol=0)  # a mean divides all alike
        assert outputs.shape == (N, risk.n_outputs)


def test_sample_numbers_out_of_range_are_refused() -> None:
    risk, _ = case("mse")
    for wrong, message in (
        (torch.tensor([7]), r"indices must lie in 0\.\.6"),
        (torch.tensor([-1]), r"indices must lie in 0\.\.6"),
        (torch.tensor([0.5]), "vector of sample numbers, got torch.float"),
        (torch.tensor([[1]]), r"of shape \(1, 1\)"),
        ("seven", "indices must be a vector of sample numbers"),
        (torch.ones(3, dtype=torch.bool), r"the mask has shape \(3,\), expected \(7,\)"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            risk.sample_gradients(risk.initial, wrong)
    assert risk.sample_gradients(risk.initial, torch.tensor([], dtype=torch.int64)).shape == (0, risk.space.size)
    assert risk.sample_gradients(risk.initial, []).shape == (0, risk.space.size)
    chosen = torch.arange(N) % 3 == 1
    wanted = risk.sample_gradients(risk.initial)[chosen]
    for indices in (chosen, [1, 4], chosen.tolist()):
        torch.testing.assert_close(risk.sample_gradients(risk.initial, indices), wanted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("forward", [True, False])
def test_gauss_newton_is_jacobian_curvature_jacobian(name: str, keep: bool, forward: bool) -> None:
    risk, plain = case(name, batch_size=3)
    object.__setattr__(risk.path, "forward", forward)
    theta = points(risk)[0, 0]
    jacobian = plain.jacobian(theta)
    wanted = jacobian.T @ plain.loss_curvature(theta) @ jacobian
    torch.testing.assert_close(risk.gauss_newton_operator(theta, keep=keep).dense(), wanted, rtol=1e-9, atol=1e-11)
    both = risk.gauss_newton(points(risk))
    torch.testing.assert_close(both[0, 0], wanted, rtol=1e-9, atol=1e-11)
    assert torch.equal(both, both.mT)
    assert float(torch.linalg.eigvalsh(both).min()) > -1e-10  # convex in the outputs, every one of these


def test_squared_errors_of_a_linear_model_are_all_gauss_newton() -> None:
    source = torch.Generator().manual_seed(1)
    risk = EmpiricalRisk(
        nn.Linear(3, 2), nn.MSELoss(), torch.randn(N, 3, generator=source), torch.randn(N, 2, generator=source)
    )
    theta = risk.initial
    torch.testing.assert_close(risk.gauss_newton(theta), risk.hessian(theta), rtol=1e-12, atol=1e-12)


def test_pieces_are_not_gathered() -> None:
    """Gauss-Newton and gradients of samples hold a piece of the Jacobian at a time."""
    risk, _ = case("mse")
    risk.derivatives = "autograd"
    seen: list[int] = []
    original = risk._rows_of_jacobian

    def watched(row: Tensor, chunk: Any) -> Tensor:
        found = original(row, chunk)
        seen.append(len(found))
        return found

    risk._rows_of_jacobian = watched  # type: ignore[method-assign]
    wanted = risk.gauss_newton(risk.initial)
    assert seen == [N]
    seen.clear()
    with memory_limit(2 * risk.space.size**2 * 8):
        torch.testing.assert_close(risk.gauss_newton(risk.initial), wanted)
    assert len(seen) > 1
    assert sum(seen) == N
