"""The objective of a user's own network, loss and data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from thalweg.foundation import (
    Cost,
    InvalidInputError,
    ParameterSpace,
    current_limit,
    preserved_random_state,
    require_memory,
)
from thalweg.objectives import door, paths, probe
from thalweg.objectives.bound_loss import BoundLoss
from thalweg.objectives.capabilities import Capability
from thalweg.objectives.contents import content_of, content_of_module
from thalweg.objectives.data import cast_floats, count_samples, read_data, take
from thalweg.objectives.kernels import HIGHER_ORDER, elementary_operations, fused_kernels
from thalweg.objectives.kinks import record_kinks
from thalweg.objectives.losses import LossFacts
from thalweg.objectives.outputs import OutputObjective, Piece
from thalweg.objectives.pickling import require_findable
from thalweg.objectives.private_model import PrivateModel, free_parameters
from thalweg.structure import TraceReport, explain_trace
from thalweg.structure.caller import Forward

if TYPE_CHECKING:
    from thalweg.objectives.closed_form import ClosedForm

__all__ = ["EmpiricalRisk"]

SMALL = 20_000
"""Parameters up to which values and gradients are taken in closed form too; beyond, autograd is as fast."""

AT_THE_DOOR = 512
"""Samples in one pass while the outputs of all are looked at once."""


class RiskChunk(NamedTuple):
    """Some samples: a tree of tensors with one leading row per sample."""

    inputs: Any
    targets: Any
    weights: Tensor
    indices: Tensor


class EmpiricalRisk(OutputObjective):
    """The loss of a torch module on data, as a function of its parameters.

    The value equals what the user's own code ``loss(model(inputs), targets)`` computes. Model, loss and data are
    copied; the live ones, the model's buffers, mode and gradients, and the random state are never touched.

    Args:
        model: any deterministic `nn.Module`, in the mode it is to be judged in (usually ``eval()``).
        loss: a loss of `torch.nn` or `torch.nn.functional`, or a callable ``loss(outputs, targets)``.
        data: inputs as a tensor, or a tree of tensors (a tuple is passed as arguments, a dictionary as keywords); or a
            `Dataset` or `DataLoader` of ``(inputs, targets)`` pairs or dictionaries, read in fixed order.
        targets: targets as tensor or tree; a key into dictionary data; or None for a dataset of pairs. If there are
            none at all, the loss is called with the batch itself.
        forward: ``forward(model, batch)``, for models that are not simply called.
        parameters: globs of the parameters that are free, such as ``"head.*"``; None frees all with ``requires_grad``.
        sample_weight: ``(N,)``, multiplies each sample's contribution; the denominator of a mean stays as it is.
        reduction: what a callable that is no torch loss does over the samples: ``"mean"``, ``"sum"``, or ``"none"`` for
            one number per sample, which are then summed.
        dtype: of parameters and data; float64 unless there is a reason.
        batch_size: the most samples in one pass; None lets the planner choose.
        derivatives: ``"auto"`` takes Hessians, Gauss-Newton matrices and Jacobians of multilayer perceptrons in closed
            form, which is many times faster, and of small smooth ones values and gradients too; ``"autograd"`` takes
            all derivatives by automatic differentiation.

    Raises:
        InvalidInputError: for NaN, mismatched shapes, labels out of range, empty data.
        StochasticModelError: for dropout or batch statistics in train mode.
        UnsupportedModelError: for lazy, scripted, quantised or frozen modules.

    >>> torch.manual_seed(0).seed() and None
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    >>> risk = EmpiricalRisk(model, nn.MSELoss(), torch.eye(2), torch.ones(2, 1))
    >>> risk
    EmpiricalRisk(Sequential, MSELoss, N=2, C=1, P=13)
    >>> risk.gradient(risk.initial).shape
    torch.Size([13])
    """

    capabilities = OutputObjective.capabilities | {Capability.MODEL}

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module | Callable[[Any, Any], Tensor],
        data: Any,
        targets: Any = None,
        *,
        forward: Forward | None = None,
        parameters: str | Iterable[str] | None = None,
        sample_weight: Tensor | None = None,
        reduction: str | None = None,
        dtype: torch.dtype = torch.float64,
        batch_size: int | None = None,
        derivatives: str = "auto",
    ) -> None:
        door.check_module(model)
        if derivatives not in ("auto", "autograd"):
            raise InvalidInputError(f"derivatives must be 'auto' or 'autograd', got {derivatives!r}")
        self.derivatives = derivatives
        self.dtype = door.checked_dtype(dtype)
        self.device = next(model.parameters()).device
        names = free_parameters(model, parameters)
        door.check_free(model, names)
        self._private = PrivateModel(model, forward, dtype)
        self.forward = forward
        own = dict(self.model.named_parameters())
        self.space = ParameterSpace({name: tuple(own[name].shape) for name in names})
        self.initial: Float[Tensor, " P"] = self.space.flatten({name: own[name].detach() for name in names})
        self._bound_loss = BoundLoss(loss, reduction, dtype)
        inputs, found = read_data(data, targets)
        self.inputs = cast_floats(inputs, dtype, self.device)
        self.targets = cast_floats(found, dtype, self.device) if found is not None else None
        self.n_samples = count_samples(self.inputs, "data")
        self._weights = door.checked_weights(sample_weight, self.n_samples, self.initial)
        if sample_weight is not None and not self._bound_loss.by_sample:
            raise InvalidInputError("sample_weight needs one loss per sample: write the callable with reduction='none'")
        self.batch_size = door.checked_batch_size(batch_size)
        self._kernels: frozenset[str] = frozenset()
        with preserved_random_state():
            self._open_door()

    def _open_door(self) -> None:
        """Look at the forward pass and the loss on real data, refuse what is unsound, and probe what is possible."""
        few = take(self.inputs, slice(0, 2))
        self._kernels = self._find_kernels(few)
        with self._private.as_found(), self.execution_context():
            door.check_forward(self.model, self._call_at_the_door, self.inputs, self.n_samples)
            self._private.learn_habits(few)
        small = self.chunk_of(slice(0, min(self.n_samples, 4)))
        with self.execution_context():
            with torch.no_grad():
                self._learn_outputs(few)
            smooth = record_kinks(self.chunk_value, self.initial, [small]).smooth
            self.path = probe.probe_path(lambda theta: self.chunk_value(theta, small), self.initial, smooth=smooth)
            self.path = probe.probe_samples(self.chunk_outputs, self.initial, small, self.path)
            self._bytes_per_sample = self._measure_bytes()

    def _call_at_the_door(self, inputs: Any) -> Any:
        return door.attempt(self.model, self._private.call_bare, inputs)

    def _find_kernels(self, few: Any) -> frozenset[str]:
        """The fused kernels of a forward pass, those inside of others too."""
        known: frozenset[str] = frozenset()
        while True:
            with self._private.as_found(), self._elementary(known), paths.quiet():
                found = known | fused_kernels(probe.operations_of(lambda: self._call_at_the_door(few)))
            if found == known:
                return known
            known = found

    def _learn_outputs(self, few: Any) -> None:
        """Shapes of the outputs, and what the loss is over all of them."""
        leaves, spec = pytree.tree_flatten(self.call({}, few))
        self._output_tree = pytree.tree_unflatten(list(range(len(leaves))), spec)  # pickles, which `spec` does not
        self._leaf_shapes = [tuple(leaf.shape[1:]) for leaf in leaves]
        self._leaf_sizes = [leaf[0].numel() for leaf in leaves]
        self.n_outputs = sum(self._leaf_sizes)
        require_memory(
            4 * self.n_samples * self.n_outputs * self._item_bytes,
            f"the outputs of {self.n_samples} samples, {self.n_outputs} each",
            "Use fewer samples.",
        )
        step = self.batch_size or AT_THE_DOOR
        every = (door.attempt(self.model, lambda inputs: self.call({}, inputs), c.inputs) for c in self.chunks(step))
        flat = torch.cat([self._flat(outputs) for outputs in every])
        outputs = self._structured(flat)
        self._bound_loss.bind(outputs, self.targets, self.n_samples)
        self._bound_loss.check_sum(*self._two_ways(flat, outputs))

    def _two_ways(self, flat: Tensor, outputs: Any) -> tuple[Tensor, Tensor]:
        """The loss over all samples as the user computes it, and as a sum over unequal parts, without weights.

        Of two parts alone the means are at times so near to each other that no difference is seen.
        """
        whole = self._bound_loss.whole(outputs, self._against(self.inputs, self.targets))
        count = self.n_samples
        cuts = sorted({0, max(1, count // 5), max(1, count // 2), count})
        parts = [slice(first, last) for first, last in pairwise(cuts)]
        chunks = [self.chunk_of(part)._replace(weights=self.initial.new_ones(part.stop - part.start)) for part in parts]
        summed = [self.chunk_loss(flat[part], chunk) for part, chunk in zip(parts, chunks, strict=True)]
        return whole, torch.stack(summed).sum()

    @property
    def model(self) -> nn.Module:
        """The private copy of the model, in the objective's own type."""
        return self._private.model

    # -- what is known of the loss -------------------------------------------------------------------------------------

    @property
    def loss(self) -> nn.Module | Callable[[Any, Any], Tensor]:
        """The private copy of the loss."""
        return self._bound_loss.loss

    @property
    def reduction(self) -> str:
        """What the loss does over the samples: ``"mean"``, ``"sum"``, ``"batchmean"`` or ``"none"``."""
        return self._bound_loss.reduction

    @property
    def factors(self) -> Float[Tensor, " N"] | None:
        """What multiplies the sum of each sample's unreduced loss: its weight over the denominator of the mean.

        None for a callable of one's own, which does the sum itself.
        """
        return self._bound_loss.factors(self._weights)

    @property
    def elementwise_loss(self) -> nn.Module | None:
        """The loss with one number per element; None for a callable of one's own."""
        return self._bound_loss.elementwise

    def structured_outputs(self, outputs: Float[Tensor, "N C"]) -> Any:
        """Rows of outputs in the shape the model gives them, as the loss takes them."""
        return self._structured(outputs)

    @property
    def loss_facts(self) -> LossFacts:
        """What is known of the loss over these targets."""
        return self._bound_loss.facts

    @cached_property
    def trace_report(self) -> TraceReport:
        """The structure of the network, traced once, or the reason why there is none."""
        return explain_trace(self.model, self.inputs, self.space, self.forward)

    def output_infimum(self) -> float | None:
        """The value that no outputs whatever could fall below; None where the loss declares no infimum.

        It is the sum of the samples' own infima: positive under label smoothing, zero for squared errors and hard
        labels.
        """
        if not isinstance(self.targets, Tensor):
            return None
        outputs = self._structured(self.initial.new_zeros(self.n_samples, self.n_outputs))
        infima = self._bound_loss.sample_infima(outputs, self.targets, self._weights)
        return None if infima is None else float(infima.sum())

    # -- what the base class asks --------------------------------------------------------------------------------------

    def call(self, named: Mapping[str, Tensor], inputs: Any) -> Any:
        """Raw outputs of the private copy with some parameters replaced."""
        return self._private(named, inputs)

    def chunks(self, samples: int) -> Iterator[RiskChunk]:
        """The samples in order, at most `samples` (and at most ``batch_size``) at once."""
        step = max(1, min(samples, self.batch_size or samples))
        for start in range(0, self.n_samples, step):
            yield self.chunk_of(slice(start, min(start + step, self.n_samples)))

    def chunk_of(self, some: slice) -> RiskChunk:
        """These samples as a chunk."""
        indices = torch.arange(some.start, some.stop, device=self.device)
        targets = take(self.targets, some) if self.targets is not None else None
        return RiskChunk(take(self.inputs, some), targets, self._weights[some], indices)

    def chunk_outputs(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, "n C"]:
        """Forward pass at theta."""
        return self._flat(self.call(self.space.unflatten(theta), chunk.inputs))

    def chunk_loss(self, outputs: Float[Tensor, "n C"], chunk: Any) -> Float[Tensor, ""]:
        """The user's loss, normalised over all data."""
        against = self._against(chunk.inputs, chunk.targets)
        return self._bound_loss.of_chunk(self._structured(outputs), against, chunk.weights)

    def execution_context(self) -> AbstractContextManager[None]:
        """Elementary operations in place of fused kernels that cannot be differentiated twice."""
        return self._elementary(self._kernels - HIGHER_ORDER)

    def higher_order_context(self) -> AbstractContextManager[None]:
        """The same for kernels that can be differentiated twice and no more."""
        return self._elementary(self._kernels)

    @property
    def cost(self) -> Cost:
        """Measured once on a few samples."""
        fixed = 8 * self.initial.numel() * self.initial.element_size()
        return Cost(self.n_samples, self._bytes_per_sample, fixed)

    def content(self) -> Iterable[object]:
        """Code and settings of the model, frozen parameters, buffers, loss and data."""
        yield from content_of_module(self.model, skip=set(self.space.names))
        yield from content_of(self.forward)
        yield self.reduction
        yield from content_of(self.loss)
        leaves, spec = pytree.tree_flatten((self.inputs, self.targets, self._weights))
        yield str(spec)
        yield from leaves

    # -- other data ----------------------------------------------------------------------------------------------------

    def subset(self, indices: Tensor | Sequence[int]) -> EmpiricalRisk:
        """The same risk over some of the samples; a mean is taken over these.

        Args:
            indices: sample numbers in any order, also repeated; or a mask ``(N,)`` of booleans.

        Raises:
            InvalidInputError: for an empty choice, or numbers outside 0..N-1.
        """
        index = self._some_samples(indices)
        targets = take(self.targets, index) if self.targets is not None else None
        found = self._again(take(self.inputs, index), targets, self._weights[index])
        if "trace_report" in vars(self):
            found.trace_report = self.trace_report
        return found

    def on(self, data: Any, targets: Any = None) -> EmpiricalRisk:
        """The same model and loss on other data, every sample with weight one."""
        return self._again(data, targets, None)

    def with_model(self, model: nn.Module, inputs: Any = None) -> EmpiricalRisk:
        """The same loss, targets and weights with another network, whose outputs must have the same shape.

        Args:
            model: called with the inputs.
            inputs: what it sees, one row a sample; None for those of this risk.
        """
        return self._again(self.inputs if inputs is None else inputs, self.targets, self._weights, model)

    def _again(self, data: Any, targets: Any, weights: Tensor | None, model: nn.Module | None = None) -> EmpiricalRisk:
        weighted = weights is not None and self._bound_loss.by_sample
        return EmpiricalRisk(
            self._private.trainable_copy(self.space.names) if model is None else model,
            self.loss,
            data,
            targets,
            forward=self.forward if model is None else None,
            sample_weight=weights if weighted else None,
            reduction=None if self._bound_loss.of_torch else self.reduction,
            dtype=self.dtype,
            batch_size=self.batch_size,
            derivatives=self.derivatives,
        )

    def network_at(self, theta: Float[Tensor, " P"]) -> nn.Module:
        """A copy of the model, in this objective's own dtype, with a parameter vector in it."""
        twin = self._private.trainable_copy(self.space.names)
        self.load_into_model(theta, twin)
        return twin

    def load_into_model(self, theta: Float[Tensor, " P"], model: nn.Module) -> float:
        """Write a parameter vector into a live model, in its own dtype.

        Returns:
            The maximum norm of this objective's gradient at what the model now holds, after the cast.

        Raises:
            InvalidInputError: if the model lacks a parameter or its shape differs.
        """
        values = self.space.unflatten(self._single(theta))
        live = dict(model.named_parameters())
        for name, value in values.items():
            if name not in live or live[name].shape != value.shape:
                found = tuple(live[name].shape) if name in live else "nothing"
                raise InvalidInputError(
                    f"the model holds {found} where {name!r} of shape {tuple(value.shape)} should go"
                )
        with torch.no_grad():
            for name, value in values.items():
                live[name].copy_(value)
            held = self.space.flatten({name: live[name].detach().to(self.initial) for name in values})
        return float(self.gradient(held).abs().max())

    def __repr__(self) -> str:
        sizes = f"N={self.n_samples}, C={self.n_outputs}, P={self.space.size}"
        return f"EmpiricalRisk({type(self.model).__name__}, {self.loss_facts.name}, {sizes})"

    def __getstate__(self) -> dict[str, Any]:
        require_findable(**{"forward=": self.forward, "the loss": self.loss, "a part of the model": self.model})
        found_again = ("_form", "trace_report")
        return {name: value for name, value in vars(self).items() if name not in found_again}

    # -- how it is done ------------------------------------------------------------------------------------------------

    def gauss_newton(self, theta: Float[Tensor, "*batch P"]) -> Float[Tensor, "*batch P P"]:
        """``J^T B J`` with B the Hessian of the loss in the outputs.

        Raises:
            MemoryLimitError: if the matrices would not fit.
        """
        rows, batch = self._rows(theta)
        closed = self._closed_form(len(rows) + 4)
        if closed is None:
            return super().gauss_newton(theta)
        with self.execution_context():
            return closed.gauss_newton(rows).reshape(*batch, self.space.size, self.space.size)

    def _derivatives(self, rows: Tensor, order: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        # found before the context is entered: a network is traced as it is, not as kernels are opened here
        closed = self._closed_form(len(rows) + 4) if order == 2 else self._closed_form(0) if self._small else None
        if closed is None or (order < 2 and not closed.smooth):
            return super()._derivatives(rows, order)
        with self.execution_context():
            if order == 0:
                return closed.values(rows), None, None
            if order == 1:
                return *closed.gradients(rows), None
            return closed.hessians(rows)

    def _jacobians(self, rows: Tensor) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        closed = self._closed_form(0)
        if closed is None:
            yield from super()._jacobians(rows)
            return
        with self.execution_context():
            yield from closed.jacobians(rows)

    @cached_property
    def _small(self) -> bool:
        """Whether values and gradients may gain by a closed form: those of large networks are matrix products."""
        return self.space.size <= SMALL and all(len(block.shape) <= 2 for block in self.space)

    def _closed_form(self, matrices: int) -> ClosedForm | None:
        """The closed form, where there is one and so many P x P matrices fit."""
        if self.derivatives == "autograd" or matrices * self.space.size**2 * self._item_bytes > current_limit():
            return None
        if "_form" not in vars(self):
            from thalweg.objectives.closed_form import closed_form  # it is made of a risk

            self._form = closed_form(self)
        if matrices and self._form is not None and not self._form.is_lean(matrices):
            return None
        return self._form

    def _elementary(self, kernels: frozenset[str]) -> AbstractContextManager[None]:
        if self.device.type == "cuda":
            kernels = kernels | {"attention"}
        return elementary_operations(kernels) if kernels else nullcontext()

    def _chunk_at(self, indices: Tensor) -> RiskChunk:
        targets = take(self.targets, indices) if self.targets is not None else None
        return RiskChunk(take(self.inputs, indices), targets, self._weights[indices], indices)

    @staticmethod
    def _against(inputs: Any, targets: Any) -> Any:
        """What the loss compares the outputs with: the targets, or the batch itself where there are none."""
        return targets if targets is not None else inputs

    def _flat(self, outputs: Any) -> Tensor:
        leaves = pytree.tree_leaves(outputs)
        parts = [leaf.reshape(len(leaf), -1) for leaf in leaves]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _structured(self, outputs: Tensor) -> Any:
        parts = outputs.split(self._leaf_sizes, dim=1)
        leaves = [p.reshape(len(outputs), *shape) for p, shape in zip(parts, self._leaf_shapes, strict=True)]
        return pytree.tree_map(lambda position: leaves[position], self._output_tree)

    def _measure_bytes(self) -> int:
        """Bytes a sample takes in one pass forward and back, or in half of what a second pass back makes of it."""
        point, few, many = self.initial.unsqueeze(0), min(self.n_samples, 2), min(self.n_samples, 6)
        measured = [probe.bytes_by_sample(lambda n: self._few_gradients(point, n), few, many)]
        if self.path.keep:  # plain reverse mode, as it must be: torch's transforms do not bear being watched
            measured.append(probe.bytes_by_sample(lambda n: self._few_products(point, n), few, many) // 2)
        return max(*measured, 8 * self.n_outputs * self._item_bytes, 1)

    def _few_gradients(self, point: Tensor, samples: int) -> object:
        return paths.gradients(self._bound(self.chunk_of(slice(0, samples))), point, self.path)

    def _few_products(self, point: Tensor, samples: int) -> object:
        return paths.kept_hessian_product(self._bound(self.chunk_of(slice(0, samples))), point[0], self.path)(point[0])
