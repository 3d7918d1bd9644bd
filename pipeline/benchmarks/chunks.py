"""The case about many chunks: a fit, predictions and a score of the same persisted rows, in few chunks and in many; and what Dask takes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from pipeline.benchmarks.cluster import N_WORKERS, persisted, workers
from pipeline.benchmarks.data import Problem
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.rounds import Timed, in_turn
from pipeline.benchmarks.settings import Settings
from pipeline.estimators.logistic import LogisticRegression
from tasks.typing import Float64

TIMES: Final = 1.5
FIT_SECONDS: Final = 0.3
OURS: Final = ("fit", "predict", "score")
DASKS: Final = ("Dask's map_blocks", "Dask's sum")
WHAT: Final = (*OURS, *DASKS)


class Growth(NamedTuple):
    """Seconds with the fewest chunks, and with the most."""

    few: float
    many: float


def chunks(report: Report, settings: Settings) -> None:
    """Time it all with few and many chunks, in turn, in one run."""
    counts = (4, 64) if settings.quick else (16, 128, 1024)
    problems = [Problem(n_rows=20_000 if settings.quick else 1_000_000, n_columns=28, n_partitions=n) for n in counts]
    with workers() as (client, _):
        timed = [each for problem in problems for each in timed_on(problem.n_partitions, *persisted(client, *problem.dask_arrays()))]
        seconds = in_turn(timed, settings.repeats)
    found = {one.name: median(each) for one, each in zip(timed, seconds, strict=True)}
    columns = ("what", "chunks", "median s", "fastest s", "times the fewest chunks")
    rows: list[tuple[Cell, ...]] = [
        (*one.name, found[one.name], min(each), found[one.name] / found[one.name[0], counts[0]])
        for one, each in zip(timed, seconds, strict=True)
    ]
    report.tables.append(
        Table(f"{problems[0].name}, persisted on {N_WORKERS} workers", columns, sorted(rows, key=lambda row: WHAT.index(str(row[0]))))
    )
    report.targets += targets({what: Growth(found[what, counts[0]], found[what, counts[-1]]) for what in OURS}, counts)
    report.notes.append(
        "Fit: `model.fit(X, y)`, which loads, checks and fits; predict: `model.predict(X).compute()`; score: `model.score(X, y)`."
        " The least that Dask itself can do with as many chunks: map_blocks: `X.map_blocks(first_column).compute()`, a number a row, as"
        " predictions are; sum: `X.sum().compute()`, one number, as a score is."
        f" All take turns, {settings.repeats} times after two that do not count."
    )


def timed_on(n_chunks: int, X: Any, y: Any) -> Sequence[Timed]:
    """All on these rows; what we do by a model that is fitted to them."""
    model = LogisticRegression().fit(X, y)
    return [
        Timed(("fit", n_chunks), lambda: LogisticRegression().fit(X, y)),
        Timed(("predict", n_chunks), lambda: model.predict(X).compute()),
        Timed(("score", n_chunks), lambda: model.score(X, y)),
        Timed((DASKS[0], n_chunks), lambda: X.map_blocks(first_column, drop_axis=1, dtype=X.dtype).compute()),
        Timed((DASKS[1], n_chunks), lambda: X.sum().compute()),
    ]


def first_column(block: Float64) -> Float64:
    """The least that a function can do to give one number a row."""
    return block[:, 0]


def targets(found: dict[str, Growth], counts: Sequence[int]) -> list[Target]:
    """What more chunks may cost."""
    where = f"with {counts[-1]} chunks"
    shares = [
        Target(f"time of {what} {where}, over {counts[0]}", "at most", TIMES, found[what].many / found[what].few) for what in OURS[1:]
    ]
    return [
        *shares,
        Target(
            f"seconds that a fit {where} takes more than with {counts[0]}", "at most", FIT_SECONDS, found["fit"].many - found["fit"].few
        ),
    ]
