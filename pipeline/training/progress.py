"""What a running job shows of itself: a bar on a terminal, a file of the rounds so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from pipeline.files.lines import LineFile
from pipeline.training.history import Row, json_line


class RoundProgress:
    """A context that shows steps on stderr when that is a terminal, and a scikit-learn fit callback that shows each round of a fit.

    How many rounds a fit takes is not known before, so its bar stands at how far the logarithm of the largest |gradient| has come from
    the first round's to tol; by mini-batches, at how many of max_iter epochs are done.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
        self._task: TaskID | None = None
        self._first, self._epochs = math.nan, 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def step(self, description: str, total: float | None = None) -> None:
        """Begin a step, and end the one before."""
        self._end()
        self._task = self._bar.add_task(description, total=total, detail="")

    def advance(self, detail: str) -> None:
        """One more of the step's total."""
        assert self._task is not None
        self._bar.update(self._task, advance=1, detail=detail)

    @property
    def completed(self) -> float:
        """Where the current step's bar stands: of its total, which is 1 for a fit."""
        return 0.0 if self._task is None else self._bar.tasks[self._task].completed

    def _end(self) -> None:
        if self._task is not None:
            total = self._bar.tasks[self._task].total or 1.0
            self._bar.update(self._task, total=total, completed=total)
            self._bar.stop_task(self._task)

    # -- the hooks of sklearn.callback.FitCallback --------------------------------------------------------------------------------------

    def setup(self, estimator: Any, context: Any) -> None:
        self.step(f"fit {type(estimator).__name__}", total=1.0)
        self._first, self._epochs = math.nan, 0.0

    def teardown(self, estimator: Any, context: Any) -> None:
        self._end()

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Nothing: a round shows when it is over."""

    def on_fit_task_end(self, estimator: Any, context: Any, *, metadata: Mapping[str, Any] | None = None) -> bool:
        """After a round, whose `pipeline.training.history.Row` is the metadata; never asks the fit to stop."""
        if metadata is not None and self._task is not None:
            detail = f"round {metadata['round']}  objective {metadata['objective']:.6g}  |gradient| {metadata['gradient_norm']:.2g}"
            epochs = estimator._share_of_epochs(cast("Row", metadata))
            self._epochs += epochs or 0.0
            share = self._share(metadata["gradient_norm"], estimator.tol) if epochs is None else self._epochs
            done = min(1.0, max(self.completed, share))
            self._bar.update(self._task, completed=done, detail=detail)
        return False

    def _share(self, gradient: float, tol: float) -> float:
        """How far the gradient has come, from 0 to 1."""
        if not (math.isfinite(gradient) and gradient > 0):
            return 0.0
        if math.isnan(self._first):
            self._first = gradient
        if gradient <= tol or self._first <= tol:
            return 1.0
        return min(1.0, math.log(self._first / gradient) / math.log(self._first / tol)) if tol > 0 else 0.0


class EndOfRounds:
    """The hooks of sklearn.callback.FitCallback for those that look at rounds only when they are over."""

    def setup(self, estimator: Any, context: Any) -> None:
        """Nothing."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """Nothing."""

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Nothing."""


class RoundLog(EndOfRounds):
    """A context with a file of JSON lines, gone at its end, and a scikit-learn fit callback that adds each round of a fit to it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        self._file = LineFile(self._path, "", "the rounds so far are not shown")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def on_fit_task_end(self, estimator: Any, context: Any, *, metadata: Mapping[str, Any] | None = None) -> bool:
        """After a round, whose `pipeline.training.history.Row` is the metadata; never asks the fit to stop."""
        if metadata is not None:
            self._file.add(json_line(metadata))
        return False


class RoundLimit(EndOfRounds):
    """A scikit-learn fit callback that ends a fit after so many rounds."""

    def __init__(self, n_rounds: int) -> None:
        self._n_rounds = n_rounds

    def on_fit_task_end(self, estimator: Any, context: Any, *, metadata: Mapping[str, Any] | None = None) -> bool:
        """After a round, whose `pipeline.training.history.Row` is the metadata."""
        return metadata is not None and metadata["round"] >= self._n_rounds
