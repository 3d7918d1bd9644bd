"""A fit as pure functions: which requests share a pass, and what the strategies learn from its sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import r2_score

from pipeline import Dataset
from pipeline.execution.threads import ThreadExecutor
from pipeline.training.loop import train
from tasks.objectives.base import Layout, Sums
from tasks.objectives.evaluation import Evaluation
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.objectives.networks import NetworkObjective
from tasks.objectives.penalties import L2, ElasticNet
from tasks.objectives.standardisation import Standardisation
from tasks.reductions.reduction import Reduction, Stage, reduce_groups
from tasks.reductions.stages.marks import marked
from tasks.rounds.fitting import Fit
from tasks.rounds.oracles import ORACLES, Broadcast, reduction_of
from tasks.rows.batches import HELD_OUT, TRAINING, Batch, Sampling, select, split
from tasks.rows.partition import Group
from tasks.strategies.base import Request, Strategy
from tasks.strategies.gradient_descent import GradientDescent
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.newton import Newton
from tasks.strategies.newton_cg import NewtonCG
from tasks.strategies.sampled_lbfgs import SampledLBFGS
from tasks.strategies.sampled_newton import SampledNewton
from tasks.strategies.steps import Steps
from tasks.strategies.stochastic_gradient import StochasticGradient
from tasks.typing import Float64

RANDOM = np.random.default_rng(0)
X, Y, WEIGHT = RANDOM.normal(size=(60, 3)), RANDOM.normal((5.0, -3.0), size=(60, 2)), RANDOM.random(60)
GROUPS = [Group(X[a:b], Y[a:b], WEIGHT[a:b], np.array([0, b - a]), number) for number, (a, b) in enumerate(((0, 25), (25, 60)))]
OBJECTIVE = LinearObjective(LOSSES["squared"], 3, 2, True)


def answered(fit: Fit, states: list[Any], groups: list[Group] = GROUPS) -> tuple[Any, list[Any], Any]:
    """A round: what was asked, the states after it, the report."""
    this = fit.ask(states)
    assert this is not None
    (partial,) = reduce_groups(enumerate(groups), len(groups), this.reduction, this.broadcast).values()
    after = fit.update(states, this, partial)
    return this, after, fit.report(this, partial, after, 0.25)


def test_objectives_must_have_what_oracles_need() -> None:
    with pytest.raises(TypeError, match="NetworkObjective is not compatible with Newton: it must implement hessian"):
        Fit(NetworkObjective(LOSSES["squared"], (3, 2)), (L2(),), Newton())


class Strange(Newton):
    """A strategy that asks for what nobody knows."""

    @property
    def oracles(self) -> tuple[str, ...]:
        return ("third_derivative",)


def test_strategies_must_ask_for_oracles_that_there_are() -> None:
    with pytest.raises(ValueError, match="Strange asks for 'third_derivative', which is no oracle; those are loss_and_gradient, "):
        Fit(OBJECTIVE, (L2(),), Strange())


SMOOTH: list[Strategy] = [GradientDescent(), GradientDescent(nesterov=True), LBFGS(), Newton(), NewtonCG(), SampledNewton(), SampledLBFGS()]


@pytest.mark.parametrize("strategy", SMOOTH, ids=lambda strategy: type(strategy).__name__)
def test_penalties_with_kinks_are_for_strategies_that_take_them(strategy: Strategy) -> None:
    """Others would minimise the smooth part, and say that they had converged."""
    assert not strategy.takes_kinks
    with pytest.raises(ValueError, match=rf"{type(strategy).__name__} cannot do the penalty ElasticNet: it has kinks"):
        Fit(OBJECTIVE, (L2(), ElasticNet(l1=0.1)), strategy)
    Fit(OBJECTIVE, (ElasticNet(l2=0.1),), strategy)  # without an L1 part it has none
    Fit(OBJECTIVE, (ElasticNet(l1=0.1),), StochasticGradient(Sampling(0, 1)))


@dataclass(frozen=True)
class Asking(Newton):
    """A strategy that asks one oracle, along a direction where that is wanted."""

    oracle: str = "hessian"
    direction: Any = None

    @property
    def oracles(self) -> tuple[str, ...]:
        return (self.oracle,)

    def request(self, state: Any) -> Request:
        return Request(self.oracle, state.iterate.parameters, self.direction)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("oracle", [name for name, spec in ORACLES.items() if spec.without is None])
def test_parameters_are_by_the_users_columns_where_the_table_says_so(oracle: str, fit_intercept: bool) -> None:
    standard = Standardisation(np.array([0.3, -2.0, 5.0]) * fit_intercept, np.array([2.0, 0.25, 8.0]))
    objective = replace(OBJECTIVE, standard=standard, fit_intercept=fit_intercept)
    at, direction = RANDOM.normal(size=(2, objective.layout.size)), RANDOM.normal(size=objective.layout.size)
    along = direction if oracle in ("gradient_difference", "hessian_vector") else None
    strategy = Asking(oracle=oracle, direction=along)
    fit = Fit(objective, (L2(0.1), L2(2.0)), strategy)
    this = fit.ask(fit.init(at))
    assert this is not None
    sent = this.broadcast
    if ORACLES[oracle].by_columns:
        plain = replace(objective, standard=None)
        for model in range(2):
            np.testing.assert_allclose(plain.predict(sent.parameters[model], X), objective.predict(at[model], X), rtol=1e-13)
            if along is not None:
                np.testing.assert_allclose(plain.predict(sent.direction[model], X), objective.predict(along, X), rtol=1e-13)
    else:
        assert np.array_equal(sent.parameters, at)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_oracles_agree_whatever_their_coordinates(fit_intercept: bool) -> None:
    """Gradients are summed by the user's columns, Hessians by the standardised ones: strategies see both by their parameters."""
    standard = Standardisation(np.array([0.3, -2.0, 5.0]) * fit_intercept, np.array([2.0, 0.25, 8.0]))
    objective = replace(OBJECTIVE, standard=standard, fit_intercept=fit_intercept)
    at, direction = RANDOM.normal(size=(2, objective.layout.size)), RANDOM.normal(size=objective.layout.size)
    penalties = (L2(0.1), L2(2.0))

    def found(oracle: str, parameters: Any, along: Any = None) -> list[Evaluation]:
        fit = Fit(objective, penalties, Asking(oracle=oracle, direction=along))
        this = fit.ask(fit.init(parameters))
        assert this is not None
        (sums,) = reduce_groups(enumerate(GROUPS), len(GROUPS), this.reduction, this.broadcast).values()
        evaluate = ORACLES[oracle].evaluate
        return [evaluate(this.requests[model], sums, model, objective, penalties[model]) for model in range(2)]

    gradients, hessians, products = found("loss_and_gradient", at), found("hessian", at), found("hessian_vector", at, direction)
    for gradient, hessian, product in zip(gradients, hessians, products, strict=True):
        assert gradient.value == pytest.approx(hessian.value, rel=1e-12)
        np.testing.assert_allclose(gradient.gradient, hessian.gradient, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(product.gradient, hessian.hessian @ direction, rtol=1e-10, atol=1e-12)
    there = found("loss_and_gradient", np.stack([direction, direction]))
    for difference, here, other in zip(found("gradient_difference", at, direction), gradients, there, strict=True):
        assert difference.value == pytest.approx(here.value, rel=1e-12)
        np.testing.assert_allclose(difference.gradient, here.gradient - other.gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("oracle", "missing"), [("score", "classes, predict"), ("local_hessian", "hessian"), ("gram_in_basis", "gram, gram_in_basis")]
)
def test_what_an_objective_lacks_is_named_as_it_would_write_it(oracle: str, missing: str) -> None:
    with pytest.raises(TypeError, match=rf"Own is not compatible with Asking: it must implement {missing}$"):
        Fit(Own(), (L2(),), Asking(oracle=oracle))


class Own:
    """The least that an objective has."""

    layout = OBJECTIVE.layout

    def loss_and_gradient(self, group: Group, parameters: Any) -> Sums:
        return OBJECTIVE.loss_and_gradient(group, parameters)


def doubled(reduction: Reduction) -> Reduction:
    """A stage: workers send twice the losses, which the root halves again."""

    def encode(groups: Sequence[Group], broadcast: Broadcast) -> Sums:
        found: Sums = reduction.map(groups, broadcast)
        return found._replace(loss_sum=2.0 * found.loss_sum)

    def decode(found: Sums, broadcast: Broadcast) -> Sums:
        return reduction.finish(found._replace(loss_sum=found.loss_sum / 2.0), broadcast)  # type: ignore[no-any-return]

    return reduction._replace(map=encode, finish=decode)


@pytest.mark.parametrize("stages", [(doubled,), (marked,), (doubled, marked)])
def test_stages_finish_what_they_begin_once_at_the_root(stages: Sequence[Stage]) -> None:
    """The sums are those without stages, to the bit; marks say which subtrees they are of."""
    broadcast = Broadcast(OBJECTIVE, "loss_and_gradient", RANDOM.normal(size=(1, OBJECTIVE.layout.size)), None, 1)
    plain = reduction_of(broadcast)
    staged = reduce(lambda reduction, stage: stage(reduction), stages, plain)
    dataset = Dataset.from_arrays(X, Y, WEIGHT, n_partitions=5)
    expected = ThreadExecutor(1).map_reduce(dataset.rows, plain, broadcast)
    for executor in (ThreadExecutor(1), ThreadExecutor(3)):
        found = executor.map_reduce(dataset.rows, staged, broadcast)
        if marked in stages:
            assert found.marks.level == 0
            assert len(found.marks.values) == 5
            found = found.sums
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(left, right)


@dataclass(frozen=True)
class Folded:
    """A cross-validation in one fit: model m does not count every row whose number, from the start of its partition, is m modulo k."""

    inner: LinearObjective
    k: int

    @property
    def layout(self) -> Layout:
        return self.inner.layout

    def loss_and_gradient(self, group: Group, parameters: Float64) -> Sums:
        assert len(parameters) == self.k
        alone = [self.inner.loss_and_gradient(left_out(group, m, self.k), parameters[[m]]) for m in range(self.k)]
        return Sums(*(np.concatenate(column) for column in list(zip(*alone, strict=True))[:3]))

    def predict(self, parameters: Float64, X: Any) -> Float64:
        return self.inner.predict(parameters, X)


def left_out(group: Group, m: int, k: int) -> Group:
    """The group with weights of zero for the rows of one fold."""
    number = np.concatenate([np.arange(b - a) for a, b in pairwise(group.offsets)])
    return Group(group.X, group.y, np.where(number % k == m, 0.0, group.sample_weight), group.offsets, group.first_partition)


@pytest.mark.parametrize("n_partitions", [1, 7])
def test_models_of_one_fit_count_rows_differently(n_partitions: int) -> None:
    """Each of k models is divided by the weight of its own rows: the fit of its fold alone, to the bit."""
    k, strategy = 4, Steps(12)
    dataset = Dataset.from_arrays(X, Y, WEIGHT, n_partitions=n_partitions)
    folds = Fit(Folded(OBJECTIVE, k), (L2(0.1),) * k, strategy)
    together = train(ThreadExecutor(2), dataset, folds, folds.init(np.zeros((k, OBJECTIVE.layout.size))))
    sizes, alone = np.diff(dataset.source.rows), Fit(OBJECTIVE, (L2(0.1),), strategy)
    number = np.concatenate([np.arange(size) for size in sizes])
    for m in range(k):
        weight = np.where(number % k == m, 0.0, WEIGHT)
        rest = Dataset.from_arrays(X, Y, weight, partition_rows=sizes.tolist())
        expected = train(ThreadExecutor(1), rest, alone, alone.init(np.zeros((1, OBJECTIVE.layout.size))))
        np.testing.assert_array_equal(together.parameters[m], expected.parameters[0])
    assert len(np.unique(together.parameters, axis=0)) == k


NETWORK = NetworkObjective(LOSSES["squared"], (3, 4, 2), dtype="float64")
CLASSES = LinearObjective(LOSSES["logistic"], 3, 1, True, np.arange(2), class_weight=np.array([0.3, 1.7]))


WEIGHED = {"linear": OBJECTIVE, "network": NETWORK, "class weights": CLASSES, "own": Folded(OBJECTIVE, 2)}


@pytest.mark.parametrize("name", WEIGHED)
@pytest.mark.parametrize("fraction", [0.0, 0.4])
def test_the_weight_of_all_rows_is_that_of_a_gradient(name: str, fraction: float) -> None:
    """Also where a part of the rows is held out; and where none is, however groups are cut."""
    objective: Any = WEIGHED[name]
    y = (Y[:, 0] > 5).astype(np.int64) if objective is CLASSES else Y
    sampling, k = Sampling(1, 2, validation_fraction=fraction, n_turns=2), 2 if name == "own" else 1
    whole = Group(X, y, WEIGHT, np.array([0, 25, 60]), 0)
    cut = [Group(X[a:b], y[a:b], WEIGHT[a:b], np.array([0, b - a]), number) for number, (a, b) in enumerate(((0, 25), (25, 60)))]
    fit, weights = Fit(objective, (L2(),) * k, Steps(1)), []
    for groups in ([whole], cut):
        sums = []
        for oracle in ("weight", "loss_and_gradient"):
            request = Request(oracle, np.zeros(objective.layout.size), batch=Batch(sampling, 0, TRAINING))
            this = fit.round_of(dict.fromkeys(range(k), request), 0)
            assert (this.broadcast.parameters.size > 0) == (oracle != "weight" or name == "own")
            found = [reduce_groups([(number, group)], 2, this.reduction, this.broadcast) for number, group in enumerate(groups)]
            nodes = {node: partial for each in found for node, partial in each.items()}
            sums.append(sum(partial.weight_sum for partial in nodes.values()))
        np.testing.assert_allclose(sums[0], sums[1], rtol=1e-14)
        weights.append(sums[0])
    if not fraction:
        np.testing.assert_array_equal(*weights)


def test_scores_of_regression_are_those_of_the_rows_held_out() -> None:
    strategy = StochasticGradient(Sampling(1, 2, validation_fraction=0.4), early_stopping=True)
    fit = Fit(OBJECTIVE, (L2(0.1), L2(1.0)), strategy)
    states = fit.init(np.zeros((2, OBJECTIVE.layout.size)))
    for oracle in ("loss_and_gradient", "loss_and_gradient", "score"):
        this, states, _ = answered(fit, states)
        assert this.broadcast.oracle == oracle
    rows = [select([group], Batch(strategy.sampling, 0, HELD_OUT)) for group in GROUPS]
    x, y, weight = (np.concatenate(parts) for parts in ([g.X for g in rows], [g.y for g in rows], [g.sample_weight for g in rows]))  # type: ignore[misc]
    for state in states:
        coef, intercept = OBJECTIVE.split(state.parameters)
        expected = r2_score(y, x @ coef.T + intercept, sample_weight=weight)
        assert state.scores == (pytest.approx(expected, rel=1e-12),)


@pytest.mark.parametrize("classes", [None, np.arange(2)], ids=["regression", "classification"])
@pytest.mark.parametrize("fraction", [1e-9, 0.4], ids=["no rows", "rows of no weight"])
def test_scores_of_no_rows_that_count_are_errors(classes: Any, fraction: float) -> None:
    """They would improve nothing, and a fit would end converged."""
    sampling = Sampling(1, 2, validation_fraction=fraction)
    objective = OBJECTIVE if classes is None else LinearObjective(LOSSES["logistic"], 3, 1, True, classes)
    groups = []
    for group in GROUPS:
        out = split(group, sampling)[1]
        assert bool(len(out)) == (fraction == 0.4)
        y = group.y if classes is None else (group.y[:, 0] > 5).astype(int)  # type: ignore[call-overload, index]
        weight = np.where(np.isin(np.arange(group.n_rows), out), 0.0, 1.0)
        groups.append(Group(group.X, y, weight, group.offsets, group.first_partition))
    fit = Fit(objective, (L2(0.1),), StochasticGradient(sampling, early_stopping=True, patience=2))
    states = fit.init(np.zeros((1, objective.layout.size)))
    for _ in range(2):
        _, states, report = answered(fit, states, groups)
        assert np.isfinite(report.objective)
    with pytest.raises(ValueError, match=r"rows that are held out .* have no weight .* raise validation_fraction, or give"):
        answered(fit, states, groups)


def test_only_requests_for_the_same_sums_share_a_round() -> None:
    """The first model decides; the other, an epoch ahead, waits."""
    fit = Fit(OBJECTIVE, (L2(0.1), L2(1.0)), StochasticGradient(Sampling(1, 2)))
    states = fit.init(np.zeros((2, OBJECTIVE.layout.size)))
    ahead = states[1]._replace(epoch=states[1].epoch._replace(number=1))
    this, after, report = answered(fit, [states[0], ahead])
    assert list(this.requests) == [0]
    assert after[1] is ahead
    assert (after[0].iteration, report.iteration, report.oracle, report.elapsed) == (1, 1, "loss_and_gradient", 0.25)
    this, after, _ = answered(fit, states)
    assert list(this.requests) == [0, 1]
    assert [state.iteration for state in after] == [1, 1]


def test_models_that_are_done_ask_for_nothing() -> None:
    fit = Fit(OBJECTIVE, (L2(0.1),), StochasticGradient(Sampling(1, 1), max_epochs=1))
    _, states, _ = answered(fit, fit.init(np.zeros((1, OBJECTIVE.layout.size))))
    assert states[0].status.kind == "out of rounds"
    assert fit.ask(states) is None


@pytest.mark.parametrize("strategy", [Newton(), NewtonCG(), SampledNewton(), SampledLBFGS()], ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize("name", ["hinge", "perceptron", "epsilon_insensitive"])
def test_losses_without_curvature_are_for_strategies_that_need_none(strategy: Strategy, name: str) -> None:
    """Before any round: Newton's system would be that of the penalty alone."""
    loss = LOSSES[name]
    objective = LinearObjective(loss, 3, 1, True, np.arange(2) if loss.classification else None)
    with pytest.raises(ValueError, match=rf"{type(strategy).__name__} cannot do the {name} loss: it has no curvature"):
        Fit(objective, (L2(),), strategy)
    Fit(objective, (L2(),), StochasticGradient(Sampling(0, 1)))
    Fit(objective, (L2(),), LBFGS())
