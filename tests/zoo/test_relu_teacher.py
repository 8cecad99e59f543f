"""The ReLU teacher-student loss against published values, sampling, exact spectra and its own symmetry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thalweg.foundation import InvalidInputError, NotApplicableError
from thalweg.zoo import ReluTeacherStudent, critical_points_of

# Families of spurious minima for an orthonormal teacher: block values with 12 digits, loss and smallest eigenvalue.
TYPE_A = {
    6: (0.055668581322, 0.001503652373, (-0.663397368317, 0.330709783292)),
    8: (0.067731691360, 0.011057120338, (-0.749324924891, 0.248069906214)),
}
# The blocks of type II: diagonal, last diagonal entry, off-diagonal, last column, last row.
BLOCKS_6 = (0.986703818889, -0.601511923561, -0.050413403217, 0.308010991479, 0.224515807599)
BLOCKS_8 = (1.001434253469, -0.658256262009, -0.025883628038, 0.228089016409, 0.159816042917)
BLOCKS_10 = (1.004354823262, -0.699036817494, -0.015811925806, 0.182367755789, 0.126042360843)
TYPE_II = {
    6: (0.025080581002, 0.004700354704, BLOCKS_6),
    8: (0.021508037172, 0.021346589192, BLOCKS_8),
    10: (0.018702194586, 0.031964027646, BLOCKS_10),
}


def type_a(k: int, a: float, b: float) -> torch.Tensor:
    return (a - b) * torch.eye(k, dtype=torch.float64) + b


def type_ii(k: int, a: float, e: float, b: float, c: float, d: float) -> torch.Tensor:
    matrix = type_a(k, a, b)
    matrix[:-1, -1], matrix[-1, :-1], matrix[-1, -1] = c, d, e
    return matrix


POINTS = [pytest.param(k, loss, low, type_a(k, *blocks), id=f"A-{k}") for k, (loss, low, blocks) in TYPE_A.items()]
POINTS += [pytest.param(k, loss, low, type_ii(k, *blocks), id=f"II-{k}") for k, (loss, low, blocks) in TYPE_II.items()]


@pytest.mark.parametrize(("k", "loss", "smallest", "matrix"), POINTS)
def test_published_spurious_minima(k, loss, smallest, matrix) -> None:
    network = ReluTeacherStudent(torch.eye(k))
    value, gradient, hessian = network.evaluate(matrix.reshape(-1), 2)
    assert float(value) == pytest.approx(loss, abs=1.5e-12)
    assert float(gradient.abs().max()) < 1e-11
    assert float(torch.linalg.eigvalsh(hessian)[0]) == pytest.approx(smallest, abs=1e-9)


def test_the_labelled_spectrum_of_type_ii_at_8() -> None:
    spectrum = torch.linalg.eigvalsh(ReluTeacherStudent(torch.eye(8)).hessian(type_ii(8, *TYPE_II[8][2]).reshape(-1)))
    trivial = [0.0728700886, 0.2181560655, 1.1587430533, 2.1412778927, 2.5645935161]
    standard = [0.0213465892, 0.0825335442, 0.2383737416, 0.3544346787, 2.1888827822]
    wanted = sorted(trivial + standard * 6 + [0.0565730896] * 15 + [0.3738227495] * 14)
    np.testing.assert_allclose(spectrum.numpy(), wanted, atol=1e-9)


@pytest.mark.parametrize("k", [4, 7])
def test_the_exact_spectrum_at_the_global_minimum(k) -> None:
    """Result R3 of the sheet: two flat families, two roots of a quadratic k - 1 times each, and a 2 x 2 matrix."""
    pi = np.pi
    constant = (k + 1) / 16 + 1 / (4 * pi) - 1 / (4 * pi**2)
    pair = np.roots([1, -(k + 2) / 4, constant]).tolist() * (k - 1)
    off = np.sqrt(k - 1) / 4
    single = np.linalg.eigvalsh([[0.5 + (k - 1) / (2 * pi), off], [off, k / 4 + 1 / (2 * pi)]]).tolist()
    low, high = [0.25 - 1 / (2 * pi)] * (k * (k - 1) // 2), [0.25 + 1 / (2 * pi)] * (k * (k - 3) // 2)
    network = ReluTeacherStudent(torch.eye(k))
    for point in network.critical_points():
        spectrum = torch.linalg.eigvalsh(network.hessian(point.theta)).numpy()
        np.testing.assert_allclose(spectrum, sorted(low + high + pair + single), atol=1e-13)
        assert (point.index, point.nullity, point.is_global) == (0, 0, True)


def test_the_value_is_the_average_over_inputs() -> None:
    source = torch.Generator().manual_seed(0)
    teacher = torch.randn(3, 4, generator=source, dtype=torch.float64)
    student = torch.randn(2, 4, generator=source, dtype=torch.float64)
    x = torch.randn(400_000, 4, generator=source, dtype=torch.float64)
    errors = (torch.relu(x @ student.T).sum(1) - torch.relu(x @ teacher.T).sum(1)) ** 2 / 2
    found = float(ReluTeacherStudent(teacher, 2).value(student.reshape(-1)))
    assert abs(found - float(errors.mean())) < 5 * float(errors.std()) / 400_000**0.5


def test_permutations_of_rows_and_columns_change_nothing() -> None:
    network = ReluTeacherStudent(torch.eye(4))
    student = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    same = student[[2, 0, 3, 1]][:, [1, 3, 0, 2]]
    torch.testing.assert_close(network.value(same.reshape(-1)), network.value(student.reshape(-1)))


@pytest.mark.parametrize("spare", [1, 2])
@pytest.mark.parametrize("d", [2, 4])
def test_spare_neurons_add_d_zeros_each(spare, d) -> None:
    teacher = torch.randn(2, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    network = ReluTeacherStudent(teacher, 2 + spare)
    for point in network.critical_points():
        spectrum = torch.linalg.eigvalsh(network.hessian(point.theta))
        assert int((spectrum.abs() < 1e-13).sum()) == point.nullity == spare * d
        assert float(spectrum[0]) > -1e-13
        step = 0.1 * point.theta[-d:].norm()  # weight passes between copies, and all shares stay positive
        shifted = point.theta + step * point.tangent.sum(1)
        assert float(network.value(shifted)) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("t", [0.5, 0.3])
def test_splitting_a_neuron_of_a_spurious_minimum_makes_a_saddle(t) -> None:
    """Result R10: k - 1 negative eigenvalues and one zero, the smallest -0.165635 at k = 8 and t = 1/2."""
    minimum = type_ii(8, *TYPE_II[8][2])
    network = ReluTeacherStudent(torch.eye(8), 9)
    split = torch.cat([minimum[:-1], t * minimum[-1:], (1 - t) * minimum[-1:]])
    spectrum = torch.linalg.eigvalsh(network.hessian(split.reshape(-1)))
    assert int((spectrum < -1e-9).sum()) == 7
    assert int((spectrum.abs() < 1e-9).sum()) == 1
    if t == 0.5:
        assert float(spectrum[0]) == pytest.approx(-0.165635, abs=1e-6)


def test_the_margin_to_a_kink_is_the_shortest_student_vector() -> None:
    student = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.3, 0.4], [1.0, 1.0, 1.0]], dtype=torch.float64)
    assert float(ReluTeacherStudent(torch.eye(3)).kink_margin(student.reshape(-1))) == pytest.approx(0.5)


def test_a_narrow_student_knows_no_minimum() -> None:
    network = ReluTeacherStudent(torch.eye(3), 2)
    with pytest.raises(NotApplicableError, match="critical_points_of"):
        critical_points_of(network)


def test_degenerate_teachers_are_refused() -> None:
    for rows, message in (
        ([[1.0, 0.0], [2.0, 1e-9]], "teacher neurons 0 and 1 are parallel"),
        ([[1.0, 1.0], [0.0, 1.0], [-2.0, -2.0]], "teacher neurons 0 and 2 are parallel"),
        ([[1.0, 0.0], [0.0, 0.0]], "zero weights"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            ReluTeacherStudent(torch.tensor(rows))
    with pytest.raises(InvalidInputError, match="at least one neuron"):
        ReluTeacherStudent(torch.eye(2), 0)
