"""The case about starting: what imports and commands take in fresh processes, and first trainings and fits after an installation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from pipeline.benchmarks.contenders import OURS, SCIKIT_LEARN
from pipeline.benchmarks.data import Problem, Sparse
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.rss import PeakMemory
from pipeline.benchmarks.settings import Settings
from pipeline.estimators.logistic import LogisticRegression
from pipeline.runs.metrics import METRICS_FILE
from tasks.machine.compilation import compile_seconds

MAX_IMPORT: Final = 1.2
MAX_HELP: Final = 0.6
MAX_COMPILE: Final = 10.5
SAMPLE_SECONDS: Final = 0.01


class Start(NamedTuple):
    """A command, and whose it is."""

    library: str
    title: str
    arguments: tuple[str, ...]


THEIRS: Final = Start(SCIKIT_LEARN, "import sklearn.linear_model", ("-c", "import sklearn.linear_model"))
MODEL: Final = Start(OURS, "from pipeline import LogisticRegression", ("-c", "from pipeline import LogisticRegression"))
HELP: Final = Start(OURS, "python -m pipeline --help", ("-m", "pipeline", "--help"))
STARTS: Final = (
    THEIRS,
    MODEL,
    Start(OURS, "from pipeline import Dataset", ("-c", "from pipeline import Dataset")),
    Start(OURS, "from pipeline import *", ("-c", "from pipeline import *")),
    HELP,
    Start(OURS, "python -m pipeline train --help", ("-m", "pipeline", "train", "--help")),
    Start(OURS, "python -m pipeline jobs", ("-m", "pipeline", "jobs")),
)


class Took(NamedTuple):
    """Seconds of a process, of the processors it used, and the most memory that it had."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def took(arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> Took:
    """Run Python, and wait for its end. Raises RuntimeError for another status than 0."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **(variables or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    with PeakMemory([process.pid], SAMPLE_SECONDS) as memory:  # the kernel's own figure counts what this process had before the other began
        words = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{arguments} ended with {process.returncode}: {words.decode(errors='replace')}")
    return Took(seconds, used.ru_utime + used.ru_stime, memory.peak / 2**20)


def startup(report: Report, settings: Settings) -> None:
    """Imports and commands in turn, then the first training and first fits, and others after them."""
    starts = compared(STARTS, 1 if settings.quick else settings.repeats)
    theirs, ours = starts[THEIRS], starts[MODEL]
    rows = [
        (start.library, start.title, found.seconds, found.seconds / theirs.seconds, found.cpu_seconds, found.peak_mib)
        for start, found in starts.items()
    ]
    columns = ("library", "what", "s", "times the first", "CPU s", "peak MiB")
    report.tables.append(Table("Fresh processes, files cached", columns, rows))
    report.targets += [
        Target(f"{MODEL.title} over {THEIRS.title}", "at most", MAX_IMPORT, ours.seconds / theirs.seconds),
        Target(f"{MODEL.title} over {THEIRS.title}, peak memory", "at most", MAX_IMPORT, ours.peak_mib / theirs.peak_mib),
        Target(f"{HELP.title}, s", "at most", MAX_HELP, starts[HELP].seconds),
    ]
    report.tables.append(trainings(1 if settings.quick else settings.repeats))
    report.tables.append(fits(report, settings))
    report.notes.append("Medians; the commands take turns, and a first one, which reads all files, does not count. Memory is sampled.")
    report.notes.append(
        "python -m pipeline train digits on two workers of this machine. The first has no machine code yet, as after an installation, and"
        " compiles it; the others find it on disk."
    )
    report.notes.append("A fit is LogisticRegression().fit(X, y) in a process of its own, without the import of this library.")


def compared(starts: Sequence[Start], repeats: int) -> dict[Start, Took]:
    """Medians of so many turns, after one that does not count."""
    turns = [[took(start.arguments) for start in starts] for _ in range(1 + repeats)][1:]
    return {start: Took(*map(median, zip(*found, strict=True))) for start, found in zip(starts, zip(*turns, strict=True), strict=True)}


def trainings(repeats: int) -> Table:
    """The digits job without machine code on disk, and then with it."""
    with TemporaryDirectory(prefix="dask-descent-bench-") as folder:
        first, *others = [training(Path(folder)) for _ in range(1 + repeats)]
    rows: list[tuple[Cell, ...]] = [
        ("first", *first),
        ("others", *map(median, zip(*others, strict=True))),
    ]
    return Table("python -m pipeline train digits --n-workers 2", ("training", "s", "load s", "fit s", "score s", "compile s"), rows)


def fits(report: Report, settings: Settings) -> Table:
    """Fits in fresh processes without machine code on disk, and then with it."""
    problems: tuple[Problem, ...] = (Problem(n_rows=1_000_000, n_columns=28), Sparse(n_rows=400_000, n_columns=2000))
    if settings.quick:
        problems = (Problem(n_rows=20_000, n_columns=28),)
    rows: list[tuple[Cell, ...]] = []
    for problem in problems:
        with TemporaryDirectory(prefix="dask-descent-bench-") as folder:
            rows += [(problem.name, which, *fresh_fit(problem, Path(folder))) for which in ("first", "second")]
    report.targets.append(Target(f"compile s of a first fit, {problems[0].name}", "at most", MAX_COMPILE, float(rows[0][-1] or 0)))
    return Table("Fits in fresh processes", ("rows", "fit", "s", "compile s"), rows)


def fresh_fit(problem: Problem, folder: Path) -> tuple[float, float]:
    """Seconds of a fit in a process of its own, and those in which it compiled; machine code is kept in the folder."""
    found = folder / "seconds.json"
    imports = "from pipeline.benchmarks.startup import *; from pipeline.benchmarks.data import *"
    took(["-c", f"{imports}; fit_once({problem!r}, {str(found)!r})"], {"NUMBA_CACHE_DIR": str(folder / "machine-code")})
    seconds, compiling = json.loads(found.read_text())
    return seconds, compiling


def fit_once(problem: Problem, found: str) -> None:
    """Fit in this process, and write what it took."""
    X, y = problem.arrays()
    start = time.perf_counter()
    LogisticRegression().fit(X, y)
    Path(found).write_text(json.dumps([time.perf_counter() - start, compile_seconds()]))


def training(folder: Path) -> tuple[float, ...]:
    """Seconds of the process, and of its parts as the run's metrics have them; machine code is kept in the folder."""
    run = folder / "run"
    arguments = ["-m", "pipeline", "train", "digits", "--n-workers", "2", "--quiet", "--out", str(run)]
    whole = took(arguments, {"NUMBA_CACHE_DIR": str(folder / "machine-code")})
    metrics = json.loads((run / METRICS_FILE).read_text())
    return whole.seconds, *(metrics[f"{part}_seconds"] for part in ("load", "fit", "score", "compile"))
