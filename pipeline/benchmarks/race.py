"""The race: each solver at the loosest tolerance that reaches the common objective, then timings in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple, Protocol

from pipeline.benchmarks.contenders import OURS, Contender, Solution
from pipeline.benchmarks.objective import GAP, Judge
from pipeline.benchmarks.report import Cell, Table

LADDER: Final = tuple(10.0**-k for k in range(2, 13))
SLOW, VERY_SLOW = 3.0, 15.0
NEARLY: Final = 1.1
MISSING: Final = "not installed"


class Fit(NamedTuple):
    """One fit: seconds and solution; of a measured fit also the growth of memory and, on a cluster, the tasks it ran."""

    seconds: float
    solution: Solution
    peak_bytes: int | None = None
    tasks: int | None = None


class Racer(Protocol):
    """A contender at a place where it can be run. `fit` raises TimeoutError after `limit` seconds, RuntimeError when the fit failed."""

    @property
    def place(self) -> str: ...

    @property
    def contender(self) -> Contender: ...

    def fit(self, tol: float, limit: float) -> Fit: ...

    def measured_fit(self, tol: float, limit: float) -> Fit: ...

    def close(self) -> None: ...


@dataclass
class Standing:
    """The results of a racer. fit: the measured one, or the last one of a search that did not reach the objective."""

    racer: Racer
    tol: float | None = None
    gap: float | None = None
    fit: Fit | None = None
    seconds: list[float] = field(default_factory=list)
    remark: str = ""

    @property
    def reached(self) -> bool:
        return self.gap is not None and self.gap <= GAP

    @property
    def median(self) -> float | None:
        return median(self.seconds) if self.seconds else None


def race(racers: Sequence[Racer], judge: Judge, repeats: int, limit: float) -> list[Standing]:
    """Search all tolerances (a solver has `limit` seconds for that), measure memory, then time one fit of each in turn, `repeats` times."""
    standings = []
    for racer in racers:
        standing = search(racer, judge, limit)
        if standing.reached:
            measure(standing, limit)
        else:
            racer.close()
        standings.append(standing)
    take_turns([standing for standing in standings if standing.reached], repeats, limit)
    for racer in racers:
        racer.close()
    return standings


def contest(racers: Sequence[Racer], judge: Judge, tol: float, repeats: int, limit: float) -> list[Standing]:
    """One fit of each at this tolerance that measures memory, then timed ones in turn. Everyone has warmed up on a few rows."""
    standings = [Standing(racer) for racer in racers]
    for standing in standings:
        if standing.racer.contender.missing:
            standing.remark = MISSING
            continue
        try:
            standing.fit = standing.racer.measured_fit(tol, limit)
        except (TimeoutError, RuntimeError) as error:
            standing.remark = str(error).strip().splitlines()[-1]
            continue
        standing.tol, standing.gap = tol, judge.gap(standing.fit.solution.coef, standing.fit.solution.intercept)
    take_turns(standings, repeats, limit)
    return standings


def measure(standing: Standing, limit: float) -> None:
    """A fit at the tolerance that was found, of which memory is measured."""
    assert standing.tol is not None
    standing.fit = standing.racer.measured_fit(standing.tol, patience(standing, limit))


def take_turns(standings: Sequence[Standing], repeats: int, limit: float) -> None:
    """Time one fit of each in turn, `repeats` times."""
    for turn in range(repeats):
        for standing in standings:
            if standing.tol is not None and turn < turns(standing, repeats):
                standing.seconds.append(standing.racer.fit(standing.tol, patience(standing, limit)).seconds)


def patience(standing: Standing, limit: float) -> float:
    """The seconds granted to a fit that is known to end: a busy machine is no reason to lose the run."""
    return limit + 10.0 * (standing.fit.seconds if standing.fit is not None else 0.0)


def turns(standing: Standing, repeats: int) -> int:
    """The number of timings of a fit: slow ones are timed less often."""
    assert standing.fit is not None
    return 1 if standing.fit.seconds > VERY_SLOW else min(repeats, 3) if standing.fit.seconds > SLOW else repeats


def search(racer: Racer, judge: Judge, limit: float) -> Standing:
    """The loosest tolerance of the ladder at which the solver's objective is close enough to the reference."""
    standing = Standing(racer)
    if racer.contender.missing:
        standing.remark = MISSING
        return standing
    deadline = time.monotonic() + limit
    for tol in LADDER:
        try:
            fit = racer.fit(tol, max(1.0, deadline - time.monotonic()))
        except TimeoutError:
            standing.remark = f"gap not reached within {limit:.0f} s"
            return standing
        except RuntimeError as error:
            standing.remark = f"gap not reached: {str(error).strip().splitlines()[-1]}"
            return standing
        gap = judge.gap(fit.solution.coef, fit.solution.intercept)
        standing.tol, standing.gap, standing.fit = tol, gap, fit
        if standing.reached:
            return standing
    standing.remark = f"gap not reached with any tolerance down to {LADDER[-1]:.0e}"
    return standing


def search_best(racer: Racer, judge: Judge, limit: float) -> Standing:
    """The smallest gap that the solver gets to within the limit, and the loosest tolerance of the ladder at which it is that near, but for
    a tenth."""
    found, remark, deadline = list[Standing](), "", time.monotonic() + limit
    for tol in LADDER:
        try:
            fit = racer.fit(tol, max(1.0, deadline - time.monotonic()))
        except (TimeoutError, RuntimeError) as error:
            remark = f"tol={tol:.0e}: {str(error).strip().splitlines()[-1]}"
            break
        gap = judge.gap(fit.solution.coef, fit.solution.intercept)
        if found and gap == found[-1].gap:  # as many steps as it makes: smaller tolerances do not matter any more
            break
        found.append(Standing(racer, tol, gap, fit))
    if not found:
        return Standing(racer, remark=remark)
    smallest = min(abs(each.gap or 0.0) for each in found)
    chosen = next(each for each in found if abs(each.gap or 0.0) <= NEARLY * smallest)
    chosen.remark = remark
    return chosen


def best(standings: Sequence[Standing], library: str) -> Standing | None:
    """The fastest of a library among those that reached the objective."""
    there = [standing for standing in standings if standing.racer.contender.library == library]
    timed = [standing for standing in there if standing.reached and standing.seconds]
    return min(timed, key=lambda standing: standing.median or 0.0, default=None)


def speedup(standings: Sequence[Standing], peer: str) -> float | None:
    """Median of the peer's best solver over the median of ours, the first of the standings."""
    theirs, ours = best(standings, peer), standings[0]
    return over(theirs, ours) if theirs is not None and ours.reached else None


def over(one: Standing, other: Standing) -> float | None:
    """The ratio of median times, None where one was not measured."""
    return None if one.median is None or other.median is None else one.median / other.median


def race_table(title: str, standings: Sequence[Standing]) -> Table:
    """The standings, in the order they were given; ratios to the first, which is ours."""
    columns = (
        "where", "library", "solver", "tol", "relative gap", "median s", "fastest s", "fits",
        "times ours", "passes", "peak MiB", "tasks a round", "tasks a fit", "remark",
    )  # fmt: skip
    assert standings[0].racer.contender.library == OURS
    rows = [race_row(standing, standings[0].median) for standing in standings]
    told = [i for i in range(len(columns)) if any(row[i] not in (None, "") for row in rows)]
    return Table(title, tuple(columns[i] for i in told), [tuple(row[i] for i in told) for row in rows])


def race_row(standing: Standing, ours: float | None) -> tuple[Cell, ...]:
    """One line of the table; `ours` is our median."""
    contender, fit, middle = standing.racer.contender, standing.fit, standing.median
    if middle is None and fit is not None:
        middle = fit.seconds  # of a search that ended early: to show the order of magnitude
    ratio = None if not standing.seconds or middle is None or ours is None else middle / ours
    return (
        standing.racer.place,
        contender.library,
        contender.solver,
        None if standing.tol is None else f"{standing.tol:.0e}",
        None if standing.gap is None else f"{standing.gap:.1e}",
        middle,
        min(standing.seconds, default=None),
        len(standing.seconds),
        ratio,
        None if fit is None else fit.solution.passes,
        None if fit is None or fit.peak_bytes is None else fit.peak_bytes / 2**20,
        None if fit is None else fit.solution.tasks_per_round,
        None if fit is None else fit.tasks,
        standing.remark,
    )
