"""The hot loops against plain NumPy formulas, finite differences, each other, and themselves bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import array_api_strict
import numpy as np
import pytest
import scipy.sparse as sp
from numba import njit
from scipy.special import log_softmax, softmax

from tasks import kernels
from tasks.kernels import array_api, dense, fused, pointwise, several
from tasks.kernels import passes as loops
from tasks.machine.namespaces import on_host
from tasks.machine.threads import single_blas_thread
from tasks.objectives.losses import (
    LOSSES,
    EpsilonInsensitiveLoss,
    HingeLoss,
    HuberLoss,
    LogisticLoss,
    Loss,
    ModifiedHuberLoss,
    MultinomialLoss,
    PoissonLoss,
    RegressionLoss,
    SquaredEpsilonInsensitiveLoss,
    SquaredHingeLoss,
    SquaredLoss,
)
from tasks.typing import Array, Float64

PARAMETER = 0.6  # threshold, epsilon
SQUARED, LOGISTIC, MULTINOMIAL = SquaredLoss(), LogisticLoss(), MultinomialLoss()
HINGE, SQUARED_HINGE, MODIFIED_HUBER = HingeLoss(PARAMETER), SquaredHingeLoss(), ModifiedHuberLoss()
HUBER, EPSILON_INSENSITIVE = HuberLoss(PARAMETER), EpsilonInsensitiveLoss(PARAMETER)
POISSON = PoissonLoss()
SQUARED_EPSILON_INSENSITIVE = SquaredEpsilonInsensitiveLoss(PARAMETER)
#        loss, outputs of a model, models
CASES = [
    (SQUARED, 1, 1),
    (SQUARED, 3, 1),
    (SQUARED, 2, 2),
    (LOGISTIC, 1, 1),
    (LOGISTIC, 1, 3),
    (MULTINOMIAL, 3, 1),
    (MULTINOMIAL, 4, 2),
    (LOGISTIC, 3, 2),  # one-vs-rest
    (HINGE, 1, 1),
    (SQUARED_HINGE, 3, 2),
    (MODIFIED_HUBER, 3, 1),
    (HUBER, 1, 1),
    (EPSILON_INSENSITIVE, 2, 1),
    (SQUARED_EPSILON_INSENSITIVE, 1, 2),
    (POISSON, 1, 1),
    (POISSON, 3, 2),
]
MARGIN_LOSSES = (HINGE, SQUARED_HINGE, MODIFIED_HUBER)
WIDTHS = [1, 5, 28, 130]  # below, between and above the lanes; several panels of the Gram matrix
KINDS = [
    "float64",
    pytest.param("float32", marks=pytest.mark.long),
    "csr64",
    pytest.param("csr32", marks=pytest.mark.long),
]  # they take long to compile


@pytest.fixture(autouse=True)
def _one_blas_thread() -> Iterator[None]:
    with single_blas_thread():
        yield


class Problem(NamedTuple):
    loss: Loss
    X: Float64
    y: Array
    weight: Float64
    offsets: Array
    coef: Float64
    intercept: Float64
    k: int

    @property
    def c(self) -> int:
        return len(self.coef) // self.k


def make(loss: Loss, c: int, k: int, p: int, sizes: list[int], seed: int = 0) -> Problem:
    """Sparse rows whose values float32 holds exactly."""
    rng = np.random.default_rng(seed)
    n, m = sum(sizes), k * c
    X = (rng.normal(size=(n, p)) * (rng.random((n, p)) < 0.5)).astype(np.float32).astype(np.float64)
    if loss == MULTINOMIAL:
        y: Array = rng.integers(0, c, n)
    elif loss == LOGISTIC or loss in MARGIN_LOSSES:
        y = (rng.random((n, c) if c > 1 else n) < 0.5).astype(np.float64)
    else:
        y = rng.normal(size=(n, c) if c > 1 else n)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    coef, intercept = 0.3 * rng.normal(size=(m, p)), rng.normal(size=m)
    return Problem(loss, X, y, rng.random(n), offsets, coef, intercept, k)


def as_kind(X: Float64, kind: str) -> Any:
    X = X.astype(np.float32) if kind.endswith("32") else X
    if kind == "array api":
        return array_api_strict.asarray(X)
    return sp.csr_array(X) if kind.startswith("csr") else X


def passes_for(kind: str) -> Any:
    """The module whose passes these rows are for: NumPy's for few of them."""
    return array_api if kind == "few" else kernels


def each_output(loss: Loss, raw: Float64, y: Float64) -> tuple[Float64, Float64, Float64]:
    """Value and two derivatives of the losses that add up over the outputs."""
    sign, error, t = 2 * y - 1, raw - y, PARAMETER
    margin, size, side = sign * raw, np.abs(error), np.sign(error)
    if loss == SQUARED:
        return 0.5 * error**2, error, np.ones_like(raw)
    if loss == LOGISTIC:
        mean = 1 / (1 + np.exp(-raw))
        return np.logaddexp(0, raw) - y * raw, mean - y, mean * (1 - mean)
    if loss == HINGE:
        return np.maximum(t - margin, 0), np.where(margin <= t, -sign, 0.0), np.zeros_like(raw)
    if loss == SQUARED_HINGE:
        gap = np.maximum(1 - margin, 0)
        return gap**2, -2 * sign * gap, np.where(margin <= 1, 2.0, 0.0)
    if loss == MODIFIED_HUBER:
        steep, gap = margin < -1, np.maximum(1 - margin, 0)
        slope = np.where(steep, -4 * sign, -2 * sign * gap)
        return np.where(steep, -4 * margin, gap**2), slope, np.where((margin <= 1) & ~steep, 2.0, 0.0)
    if loss == HUBER:
        near = size <= t
        return np.where(near, 0.5 * error**2, t * (size - 0.5 * t)), np.where(near, error, t * side), near.astype(float)
    if loss == POISSON:
        return np.exp(raw) - y * raw, np.exp(raw) - y, np.exp(raw)
    gap = np.maximum(size - t, 0)
    if loss == EPSILON_INSENSITIVE:
        return gap, np.where(gap > 0, side, 0.0), np.zeros_like(raw)
    assert loss == SQUARED_EPSILON_INSENSITIVE
    return gap**2, 2 * side * gap, np.where(size >= t, 2.0, 0.0)


def reference(q: Problem, weight: Float64, rows: Any = slice(None)) -> tuple[Float64, float, Float64, Float64, Float64]:
    """What `hessian` promises, with intercept, in plain NumPy."""
    X, y, w, c = q.X[rows], q.y[rows], weight[rows], q.c
    n, p = X.shape
    losses, gradients, intercepts, hessians = [], [], [], []
    augmented = np.column_stack([X, np.ones(n)])
    for model in range(q.k):
        outputs = slice(model * c, (model + 1) * c)
        raw = X @ q.coef[outputs].T + q.intercept[outputs]
        if q.loss == MULTINOMIAL:
            mean = softmax(raw, axis=1)
            value = -log_softmax(raw, axis=1)[np.arange(n), y]
            residual = mean - np.eye(c)[y]
            curvature = np.einsum("ia,ab->iab", mean, np.eye(c)) - np.einsum("ia,ib->iab", mean, mean)
        else:
            values, residual, diagonal = each_output(q.loss, raw, y.reshape(n, c))
            value = values.sum(axis=1)
            curvature = diagonal[:, :, None] * np.eye(c)
        losses.append(w @ value)
        gradients.append((w[:, None] * residual).T @ X)
        intercepts.append(w @ residual)
        full = np.einsum("i,iab,ij,il->ajbl", w, curvature, augmented, augmented, optimize=True)
        order = [a * (p + 1) + j for a in range(c) for j in range(p)] + [a * (p + 1) + p for a in range(c)]
        hessians.append(full.reshape(c * (p + 1), -1)[np.ix_(order, order)])
    return np.array(losses), w.sum(), np.concatenate(gradients), np.concatenate(intercepts), np.array(hessians)


def close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    for a, e in zip(actual, expected, strict=True):
        a, e = np.asarray(a), np.asarray(e)
        assert a.shape == e.shape and a.dtype == e.dtype == np.float64
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * (1 + np.abs(e).max(initial=0.0)))


def same_bits(actual: Any, expected: Any) -> None:
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(a).view(np.int64), np.asarray(e).view(np.int64))


@cache
def in_plain_numpy(case: tuple[Loss, int, int], p: int) -> tuple[Problem, list[Any]]:
    """A problem, and what `reference` finds without weights and with them."""
    q = make(*case, p, [40, 0, 600, 13])
    return q, [reference(q, np.ones(len(q.X))), reference(q, q.weight)]


@pytest.mark.parametrize("kind", [*KINDS, "few", "array api"])
@pytest.mark.parametrize("p", [*WIDTHS[:-1], pytest.param(WIDTHS[-1], marks=pytest.mark.long)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_plain_formulas(case: tuple[Loss, int, int], p: int, kind: str) -> None:
    q, references = in_plain_numpy(case, p)
    X, kernels = as_kind(q.X, kind), passes_for(kind)
    for weight, expected in zip((None, q.weight), references, strict=True):
        rest = (q.y, weight, q.offsets, q.coef, q.intercept, q.k)
        close(kernels.loss_and_gradient(q.loss, X, *rest), expected[:4])
        result = kernels.hessian(q.loss, X, *rest, True)
        close(result, expected)
        np.testing.assert_array_equal(result[4], result[4].transpose(0, 2, 1))
        n_coef = q.c * p
        close(kernels.hessian(q.loss, X, *rest, False), [*expected[:4], expected[4][:, :n_coef, :n_coef]])
        direction = np.random.default_rng(1).normal(size=(len(q.coef), p + 1))
        flat = np.concatenate([direction[:, :p].reshape(q.k, -1), direction[:, p].reshape(q.k, -1)], axis=1)
        product = np.einsum("kij,kj->ki", expected[4], flat)
        close(
            kernels.hessian_vector(q.loss, X, *rest, direction[:, :p], direction[:, p]),
            [product[:, :n_coef].reshape(-1, p), product[:, n_coef:].reshape(-1)],
        )
    np.testing.assert_allclose(kernels.raw_prediction(X, q.coef, q.intercept), q.X @ q.coef.T + q.intercept, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finite_differences(case: tuple[Loss, int, int]) -> None:
    q = make(*case, 3, [5, 8])
    rng, step = np.random.default_rng(2), 1e-5
    D, d = rng.normal(size=q.coef.shape), rng.normal(size=q.intercept.shape)

    def at(t: float) -> Any:
        return kernels.loss_and_gradient(q.loss, q.X, q.y, q.weight, q.offsets, q.coef + t * D, q.intercept + t * d, q.k)

    _, _, coef_sum, intercept_sum = at(0.0)
    slope = (coef_sum * D).reshape(q.k, -1).sum(axis=1) + (intercept_sum * d).reshape(q.k, -1).sum(axis=1)
    up, down = at(step), at(-step)
    np.testing.assert_allclose((up[0] - down[0]) / (2 * step), slope, rtol=1e-7, atol=1e-7)
    product = kernels.hessian_vector(q.loss, q.X, q.y, q.weight, q.offsets, q.coef, q.intercept, q.k, D, d)
    np.testing.assert_allclose((up[2] - down[2]) / (2 * step), product[0], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose((up[3] - down[3]) / (2 * step), product[1], rtol=1e-7, atol=1e-7)


def passes(q: Problem, X: Any, y: Array, weight: Float64 | None, offsets: Array) -> list[tuple[Any, ...]]:
    """All results of all functions that sum over rows."""
    rest = (q.loss, X, y, weight, offsets, q.coef, q.intercept, q.k)
    D, d = np.cos(q.coef), np.cos(q.intercept)
    return [
        kernels.loss_and_gradient(*rest),
        kernels.hessian(*rest, True),
        kernels.hessian(*rest, False),
        kernels.hessian_vector(*rest, D, d),
    ]


def elsewhere(X: Any) -> Any:
    """A read-only copy at an address that is a multiple of the item size and of nothing more."""
    if isinstance(X, sp.csr_array):
        data, indices, indptr = (elsewhere(a) for a in (X.data, X.indices, X.indptr))
        return sp.csr_array((data, indices, indptr), shape=X.shape)
    buffer = np.empty(X.size + 9, X.dtype)
    shift = 1 + (-(buffer.ctypes.data // X.itemsize) % 8)
    copy = buffer[shift : shift + X.size].reshape(X.shape)
    copy[...] = X
    copy.flags.writeable = False
    return copy


def along_tree(leaves: list[Any]) -> Any:
    """The definition: siblings added level by level."""
    while len(leaves) > 1:
        leaves = [
            [tuple(np.add(a, b) for a, b in zip(left, right, strict=True)) for left, right in zip(*pair, strict=True)]
            if len(pair) == 2
            else pair[0]
            for pair in (leaves[i : i + 2] for i in range(0, len(leaves), 2))
        ]
    return leaves[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_partitions", [1, 2, 3, 5, 7, 8, 13, 37])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_of_the_tree(case: tuple[Loss, int, int], n_partitions: int, kind: str) -> None:
    rng = np.random.default_rng(n_partitions)
    sizes = (rng.integers(0, 90, n_partitions) * (rng.random(n_partitions) < 0.8)).tolist()
    sizes[-1] += 530
    sizes[n_partitions // 3] += int(rng.choice([0, 256, 300, 512, 530]))  # longer than a block, or just one, with small ones after it
    q = make(*case, [3, 11, 29, 100][n_partitions % 4], sizes)
    X = as_kind(q.X, kind)
    for weight in (None, q.weight):
        leaves = [
            passes(
                q,
                elsewhere(X[a:b]),
                elsewhere(q.y[a:b]),
                None if weight is None else elsewhere(weight[a:b]),
                np.array([0, b - a]),
            )
            for a, b in zip(q.offsets[:-1], q.offsets[1:], strict=True)
        ]
        for actual, expected in zip(passes(q, X, q.y, weight, q.offsets), along_tree(leaves), strict=True):
            same_bits(actual, expected)


@pytest.mark.parametrize("c", [1, 3])
def test_wide_sparse_sums_have_the_bits_of_the_tree(c: int) -> None:
    """Most of them stay zero, and are not touched; wherever groups are cut."""
    rng, p, sizes = np.random.default_rng(c), 40_003, [40, 0, 1, 300, 7, 0, 90, 2, 60, 5, 1]
    coef, intercept = 0.3 * rng.normal(size=(c, p)), rng.normal(size=c)
    columns = rng.choice([*range(9), *range(p - 9, p), *rng.integers(0, p, 99)], (sum(sizes), 12))
    X = sp.csr_array((rng.normal(size=columns.size), columns.ravel(), np.arange(0, columns.size + 1, 12)), shape=(len(columns), p))
    X.sum_duplicates()
    y = rng.integers(0, c, len(columns)) if c > 1 else (rng.random(len(columns)) < 0.5).astype(np.float64)
    loss = MULTINOMIAL if c > 1 else LOGISTIC
    bounds = np.concatenate([[0], np.cumsum(sizes)])

    def group(first: int, last: int) -> tuple[Any, Array, None, Array]:
        start, stop = bounds[first], bounds[last]
        return X[start:stop], y[start:stop], None, bounds[first : last + 1] - start

    leaves = [[kernels.loss_and_gradient(loss, *group(i, i + 1), coef, intercept, 1)] for i in range(len(sizes))]
    (expected,) = along_tree(leaves)
    assert np.count_nonzero(expected[2]) < 150 * c
    for size in (1, 2, 4, 16):
        groups = [group(i, min(i + size, len(sizes))) for i in range(0, len(sizes), size)]
        same_bits(kernels.gradient_of_groups(loss, groups, coef, intercept, 1), expected)


@pytest.mark.parametrize("integer", [np.int32, pytest.param(np.int64, marks=pytest.mark.long)])
@pytest.mark.parametrize("p", [6000, 70_000])  # within caches, and beyond
def test_csr_rows_of_any_length(p: int, integer: Any) -> None:
    """Against SciPy's products, and to the bits of each row by itself: rows that fit into scratch memory together, alone, or not."""
    rng = np.random.default_rng(p)
    lengths = rng.permutation([*range(70), 2047, 2048, 2049, 5000, *[1] * 200, *[0] * 90, *[500] * 9])
    n, ends = len(lengths), np.cumsum(lengths)
    columns = np.concatenate([np.sort(rng.choice(p, length, replace=False)) for length in lengths])
    X = sp.csr_array((rng.normal(size=ends[-1]), columns.astype(integer), np.append(0, ends).astype(integer)), shape=(n, p))
    assert X.indices.dtype == integer
    coef, intercept, offsets = rng.normal(size=(1, p)), np.array([0.3]), np.array([0, 7, 260, n])
    raw = kernels.raw_prediction(X, coef, intercept)
    scale = abs(X) @ abs(coef[0]) + 1.0
    np.testing.assert_allclose((raw[:, 0] - (X @ coef[0] + 0.3)) / scale, 0.0, atol=1e-14)
    y = rng.normal(size=n)
    _, _, gradient, _ = kernels.loss_and_gradient(SQUARED, X, y, None, offsets, coef, intercept, 1)
    residual = X @ coef[0] + 0.3 - y
    np.testing.assert_allclose((gradient[0] - X.T @ residual) / (abs(X.T) @ (abs(residual) + scale) + 1e-300), 0.0, atol=1e-14)
    for i in rng.choice(n, 40, replace=False):
        row = sp.csr_array((X.data[slice(*X.indptr[i : i + 2])], X.indices[slice(*X.indptr[i : i + 2])], [0, lengths[i]]), shape=(1, p))
        row.indices, row.indptr = row.indices.astype(integer), row.indptr.astype(integer)
        same_bits(kernels.raw_prediction(row, coef, intercept)[0], raw[i])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_partitions_give_zeros(case: tuple[Loss, int, int]) -> None:
    q = make(*case, 4, [])
    for result in passes(q, q.X, q.y, None, q.offsets):
        assert not any(np.any(part) for part in result)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("m", "p", "count", "n"), [(2, 100, 50, 120), (3, 5, 17, 60), (10, 28, 6, 20), (100, 3, 9, 18), (4, 9, 8, 14), (7, 5, 0, 9)]
)
def test_the_next_block_is_asked_for_once(m: int, p: int, count: int, n: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any number of outputs, line by line, and not what lies beyond the last row."""
    asked: list[int] = []
    for name in ("load_some", "store_part", "splat", "fma", "totals", "upper_half"):
        monkeypatch.setattr(several, name, lambda *_: 0.0)
    monkeypatch.setattr(several, "prefetch", lambda X, at: asked.append(at))
    X = np.zeros((n, p), dtype)
    several.dot_outputs.py_func(X, 2, count, np.zeros((m, p)), np.zeros(m), np.zeros(m * count))
    assert asked == list(range((2 + count) * p, min(2 + 2 * count, n) * p, 64 // X.itemsize))


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "few", "array api"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_blocks_apart_are_those_of_the_whole_hessian(case: tuple[Loss, int, int], kind: str, fit_intercept: bool) -> None:
    _, c, k = case
    q = make(*case, 5, [40, 0, 61])
    X = as_kind(q.X, kind)
    given = (q.loss, X, q.y, q.weight, q.offsets, q.coef, q.intercept, q.k, fit_intercept)
    whole, apart = passes_for(kind).hessian(*given), passes_for(kind).hessian(*given, apart=True)
    for one, other in zip(whole[:4], apart[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    for model in range(k):
        for a in range(c):
            own = [*range(5 * a, 5 * a + 5), *([5 * c + a] if fit_intercept else [])]
            np.testing.assert_array_equal(apart[4][model, a], whole[4][model][np.ix_(own, own)])


@pytest.mark.parametrize("case", [(LOGISTIC, 1, 1), (MULTINOMIAL, 3, 1), (LOGISTIC, 3, 2)], ids=str)
@pytest.mark.parametrize("kind", ["float64", "csr64"])
@pytest.mark.parametrize("p", [37, 1100])
def test_narrow_is_wide(case: tuple[Loss, int, int], kind: str, p: int) -> None:
    """float32 rows that hold the same numbers: the same bits."""
    q = make(*case, p, [300, 41] if p < 100 else [70, 41])
    X = as_kind(q.X, kind)
    wide, narrow = passes(q, X, q.y, q.weight, q.offsets), passes(q, X.astype(np.float32), q.y, q.weight, q.offsets)
    for a, b in zip(wide, narrow, strict=True):
        same_bits(a, b)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_are_repeats(case: tuple[Loss, int, int]) -> None:
    q = make(*case, 6, [31, 50])
    repeats = np.random.default_rng(3).integers(0, 4, len(q.X))
    offsets = np.concatenate([[0], np.cumsum([repeats[:31].sum(), repeats[31:].sum()])])
    repeated = passes(q, np.repeat(q.X, repeats, axis=0), np.repeat(q.y, repeats, axis=0), None, offsets)
    weighted = passes(q, q.X, q.y, repeats.astype(np.float64), q.offsets)
    for found, expected in zip(weighted, repeated, strict=True):
        close(found, expected)


@pytest.mark.parametrize("case", [case for case in CASES if case[2] > 1], ids=str)
def test_models_share_a_pass(case: tuple[Loss, int, int]) -> None:
    q = make(*case, 9, [64, 20])
    together = passes(q, q.X, q.y, q.weight, q.offsets)
    alone = []
    for model in range(q.k):
        outputs = slice(model * q.c, (model + 1) * q.c)
        single = q._replace(coef=q.coef[outputs], intercept=q.intercept[outputs], k=1)
        alone.append(passes(single, q.X, q.y, q.weight, q.offsets))
    for i in (0, 1, 2):
        weight_sum = alone[0][i][1]
        columns = [np.concatenate(column) if np.ndim(column[0]) else weight_sum for column in zip(*(a[i] for a in alone), strict=True)]
        close(together[i], columns)
    close(together[3], [np.concatenate(column) for column in zip(*(a[3] for a in alone), strict=True)])


def row_alone(loss: Loss, raw: list[float], y: Any, kind: str = "float64") -> tuple[Any, Any]:
    """Loss and gradients, and Hessian, of one row whose only feature is 1."""
    X = as_kind(np.ones((1, 1)), kind)
    coef = np.array(raw)[:, None]
    rest, kernels = (loss, X, np.array([y]), None, np.array([0, 1]), coef, np.zeros(len(raw)), 1), passes_for(kind)
    return kernels.loss_and_gradient(*rest), kernels.hessian(*rest, True)


@pytest.mark.parametrize("kind", ["float64", "few"])
def test_huge_margins(kind: str) -> None:
    one_row = partial(row_alone, kind=kind)
    for raw in (1e4, -1e4, 1e300, -1e300):
        for y in (0.0, 1.0):
            (loss, _, gradient, _), (*_, hessian) = one_row(LOGISTIC, [raw], y)
            assert loss[0] == max(raw, 0.0) - y * raw
            assert gradient[0, 0] == float(raw > 0) - y
            assert np.all(hessian == 0.0)
            (loss, _, gradient, _), _ = one_row(HINGE, [raw], y)
            assert loss[0] == max(PARAMETER - (2 * y - 1) * raw, 0.0)
            assert gradient[0, 0] == (1 - 2 * y) * (loss[0] > 0)
            (loss, _, gradient, _), (*_, hessian) = one_row(MODIFIED_HUBER, [raw], y)
            assert loss[0] == max(-4 * (2 * y - 1) * raw, 0.0)
            assert gradient[0, 0] == 4 * (1 - 2 * y) * (loss[0] > 0)
            assert np.all(hessian == 0.0)
        (loss, _, gradient, _), _ = one_row(HUBER, [raw], 0.0)
        assert loss[0] == pytest.approx(PARAMETER * abs(raw), rel=1e-4)
        assert gradient[0, 0] == math.copysign(PARAMETER, raw)
    for y in (0, 1, 2):
        raws = [1e4, -1e4, 0.0]
        (loss, _, gradient, _), (*_, hessian) = one_row(MULTINOMIAL, raws, y)
        assert loss[0] == 1e4 - raws[y]
        assert gradient[:, 0].tolist() == [1.0 - (y == 0), 0.0 - (y == 1), 0.0 - (y == 2)]
        assert np.all(hessian == 0.0)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("kind", ["float64", "csr64", "few"])
def test_non_finite_is_never_hidden(bad: float, kind: str) -> None:
    binary = [(loss, [bad], y) for loss in (LOGISTIC, *MARGIN_LOSSES) for y in (0.0, 1.0)]
    errors = [(loss, [bad], 0.5) for loss in (HUBER, EPSILON_INSENSITIVE, SQUARED_EPSILON_INSENSITIVE, POISSON)]
    for loss, raw, y in [*binary, *errors, (MULTINOMIAL, [bad, 0.0], 0), (MULTINOMIAL, [0.0, bad], 0)]:
        (value, _, gradient, intercepts), (*_, hessian) = row_alone(loss, raw, y, kind)
        assert not np.isfinite(value).any()
        assert not np.isfinite(gradient).any() and not np.isfinite(intercepts).any()
        assert not np.isfinite(hessian).any()
    q = make(LOGISTIC, 1, 1, 12, [70, 30])
    for row, column in [(0, 0), (99, 11), (69, 8)]:
        X = q.X.copy()
        X[row, column] = bad
        for result in passes(q, as_kind(X, kind), q.y, None, q.offsets)[:2]:
            assert not np.isfinite(result[0]).any() and not np.isfinite(result[2][0, column])


def test_exp_and_log1p_to_two_ulp() -> None:
    """loss(y=0) = log1p(exp(raw)) for negative raw, and curvature sums, against exact references in extended precision."""
    raw = np.concatenate([-np.geomspace(1e-12, 700.0, 4000), [0.0], np.geomspace(1e-12, 700.0, 4000)])
    worst = 0.0
    for y in (0.0, 1.0):
        for value in raw[::7]:
            (loss, _, gradient, _), _ = row_alone(LOGISTIC, [value], y)
            wide = np.longdouble(value)
            exact = np.log1p(np.exp(-abs(wide))) + max(wide, np.longdouble(0)) - np.longdouble(y) * wide
            scale = max(abs(float(exact)), abs(value) if y * value > 0 else 0.0)
            worst = max(worst, abs(float(loss[0] - exact)) / np.spacing(scale))
            mean = 1 / (1 + np.exp(-wide))
            assert abs(float(gradient[0, 0] - (mean - np.longdouble(y)))) <= 2 * np.finfo(float).eps
    assert worst <= 2.0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_array_api_is_numpy(case: tuple[Loss, int, int]) -> None:
    q = make(*case, 11, [40, 0, 33, 7, 60])
    D, d = np.cos(q.coef), np.cos(q.intercept)
    for weight in (None, q.weight):
        for dtype in (np.float64, np.float32):
            X, y = array_api_strict.asarray(q.X.astype(dtype)), array_api_strict.asarray(q.y)
            targets: tuple[Any, ...] = (y, q.y)
            for target in targets:
                rest = (weight, q.offsets, q.coef, q.intercept, q.k)
                close(
                    kernels.loss_and_gradient(q.loss, X, target, *rest),
                    kernels.loss_and_gradient(q.loss, q.X, q.y, *rest),
                )
                close(
                    kernels.hessian_vector(q.loss, X, target, *rest, D, d),
                    kernels.hessian_vector(q.loss, q.X, q.y, *rest, D, d),
                )
    raw = on_host(kernels.raw_prediction(array_api_strict.asarray(q.X), q.coef, q.intercept))
    close([raw], [kernels.raw_prediction(q.X, q.coef, q.intercept)])
    standard = np.linspace(-1.0, 1.0, 11), np.linspace(0.5, 2.0, 11)
    of_parameters = (None, q.offsets, q.coef, q.intercept, q.k, True, None, standard)
    expected = kernels.hessian(q.loss, q.X, q.y, *of_parameters)
    for X in (array_api_strict.asarray(q.X), q.X):
        found = array_api.hessian(q.loss, X, q.y, *of_parameters)
        close(found, expected)
        np.testing.assert_array_equal(found[4], found[4].transpose(0, 2, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_output_has_the_bits_of_any_tile(dtype: Any) -> None:
    """Outputs are computed in tiles of rows and outputs: where a row or an output lies in them shows in no bit."""
    random = np.random.default_rng(3)
    X, coef, intercept = random.normal(size=(700, 45)).astype(dtype), random.normal(size=(7, 45)), random.normal(size=7)
    found = kernels.raw_prediction(X, coef, intercept)
    np.testing.assert_allclose(found, X.astype(float) @ coef.T + intercept, rtol=1e-12, atol=1e-12)
    y, offsets = random.normal(size=(700, 7)), np.array([0, 700])
    _, _, sums, _ = kernels.loss_and_gradient(SQUARED, X, y, None, offsets, coef, intercept, 1)
    np.testing.assert_allclose(sums, (found - y).T @ X.astype(float), rtol=1e-10, atol=1e-10)
    for outputs in ([0, 1], [6, 2, 3], [5, 4, 3, 2, 1]):
        np.testing.assert_array_equal(kernels.raw_prediction(X[3:], coef[outputs], intercept[outputs]), found[3:, outputs])
        _, _, own, _ = kernels.loss_and_gradient(SQUARED, X, y[:, outputs], None, offsets, coef[outputs], intercept[outputs], 1)
        np.testing.assert_array_equal(own, sums[outputs])


@njit
def side_by_side(X: Any, factor: Any, sums: Any, n_read: int, coef: Any, raw: Any) -> None:
    fused.add_and_dot(X, 1, len(factor), factor, sums, 1 + len(factor), n_read, coef, 0.5, raw)


@njit
def one_by_one(X: Any, factor: Any, sums: Any, n_read: int, coef: Any, raw: Any) -> None:
    dense.add_rows(X, 1, len(factor), factor, sums)
    dense.dot_rows(X, 1 + len(factor), n_read, coef, 0.5, raw)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_side_by_side_have_the_bits_of_blocks_one_by_one(dtype: Any) -> None:
    random = np.random.default_rng(4)
    for p in (17, 24, 28, 32, 33, 40, 63, 64, 100, 257):
        for n_added, n_read in ((0, 0), (0, 3), (1, 1), (8, 8), (56, 7), (9, 56)):
            X = random.normal(size=(1 + n_added + n_read, p)).astype(dtype)
            factor, coef = random.normal(size=n_added), random.normal(size=(1, p))
            found = []
            for add_up in (side_by_side, one_by_one):
                sums, raw = np.linspace(-1.0, 1.0, p), np.full(n_read + 1, -7.0)
                add_up(X, factor, sums, n_read, coef, raw)
                found.append((sums, raw))
            for one, other in zip(*found, strict=True):
                same_bits(one, other)
            np.testing.assert_allclose(found[0][0], np.linspace(-1.0, 1.0, p) + factor @ X[1 : 1 + n_added], atol=1e-12)
            np.testing.assert_allclose(found[0][1], np.append(X[1 + n_added :] @ coef[0] + 0.5, -7.0), atol=1e-12)


@pytest.mark.parametrize("kind", [*KINDS, "few", "array api"])
@pytest.mark.parametrize("case", [(LOGISTIC, 3, 1), (LOGISTIC, 3, 2), (HINGE, 3, 1), (MODIFIED_HUBER, 4, 2)], ids=str)
def test_outputs_are_problems_of_their_own(case: tuple[Loss, int, int], kind: str) -> None:
    """Several outputs, and the weights of their positive rows, against one output at a time with row weights."""
    q = make(*case, 7, [64, 0, 20])
    X, kernels = as_kind(q.X, kind), passes_for(kind)
    D, d = np.cos(q.coef), np.cos(q.intercept)
    factors = np.linspace(0.25, 2.0, q.c)

    def sums(y: Array, weight: Float64 | None, outputs: Any, k: int, factors: Float64 | None) -> list[Any]:
        rest = (q.loss, X, y, weight, q.offsets, q.coef[outputs], q.intercept[outputs], k)
        loss, weight_sum, *gradient = kernels.loss_and_gradient(*rest, factors)
        hessian = kernels.hessian(*rest, False, factors)
        close(hessian[:4], [loss, weight_sum, *gradient])
        return [loss, weight_sum, *gradient, *kernels.hessian_vector(*rest, D[outputs], d[outputs], factors), hessian[4]]

    for weight, positive in [(None, None), (q.weight, None), (None, factors), (q.weight, factors)]:
        together = sums(q.y, weight, slice(None), q.k, positive)
        row_weight = np.ones(len(q.y)) if weight is None else weight
        close(together[1:2], [row_weight.sum()])
        loss = np.zeros(q.k)
        for model in range(q.k):
            for a in range(q.c):
                j, y = model * q.c + a, np.ascontiguousarray(q.y[:, a])
                alone = sums(
                    y, row_weight if positive is None else row_weight * np.where(y == 1, positive[a], 1.0), slice(j, j + 1), 1, None
                )
                loss[model] += alone[0][0]
                close([part[j : j + 1] for part in together[2:6]], alone[2:6])
                own = slice(a * 7, (a + 1) * 7)
                close([together[6][model, own, own]], [alone[6][0]])
                assert not np.any(together[6][model, own, (a + 1) * 7 :])
        close([together[0]], [loss])


def test_passes_are_compiled_for_all_losses_at_once() -> None:
    """And losses of one shape share their arithmetic."""

    def run(loss: Loss) -> None:
        row_alone(loss, [0.3, 0.1] if loss.coupled else [0.3], 1)

    run(SQUARED)
    compiled = [len(each.overloads) for each in (loops.gradient_pass, loops.hessian_pass)]
    for loss in LOSSES.values():
        run(loss)
    assert [len(each.overloads) for each in (loops.gradient_pass, loops.hessian_pass)] == compiled
    names = {kind.name for kind, *_ in pointwise.block.overloads if "tasks.objectives.losses" in kind.name}
    assert len(names) == len({loss.kernel for loss in LOSSES.values()}) < len(LOSSES)


class LogCosh(RegressionLoss):
    """log cosh(raw - y): a loss of one's own."""

    name = "log cosh"

    def at(self, xp: Any, y: Any, raw: Any) -> tuple[Any, Any]:
        return xp.log(xp.cosh(raw - y)), xp.tanh(raw - y)

    def curvature(self, xp: Any, y: Any, raw: Any) -> Any:
        return 1.0 - xp.tanh(raw - y) ** 2

    @staticmethod
    def kernel(v: Any, parameters: Float64, weight: Any, y: Any, raw: Any) -> Any:
        zero, one = v.splat(0.0), v.splat(1.0)
        error = raw - y
        size = v.where_less(error, zero, zero - error, error)
        small = v.exp_nonpositive(zero - (size + size))
        tanh = (one - small) / (one + small)
        value = size + v.log1p_nonnegative(small) - v.splat(0.6931471805599453)
        return weight * value, weight * v.where_less(error, zero, zero - tanh, tanh), weight * (one - tanh * tanh)


def test_a_loss_of_ones_own() -> None:
    q = make(LogCosh(), 2, 2, 5, [40, 13])
    raw = np.einsum("ij,maj->ima", q.X, q.coef.reshape(2, 2, 5)) + q.intercept.reshape(1, 2, 2)
    value, slope = q.loss.at(np, q.y[:, None, :], raw)
    found = kernels.loss_and_gradient(q.loss, q.X, q.y, q.weight, q.offsets, q.coef, q.intercept, 2)
    expected = np.einsum("ima,i,ij->maj", slope, q.weight, q.X).reshape(4, 5), np.einsum("ima,i->ma", slope, q.weight).ravel()
    close(found, [np.einsum("ima,i->m", value, q.weight), q.weight.sum(), *expected])


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cupy_is_numpy(case: tuple[Loss, int, int]) -> None:
    """The same sums from rows on a device."""
    import cupy

    q = make(*case, 12, [70, 0, 30])
    X, y = cupy.asarray(q.X), cupy.asarray(q.y)
    found = kernels.loss_and_gradient(q.loss, X, y, cupy.asarray(q.weight), q.offsets, q.coef, q.intercept, q.k)
    close(found, kernels.loss_and_gradient(q.loss, q.X, q.y, q.weight, q.offsets, q.coef, q.intercept, q.k))


def test_a_kernel_refers_to_its_arguments_alone() -> None:
    """The machine code of one that refers to more would be found for another one, too."""

    def of_power(power: float) -> Any:
        def kernel(v: Any, parameters: Float64, weight: Any, y: Any, raw: Any) -> Any:
            return weight * v.splat(power) * raw, weight, weight

        return kernel

    def of_module(v: Any, parameters: Float64, weight: Any, y: Any, raw: Any) -> Any:
        return weight * v.splat(PARAMETER) * raw, weight, weight

    def nested(v: Any, parameters: Float64, weight: Any, y: Any, raw: Any) -> Any:
        return (lambda: weight)(), weight, weight

    for kernel, name in ((of_power(1.5), "power"), (of_module, "PARAMETER"), (nested, "<lambda>")):
        with pytest.raises(ValueError, match=f"{kernel.__name__} refers to .*{name}.*pass numbers as `parameters`"):
            pointwise.address_of(kernel, False)


# -- Gram matrices -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_a_number_of_a_gram_matrix_has_the_bits_of_any_tile(weighted: bool) -> None:
    """Where its two columns lie in the tiles shows in no bit, nor does what lies beside them; nothing is written outside of the matrix."""
    random = np.random.default_rng(5)
    p, n = 131, 1000
    X, y, weight = random.normal(size=(n, p)), random.normal(size=n), random.random(n) if weighted else None
    shift, factor, offsets = random.normal(size=p), np.exp2(random.integers(-3, 4, p)), np.array([0, 3, 260, 260, n])

    def gram(columns: Array) -> Float64:
        given = np.ascontiguousarray(X[:, columns]), y, weight, offsets, np.zeros((1, len(columns))), np.zeros(1), 1
        return kernels.hessian(SQUARED, *given, True, None, (shift[columns], factor[columns]), True)[4][0]

    whole, z = gram(np.arange(p)), np.column_stack([(X - shift) * factor, np.ones(n)])
    scale = np.sqrt(np.outer(np.diagonal(whole), np.diagonal(whole)))
    np.testing.assert_allclose((whole - z.T @ (z if weight is None else weight[:, None] * z)) / scale, 0.0, atol=1e-14)
    for count in (1, 3, 4, 7, 8, 9, 24, 25, 60, 130):
        some = np.sort(random.choice(p, count, replace=False))
        with_one = np.append(some, p)
        np.testing.assert_array_equal(gram(some), whole[np.ix_(with_one, with_one)])


@pytest.mark.parametrize("kind", [*KINDS, "few", "array api"])
@pytest.mark.parametrize(("k", "c"), [(1, 1), (1, 3), (2, 2)])
def test_outputs_of_constant_curvature_share_a_block(k: int, c: int, kind: str) -> None:
    """Bitwise the first block of the whole Hessian; no loss whose curvature is another one for each output has any."""
    q, passes = make(SQUARED, c, k, 5, [40, 0, 600, 13]), passes_for(kind)
    rest = (as_kind(q.X, kind), q.y, q.weight, q.offsets, q.coef, q.intercept, q.k)
    for fit_intercept in (True, False):
        whole, shared = (passes.hessian(q.loss, *rest, fit_intercept, shared=shared) for shared in (False, True))
        own = [*range(5), *([c * 5] if fit_intercept else [])]
        same_bits(shared, [*whole[:4], whole[4][:1, own][:, :, own]])
    with pytest.raises(AssertionError):
        kernels.hessian(LOGISTIC, *rest, True, shared=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_grams_in_a_basis_equal_the_definition(kind: str, weighted: bool, fit_intercept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of several blocks, too."""
    monkeypatch.setattr("tasks.kernels.basis.NUMBERS_A_BLOCK", 64 * 5)
    q, random = make(SQUARED, 3, 1, 5, [40, 0, 600, 13]), np.random.default_rng(3)
    X = as_kind(q.X, kind)
    shift, factor, basis = random.normal(size=5), np.exp2(random.integers(-3, 3, 5)), random.normal(size=(5, 5))
    weight = q.weight if weighted else np.ones(len(q.X))
    z = factor * (q.X - shift)
    error = z @ q.coef.T + q.intercept - q.y
    inside = np.column_stack([z @ basis, np.ones((len(z), int(fit_intercept)))])
    expected = (
        np.array([0.5 * weight @ np.sum(error**2, axis=1)]),
        weight.sum(),
        error.T @ (weight[:, None] * z),
        weight @ error,
        np.column_stack([inside.T @ (weight[:, None] * inside), inside.T @ (weight[:, None] * error)]),
    )
    given = q.weight if weighted else None
    rest = (q.offsets, q.coef, q.intercept, fit_intercept, (shift, factor), basis)
    close(kernels.gram_in_basis(q.loss, X, q.y, given, *rest), expected, 1e-11)
    if kind == "float64":
        other = array_api_strict.asarray(q.X)
        close(kernels.gram_in_basis(q.loss, other, array_api_strict.asarray(q.y), given, *rest), expected, 1e-11)
