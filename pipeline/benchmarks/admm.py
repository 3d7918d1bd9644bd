"""The case about ADMM: this library's and dask-ml's, on the same partitions of the same two workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pipeline.benchmarks.cluster import DASK_ML, N_WORKERS, ClusterRacer, DaskML, persisted, with_ones, worker_pids, workers
from pipeline.benchmarks.contenders import Ours
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.objective import GAP, Judge
from pipeline.benchmarks.race import NEARLY, Standing, measure, race_table, search, search_best, take_turns
from pipeline.benchmarks.report import Report, Target
from pipeline.benchmarks.settings import Settings

SOONER: Final = 20.0
STIFFER: Final = (1e-4, 1e-2)
"""rho of dask-ml by the number of rows, beside its default of 1, by which sums over a million rows are hardly held together."""
MAX_ITER: Final = 100
"""dask-ml's own default."""
QUICK_ITER: Final = 3
NOTES: Final = [
    f"Ours: the loosest tolerance at which the gap is at most {GAP:.0e}, relative, to the objective of scikit-learn's newton-cholesky.",
    f"dask-ml's: the smallest gap that it gets to in {MAX_ITER} iterations, its default, and within the limit; at the loosest tolerance"
    f" that comes as near but for a factor of {NEARLY:g}; with its default rho and with larger ones, of which that of the smallest gap"
    " is in the ratio. It also penalises the intercept.",
    f"Cluster: {N_WORKERS} workers with one thread each, the rows persisted in 4 chunks, each of which is a subtree of ours and a part of"
    " dask-ml's. Peak MiB: growth of both workers' memory, summed, during one fit.",
]


def admm(report: Report, settings: Settings) -> None:
    """Search both, measure the memory of a fit of each, and time them in turn."""
    problem = Problem(n_rows=1_000_000, n_columns=28)
    if settings.quick:
        problem = replace(problem, n_rows=10_000, n_columns=5)
    judge = Judge.of(problem)
    with workers() as (client, cluster):
        X, y = persisted(client, *problem.dask_arrays())
        (X1,) = persisted(client, with_ones(X))
        place, pids = f"{N_WORKERS} workers, Dask arrays", worker_pids(client)
        rhos, most = [1.0, *(share * problem.n_rows for share in STIFFER)], MAX_ITER
        if settings.quick:
            rhos, most = rhos[-1:], QUICK_ITER
        peers = [DaskML(problem, "admm", rho=rho, max_iter=most) for rho in rhos]
        standings = [search(ClusterRacer(Ours(problem, "admm"), place, X, y, cluster, pids), judge, settings.limit)]
        standings += [search_best(ClusterRacer(peer, place, X1, y, cluster, pids), judge, settings.limit) for peer in peers]
        arrived = [standing for standing in standings if standing.tol is not None]
        for standing in arrived:
            measure(standing, settings.limit)
        take_turns(arrived, settings.repeats, settings.limit)
    report.tables.append(race_table(f"{problem.name}: ADMM on two workers", standings))
    report.targets.append(
        Target(f"{DASK_ML}'s ADMM to its own best over ours to a gap of {GAP:.0e}", "at least", SOONER, sooner(standings[0], standings[1:]))
    )
    report.notes += NOTES


def sooner(ours: Standing, theirs: Sequence[Standing]) -> float | None:
    """The median time of the peer that comes nearest over ours; None where one of the two did not get anywhere."""
    timed = [each for each in theirs if each.gap is not None and each.median is not None]
    if not (ours.reached and ours.median and timed):
        return None
    nearest = min(timed, key=lambda each: abs(each.gap or 0.0)).median
    assert nearest is not None
    return nearest / ours.median
