"""Clauses about shapes, batches, chunks, purity, identity and refusals."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.foundation import NotApplicableError
from thalweg.zoo._case import Case, Clause

__all__ = ["CLAUSES"]


def check_space(case: Case) -> None:
    """The space has as many coordinates as theta, and flattening undoes unflattening."""
    space, found = case.objective.space, case.thetas.shape[1]
    case.expect(found == space.size, f"thetas have {found} coordinates, the space {space.size}")
    again = space.flatten(space.unflatten(case.thetas))
    case.expect(torch.equal(again, case.thetas), "flatten(unflatten(theta)) is not theta")


def check_shapes(case: Case) -> None:
    """One vector, a batch, an empty batch and a batch of two dimensions give results of their shapes, all finite."""
    size = case.size
    batches = {
        "one vector": case.thetas[0],
        "a batch": case.thetas,
        "an empty batch": case.thetas[:0],
        "a batch of two dimensions": _two_dimensional(case.thetas),
    }
    for name, theta in batches.items():
        batch = tuple(theta.shape[:-1])
        for order in range(3 if case.twice else 2):
            found = case.objective.evaluate(theta, order)
            shapes: tuple[tuple[int, ...], ...] = ((), (size,), (size, size))
            for k, (part, tensor, shape) in enumerate(zip(found._fields, found, shapes, strict=True)):
                what = f"{part} of {name} at order {order}"
                if k > order:
                    case.expect(tensor is None, f"{what} was not asked for, expected None")
                    continue
                case.expect_shape(tensor, batch + shape, what)
                assert tensor is not None
                case.expect(bool(torch.isfinite(tensor).all()), f"{what} is not finite")
                case.expect(not tensor.requires_grad, f"{what} still carries a graph")


def _two_dimensional(thetas: Tensor) -> Tensor:
    """``(3, n, P)``, not the same when its first two dimensions change places."""
    return torch.stack([thetas, thetas.flip(0), thetas])


def check_batching(case: Case) -> None:
    """A batch gives for each row what the row alone gives, whatever the batch shape."""
    twisted = case.objective.evaluate(_two_dimensional(case.thetas), 2 if case.twice else 1)
    for i, theta in enumerate(case.thetas):
        alone = case.objective.evaluate(theta, 2 if case.twice else 1)
        for part in ("value", "gradient", "hessian")[: 3 if case.twice else 2]:
            single, batch, other = (getattr(e, part) for e in (alone, case.dense, twisted))
            scale = float(batch.abs().max())
            case.expect_close(batch[i], single, f"{part} of row {i} in a batch and alone", scale=scale)
            case.expect_close(other[1, -1 - i], single, f"{part} of row {i} in a 2-D batch and alone", scale=scale)


def check_orders(case: Case) -> None:
    """`value`, `gradient`, `hessian` and `evaluate` of every order agree."""
    low = case.objective.evaluate(case.thetas, 0).value
    case.expect_close(low, case.dense.value, "value by order 0 and by the highest order")
    case.expect_close(case.objective.value(case.thetas), case.dense.value, "value() and evaluate()")
    gradient, hessian = case.dense.gradient, case.dense.hessian
    assert gradient is not None
    case.expect_close(case.objective.gradient(case.thetas), gradient, "gradient() and evaluate()")
    if hessian is not None:
        case.expect_close(case.objective.hessian(case.thetas), hessian, "hessian() and evaluate()")


def check_chunks(case: Case) -> None:
    """The value is the sum over chunks, whatever their size."""
    samples = max(1, case.objective.cost.samples)
    for size in sorted({1, (samples + 1) // 2, samples}):
        with torch.no_grad(), case.objective.execution_context():
            parts = [case.objective.chunk_value(case.thetas[0], chunk) for chunk in case.objective.chunks(size)]
        case.expect(len(parts) > 0, f"chunks({size}) yields nothing")
        case.expect(all(part.dim() == 0 for part in parts), f"chunk_value with chunks({size}) is no scalar")
        stacked = torch.stack(parts)
        scale = float(stacked.abs().max())
        case.expect_close(stacked.sum(), case.dense.value[0], f"sum over chunks({size}) and value", scale=scale)


def check_pure(case: Case) -> None:
    """Evaluating twice gives the same; theta, its graph and every random state stay as they were."""
    before, states = case.thetas.clone(), _random_states()
    leaf = case.thetas.clone().requires_grad_()
    first, second = (case.objective.evaluate(leaf, 2 if case.twice else 1) for _ in range(2))
    case.expect(torch.equal(leaf.detach(), before), "theta was changed by an evaluation")
    case.expect(leaf.grad is None, "an evaluation left a gradient in theta")
    for part in ("value", "gradient", "hessian")[: 3 if case.twice else 2]:
        case.expect(torch.equal(getattr(first, part), getattr(second, part)), f"{part} differs between two evaluations")
    case.expect(_random_states() == states, "a global random state was moved by an evaluation")


def _random_states() -> tuple[object, ...]:
    numpy_state = np.random.get_state()  # noqa: NPY002  the global state is what is being watched
    return random.getstate(), str(numpy_state), torch.get_rng_state().numpy().tobytes()


def check_fingerprint(case: Case) -> None:
    """The fingerprint survives copying and pickling, as the function does, and differs from those of others."""
    own = case.objective.fingerprint()
    case.expect(isinstance(own, str) and own != "", f"the fingerprint is {own!r}, expected a text")
    case.expect(case.objective.fingerprint() == own, "the fingerprint differs between two calls")
    for way, twin in (
        ("pickling", pickle.loads(pickle.dumps(case.objective))),
        ("copying", copy.deepcopy(case.objective)),
    ):
        case.expect(twin.fingerprint() == own, f"the fingerprint changes by {way}")
        case.expect(torch.equal(twin.value(case.thetas), case.objective.value(case.thetas)), f"values change by {way}")
    for other in case.others:
        case.expect(other.fingerprint() != own, f"the fingerprint is that of {other!r}, a different objective")


def check_refusals(case: Case) -> None:
    """What cannot be meant is refused with an InvalidInputError."""
    objective, theta = case.objective, case.thetas[0]
    more = case.size + 1
    case.expect_refusal(lambda: objective.value(theta.new_zeros(more)), f"a theta of {more} instead of {case.size}")
    case.expect_refusal(lambda: objective.value(theta.new_zeros(())), "a theta without dimension")
    case.expect_refusal(lambda: objective.gradient(torch.zeros(case.size, dtype=torch.int64)), "an integer theta")
    listed: Any = theta.tolist()
    case.expect_refusal(lambda: objective.value(listed), "a list in the place of theta")
    case.expect_refusal(lambda: objective.evaluate(theta, 3), "order 3")
    if case.twice:
        case.expect_refusal(lambda: objective.hessian_operator(case.thetas), "a batch where one theta is needed")
    else:
        case.expect_refusal(lambda: objective.hessian(theta), "a Hessian that does not exist", NotApplicableError)


CLAUSES: dict[str, Clause] = {
    "space": check_space,
    "shapes": check_shapes,
    "batching": check_batching,
    "orders": check_orders,
    "chunks": check_chunks,
    "pure": check_pure,
    "fingerprint": check_fingerprint,
    "refusals": check_refusals,
}
