"""From a module to the program of its forward pass.

A private copy of the module in float64 is run once under torch's tracer with parameters, buffers and inputs as symbolic
sources. In-place operations are turned into ordinary ones on the way. The live module is never called, its buffers,
mode and gradients stay as they are, and the random state is restored.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from thalweg.foundation import first_line
from thalweg.structure.program import Operation, Program, Ref, Value, resolve
from thalweg.structure.source import ForwardFailedError, NotTraceableError, Source

__all__ = ["capture", "plain_execution"]


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
    recurrent = [name for name, m in source.caller.module.named_modules() if isinstance(m, nn.RNNBase | nn.RNNCellBase)]
    if recurrent:
        name = repr(recurrent[0]) if recurrent[0] else type(source.caller.module).__name__
        raise NotTraceableError(f"it is recurrent ({name}): its layers are as many as the sequence is long")
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
            if _reads_numbers(error):
                raise NotTraceableError(
                    "its forward reads numbers out of tensors (a data-dependent branch?), which a graph cannot hold"
                ) from error
            reason = reason or error
        else:
            return graph
    assert reason is not None
    message = f"its forward could not be traced: {type(reason).__name__}: {first_line(reason)}"
    raise ForwardFailedError(message) from reason


def _reads_numbers(error: Exception) -> bool:
    text = str(error)
    return "_local_scalar_dense" in text or "data-dependent" in text or "aten.equal" in text


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
    operation = Operation(name).functional  # torch's own compositions write into their intermediate results
    return Value("result", 0, operation, tuple(convert(a) for a in node.args), kwargs, **_form(node))


def _refuse(values: list[Value], buffers: Mapping[int, str]) -> None:
    """Refuse what is not a function of parameters and inputs."""
    for value in values:
        operation = value.operation
        if operation is None:
            continue
        if operation.random and not _in_evaluation(value):
            raise NotTraceableError(
                f"its forward draws random numbers ({operation.base}); dropout is switched off by model.eval()"
            )
        if operation.base == "copy_" and value.args:
            target = values[value.args[0].index]
            if target.kind == "input":
                continue  # it writes into its input, of which a copy was given
            if target.kind == "result":
                raise NotTraceableError("its forward writes into parts of tensors in a way not followed (copy_)")
            name = buffers.get(int(target.key), "") if target.kind == "constant" else str(target.key)
            raise NotTraceableError(f"its forward writes to {name!r}; batch statistics are frozen by model.eval()")
        if operation.base.endswith("batch_norm") and len(value.args) > 5 and value.args[3] and value.args[5] is True:
            raise NotTraceableError("its forward uses and writes batch statistics; model.eval() freezes them")
        if operation.mutates and not _in_evaluation(value):
            raise NotTraceableError(f"its forward modifies tensors in place in a way not followed ({operation.base})")


def _in_evaluation(value: Value) -> bool:
    """Whether an operation that draws random numbers in training was told not to train."""
    assert value.operation is not None
    arguments = resolve(value.operation.name)._schema.arguments
    given = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    given |= dict(zip((argument.name for argument in arguments), value.args, strict=False)) | dict(value.kwargs)
    return given.get("training", given.get("train")) is False
