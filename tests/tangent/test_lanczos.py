"""Eigenpairs at both ends, against spectra chosen beforehand and against SciPy."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from designed_spectra import dense, diagonal, normal, rotated, uniform
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh
from torch import Tensor

from thalweg.foundation import InvalidInputError, LinearOperator, MemoryLimitError, RunControl, memory_limit
from thalweg.tangent import Eigenpairs, extreme_eigenpairs
from thalweg.tangent import lanczos as room


def defining_equation(operator: LinearOperator, pairs: Eigenpairs) -> None:
    """Vectors are orthonormal, residuals are what they say, flags follow from them."""
    image = operator @ pairs.vectors
    residuals = torch.linalg.vector_norm(image - pairs.vectors * pairs.values, dim=0)
    scale = max(pairs.scale, 1e-300)
    assert torch.allclose(residuals / scale, pairs.residuals / scale, atol=1e-11, rtol=0)
    identity = torch.eye(len(pairs.values), dtype=torch.float64)
    assert torch.allclose(pairs.vectors.T @ pairs.vectors, identity, atol=1e-10)
    assert torch.equal(pairs.converged, pairs.residuals <= pairs.tolerance * pairs.scale)


SPECTRA = {
    "even": torch.linspace(-1, 3, 1500, dtype=torch.float64),
    "decades": 10.0 ** torch.linspace(-8, 0, 1200, dtype=torch.float64),
    "indefinite decades": torch.cat([s * 10.0 ** torch.linspace(-6, 0, 500, dtype=torch.float64) for s in (-0.7, 1.0)]),
    "cluster": torch.cat([uniform(1000, -1, 1), 5 + 1e-3 * torch.arange(5, dtype=torch.float64)]),
    "low rank and noise": torch.cat([torch.tensor([100.0, 50, 20, -3]).double(), 1e-3 * normal(3000)]),
    "negative only": -uniform(700, 1, 2),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_outer_values_of_designed_spectra(name: str) -> None:
    spectrum = SPECTRA[name]
    operator = diagonal(spectrum)
    pairs = extreme_eigenpairs(operator, 2, 3, dense_below=0, tolerance=1e-5, max_products=700)
    defining_equation(operator, pairs)
    assert bool(pairs.converged.all()), pairs.describe()
    ordered = spectrum.sort().values
    scale = float(spectrum.abs().max())
    # a residual r puts an eigenvalue within r of each value
    nearest = (ordered.unsqueeze(0) - pairs.values.unsqueeze(1)).abs().amin(1)
    assert bool((nearest <= pairs.residuals + 1e-12 * scale).all())
    assert torch.allclose(pairs.largest, ordered.flip(0)[:3], atol=2e-5 * scale, rtol=0)
    assert torch.allclose(pairs.smallest, ordered[:2], atol=2e-5 * scale, rtol=0)
    # Rayleigh quotients never pass the true ends
    assert float(pairs.values[0]) >= float(ordered[0]) - 1e-12 * scale
    assert float(pairs.values[-1]) <= float(ordered[-1]) + 1e-12 * scale


def test_agrees_with_scipy_on_a_dense_matrix_in_as_few_products() -> None:
    matrix = rotated(torch.cat([torch.tensor([30.0, 20, 12, 7]).double(), normal(400, seed=1)]))
    operator = dense(matrix)
    pairs = extreme_eigenpairs(operator, 1, 4, dense_below=0, tolerance=1e-8)
    counted = [0]

    def product(v: np.ndarray) -> np.ndarray:
        counted[0] += 1
        return matrix.numpy() @ v

    from scipy.sparse.linalg import LinearOperator as ScipyOperator

    both = ScipyOperator(matrix.shape, matvec=product, dtype=np.float64)
    start = normal(404, seed=2).numpy()
    top = eigsh(both, k=4, which="LA", tol=1e-8, v0=start, return_eigenvectors=False)
    low = eigsh(both, k=1, which="SA", tol=1e-8, v0=start, return_eigenvectors=False)
    assert np.allclose(np.sort(top)[::-1], pairs.largest.numpy(), rtol=0, atol=1e-9)
    assert np.allclose(low, pairs.smallest.numpy(), rtol=0, atol=1e-9)
    assert pairs.products <= counted[0]  # one space serves both ends


def test_a_small_memory_forces_restarts_that_converge_all_the_same() -> None:
    bulk = torch.linspace(-1, 1, 4000, dtype=torch.float64)
    spectrum = torch.cat([bulk, torch.tensor([1.2, -1.3], dtype=torch.float64)])
    operator = diagonal(spectrum)
    whole = extreme_eigenpairs(operator, 1, 2, dense_below=0, tolerance=1e-7)
    with memory_limit(2 * 30 * 4002 * 8):
        assert room._plan_capacity(operator, room._Ends(1, 2, 4002, 1e-7), 1, 400) < 26 < whole.products
        pairs = extreme_eigenpairs(operator, 1, 2, dense_below=0, tolerance=1e-7, max_products=4000)
    defining_equation(operator, pairs)
    assert pairs.reason == "converged"
    assert pairs.products > whole.products  # restarts cost products, not accuracy
    assert torch.allclose(pairs.values, whole.values, atol=1e-9)
    assert float(pairs.values[0]) == pytest.approx(-1.3, abs=1e-9)


def test_a_block_finds_the_copies_of_a_repeated_eigenvalue() -> None:
    spectrum = torch.cat([torch.tensor([5.0, 5, 5, -3, -3]).double(), torch.linspace(-1, 1, 1000, dtype=torch.float64)])
    pairs = extreme_eigenpairs(diagonal(spectrum), 2, 3, dense_below=0, block=3)
    assert torch.allclose(pairs.largest, torch.full((3,), 5.0, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(pairs.smallest, torch.full((2,), -3.0, dtype=torch.float64), atol=1e-5)
    alone = extreme_eigenpairs(diagonal(spectrum), 2, 3, dense_below=0, block=1)
    assert float(alone.largest[0]) == pytest.approx(5, abs=1e-5)  # the value itself needs no block


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
@pytest.mark.parametrize("size", [1, 2, 3, 60])
def test_multiples_of_the_identity(value: float, size: int) -> None:
    operator = diagonal(torch.full((size,), value))
    for dense_below in (0, 100):
        pairs = extreme_eigenpairs(operator, 2, 2, dense_below=dense_below)
        defining_equation(operator, pairs)
        assert len(pairs.values) == min(size, 4)
        assert torch.allclose(pairs.values, torch.full_like(pairs.values, value), atol=1e-13)
        assert bool(pairs.converged.all())
        assert (pairs.n_smallest, pairs.n_largest) == (min(size, 2), min(size, 2))


def test_one_and_two_dimensions_list_no_pair_twice() -> None:
    one = extreme_eigenpairs(diagonal(torch.tensor([4.0])), 1, 1)
    assert one.values.tolist() == [4.0]
    assert one.smallest.tolist() == one.largest.tolist() == [4.0]
    for dense_below in (0, 10):
        two = extreme_eigenpairs(dense(torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()), 1, 1, dense_below=dense_below)
        assert two.values.tolist() == pytest.approx([-1, 3])
        assert two.exact


def test_dense_way_takes_p_products_and_is_exact() -> None:
    spectrum = uniform(90, -2, 5)
    operator = dense(rotated(spectrum))
    pairs = extreme_eigenpairs(operator, 5, 5)
    defining_equation(operator, pairs)
    assert pairs.exact
    assert pairs.products == 90
    assert torch.allclose(pairs.smallest, spectrum.sort().values[:5], atol=1e-12)
    assert torch.allclose(pairs.largest, spectrum.sort(descending=True).values[:5], atol=1e-12)
    # with fewer products allowed the iteration is taken
    assert extreme_eigenpairs(operator, 1, 1, max_products=40).products <= 40


def test_lowest_value_is_an_upper_bound_with_its_margin() -> None:
    spectrum = torch.cat([torch.linspace(0, 1, 2000, dtype=torch.float64), torch.tensor([-1e-4], dtype=torch.float64)])
    few = extreme_eigenpairs(diagonal(spectrum), 1, 1, dense_below=0, max_products=12, tolerance=1e-9)
    assert few.reason == "products"
    assert not few.exact
    assert not bool(few.converged.any())
    lowest = few.lowest
    assert lowest.value >= -1e-4
    nearest = float((spectrum - lowest.value).abs().min())
    assert nearest <= lowest.residual
    assert not lowest.negative  # twelve products do not see the small negative one, and do not claim to
    enough = extreme_eigenpairs(diagonal(spectrum), 1, 1, dense_below=0, max_products=400, tolerance=1e-9)
    assert enough.lowest.negative
    assert enough.lowest.value >= -1e-4 - enough.lowest.rounding


@given(
    st.lists(st.floats(-10, 10, allow_nan=False), min_size=1, max_size=12),
    st.integers(0, 4),
    st.integers(1, 4),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_any_small_spectrum(values: list[float], smallest: int, largest: int, block: int) -> None:
    spectrum = torch.tensor(values, dtype=torch.float64)
    matrix = rotated(spectrum)
    operator = dense(matrix)
    pairs = extreme_eigenpairs(operator, smallest, largest, dense_below=0, block=block, tolerance=1e-9)
    truth = torch.linalg.eigvalsh(matrix)
    scale = float(truth.abs().max()) + 1e-30
    assert len(pairs.values) == min(len(values), smallest + largest)
    assert pairs.products <= len(values)
    image = operator @ pairs.vectors
    true_residuals = torch.linalg.vector_norm(image - pairs.vectors * pairs.values, dim=0)
    assert bool((true_residuals <= pairs.residuals + 1e-12 * scale).all())
    if pairs.exact:
        assert torch.allclose(pairs.smallest, truth[: pairs.n_smallest], atol=1e-11 * scale + 1e-30)
        assert torch.allclose(pairs.largest, truth.flip(0)[: pairs.n_largest], atol=1e-11 * scale + 1e-30)


def test_what_is_not_symmetric_shows_in_the_residuals() -> None:
    matrix = rotated(torch.cat([torch.tensor([9.0, 5]).double(), uniform(200, -1, 1)]))
    skew = 0.3 * normal(202, 202, seed=3) / 202**0.5
    operator = dense(matrix + skew - skew.T)
    pairs = extreme_eigenpairs(operator, 1, 1, dense_below=0, tolerance=1e-6, max_products=60)
    residuals = torch.linalg.vector_norm(operator @ pairs.vectors - pairs.vectors * pairs.values, dim=0)
    assert bool((pairs.residuals >= residuals - 1e-10).all())
    assert not bool(pairs.converged.any())
    with memory_limit(2 * 24 * 202 * 8):  # nor do restarts lose what is not symmetric
        again = extreme_eigenpairs(operator, 1, 1, dense_below=0, tolerance=1e-6, max_products=150)
    residuals = torch.linalg.vector_norm(operator @ again.vectors - again.vectors * again.values, dim=0)
    assert again.products == 150
    assert bool((again.residuals >= residuals - 1e-10).all())


def test_same_seed_same_result_and_the_global_random_state_is_left_alone(untouched_random_state: None) -> None:
    operator = diagonal(uniform(500, -1, 1))
    first, again, other = (extreme_eigenpairs(operator, 1, 1, dense_below=0, seed=s) for s in (3, 3, 4))
    assert torch.equal(first.vectors, again.vectors)
    assert not torch.equal(first.vectors, other.vectors)


def test_float32_operators() -> None:
    spectrum = torch.cat([torch.tensor([8.0, 4, -2]), torch.linspace(-1, 1, 800)])
    column = spectrum.unsqueeze(1)
    operator = LinearOperator((803, 803), lambda v: column * v, symmetric=True, dtype=torch.float32)
    pairs = extreme_eigenpairs(operator, 1, 2, dense_below=0)
    assert pairs.vectors.dtype == torch.float32
    assert pairs.values.tolist() == pytest.approx([-2, 4, 8], abs=1e-3)


# -- stopping ----------------------------------------------------------------------------------------------------------


def stopping_after(spectrum: Tensor, products: int, stop: object) -> LinearOperator:
    """An operator that calls `stop` in the middle of a product."""
    column, count = spectrum.double().unsqueeze(1), [0]

    def matmat(v: Tensor) -> Tensor:
        count[0] += v.shape[1]
        if count[0] > products and callable(stop):
            stop()
        return column * v

    return LinearOperator((len(spectrum), len(spectrum)), matmat, symmetric=True)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupt_leaves_a_usable_partial_result() -> None:
    spectrum = torch.cat([torch.tensor([10.0, 7]).double(), torch.linspace(-1, 1, 3000, dtype=torch.float64)])
    pairs = extreme_eigenpairs(stopping_after(spectrum, 15, interrupt), 2, 2, dense_below=0, tolerance=1e-9)
    assert pairs.reason == "interrupted"
    assert "interrupted" in pairs.stopped
    assert pairs.products == 15
    defining_equation(diagonal(spectrum), pairs)
    assert float(pairs.largest[0]) == pytest.approx(10, abs=1e-6)


def test_a_real_signal_during_the_search() -> None:
    spectrum = torch.linspace(-1, 1, 3000, dtype=torch.float64)

    def signal_ourselves() -> None:
        import signal

        signal.raise_signal(signal.SIGINT)

    pairs = extreme_eigenpairs(stopping_after(spectrum, 20, signal_ourselves), 1, 1, dense_below=0, tolerance=1e-12)
    assert pairs.reason == "interrupted"
    assert pairs.products >= 20
    defining_equation(diagonal(spectrum), pairs)


def test_an_interrupt_in_the_dense_way_gives_quotients_of_a_principal_submatrix() -> None:
    matrix = rotated(uniform(150, -1, 1))
    count = [0]

    def matmat(v: Tensor) -> Tensor:
        count[0] += 1
        if count[0] > 2:
            interrupt()
        return matrix @ v

    pairs = extreme_eigenpairs(LinearOperator((150, 150), matmat, symmetric=True), 1, 1)
    assert pairs.reason == "interrupted"
    assert not pairs.exact
    assert pairs.products == 128
    defining_equation(dense(matrix), pairs)


def test_an_interrupt_before_the_first_product_gives_no_pair() -> None:
    pairs = extreme_eigenpairs(stopping_after(torch.ones(5000), 0, interrupt), 1, 1)
    assert len(pairs.values) == 0
    assert pairs.vectors.shape == (5000, 0)
    with pytest.raises(InvalidInputError, match="before its first product"):
        _ = pairs.lowest


def test_a_stop_event_and_a_time_limit() -> None:
    event = threading.Event()
    spectrum = torch.linspace(-1, 1, 4000, dtype=torch.float64)
    by_event = extreme_eigenpairs(
        stopping_after(spectrum, 10, event.set), 1, 1, tolerance=1e-12, control=RunControl(stop_event=event)
    )
    assert (by_event.reason, by_event.products) == ("interrupted", 11)
    assert len(by_event.values) == 2
    late = RunControl(budget=1e-9)
    by_time = extreme_eigenpairs(diagonal(spectrum), 1, 1, control=late)
    assert (by_time.reason, len(by_time.values)) == ("time limit", 0)


def test_progress_is_told_the_products() -> None:
    told: list[float] = []

    class Listener:
        def update(self, completed: float | None = None, *, description: str | None = None) -> None:
            assert completed is not None
            told.append(completed)

    pairs = extreme_eigenpairs(diagonal(uniform(300, 0, 1)), 1, 1, dense_below=0, progress=Listener())
    assert told == list(range(1, pairs.products + 1))


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_refusals_say_what_is_needed() -> None:
    operator = diagonal(torch.ones(10))
    with pytest.raises(InvalidInputError, match="symmetric=True"):
        extreme_eigenpairs(LinearOperator((10, 10), lambda v: v), 1, 1)
    with pytest.raises(InvalidInputError, match="at least one pair"):
        extreme_eigenpairs(operator, 0, 0)
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        extreme_eigenpairs(operator, 1, 1, tolerance=0.0)
    with pytest.raises(InvalidInputError, match="max_products >= block"):
        extreme_eigenpairs(operator, 1, 1, max_products=1, block=2)


@pytest.mark.parametrize("dense_below", [0, 100])
def test_products_that_are_not_finite_are_refused(dense_below: int) -> None:
    broken = LinearOperator((20, 20), lambda v: v / 0.0, symmetric=True)
    with pytest.raises(InvalidInputError, match="NaN or infinite"):
        extreme_eigenpairs(broken, 1, 1, dense_below=dense_below)


def test_memory_is_refused_before_it_is_taken() -> None:
    size = 10_000_000
    operator = LinearOperator((size, size), lambda v: v, symmetric=True)
    with memory_limit("100MB"), pytest.raises(MemoryLimitError, match="Krylov basis") as caught:
        extreme_eigenpairs(operator, 1, 1)
    assert caught.value.needed > 10 * 8 * size
    assert operator.products == 0
