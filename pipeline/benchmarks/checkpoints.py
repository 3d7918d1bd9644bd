"""The case about checkpoints: what it costs rounds when a large state is offered to a checkpoint after each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

import numpy as np
import scipy.sparse as sp

from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.training.checkpoints.files import SUFFIX
from pipeline.training.checkpoints.keeper import Checkpoint
from pipeline.training.history import Row
from pipeline.training.minimise import minimise
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LogisticLoss
from tasks.objectives.penalties import L2
from tasks.strategies.lbfgs import LBFGS

N_COLUMNS: Final = 1_000_000
N_ROWS: Final = 300_000
PER_ROW: Final = 40
MEMORY: Final = 4
"""Pairs of vectors that L-BFGS remembers; with the point, its gradient and the direction 11 vectors are saved."""
N_STEPS: Final = 140
"""Accepted steps of a fit; each takes a round, some take two. Fewer would not give blocks enough."""
BLOCK: Final = 20
"""Rounds after which a checkpoint is offered, or none, before it is the others' turn."""
SETTLING: Final = 4
"""Rounds at the beginning of a block without that do not count: the last one of the block before is still being written."""
FIRST: Final = 2
"""Blocks of a fit that do not count: the memory fills, and the files are new."""
AT_MOST: Final = 1.05


class Watch:
    """A watch on a fit: when each round ended, and how many checkpoints there had been by then. Turns checkpoints on and off."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kept = Checkpoint(directory=directory, every_seconds=None)
        self.ends: list[float] = []
        self.files: set[str] = set()

    def __call__(self, row: Row) -> bool:
        """Note a round, after its end and before its states are offered."""
        self.ends.append(time.perf_counter())
        self.files |= {path.name for path in self.directory.glob(f"*{SUFFIX}")}
        every_rounds = 1 if is_kept(block_after(len(self.ends))) else None
        object.__setattr__(self.kept, "every_rounds", every_rounds)  # users need no such switch
        return False

    @property
    def n_offered(self) -> int:
        """The number of checkpoints offered; that of the last round is not, for the fit is done."""
        return sum(is_kept(block_after(n_round)) for n_round in range(1, len(self.ends)))


def block_after(n_round: int) -> int:
    """The number of the block to which the time after so many rounds belongs, until the next one ends."""
    return (n_round - 1) // BLOCK


def is_kept(block: int) -> bool:
    """Whether the rounds of a block are saved: those of every other block."""
    return block % 2 == 1


def block_means(ends: Sequence[float]) -> list[float]:
    """Mean seconds of a round, of each whole block. ends: of all rounds."""
    seconds = [after - before for before, after in pairwise(ends)]
    blocks = [seconds[start : start + BLOCK] for start in range(0, len(seconds) - BLOCK + 1, BLOCK)]
    return [mean(block if is_kept(number) else block[SETTLING:]) for number, block in enumerate(blocks)]


def checkpoint(report: Report, settings: Settings) -> None:
    """Fits of which every other block of rounds is offered to checkpoints, each block beside its two neighbours."""
    n_columns, n_rows = (N_COLUMNS // 100, N_ROWS // 100) if settings.quick else (N_COLUMNS, N_ROWS)
    dataset = table(n_rows, n_columns)
    _ = dataset.schema
    without, with_them, ratios, n_written, n_offered = list[float](), list[float](), list[float](), 0, 0
    with tempfile.TemporaryDirectory(dir=".") as directory:
        for _ in range(settings.repeats):
            watch = Watch(Path(directory) / "kept")
            fit(dataset, watch)
            n_written, n_offered = n_written + len(watch.files), n_offered + watch.n_offered
            for before, between, after in triples(block_means(watch.ends)):
                without.append((before + after) / 2)
                with_them.append(between)
                ratios.append(between / without[-1])
    size = 8 * n_columns * (2 * MEMORY + 3) / 1e6
    title = f"L-BFGS rounds, {n_columns:,} parameters, {size:.0f} MB of state, on threads in this process"
    ratio = mean(ratios)
    error = stdev(ratios) / len(ratios) ** 0.5
    rows: list[tuple[Cell, ...]] = [
        ("none", 1e3 * mean(without), 1.0, None, "-"),
        ("offered after every round", 1e3 * mean(with_them), ratio, error, f"{n_written} of {n_offered}"),
    ]
    report.tables.append(Table(title, ("checkpoints", "mean ms a round", "times the first", "standard error", "written"), rows))
    report.targets.append(Target("time of a round with checkpoints over one without", "at most", AT_MOST, ratio))
    report.notes.append(
        f"{n_rows:,} sparse rows of {PER_ROW} entries. {settings.repeats} fits of {N_STEPS} steps, in which {BLOCK} rounds without and"
        f" {BLOCK} with checkpoints take turns; the first {SETTLING} of those without do not count, nor do the first {FIRST} blocks."
        f" The ratio is the mean over {len(ratios)} blocks, each beside its two neighbours. A checkpoint that is due while another is"
        " being written, or for as long after that as it took, waits for the first round after."
    )


def triples(blocks: Sequence[float]) -> list[tuple[float, float, float]]:
    """The triples of a block with checkpoints and its two neighbours without, but for the first ones of a fit."""
    middle = range(FIRST + 1, len(blocks) - 1, 2)
    assert all(map(is_kept, middle))
    return [(blocks[n - 1], blocks[n], blocks[n + 1]) for n in middle]


def table(n_rows: int, n_columns: int) -> Dataset:
    """A dataset of sparse rows whose labels follow from them."""
    rng = np.random.default_rng(0)
    indices = rng.integers(0, n_columns, (n_rows, PER_ROW))
    indices.sort(axis=1)
    X = sp.csr_array(
        (rng.standard_normal(indices.size), indices.ravel(), np.arange(0, indices.size + 1, PER_ROW)), shape=(n_rows, n_columns)
    )
    X.sum_duplicates()
    y = (X @ rng.standard_normal(n_columns) > 0).astype(np.int64)
    return Dataset.from_arrays(X, y)


def fit(dataset: Dataset, watch: Watch) -> Any:
    """Fit so many steps."""
    objective = LinearObjective(LogisticLoss(), dataset.n_columns, 1, fit_intercept=True, classes=dataset.schema.classes)
    strategy = LBFGS(tol=0.0, max_iter=N_STEPS, memory=MEMORY)
    start = np.zeros(objective.layout.size)
    return minimise(objective, dataset, strategy, start, penalty=L2(1e-6), on_round=watch, checkpoint=watch.kept)
