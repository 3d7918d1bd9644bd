"""The case about what travels: the loss that fits end with, and the bytes that they sent and received, whole and compressed."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import scipy.sparse as sp
from distributed import Client, LocalCluster
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss

from pipeline.benchmarks.report import Cell, Report, Table, Target
from pipeline.benchmarks.settings import Settings
from pipeline.data.dataset import Dataset
from pipeline.estimators.neural_network import MLPClassifier
from pipeline.estimators.sgd import SGDClassifier
from tasks.strategies.compressed import COMPRESSIONS
from tasks.typing import Array

N_WORKERS: Final = 4
PARTITIONS: Final = 16
BATCH: Final = 2048
LINEAR: Final = (None, "float16", "bfloat16", "int8", "top-k", "random-k")
NETWORK: Final = (None, "float16", "bfloat16", "int8", "top-k", "random-k", "low-rank")
PROMISES: Final = {"top-k": (0.01, 20.0), "int8": (0.001, 3.5)}
"""By how much the loss may be higher, relative, and how many times fewer the bytes are, each way."""


class Contest(NamedTuple):
    """Rows, and who learns them; epochs: that each fit makes."""

    name: str
    X: Any
    y: Array
    model: Any
    ways: tuple[str | None, ...]
    epochs: int


class End(NamedTuple):
    """How a fit ended. sent, received: bytes."""

    loss: float
    sent: int
    received: int


def compression(report: Report, settings: Settings) -> None:
    """Fit whole and compressed, on four workers."""
    with LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster, Client(cluster):
        for contest in (words(settings), pixels(settings)):
            ends = {way: fitted(contest, way) for way in contest.ways}
            report.tables.append(table(contest, ends))
            report.targets += targets(contest, ends)
    report.notes += [
        "Loss: the mean log loss of all rows at the end. Gap: how much higher it is than that of the fit that sends all, relative.",
        f"Bytes: between the client and {N_WORKERS} workers, or among these, by `history_`; the same number of rounds in all fits.",
        f"One subtree of each worker returns a gradient (n_subtrees={N_WORKERS}), as whole ones are summed on each worker, too.",
        "Loss and bytes of messages hang on data and seed alone, not on the speed of a machine.",
    ]


def words(settings: Settings) -> Contest:
    """Rows with few of many columns, some much more often than others, as words in texts are."""
    n_rows, n_columns, length = (8_000, 20_000, 30) if settings.quick else (40_000, 200_000, 100)
    random = np.random.default_rng(0)
    columns = np.minimum((n_columns ** random.random((n_rows, length))).astype(np.int64) - 1, n_columns - 1)
    X = sp.csr_array(
        (np.full(columns.size, length**-0.5), columns.ravel(), np.arange(0, columns.size + 1, length)), shape=(n_rows, n_columns)
    )
    X.sum_duplicates()
    y = (X @ random.normal(size=n_columns) * 3 + random.logistic(size=n_rows) > 0).astype(np.int64)
    model = SGDClassifier("log_loss", alpha=1e-5, learning_rate="invscaling", eta0=0.1, batch_size=BATCH, optimizer="momentum")
    return Contest(
        f"logistic regression, {n_rows} rows, {n_columns} columns, {length} of them in a row",
        X,
        y,
        model,
        LINEAR,
        3 if settings.quick else 30,
    )


def pixels(settings: Settings) -> Contest:
    """Ten clouds, for a network in float32, whose penalty lets its loss come to an end."""
    n_rows, n_columns, hidden = (8_000, 100, 32) if settings.quick else (20_000, 200, 256)
    random = np.random.default_rng(1)
    y = random.integers(10, size=n_rows)
    X = (random.normal(size=(10, n_columns)) * 0.2)[y] + random.normal(size=(n_rows, n_columns))
    model = MLPClassifier((hidden,), solver="sgd", learning_rate_init=0.05, learning_rate="cosine", alpha=20.0, batch_size=BATCH)
    return Contest(
        f"network {n_columns}-{hidden}-10 in float32, {n_rows} rows", X.astype(np.float32), y, model, NETWORK, 3 if settings.quick else 100
    )


def fitted(contest: Contest, way: str | None) -> End:
    """A fit from the same start over the same batches."""
    data = Dataset.from_arrays(contest.X, contest.y, n_partitions=PARTITIONS)
    how = None if way is None else replace(COMPRESSIONS[way], n_subtrees=N_WORKERS)
    model = contest.model.set_params(compression=how, max_iter=contest.epochs, tol=None, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(data)
    sent, received = (sum(row[name] for row in model.history_) for name in ("bytes_sent", "bytes_received"))
    data.executor().release(data.rows)
    return End(float(log_loss(contest.y, model.predict_proba(contest.X))), sent, received)


def table(contest: Contest, ends: dict[str | None, End]) -> Table:
    """What each way cost and gave."""
    whole = ends[None]
    rows: list[tuple[Cell, ...]] = [
        (
            way or "whole",
            end.loss,
            end.loss / whole.loss - 1.0,
            end.sent / 1e6,
            end.received / 1e6,
            fewer(whole.sent, end.sent),
            fewer(whole.received, end.received),
        )
        for way, end in ends.items()
    ]
    columns = ("compression", "loss", "gap", "MB sent", "MB received", "sent, times fewer", "received, times fewer")
    return Table(contest.name, columns, rows)


def fewer(whole: int, compressed: int) -> float | None:
    """How many times; None where nothing was sent at all."""
    return whole / compressed if compressed else None


def targets(contest: Contest, ends: dict[str | None, End]) -> list[Target]:
    """What is promised of two of them."""
    whole, found = ends[None], []
    for way, (gap, times) in PROMISES.items():
        end = ends[way]
        found += [
            Target(f"{contest.name}: gap of {way}", "at most", gap, end.loss / whole.loss - 1.0),
            Target(f"{contest.name}: {way} sends times fewer bytes", "at least", times, fewer(whole.sent, end.sent)),
            Target(f"{contest.name}: {way} receives times fewer bytes", "at least", times, fewer(whole.received, end.received)),
        ]
    return found
