"""Cases that compare whole fits: two binary tables, and one of ten classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pipeline.benchmarks.child import ChildRacer, stored
from pipeline.benchmarks.cluster import DASK_ML, N_WORKERS, ClusterRacer, dask_ml, persisted, with_ones, worker_pids, workers
from pipeline.benchmarks.contenders import SCIKIT_LEARN, Ours, in_process
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.objective import GAP, Judge
from pipeline.benchmarks.race import LADDER, Standing, race, race_table, speedup
from pipeline.benchmarks.report import Report, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset

# With few rows, solvers that ignore the penalty are near the optimum only where it is weak.
QUICK_C: Final = 100.0
FAIRNESS: Final = [
    f"Every solver runs at the loosest tolerance of the ladder {LADDER[0]:.0e}, {LADDER[1]:.0e} ... {LADDER[-1]:.0e} at which its "
    + f"objective, evaluated by one NumPy function for all, is within {GAP:.0e} (relative) of the reference: scikit-learn's "
    + "newton-cholesky with tol=1e-12.",
    "Compilation is not counted: the search for the tolerance has run every solver before it is timed. Timed fits take turns.",
    "A solver that does not reach the objective within the time limit is shown with its last finished fit and enters no ratio.",
]
PROCESS_NOTES: Final = [
    "One process: each contender has its own, with C-ordered float64 rows and its library's default threads; peak MiB is what "
    + "its memory grows during one fit, in a fresh process that has the rows and has warmed up.",
    "Passes: ours are counted rounds, a round on a sample of the rows as that share (four times where partitions solve for themselves), "
    + "and one pass that checks the rows; "
    + "scikit-learn's n_iter_ is a lower bound of its passes.",
]
CLUSTER_NOTES: Final = [
    f"Cluster: {N_WORKERS} workers with one thread each on this machine, one client, the rows persisted on the workers before the "
    + "clock starts, in 4 chunks for all (few chunks suit dask-ml best; 2 to 64 were tried). dask-ml gets a further copy with a column "
    + "of ones, so that it need not join one in every pass.",
    "dask-ml's newton and gradient_descent ignore the penalty, its lbfgs and admm also penalise the intercept; the gap is that of the "
    + "common objective all the same. It counts no passes. Its lbfgs gets the tolerance times the rows: it compares the gradient of a sum.",
    "Peak MiB on the cluster: growth of both workers' memory, summed, during one fit; ours includes the copy of its sample.",
]


def process_standings(problem: Problem, judge: Judge, settings: Settings) -> list[Standing]:
    """This library and scikit-learn on NumPy arrays."""
    with stored(judge.X, judge.y) as folder:
        racers = [ChildRacer(contender, folder) for contender in in_process(problem, ours=settings.solvers, quick=settings.quick)]
        try:
            return race(racers, judge, settings.repeats, settings.limit)
        finally:
            for racer in racers:
                racer.close()


def cluster_standings(problem: Problem, judge: Judge, settings: Settings) -> list[Standing]:
    """This library (from the persisted arrays, and from a dataset that is resident) and dask-ml."""
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
        return race(racers, judge, settings.repeats, settings.limit)


def binary(report: Report, settings: Settings, problem: Problem, cluster_target: float) -> None:
    """A binary table: NumPy in process against scikit-learn, two workers against dask-ml."""
    judge = Judge.of(problem)
    here = process_standings(problem, judge, settings)
    there = cluster_standings(problem, judge, settings)
    report.tables += [race_table(f"{problem.name}: in one process", here), race_table(f"{problem.name}: on two workers", there)]
    promise = "{} of {}'s best solver over ours"
    report.targets += [
        Target(promise.format("median time", SCIKIT_LEARN), "at least", 3.0, speedup(here, SCIKIT_LEARN)),
        Target(promise.format("median time", DASK_ML), "at least", cluster_target, speedup(there, DASK_ML)),
    ]
    report.notes += FAIRNESS + PROCESS_NOTES + CLUSTER_NOTES


def logistic_28(report: Report, settings: Settings) -> None:
    """A table of few columns: the check and the rounds themselves weigh."""
    problem = Problem(n_rows=1_000_000, n_columns=28)
    binary(report, settings, replace(problem, n_rows=10_000, C=QUICK_C) if settings.quick else problem, 6.0)


def logistic_200(report: Report, settings: Settings) -> None:
    """A table of more columns: the arithmetic weighs."""
    problem = Problem(n_rows=300_000, n_columns=200)
    binary(report, settings, replace(problem, n_rows=10_000, n_columns=40, C=QUICK_C) if settings.quick else problem, 10.0)


def multinomial(report: Report, settings: Settings) -> None:
    """A table of ten classes; dask-ml has no multinomial model."""
    problem = Problem(n_rows=200_000, n_columns=100, n_classes=10)
    if settings.quick:
        problem = Problem(n_rows=5_000, n_columns=10, n_classes=4)
    standings = process_standings(problem, Judge.of(problem), settings)
    report.tables.append(race_table(f"{problem.name}: in one process", standings))
    report.notes += [*FAIRNESS, *PROCESS_NOTES, "dask-ml fits two classes only."]
