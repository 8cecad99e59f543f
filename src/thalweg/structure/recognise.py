"""From a program to the steps of a description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from thalweg.foundation import ParameterSpace
from thalweg.structure.activation_match import match_activation
from thalweg.structure.activations import ActivationFacts
from thalweg.structure.elementwise import Region, ScalarFunction, find_regions
from thalweg.structure.linear import LinearUse, find_linear
from thalweg.structure.program import Program, Value
from thalweg.structure.steps import Kind, Step
from thalweg.structure.weights import WeightReader, Weights

__all__ = ["recognise"]

_COPIES = frozenset(["clone", "alias", "detach", "contiguous", "lift_fresh", "lift_fresh_copy"])
_NORMS = frozenset(
    {
        "native_layer_norm",
        "native_group_norm",
        "native_batch_norm",
        "cudnn_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_no_update",
        "_fused_rms_norm",
        "rms_norm",
    }
)
_KINDS: dict[str, Kind] = {
    "add": "add", "sub": "add", "mul": "multiply", "cat": "concatenate", "stack": "concatenate", "bmm": "matmul",
    "mm": "matmul", "baddbmm": "matmul", "embedding": "embedding", "convolution": "convolution",
    "_softmax": "softmax", "_safe_softmax": "softmax", "_log_softmax": "softmax",
    "constant_pad_nd": "rearrange", "slice_scatter": "concatenate", "select_scatter": "concatenate",
    "avg_pool2d": "pool", "avg_pool1d": "pool", "avg_pool3d": "pool", "max_pool2d_with_indices": "pool",
    "max_pool3d_with_indices": "pool", "_adaptive_avg_pool2d": "pool", "_adaptive_avg_pool3d": "pool",
    "adaptive_max_pool2d": "pool", "mean": "pool", "sum": "pool", "amax": "pool",
}  # fmt: skip


def recognise(program: Program, space: ParameterSpace) -> tuple[tuple[Step, ...], dict[int, int]]:
    """Read a program.

    Args:
        program: the forward pass.
        space: all parameters of the module, in the order of ``named_parameters``.

    Returns:
        The steps, and for every value that has one the number of its step.
    """
    return _Recogniser(program, space).run()


class _Recogniser:
    def __init__(self, program: Program, space: ParameterSpace) -> None:
        self._program = program
        self._reader = WeightReader(program, space)
        self._live = sorted(program.reachable(program.outputs))
        self._on_parameters = self._depending("parameter")
        self._on_inputs = self._depending("input")
        self._alias = self._copies()
        mixed = self._on_parameters & self._on_inputs
        self._regions = find_regions(program, self._live, mixed, self._alias)
        self._linear, self._absorbed = find_linear(
            program, self._live, self._alias, self._on_parameters, self._on_inputs, self._reader
        )
        self._steps: list[Step] = []
        self._step_of: dict[int, int] = {}

    def run(self) -> tuple[tuple[Step, ...], dict[int, int]]:
        """Make the steps that the outputs need, in order."""
        needed = self._needed()
        for index in self._live:
            if index in needed:
                self._emit(index)
        equals: dict[int, list[int]] = {}
        for index in self._live:
            target = self._resolve(index)
            if target in self._step_of:
                self._step_of.setdefault(index, self._step_of[target])
                equals.setdefault(self._step_of[target], []).append(index)
        steps = (replace(step, equals=tuple(equals[step.index])) for step in self._steps)
        return tuple(steps), self._step_of

    # -- which values become steps -------------------------------------------------------------------------------------

    def _depending(self, kind: str) -> set[int]:
        found: set[int] = set()
        for index in self._live:
            value = self._program.values[index]
            if value.kind == kind or any(r in found for r in value.reads):
                found.add(index)
        return found

    def _copies(self) -> dict[int, int]:
        """Values that equal another: copies, and adds that were absorbed as a bias point elsewhere later."""
        alias: dict[int, int] = {}
        for index in self._live:
            value = self._program.values[index]
            if value.base in _COPIES and len(value.reads) == 1:
                alias[index] = alias.get(value.reads[0], value.reads[0])
            elif value.base == "copy" and len(value.reads) == 2:
                target = alias.get(value.reads[1], value.reads[1])
                if self._program.values[target].shape == value.shape:
                    alias[index] = target
        return alias

    def _resolve(self, index: int) -> int:
        """The value whose step stands for this one."""
        while True:
            after = self._absorbed.get(self._alias.get(index, index), self._alias.get(index, index))
            if after == index:
                return index
            index = after

    def _sources(self, index: int) -> list[int]:
        """Numbers of the values that the step of this value reads, in order, once each."""
        if index in self._linear:
            found = [self._linear[index].source]
        elif index in self._regions:
            found = [self._regions[index].root]
        else:
            found = self._tensor_reads(index)
        return list(dict.fromkeys(self._resolve(i) for i in found))

    def _tensor_reads(self, index: int) -> list[int]:
        """Values with data in them that an operation reads; through tuples, to the tensors behind."""
        found: list[int] = []
        for read in self._program.values[index].reads:
            if read not in self._on_inputs:
                continue
            if self._program.values[read].shape is None:
                found.extend(self._tensor_reads(read))
            else:
                found.append(read)
        return found

    def _needed(self) -> set[int]:
        needed: set[int] = set()
        stack = [self._resolve(o) for o in self._program.outputs]
        while stack:
            index = stack.pop()
            if index not in needed:
                needed.add(index)
                stack.extend(self._sources(index))
        return needed

    # -- one step ------------------------------------------------------------------------------------------------------

    def _emit(self, index: int) -> None:
        value = self._program.values[index]
        number = len(self._steps)
        reads = tuple(self._step_of[s] for s in self._sources(index))
        linear, region = self._linear.get(index), self._regions.get(index)
        if linear is not None:
            step = self._dense(number, index, value, reads, linear)
        elif region is not None:
            step = self._activation(number, index, value, reads, region)
        else:
            step = self._plain(number, index, value, reads)
        self._step_of[index] = number
        self._steps.append(step)

    def _dense(self, number: int, index: int, value: Value, reads: tuple[int, ...], use: LinearUse) -> Step:
        names = (*use.weight.names, *(use.bias.names if use.bias else ()))
        return Step(
            number,
            "dense",
            _layer_name(names, f"dense_{number}"),
            reads,
            names,
            value.shape or (),
            _operation(value),
            weight=use.weight,
            bias=use.bias,
            left=use.left,
            squeezed=use.squeezed,
            value=index,
        )

    def _activation(self, number: int, index: int, value: Value, reads: tuple[int, ...], region: Region) -> Step:
        function = ScalarFunction(self._program, region.root, index)
        facts: ActivationFacts = match_activation(function, function.numbers(), name=f"elementwise_{number}")
        return Step(
            number,
            "activation",
            f"{facts.name}_{number}",
            reads,
            (),
            value.shape or (),
            _operation(value),
            activation=facts,
            value=index,
        )

    def _plain(self, number: int, index: int, value: Value, reads: tuple[int, ...]) -> Step:
        maker = self._maker(value)
        own = self._own_parameters(index)
        names = tuple(dict.fromkeys(name for weights in own for name in weights.names))
        kind = self._kind(value, maker, bool(own) or self._reads_constants(index))
        weight, bias = self._affine(kind, maker) if kind in {"convolution", "norm", "embedding"} else (None, None)
        return Step(
            number,
            kind,
            _layer_name(names, f"{maker.base or kind}_{number}"),
            reads,
            names,
            value.shape or (),
            _operation(maker),
            weight=weight,
            bias=bias,
            from_data=index not in self._on_parameters,
            value=index,
        )

    def _maker(self, value: Value) -> Value:
        """The operation behind a picked result."""
        while value.base == "getitem":
            behind = self._program.values[value.reads[0]]
            if behind.base in {"split", "split_with_sizes", "chunk", "unbind", "unsafe_split", "unsafe_chunk"}:
                return value
            value = behind
        return value

    def _reads_constants(self, index: int) -> bool:
        """Whether a tensor of numbers that are neither parameters nor inputs enters an operation directly."""
        known = self._on_inputs | self._on_parameters
        return any(
            self._reads_constants(r) if self._program.values[r].shape is None else r not in known
            for r in self._program.values[index].reads
        )

    def _kind(self, value: Value, maker: Value, mixed_operands: bool) -> Kind:
        """What a step does; sums and products with constants or bare parameters are not called by these names."""
        if value.kind == "input":
            return "input"
        base = maker.base
        if base in _NORMS:
            return "norm"
        if base == "_embedding_bag":
            return "embedding" if self._adds_embeddings(maker) else "other"
        kind = _KINDS.get(base, "rearrange" if maker.moves else "other")
        if kind in {"add", "multiply", "matmul", "concatenate", "rearrange"} and mixed_operands:
            return "other"
        if base in {"add", "sub"} and dict(maker.kwargs).get("alpha", 1) != 1:
            return "other"
        return kind

    def _adds_embeddings(self, bag: Value) -> bool:
        """Whether a bag is a sum or mean of its embeddings, weighted by data at most (a maximum is not linear)."""
        mode, factors = (bag.args[place] if place < len(bag.args) else None for place in (4, 6))
        return mode in (None, 0, 1) and getattr(factors, "index", -1) not in self._on_parameters

    def _own_parameters(self, index: int) -> list[Weights]:
        """The tensors of parameters that enter an operation directly."""
        found = []
        for read in self._program.values[index].reads:
            value = self._program.values[read]
            if value.shape is None:
                found.extend(self._own_parameters(read))
            elif read in self._on_parameters and read not in self._on_inputs:
                found.append(self._reader.read(read))
        return found

    def _affine(self, kind: Kind, maker: Value) -> tuple[Weights | None, Weights | None]:
        """Weight and bias of a convolution, a norm or an embedding, by the place of the argument."""
        places = (0, None) if kind == "embedding" else self._affine_places(maker)
        found: list[Weights | None] = []
        for place in places:
            argument = maker.args[place] if place is not None and place < len(maker.args) else None
            index = getattr(argument, "index", None)
            depends = index in self._on_parameters and index not in self._on_inputs
            found.append(self._reader.read(index) if index is not None and depends else None)
        return found[0], found[1]

    @staticmethod
    def _affine_places(maker: Value) -> tuple[int, int | None]:
        if maker.base == "native_layer_norm":
            return 2, 3
        return (2, None) if "rms" in maker.base else (1, 2)


def _operation(value: Value) -> str:
    return value.operation.name if value.operation else ""


def _layer_name(names: Sequence[str], otherwise: str) -> str:
    """``"features.0"`` for parameters ``features.0.weight`` and ``features.0.bias``."""
    if not names:
        return otherwise
    common = []
    for parts in zip(*(_owner(name) for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common) or names[0]


def _owner(name: str) -> list[str]:
    """The path of the module that a parameter belongs to, parametrisations left out."""
    parts = name.split(".")
    return parts[: parts.index("parametrizations")] if "parametrizations" in parts else parts[:-1]
