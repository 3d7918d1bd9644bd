"""Cases that compare whole fits: binary tables, dense and CSR, and one of ten classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from pipeline.benchmarks.child import ChildRacer, stored
from pipeline.benchmarks.cluster import DASK_ML, N_WORKERS, ClusterRacer, dask_ml, persisted, with_ones, worker_pids, workers
from pipeline.benchmarks.contenders import INTEL, SCIKIT_LEARN, Ours
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.objective import GAP, Judge
from pipeline.benchmarks.peers import in_process
from pipeline.benchmarks.race import LADDER, Racer, contest, race, race_table, speedup
from pipeline.benchmarks.report import Report, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset

# With few rows, solvers that ignore the penalty are near the optimum only where it is weak.
QUICK_C: Final = 100.0
TOL: Final = 1e-4
"""scikit-learn's default, which everyone gets in the second table of each place."""
FAIRNESS: Final = [
    f"Every solver runs at the loosest tolerance of the ladder {LADDER[0]:.0e}, {LADDER[1]:.0e} ... {LADDER[-1]:.0e} at which its "
    + f"objective, evaluated by one NumPy function for all, is within {GAP:.0e} (relative) of the reference: scikit-learn's "
    + f"newton-cholesky with tol=1e-12. Tables with tol={TOL:g} show everyone at that tolerance, and the gap it ends at; targets are "
    + "of the others.",
    "Compilation is not counted: the search for the tolerance has run every solver before it is timed. Timed fits take turns.",
    "A solver that does not reach the objective within the time limit is shown with its last finished fit and enters no ratio.",
]
PROCESS_NOTES: Final = [
    "One process: each contender has its own, with C-ordered float64 rows (or CSR) and its library's default threads; peak MiB is what "
    + "its memory grows during one fit, in a fresh process that has the rows and has warmed up.",
    "Passes: ours are counted rounds, a round on a sample of the rows as that share (four times where partitions solve for themselves), "
    + "and one pass that checks the rows; "
    + "the others' n_iter_ is a lower bound of their passes.",
    "scikit-learn-intelex has lbfgs and newton-cg for dense rows, and leaves the rest to scikit-learn. glum's and skglm's penalties are "
    + "beside a mean over the rows, and get 1 / (C n); neither has a multinomial model.",
]
CLUSTER_NOTES: Final = [
    f"Cluster: {N_WORKERS} workers with one thread each on this machine, one client, the rows persisted on the workers before the "
    + "clock starts, in 4 chunks for all (few chunks suit dask-ml best; 2 to 64 were tried). dask-ml gets a further copy with a column "
    + "of ones, so that it need not join one in every pass.",
    "dask-ml's newton and gradient_descent ignore the penalty, its lbfgs and admm also penalise the intercept; the gap is that of the "
    + "common objective all the same. It counts no passes. Its lbfgs gets the tolerance times the rows: it compares the gradient of a sum.",
    "Peak MiB on the cluster: growth of both workers' memory, summed, during one fit; ours includes the copy of its sample.",
]


def compare(report: Report, title: str, racers: Sequence[Racer], judge: Judge, settings: Settings, wanted: Mapping[str, float]) -> None:
    """Race to the same objective, and again with the same tolerance. wanted: of each peer, its best solver's time over ours at least."""
    try:
        standings = race(racers, judge, settings.repeats, settings.limit)
        report.tables.append(race_table(title, standings))
        equal = contest(racers, judge, TOL, settings.repeats, settings.limit)
        report.tables.append(race_table(f"{title}, tol={TOL:g} for everyone", equal))
    finally:
        for racer in racers:
            racer.close()
    report.targets += [
        Target(f"median time of {peer}'s best solver over ours", "at least", times, speedup(standings, peer))
        for peer, times in wanted.items()
    ]


def compare_here(
    report: Report, settings: Settings, problem: Problem, judge: Judge, wanted: Mapping[str, float], *, few: bool = False
) -> None:
    """This library and its peers on rows in memory; few: only the solvers that get there in little time."""
    with stored(judge.X, judge.y) as folder:
        contenders = in_process(problem, ours=settings.solvers, few=few or settings.quick)
        racers = [ChildRacer(contender, folder) for contender in contenders]
        compare(report, f"{problem.name}: in one process", racers, judge, settings, wanted)


def compare_there(report: Report, settings: Settings, problem: Problem, judge: Judge, wanted: Mapping[str, float]) -> None:
    """This library (from the persisted arrays, and from a dataset that is resident) and dask-ml, on two workers."""
    with workers() as (client, cluster):
        X, y = persisted(client, *problem.dask_arrays())
        (X1,) = persisted(client, with_ones(X))
        dataset = Dataset.from_dask(X, y)
        assert dataset.schema.n_rows == problem.n_rows  # now resident
        pids = worker_pids(client)
        arrays, resident = "2 workers, Dask arrays", "2 workers, Dataset"
        racers = [ClusterRacer(Ours(problem, solver), arrays, X, y, cluster, pids) for solver in settings.solvers]
        racers += [ClusterRacer(Ours(problem, solver), resident, dataset, None, cluster, pids) for solver in settings.solvers]
        racers += [ClusterRacer(contender, arrays, X1, y, cluster, pids) for contender in dask_ml(problem, quick=settings.quick)]
        compare(report, f"{problem.name}: on two workers", racers, judge, settings, wanted)


def binary(report: Report, settings: Settings, problem: Problem, here: Mapping[str, float], there: Mapping[str, float]) -> None:
    """A binary table: NumPy in process against scikit-learn and others, two workers against dask-ml."""
    judge = Judge.of(problem)
    compare_here(report, settings, problem, judge, here)
    compare_there(report, settings, problem, judge, there)
    report.notes += FAIRNESS + PROCESS_NOTES + CLUSTER_NOTES


def logistic_28(report: Report, settings: Settings) -> None:
    """A table of few columns: the check and the rounds themselves weigh."""
    problem = Problem(n_rows=1_000_000, n_columns=28)
    problem = replace(problem, n_rows=10_000, C=QUICK_C) if settings.quick else problem
    binary(report, settings, problem, {SCIKIT_LEARN: 12.0, INTEL: 6.0}, {DASK_ML: 25.0})


def logistic_200(report: Report, settings: Settings) -> None:
    """A table of more columns: the arithmetic weighs."""
    problem = Problem(n_rows=300_000, n_columns=200)
    problem = replace(problem, n_rows=10_000, n_columns=40, C=QUICK_C) if settings.quick else problem
    binary(report, settings, problem, {SCIKIT_LEARN: 10.0, INTEL: 4.0}, {DASK_ML: 20.0})


def logistic_15(report: Report, settings: Settings) -> None:
    """A table of about 1 GB, of the size of dask-glm's public benchmark of 2017."""
    problem = Problem(n_rows=20_000 if settings.quick else 8_000_000, n_columns=15)
    compare_here(report, settings, problem, Judge.of(problem), {SCIKIT_LEARN: 12.0}, few=True)
    report.notes += [*FAIRNESS, *PROCESS_NOTES, "The slowest solvers are left out: sag, saga, liblinear and skglm's."]


def multinomial(report: Report, settings: Settings) -> None:
    """A table of ten classes; dask-ml has no multinomial model."""
    problem = Problem(n_rows=200_000, n_columns=100, n_classes=10)
    if settings.quick:
        problem = Problem(n_rows=5_000, n_columns=10, n_classes=4)
    compare_here(report, settings, problem, Judge.of(problem), {SCIKIT_LEARN: 6.0})
    report.notes += [*FAIRNESS, *PROCESS_NOTES, "dask-ml fits two classes only."]
