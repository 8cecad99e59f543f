"""A loss at a point, with everything that certificates ask of it, found once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from thalweg.certificates.claims import Hypothesis, Level, State
from thalweg.certificates.description import agreement
from thalweg.certificates.figure import Figure, cancelling, moved_a_little, observed_rounding
from thalweg.certificates.forward import Bounded, as_given, bounded_outputs, bounded_risk
from thalweg.certificates.gradient_bounds import bounded_decay, bounded_gradient, total_gradient
from thalweg.certificates.jacobian_bounds import BoundedJacobian, bounded_jacobian
from thalweg.certificates.rounding import UNIT
from thalweg.foundation import InvalidInputError, NotApplicableError, RunControl, require_memory
from thalweg.objectives import L2, EmpiricalRisk, Evaluation, Objective, SumObjective, as_theta, explain_network
from thalweg.structure import DenseNetwork, NetworkStructure
from thalweg.tangent import hessian_error

__all__ = ["Case"]


@dataclass
class _Ground:
    """What a claim in the making rests on so far."""

    described: bool = False


class Case:
    """One problem put to the certificates: a loss, a point, and what is found out about them on the way.

    Everything is computed when first asked for, and then kept.

    Args:
        objective: the loss.
        theta: ``(P,)``.
        seed: of random choices.
        control: time budget and stop event.
        hessian: ``(P, P)`` at theta, where it is known already.

    Raises:
        InvalidInputError: for a batch, or an objective in single precision.

    >>> from thalweg.foundation import ParameterSpace
    >>> from thalweg.objectives import L2
    >>> Case(L2(ParameterSpace({"x": (2,)}), 3.0), torch.ones(2)).value.value
    3.0
    """

    def __init__(
        self,
        objective: Objective,
        theta: Float[Tensor, " P"],
        *,
        seed: int = 0,
        control: RunControl | None = None,
        hessian: Float[Tensor, "P P"] | None = None,
    ) -> None:
        if objective.dtype != torch.float64:
            raise InvalidInputError(
                f"certificates need an objective in float64, this one has {objective.dtype}; make it with "
                "dtype=torch.float64 (the default), a float32 model is converted exactly"
            )
        point = as_theta(theta, objective)
        if point.dim() != 1:
            raise InvalidInputError(f"certificates are made at one point (P,), got {tuple(point.shape)}")
        self.objective = objective
        self.theta = point
        self.seed = seed
        self.control = control or RunControl(None, None)
        self._hessian = hessian
        self._ground = _Ground()

    def at(self, theta: Float[Tensor, " P"]) -> Case:
        """The same problem at another point; what is found there is part of the same claim."""
        return self._beside(self.objective, theta)

    def of(self, objective: Objective) -> Case:
        """Another objective, such as the data term alone, at the same point and for the same claim."""
        return self._beside(objective, self.theta)

    def _beside(self, objective: Objective, theta: Tensor) -> Case:
        found = Case(objective, theta, seed=self.seed, control=self.control)
        found._ground = self._ground
        return found

    @property
    def rests_on_description(self) -> bool:
        """Whether something was asked for, since `begin`, that is known from the network's description alone."""
        return self._ground.described

    def begin(self) -> None:
        """Begin another claim, which rests on nothing yet."""
        self._ground.described = False

    # -- what the loss consists of -------------------------------------------------------------------------------------

    @cached_property
    def terms(self) -> tuple[Objective, ...]:
        """The terms of a sum; the objective itself otherwise."""
        return self.objective.terms if isinstance(self.objective, SumObjective) else (self.objective,)

    @cached_property
    def risk(self) -> EmpiricalRisk | None:
        """The data term, where there is exactly one."""
        risks = [term for term in self.terms if isinstance(term, EmpiricalRisk)]
        return risks[0] if len(risks) == 1 else None

    @cached_property
    def others(self) -> tuple[Objective, ...]:
        """The terms besides the data term."""
        return tuple(term for term in self.terms if term is not self.risk)

    @property
    def bare(self) -> bool:
        """Whether the loss is the data term and nothing else."""
        return self.risk is not None and not self.others

    def data_term(self) -> EmpiricalRisk:
        """The data term.

        Raises:
            NotApplicableError: if there is none, or several.
        """
        if self.risk is None:
            found = sum(isinstance(term, EmpiricalRisk) for term in self.terms)
            raise NotApplicableError(f"it needs a loss with one term over data, this one has {found or 'none'}")
        return self.risk

    @cached_property
    def others_not_negative(self) -> Hypothesis:
        """The hypothesis under which a lower bound of the data term is one of the whole loss."""
        signless = [repr(term) for term in self.others if not getattr(term, "nonnegative", False)]
        if signless:
            note = f"nothing is known of the sign of {', '.join(signless)}"
            return Hypothesis("all other terms of the loss are not negative", State.NOT_MET, note=note)
        note = ", ".join(map(repr, self.others)) or "there are none"
        return Hypothesis("all other terms of the loss are not negative", State.PROVED, note=note)

    # -- value and gradient --------------------------------------------------------------------------------------------

    @cached_property
    def _timed(self) -> tuple[Evaluation, float]:
        started = time.perf_counter()
        return self.objective.evaluate(self.theta, 1), time.perf_counter() - started

    @property
    def _first(self) -> Evaluation:
        return self._timed[0]

    @property
    def gradient(self) -> Float[Tensor, " P"]:
        """Gradient of the whole loss."""
        assert self._first.gradient is not None
        return self._first.gradient

    @property
    def bounded(self) -> bool:
        """Whether rounding is bounded by passes of our own; else it is estimated, which takes a few dozen gradients."""
        try:
            self.dense()
        except NotApplicableError:
            return False
        return True

    @property
    def gradient_seconds(self) -> float:
        """Time of one evaluation of value and gradient."""
        return self._timed[1]

    @cached_property
    def moved_a_little(self) -> Float[Tensor, "k P"]:
        """Copies of theta with every coordinate moved by a unit in the last place, from which rounding is estimated."""
        return moved_a_little(self.theta, self.seed)

    @cached_property
    def _rounding(self) -> Evaluation:
        return observed_rounding(self.objective, self.theta, self._first, self.seed)

    @property
    def value(self) -> Figure:
        """The loss; with a proved error for multilayer perceptrons under the usual losses, else an estimated one."""
        self._ground.described |= self._value.level is Level.RIGOROUS
        return self._value

    @cached_property
    def _value(self) -> Figure:
        computed = float(self._first.value)
        if self.risk is not None and all(isinstance(term, L2) for term in self.others):
            try:
                data, error = self._bounded_data
            except NotApplicableError:
                pass
            else:
                extra = [float(term.value(self.theta)) for term in self.others]
                more = sum((len(self.theta) + 8) * 2 * UNIT * abs(part) for part in extra)
                total = data + sum(extra)
                return Figure(total, error + more + 4 * UNIT * (abs(total) + abs(computed)), Level.RIGOROUS)
        noise = float(self._rounding.value)
        return Figure(computed, 4 * noise + 16 * UNIT * abs(computed), Level.NUMERIC)

    @cached_property
    def _bounded_data(self) -> tuple[float, float]:
        return bounded_risk(self.data_term(), self.bounded_outputs)

    @cached_property
    def gradient_error(self) -> Float[Tensor, " P"]:
        """Estimated rounding error of each coordinate of the gradient."""
        changes = self._rounding.gradient
        assert changes is not None
        # what one coordinate shows by chance, its neighbours in scale may suffer: no coordinate below the median
        least = 16 * UNIT * self.gradient.abs() + changes.median()
        found = torch.maximum(4 * changes, least)
        if self.risk is not None:
            found = found + cancelling(self.risk, self.theta, self.output_gradient, self.seed + 1)
        return found

    @property
    def bounded_gradient(self) -> Bounded:
        """Gradient of the whole loss with proved errors, ``(P,)``, by a pass back of its own.

        Raises:
            NotApplicableError: for other than multilayer perceptrons of known activations, losses in closed form, and
                weight decay; and where an argument may lie on a corner.
        """
        found = self._bounded_gradient
        self._ground.described = True
        return found

    @cached_property
    def _bounded_gradient(self) -> Bounded:
        decay = [bounded_decay(term, self.theta) for term in self.others if isinstance(term, L2)]
        if len(decay) < len(self.others):
            raise NotApplicableError(
                "no rounding bound is known of the terms of the loss besides data and weight decay"
            )
        network, risk = self.dense(), self.data_term()
        rows = risk.n_samples * network.rows_per_sample
        size = 8 * 8 * rows * sum(network.widths) + 8 * 8 * self.theta.numel()
        require_memory(size, "a gradient with error bounds", "Use fewer samples.")
        return total_gradient(bounded_gradient(risk, network, self.theta), decay)

    # -- the network ---------------------------------------------------------------------------------------------------

    def structure(self) -> NetworkStructure:
        """The network's description.

        Raises:
            NotApplicableError: where there is none, or it is not what the network does with all data.
        """
        report = explain_network(self.objective)
        if report.structure is None:
            raise NotApplicableError(f"it needs the structure of the network: {report.reason}")
        if not self.described.met:
            raise NotApplicableError(f"it needs that {self.described.statement} ({self.described.note})")
        self._ground.described = True
        return report.structure

    @cached_property
    def described(self) -> Hypothesis:
        """Whether the network is what its description says, on all data here; only where it has one."""
        structure = explain_network(self.objective).structure
        assert structure is not None
        return agreement(self.data_term(), structure, self.theta)

    def dense(self, *, computed_inputs: bool = False) -> DenseNetwork:
        """The network as a multilayer perceptron.

        Args:
            computed_inputs: whether it may compute something of its inputs before the first layer. What that gives is
                rounded, so that nothing proved of rounding holds for it.

        Raises:
            NotApplicableError: if it is none, or computes something of its inputs and must not.
        """
        structure = self.structure()
        network = structure.as_dense()
        if network is None:
            raise NotApplicableError(f"it needs a multilayer perceptron: {structure.explain_dense()}")
        if not computed_inputs and not self._inputs_as_given:
            raise NotApplicableError(
                "it needs a first layer that sees the inputs themselves; this network computes something of them, "
                "which can be done to the data beforehand"
            )
        return network

    @cached_property
    def _inputs_as_given(self) -> bool:
        inputs = self.data_term().inputs
        return as_given(inputs, self.dense(computed_inputs=True).features(inputs))

    @property
    def bounded_outputs(self) -> Bounded:
        """Outputs ``(N, C)`` with proved errors.

        Raises:
            NotApplicableError: for other than multilayer perceptrons of registered activations.
        """
        found = self._bounded_outputs
        self._ground.described = True
        return found

    @cached_property
    def _bounded_outputs(self) -> Bounded:
        network, risk = self.dense(), self.data_term()
        rows = risk.n_samples * network.rows_per_sample
        require_memory(6 * 8 * rows * max(network.widths), "a forward pass with error bounds", "Use fewer samples.")
        return bounded_outputs(network, self.theta, risk.inputs)

    # -- what the loss makes of the outputs ----------------------------------------------------------------------------

    @cached_property
    def outputs(self) -> Float[Tensor, "N C"]:
        """Outputs of every sample."""
        return self.data_term().outputs(self.theta)

    @cached_property
    def output_gradient(self) -> Float[Tensor, "N C"]:
        """Gradient of the data term with respect to the outputs."""
        return self.data_term().output_gradient(self.theta)

    @cached_property
    def jacobian(self) -> Float[Tensor, "NC P"]:
        """Jacobian of the outputs.

        Raises:
            MemoryLimitError: where it would not fit.
        """
        return self.data_term().jacobian(self.theta)

    @property
    def bounded_jacobian(self) -> BoundedJacobian:
        """Jacobian of the outputs with its error: proved for multilayer perceptrons, else estimated.

        Raises:
            MemoryLimitError: where it would not fit.
        """
        found = self._bounded_jacobian
        self._ground.described |= found.level is Level.RIGOROUS
        return found

    @cached_property
    def _bounded_jacobian(self) -> BoundedJacobian:
        risk = self.data_term()
        try:
            return bounded_jacobian(self.dense(), self.theta, risk.inputs)
        except NotApplicableError:
            pass
        seen = max(float((risk.jacobian(row) - self.jacobian).norm()) for row in self.moved_a_little[:2])
        least = 16 * UNIT * float(self.jacobian.norm())
        return BoundedJacobian(self.jacobian, max(4 * seen, least), Level.NUMERIC)

    @cached_property
    def hessian_error(self) -> float:
        """Estimated rounding error of the Hessian, in the 2-norm.

        Raises:
            MemoryLimitError: where a second Hessian would not fit.
        """
        return hessian_error(self.objective, self.theta, self.hessian, seed=self.seed).rounding

    @property
    def knows_hessian(self) -> bool:
        """Whether the Hessian is there without any work."""
        return self._hessian is not None or "hessian" in vars(self)

    @cached_property
    def hessian(self) -> Float[Tensor, "P P"]:
        """Hessian of the whole loss.

        Raises:
            MemoryLimitError: where it would not fit.
            NotApplicableError: where the loss cannot be differentiated twice.
        """
        return self.objective.hessian(self.theta) if self._hessian is None else self._hessian
