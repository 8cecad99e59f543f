"""What every room stands on: errors, the parameter space, memory, operators, control of long work."""

from thalweg.foundation.control import Progress, RunControl, parse_duration, progress_bar
from thalweg.foundation.errors import (
    InvalidInputError,
    MemoryLimitError,
    NotApplicableError,
    StochasticModelError,
    ThalwegError,
    ThalwegWarning,
    UnsupportedModelError,
    first_line,
    format_bytes,
)
from thalweg.foundation.memory import (
    Cost,
    Passes,
    available_memory,
    current_limit,
    memory_limit,
    plan_passes,
    require_memory,
)
from thalweg.foundation.operators import LinearOperator
from thalweg.foundation.randomness import preserved_random_state
from thalweg.foundation.space import Block, ParameterSpace
from thalweg.foundation.told import Told

__all__ = [
    "Block",
    "Cost",
    "InvalidInputError",
    "LinearOperator",
    "MemoryLimitError",
    "NotApplicableError",
    "ParameterSpace",
    "Passes",
    "Progress",
    "RunControl",
    "StochasticModelError",
    "ThalwegError",
    "ThalwegWarning",
    "Told",
    "UnsupportedModelError",
    "available_memory",
    "current_limit",
    "first_line",
    "format_bytes",
    "memory_limit",
    "parse_duration",
    "plan_passes",
    "preserved_random_state",
    "progress_bar",
    "require_memory",
]
