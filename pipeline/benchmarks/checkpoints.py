"""The case about checkpoints: what saving a large state in every round costs the rounds."""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

import numpy as np
import scipy.sparse as sp

from pipeline.benchmarks.report import Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.checkpoints.files import SUFFIX
from pipeline.checkpoints.keeper import Checkpoint
from pipeline.data.dataset import Dataset
from pipeline.history import Row
from pipeline.minimise import minimise
from tasks.losses import LogisticLoss
from tasks.objectives import LinearObjective
from tasks.penalties import L2
from tasks.strategies.lbfgs import LBFGS

N_COLUMNS: Final = 1_000_000
N_ROWS: Final = 300_000
PER_ROW: Final = 40
MEMORY: Final = 4
"""Pairs of vectors that L-BFGS remembers; with the point, its gradient and the direction 11 vectors are saved."""
N_ROUNDS: Final = 40
FIRST: Final = 16
"""Rounds that do not count: the memory fills, and the files are new."""
AT_MOST: Final = 1.05


class Watch:
    """When each round of a fit ended, and how many checkpoints there have been by then."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ends: list[float] = []
        self.files: set[str] = set()

    def __call__(self, row: Row) -> bool:
        self.ends.append(time.perf_counter())
        self.files |= {path.name for path in self.directory.glob(f"*{SUFFIX}")}
        return False

    @property
    def seconds(self) -> list[float]:
        """Of each round but the first ones."""
        return [after - before for before, after in pairwise(self.ends)][FIRST:]


def checkpoint(report: Report, settings: Settings) -> None:
    """Fits without checkpoints and with one after every round, in turns."""
    n_columns, n_rows = (N_COLUMNS // 100, N_ROWS // 100) if settings.quick else (N_COLUMNS, N_ROWS)
    dataset = table(n_rows, n_columns)
    _ = dataset.schema
    found: dict[bool, list[float]] = {False: [], True: []}
    written, rounds = 0, 0
    with tempfile.TemporaryDirectory(dir=".") as directory:
        for turn in range(settings.repeats):
            for kept in (False, True) if turn % 2 == 0 else (True, False):
                watch = Watch(Path(directory) / "kept")
                fit(dataset, watch, Checkpoint(directory=watch.directory, every_rounds=1) if kept else None)
                found[kept].append(mean(watch.seconds))
                written, rounds = written + len(watch.files), rounds + kept * len(watch.ends)
    without, with_them = (median(found[kept]) for kept in (False, True))
    ratio = median(after / before for before, after in zip(*found.values(), strict=True))
    rows = [("none", 1e3 * without, 1.0, "-"), ("after every round", 1e3 * with_them, ratio, f"{written} of {rounds}")]
    size = 8 * n_columns * (2 * MEMORY + 3) / 1e6
    title = f"L-BFGS rounds, {n_columns:,} parameters, {size:.0f} MB of state, on threads in this process"
    report.tables.append(Table(title, ("checkpoints", "mean ms a round", "times the first", "written"), rows))
    report.targets.append(Target("time of a round with checkpoints over one without", "at most", AT_MOST, ratio))
    report.notes.append(
        f"{n_rows:,} sparse rows of {PER_ROW} entries; {N_ROUNDS} rounds a fit, of which the first {FIRST} do not count. Medians over"
        f" {settings.repeats} fits of each, in turns; the ratio is the median of neighbours' ratios. A round"
        " whose predecessor is still being written is not saved."
    )


def table(n_rows: int, n_columns: int) -> Dataset:
    """Sparse rows whose labels follow from them."""
    rng = np.random.default_rng(0)
    indices = rng.integers(0, n_columns, (n_rows, PER_ROW))
    indices.sort(axis=1)
    X = sp.csr_array(
        (rng.standard_normal(indices.size), indices.ravel(), np.arange(0, indices.size + 1, PER_ROW)), shape=(n_rows, n_columns)
    )
    X.sum_duplicates()
    y = (X @ rng.standard_normal(n_columns) > 0).astype(np.int64)
    return Dataset.from_arrays(X, y)


def fit(dataset: Dataset, watch: Watch, kept: Checkpoint | None) -> Any:
    """So many rounds."""
    objective = LinearObjective(LogisticLoss(), dataset.n_columns, 1, fit_intercept=True, classes=dataset.schema.classes)
    strategy = LBFGS(tol=0.0, max_iter=N_ROUNDS, memory=MEMORY)
    start = np.zeros(objective.layout.size)
    return minimise(objective, dataset, strategy, start, penalty=L2(1e-6), on_round=watch, checkpoint=kept)
