"""Strategies as pure functions, on problems with known answers; no Dask here."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import linalg
from scipy.optimize import rosen, rosen_der, rosen_hess

from tasks.objectives.base import add_sums
from tasks.objectives.evaluation import Evaluation, evaluate, evaluate_product
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.penalties import L2, Penalty
from tasks.objectives.standardisation import Standardisation
from tasks.rows.partition import Group
from tasks.strategies.base import Request, Strategy, rounding_level
from tasks.strategies.factors import after_step, solve_gram
from tasks.strategies.gradient_descent import GradientDescent
from tasks.strategies.lbfgs import LBFGS, times
from tasks.strategies.line_search import Point, acceptable
from tasks.strategies.newton import Newton, solve_least_norm, solve_newton
from tasks.strategies.newton_cg import NewtonCG
from tasks.strategies.quadratic_newton import QuadraticNewton
from tasks.strategies.sampled_lbfgs import SampledLBFGS
from tasks.strategies.sampled_newton import SampledNewton
from tasks.typing import Array

Float64 = NDArray[np.float64]


class Quadratic:
    """½ (w - solution)' A (w - solution) with eigenvalues from 0.1 to 10."""

    def __init__(self, n: int = 12) -> None:
        random = np.random.default_rng(0)
        basis, _ = np.linalg.qr(random.normal(size=(n, n)))
        self.A = basis @ np.diag(np.geomspace(0.1, 10, n)) @ basis.T
        self.solution = random.normal(size=n)

    def __call__(self, w: Float64) -> tuple[float, Float64, Float64]:
        d = w - self.solution
        return 0.5 * float(d @ self.A @ d), self.A @ d, self.A


def rosenbrock(w: Float64) -> tuple[float, Float64, Float64]:
    return float(rosen(w)), rosen_der(w), rosen_hess(w)


def answer(function: Any, request: Request) -> Evaluation:
    value, gradient, hessian = function(request.parameters)
    if request.oracle == "hessian_vector":
        return Evaluation(np.nan, hessian @ request.direction, None, 0)
    if request.oracle == "hessian_blocks":
        return Evaluation(value, gradient, hessian[None], 0)
    return Evaluation(value, gradient, hessian if "hessian" in request.oracle else None, 0)


def run(strategy: Strategy, function: Any, start: Float64, limit: int = 5000) -> tuple[Any, int]:
    """The final state and the rounds taken."""
    state = strategy.init(start)
    rounds = 0
    while state.status.kind == "running":
        state = strategy.update(state, answer(function, strategy.request(state)))
        rounds += 1
        assert rounds < limit, state.status
    return state, rounds


ALL = {
    "gradient-descent": GradientDescent(tol=1e-10, max_iter=4000),
    "fixed step": GradientDescent(step_size=0.1, tol=1e-10, max_iter=4000),
    "momentum": GradientDescent(step_size=0.1, momentum=0.8, tol=1e-10, max_iter=4000),
    "nesterov": GradientDescent(nesterov=True, tol=1e-10, max_iter=4000),
    "nesterov, fixed step": GradientDescent(step_size=0.1, nesterov=True, tol=1e-10, max_iter=4000),
    "lbfgs": LBFGS(tol=1e-10),
    "newton": Newton(tol=1e-10),
    "newton-cg": NewtonCG(tol=1e-10),
    "sampled-newton": SampledNewton(tol=1e-10),
    "sampled-lbfgs": SampledLBFGS(tol=1e-10),
}


@pytest.mark.parametrize("strategy", ALL.values(), ids=ALL)
def test_quadratic(strategy: Strategy) -> None:
    quadratic = Quadratic()
    state, _ = run(strategy, quadratic, np.zeros(12))
    assert state.status.kind == "converged"
    np.testing.assert_allclose(state.iterate.parameters, quadratic.solution, atol=2e-9)


@pytest.mark.parametrize("n_free", [0, 3])
@pytest.mark.parametrize("common", [False, True])
def test_blocks_times_a_vector_are_a_matrix_of_the_parameters(n_free: int, common: bool) -> None:
    """The matrix that `times` stands for, built from its definition: symmetric, and of all outputs alike the factor alone."""
    random = np.random.default_rng(2)
    c, p = 3, 4
    q = p + n_free // c
    roots, factor = random.normal(size=(c, q, q)), random.random(q) if common else None
    blocks = roots @ roots.transpose(0, 2, 1)
    whole = np.column_stack([times(blocks, unit, n_free, factor) for unit in np.eye(c * q)])
    np.testing.assert_allclose(whole, whole.T, atol=1e-12)
    place = [[*range(a * p, (a + 1) * p), *range(c * p + a * (q - p), c * p + (a + 1) * (q - p))] for a in range(c)]
    each = linalg.block_diag(*blocks)
    if common:
        mean = np.kron(np.full((c, c), 1 / c), np.eye(q))
        rest = np.eye(c * q) - mean
        each = rest @ each @ rest + mean @ np.diag(np.tile(factor, c))  # type: ignore[arg-type]
    order = np.concatenate(place)
    np.testing.assert_allclose(whole[np.ix_(order, order)], each, atol=1e-12)


def test_newton_needs_one_step_for_a_quadratic() -> None:
    state, rounds = run(Newton(tol=1e-10), Quadratic(), np.zeros(12))
    assert (state.iteration, rounds) == (1, 2)


def test_momentum_and_nesterov_take_fewer_steps_than_plain_descent() -> None:
    plain, momentum, nesterov = (run(ALL[name], Quadratic(), np.zeros(12))[0].iteration for name in ("fixed step", "momentum", "nesterov"))
    assert momentum < plain / 3
    assert nesterov < plain / 2


@pytest.mark.parametrize("strategy", [LBFGS(tol=1e-8, max_iter=500), Newton(tol=1e-8)], ids=["lbfgs", "newton"])
def test_rosenbrock(strategy: Strategy) -> None:
    """Not convex: the line searches have work to do."""
    state, _ = run(strategy, rosenbrock, np.array([-1.2, 1.0]))
    np.testing.assert_allclose(state.iterate.parameters, 1.0, atol=1e-6)


def test_lbfgs_steps_satisfy_the_strong_wolfe_conditions() -> None:
    strategy, state = LBFGS(tol=1e-8, max_iter=500), LBFGS().init(np.array([-1.2, 1.0]))
    while state.status.kind == "running":
        request = strategy.request(state)
        value, gradient, _ = rosenbrock(request.parameters)
        new = strategy.update(state, Evaluation(value, gradient, None, 0))
        if new.iteration > state.iteration:
            start = state.iterate
            slope, end = float(start.gradient @ state.direction), float(gradient @ state.direction)
            assert value <= start.value + 1e-4 * state.search.step * slope + 1e-12
            assert abs(end) <= 0.9 * abs(slope) + 1e-12
        state = new
    assert state.iteration > 10


def test_a_value_that_is_not_finite_is_never_acceptable() -> None:
    start = Point(0.0, 1.0, -1.0)
    assert not acceptable(start, Point(1.0, np.nan, -0.1), 0.0)
    assert not acceptable(start, Point(1.0, -np.inf, np.nan), 0.0)
    assert acceptable(start, Point(1.0, 0.5, -0.1), 0.0)


def test_divergence_and_running_out_say_why() -> None:
    state, _ = run(GradientDescent(step_size=1e3), Quadratic(), np.zeros(12))
    assert state.status.kind == "diverged"
    assert "step_size" in state.status.reason
    state, _ = run(LBFGS(max_iter=2, tol=0.0), Quadratic(), np.zeros(12))
    assert state.status.kind == "out of rounds"
    assert "max_iter=2" in state.status.reason


def test_a_start_that_is_not_finite_ends_at_once() -> None:
    def overflowing(w: Float64) -> tuple[float, Float64, Float64]:
        return np.inf, w * np.nan, np.eye(len(w))

    for strategy in ALL.values():
        state, rounds = run(strategy, overflowing, np.ones(3))
        assert state.status.kind == "diverged"
        assert rounds <= 2


@pytest.mark.parametrize("strategy", ALL.values(), ids=ALL)
def test_the_accepted_point_has_its_own_value_and_gradient(strategy: Strategy) -> None:
    """Whenever a callback may look, or stop the fit."""
    quadratic = Quadratic()
    state = strategy.init(np.zeros(12))
    while state.status.kind == "running":
        state = strategy.update(state, answer(quadratic, strategy.request(state)))
        value, gradient, _ = quadratic(state.iterate.parameters)
        assert state.iterate.value == value
        np.testing.assert_array_equal(state.iterate.gradient, gradient)


def test_a_sample_of_rows_speaks_until_all_rows_have_been_evaluated() -> None:
    strategy, quadratic = SampledNewton(tol=1e-10), Quadratic()
    state = strategy.init(np.zeros(12))
    while state.full is None:
        state = strategy.update(state, answer(quadratic, strategy.request(state)))
    assert state.iterate is state.sample.iterate
    request = strategy.request(state)
    state = strategy.update(state, answer(quadratic, request))
    np.testing.assert_array_equal(state.iterate.parameters, request.parameters)


# -- the state is all that a fit remembers -------------------------------------------------------------------------------------------


def some_rows(start: int = 0, stop: int = 8) -> tuple[LinearObjective, Group]:
    """Partitions start to stop of 8, weighted by row and by class."""
    random = np.random.default_rng(3)
    X, y, weight = random.normal(size=(400, 6)) * np.geomspace(0.1, 10, 6), random.integers(0, 2, 400), random.random(400)
    offsets = np.array([0, 31, 31, 100, 170, 171, 250, 333, 400])
    rows = slice(offsets[start], offsets[stop])
    objective = LinearObjective(LOSSES["logistic"], 6, 1, True, np.arange(2), np.array([0.3, 1.7]))
    return objective, Group(X[rows], y[rows], weight[rows], offsets[start : stop + 1] - offsets[start], start)


def one_round(strategy: Strategy, state: Any) -> Any:
    objective, group = some_rows()
    request, layout = strategy.request(state), objective.layout
    parameters = request.parameters[None]
    if request.oracle == "hessian_vector":
        assert request.direction is not None
        partial = objective.hessian_vector(group, parameters, request.direction[None])
        return strategy.update(state, evaluate_product(partial, 0, layout, L2(0.01), request.direction))
    partial = objective.hessian(group, parameters) if "hessian" in request.oracle else objective.loss_and_gradient(group, parameters)
    return strategy.update(state, evaluate(partial, 0, layout, L2(0.01), request.parameters))


def to_the_end(strategy: Strategy, state: Any) -> Any:
    while state.status.kind == "running":
        state = one_round(strategy, state)
    return state


def test_a_fit_goes_on_from_a_state_saved_in_the_middle_of_an_inner_solve() -> None:
    strategy = NewtonCG(tol=1e-9)
    state = strategy.init(np.zeros(7))
    while state.iteration < 2 or state.solve is None or state.solve.products < 2:
        state = one_round(strategy, state)
    saved = pickle.dumps(state)
    end, resumed = to_the_end(strategy, state), to_the_end(strategy, pickle.loads(saved))
    assert end.status.kind == "converged"
    assert resumed.iteration == end.iteration > state.iteration
    assert resumed.iterate.parameters.tobytes() == end.iterate.parameters.tobytes()


def test_product_rounds_bring_the_weight_of_their_rows_however_groups_are_cut() -> None:
    objective, whole = some_rows()
    at, direction = np.random.default_rng(4).normal(size=(2, 1, 7))
    found = objective.hessian_vector(whole, at, direction)
    halves = [objective.hessian_vector(some_rows(a, b)[1], at, direction) for a, b in ((0, 4), (4, 8))]
    np.testing.assert_array_equal(add_sums(*halves).weight_sum, found.weight_sum)
    assert found.weight_sum == pytest.approx(objective.loss_and_gradient(whole, at).weight_sum, rel=1e-14)
    unweighted = LinearObjective(LOSSES["logistic"], 6, 1, True, np.arange(2), np.array([1.0, 0.0]))
    assert unweighted.hessian_vector(whole, at, direction).weight_sum == pytest.approx([whole.sample_weight[whole.y == 0].sum()])  # type: ignore[index]


# -- hyperparameters -----------------------------------------------------------------------------------------------------------------


FULL_PASSES = (GradientDescent, LBFGS, Newton, NewtonCG, QuadraticNewton, SampledNewton, SampledLBFGS)
IMPOSSIBLE: list[tuple[type, str, Any]] = [
    *[(kind, "tol", tol) for kind in FULL_PASSES for tol in (-1e-9, np.nan, "small")],
    *[(kind, "max_iter", count) for kind in FULL_PASSES for count in (0, 2.5, None)],
    *[(kind, "memory", count) for kind in (LBFGS, SampledNewton, SampledLBFGS) for count in (0, -1)],
    *[(kind, "row_step", count) for kind in (Newton, SampledNewton, SampledLBFGS) for count in (0, 1.5)],
    (Newton, "decrement_tol", np.nan),
    (NewtonCG, "max_products", 0),
    *[(kind, "sample_tol", -1.0) for kind in (SampledNewton, SampledLBFGS)],
    *[(GradientDescent, "step_size", step) for step in (0.0, -1.0, np.nan, np.inf, "fixed")],
]


@pytest.mark.parametrize(("kind", "name", "value"), IMPOSSIBLE, ids=lambda x: getattr(x, "__name__", str(x)))
def test_impossible_hyperparameters(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got "):
        kind(**{name: value})


def test_impossible_momentum() -> None:
    for wrong in ({"momentum": 1.0, "step_size": 0.1}, {"momentum": 0.5}):
        with pytest.raises(ValueError, match="momentum"):
            GradientDescent(**wrong)


@pytest.mark.parametrize("n_free", [0, 1, 3])
def test_solve_newton_against_numpy(n_free: int) -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(50, 8)) * np.geomspace(1e-3, 1e3, 8)
    hessian, gradient = rows.T @ rows, random.normal(size=8)
    np.testing.assert_allclose(hessian @ solve_newton(hessian, gradient, n_free), gradient, rtol=1e-8, atol=1e-8)


def test_singular_systems_give_the_least_norm() -> None:
    random = np.random.default_rng(2)
    rows = random.normal(size=(50, 5))
    rows = np.hstack([rows, rows[:, :2] + rows[:, 2:4], np.zeros((50, 1))])
    matrix = rows.T @ rows
    right = matrix @ random.normal(size=8)
    np.testing.assert_allclose(solve_least_norm(matrix, right), np.linalg.lstsq(matrix, right, rcond=1e-12)[0], atol=1e-10)


# -- certificates --------------------------------------------------------------------------------------------------------------------


def wrong_sign(w: Float64) -> tuple[float, Float64, Float64]:
    """Its gradient points downhill."""
    value, gradient, hessian = Quadratic()(w)
    return value, -gradient, hessian


def always_higher() -> Any:
    """Each evaluation gives a higher value than all before."""
    values = itertools.count(1.0)
    return lambda w: (next(values), np.linspace(1.0, 2.0, len(w)), np.eye(len(w)))


def steep(w: Float64) -> tuple[float, Float64, Float64]:
    """A quadratic in units that make its gradient 1e8, and its steps 1e-10."""
    value, gradient, hessian = Quadratic()(w * 1e9)
    return value, gradient * 1e9, hessian * 1e18


@pytest.mark.parametrize("strategy", ALL.values(), ids=ALL)
@pytest.mark.parametrize("function", [wrong_sign, always_higher], ids=["wrong sign", "always higher"])
def test_a_failed_search_is_no_convergence(strategy: Strategy, function: Any) -> None:
    state, _ = run(strategy, function if function is wrong_sign else function(), np.zeros(12))
    assert state.status.kind != "converged", state.status


@pytest.mark.parametrize("name", ["lbfgs", "newton", "newton-cg", "sampled-newton", "sampled-lbfgs"])
def test_steps_of_any_size_are_found(name: str) -> None:
    state, _ = run(dataclasses.replace(ALL[name], tol=0.1), steep, np.zeros(12))
    assert state.status.kind == "converged", state.status
    np.testing.assert_allclose(1e9 * state.iterate.parameters, Quadratic().solution, atol=2e-9)


@pytest.mark.parametrize("strategy", ALL.values(), ids=ALL)
def test_convergence_has_a_certificate(strategy: Strategy) -> None:
    """With a tolerance below what rounding leaves: either the gradient is as small all the same, or a Newton step would gain nothing."""
    strict = dataclasses.replace(strategy, tol=1e-300)
    state, _ = run(strict, Quadratic(), np.full(12, 3.0))
    value, gradient, hessian = Quadratic()(state.iterate.parameters)
    if state.status.kind == "converged" and np.max(np.abs(gradient)) > 1e-300:
        assert 0.5 * gradient @ np.linalg.solve(hessian, gradient) <= rounding_level(value)
        assert isinstance(strategy, Newton | NewtonCG)


def test_what_the_hessian_cannot_see_is_no_convergence() -> None:
    """The gradient has a part along which the Hessian is zero: no Newton step lowers that."""

    def half_seen(w: Float64) -> tuple[float, Float64, Float64]:
        return 0.5 * float(w[0] ** 2) + 1e-3 * float(w[1]) + 1e6, np.array([w[0], 1e-3]), np.diag([1.0, 0.0])

    state, _ = run(Newton(tol=1e-6), half_seen, np.ones(2))
    assert state.status.kind == "stalled"
    assert "0.001" in state.status.reason


def test_lbfgs_goes_on_where_values_are_rounding() -> None:
    """By the slopes alone: a constant beside the values hides all that is left to gain."""

    def beside_a_constant(w: Float64) -> tuple[float, Float64, Float64]:
        value, gradient, hessian = Quadratic()(w)
        return value + 1e3, gradient, hessian

    state, _ = run(LBFGS(tol=1e-12, max_iter=300), beside_a_constant, np.zeros(12))
    assert state.status.kind == "converged", state.status
    np.testing.assert_allclose(state.iterate.parameters, Quadratic().solution, rtol=1e-9)


# -- ranks, units and quadratics -----------------------------------------------------------------------------------------------------


def test_a_duplicate_elsewhere_takes_no_direction_away() -> None:
    """One rule for a matrix that Cholesky takes and the same beside an exact duplicate: here a direction of 1e-12 of the others' size."""
    random = np.random.default_rng(0)
    basis, _ = np.linalg.qr(random.normal(size=(30, 30)))
    sizes = np.linspace(0.5, 1.5, 30)
    sizes[0] = 1e-12
    matrix = (basis * sizes) @ basis.T
    right = matrix @ np.ones(30)
    alike = np.block([[np.full((100, 100), 1.0), np.zeros((100, 30))], [np.zeros((30, 100)), matrix]])
    step = solve_least_norm(alike, np.concatenate([np.ones(100), right]))
    np.testing.assert_allclose(step[:100], 0.01, rtol=1e-9)
    np.testing.assert_allclose(step[100:], solve_least_norm(matrix, right), atol=1e-2)


def test_several_right_sides_are_solved_as_each_alone() -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(50, 8))
    for matrix in (rows.T @ rows, np.block([[rows.T @ rows] * 2] * 2)):
        right = matrix @ random.normal(size=(len(matrix), 3))
        together = solve_newton(matrix, right, 1, np.geomspace(1, 100, len(matrix) - 1))
        for i in range(3):
            np.testing.assert_allclose(
                together[:, i], solve_newton(matrix, right[:, i], 1, np.geomspace(1, 100, len(matrix) - 1)), rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**40])
def test_no_step_of_conjugate_gradients_hangs_on_the_unit_of_the_objective(unit: float) -> None:
    def in_units(w: Float64) -> tuple[float, Float64, Float64]:
        value, gradient, hessian = Quadratic()(w)
        return unit * value, unit * gradient, unit * hessian

    (plain, rounds), (scaled, other) = (
        run(NewtonCG(tol=1e-10 * by), function, np.zeros(12)) for by, function in ((1.0, Quadratic()), (unit, in_units))
    )
    assert rounds == other
    np.testing.assert_array_equal(plain.iterate.parameters, scaled.iterate.parameters)


def test_each_parameter_has_its_share_of_the_tolerance() -> None:
    strategy = NewtonCG(tol=1e-3, shares=np.geomspace(1e-9, 1.0, 12))
    state, _ = run(strategy, Quadratic(), np.zeros(12))
    assert state.status.kind == "converged"
    assert np.all(np.abs(state.iterate.gradient) <= 1e-3 * np.geomspace(1e-9, 1.0, 12))


@pytest.mark.parametrize("unit", [2.0**-40, 1.0, 2.0**40])
def test_divergence_is_seen_in_any_unit_of_the_objective(unit: float) -> None:
    """In the same round; and a start next to the optimum, from which momentum leads away for a while, is none."""

    def in_units(w: Float64) -> tuple[float, Float64, Float64]:
        value, gradient, hessian = Quadratic()(w)
        return unit * value, unit * gradient, unit * hessian

    state, rounds = run(GradientDescent(step_size=0.3 / unit, tol=1e-10 * unit), in_units, np.zeros(12))
    assert state.status.kind == "diverged"
    assert rounds == run(GradientDescent(step_size=0.3, tol=1e-10), Quadratic(), np.zeros(12))[1]


def columns(X: Float64, y: Float64, c: int = 1) -> tuple[LinearObjective, Group]:
    return LinearObjective(LOSSES["squared"], X.shape[1], c, True), Group(X, y, None, np.array([0, len(X)]), 0)


def fit_quadratic(strategy: QuadraticNewton, objective: LinearObjective, group: Group, penalty: Penalty) -> tuple[Any, list[str]]:
    """The final state, and what was asked."""
    state, asked = strategy.init(np.zeros(objective.layout.size)), []
    while state.status.kind == "running":
        request = strategy.request(state)
        asked.append(request.oracle)
        at = request.parameters[None]
        sums = objective.gram(group, at) if request.direction is None else objective.gram_in_basis(group, at, request.direction[None])
        evaluation = evaluate(sums, 0, objective.layout, penalty, request.parameters, gram=True)
        state = pickle.loads(pickle.dumps(strategy.update(state, evaluation)))  # as checkpoints have it
        assert len(asked) < 20
    return state, asked


def test_a_quadratic_takes_a_step() -> None:
    random = np.random.default_rng(0)
    X, Y = random.normal(size=(60, 4)), random.normal(size=(60, 3))
    penalty = L2(np.repeat([0.1, 0.1, 2.0], 4))
    objective, group = columns(X, Y, 3)
    state, asked = fit_quadratic(QuadraticNewton(), objective, group, penalty)
    assert (state.status.kind, asked, state.iteration) == ("converged", ["gram"], 1)
    at = state.iterate.parameters
    there = evaluate(objective.gram(group, at[None]), 0, objective.layout, penalty, at, gram=True)
    assert state.iterate.value == pytest.approx(there.value, rel=1e-12)
    np.testing.assert_allclose(state.iterate.gradient, there.gradient, atol=1e-13)
    for target, strength in enumerate([0.1, 0.1, 2.0]):
        centred = X - X.mean(axis=0)
        wanted = np.linalg.solve(centred.T @ centred / 60 + strength * np.eye(4), centred.T @ Y[:, target] / 60)
        np.testing.assert_allclose(state.iterate.parameters[: 3 * 4].reshape(3, 4)[target], wanted, rtol=1e-9)


@pytest.mark.parametrize("near", [1.0, 1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_what_sums_say_of_a_step_holds_where_it_leads(near: float, offset: float) -> None:
    """By another pass over the rows: the gain that is left is within the bound that certifies a step, and value and gradient are right."""
    random = np.random.default_rng(1)
    X = random.normal(size=(5000, 6))
    X[:, 3:] = X[:, :3] + near * X[:, 3:]
    y = X @ random.normal(size=6) + random.normal(size=5000)
    objective, group = columns(X + offset, y)
    mean = Standardisation(np.full(6, offset), np.ones(6))
    objective = dataclasses.replace(objective, standard=mean)

    def at(parameters: Float64) -> Evaluation:
        return evaluate(objective.gram(group, parameters[None]), 0, objective.layout, L2(0.0), parameters, gram=True)

    start = random.normal(size=7)
    first = at(start)
    assert first.hessian is not None
    step = solve_gram(first, start, np.zeros(6)).parameters
    said, found = after_step(first, start, step), at(start - step)
    assert said.value == pytest.approx(found.value, rel=1e-9)
    np.testing.assert_allclose(said.gradient, found.gradient, atol=1e-10)
    assert float(found.gradient @ np.linalg.solve(first.hessian, found.gradient)) <= said.gain < (1e-12 if near >= 0.1 else np.inf)


@pytest.mark.parametrize("value", [0.1, 0.3])
def test_what_sums_say_of_a_step_holds_for_numbers_that_all_round_alike(value: float) -> None:
    """A column of one number, or of two, in one long partition: rounding of its sums, found by exact ones, is no longer at random."""
    random = np.random.default_rng(0)
    n = 1_000_000
    x = np.full(n, value) if value == 0.1 else np.where(random.random(n) < 0.3, value + 0.1, value)
    y = np.where(random.random(n) < 0.4, 1.3, 0.2)
    objective = LinearObjective(LOSSES["squared"], 1, 1, False)
    start = np.zeros(1)
    sums = objective.gram(Group(x[:, None], y, None, np.array([0, n]), 0), start[None])
    first = evaluate(sums, 0, objective.layout, L2(0.0), start, gram=True)
    step = solve_gram(first, start, np.zeros(1)).parameters
    gram, slope = math.fsum(x * x) / n, -math.fsum(x * y) / n  # products round by ½ ε each, at random or alike
    assert (slope - gram * step[0]) ** 2 / gram <= after_step(first, start, step).gain < 1e-12


class Bowl:
    """Σ √(1 + coef²) - 1: smooth, but not quadratic."""

    kinks = False

    def value(self, coef: Array) -> float:
        return float(np.sum(np.sqrt(1.0 + coef * coef) - 1.0))

    def gradient(self, coef: Array) -> Array:
        return coef / np.sqrt(1.0 + coef * coef)

    def curvature(self, coef: Array) -> Array:
        return (1.0 + coef * coef) ** -1.5

    def prox(self, coef: Array, step: float) -> Array:
        return coef


@pytest.mark.parametrize("c", [1, 2])
def test_a_quadratic_with_a_penalty_that_is_none_is_not_certified_by_its_first_step(c: int) -> None:
    random = np.random.default_rng(0)
    X = random.normal(size=(500, 3))
    y = X @ (5.0 * random.normal(size=(3, c))) + random.normal(size=(500, c))
    objective, group = columns(X, y if c > 1 else y[:, 0], c)
    state, asked = fit_quadratic(QuadraticNewton(), objective, group, Bowl())
    assert state.status.kind == "converged"
    assert len(asked) > 2
    at = state.iterate.parameters
    found = evaluate(objective.gram(group, at[None]), 0, objective.layout, Bowl(), at, gram=True)
    np.testing.assert_allclose(found.gradient, 0.0, atol=1e-5)


@pytest.mark.parametrize("c", [1, 2])
def test_columns_of_zeros_have_coefficients_of_zero(c: int) -> None:
    objective = LinearObjective(LOSSES["squared"], 2, c, False)
    y = np.arange(50.0 * c).reshape(50, c)
    state, _ = fit_quadratic(QuadraticNewton(), objective, Group(np.zeros((50, 2)), y, None, np.array([0, 50]), 0), L2(0.0))
    assert state.status.kind == "converged"
    assert not np.any(state.iterate.parameters)


@pytest.mark.parametrize("why", ["tolerance", "residuals", "columns", "far from zero"])
def test_a_quadratic_takes_a_look_where_sums_cannot_certify_its_step(why: str) -> None:
    random = np.random.default_rng(0)
    X, noise = random.normal(size=(200, 3)), random.normal(size=200)
    if why == "columns":
        X[:, 2] = X[:, 0] + 1e-7 * X[:, 1]  # the sums' own gradient says nothing along their difference
    if why == "far from zero":
        X += 1e9
    y = X.sum(axis=1) + (1e-5 if why == "residuals" else 1.0) * noise
    state, asked = fit_quadratic(QuadraticNewton(tol=0.0 if why == "tolerance" else 1e-6), *columns(X, y), L2(0.0))
    assert state.status.kind in ("converged", "stalled"), state.status
    assert asked[:2] == ["gram", "gram"]


def test_a_quadratic_that_lost_digits_is_asked_for_in_a_basis() -> None:
    """Also from a tolerance of zero: it ends at rounding."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 80))
    X = np.column_stack([a, a + 1e-9 * b])
    for tol in (1e-6, 0.0):
        state, asked = fit_quadratic(QuadraticNewton(tol=tol), *columns(X, b), L2(0.0))
        assert state.status.kind == "converged", state.status
        assert asked[:3] == ["gram", "gram", "gram_in_basis"]
        np.testing.assert_allclose(state.iterate.parameters[:2], [-1e9, 1e9], rtol=1e-6)


def test_a_loss_whose_curvature_is_not_constant_has_no_gram() -> None:
    objective, group = some_rows()
    with pytest.raises(TypeError, match="the logistic loss has no Gram matrix, because its curvature is not constant; use Newton"):
        objective.gram(group, np.zeros((1, 7)))
