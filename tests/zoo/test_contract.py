"""Every clause of the contract fails on an objective that breaks it, and names itself; sound objectives pass."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.foundation import InvalidInputError, LinearOperator, ParameterSpace
from thalweg.objectives import (
    L2,
    Capability,
    DerivativePath,
    EmpiricalRisk,
    Evaluation,
    Objective,
    SumObjective,
    restrict,
)
from thalweg.objectives.kinks import KinkReport
from thalweg.zoo import CLAUSES, Bump, ContractError, CriticalPoint, LinearRegression, check_objective

SPACE = ParameterSpace({"w": (2,), "b": ()})
THETAS = torch.tensor([[0.3, -1.0, 2.0], [1.1, 0.4, -0.6]], dtype=torch.float64)


class Sound(Objective):
    """A polynomial with one saddle that it knows: the objective that each class below breaks in one place."""

    space = SPACE
    capabilities = frozenset({Capability.CRITICAL_POINTS})

    def chunk_value(self, theta, chunk):
        x, y, z = theta.unbind()
        return x**2 - y**2 / 2 + 2 * z**2 + x**4 / 4 + x * y * z

    def content(self):
        return ["sound"]

    def critical_points(self):
        spectrum = torch.tensor([-1.0, 2.0, 4.0], dtype=torch.float64)
        return (CriticalPoint(torch.zeros(3, dtype=torch.float64), 0.0, 1, 0, "saddle", "by hand", spectrum=spectrum),)


class SoundFit(LinearRegression):
    """The same for objectives with data: two outputs, three inputs, five samples."""

    def __init__(self) -> None:
        source = torch.Generator().manual_seed(0)
        x = torch.randn(5, 3, generator=source, dtype=torch.float64)
        super().__init__(x, torch.randn(5, 1, generator=source, dtype=torch.float64))


def breaks(clause: str, message: str, base: type[Objective] = Sound):
    """Class decorator: this class breaks a clause, and the complaint holds a text."""

    def register(broken):
        BROKEN.append(pytest.param(broken, clause, message, id=f"{clause}-{broken.__name__}"))
        return broken

    return register


BROKEN: list = []

# -- shapes, batches, chunks, purity, identity, refusals -------------------------------------------------------------


@breaks("space", "3 coordinates, the space 4")
class OtherSpace(Sound):
    space = ParameterSpace({"w": (4,)})


@breaks("space", "flatten")
class CrookedSpace(Sound):
    class Crooked(ParameterSpace):
        def flatten(self, values):
            return super().flatten(values).flip(-1)

    space = Crooked({"w": (2,), "b": ()})


class Evaluated(Sound):
    """Changes the result of an evaluation."""

    def changed(self, theta, order, found):
        raise NotImplementedError

    def evaluate(self, theta, order=0):
        return self.changed(theta, order, super().evaluate(theta, order))


@breaks("shapes", "value of one vector at order 0 has shape (1,)")
class KeptDimension(Evaluated):
    def changed(self, theta, order, found):
        return found._replace(value=found.value.unsqueeze(-1))


@breaks("shapes", "dtype torch.float32")
class SinglePrecision(Evaluated):
    def changed(self, theta, order, found):
        return found._replace(value=found.value.float())


@breaks("shapes", "was not asked for")
class TooMuch(Evaluated):
    def changed(self, theta, order, found):
        return super(Evaluated, self).evaluate(theta, 2)


@breaks("shapes", "is not finite")
class NotFinite(Evaluated):
    def changed(self, theta, order, found):
        return found if order == 0 else found._replace(gradient=found.gradient / 0)


@breaks("shapes", "is raised")
class NoEmptyBatch(Evaluated):
    def changed(self, theta, order, found):
        theta.reshape(-1, 3).amax(0)
        return found


@breaks("batching", "value of row 0")
class Crosstalk(Evaluated):
    def changed(self, theta, order, found):
        return found._replace(value=found.value + 1e-6 * theta.reshape(-1, 3)[-1].sum())


@breaks("batching", "2-D batch")
class TransposedBatch(Evaluated):
    def changed(self, theta, order, found):
        return found._replace(value=found.value.mT) if theta.dim() == 3 else found


@breaks("orders", "value by order 0")
class OrderMatters(Evaluated):
    def changed(self, theta, order, found):
        return found._replace(value=found.value + 1e-6) if order == 0 else found


@breaks("orders", "gradient()")
class OwnGradient(Sound):
    def gradient(self, theta):
        return super().gradient(theta) * 1.01


@breaks("chunks", "sum over chunks(1)")
class LosesASample(SoundFit):
    def chunks(self, samples):
        return itertools.islice(super().chunks(samples), 1 if samples < 5 else None)


@breaks("chunks", "no scalar")
class UnreducedChunk(Sound):
    def chunk_value(self, theta, chunk):
        return super().chunk_value(theta, chunk).unsqueeze(0)

    def evaluate(self, theta, order=0):
        return Sound().evaluate(theta, order)


@breaks("chunks", "yields nothing")
class NoChunk(Sound):
    def chunks(self, samples):
        return iter(())


@breaks("pure", "differs between two evaluations")
class Counter(Evaluated):
    calls = 0

    def changed(self, theta, order, found):
        self.calls += 1
        return found._replace(value=found.value + self.calls * 1e-15)


@breaks("pure", "theta was changed")
class Overwrites(Evaluated):
    def changed(self, theta, order, found):
        theta.data += 1e-12
        return found


@breaks("pure", "left a gradient")
class LeavesGradient(Evaluated):
    def changed(self, theta, order, found):
        if theta.requires_grad:
            theta.sum().backward()
        return found


@breaks("pure", "random state")
class DrawsTorch(Evaluated):
    def changed(self, theta, order, found):
        torch.rand(1)
        return found


@breaks("pure", "random state")
class DrawsPython(Evaluated):
    def changed(self, theta, order, found):
        random.random()
        return found


@breaks("pure", "random state")
class DrawsNumpy(Evaluated):
    def changed(self, theta, order, found):
        np.random.rand()  # noqa: NPY002  that is the mistake
        return found


@breaks("fingerprint", "differs between two calls")
class RestlessContent(Sound):
    serial = itertools.count()

    def content(self):
        return [next(RestlessContent.serial)]


@breaks("fingerprint", "expected a text")
class NoFingerprint(Sound):
    def fingerprint(self):
        return None


@breaks("fingerprint", "changes by pickling")
class ForgetsContent(Sound):
    def __init__(self):
        self.extra = 1.0

    def __getstate__(self):
        return {"extra": 2.0}

    def content(self):
        return [self.extra]


@breaks("fingerprint", "values change by pickling")
class ForgetsValue(Sound):
    def __init__(self):
        self.extra = 1.0

    def __getstate__(self):
        return {"extra": 2.0}

    def chunk_value(self, theta, chunk):
        return self.extra * super().chunk_value(theta, chunk)


@breaks("fingerprint", "is raised")
class CannotPickle(Sound):
    def __init__(self):
        self.function = lambda: None


class Careless(Sound):
    """Takes whatever it is given."""

    def evaluate(self, theta, order=0):
        given = torch.as_tensor(theta, dtype=torch.float64).reshape(-1)[:3]
        return Sound().evaluate(torch.nn.functional.pad(given, (0, 3 - len(given))), min(order, 2))


@breaks("refusals", "a theta of 4 instead of 3 is accepted")
class TakesAnyLength(Careless):
    pass


@breaks("refusals", "a theta without dimension")
class TakesScalars(Careless):
    def evaluate(self, theta, order=0):
        return Sound().evaluate(theta, order) if getattr(theta, "ndim", 0) else super().evaluate(theta, order)


@breaks("refusals", "an integer theta")
class TakesIntegers(Sound):
    def evaluate(self, theta, order=0):
        return super().evaluate(theta.double() if isinstance(theta, torch.Tensor) else theta, order)


@breaks("refusals", "a list in the place of theta")
class TakesLists(Sound):
    def evaluate(self, theta, order=0):
        return super().evaluate(torch.tensor(theta) if isinstance(theta, list) else theta, order)


@breaks("refusals", "order 3 raises KeyError")
class RefusesInItsOwnWay(Sound):
    def evaluate(self, theta, order=0):
        if order == 3:
            raise KeyError(order)
        return super().evaluate(theta, order)


@breaks("refusals", "a batch where one theta is needed")
class OperatorOfABatch(Sound):
    def hessian_operator(self, theta, *, keep=None):
        return super().hessian_operator(theta.reshape(-1, 3)[0], keep=keep)


# -- derivatives -----------------------------------------------------------------------------------------------------


@breaks("gradient", "gradient and central differences, row 0")
class GradientSlightlyOff(Evaluated):
    def changed(self, theta, order, found):
        return found if order == 0 else found._replace(gradient=found.gradient * (1 + 1e-6))


@breaks("gradient", "row 1")
class GradientOffInOneEntry(Evaluated):
    def changed(self, theta, order, found):
        wrong = 1e-5 * (theta[..., :1] > 1) * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        return found if order == 0 else found._replace(gradient=found.gradient + wrong)


@breaks("hessian", "Hessian and central differences")
class WithoutCurvatureOfTheProduct(Evaluated):
    def changed(self, theta, order, found):
        return found if order < 2 else found._replace(hessian=found.hessian * torch.eye(3))


@breaks("hessian", "transpose")
class Asymmetric(Evaluated):
    def changed(self, theta, order, found):
        return found if order < 2 else found._replace(hessian=found.hessian + 1e-10 * torch.ones(3, 3).double().triu())


@breaks("products", "hessian_product of a batch")
class ProductOff(Sound):
    def hessian_product(self, theta, vector):
        return super().hessian_product(theta, vector) * (1 + 1e-9)


@breaks("products", "hessian_product of one vector")
class ProductForBatchesOnly(Sound):
    def hessian_product(self, theta, vector):
        return super().hessian_product(theta, vector) * (1 if theta.dim() > 1 else 2)


@breaks("products", "hessian_operator(keep=True)")
class KeptOff(Sound):
    def hessian_operator(self, theta, *, keep=None):
        return super().hessian_operator(theta, keep=keep) * (1 + 1e-9 * bool(keep))


@breaks("products", "hessian_operator(keep=False)")
class FreshOff(Sound):
    def hessian_operator(self, theta, *, keep=None):
        return super().hessian_operator(theta, keep=keep) * (1 + 1e-9 * (keep is False))


@breaks("products", "@ v")
class VectorOff(Sound):
    def hessian_operator(self, theta, *, keep=None):
        inner = super().hessian_operator(theta, keep=keep)
        return LinearOperator((3, 3), lambda v: inner @ v * (1 + 1e-9 * (v.shape[1] == 1)), symmetric=True)


class Straightforward(Sound):
    """Evaluates another function than its chunks contain, which differs from it by `extra`."""

    def extra(self, theta):
        raise NotImplementedError

    def chunk_value(self, theta, chunk):
        return super().chunk_value(theta, chunk) + self.extra(theta)

    def evaluate(self, theta, order=0):
        return Sound().evaluate(theta, order)


@breaks("taylor", "taylor, order 1")
class FirstOrderOff(Straightforward):
    def extra(self, theta):
        return 1e-6 * ((theta - THETAS[0]) * (theta - THETAS[1]) ** 2).sum()


@breaks("taylor", "taylor, order 2")
class SecondOrderOff(Straightforward):
    def extra(self, theta):
        return 1e-6 * ((theta - THETAS[0]) ** 2 * (theta - THETAS[1]) ** 3).sum()


@breaks("taylor", "taylor, order 3")
class ThirdOrderOff(Straightforward):
    def extra(self, theta):
        return 0.1 * ((theta - THETAS[0]) * (theta - THETAS[1])).pow(3).sum()


@breaks("taylor", "taylor, order 4")
class FourthOrderOff(Straightforward):
    def extra(self, theta):
        return 0.1 * ((theta - THETAS[0]) ** 4 * (theta - THETAS[1]) ** 3).sum()


@breaks("gauss-newton", "not declared, is accepted")
class UndeclaredGaussNewton(Sound):
    def gauss_newton_operator(self, theta, *, keep=None):
        return self.hessian_operator(theta)


@breaks("gauss-newton", "below zero")
class IndefiniteGaussNewton(Sound):
    capabilities = frozenset({Capability.GAUSS_NEWTON})

    def gauss_newton_operator(self, theta, *, keep=None):
        return self.hessian_operator(theta)


@breaks("gauss-newton", "gauss_newton of an empty batch has shape (0, 3)")
class NoEmptyGaussNewton(SoundFit):
    def gauss_newton(self, theta):
        return super().gauss_newton(theta) if len(theta) else theta


@breaks("gauss-newton", "operator(keep=None) and the dense matrix")
class OtherOperator(SoundFit):
    def gauss_newton_operator(self, theta, *, keep=None):
        return super().gauss_newton_operator(theta, keep=keep) * (1 + 1e-9)


@breaks("gauss-newton", "operator(keep=False) and the dense matrix")
class OtherOperatorUnkept(SoundFit):
    def gauss_newton_operator(self, theta, *, keep=None):
        return super().gauss_newton_operator(theta) * (1 + 1e-9 * (keep is False))


@breaks("gauss-newton", "in a batch")
class BatchedGaussNewton(SoundFit):
    def gauss_newton(self, theta):
        return super().gauss_newton(theta) * (1 + 1e-9 * (theta.dim() == 2))


@breaks("gauss-newton", "transpose")
class AsymmetricGaussNewton(SoundFit):
    def gauss_newton(self, theta):
        return super().gauss_newton(theta) + 1e-9 * torch.ones(3, 3).double().triu()


@breaks("outputs", "is no OutputObjective")
class NoOutputs(Sound):
    capabilities = frozenset({Capability.OUTPUTS})


@breaks("outputs", "Jacobian and central differences")
class JacobianOff(SoundFit):
    def jacobian(self, theta):
        return super().jacobian(theta) * (1 + 1e-6)


@breaks("outputs", "outputs has shape")
class OutputsOff(SoundFit):
    def outputs(self, theta):
        return super().outputs(theta).flatten(-2)


@breaks("outputs", "transposed product")
class TransposeOff(SoundFit):
    def jacobian_operator(self, theta):
        inner = super().jacobian_operator(theta)
        return LinearOperator((5, 3), lambda v: inner @ v, lambda v: inner.transpose_matmul(v) * (1 + 1e-9))


@breaks("outputs", "output_gradient")
class OutputGradientOff(SoundFit):
    def output_gradient(self, theta):
        return super().output_gradient(theta) * (1 + 1e-9)


@breaks("outputs", "J^T B J")
class OutputHessianOff(SoundFit):
    def output_hessian(self, theta):
        return super().output_hessian(theta) * (1 + 1e-9)


@breaks("outputs", "sample_values")
class SampleValuesOff(SoundFit):
    def sample_values(self, theta):
        return super().sample_values(theta) * 5


@breaks("outputs", "sample_gradients")
class SampleGradientsOff(SoundFit):
    def sample_gradients(self, theta):
        return super().sample_gradients(theta) * 5


@breaks("outputs", "subset of all samples")
class SubsetOff(SoundFit):
    def subset(self, indices):
        return super().subset(indices[1:])


@breaks("kinks", "expected distances")
class NegativeMargin(Sound):
    def kink_margin(self, theta):
        return super().kink_margin(theta).clamp(max=-1.0)


@breaks("kinks", "kink_margin has shape")
class MarginWithoutBatch(Sound):
    def kink_margin(self, theta):
        return super().kink_margin(theta)[0]


@breaks("kinks", "no kinks, but a margin")
class MarginWithoutKink(Sound):
    def kinks(self, theta):
        return KinkReport(1.0, {}, 0, False)


@breaks("kinks", "kinks says")
class TwoMargins(Sound):
    def kinks(self, theta):
        return KinkReport(1.0, {"relu": 1}, 1, False)

    def kink_margin(self, theta):
        return torch.full(theta.shape[:-1], 2.0, dtype=torch.float64)


# -- what it says of itself ------------------------------------------------------------------------------------------


def declares(points, objective=Sound):
    """A class with these critical points, made when asked."""

    class Declares(objective):
        def critical_points(self):
            return tuple(points())

    return Declares


def at(*coordinates: float, **facts) -> CriticalPoint:
    theta = torch.tensor(coordinates, dtype=torch.float64)
    return CriticalPoint(theta, **{"value": 0.0, "index": 1, "nullity": 0, "kind": "saddle", "why": "", **facts})


E = torch.eye(3, dtype=torch.float64)


class Trough(Sound):
    """``x^2 + y^2 * small``; the third coordinate is free."""

    def __init__(self, small=1.0, cubic=0.0):
        self.small, self.cubic = small, cubic

    def chunk_value(self, theta, chunk):
        return theta[0] ** 2 + self.small * theta[1] ** 2 + self.cubic * theta[2] ** 3

    def content(self):
        return [self.small, self.cubic]


class AlmostFlat(Trough):
    def __init__(self):
        super().__init__(small=1e-9)


class Cubic(Trough):
    def __init__(self):
        super().__init__(cubic=1.0)


OFF = torch.tensor([-1.0, 2.0, 4.0 + 1e-6], dtype=torch.float64)
VALLEY = {"index": 0, "nullity": 1, "kind": "degenerate minimum"}
FALSE_KNOWLEDGE = {
    "gradient": (lambda: [at(1e-6, 0.0, 0.0)], Sound, "has a gradient of"),
    "second": (lambda: [at(0.0, 0.0, 0.0), at(0.0, 1.0, 0.0)], Sound, "critical point 1 (saddle) has a gradient"),
    "value": (lambda: [at(0.0, 0.0, 0.0, value=1e-6)], Sound, "declared 1e-06"),
    "index": (lambda: [at(0.0, 0.0, 0.0, index=2)], Sound, "has 1 negative eigenvalues, declared 2"),
    "sign": (lambda: [at(0.0, 0.0, 0.0, index=0, kind="strict minimum")], Sound, "declared 0"),
    "nullity-missed": (lambda: [at(0.0, 0.0, 0.0, index=0, kind="strict minimum")], Trough, "is as good as zero"),
    "nullity-invented": (lambda: [at(0.0, 0.0, 0.0, nullity=1)], Sound, "nullity 1, but one of these is 1"),
    "nullity-of-a-small-eigenvalue": (
        lambda: [at(0.0, 0.0, 0.0, index=0, nullity=2, kind="degenerate minimum")],
        AlmostFlat,
        "declared to have nullity 2, but one of these is 2e-09",
    ),
    "spectrum": (lambda: [at(0.0, 0.0, 0.0, spectrum=OFF)], Sound, "declared spectrum"),
    "tangent": (lambda: [at(0.0, 0.0, 0.0, **VALLEY, tangent=E[:, :1])], Trough, "flat directions the Hessian is"),
    "tangent-length": (lambda: [at(0.0, 0.0, 0.0, **VALLEY, tangent=2 * E[:, 2:])], Trough, "Gram matrix and identity"),
    "inflection": (lambda: [at(0.0, 0.0, 0.0, **VALLEY)], Cubic, "another point has the value"),
    "theta": (lambda: [at(0.0, 0.0, 0.0, 0.0)], Sound, "theta of critical point 0 (saddle) has shape (4,)"),
    "none": (list, Sound, "but knows none"),
}
for _name, (_points, _base, _message) in FALSE_KNOWLEDGE.items():
    BROKEN.append(pytest.param(declares(_points, _base), "critical points", _message, id=f"critical points-{_name}"))


@breaks("critical points", "has no critical_points()")
class KnowsNothing(L2):
    capabilities = frozenset({Capability.CRITICAL_POINTS})

    def __init__(self):
        super().__init__(SPACE, 1.0)


@breaks("critical points", "is declared global, but a theta has the value")
class NotGlobal(Sound):
    def chunk_value(self, theta, chunk):
        well = torch.exp(-100 * ((theta - THETAS[1]) ** 2).sum())  # so narrow that only who knows of it finds it
        return (theta**2).sum() - 10 * well

    def critical_points(self):
        return (at(0.0, 0.0, 0.0, index=0, kind="strict minimum", is_global=True),)


class SoundEscape(Bump):
    def __init__(self):
        super().__init__(3)


@breaks("infinity", "escape is 'sideways'")
class UnknownEscape(SoundEscape):
    escape = "sideways"


@breaks("infinity", "goes from")
class StartsAtTheTop(SoundEscape):
    def starts(self):
        return torch.zeros(3, 3, dtype=torch.float64)


@breaks("infinity", "below the infimum 0.5")
class InfimumTooHigh(SoundEscape):
    infimum = 0.5


@breaks("infinity", "a theta has the value")
class InfimumAboveAValue(SoundEscape):
    infimum = 0.2

    def limits(self):
        return torch.full((3,), 0.2, dtype=torch.float64)

    def starts(self):
        return super().starts() / 100


@breaks("infinity", "not above their limits")
class LimitsTooHigh(SoundEscape):
    def limits(self):
        return torch.ones(3, dtype=torch.float64)


@breaks("infinity", "goes from")
class DescentPassesTheLimit(SoundEscape):
    def limits(self):
        return super().limits() + 0.1

    def starts(self):
        return super().starts()[:1].expand(3, -1) / 2


@breaks("infinity", "limits has shape")
class TooFewLimits(SoundEscape):
    def limits(self):
        return super().limits()[:2]


# -- the tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("broken", "clause", "message"), BROKEN)
def test_a_broken_clause_is_named(broken, clause, message) -> None:
    with pytest.raises(ContractError) as caught:
        check_objective(broken(), THETAS, clauses=[clause])
    assert isinstance(caught.value, AssertionError)
    assert caught.value.clause == clause
    assert f"breaks the contract, clause '{clause}': " in str(caught.value)
    assert message in str(caught.value)


def test_every_clause_can_fail() -> None:
    assert {parameter.values[1] for parameter in BROKEN} == set(CLAUSES)


@pytest.mark.parametrize("sound", [Sound, SoundFit, SoundEscape, Trough])
def test_what_the_broken_ones_were_made_from_is_sound(sound) -> None:
    clauses = [c for c in CLAUSES if c != "critical points"] if sound is Trough else None
    check_objective(sound(), THETAS, others=[Bump(2)], clauses=clauses)


def test_equal_fingerprints_of_different_objectives_are_found() -> None:
    class Other(Sound):
        def chunk_value(self, theta, chunk):
            return 2 * super().chunk_value(theta, chunk)

        def fingerprint(self):
            return Sound().fingerprint()

    with pytest.raises(ContractError, match=r"is that of .*a different objective"):
        check_objective(Sound(), THETAS, others=[Other()], clauses=["fingerprint"])


def test_the_first_broken_clause_is_reported() -> None:
    class Several(ProductOff):
        def gradient(self, theta):
            return 2 * super().gradient(theta)

    with pytest.raises(ContractError) as caught:
        check_objective(Several(), THETAS)
    assert caught.value.clause == "orders"


class Once(Sound):
    """Cannot be differentiated twice."""

    path = DerivativePath(second="none", notes=("only once",))
    capabilities = frozenset()


class OnceWrong(Once):
    def evaluate(self, theta, order=0):
        found = super().evaluate(theta, order)
        return found if order == 0 else Evaluation(found.value, 1.01 * found.gradient)


def test_objectives_without_second_derivatives_are_asked_for_first_ones_only() -> None:
    check_objective(Once(), THETAS)
    with pytest.raises(ContractError, match="clause 'gradient'"):
        check_objective(OnceWrong(), THETAS)


def network(activation: nn.Module, outputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, outputs))


def risks() -> dict[str, Objective]:
    source = torch.Generator().manual_seed(1)
    x, y = torch.randn(7, 3, generator=source), torch.randn(7, 2, generator=source)
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    smooth = EmpiricalRisk(network(nn.Tanh(), 2), nn.MSELoss(), x, y)
    return {
        "smooth": smooth,
        "kinked": EmpiricalRisk(network(nn.ReLU(), 3), nn.CrossEntropyLoss(), x, labels),
        "single-precision": EmpiricalRisk(network(nn.Tanh(), 2), nn.MSELoss(), x, y, dtype=torch.float32),
        "small-batches": EmpiricalRisk(network(nn.Tanh(), 2), nn.MSELoss(), x, y, batch_size=3),
        "sum": SumObjective([smooth, L2(smooth, 0.1)]),
        "restricted": restrict(smooth, "2.*", smooth.initial),
    }


@pytest.mark.parametrize("name", ["smooth", "kinked", "single-precision", "small-batches", "sum", "restricted"])
def test_networks_keep_the_contract_too(name) -> None:
    objective = risks()[name]
    source = torch.Generator().manual_seed(2)
    thetas = 0.5 * torch.randn(2, objective.space.size, generator=source, dtype=torch.float64)
    clauses = [clause for clause in CLAUSES if clause != "fingerprint"]
    check_objective(objective, thetas.to(objective.dtype), clauses=clauses)


def waves(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.cos(outputs - targets).sum()


def test_a_loss_that_is_not_convex_may_have_an_indefinite_gauss_newton_matrix() -> None:
    source = torch.Generator().manual_seed(1)
    x, y = torch.randn(7, 3, generator=source), torch.randn(7, 2, generator=source)
    risk = EmpiricalRisk(network(nn.Tanh(), 2), waves, x, y, reduction="sum")
    thetas = 0.5 * torch.randn(2, risk.space.size, generator=source, dtype=torch.float64)
    assert float(torch.linalg.eigvalsh(risk.gauss_newton(thetas)).min()) < -0.1
    check_objective(risk, thetas, clauses=["gauss-newton"])


def test_a_wrong_gradient_is_found_across_a_kink() -> None:
    """Steps shrink until they no longer cross the kink; there a wrong gradient still differs."""

    class Corner(Sound):
        capabilities = frozenset()

        def chunk_value(self, theta, chunk):
            return torch.relu(theta[0] - 1e-5) + (theta**2).sum()

    near = torch.tensor([[2e-5, 1.0, 1.0], [-2e-5, 1.0, 1.0]], dtype=torch.float64)
    check_objective(Corner(), near, clauses=["gradient", "hessian"])

    class CornerWrong(Corner):
        def evaluate(self, theta, order=0):
            found = super().evaluate(theta, order)
            return found if order == 0 else found._replace(gradient=found.gradient + 1e-3)

    with pytest.raises(ContractError, match="clause 'gradient'"):
        check_objective(CornerWrong(), near, clauses=["gradient"])


def test_many_parameters_are_checked_along_random_directions() -> None:
    class Many(Objective):
        space = ParameterSpace({"x": (100,)})
        factor = 1.0

        def chunk_value(self, theta, chunk):
            return (theta**3).sum() / 3

        def content(self):
            return ["many"]

        def evaluate(self, theta, order=0):
            found = super().evaluate(theta, order)
            return found if order == 0 else found._replace(gradient=found.gradient * self.factor)

    thetas = torch.randn(2, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check_objective(Many(), thetas, clauses=["gradient", "hessian"])
    Many.factor = 1 + 1e-5
    with pytest.raises(ContractError, match="clause 'gradient'"):
        check_objective(Many(), thetas, clauses=["gradient"])


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"thetas must be \(n, P\)"):
        check_objective(Sound(), THETAS[0])
    with pytest.raises(InvalidInputError, match="n >= 2"):
        check_objective(Sound(), THETAS[:1])
    with pytest.raises(InvalidInputError, match=r"no clause \['gradients'\]; there are space, shapes"):
        check_objective(Sound(), THETAS, clauses=["gradients"])
