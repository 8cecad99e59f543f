"""The contract of an objective as a test suite, for objectives of this package and anybody's own.

`check_objective` tries everything that the rest of the package relies on, one clause after another, and raises an
AssertionError that names the clause, the figures and what they should have been. Each clause compares with something
that does not share the code under test: finite differences, the definition, a dense computation.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from thalweg.foundation import InvalidInputError
from thalweg.objectives import Objective
from thalweg.zoo import _clauses, _derivative_clauses, _knowledge_clauses
from thalweg.zoo._case import Case, Clause, ContractError

__all__ = ["CLAUSES", "ContractError", "check_objective"]

_ALL: dict[str, Clause] = {**_clauses.CLAUSES, **_derivative_clauses.CLAUSES, **_knowledge_clauses.CLAUSES}

CLAUSES: tuple[str, ...] = tuple(_ALL)
"""Names of all clauses, in the order in which they are tried."""


def check_objective(
    objective: Objective,
    thetas: Float[Tensor, "n P"],
    *,
    others: Sequence[Objective] = (),
    clauses: Sequence[str] | None = None,
    seed: int = 0,
) -> None:
    """Check that an objective keeps the contract; return silently if it does.

    What an objective does not declare is not asked of it, except that it declines by name. Second derivatives are left
    out where `objective.path` says that there are none.

    Args:
        objective: the objective to check; small enough for dense Hessians.
        thetas: ``(n, P)``, a few typical parameter vectors, n >= 2, away from kinks.
        others: objectives that differ from this one, whose fingerprints must differ too.
        clauses: names out of `CLAUSES`; None takes all.
        seed: of the random directions.

    Raises:
        ContractError: an AssertionError with the name of the clause that fails, and how.
        InvalidInputError: if `thetas` or `clauses` cannot be used.

    >>> import torch
    >>> from thalweg.zoo import Rosenbrock
    >>> check_objective(Rosenbrock(), torch.tensor([[0.5, 1.0], [-1.0, 2.0]]))
    """
    if thetas.dim() != 2 or len(thetas) < 2:
        raise InvalidInputError(f"thetas must be (n, P) with n >= 2, got {tuple(thetas.shape)}")
    chosen = CLAUSES if clauses is None else tuple(clauses)
    unknown = [name for name in chosen if name not in _ALL]
    if unknown:
        raise InvalidInputError(f"no clause {unknown}; there are {', '.join(CLAUSES)}")
    for name in chosen:
        case = Case(objective, thetas.detach().to(objective.dtype), tuple(others), seed, name)
        try:
            _ALL[name](case)
        except ContractError:
            raise
        except Exception as error:
            raise ContractError(name, objective, f"{type(error).__name__} is raised: {error}") from error
