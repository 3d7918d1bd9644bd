"""The trainers of a multi-layer perceptron: this library, PyTorch and scikit-learn; and the arithmetic alone."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from sklearn import neural_network
from sklearn.exceptions import ConvergenceWarning

from pipeline import MLPClassifier
from pipeline.benchmarks.contenders import OURS, SCIKIT_LEARN, installed
from pipeline.data.dataset import Dataset
from pipeline.execution.base import Executor
from pipeline.execution.cluster import ClusterExecutor
from pipeline.execution.threads import default_threads
from tasks.typing import Array, Int64

PYTORCH: Final = "PyTorch"
ARITHMETIC: Final = "NumPy: the limit"


@dataclass(frozen=True)
class Network:
    """The network that everyone trains: relu, softmax cross-entropy, Adam with its usual moments."""

    hidden: int = 256
    batch_size: int = 1024
    learning_rate: float = 1e-3
    n_partitions: int = 64


class Rows(NamedTuple):
    """Rows: X (n, p) float32, y (n,) to train on, and rows to judge by."""

    X: Array
    y: Int64
    X_test: Array
    y_test: Int64

    @classmethod
    def of(cls, X: Array, y: Int64, n_test: int) -> Rows:
        """Cut the rows in two: the last n_test rows are held out."""
        return cls(X[:-n_test], y[:-n_test], X[-n_test:], y[-n_test:])

    def head(self) -> Rows:
        """A few rows, to warm up on."""
        return Rows(self.X[:5000], self.y[:5000], self.X_test[:100], self.y_test[:100])


class Training(NamedTuple):
    """A training. epochs: seconds of each; accuracy: on the test rows, None where nothing was learned; resident: share of the rounds that
    the workers ran by themselves, None in process; bytes_a_round: between processes, on the median, as history_ has it."""

    epochs: tuple[float, ...]
    accuracy: float | None = None
    resident: float | None = None
    bytes_a_round: float | None = None


Train = Callable[[int], Training]


class Trainer(Protocol):
    """A library that trains the network: a frozen dataclass, so that it can go to a process of its own."""

    @property
    def library(self) -> str: ...

    @property
    def missing(self) -> bool:
        """Whether the trainer's library is not installed."""

    def prepare(self, rows: Rows) -> Train:
        """A function that trains a new network on these rows for so many epochs, whatever it does to them first being done."""


class Watched(Dataset):
    """A dataset that remembers who ran its last rounds."""

    last_executor: Executor | None = None

    def executor(self) -> Executor:
        self.last_executor = super().executor()
        return self.last_executor

    @classmethod
    def of(cls, dataset: Dataset) -> Watched:
        """A watched dataset of the same rows."""
        return cls(dataset.source, columns=dataset.columns, dtype=dataset.dtype, n_columns=dataset.n_columns)

    def resident_share(self, n_rounds: int) -> float | None:
        """The share of these rounds that the workers ran by themselves."""
        executor = self.last_executor
        return executor.sessions.rounds / n_rounds if isinstance(executor, ClusterExecutor) else None


@dataclass(frozen=True)
class OursTrainer:
    """This library's estimator on a resident dataset, on the current cluster or in process."""

    network: Network
    library: str = OURS
    missing: bool = False

    def prepare(self, rows: Rows) -> Train:
        dataset = Watched.of(Dataset.from_arrays(rows.X, rows.y, n_partitions=self.network.n_partitions))
        assert dataset.schema.n_rows == len(rows.X)  # now resident

        def train(n_epochs: int) -> Training:
            model = self.estimator(rows, n_epochs)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(dataset)
            seconds = epoch_seconds([row["seconds"] for row in model.history_], n_epochs)
            sent = float(np.median([row["bytes_sent"] + row["bytes_received"] for row in model.history_]))
            return Training(seconds, float(model.score(rows.X_test, rows.y_test)), dataset.resident_share(model.n_rounds_), sent)

        return train

    def estimator(self, rows: Rows, n_epochs: int) -> Any:
        """What is trained: a new network each time, for so many epochs."""
        return MLPClassifier(
            hidden_layer_sizes=(self.network.hidden,),
            batch_size=self.network.batch_size,
            solver="adam",
            learning_rate_init=self.network.learning_rate,
            max_iter=n_epochs,
            n_iter_no_change=n_epochs + 1,
            random_state=0,
        )


def epoch_seconds(rounds: list[float], n_epochs: int) -> tuple[float, ...]:
    """Seconds of each epoch, from when each of its rounds ended, which are as many in each epoch."""
    n_rounds, rest = divmod(len(rounds), n_epochs)
    assert not rest
    return differences([0.0, *rounds[n_rounds - 1 :: n_rounds]])


def differences(moments: list[float]) -> tuple[float, ...]:
    """Seconds from each moment to the next."""
    return tuple(end - start for start, end in pairwise(moments))


@dataclass(frozen=True)
class PyTorch:
    """The usual loop over shuffled mini-batches, on as many threads as there are cores."""

    network: Network
    library: str = PYTORCH

    @property
    def missing(self) -> bool:
        return not installed("torch")

    def prepare(self, rows: Rows) -> Train:
        import torch  # the torch extra

        torch.set_num_threads(default_threads())
        X, y, X_test = (torch.from_numpy(np.ascontiguousarray(array)) for array in (rows.X, rows.y, rows.X_test))

        def train(n_epochs: int) -> Training:
            torch.manual_seed(0)
            hidden = self.network.hidden
            model = torch.nn.Sequential(torch.nn.Linear(X.shape[1], hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, int(y.max()) + 1))
            optimizer = torch.optim.Adam(model.parameters(), lr=self.network.learning_rate)
            loss = torch.nn.CrossEntropyLoss()
            moments = [time.perf_counter()]
            for _ in range(n_epochs):
                order = torch.randperm(len(X))
                for start in range(0, len(X), self.network.batch_size):
                    chosen = order[start : start + self.network.batch_size]
                    optimizer.zero_grad()
                    loss(model(X[chosen]), y[chosen]).backward()
                    optimizer.step()
                moments.append(time.perf_counter())
            with torch.no_grad():
                predicted = model(X_test).argmax(dim=1).numpy()
            return Training(differences(moments), float(np.mean(predicted == rows.y_test)))

        return train


@dataclass(frozen=True)
class ScikitLearnTrainer:
    """scikit-learn's estimator, a partial_fit an epoch: one pass over all mini-batches that keeps Adam's moments and cannot end early."""

    network: Network
    library: str = SCIKIT_LEARN
    missing: bool = False

    def prepare(self, rows: Rows) -> Train:
        classes = np.unique(rows.y)

        def train(n_epochs: int) -> Training:
            model = neural_network.MLPClassifier(
                hidden_layer_sizes=(self.network.hidden,),
                batch_size=self.network.batch_size,
                learning_rate_init=self.network.learning_rate,
                random_state=0,
            )
            moments = [time.perf_counter()]
            for _ in range(n_epochs):
                model.partial_fit(rows.X, rows.y, classes=classes)
                moments.append(time.perf_counter())
            return Training(differences(moments), float(model.score(rows.X_test, rows.y_test)))

        return train


@dataclass(frozen=True)
class Arithmetic:
    """The matrix products and activations of an epoch, over the rows as they lie: none is gathered, nothing is learned."""

    network: Network
    library: str = ARITHMETIC
    missing: bool = False

    def prepare(self, rows: Rows) -> Train:
        rng = np.random.default_rng(0)
        shapes = ((rows.X.shape[1], self.network.hidden), (self.network.hidden, int(rows.y.max()) + 1))
        weights = [0.1 * rng.standard_normal(shape, dtype=np.float32) for shape in shapes]

        def train(n_epochs: int) -> Training:
            moments = [time.perf_counter()]
            for _ in range(n_epochs):
                for start in range(0, len(rows.X), self.network.batch_size):
                    batch = slice(start, start + self.network.batch_size)
                    gradients(rows.X[batch], rows.y[batch], weights)
                moments.append(time.perf_counter())
            return Training(differences(moments))

        return train


def gradients(X: Array, y: Int64, weights: list[Array]) -> tuple[Any, Any]:
    """The gradients of the mean cross-entropy of y for softmax(relu(X @ weights[0]) @ weights[1]), by both weights."""
    hidden = np.maximum(X @ weights[0], 0)
    raw = hidden @ weights[1]
    delta = np.exp(raw - raw.max(axis=1, keepdims=True))
    delta /= delta.sum(axis=1, keepdims=True)
    delta[np.arange(len(y)), y] -= 1
    delta /= len(y)
    back = delta @ weights[1].T
    back *= hidden > 0
    return X.T @ back, hidden.T @ delta
