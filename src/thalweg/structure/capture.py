"""From a module to the program of its forward pass.

A private copy of the module in float64 is run once under torch's tracer with parameters, buffers and inputs as symbolic
sources. In-place operations are turned into ordinary ones on the way. The live module is never called, its buffers,
mode and gradients stay as they are, and the random state is restored.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from thalweg.structure.program import Operation, Program, Ref, Value

__all__ = ["NotTraceableError", "Source", "capture"]

Forward = Callable[[nn.Module, Any], Any]


class NotTraceableError(Exception):
    """Why a forward pass cannot be written down; caught by `explain_trace`, which hands the sentence on."""


@dataclass(frozen=True)
class Source:
    """A module as a function of named parameters and inputs.

    Attributes:
        module: private copy in float64; never changed.
        forward: how it is called: ``forward(module, inputs)``; None calls ``module(inputs)``, ``module(*inputs)`` for
            a tuple or list, ``module(**inputs)`` for a dict.
    """

    module: nn.Module
    forward: Forward | None = None

    @staticmethod
    def of(module: nn.Module, forward: Forward | None = None) -> Source:
        """Copy the module."""
        try:
            private = copy.deepcopy(module)
        except Exception as error:  # any error: deepcopy runs the user's code
            raise NotTraceableError(f"the module cannot be copied ({_first_line(error)})") from error
        return Source(_Caller(private.double(), forward), forward)

    def parameters(self) -> dict[str, Tensor]:
        """The copy's own parameters by name, detached."""
        return {name.removeprefix("module."): p.detach() for name, p in self.module.named_parameters()}

    def buffers(self) -> dict[str, Tensor]:
        """Clones of its buffers by name."""
        return {name.removeprefix("module."): b.detach().clone() for name, b in self.module.named_buffers()}

    def call(self, parameters: Mapping[str, Tensor], inputs: Any, buffers: Mapping[str, Tensor] | None = None) -> Any:
        """The module's output with other parameters; buffers it writes to are clones."""
        state = {**(self.buffers() if buffers is None else buffers), **parameters}
        return functional_call(self.module, {f"module.{name}": t for name, t in state.items()}, (inputs,))


class _Caller(nn.Module):
    """A module and the way to call it, as one module, so that its parameters can be replaced during the call."""

    def __init__(self, module: nn.Module, forward: Forward | None) -> None:
        super().__init__()
        self.module = module
        self.training = module.training
        self._forward = forward

    def forward(self, inputs: Any) -> Any:
        """Call the module."""
        if self._forward is not None:
            return self._forward(self.module, inputs)
        if isinstance(inputs, tuple | list):
            return self.module(*inputs)
        return self.module(**inputs) if isinstance(inputs, Mapping) else self.module(inputs)


@contextmanager
def plain_execution() -> Iterator[None]:
    """Attention by its mathematical form, no fused shortcuts, and the tracer's own warnings silenced."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.(fx|_functorch|nested|_dynamo).*")
            warnings.filterwarnings("ignore", message=r".*`?torch\.jit\.script`? is (deprecated|not supported).*")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _NoReading(TorchFunctionMode):
    """Refuses what would turn a traced tensor into numbers behind the tracer's back."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in {"numpy", "__array__", "tolist"}:
            raise NotTraceableError(
                "its forward reads numbers out of tensors (numpy or tolist), which a graph cannot hold"
            )
        return func(*args, **(kwargs or {}))


def capture(source: Source, inputs: Any) -> Program:
    """Write down the forward pass for inputs of this shape.

    Raises:
        NotTraceableError: with the reason.
    """
    recurrent = [name for name, m in source.module.named_modules() if isinstance(m, nn.RNNBase | nn.RNNCellBase)]
    if recurrent:
        name = recurrent[0].removeprefix("module.")
        raise NotTraceableError(f"it is recurrent ({name!r}): its layers are as many as the sequence is long")
    parameters, buffers = source.parameters(), source.buffers()
    leaves, spec = pytree.tree_flatten(inputs)

    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def traced(p: list[Tensor], b: list[Tensor], x: list[Tensor]) -> list[Any]:
        full = list(leaves)
        for place, tensor in zip(places, x, strict=True):
            full[place] = tensor
        named = dict(zip(parameters, p, strict=True))
        result = source.call(named, pytree.tree_unflatten(full, spec), dict(zip(buffers, b, strict=True)))
        return pytree.tree_leaves(result)

    module = _trace(traced, (list(parameters.values()), list(buffers.values()), tensors))
    names = [("parameter", n) for n in parameters], [("buffer", n) for n in buffers], [("input", i) for i in places]
    return _read(module, [pair for group in names for pair in group], buffers)


def _trace(function: Callable[..., Any], sources: tuple[list[Tensor], ...]) -> fx.GraphModule:
    """Torch's graph of a function, without in-place operations if possible."""
    reason: Exception | None = None
    for transform in (functionalize, lambda f: f):  # old-style autograd functions do not stand the first
        fresh = [[tensor.detach().clone() for tensor in group] for group in sources]
        try:
            with plain_execution(), torch.no_grad(), _NoReading():
                graph: fx.GraphModule = make_fx(transform(function))(*fresh)
        except NotTraceableError:
            raise
        except Exception as error:  # any error: the tracer runs the user's code
            reason = reason or error
            if _reads_numbers(error):
                break
        else:
            return graph
    assert reason is not None
    raise NotTraceableError(_reason(reason)) from reason


def _reads_numbers(error: Exception) -> bool:
    text = str(error)
    return "_local_scalar_dense" in text or "data-dependent" in text or "aten.equal" in text


def _reason(error: Exception) -> str:
    if _reads_numbers(error):
        return "its forward reads numbers out of tensors (a data-dependent branch?), which a graph cannot hold"
    return f"its forward could not be traced: {type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# -- from torch's graph to our table -----------------------------------------------------------------------------------


def _read(module: fx.GraphModule, sources: list[tuple[str, Any]], buffers: Mapping[str, Tensor]) -> Program:
    number: dict[fx.Node, int] = {}
    values: list[Value] = []
    constants: list[Tensor] = []
    buffer_names: dict[int, str] = {}
    placeholders = iter(sources)
    outputs: tuple[int, ...] = ()
    for node in module.graph.nodes:
        if node.op == "output":
            outputs = _outputs(node, number)
            continue
        if node.op == "placeholder":
            kind, key = next(placeholders)
            if kind == "buffer":
                buffer_names[len(constants)] = key
                constants.append(buffers[key])
                value = Value("constant", len(constants) - 1, **_form(node))
            else:
                value = Value("parameter" if kind == "parameter" else "input", key, **_form(node))
        elif node.op == "get_attr":
            constants.append(getattr(module, str(node.target)).detach())
            value = Value("constant", len(constants) - 1, **_form(node, constants[-1]))
        else:
            value = _result(node, number)
        number[node] = len(values)
        values.append(value)
    _refuse(values, buffer_names)
    return Program(tuple(values), outputs, tuple(constants), buffer_names)


def _outputs(node: fx.Node, number: Mapping[fx.Node, int]) -> tuple[int, ...]:
    found = []
    for item in pytree.tree_leaves(node.args[0]):
        if not isinstance(item, fx.Node):
            raise NotTraceableError(f"it returns something that is not a tensor ({type(item).__name__})")
        found.append(number[item])
    if not found:
        raise NotTraceableError("it returns no tensor")
    return tuple(found)


def _form(node: fx.Node, tensor: Tensor | None = None) -> dict[str, Any]:
    example = tensor if tensor is not None else node.meta.get("val", node.meta.get("tensor_meta"))
    shape = getattr(example, "shape", None)
    dtype = getattr(example, "dtype", None)
    return {
        "shape": None if shape is None else tuple(int(n) for n in shape),
        "floating": dtype is None or dtype.is_floating_point,
    }


def _result(node: fx.Node, number: Mapping[fx.Node, int]) -> Value:
    name = "getitem" if node.target is operator.getitem else str(node.target)

    def convert(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return Ref(number[argument])
        return [convert(a) for a in argument] if isinstance(argument, list | tuple) else argument

    kwargs = tuple((key, convert(argument)) for key, argument in node.kwargs.items())
    return Value("result", 0, Operation(name), tuple(convert(a) for a in node.args), kwargs, **_form(node))


def _refuse(values: list[Value], buffers: Mapping[int, str]) -> None:
    """Refuse what is not a function of parameters and inputs."""
    for value in values:
        operation = value.operation
        if operation is None:
            continue
        if operation.random:
            raise NotTraceableError(
                f"its forward draws random numbers ({operation.base}); dropout is switched off by model.eval()"
            )
        if operation.base == "copy_" and value.args:
            target = values[value.args[0].index]
            name = buffers.get(int(target.key), "") if target.kind == "constant" else str(target.key)
            raise NotTraceableError(f"its forward writes to {name!r}; batch statistics are frozen by model.eval()")
        if operation.base.endswith("batch_norm") and len(value.args) > 5 and value.args[3] and value.args[5] is True:
            raise NotTraceableError("its forward uses and writes batch statistics; model.eval() freezes them")
        if operation.mutates:
            raise NotTraceableError(f"its forward modifies tensors in place in a way not followed ({operation.base})")
