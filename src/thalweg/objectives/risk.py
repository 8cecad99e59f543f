"""The objective of a user's own network, loss and data."""

from __future__ import annotations

import copy
import fnmatch
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from thalweg.foundation import Cost, InvalidInputError, ParameterSpace
from thalweg.objectives import door, losses, probe
from thalweg.objectives.capabilities import Capability
from thalweg.objectives.data import cast_floats, count_samples, read_data, take
from thalweg.objectives.losses import LossFacts
from thalweg.objectives.outputs import OutputObjective

__all__ = ["EmpiricalRisk"]

Forward = Callable[[Any, Any], Any]


class RiskChunk(NamedTuple):
    """Some samples: a tree of tensors with one leading row per sample."""

    inputs: Any
    targets: Any
    weights: Tensor
    indices: Tensor


class EmpiricalRisk(OutputObjective):
    """The loss of a torch module on data, as a function of its parameters.

    The value equals what the user's own code ``loss(model(inputs), targets)`` computes. The model is copied; the live
    one, its buffers, mode, gradients and the random state are never touched.

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
    ) -> None:
        door.check_module(model)
        self.dtype = _checked_dtype(dtype)
        self.device = next(model.parameters()).device
        self._names = _free_parameters(model, parameters)
        self.model = _private_copy(model, dtype)
        self._called = _Called(self.model, forward)
        self._forward = forward
        own = dict(self.model.named_parameters())
        self.space = ParameterSpace({name: tuple(own[name].shape) for name in self._names})
        self.initial: Float[Tensor, " P"] = self.space.flatten({n: own[n].detach() for n in self._names})
        self.loss = losses.module_for(loss)
        self.reduction = _reduction_of(self.loss, reduction)
        inputs, found = read_data(data, targets)
        self.inputs = cast_floats(inputs, dtype, self.device)
        self.targets = cast_floats(found, dtype, self.device) if found is not None else None
        self.n_samples = count_samples(self.inputs, "data")
        self._weights = _checked_weights(sample_weight, self.n_samples, self.initial)
        if self.reduction in ("mean", "sum") and not hasattr(self.loss, "reduction") and sample_weight is not None:
            raise InvalidInputError("sample_weight needs one loss per sample: write the callable with reduction='none'")
        self._batch_size = _checked_batch_size(batch_size)
        self._attention = False
        self._open_door()

    def _open_door(self) -> None:
        """Look at the forward pass and the loss on real data, refuse what is unsound, and probe what is possible."""
        with torch.random.fork_rng(devices=[]):
            door.check_forward(self.model, lambda batch: self.call({}, batch), self.inputs, self.n_samples)
            operations = probe.operations_of(lambda: self.call({}, take(self.inputs, slice(0, 2))))
            self._attention = probe.uses_attention(operations)
            with self.execution_context(), torch.no_grad():
                self._learn_outputs()
            small = self._chunk(slice(0, min(self.n_samples, 4)))
            with self.execution_context():
                self.path = probe.probe_path(lambda theta: self.chunk_value(theta, small), self.initial)
                self._bytes_per_sample = self._measure_bytes()

    def _learn_outputs(self) -> None:
        """Shapes of the outputs, facts about the loss on these targets, and the denominator of its mean."""
        few = self.call({}, take(self.inputs, slice(0, min(self.n_samples, 2))))
        leaves, self._output_spec = pytree.tree_flatten(few)
        self._leaf_shapes = [tuple(leaf.shape[1:]) for leaf in leaves]
        self._leaf_sizes = [leaf[0].numel() for leaf in leaves]
        self.n_outputs = sum(self._leaf_sizes)
        self.loss_facts: LossFacts = losses.facts_of(self.loss)
        self._elementwise: nn.Module | None = None
        self._denominator = 1.0
        step = self._batch_size or 512
        flat = torch.cat(
            [
                self.chunk_outputs(self.initial, self._chunk(slice(start, min(start + step, self.n_samples))))
                for start in range(0, self.n_samples, step)
            ]
        )
        outputs = self._structured(flat)
        everything = self._chunk(slice(0, self.n_samples))
        if isinstance(self.loss, nn.Module) and hasattr(self.loss, "reduction"):
            if not isinstance(outputs, Tensor) or not isinstance(self.targets, Tensor):
                raise InvalidInputError(
                    f"{type(self.loss).__name__} compares one tensor of outputs with one of targets; pass forward= to "
                    f"select "
                    "the output, targets= to name the targets, or a callable loss for several"
                )
            self._prepare_torch_loss(outputs, self.targets)
        theirs = self._users_own(outputs, everything)
        ours = self.chunk_loss(flat, everything)
        if not bool(torch.isfinite(theirs).all()):
            raise InvalidInputError(
                f"the loss of the model as given is {float(theirs)}; check outputs, targets and weights"
            )
        if abs(float(theirs - ours)) > (1e-9 if self.dtype == torch.float64 else 1e-4) * max(1.0, abs(float(theirs))):
            raise InvalidInputError(
                f"the loss over all samples is {float(theirs):.12g}, but its samples sum to {float(ours):.12g}: it is "
                f"not a "
                f"{self.reduction} over samples. Declare reduction='mean', 'sum' or 'none' as it is"
            )

    def _prepare_torch_loss(self, outputs: Tensor, targets: Tensor) -> None:
        losses.check_targets(self.loss, self.loss_facts, outputs, targets)
        self._elementwise = losses.unreduced(self.loss, self.dtype)
        elements = self._elementwise(outputs, targets)
        if elements.dim() == 0 or len(elements) != self.n_samples:
            raise InvalidInputError(f"{type(self.loss).__name__} gives no loss per sample; write it as a callable")
        self._denominator = losses.sum_denominator(self.loss, elements, outputs, targets)
        self.loss_facts = losses.with_known_targets(self.loss_facts, self.loss, outputs, targets)

    def _users_own(self, outputs: Any, chunk: RiskChunk) -> Tensor:
        """The loss exactly as the user's code would compute it (weighted by our own rule where there are weights)."""
        if bool((self._weights != 1).any()):
            return self.chunk_loss(self._flat(outputs), chunk)
        twin = copy.deepcopy(self.loss).to(self.dtype) if isinstance(self.loss, nn.Module) else self.loss
        value = twin(outputs, chunk.targets if chunk.targets is not None else chunk.inputs)
        if self.reduction == "none":
            value = value.sum()
        if not isinstance(value, Tensor) or value.dim() != 0:
            raise InvalidInputError(
                f"the loss returned "
                f"{'a tensor of shape ' + str(tuple(value.shape)) if isinstance(value, Tensor) else value!r}"
                ", not one number; declare reduction='none' for a loss per sample"
            )
        return value

    # -- what the base class asks --------------------------------------------------------------------------------------

    def call(self, named: Mapping[str, Tensor], inputs: Any) -> Any:
        """Raw outputs of the private copy with some parameters replaced."""
        replaced = {f"model.{name}": value for name, value in named.items()}
        outputs: Any = torch.func.functional_call(self._called, replaced, (inputs,))
        return outputs

    def chunks(self, samples: int) -> Iterator[RiskChunk]:
        """The samples in order, at most `samples` (and at most ``batch_size``) at once."""
        step = max(1, min(samples, self._batch_size or samples))
        for start in range(0, self.n_samples, step):
            yield self._chunk(slice(start, min(start + step, self.n_samples)))

    def chunk_outputs(self, theta: Float[Tensor, " P"], chunk: Any) -> Float[Tensor, "n C"]:
        """Forward pass at theta."""
        return self._flat(self.call(self.space.unflatten(theta), chunk.inputs))

    def chunk_loss(self, outputs: Float[Tensor, "n C"], chunk: Any) -> Float[Tensor, ""]:
        """The user's loss, normalised over all data."""
        structured = self._structured(outputs)
        if self._elementwise is not None:
            elements = self._elementwise(structured, chunk.targets)
            by_sample = elements.reshape(len(outputs), -1).sum(1)
            return (chunk.weights * by_sample).sum() / self._denominator
        against = chunk.targets if chunk.targets is not None else chunk.inputs
        found: Tensor = self.loss(structured, against)
        if self.reduction == "none":
            return (chunk.weights * found.reshape(len(outputs), -1).sum(1)).sum()
        return found * (len(outputs) / self.n_samples) if self.reduction == "mean" else found

    def execution_context(self) -> AbstractContextManager[None]:
        """Mathematical attention kernels, the only ones that can be differentiated twice."""
        return _mathematical_attention() if self._attention or self.device.type == "cuda" else nullcontext()

    @property
    def cost(self) -> Cost:
        """Measured once on a few samples."""
        fixed = 8 * self.initial.numel() * self.initial.element_size()
        return Cost(self.n_samples, self._bytes_per_sample, fixed)

    def content(self) -> Iterable[object]:
        """Code and settings of the model, frozen parameters, buffers, loss and data."""
        yield repr(self.model)
        yield from sorted({_source(type(module)) for module in self.model.modules()})
        for name, parameter in self.model.named_parameters():
            if name not in self.space:
                yield name
                yield parameter
        for name, buffer in self.model.named_buffers():
            yield name
            yield buffer
        yield _source(self._forward) if self._forward is not None else "forward"
        yield from (
            repr(self.loss),
            self.reduction,
            _source(self.loss if not isinstance(self.loss, nn.Module) else type(self.loss)),
        )
        if isinstance(self.loss, nn.Module):
            yield from self.loss.state_dict().values()
            yield str({k: v for k, v in vars(self.loss).items() if isinstance(v, bool | int | float | str)})
        yield from pytree.tree_leaves((self.inputs, self.targets, self._weights))

    # -- other data ----------------------------------------------------------------------------------------------------

    def subset(self, indices: Tensor | Sequence[int]) -> EmpiricalRisk:
        """The same risk over some of the samples; a mean is taken over these."""
        index = torch.as_tensor(indices, device=self.device)
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        if index.dim() != 1 or len(index) == 0 or int(index.min()) < 0 or int(index.max()) >= self.n_samples:
            raise InvalidInputError(f"indices must be a non-empty vector of sample numbers in 0..{self.n_samples - 1}")
        return self._again(take(self.inputs, index), take(self.targets, index), self._weights[index])

    def on(self, data: Any, targets: Any = None) -> EmpiricalRisk:
        """The same model and loss on other data."""
        return self._again(data, targets, None)

    def _again(self, data: Any, targets: Any, weights: Tensor | None) -> EmpiricalRisk:
        return EmpiricalRisk(
            self._trainable_copy(),
            self.loss,
            data,
            targets,
            forward=self._forward,
            parameters=None,
            sample_weight=weights,
            reduction=None if self._elementwise is not None else self.reduction,
            dtype=self.dtype,
            batch_size=self._batch_size,
        )

    def _trainable_copy(self) -> nn.Module:
        twin = copy.deepcopy(self.model)
        for name, parameter in twin.named_parameters():
            parameter.requires_grad_(name in self.space)
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

    # -- how it is done ------------------------------------------------------------------------------------------------

    def _chunk(self, some: slice) -> RiskChunk:
        indices = torch.arange(some.start, some.stop, device=self.device)
        targets = take(self.targets, some) if self.targets is not None else None
        return RiskChunk(take(self.inputs, some), targets, self._weights[some], indices)

    def _flat(self, outputs: Any) -> Tensor:
        leaves = pytree.tree_leaves(outputs)
        parts = [leaf.reshape(len(leaf), -1) for leaf in leaves]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _structured(self, outputs: Tensor) -> Any:
        parts = outputs.split(self._leaf_sizes, dim=1)
        leaves = [p.reshape(len(outputs), *shape) for p, shape in zip(parts, self._leaf_shapes, strict=True)]
        return pytree.tree_unflatten(leaves, self._output_spec)

    def _measure_bytes(self) -> int:
        """Bytes a sample adds to what one pass keeps, and half as much again for what passes through."""
        few, many = min(self.n_samples, 2), min(self.n_samples, 6)

        def saved(n: int) -> int:
            return probe.bytes_saved(lambda theta: self.chunk_value(theta, self._chunk(slice(0, n))), self.initial)

        per_sample = saved(few) / few if many == few else (saved(many) - saved(few)) / (many - few)
        return int(1.5 * max(per_sample, 8 * self.n_outputs * self.initial.element_size()))


class _Called(nn.Module):
    """The model together with the user's way of calling it, so that both run on replaced parameters."""

    def __init__(self, model: nn.Module, forward: Forward | None) -> None:
        super().__init__()
        self.model = model
        self.user_forward = forward
        self.training = model.training

    def forward(self, inputs: Any) -> Any:
        if self.user_forward is not None:
            return self.user_forward(self.model, inputs)
        if isinstance(inputs, Mapping):
            return self.model(**inputs)
        if isinstance(inputs, tuple | list):
            return self.model(*inputs)
        return self.model(inputs)


@contextmanager
def _mathematical_attention() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if torch.backends.cudnn.is_available():
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def _private_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    twin = copy.deepcopy(model).to(dtype)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return twin


def _free_parameters(model: nn.Module, patterns: str | Iterable[str] | None) -> list[str]:
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if patterns is None:
        return trainable
    globs = [patterns] if isinstance(patterns, str) else list(patterns)
    everything = [name for name, _ in model.named_parameters()]
    chosen = [name for name in everything if any(fnmatch.fnmatch(name, glob) for glob in globs)]
    if not chosen:
        raise InvalidInputError(f"parameters={globs} matches none of {', '.join(everything)}")
    return chosen


def _reduction_of(loss: Any, declared: str | None) -> str:
    own = getattr(loss, "reduction", None) if isinstance(loss, nn.Module) else None
    if own is not None:
        if declared is not None and declared != own:
            raise InvalidInputError(
                f"reduction={declared!r} contradicts the loss, which has reduction={own!r}; leave it out"
            )
        if own == "none":
            raise InvalidInputError("the loss has reduction='none' and gives no single number; use 'mean' or 'sum'")
        return str(own)
    if not callable(loss):
        raise InvalidInputError(
            f"the loss must be a torch loss or a callable (outputs, targets), got {type(loss).__name__}"
        )
    if declared not in ("mean", "sum", "none"):
        raise InvalidInputError(
            "a loss that is no torch loss must declare what it does over the samples: reduction='mean', 'sum', or "
            "'none' for "
            f"one number per sample; got {declared!r}"
        )
    return declared


def _checked_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype not in (torch.float64, torch.float32):
        raise InvalidInputError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
    return dtype


def _checked_batch_size(size: int | None) -> int | None:
    if size is not None and size < 1:
        raise InvalidInputError(f"batch_size must be positive, got {size}")
    return size


def _checked_weights(weights: Tensor | None, samples: int, like: Tensor) -> Tensor:
    if weights is None:
        return torch.ones(samples, dtype=like.dtype, device=like.device)
    weights = torch.as_tensor(weights).detach().to(like)
    if weights.shape != (samples,):
        raise InvalidInputError(f"sample_weight has shape {tuple(weights.shape)}, expected ({samples},)")
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise InvalidInputError("sample_weight must be finite, not negative and not all zero")
    return weights


def _source(thing: Any) -> str:
    """The code of a class or function, or its name where the code cannot be had."""
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    if name.startswith("torch."):
        return f"{name} {torch.__version__.split('+')[0]}"
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return name
