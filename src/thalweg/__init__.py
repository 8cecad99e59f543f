"""A PyTorch toolkit for the minima of neural-network losses.

The customary alias is ``import thalweg as tw``. Every name below is imported on first use, so that importing the
package costs nothing; the rooms (``tw.zoo``, ``tw.tangent``, ...) are imported in the same way.

>>> import thalweg as tw
>>> tw.ParameterSpace({"weight": (2, 3), "bias": (2,)}).size
8
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` does the same from the table below
    from thalweg import (
        catalogue,
        certificates,
        display,
        foundation,
        inspection,
        objectives,
        solvers,
        structure,
        studies,
        symmetry,
        tangent,
        zoo,
    )
    from thalweg.catalogue import Catalogue, CatalogueError, Survey, survey
    from thalweg.certificates import Certificate, certify, register_certifier
    from thalweg.foundation import (
        InvalidInputError,
        MemoryLimitError,
        NotApplicableError,
        ParameterSpace,
        StochasticModelError,
        ThalwegError,
        ThalwegWarning,
        UnsupportedModelError,
        memory_limit,
    )
    from thalweg.inspection import Verdict, inspect
    from thalweg.objectives import (
        L2,
        EmpiricalRisk,
        MergePenalty,
        NormBarrier,
        Objective,
        Penalty,
        SumObjective,
        as_theta,
        population_risk,
        restrict,
        taylor,
    )
    from thalweg.solvers import Solution, Status, Trajectory, find_critical_point, gradient_flow, minimize
    from thalweg.structure import NetworkStructure

_HOME = {
    # what is minimised
    "Objective": "objectives",
    "EmpiricalRisk": "objectives",
    "population_risk": "objectives",
    "SumObjective": "objectives",
    "L2": "objectives",
    "Penalty": "objectives",
    "NormBarrier": "objectives",
    "MergePenalty": "objectives",
    "restrict": "objectives",
    "taylor": "objectives",
    "as_theta": "objectives",
    "ParameterSpace": "foundation",
    "NetworkStructure": "structure",
    # what is asked
    "inspect": "inspection",
    "Verdict": "inspection",
    "certify": "certificates",
    "Certificate": "certificates",
    "register_certifier": "certificates",
    "minimize": "solvers",
    "find_critical_point": "solvers",
    "gradient_flow": "solvers",
    "Trajectory": "solvers",
    "Solution": "solvers",
    "Status": "solvers",
    # what is kept
    "Catalogue": "catalogue",
    "CatalogueError": "catalogue",
    "survey": "catalogue",
    "Survey": "catalogue",
    # limits and errors
    "memory_limit": "foundation",
    "ThalwegError": "foundation",
    "InvalidInputError": "foundation",
    "StochasticModelError": "foundation",
    "UnsupportedModelError": "foundation",
    "NotApplicableError": "foundation",
    "MemoryLimitError": "foundation",
    "ThalwegWarning": "foundation",
}
"""Public name and the room that defines it. No name may be that of a room: importing the room would put the module in
its place."""

_ROOMS = (
    "foundation",
    "structure",
    "objectives",
    "zoo",
    "display",
    "tangent",
    "certificates",
    "solvers",
    "symmetry",
    "inspection",
    "catalogue",
    "studies",
)

__all__ = [
    "__version__",
    "Objective",
    "EmpiricalRisk",
    "SumObjective",
    "L2",
    "Penalty",
    "NormBarrier",
    "MergePenalty",
    "population_risk",
    "restrict",
    "taylor",
    "as_theta",
    "ParameterSpace",
    "NetworkStructure",
    "inspect",
    "Verdict",
    "certify",
    "Certificate",
    "register_certifier",
    "minimize",
    "find_critical_point",
    "gradient_flow",
    "Trajectory",
    "Solution",
    "Status",
    "Catalogue",
    "CatalogueError",
    "survey",
    "Survey",
    "memory_limit",
    "ThalwegError",
    "InvalidInputError",
    "StochasticModelError",
    "UnsupportedModelError",
    "NotApplicableError",
    "MemoryLimitError",
    "ThalwegWarning",
    "foundation",
    "structure",
    "objectives",
    "zoo",
    "display",
    "tangent",
    "certificates",
    "solvers",
    "symmetry",
    "inspection",
    "catalogue",
    "studies",
]


def __getattr__(name: str) -> Any:
    """Import a public name or a room on first use."""
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "certify":
        importlib.import_module(f"{__name__}.symmetry")  # it brings a certifier of its own, to be asked like the others
    if name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value  # the next access does not come here
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names and rooms, imported or not."""
    return sorted({*globals(), *__all__})
