"""The benchmark harness at tiny sizes: does it judge right, count right and store what it found."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.metrics import log_loss

from pipeline import benchmarks
from pipeline.benchmarks import checkpoints
from pipeline.benchmarks.admm import sooner
from pipeline.benchmarks.child import ChildRacer, stored
from pipeline.benchmarks.cluster import DASK_ML, DaskML, time_limit, with_ones
from pipeline.benchmarks.contenders import INTEL, OURS, SCIKIT_LEARN, Contender, Ours, ScikitLearn, Solution
from pipeline.benchmarks.data import Clusters, Problem, Regression, Sparse
from pipeline.benchmarks.epoch import Standing as EpochStanding
from pipeline.benchmarks.epoch import take_turns
from pipeline.benchmarks.epoch import targets as epoch_targets
from pipeline.benchmarks.least_squares import targets as least_squares_targets
from pipeline.benchmarks.objective import GAP, Judge, objective
from pipeline.benchmarks.peers import Glum, Skglm, in_process
from pipeline.benchmarks.race import Fit, Standing, contest, race, race_table, search, search_best, speedup
from pipeline.benchmarks.race import take_turns as take_racer_turns
from pipeline.benchmarks.report import Report, Table, Target, markdown_table
from pipeline.benchmarks.rounds import Timed, growth_target
from pipeline.benchmarks.rss import PeakMemory
from pipeline.benchmarks.scaling import Scaled, works
from pipeline.benchmarks.settings import Settings
from pipeline.benchmarks.sgd import ALPHA, Incremental, sgd_table
from pipeline.benchmarks.sgd import Ours as OurSGD
from pipeline.benchmarks.sgd import ScikitLearn as TheirSGD
from pipeline.benchmarks.sgd import targets as sgd_targets
from pipeline.benchmarks.soak import WHAT, Lived
from pipeline.benchmarks.soak import judge as judge_soak
from pipeline.benchmarks.startup import Start, compared, took
from pipeline.benchmarks.trainers import (
    Arithmetic,
    Network,
    OursTrainer,
    PyTorch,
    Rows,
    ScikitLearnTrainer,
    Trainer,
    Training,
    differences,
    epoch_seconds,
    gradients,
)
from pipeline.training.checkpoints.files import Saved
from pipeline.training.checkpoints.keeper import Keeper

BINARY = Problem(n_rows=2_000, n_columns=5, n_partitions=3)
MULTI = Problem(n_rows=2_000, n_columns=5, n_classes=4, n_partitions=3)
CSR = Sparse(n_rows=2_000, n_columns=20, n_filled=4, n_partitions=3)
RIDGE = Regression(n_rows=2_000, n_columns=5, n_partitions=3)


def test_a_partition_is_the_same_wherever_it_is_made() -> None:
    X, y = BINARY.arrays()
    lazy_X, lazy_y = BINARY.dask_arrays()
    start, stop = BINARY.bounds[1:3]
    for made_X, made_y in (BINARY.partition(1), (lazy_X.blocks[1].compute(), lazy_y.blocks[1].compute())):
        assert np.array_equal(made_X, X[start:stop])
        assert np.array_equal(made_y, y[start:stop])
    assert X.flags.c_contiguous and X.dtype == np.float64
    assert 0.2 < y.mean() < 0.8
    assert set(MULTI.arrays()[1]) == {0, 1, 2, 3}


def test_csr_rows_are_the_same_wherever_they_are_made() -> None:
    X, y = CSR.arrays()
    start, stop = CSR.bounds[1:3]
    lazy_X, lazy_y = CSR.dask_arrays()
    for made_X, made_y in (CSR.partition(1), (lazy_X.blocks[1].compute(), lazy_y.blocks[1].compute())):
        assert (made_X != X[start:stop]).nnz == 0
        assert np.array_equal(made_y, y[start:stop])
    assert X.has_canonical_format and 3.5 * CSR.n_rows < X.nnz <= 4 * CSR.n_rows
    assert 0.2 < y.mean() < 0.8


@pytest.mark.parametrize("problem", [BINARY, MULTI, CSR], ids=["binary", "multinomial", "CSR"])
def test_the_objective_is_that_of_scikit_learn(problem: Problem) -> None:
    X, y = problem.arrays()
    model = LogisticRegression(C=0.1, tol=1e-3).fit(X, y)
    expected = log_loss(y, model.predict_proba(X), normalize=False) + np.sum(model.coef_**2) / (2 * 0.1)
    assert objective(X, y, model.coef_, model.intercept_, 0.1) == pytest.approx(expected, rel=1e-12)


def test_least_squares_have_ridges_objective() -> None:
    """Half of |y - X coef - intercept|² + alpha |coef|², whose gradient is zero at scikit-learn's solution; C is 1 / alpha."""
    X, y = RIDGE.arrays()
    model = Ridge(alpha=10.0).fit(X, y)
    expected = (np.sum((y - model.predict(X)) ** 2) + 10.0 * np.sum(model.coef_**2)) / 2
    assert objective(X, y, model.coef_[None], np.array([model.intercept_]), 0.1) == pytest.approx(expected, rel=1e-12)
    assert Judge.of_rows(X, y, 0.1).optimum == pytest.approx(expected, rel=1e-12)
    assert Judge.of_rows(X, y, math.inf).optimum < expected


@pytest.mark.parametrize("problem", [BINARY, MULTI], ids=["binary", "multinomial"])
def test_the_gap_is_relative_to_the_optimum(problem: Problem) -> None:
    judge = Judge.of(problem)
    tight = Ours(problem).fit(judge.X, judge.y, 1e-10)
    assert abs(judge.gap(tight.coef, tight.intercept)) < 1e-12
    zeros = judge.gap(np.zeros_like(tight.coef), np.zeros_like(tight.intercept))
    n_classes = max(problem.n_classes, 2)
    assert zeros == pytest.approx((problem.n_rows * np.log(n_classes) - judge.optimum) / judge.optimum, rel=1e-12)


class Ladder:
    """A racer whose gap is its tolerance divided by 1e4; `seconds` a fit."""

    place = "here"

    def __init__(self, contender: Contender, judge: Judge, seconds: float) -> None:
        self.contender, self.judge, self.seconds, self.fits = contender, judge, seconds, 0

    def fit(self, tol: float, limit: float) -> Fit:
        if self.seconds > limit:
            raise TimeoutError("no answer")
        self.fits += 1
        return Fit(self.seconds, Solution(np.full((1, 1), tol / 1e4), np.zeros(1), "7"))

    measured_fit = fit

    def close(self) -> None:
        pass


class Identity(Judge):
    """Its gap is the coefficient."""

    def gap(self, coef: Any, intercept: Any) -> float:
        return float(coef[0, 0])


def test_the_search_stops_at_the_loosest_tolerance_that_reaches_the_gap() -> None:
    judge = Identity(np.zeros((1, 1)), np.zeros(1), 1.0, 1.0)
    racer = Ladder(Ours(BINARY), judge, 0.1)
    standing = search(racer, judge, limit=5.0)
    assert standing.tol == pytest.approx(1e-4)
    assert standing.reached and standing.gap is not None and standing.gap <= GAP
    assert racer.fits == 3


def test_a_solver_out_of_time_enters_no_ratio() -> None:
    judge = Identity(np.zeros((1, 1)), np.zeros(1), 1.0, 1.0)
    racers = [
        Ladder(Ours(BINARY), judge, 0.1),
        Ladder(ScikitLearn(BINARY, "lbfgs"), judge, 0.4),
        Ladder(ScikitLearn(BINARY, "sag"), judge, 9.0),
    ]
    standings = race(racers, judge, repeats=3, limit=5.0)
    assert speedup(standings, SCIKIT_LEARN) == pytest.approx(4.0)
    assert speedup(standings, "another") is None
    assert [len(standing.seconds) for standing in standings] == [3, 3, 0]
    table = race_table("t", standings)
    remark = table.columns.index("remark")
    assert "not reached" in str(table.rows[2][remark])
    assert "tasks a fit" not in table.columns  # nobody counted any


@pytest.mark.long
def test_contenders_in_processes_of_their_own(tmp_path: Path) -> None:
    judge = Judge.of(BINARY)
    with stored(judge.X, judge.y) as folder:
        racers = [ChildRacer(contender, folder) for contender in (Ours(BINARY), ScikitLearn(BINARY, "newton-cholesky"))]
        standings = race(racers, judge, repeats=1, limit=60.0)
    assert all(standing.reached and standing.fit is not None for standing in standings)
    assert all(standing.fit.peak_bytes is not None for standing in standings if standing.fit)
    assert standings[0].fit is not None and "check" in str(standings[0].fit.solution.passes)
    assert str(standings[1].fit and standings[1].fit.solution.passes).startswith(">=")


@pytest.mark.long
def test_a_contender_that_fails_says_why() -> None:
    judge = Judge.of(BINARY)
    with stored(judge.X, judge.y) as folder:
        standing = search(ChildRacer(ScikitLearn(BINARY, "no-such-solver"), folder), judge, limit=60.0)
    assert not standing.reached
    assert "no-such-solver" in standing.remark


class Nearer:
    """A contender that comes as near as its tolerance says, but no nearer than 2e-6, and not in time below 1e-6."""

    library, solver = DASK_ML, "admm"

    def fit(self, X: Any, y: Any, tol: float) -> Solution:
        if tol < 1e-6:
            raise TimeoutError("no answer")
        return Solution(np.full((1, 5), max(tol, 2e-6)), np.zeros(1), None)


class Here:
    """A place where a contender is run. `seconds` of a fit: 1 / tol."""

    place = "here"

    def __init__(self, contender: Any) -> None:
        self.contender = contender

    def fit(self, tol: float, limit: float) -> Fit:
        return Fit(1 / tol, self.contender.fit(None, None, tol))

    measured_fit = fit

    def close(self) -> None:
        pass


def test_a_solver_that_does_not_arrive_has_its_own_best() -> None:
    """The loosest tolerance that comes as near as any."""
    judge: Any = SimpleNamespace(gap=lambda coef, intercept: coef[0, 0])
    found = search_best(Here(Nearer()), judge, 60.0)
    assert (found.tol, found.gap, found.remark, found.reached) == (1e-6, 2e-6, "tol=1e-07: no answer", False)
    take_racer_turns([found], 2, 60.0)
    ours = Standing(found.racer, 1e-3, 1e-9, seconds=[1e4])
    other = Standing(found.racer, 1e-2, 1e-3, seconds=[1.0])
    assert sooner(ours, [other, found]) == pytest.approx(100.0)
    assert sooner(Standing(found.racer), [found]) is None and sooner(ours, [Standing(found.racer)]) is None


def test_all_solvers_of_scikit_learn_take_part() -> None:
    assert [c.solver for c in in_process(BINARY, ours=["auto"], few=False) if c.library == SCIKIT_LEARN] == [
        "lbfgs", "newton-cholesky", "newton-cg", "sag", "saga", "liblinear",
    ]  # fmt: skip
    assert "liblinear" not in [c.solver for c in in_process(MULTI, ours=["auto", "lbfgs"], few=False)]
    assert {c.library for c in in_process(BINARY, ours=["auto"], few=False)} == {OURS, SCIKIT_LEARN, INTEL, "glum", "skglm"}
    assert {c.library for c in in_process(MULTI, ours=["auto"], few=False)} == {OURS, SCIKIT_LEARN, INTEL}
    assert INTEL not in [c.library for c in in_process(CSR, ours=["auto"], few=False)]


@pytest.mark.parametrize(
    ("contender", "problem"),
    [
        *[(make(problem), problem) for problem in (BINARY, CSR) for make in (lambda p: Glum(p, "irls-ls"), lambda p: Glum(p, "lbfgs"))],
        pytest.param(Skglm(BINARY), BINARY, marks=pytest.mark.long),  # compiles
        *[(ScikitLearn(problem, "lbfgs", INTEL), problem) for problem in (BINARY, MULTI)],
        *[
            (contender, problem)
            for problem in (RIDGE, replace(RIDGE, C=math.inf))
            for contender in in_process(problem, ours=["auto"], few=True)
        ],
    ],
    ids=lambda each: f"{each.library} {each.solver}" if not isinstance(each, Problem) else each.name,
)
def test_peers_minimise_the_same(contender: Contender, problem: Problem) -> None:
    if contender.missing:
        pytest.skip("not installed")
    judge = Judge.of(problem)
    solution = contender.fit(judge.X, judge.y, 1e-8)
    assert abs(judge.gap(solution.coef, solution.intercept)) < 1e-12


def test_a_library_that_is_not_installed_is_shown_as_such() -> None:
    judge = Identity(np.zeros((1, 1)), np.zeros(1), 1.0, 1.0)
    for missing in (DaskML(BINARY, "newton"), Glum(BINARY, "lbfgs"), Skglm(BINARY), ScikitLearn(BINARY, "lbfgs", INTEL)):
        racers = [Ladder(Ours(BINARY), judge, 0.1), Ladder(replaced_by_nothing(missing), judge, 0.1)]
        for standings in (race(racers, judge, 2, 5.0), contest(racers, judge, 1e-4, 2, 5.0)):
            assert [standing.remark for standing in standings] == ["", "not installed"]
            assert speedup(standings, missing.library) is None
            assert race_table("t", standings).rows[1][1] == missing.library


def replaced_by_nothing(contender: Contender) -> Contender:
    """The contender where its library is not installed."""
    return type("Missing", (), {"library": contender.library, "solver": contender.solver, "missing": True})()


def test_everyone_at_one_tolerance() -> None:
    """Ladder's gap is its tolerance over 1e4; a fit above the gap is shown, and enters no ratio."""
    judge = Identity(np.zeros((1, 1)), np.zeros(1), 1.0, 1.0)
    racers = [Ladder(Ours(BINARY), judge, 0.1), Ladder(ScikitLearn(BINARY, "lbfgs"), judge, 0.4), Ladder(Glum(BINARY, "lbfgs"), judge, 9.0)]
    near, far = contest(racers[:2], judge, 1e-4, 3, 5.0), contest(racers[:2], judge, 1e-3, 3, 5.0)
    assert [standing.tol for standing in near] == [1e-4, 1e-4] and [len(standing.seconds) for standing in far] == [3, 3]
    assert speedup(near, SCIKIT_LEARN) == pytest.approx(4.0) and speedup(far, SCIKIT_LEARN) is None


def test_targets_of_least_squares_and_of_threads() -> None:
    judge = Identity(np.zeros((1, 1)), np.zeros(1), 1.0, 1.0)
    racers = [Ladder(Ours(RIDGE), judge, 0.2), Ladder(ScikitLearn(RIDGE, "auto", INTEL), judge, 0.4), Ladder(Ours(RIDGE), judge, 0.3)]
    standings = [Standing(racer, 1e-4, 0.0, Fit(racer.seconds, Solution(np.zeros((1, 1)), np.zeros(1), None))) for racer in racers]
    take_racer_turns(standings, 2, 5.0)
    assert [target.value for target in least_squares_targets("t", standings)] == pytest.approx([0.5, 1.5])
    scaled = Scaled(1.0, 0.5, 3.0, 1.0, 2.0, 1.25)
    assert (scaled.by_threads, scaled.by_workers, scaled.by_cores) == (2.0, 3.0, 1.6)
    names = [work.name for work in works(quick=False)]
    assert len(set(names)) == len(names) == 11


@pytest.mark.parametrize("method", ["newton", "lbfgs"])
def test_dask_ml_minimises_nearly_the_same(method: str) -> None:
    pytest.importorskip("dask_ml")
    problem = Problem(n_rows=2_000, n_columns=5, n_partitions=2, C=1e4)
    judge = Judge.of(problem)
    X, y = problem.dask_arrays()
    solution = DaskML(problem, method, normalize=False).fit(with_ones(X), y, 1e-7)
    assert abs(judge.gap(solution.coef, solution.intercept)) < GAP


CLUSTERS = Clusters(n_rows=2_500, n_columns=30, n_classes=3, n_clusters=2, n_dimensions=4)
NETWORK = Network(hidden=32, batch_size=64, n_partitions=4)


def trainers() -> list[Trainer]:
    return [OursTrainer(NETWORK), ScikitLearnTrainer(NETWORK), PyTorch(NETWORK)]


@pytest.mark.parametrize("trainer", trainers(), ids=lambda trainer: trainer.library)
def test_all_trainers_train_the_same_network(trainer: Trainer) -> None:
    if trainer.missing:
        pytest.skip("not installed")
    rows = Rows.of(*CLUSTERS.arrays(), 500)
    linear = LogisticRegression().fit(rows.X, rows.y).score(rows.X_test, rows.y_test)
    training = trainer.prepare(rows)(12)
    assert len(training.epochs) == 12 and all(seconds > 0 for seconds in training.epochs)
    assert training.accuracy is not None and linear + 0.05 < training.accuracy < 1.0


def test_the_arithmetic_is_that_of_a_gradient() -> None:
    X, y = Clusters(n_rows=40, n_columns=5, n_classes=3).arrays()
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((5, 6)), rng.standard_normal((6, 3))]

    def loss() -> float:
        raw = np.maximum(X @ weights[0], 0) @ weights[1]
        return float(log_loss(y, np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True), labels=[0, 1, 2]))

    for weight, gradient in zip(weights, gradients(X, y, weights), strict=True):
        start = weight[2, 1]
        values = []
        for step in (1e-6, -1e-6):
            weight[2, 1] = start + step
            values.append(loss())
        weight[2, 1] = start
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(gradient[2, 1], rel=1e-5)
    assert Arithmetic(NETWORK).prepare(Rows.of(X, y, 10))(2).accuracy is None


def test_an_epoch_ends_with_its_last_round() -> None:
    assert epoch_seconds([1.0, 2.0, 4.0, 5.0, 7.0, 8.0], 3) == pytest.approx((2.0, 3.0, 3.0))
    assert differences([1.0, 1.5, 3.0]) == (0.5, 1.5)


class Bench:
    """A place where an epoch takes so long; `limit` too little for the slow."""

    name = "here"

    def __init__(self, seconds: float, accuracy: float) -> None:
        self.seconds, self.accuracy = seconds, accuracy

    def train(self, n_epochs: int, limit: float) -> Training:
        if self.seconds > limit:
            raise TimeoutError("no answer")
        return Training((99.0, *[self.seconds] * (n_epochs - 1)), self.accuracy)

    def measured(self, limit: float) -> int:
        self.train(1, limit)
        return 1 << 20

    def close(self) -> None:
        pass


def test_targets_of_an_epoch_are_ratios_of_medians() -> None:
    ours, peer, torch = trainers()[0], trainers()[1], trainers()[2]
    places = [(ours, Bench(0.2, 0.90)), (ours, Bench(0.3, 0.90)), (torch, Bench(0.25, 0.91)), (peer, Bench(0.4, 0.92))]
    standings = [EpochStanding(trainer, place) for trainer, place in places]
    take_turns(standings, Settings(repeats=2, limit=5.0))
    assert [target.value for target in epoch_targets(standings)] == pytest.approx([0.8, 0.5, 1.2, 0.02])
    assert all(standing.peak_bytes == 1 << 20 for standing in standings)
    standings = [EpochStanding(trainer, place) for trainer, place in places[:2]]
    standings += [EpochStanding(torch, None, remark="not installed"), EpochStanding(peer, Bench(9.0, 0.9))]
    take_turns(standings, Settings(repeats=1, limit=5.0))
    assert [target.value for target in epoch_targets(standings)] == [None, None, None, 0.0]
    assert standings[3].remark == "no answer"


SGD = Problem(n_rows=5_000, n_columns=5, n_partitions=2, C=1 / (ALPHA * 5_000))


@pytest.mark.parametrize(
    ("contender", "gap"), [(OurSGD(), 0.05), (TheirSGD(), 0.05), (OurSGD("svrg"), 1e-6)], ids=["ours", "theirs", "svrg"]
)
def test_linear_models_minimise_the_same(contender: Contender, gap: float) -> None:
    judge = Judge.of(SGD)
    solution = contender.fit(judge.X, judge.y, 1e-3)
    assert -1e-9 < judge.gap(solution.coef, solution.intercept) < gap
    assert solution.passes is not None and int(solution.passes.split()[0]) >= 5


def test_incremental_makes_one_pass() -> None:
    pytest.importorskip("dask_ml")
    judge = Judge.of(SGD)
    solution = Incremental().fit(*SGD.dask_arrays(), 1e-3)
    middle = SGD.bounds[1]
    halves = [(judge.X[:middle], judge.y[:middle]), (judge.X[middle:], judge.y[middle:])]
    found = []
    for order in (halves, halves[::-1]):
        model = SGDClassifier(loss="log_loss", alpha=ALPHA, random_state=0)
        for X, y in order:
            model.partial_fit(X, y, classes=[0, 1])
        found.append(np.allclose(model.coef_, solution.coef, rtol=1e-10))
    assert any(found)


class Fixed(Ladder):
    """A racer that ends at a gap."""

    def __init__(self, contender: Contender, place: str, gap: float, seconds: float) -> None:
        super().__init__(contender, Judge(np.zeros((1, 1)), np.zeros(1), 1.0, 1.0), seconds)
        self.place, self.gap = place, gap

    def fit(self, tol: float, limit: float) -> Fit:
        return super().fit(self.gap * 1e4, limit)

    measured_fit = fit


def test_a_fit_above_the_objective_of_scikit_learn_enters_no_ratio() -> None:
    judge = Identity(np.zeros((1, 1)), np.zeros(1), 1.0, 1.0)
    arrays, dataset = "2 workers, Dask arrays", "2 workers, Dataset"
    racers = [Fixed(TheirSGD(), ChildRacer.place, 1e-3, 2.0), Fixed(OurSGD(), ChildRacer.place, 1e-3, 1.0)]
    racers += [Fixed(OurSGD(), arrays, 1e-4, 0.4), Fixed(OurSGD(), dataset, 2e-3, 0.3), Fixed(OurSGD("svrg"), dataset, 1e-8, 1.0)]
    racers += [Fixed(OurSGD("one epoch"), arrays, 9e-4, 0.2), Fixed(OurSGD("one epoch"), dataset, 3e-3, 0.1)]
    racers += [Fixed(OurSGD("one epoch"), ChildRacer.place, 1e-3, 0.3), Fixed(OurSGD(n_threads=1), ChildRacer.place, 1e-3, 1.5)]
    standings = contest(racers, judge, 1e-3, 2, 5.0)
    found = {target.promise: target.value for target in sgd_targets(standings)}
    assert list(found.values()) == pytest.approx([0.5, 0.15, 1.0, 0.1, 1.0001 / 1.001, None, 1.002 / 1.001, 1e-8])
    reached = sgd_table("t", standings, 1.0)
    there = [row[reached.columns.index("at scikit-learn's")] == "reached" for row in reached.rows]
    assert there == [True, True, True, False, True, True, False, True, True]
    times = [row[reached.columns.index("times scikit-learn's")] for row in reached.rows]
    assert times == pytest.approx([1.0, 0.5, 0.2, None, 0.5, 0.1, None, 0.15, 0.75])


def test_passes_count_a_sample_as_its_share() -> None:
    problem = Problem(n_rows=20_000, n_columns=5)
    X, y = problem.arrays()
    newton, sampled = (Ours(problem, solver).fit(X, y, 1e-6).passes for solver in ("newton", "sampled-newton"))
    assert newton is not None and sampled is not None
    assert float(newton.split()[0]) == int(float(newton.split()[0]))
    assert 1.0 < float(sampled.split()[0]) < 10.0


def test_peak_memory_sees_a_short_allocation() -> None:
    """In a process of its own: this one may let go of as much memory meanwhile."""
    code = "import sys, time, numpy as np\nprint(flush=True); sys.stdin.readline()\nblock = np.ones(8 << 20); time.sleep(0.2); del block\n"
    code += "print(flush=True); sys.stdin.readline()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdout.readline()
        with PeakMemory([child.pid], interval=0.002) as memory:
            child.stdin.write("\n")
            child.stdin.flush()
            child.stdout.readline()
        child.stdin.close()
    assert 48 << 20 < memory.growth < 96 << 20


def test_a_time_limit_ends_a_block() -> None:
    with pytest.raises(TimeoutError, match="no answer within"), time_limit(0.05):
        time.sleep(5)


def test_targets_are_met_or_missed() -> None:
    assert Target("fast", "at least", 3.0, 3.0).met
    assert not Target("fast", "at least", 3.0, 2.9).met
    assert Target("small", "at most", 1.3, 1.2).met
    assert not Target("small", "at most", 1.3, None).met
    timed = [Timed((OURS, "here", 4), int), Timed((OURS, "here", 8), int)]
    rows = [(OURS, "here", 4, 1.0, 1.0, 1.0, None), (OURS, "here", 8, 1.5, 1.0, 1.5, None)]
    assert not growth_target("here", timed, rows).met


def test_a_report_is_stored_as_json_and_markdown(tmp_path: Path) -> None:
    report = Report("case", "a title", "python -m pipeline bench case")
    report.tables.append(Table("sizes", ("name", "value"), [("a", 1.23456), ("b", None)]))
    report.targets.append(Target("small", "at most", 1.3, 1.2))
    report.notes.append("a note")
    paths = report.store(tmp_path / "deep")
    content = json.loads(paths[0].read_text())
    assert content["tables"][0]["rows"] == [["a", 1.23456], ["b", None]]
    assert content["targets"][0]["met"] is True
    assert {"cores", "numpy", "scikit-learn"} <= set(content["machine"])
    text = paths[1].read_text()
    assert "`python -m pipeline bench case`" in text
    assert "| a    | 1.23  |" in text and "- a note" in text and "met" in text
    assert markdown_table(("x",), [(None,)])[2] == "| - |"


def test_without_a_name_the_cases_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks.run(None, []) == 0
    assert "logistic-200" in capsys.readouterr().out
    assert benchmarks.run("logistic-3", []) == 2
    assert "no benchmark 'logistic-3'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    [
        "overhead",
        pytest.param("bandwidth", marks=pytest.mark.long),
        pytest.param("module", marks=(pytest.mark.slow, pytest.mark.torch)),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "multinomial",
                "logistic-15",
                "least-squares",
                "sparse-logistic",
                "wide",
                "threads",
                "memory",
                "plan",
                "epoch",
                "sgd",
                "resident",
                "checkpoint",
                "startup",
                "chunks",
                "asynchronous",
                "admm",
            )
        ),
    ],
)
def test_a_quick_case_runs_and_is_stored(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks.run(name, ["--quick", "--repeats", "1", "--out", str(tmp_path)]) == 0
    assert f"bench {name} --quick" in capsys.readouterr().out
    assert json.loads((tmp_path / f"{name}.json").read_text())["tables"][0]["rows"]


@pytest.mark.long
def test_rounds_beside_which_a_checkpoint_is_offered_are_in_the_blocks_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of which a round takes 1 s, and an offer 10 s."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    def rest(keeper: Keeper, saved: Saved) -> None:
        now[0] += 10 * (keeper.options.every_rounds is not None)

    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(Keeper, "rest", rest)
    watch = checkpoints.Watch(tmp_path)
    checkpoints.fit(checkpoints.table(3000, 1000), watch)
    means = checkpoints.block_means(watch.ends)
    assert len(means) >= 7
    assert means == [11.0 if checkpoints.is_kept(number) else 1.0 for number in range(len(means))]
    assert watch.ends[-1] == len(watch.ends) + 10 * watch.n_offered
    assert checkpoints.triples(means[:7]) == [(1.0, 11.0, 1.0), (1.0, 11.0, 1.0)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic-28", "logistic-200"])
def test_a_quick_binary_case_has_everyone_in_it(name: str, tmp_path: Path) -> None:
    assert benchmarks.run(name, ["--quick", "--repeats", "1", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / f"{name}.json").read_text())
    libraries = {row[1] for table in content["tables"] for row in table["rows"]}
    assert libraries == {"dask-descent", "scikit-learn", "dask-ml"}
    assert all(target["value"] is not None for target in content["targets"])


def lived(first: list[float], last: list[float], **counts: int) -> Lived:
    """Twenty looks, of which two are a tenth; a single one between them is of no interest."""
    looks = [first] * 2 + [[1e6] * len(WHAT)] * 16 + [last] * 2
    return Lived(looks, [0.1] * len(looks), **{"deaths": 9, "hangs": 0, "wrong": 0, **counts})


def test_what_may_grow_in_many_fits() -> None:
    """The scheduler's memory as under a bare client, file handles by two, nothing else."""
    bare = lived([100, 50, 300, 10, 20, 30, 0, 0], [100, 75, 300, 10, 20, 30, 0, 0])
    report = Report("soak", "a title", "a command")
    judge_soak(report, lived([200, 60, 300, 10, 20, 30, 0, 0], [210, 96, 300, 12, 20, 30, 0, 0]), bare)
    assert [target.value for target in report.targets] == pytest.approx([1.05, 1.0, 1.6 / 1.5, 2, 0, 0, 0, 0, 0, 0])
    assert all(target.met for target in report.targets)
    report = Report("soak", "a title", "a command")
    judge_soak(report, lived([200, 60, 300, 10, 20, 30, 0, 0], [230, 102, 360, 13, 23, 33, 1, 1], hangs=1, wrong=1), bare)
    assert not any(target.met for target in report.targets)


@pytest.mark.long
def test_starts_are_measured_in_processes_of_their_own() -> None:
    idle = Start("none", "idle", ("-c", "import time; time.sleep(0.3)"))
    busy = Start("none", "busy", ("-c", "import time\nx = bytearray(50 << 20)\nwhile time.process_time() < 0.3: pass"))
    found = compared([idle, busy], 1)
    assert found[idle].seconds >= 0.3 > found[idle].cpu_seconds
    assert found[busy].cpu_seconds >= 0.3
    assert found[busy].peak_mib - found[idle].peak_mib > 40
    with pytest.raises(RuntimeError, match="ended with 3: no good"):
        took(["-c", "import sys; sys.stderr.write('no good'); sys.exit(3)"])
