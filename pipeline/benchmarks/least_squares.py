"""The case about least squares: Ridge and LinearRegression, in process and on two workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from pipeline.benchmarks.child import ChildRacer, stored
from pipeline.benchmarks.cluster import N_WORKERS, ClusterRacer, persisted, worker_pids, workers
from pipeline.benchmarks.contenders import INTEL, Ours
from pipeline.benchmarks.data import WARM_UP_ROWS, Regression
from pipeline.benchmarks.fits import TOL
from pipeline.benchmarks.objective import GAP, Judge
from pipeline.benchmarks.peers import in_process
from pipeline.benchmarks.race import Racer, Standing, best, contest, over, race_table
from pipeline.benchmarks.report import Report, Target
from pipeline.benchmarks.settings import Settings

MAX_RATIO: Final = 0.9
MAX_CLUSTER: Final = 1.2
NOTES: Final = [
    "alpha=1 is Ridge, alpha=0 LinearRegression; the objective, half the squared error and alpha/2 |coef|², is evaluated by one NumPy "
    + f"function for everyone, and a gap above {GAP:.0e} (relative to scikit-learn's singular value decomposition) enters no ratio.",
    f"Everyone runs with tol={TOL:g}, which direct solvers do not look at. Timed fits take turns, after one that is not counted.",
    "One process: each contender has its own, with C-ordered float64 rows and its library's default threads; peak MiB is what its memory "
    + f"grows during one fit. {N_WORKERS} workers: one thread each, the rows persisted in 4 chunks before the clock starts.",
]


def least_squares(report: Report, settings: Settings) -> None:
    """Compare both estimators on a table of few columns and on one of more."""
    shapes = ((10_000, 28), (5_000, 60)) if settings.quick else ((1_000_000, 28), (300_000, 200))
    with workers() as (client, cluster):
        for n_rows, n_columns in shapes:
            X, y = persisted(client, *Regression(n_rows=n_rows, n_columns=n_columns).dask_arrays())
            few = Regression(n_rows=WARM_UP_ROWS, n_columns=n_columns)
            Ours(few).fit(*few.dask_arrays(), TOL)  # in the workers too nobody shall compile while the clock runs
            for C in (1.0, math.inf):
                problem = Regression(n_rows=n_rows, n_columns=n_columns, C=C)
                there = ClusterRacer(Ours(problem), f"{N_WORKERS} workers, Dask arrays", X, y, cluster, worker_pids(client))
                compare(report, problem, there, settings)
    report.notes += NOTES


def compare(report: Report, problem: Regression, there: Racer, settings: Settings) -> None:
    """Time everyone in process, and us on the workers, in turn."""
    judge = Judge.of(problem)
    with stored(judge.X, judge.y) as folder:
        racers: list[Any] = [ChildRacer(contender, folder) for contender in in_process(problem, ours=["auto"], few=True)]
        try:
            standings = contest([*racers, there], judge, TOL, settings.repeats, settings.limit)
        finally:
            for racer in racers:
                racer.close()
    report.tables.append(race_table(problem.name, standings))
    report.targets += targets(problem.name, standings)


def targets(name: str, standings: Sequence[Standing]) -> list[Target]:
    """The targets: ours in process, the first, beside scikit-learn-intelex, and ours on the workers, the last, beside it."""
    here, there, intel = standings[0], standings[-1], best(standings, INTEL)
    return [
        Target(f"{name}: median time over {INTEL}'s", "at most", MAX_RATIO, over(here, intel) if intel and here.reached else None),
        Target(f"{name}: median time on {N_WORKERS} workers over that in process", "at most", MAX_CLUSTER, over(there, here)),
    ]
