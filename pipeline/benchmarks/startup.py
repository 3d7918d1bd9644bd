"""The case about starting: what imports and the command line take in fresh processes, and a first training after an installation."""

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
from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.rss import PeakMemory
from pipeline.benchmarks.settings import Settings
from pipeline.runs.metrics import METRICS_FILE

MAX_IMPORT: Final = 1.2
MAX_HELP: Final = 0.6
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
    """Imports and commands in turn, then the first training and others after it."""
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
    report.notes.append("Medians; the commands take turns, and a first one, which reads all files, does not count. Memory is sampled.")
    report.notes.append(
        "python -m pipeline train digits on two workers of this machine. The first has no machine code yet, as after an installation, and"
        " compiles it; the others find it on disk."
    )


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


def training(folder: Path) -> tuple[float, ...]:
    """Seconds of the process, and of its parts as the run's metrics have them; machine code is kept in the folder."""
    run = folder / "run"
    arguments = ["-m", "pipeline", "train", "digits", "--n-workers", "2", "--quiet", "--out", str(run)]
    whole = took(arguments, {"NUMBA_CACHE_DIR": str(folder / "machine-code")})
    metrics = json.loads((run / METRICS_FILE).read_text())
    return whole.seconds, *(metrics[f"{part}_seconds"] for part in ("load", "fit", "score", "compile"))
