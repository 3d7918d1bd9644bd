"""The case about linear models by stochastic gradient descent, each with its defaults and its own end."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import dask
import numpy as np
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning

from pipeline import SGDClassifier
from pipeline.benchmarks.child import ChildRacer, stored
from pipeline.benchmarks.cluster import DASK_ML, N_WORKERS, ClusterRacer, persisted, worker_pids, workers
from pipeline.benchmarks.contenders import OURS, SCIKIT_LEARN, Contender, Solution, installed
from pipeline.benchmarks.data import WARM_UP_ROWS, Problem
from pipeline.benchmarks.objective import Judge
from pipeline.benchmarks.race import Racer, Standing, contest
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.training.history import share_read
from tasks.typing import Array

ALPHA: Final = 1e-4
TOL: Final = 1e-3
"""The default tol of both libraries."""
SVRG_TOL: Final = 1e-8
MAX_RATIO: Final = 0.25
MAX_PROCESS: Final = 0.5
MAX_EPOCH: Final = 0.05
MAX_GAP: Final = 1e-6
ARRAYS, DATASET = f"{N_WORKERS} workers, Dask arrays", f"{N_WORKERS} workers, Dataset"
NOTES: Final = [
    "Objective: (1/n) Σ log loss + alpha/2 |coef|², the intercept free, evaluated by one NumPy function for everyone; the gap is relative "
    + "to the optimum, scikit-learn's newton-cholesky with tol=1e-12.",
    "Everyone runs with its defaults to its own end, one epoch with max_iter=1, svrg with a smaller tol. Times are whole "
    + "fits, in turn, after one that is not "
    + "counted; one that ends above scikit-learn's objective enters no ratio.",
    "Epochs by n_iter_; ours with all passes in it: a round over a batch as its share of the rows, and one pass that checks them.",
    "One process: each has its own, with C-ordered float64 rows and its library's default threads, ours on one thread, too "
    + "(scikit-learn's takes one row after the other, on one). "
    + f"{N_WORKERS} workers: one thread each, the rows persisted, or resident and checked, before the clock starts.",
    "dask-ml's Incremental gives one chunk after the other to scikit-learn's partial_fit, one pass in all; its time is that of a pass.",
    "Peak MiB: what memory grows during one fit; on the cluster that of both workers.",
]


@dataclass(frozen=True)
class Ours:
    """This library's estimator with its defaults, for one epoch only, or with variance reduction and a smaller tol.

    n_threads: in process; None for the default."""

    variant: Literal["defaults", "one epoch", "svrg"] = "defaults"
    library: str = OURS
    n_threads: int | None = None
    missing: bool = False

    @property
    def solver(self) -> str:
        threads = "" if self.n_threads is None else f", {self.n_threads} thread"
        return f"SGDClassifier{threads}, {self.variant}"

    def fit(self, X: Any, y: Any, tol: float) -> Solution:
        options: dict[str, Any] = {"tol": tol}
        if self.variant == "one epoch":
            options = {"tol": None, "max_iter": 1}
        elif self.variant == "svrg":
            options = {"tol": min(tol, SVRG_TOL), "variance_reduction": "svrg"}
        model = SGDClassifier(loss="log_loss", alpha=ALPHA, random_state=0, **options)
        with warnings.catch_warnings(), dask.config.set(num_workers=self.n_threads):
            warnings.simplefilter("ignore", ConvergenceWarning)  # the gap tells
            model.fit(X) if y is None else model.fit(X, y)
        passes = sum(map(share_read, model.history_))
        return Solution(model.coef_, model.intercept_, f"{model.n_iter_} ({passes:.1f} passes + 1 check)", model.tasks_per_round_)


@dataclass(frozen=True)
class ScikitLearn:
    """scikit-learn's estimator with its defaults."""

    library: str = SCIKIT_LEARN
    solver: str = "SGDClassifier, defaults"
    missing: bool = False

    def fit(self, X: Array, y: Array, tol: float) -> Solution:
        model = linear_model.SGDClassifier(loss="log_loss", alpha=ALPHA, random_state=0, tol=tol)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y)
        return Solution(model.coef_, model.intercept_, str(model.n_iter_))


@dataclass(frozen=True)
class Incremental:
    """dask-ml's Incremental around scikit-learn's estimator: one pass."""

    library: str = DASK_ML
    solver: str = "Incremental(SGDClassifier), one pass"

    @property
    def missing(self) -> bool:
        return not installed("dask_ml")

    def fit(self, X: Any, y: Any, tol: float) -> Solution:
        from dask_ml.wrappers import Incremental as Wrapper  # the bench extra; slow to import

        model = Wrapper(linear_model.SGDClassifier(loss="log_loss", alpha=ALPHA, random_state=0, tol=tol))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of dask-ml do not concern us
            model.fit(X, y, classes=np.arange(2))
        return Solution(model.estimator_.coef_, model.estimator_.intercept_, "1")


def sgd(report: Report, settings: Settings) -> None:
    """Compare stochastic gradient descent in process and on two workers, all in turn."""
    n_rows = 20_000 if settings.quick else 1_000_000
    problem = Problem(n_rows=n_rows, n_columns=28, C=1 / (ALPHA * n_rows))
    judge = Judge.of(problem)
    with stored(judge.X, judge.y) as folder, workers() as (client, cluster):
        X, y = persisted(client, *problem.dask_arrays())
        dataset = Dataset.from_dask(X, y)
        assert dataset.schema.n_rows == n_rows  # now resident
        pids = worker_pids(client)
        few = replace(problem, n_rows=WARM_UP_ROWS).dask_arrays()
        for contender in (Ours(), Ours("svrg")):
            contender.fit(*few, TOL)  # in the workers too nobody shall compile while the clock runs
        here: list[Contender] = [Ours(), Ours(n_threads=1), Ours("one epoch"), Ours("one epoch", n_threads=1), Ours("svrg"), ScikitLearn()]
        racers: list[Racer] = [ChildRacer(one, folder) for one in here]
        racers += [ClusterRacer(Ours(), ARRAYS, X, y, cluster, pids), ClusterRacer(Ours(), DATASET, dataset, None, cluster, pids)]
        racers += [
            ClusterRacer(Ours("one epoch"), ARRAYS, X, y, cluster, pids),
            ClusterRacer(Ours("one epoch"), DATASET, dataset, None, cluster, pids),
            ClusterRacer(Ours("svrg"), DATASET, dataset, None, cluster, pids),
        ]
        racers += [ClusterRacer(Incremental(), ARRAYS, X, y, cluster, pids)]
        try:
            standings = contest(racers, judge, TOL, settings.repeats, settings.limit)
        finally:
            for racer in racers:
                racer.close()
    report.tables.append(
        sgd_table(f"{n_rows:,} x {problem.n_columns} float64, log loss, alpha={ALPHA:g}", standings, judge.optimum / n_rows)
    )
    report.targets += targets(standings)
    report.notes += NOTES


def defaults(standings: Sequence[Standing], library: str, place: str, variant: str = "defaults") -> Standing:
    """The first standing of this library at this place that has its defaults, or is of another variant."""
    there = [one for one in standings if one.racer.contender.library == library and one.racer.place == place]
    return next(one for one in there if one.racer.contender.solver.endswith(variant))


def sgd_table(title: str, standings: Sequence[Standing], optimum: float) -> Table:
    """The standings, in the order they were given; ratios are to scikit-learn's time."""
    peer = defaults(standings, SCIKIT_LEARN, ChildRacer.place)
    columns = (
        "where", "library", "solver", "objective", "relative gap", "at scikit-learn's", "median s", "fastest s", "fits",
        "times scikit-learn's", "epochs", "peak MiB", "tasks a fit", "remark",
    )  # fmt: skip
    return Table(title, columns, [sgd_row(one, peer, optimum) for one in standings])


def sgd_row(one: Standing, peer: Standing, optimum: float) -> tuple[Cell, ...]:
    """One line of the table."""
    fit, contender = one.fit, one.racer.contender
    return (
        one.racer.place,
        contender.library,
        contender.solver,
        None if one.gap is None else f"{optimum * (1 + one.gap):.7f}",
        None if one.gap is None else f"{one.gap:.1e}",
        None if one.gap is None or peer.gap is None else "reached" if one.gap <= peer.gap else "not reached",
        one.median,
        min(one.seconds, default=None),
        len(one.seconds),
        ratio(one, peer),
        None if fit is None else fit.solution.passes,
        None if fit is None or fit.peak_bytes is None else fit.peak_bytes / 2**20,
        None if fit is None else fit.tasks,
        one.remark,
    )


def targets(standings: Sequence[Standing]) -> list[Target]:
    """The targets: time at scikit-learn's objective, that objective, and how near variance reduction comes to the optimum."""
    peer = defaults(standings, SCIKIT_LEARN, ChildRacer.place)
    found = []
    for place in (ChildRacer.place, ARRAYS, DATASET):
        ours = defaults(standings, OURS, place)
        promise = "median time of {} over scikit-learn's fit, at its objective or below: {}"
        if place == ChildRacer.place:
            found.append(Target(promise.format("a fit", place), "at most", MAX_PROCESS, ratio(ours, peer)))
        limit = MAX_EPOCH if place == ChildRacer.place else MAX_RATIO
        one_epoch = ratio(defaults(standings, OURS, place, "one epoch"), peer)
        found.append(Target(promise.format("an epoch", place), "at most", limit, one_epoch))
        found.append(Target(f"objective over scikit-learn's: {place}", "at most", 1.0, quotient(ours, peer)))
    gaps = [one.gap for one in standings if one.racer.contender.solver.endswith("svrg")]
    worst = max((abs(gap) for gap in gaps if gap is not None), default=None) if None not in gaps else None
    return [*found, Target("relative gap of svrg to the optimum", "at most", MAX_GAP, worst)]


def ratio(ours: Standing, peer: Standing) -> float | None:
    """The ratio of median times, None unless ours ended at the peer's objective or below."""
    if ours.median is None or peer.median is None or ours.gap is None or peer.gap is None or ours.gap > peer.gap:
        return None
    return ours.median / peer.median


def quotient(ours: Standing, peer: Standing) -> float | None:
    """The quotient of objectives."""
    return None if ours.gap is None or peer.gap is None else (1 + ours.gap) / (1 + peer.gap)
