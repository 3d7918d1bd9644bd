"""Steps of quadratic objectives by the Gram matrix of one output's columns, and by a factor of the rows where squares have lost digits.

Outputs do not meet: c outputs of p coefficients and perhaps an intercept, q numbers each, are c right sides of one matrix (q, q), or of one
for each penalty, where those differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from scipy import linalg

from tasks.objectives.evaluation import Evaluation
from tasks.strategies.newton import column, least_norm, lost_below, smallest_eigenvalue, solve_newton
from tasks.typing import Float64, Int64

EPSILON: Final = float(np.finfo(np.float64).eps)
ROUNDING_OF_SUMS: Final = 1e6 * EPSILON
"""As a share of the root of both sums of squares. Sums along the tree are far better, but within a partition row adds to row: 10 million
times the number 0.1 is wrong by a third of that, random numbers are by 100 ε."""
LEAST_SHARE: Final = 1e-6
"""Of a value: less than this, left by a step, has lost digits that are worth a look at the rows."""


class Step(NamedTuple):
    """parameters (n,): to be subtracted; gain: gradient' H^-1 gradient of that output where it is largest, twice what the step lowers the
    mean loss by; noise: the gain that is rounding of raw predictions; lost: whether something of the gradient lies along directions that
    were taken for zero."""

    parameters: Float64
    gain: float
    noise: float
    lost: bool


class After(NamedTuple):
    """Where a step leads, by the sums that it was made from: the value and the gradient (n,) there, and what a further step would gain at
    most, whatever rounding has done to the sums."""

    value: float
    gradient: Float64
    gain: float


class Basis(NamedTuple):
    """basis (p, p): coordinates of the columns; inverse (p, p): the columns by these coordinates."""

    basis: Float64
    inverse: Float64


class Outputs(NamedTuple):
    """How the parameters (n,) of c outputs lie: coef (c, p), then free (c, f); ridge (c, p): the curvature that penalties add."""

    p: int
    f: int
    ridge: Float64

    def rows(self, vector: Float64) -> Float64:
        """(n,) -> (c, q)."""
        return by_output(vector, self.ridge.size, len(self.ridge))

    def flat(self, rows: Float64) -> Float64:
        """(c, q) -> (n,)."""
        return by_parameter(rows, self.p)

    @property
    def alike(self) -> Iterator[tuple[Float64, Int64]]:
        """The different penalties (p,), and the outputs that have each."""
        ridges, which = np.unique(self.ridge, axis=0, return_inverse=True)
        for i, ridge in enumerate(ridges):
            yield ridge, np.flatnonzero(which.ravel() == i)


def by_output(vector: Float64, n_coef: int, c: int) -> Float64:
    """Parameters (n,) of c outputs, of which n_coef are coefficients -> those of each output (c, q), its coefficients first."""
    return np.concatenate([vector[:n_coef].reshape(c, -1), vector[n_coef:].reshape(c, -1)], axis=1)


def by_parameter(rows: Float64, p: int) -> Float64:
    """The reverse of `by_output`, of p coefficients an output."""
    return np.concatenate([rows[:, :p].ravel(), rows[:, p:].ravel()])


def outputs_of(evaluation: Evaluation, parameters: Float64) -> Outputs:
    """How the parameters (n,) lie, by an evaluation of a Gram oracle at them."""
    assert evaluation.hessian is not None
    q = len(evaluation.hessian)
    c = len(evaluation.gradient) // q
    p = q - evaluation.n_free // c
    return Outputs(p, q - p, evaluation.penalty.curvature(parameters[: c * p]).reshape(c, p))


def solve_gram(evaluation: Evaluation, parameters: Float64, hidden: Float64) -> Step:
    """The Newton step at `parameters` (n,), by the Gram matrix of the columns; hidden (p,): the size of what is rounding, by column."""
    assert evaluation.hessian is not None
    outputs = outputs_of(evaluation, parameters)
    gradients, p = outputs.rows(evaluation.gradient), outputs.p
    steps, gain, lost = np.zeros_like(gradients), 0.0, False
    units = None if evaluation.units is None else evaluation.units[:p]
    rounding = hidden * np.sqrt(2 * max(evaluation.value, 0.0))
    for ridge, own in outputs.alike:
        matrix = penalised(evaluation.hessian, ridge)
        right = gradients[own[0]] if len(own) == 1 else gradients[own].T
        step = solve_newton(matrix, right, outputs.f, units)
        steps[own] = step.T
        gain = max(gain, float(np.max(np.sum(step * right, axis=0))))
        lost |= bool(np.any(np.abs(right - matrix @ step)[:p] > column(rounding, right)))
    return Step(outputs.flat(steps), gain, noise(outputs, parameters), lost)


def after_step(evaluation: Evaluation, parameters: Float64, step: Float64) -> After:
    """What the Gram matrix of the rows and the penalty, at `parameters` (n,), say of parameters - step."""
    assert evaluation.hessian is not None
    outputs = outputs_of(evaluation, parameters)
    coef, penalty = slice(outputs.ridge.size), evaluation.penalty
    before, there = parameters[coef], parameters[coef] - step[coef]
    gradient = evaluation.gradient.copy()
    gradient[coef] -= penalty.gradient(before)
    steps, rest = outputs.rows(step), outputs.rows(gradient)
    lowered = float(np.sum(steps * (rest - 0.5 * steps @ evaluation.hessian)))
    value = evaluation.value - lowered + penalty.value(there) - penalty.value(before)
    gradient = outputs.flat(rest - steps @ evaluation.hessian)
    gradient[coef] += penalty.gradient(there)
    rest, way, gains = outputs.rows(gradient), np.abs(steps) + np.abs(outputs.rows(parameters)), [0.0]
    for ridge, own in outputs_of(evaluation, parameters - step).alike:
        gains.append(gain_left(penalised(evaluation.hessian, ridge), rest[own].T, way[own].T, evaluation.value))
    return After(value, gradient, float(np.max(gains)) if value > LEAST_SHARE * evaluation.value else np.inf)


def gain_left(matrix: Float64, rest: Float64, way: Float64, value: float) -> float:
    """What a further Newton step would gain, at most, of the output where that is most.

    rest (q, t): the gradients that are left by the sums; way (q, t): how far parameters were from zero, and went; value: where they were.
    In units of its column a sum is wrong by no more than ROUNDING_OF_SUMS of all that went into it. Infinite where the matrix (q, q) has a
    condition number above 1 / √ε, about 7e7, when its diagonal is one. Columns of zeros have nothing to gain.
    """
    used = np.diagonal(matrix) > 0
    if not np.any(used):
        return 0.0
    size = np.sqrt(np.diagonal(matrix)[used])
    scaled = matrix[np.ix_(used, used)] / size[:, None] / size
    try:
        smallest = smallest_eigenvalue(scaled, linalg.cholesky(scaled, lower=True))
    except linalg.LinAlgError:
        return np.inf
    if not smallest > np.sqrt(EPSILON) * len(size):
        return np.inf
    wrong = ROUNDING_OF_SUMS * (np.sqrt(2 * max(value, 0.0)) + size @ way[used])
    gradients = np.abs(rest[used]) / size[:, None] + wrong
    return float(np.max(np.sum(gradients * gradients, axis=0))) / smallest


def penalised(gram: Float64, ridge: Float64) -> Float64:
    """The Gram matrix (q, q) with the penalty's curvature (p,) on its diagonal."""
    matrix, diagonal = gram.copy(), np.arange(len(ridge))
    matrix[diagonal, diagonal] += ridge
    return matrix


def noise(outputs: Outputs, parameters: Float64) -> float:
    """The square of what rounding may do to the raw predictions of standardised rows."""
    return float(4 * EPSILON * np.max(np.sum(np.abs(outputs.rows(parameters)), axis=1))) ** 2


def basis_of(evaluation: Evaluation, parameters: Float64) -> Basis:
    """Coordinates in which the Gram matrix (q, q) of an evaluation is about the identity, but along what it has lost; zero for columns
    that are."""
    assert evaluation.hessian is not None
    outputs = outputs_of(evaluation, parameters)
    p = outputs.p
    matrix = penalised(evaluation.hessian, outputs.ridge[0])
    cross, corner = matrix[:p, p:], matrix[p:, p:]
    centred = matrix[:p, :p] - (cross / corner) @ cross.T if outputs.f else matrix
    used = np.flatnonzero(np.diagonal(centred) > 0)
    scale = 1.0 / np.sqrt(np.diagonal(centred)[used])
    values, vectors = linalg.eigh(centred[np.ix_(used, used)] * scale[:, None] * scale[None, :])
    root = np.sqrt(np.maximum(values, lost_below(p)))
    basis, inverse = np.zeros((p, p)), np.zeros((p, p))
    basis[np.ix_(used, used)] = scale[:, None] * vectors / root
    inverse[np.ix_(used, used)] = (root[:, None] * vectors.T) / scale
    return Basis(basis, inverse)


def solve_in_basis(evaluation: Evaluation, parameters: Float64, coordinates: Basis, hidden: Float64) -> Step:
    """The Newton step at `parameters` (n,), by the Gram matrix and the gradients (q, q + c) in these coordinates.

    Their factor times the inverse of the basis is one of the rows, with the digits that an orthogonal factor has. Directions (p,) that are
    shorter than `hidden` are none: the columns' own rounding.
    """
    assert evaluation.hessian is not None
    outputs = outputs_of(evaluation, parameters)
    basis, inverse = coordinates
    p, q = outputs.p, outputs.p + outputs.f
    gram, slopes = evaluation.hessian[:, :q], evaluation.hessian[:, q:].copy()
    at = outputs.rows(parameters)[:, :p]
    slopes[:p] += basis.T @ evaluation.penalty.gradient(at.ravel()).reshape(at.shape).T
    steps, gain = np.zeros((len(outputs.ridge), q)), 0.0
    units = np.ones(p) if evaluation.units is None else evaluation.units[:p]
    for ridge, own in outputs.alike:
        matrix, right = gram[:p, :p] + basis.T @ (ridge[:, None] * basis), slopes[:p, own]
        if outputs.f:
            cross, corner = gram[:p, p:], gram[p, p]
            matrix, right = matrix - (cross / corner) @ cross.T, right - (cross / corner) @ slopes[p:, own]
        step, gains = solve_factor(matrix, right, inverse, hidden, at[own].T, units)
        steps[own, :p] = step.T
        if outputs.f:
            steps[own, p:] = ((slopes[p:, own] - cross.T @ (inverse @ step)) / corner).T
        gain = max(gain, float(np.max(gains)))
    return Step(outputs.flat(steps), gain, noise(outputs, parameters), lost=False)


def solve_factor(
    matrix: Float64, right: Float64, inverse: Float64, hidden: Float64, at: Float64, units: Float64
) -> tuple[Float64, Float64]:
    """The steps (p, t) by the columns, and their gains (t,), from a matrix (p, p) and right sides (p, t) in the coordinates of a basis.

    They lead from `at` (p, t) to the solutions of least norm, whatever earlier steps have left there along what is no direction.
    """
    values, vectors = linalg.eigh(matrix)
    root = np.sqrt(np.maximum(values, 0.0))
    along = vectors.T @ right
    along = np.divide(along, root[:, None], out=np.zeros_like(along), where=root[:, None] > 0)
    left, sizes, directions = linalg.svd((root[:, None] * vectors.T) @ inverse / hidden)
    kept = sizes > 1.0
    parts = left[:, kept].T @ along
    step = (directions[kept].T @ (parts / sizes[kept, None])) / hidden[:, None]
    order = np.argsort(kept, kind="stable")
    best = least_norm(at - step, 1.0 / hidden, directions[order].T, int(np.sum(~kept)), units)
    return at - best, np.sum(parts * parts, axis=0)
