"""The mini-batch strategy against its formulas, written out in NumPy and fed with the same batches; no Dask here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from tasks.objectives.evaluation import Evaluation
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.networks import NetworkObjective
from tasks.objectives.penalties import L2, ElasticNet
from tasks.reductions.reduction import reduce_groups
from tasks.rounds.fitting import Fit
from tasks.rows.batches import HELD_OUT, Batch, Sampling, select
from tasks.rows.partition import Group
from tasks.strategies.optimizers import Adam, AdamW, Momentum
from tasks.strategies.schedules import Constant, InverseScaling
from tasks.strategies.stochastic_gradient import SMALLEST_SCALE, StochasticGradient, StochasticGradientState

Float64 = NDArray[np.float64]
RANDOM = np.random.default_rng(0)
N, P = 90, 4
X = RANDOM.normal(size=(N, P))
Y = (RANDOM.random(N) < expit(X @ [1.0, -2.0, 0.0, 0.5] + 0.3)).astype(np.int64)
WEIGHT = np.where(RANDOM.random(N) < 0.2, 0.0, RANDOM.random(N) + 0.5)
L2_STRENGTH = 0.05
PENALTY = L2(L2_STRENGTH)
OBJECTIVE = LinearObjective(LOSSES["logistic"], P, 1, True, np.arange(2))


def groups_of(*columns: Any, sizes: Sequence[int] = (40, 1, 0, 49)) -> list[Group]:
    """X, y and perhaps sample_weight cut into groups."""
    rows, y, weight = (*columns, None)[:3]
    bounds = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    return [
        Group(rows[a:b], y[a:b], None if weight is None else weight[a:b], np.array([0, b - a]), number)
        for number, (a, b) in enumerate(pairwise(bounds))
    ]


def advance(fit: Fit, states: list[Any], groups: list[Group]) -> list[Any]:
    """One round."""
    this = fit.ask(states)
    assert this is not None
    (partial,) = reduce_groups(enumerate(groups), len(groups), this.reduction, this.broadcast).values()
    return fit.update(states, this, partial)


def learn(
    strategy: StochasticGradient, groups: list[Group], *, objective: Any = OBJECTIVE, penalty: Any = PENALTY, start: Any = None
) -> StochasticGradientState:
    """The state at the end of a fit."""
    fit = Fit(objective, (penalty,), strategy)
    states = fit.init(np.zeros((1, objective.layout.size)) if start is None else start[None])
    while states[0].status.kind == "running":
        states = advance(fit, states, groups)
    state: StochasticGradientState = states[0]
    return state


def gradient(rows: Any, at: Float64, weight: Float64) -> Float64:
    """Of the weighted mean logistic loss plus the penalty, at (coef, intercept)."""
    design = np.column_stack([X[rows], np.ones(len(rows))])
    mean = weight[rows] @ (design * (expit(design @ at) - Y[rows])[:, None]) / weight[rows].sum()
    return np.asarray(mean + L2_STRENGTH * np.append(at[:-1], 0.0))


def batches(sampling: Sampling, n_epochs: int) -> list[list[Any]]:
    """Of each epoch the rows of each round."""
    groups = groups_of(X, np.arange(N))
    return [
        [np.concatenate([select([group], Batch(sampling, epoch, number)).y for group in groups]) for number in range(sampling.n_rounds)]  # type: ignore[misc]
        for epoch in range(n_epochs)
    ]


def follow(batches: Sequence[Any], step: Callable[[Float64, Float64, int], Float64], weight: Float64) -> list[Float64]:
    """The iterates of step(parameters, gradient, count from 1), a batch each; batches without weight are skipped."""
    at, iterates = np.zeros(P + 1), []
    for rows in batches:
        if weight[rows].sum():
            at = step(at, gradient(rows, at, weight), len(iterates) + 1)
            iterates.append(at)
    return iterates


def plain(at: Float64, gradient: Float64, count: int) -> Float64:
    return at - 0.7 / count**0.5 * gradient


def with_momentum() -> Callable[[Float64, Float64, int], Float64]:
    velocity = np.zeros(P + 1)

    def step(at: Float64, gradient: Float64, count: int) -> Float64:
        nonlocal velocity
        velocity = 0.9 * velocity - 0.7 / count**0.5 * gradient
        return at + velocity

    return step


def with_moments() -> Callable[[Float64, Float64, int], Float64]:
    mean, square = np.zeros(P + 1), np.zeros(P + 1)

    def step(at: Float64, gradient: Float64, count: int) -> Float64:
        nonlocal mean, square
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        corrected = mean / (1 - 0.9**count), square / (1 - 0.999**count)
        return np.asarray(at - 0.7 / count**0.5 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8))

    return step


def settings(n_rounds: int = 7, **more: Any) -> dict[str, Any]:
    return {"sampling": Sampling(2, n_rounds, level=2), "schedule": InverseScaling(0.7), "max_epochs": 3, "tol": -np.inf, **more}


def assert_near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


# -- updates -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rounds", [1, 7, 130])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_optimizers_on_batches(n_rounds: int, weight: Any) -> None:
    """Also with more rounds than rows, and with rows that do not count: batches without weight move nothing."""
    counted = np.ones(N) if weight is None else weight
    sequence = [rows for epoch in batches(Sampling(2, n_rounds), 3) for rows in epoch]
    for optimizer, step in ((None, plain), (Momentum(), with_momentum()), (Adam(), with_moments())):
        options = settings(n_rounds, **({} if optimizer is None else {"optimizer": optimizer}))
        state = learn(StochasticGradient(**options), groups_of(X, Y, weight))
        iterates = follow(sequence, step, counted)
        assert state.status.kind == "converged"
        assert state.iteration == len(iterates)
        assert (len(iterates) < len(sequence)) == (n_rounds > N)
        assert_near(state.iterate.parameters, iterates[-1])


def test_losses_of_epochs_are_those_of_their_batches_before_each_update() -> None:
    state = learn(StochasticGradient(**settings()), groups_of(X, Y, WEIGHT))
    epochs = batches(Sampling(2, 7), 3)
    before = [np.zeros(P + 1), *follow([rows for epoch in epochs for rows in epoch], plain, WEIGHT)]
    losses = []
    for number, epoch in enumerate(epochs):
        total = 0.0
        for rows, at in zip(epoch, before[7 * number :], strict=False):
            z = X[rows] @ at[:-1] + at[-1]
            mean = WEIGHT[rows] @ (np.logaddexp(0.0, z) - Y[rows] * z) / WEIGHT[rows].sum()
            total += WEIGHT[rows].sum() * (mean + 0.5 * L2_STRENGTH * at[:-1] @ at[:-1])
        losses.append(total / WEIGHT.sum())
    assert_near(state.losses, losses)


def test_accumulated_rounds_are_one_batch_of_all_their_rows() -> None:
    state = learn(StochasticGradient(**settings(optimizer=Momentum(), accumulate=3)), groups_of(X, Y, WEIGHT))
    joined = [np.concatenate(epoch[first : first + 3]) for epoch in batches(Sampling(2, 7), 3) for first in (0, 3, 6)]
    assert state.iteration == 9
    assert_near(state.iterate.parameters, follow(joined, with_momentum(), WEIGHT)[-1])


def test_gradients_are_clipped() -> None:
    def step(at: Float64, gradient: Float64, count: int) -> Float64:
        return plain(at, gradient * min(1.0, 0.2 / float(np.linalg.norm(gradient))), count)

    sequence = [rows for epoch in batches(Sampling(2, 7), 3) for rows in epoch]
    expected = follow(sequence, step, np.ones(N))[-1]
    assert np.abs(expected - follow(sequence, plain, np.ones(N))[-1]).max() > 0.01
    assert_near(learn(StochasticGradient(**settings(clip_norm=0.2)), groups_of(X, Y)).iterate.parameters, expected)


@pytest.mark.parametrize("first", [1, 5, 21, 22])
def test_averages_are_the_mean_of_the_iterates(first: int) -> None:
    iterates = follow([rows for epoch in batches(Sampling(2, 7), 3) for rows in epoch], plain, np.ones(N))
    state = learn(StochasticGradient(**settings(average_from=first)), groups_of(X, Y))
    assert_near(state.parameters, iterates[-1])
    assert_near(state.iterate.parameters, np.mean(iterates[first - 1 :] or iterates[-1:], axis=0))


def test_one_round_an_epoch_is_gradient_descent_and_weights_are_repetitions() -> None:
    counts = np.random.default_rng(1).integers(0, 4, N)
    strategy = StochasticGradient(**settings(1, max_epochs=20, schedule=Constant(0.5)))
    at = np.zeros(P + 1)
    for _ in range(20):
        at = at - 0.5 * gradient(np.arange(N), at, counts.astype(float))
    assert_near(learn(strategy, groups_of(X, Y, counts.astype(float))).iterate.parameters, at)
    repeated = np.repeat(np.arange(N), counts)
    assert_near(learn(strategy, groups_of(X[repeated], Y[repeated], sizes=[len(repeated)])).iterate.parameters, at)


def test_rows_drawn_by_importance_are_divided_by_the_weight_of_all_rows() -> None:
    """θ <- θ - η (Σ over drawn rows of what they count times their gradient, over the weight of all training rows, + penalty)."""
    sampling = Sampling(2, 7, validation_fraction=0.2, importance="norm")
    numbers, at = groups_of(X, np.arange(N), WEIGHT), np.zeros(P + 1)
    out = np.concatenate([select([group], Batch(sampling, 0, HELD_OUT)).y for group in numbers])  # type: ignore[misc]
    total = WEIGHT.sum() - WEIGHT[out].sum()
    design = np.column_stack([X, np.ones(N)])
    for epoch in range(3):
        for number in range(7):
            drawn = [select([group], Batch(sampling, epoch, number)) for group in numbers]
            rows, counts = (np.concatenate(parts) for parts in ([b.y for b in drawn], [b.sample_weight for b in drawn]))  # type: ignore[misc]
            mean = counts @ (design[rows] * (expit(design[rows] @ at) - Y[rows])[:, None]) / total
            at = plain(at, mean + L2_STRENGTH * np.append(at[:-1], 0.0), 7 * epoch + number + 1)
    state = learn(StochasticGradient(**settings() | {"sampling": sampling}), groups_of(X, Y, WEIGHT))
    assert len(out) > 5
    assert_near(state.iterate.parameters, at)


# -- penalties ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.3, 0.7), (5.0, 0.0)])
def test_lasso_of_one_parameter(l1: float, l2: float) -> None:
    """½ mean (y - x w)² + l1 |w| + ½ l2 w² is least at S(mean(x y), l1) / (mean(x²) + l2)."""
    x, y = X[:, :1], 1.5 * X[:, 0] + 0.1 * X[:, 1]
    objective = LinearObjective(LOSSES["squared"], 1, 1, False)
    strategy = StochasticGradient(Sampling(0, 1), schedule=Constant(0.5), max_epochs=200, tol=-np.inf)
    state = learn(strategy, groups_of(x, y), objective=objective, penalty=ElasticNet(l1, l2))
    slope = np.mean(x[:, 0] * y)
    expected = np.sign(slope) * max(abs(slope) - l1, 0.0) / (np.mean(x**2) + l2)
    assert state.iterate.parameters[0] == pytest.approx(expected, rel=1e-12, abs=0.0)
    assert (expected == 0.0) == (l1 == 5.0)


def test_l1_gives_exact_zeros_for_columns_that_do_not_matter() -> None:
    random = np.random.default_rng(3)
    wide = random.normal(size=(400, 12))
    y = wide[:, 0] * 2 - wide[:, 1] * 3 + 0.1 * random.normal(size=400) + 0.02
    objective = LinearObjective(LOSSES["squared"], 12, 1, True)
    strategy = StochasticGradient(Sampling(0, 8), schedule=Constant(0.05), max_epochs=40, tol=-np.inf)
    found = learn(strategy, groups_of(wide, y, sizes=(150, 250)), objective=objective, penalty=ElasticNet(0.3)).iterate.parameters
    assert np.flatnonzero(found[:12]).tolist() == [0, 1]
    assert found[12] != 0.0  # the intercept is not penalised


def test_intercepts_are_spared_by_an_update_that_ends_an_epoch_without_rows() -> None:
    """Decay and soft thresholds see the coefficients alone, also when what has accumulated moves after a batch without weight."""
    strategy = StochasticGradient(Sampling(0, 3), AdamW(weight_decay=0.5), Constant(1.0), accumulate=2)
    state = strategy.init(np.array([4.0, 4.0]))
    for weight in (0.0, 1.0, 0.0):
        value, gradient_there = (1.0, np.zeros(2)) if weight else (np.nan, np.full(2, np.nan))
        state = strategy.update(state, Evaluation(value, gradient_there, None, 1, weight, penalty=ElasticNet(0.25)))
    assert state.iteration == 1
    assert state.parameters.tolist() == [1.75, 4.0]


# -- variance reduction ------------------------------------------------------------------------------------------------------------


def optimum() -> Float64:
    """By scipy, polished with Newton's steps."""
    rows, ones = np.arange(N), np.ones(N)
    at = minimize(lambda w: np.linalg.norm(gradient(rows, w, ones)) ** 2, np.zeros(P + 1), method="BFGS").x
    design = np.column_stack([X, ones])
    for _ in range(5):
        mean = expit(design @ at)
        hessian = design.T @ (design * (mean * (1 - mean))[:, None]) / N + L2_STRENGTH * np.diag([*[1.0] * P, 0.0])
        at = at - np.linalg.solve(hessian, gradient(rows, at, ones))
    return np.asarray(at)


@pytest.mark.long
def test_variance_reduction_reaches_the_optimum_where_plain_steps_do_not() -> None:
    expected = optimum()
    shared = {"schedule": Constant(0.2), "tol": -np.inf}
    for importance in ("uniform", "norm"):
        sampling = Sampling(0, 15, level=2, importance=importance)  # type: ignore[arg-type]
        reduced = learn(StochasticGradient(sampling, max_epochs=60, variance_reduction=True, **shared), groups_of(X, Y))  # type: ignore[arg-type]
        plain = learn(StochasticGradient(sampling, max_epochs=150, **shared), groups_of(X, Y))  # type: ignore[arg-type]
        error, plain_error = (np.linalg.norm(s.iterate.parameters - expected) / np.linalg.norm(expected) for s in (reduced, plain))
        assert error < 1e-6
        assert plain_error > 1e-3


def test_reduced_gradients_are_unbiased_and_exact_at_the_anchor() -> None:
    """Nine batches of ten rows: their mean is the gradient of all rows; where the anchor is, each of them is."""
    strategy = StochasticGradient(Sampling(0, 9), schedule=Constant(1e-300), variance_reduction=True)
    groups, fit = groups_of(X, Y, sizes=[N]), Fit(OBJECTIVE, (PENALTY,), strategy)
    anchor, elsewhere = np.random.default_rng(4).normal(size=(2, P + 1))
    for at in (anchor, elsewhere):
        states = advance(fit, fit.init(anchor[None]), groups)
        states = [states[0]._replace(parameters=at)]
        full, found = gradient(np.arange(N), at, np.ones(N)), []
        for _ in range(9):
            states = advance(fit, states, groups)
            found.append(states[0].iterate.gradient)
        assert_near(np.mean(found, axis=0), full)
        assert (np.abs(np.array(found) - full).max() < 1e-14) == (at is anchor)


def test_full_passes_come_before_every_so_manieth_epoch() -> None:
    strategy = StochasticGradient(Sampling(0, 2), max_epochs=5, tol=-np.inf, variance_reduction=True, anchor_every=2)
    fit = Fit(OBJECTIVE, (L2(),), strategy)
    states, oracles = fit.init(np.zeros((1, P + 1))), []
    while (this := fit.ask(states)) is not None:
        oracles.append(this.broadcast.oracle)
        states = advance(fit, states, groups_of(X, Y))
    difference = "gradient_difference"
    assert oracles == [
        "loss_and_gradient",
        *[difference] * 4,
        "loss_and_gradient",
        *[difference] * 4,
        "loss_and_gradient",
        *[difference] * 2,
    ]


# -- when to stop ------------------------------------------------------------------------------------------------------------------


def fed(strategy: StochasticGradient, losses: Sequence[float], scores: Sequence[float] = ()) -> list[StochasticGradientState]:
    """The states after each epoch of a single round, with gradients of one."""
    state, after = strategy.init(np.zeros(1)), []
    for epoch, loss in enumerate(losses):
        state = strategy.update(state, Evaluation(loss, np.ones(1), None, 0, 10.0))
        if scores:
            assert strategy.request(state).oracle == "score"
            state = strategy.update(state, Evaluation(scores[epoch], np.ones(1), None, 0, 3.0))
        after.append(state)
        if state.status.kind != "running":
            break
    return after


def epochs_of_scikit_learn(losses: Sequence[float], tol: float, patience: int) -> int:
    """sklearn/linear_model/_sgd_fast.pyx.tp: how many epochs _plain_sgd does."""
    best, count = np.inf, 0
    for epoch, loss in enumerate(losses, 1):
        count = count + 1 if loss > best - tol else 0
        best = min(best, loss)
        if count >= patience:
            return epoch
    return len(losses)


@pytest.mark.parametrize("tol", [0.0, 0.01, 0.1, -np.inf])
@pytest.mark.parametrize("patience", [1, 3])
def test_convergence_is_scikit_learns(tol: float, patience: int) -> None:
    for seed in range(30):
        random = np.random.default_rng(seed)
        losses = (np.exp(-np.arange(60) / 10) + 0.05 * random.random(60)).tolist()
        losses[7] = losses[6]
        after = fed(StochasticGradient(Sampling(0, 1), tol=tol, patience=patience, max_epochs=60), losses)
        assert len(after) == epochs_of_scikit_learn(losses, tol, patience)
        assert after[-1].status.kind == ("converged" if len(after) < 60 or tol == -np.inf else "out of rounds")
        np.testing.assert_allclose(after[-1].losses, losses[: len(after)], rtol=1e-14)


def test_early_stopping_restores_the_best_epoch() -> None:
    strategy = StochasticGradient(
        Sampling(0, 1, validation_fraction=0.1), schedule=Constant(1.0), early_stopping=True, patience=3, tol=0.01, max_epochs=50
    )
    scores = [0.5, 0.6, 0.605, 0.4, 0.607, 0.9]
    after = fed(strategy, [1.0] * 6, scores)
    assert len(after) == 5  # 0.605 and 0.607 are better, but by less than tol
    assert after[-1].status.kind == "converged"
    assert after[-1].scores == tuple(scores[:5])
    assert after[-1].iterate.parameters.tolist() == [-5.0]
    assert [state.iterate.parameters.tolist() for state in after[:4]] == [[-1.0], [-2.0], [-3.0], [-3.0]]


def test_early_stopping_keeps_the_best_parameters_between_epochs() -> None:
    """A fit that is cut off there has them."""
    strategy = StochasticGradient(Sampling(0, 2, validation_fraction=0.1), schedule=Constant(1.0), early_stopping=True)
    state = strategy.init(np.zeros(1))
    found = []
    for value in (1.0, 1.0, 0.8, 1.0, 1.0, 0.9, 1.0):
        state = strategy.update(state, Evaluation(value, np.ones(1), None, 0, 10.0))
        found.append(state.iterate.parameters[0])
    assert found == [-1.0, -2.0, -2.0, -2.0, -2.0, -4.0, -4.0]


@pytest.mark.parametrize("score", [np.nan, -np.inf])
def test_scores_that_are_no_numbers_end_a_fit(score: float) -> None:
    """They are no epochs without improvement, after which it would have converged; the best parameters before stay."""
    strategy = StochasticGradient(
        Sampling(0, 1, validation_fraction=0.1), schedule=Constant(1.0), early_stopping=True, patience=3, max_epochs=50
    )
    after = fed(strategy, [1.0] * 9, [0.5, 0.4, score])
    assert [state.status.kind for state in after] == ["running", "running", "diverged"]
    assert "the score of the rows held out is no finite number" in after[-1].status.reason
    assert after[-1].iterate.parameters.tolist() == [-1.0]


def test_scores_are_of_the_rows_held_out() -> None:
    sampling = Sampling(1, 3, validation_fraction=0.3)
    state = learn(StochasticGradient(sampling, schedule=Constant(0.3), max_epochs=1, early_stopping=True), groups_of(X, Y))
    rows = np.concatenate([select([group], Batch(sampling, 0, HELD_OUT)).y for group in groups_of(X, np.arange(N))])  # type: ignore[misc]
    coef, intercept = state.parameters[:-1], state.parameters[-1]
    assert 15 < len(rows) < 40
    assert state.scores == (pytest.approx(np.mean((X[rows] @ coef + intercept > 0) == Y[rows])),)


def test_adaptive_fits_divide_the_step_size() -> None:
    strategy = StochasticGradient(Sampling(0, 1), schedule=Constant(1.0), patience=2, tol=0.0, adaptive=True)
    after = fed(strategy, [1.0, *[2.0] * 99])
    scales = [state.scale for state in after]
    expected = [5.0 ** -(epoch // 2) for epoch in range(len(after) - 1)]
    np.testing.assert_allclose(scales[:-1], expected, rtol=1e-12)
    moves = -np.diff([0.0, *[state.parameters[0] for state in after]])
    np.testing.assert_allclose(moves, [1.0, *scales[:-1]], atol=1e-12)
    assert after[-1].status.kind == "converged"
    assert scales[-1] > SMALLEST_SCALE >= scales[-1] / 5


# -- what goes wrong ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"average_from": 1}, {"optimizer": Momentum()}, {"variance_reduction": True}, {"accumulate": 2}])
def test_divergence_is_a_status(options: dict[str, Any]) -> None:
    objective = LinearObjective(LOSSES["squared"], P, 1, True)
    strategy = StochasticGradient(Sampling(0, 4), schedule=Constant(1e6), tol=-np.inf, max_epochs=500, **options)
    with np.errstate(over="ignore", invalid="ignore"):
        state = learn(strategy, groups_of(X, Y.astype(float)), objective=objective)
    assert state.status.kind == "diverged"
    assert "lower the step size" in state.status.reason
    assert np.all(np.isfinite(state.iterate.parameters))
    assert state.iteration > 1


@pytest.mark.parametrize(("value", "slope"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (1.0, np.inf), (1.0, 1e308)])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_what_is_no_number_moves_nothing(value: float, slope: float, clip_norm: Any) -> None:
    strategy = StochasticGradient(Sampling(0, 4), schedule=Constant(10.0), clip_norm=clip_norm)
    before = strategy.update(strategy.init(np.ones(1)), Evaluation(1.0, np.ones(1), None, 0, 10.0))
    with np.errstate(over="ignore"):
        after = strategy.update(before, Evaluation(value, np.array([slope]), None, 0, 10.0))
    assert after.status.kind == "diverged"
    assert after.iterate == before.iterate
    assert after.parameters is before.parameters


def test_no_row_has_weight() -> None:
    for importance in ("uniform", "norm"):
        strategy = StochasticGradient(Sampling(0, 3, importance=importance), max_epochs=2, tol=0.0)  # type: ignore[arg-type]
        state = learn(strategy, groups_of(X, Y, np.zeros(N)))
        assert (state.status.kind, state.iteration) == ("out of rounds", 0)
        assert np.all(np.isnan(state.losses))
        assert state.iterate.parameters.tolist() == [0.0] * (P + 1)


def test_epochs_in_which_no_row_has_weight_are_no_convergence() -> None:
    state = learn(StochasticGradient(Sampling(0, 3), tol=0.0, patience=2), groups_of(X, Y, np.zeros(N)))
    assert (state.status.kind, state.iteration, len(state.losses)) == ("stalled", 0, 2)
    assert "no row of the last epoch has weight" in state.status.reason


IMPOSSIBLE: list[dict[str, Any]] = [
    *[{name: wrong} for name in ("max_epochs", "patience", "accumulate", "anchor_every") for wrong in (0, 1.5, None)],
    *[{name: wrong} for name in ("average_from",) for wrong in (-1.0, np.nan)],
    *[{"tol": wrong} for wrong in (np.nan, "small")],
    *[{"clip_norm": wrong} for wrong in (0.0, np.nan)],
]


@pytest.mark.parametrize("wrong", IMPOSSIBLE, ids=str)
def test_impossible_hyperparameters(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))} must be .*, got "):
        StochasticGradient(Sampling(0, 1), **wrong)


@pytest.mark.parametrize(
    "wrong", [{"n_rounds": 0}, {"validation_fraction": 1.0}, {"validation_fraction": -0.1}, {"importance": "size"}], ids=str
)
def test_impossible_sampling(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(wrong))} must .*, got "):
        StochasticGradient(Sampling(0, 1)._replace(**wrong))
    with pytest.raises(ValueError, match="early_stopping"):
        StochasticGradient(Sampling(0, 1), early_stopping=True)


# -- float32 -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("importance", ["uniform", "norm"])
def test_networks_stay_float32(importance: Any) -> None:
    network = NetworkObjective(LOSSES["logistic"], (P, 3, 1), "tanh", np.arange(2))
    options: dict[str, Any] = {"accumulate": 2, "clip_norm": 1.0, "average_from": 2, "variance_reduction": True}
    strategy = StochasticGradient(Sampling(0, 5, importance=importance), Adam(), Constant(0.02), max_epochs=30, tol=-np.inf, **options)
    state = learn(strategy, groups_of(X, Y, WEIGHT), objective=network, penalty=ElasticNet(1e-3, 1e-3), start=network.start(0))
    assert state.mean is not None
    assert {a.dtype for a in (state.parameters, state.mean, *state.optimizer.slots, *state.iterate[::2])} == {np.dtype(np.float32)}
    assert state.losses[-1] < 0.8 * state.losses[0]
