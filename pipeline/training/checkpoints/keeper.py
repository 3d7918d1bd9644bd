"""Keeping a fit's checkpoints: when to write one, in the background, which stay, and where a fit goes on."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Final, Self

from pipeline.files.tensors import Digests
from pipeline.files.whole import beside_name, remove_leftovers
from pipeline.training.checkpoints.files import (
    NAME,
    SUFFIX,
    CheckpointWarning,
    FitKey,
    Saved,
    arithmetic,
    read_checkpoint,
    words_of,
    write_checkpoint,
)
from pipeline.training.checkpoints.termination import terminations
from pipeline.training.checkpoints.trees import Flattened, restored
from pipeline.training.observers import Observer
from tasks.arguments import as_number, check_counts

EVERY_SECONDS: Final = 60.0
KEPT: Final = 2
ATTEMPTS: Final = 5
"""To write into a directory that others remove when it is empty."""
LOW_PRIORITY: Final = 19
"""Niceness: next to nothing of a core that others want."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where and how often a fit saves what it has so far.

    directory     of the checkpoints; any number of fits may share it, for the names of files hang on what is fitted
    every_seconds after so many seconds, None: not by time
    every_rounds  after so many rounds, None: not by rounds. Short rounds are done by the dozen on the workers, and saved when the client
                  hears of them, after two seconds at most; what is due while another is being written, or for as long after that as it
                  took, waits for the first round after
    resume        whether to go on from the latest checkpoint of the same problem; if not, those that are there are removed
    shared        whether other fits' checkpoints may lie there; if not, finding only those is an error, and not to resume removes them
    remove        whether they go when the fit is done; if not, its end is saved, too

    A checkpoint is written in the background, and when a fit fails, is interrupted, or ends by SIGTERM, which is caught where the fit runs
    in the main thread and nobody else handles it; in a SLURM job SystemExit(75) ends it a minute before the walltime, or a fifth of what
    is left. The last two stay until the fit is done; copy one, or give it a second name, to keep it: older ones are written over. A fit
    that goes on ends in the bits of one that never stopped, on whatever cluster of the same versions and kind of CPU; a warning says where
    they differ. Equal fits at the same time need directories of their own, or a random_state.

    Raises TypeError for what is no path, ValueError for an interval that is no positive number.
    """

    directory: str | Path
    every_seconds: float | None = EVERY_SECONDS
    every_rounds: int | None = None
    resume: bool = True
    shared: bool = True
    remove: bool = True

    def __post_init__(self) -> None:
        directory: Any = self.directory
        if not isinstance(directory, str | Path) or str(directory) in ("", "."):
            raise TypeError(f"directory must be the path of a directory for checkpoints alone, got {directory!r}")
        if "://" in str(directory) or "\0" in str(directory):
            raise ValueError(
                f"directory must be a path in a file system, got {directory!r}; checkpoints are on disks that can rename files"
            )
        try:
            object.__setattr__(self, "directory", Path(directory).expanduser().absolute())
        except RuntimeError as error:
            raise ValueError(f"directory {str(directory)!r} is of nobody here: {error}") from error
        for name in ("resume", "shared", "remove"):
            if not isinstance(vars(self)[name], bool):
                raise TypeError(f"{name} must be True or False, got {vars(self)[name]!r}")
        if self.every_rounds is not None:
            check_counts(every_rounds=self.every_rounds)
        if self.every_seconds is not None and not as_number(self.every_seconds) > 0:
            raise ValueError(f"every_seconds must be a number above 0 or None, got {self.every_seconds!r}")

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """The directory is there in the block, and after it if there is anything in it. Raises OSError, naming it, when it cannot be made
        or written to."""
        directory = Path(self.directory)
        try:
            in_shared(directory, lambda: directory.mkdir(parents=True, exist_ok=True))
            with suppress(FileNotFoundError), TemporaryFile(dir=directory):  # another fit may just have found it empty
                pass
        except OSError as error:
            raise type(error)(error.errno, f"cannot keep checkpoints in {directory}: {error.strerror}; choose another directory") from error
        try:
            yield
        finally:
            with suppress(OSError):
                directory.rmdir()

    @classmethod
    def of(cls, given: Any) -> Checkpoint | None:
        """What `checkpoint=` was given: a directory, a Checkpoint, or None. Raises TypeError."""
        if given is None or isinstance(given, cls):
            return given
        if isinstance(given, str | Path) and str(given):
            return cls(directory=given)
        raise TypeError(f"checkpoint must be a directory, a pipeline.Checkpoint or None, got {given!r}")


class Keeper(Observer):
    """The checkpoints of one fit, which it watches. A context that ends when nothing more is to be written."""

    def __init__(self, options: Checkpoint, problem: FitKey) -> None:
        self.options = options
        self.problem = problem
        self.directory = Path(options.directory)
        self.saved: Saved | None = None
        self.seed: int | None = None
        self._files: list[Path] = []
        self._found: Sequence[Path] = ()
        self._spare = beside_name(self.directory / self.problem.stem)
        self._digests = Digests()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="dask-descent-checkpoint", initializer=yield_to_others)
        self._writing: Future[None] | None = None
        self._written = self._offered = -1
        self._rests_until = 0.0
        arithmetic()  # here, for the writer's thread cannot hold BLAS to one
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._settle()
        finally:
            self._writer.shutdown()
            with suppress(OSError):
                self._spare.unlink()

    @property
    def resumed_from(self) -> int:
        """Rounds of the checkpoint that the fit goes on from, 0 without."""
        return 0 if self.saved is None else len(self.saved.history)

    # -- where a fit goes on -----------------------------------------------------------------------------------------------------------

    def load(self) -> Saved | None:
        """The latest checkpoint that is whole, `saved` from now on; None to begin anew. What cannot be used is named in a warning.

        Raises ValueError where the directory is this fit's alone and has checkpoints of other problems only.
        """
        remove_leftovers(self.directory, self.problem.stem)
        for spare in self.directory.glob(f".{self.problem.stem}.*.tmp"):  # of a fit that was killed, on whatever machine
            with suppress(OSError):
                spare.unlink()
        if not self.options.resume:
            for path in self.problem.paths(self.directory) if self.options.shared else checkpoints_in(self.directory):
                path.unlink(missing_ok=True)
            return None
        self._found = found = self.problem.paths(self.directory)
        if not found and not self.options.shared:
            self._refuse_others()
        for path in found:
            try:
                saved = read_checkpoint(path, self.problem)
            except (ValueError, OSError) as error:
                warnings.warn(f"{error}; looking for an earlier checkpoint", CheckpointWarning, stacklevel=2)
                continue
            self._files = sorted(each for each in found if each <= path)  # the older ones go when there are newer ones
            self.saved, self.seed = saved, saved.seed
            self._written = self._offered = len(saved.history)
            return saved
        return None

    def _refuse_others(self) -> None:
        for path in checkpoints_in(self.directory):
            try:
                words = words_of(path)
            except (ValueError, OSError, KeyError) as error:
                warnings.warn(f"{error}; it is not used", CheckpointWarning, stacklevel=3)
                continue
            difference = self.problem.difference(words)
            raise ValueError(f"{path} is of another problem: {difference}; train what it is of, or without --resume to begin anew")

    # -- saving ------------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def watching(self, states: list[Any]) -> Iterator[None]:
        """SIGTERM, and the end of a job's walltime, end the fit as errors do. Raises TypeError for states that no checkpoint can hold, or
        bring back."""
        flattened = Flattened()
        try:
            restored(flattened.flat(list(states)), flattened.arrays)
        except (ValueError, RecursionError) as error:
            raise TypeError(f"a checkpoint cannot hold {type(states[0]).__name__}: {error}") from error
        with terminations():
            yield

    def rest(self, saved: Saved) -> None:
        """Save where the fit stands in the background, if it is time and the writer has rested."""
        if (
            not self._due(len(saved.history))
            or (self._writing is not None and not self._writing.done())
            or time.monotonic() < self._rests_until
        ):
            return
        self._settle()
        self._offered, self._last = len(saved.history), time.monotonic()
        saved = saved.recalled()  # perhaps of some rounds ago
        self._writing = self._writer.submit(self._write_and_rest, saved._replace(history=list(saved.history), seed=self.seed))

    def end(self, saved: Saved, *, complete: bool) -> None:
        """Save where the fit stands, now, unless it is complete and its checkpoints are to go. A failure is a warning, for there may be an
        error on its way."""
        self._settle()
        if complete and self.options.remove:
            self._remove()
            return
        saved = saved.recalled()
        if saved.history and self._written < len(saved.history):
            self._offered = len(saved.history)
            self._tell(partial(self._write, saved._replace(seed=self.seed)))

    def _remove(self) -> None:
        for path in self.problem.paths(self.directory):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                warnings.warn(f"{path} could not be removed: {error}", CheckpointWarning, stacklevel=3)

    def _due(self, n_rounds: int) -> bool:
        rounds, seconds = self.options.every_rounds, self.options.every_seconds
        by_rounds = rounds is not None and n_rounds - max(self._offered, 0) >= rounds
        return by_rounds or (seconds is not None and time.monotonic() - self._last >= seconds)

    def _settle(self) -> None:
        """Wait for what is being written; warn if it could not be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            self._tell(writing.result)

    def _tell(self, write: Callable[[], None]) -> None:
        """Warn if it fails: the fit goes on, or ends by an error of its own."""
        try:
            write()
        except (OSError, MemoryError) as error:
            before = f"; the last one is {self._files[-1]}" if self._files else ""
            warnings.warn(
                f"no checkpoint after round {self._offered}: {str(error) or 'no memory for it'}{before}", CheckpointWarning, stacklevel=4
            )

    def _write_and_rest(self, saved: Saved) -> None:
        """And rest as long as that took: where cores are busy, rounds shall not always have it beside them."""
        begin = time.monotonic()
        try:
            self._write(saved)
        finally:
            self._rests_until = 2 * time.monotonic() - begin

    def _write(self, saved: Saved) -> None:
        n_rounds = len(saved.history)
        path = self.problem.path(self.directory, n_rounds)

        def write() -> None:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_checkpoint(path, self.problem, saved, self._digests, self._spare)

        in_shared(self.directory, write)
        self._written = n_rounds
        self._files = [*(each for each in self._files if each != path), path]
        for old in self._files[:-KEPT]:
            with suppress(OSError):  # `done` says what stays
                if old in self._found:  # perhaps of another owner, or with another mode than a new file gets
                    old.unlink()
                else:
                    old.replace(self._spare)
        self._files = self._files[-KEPT:]


def checkpoints_in(directory: Path) -> list[Path]:
    """All checkpoints, of whatever problem, the latest first. A user's own files have other names."""
    return sorted((path for path in directory.glob(f"*{SUFFIX}") if NAME.search(path.name)), reverse=True)


def in_shared(directory: Path, write: Callable[[], None]) -> None:
    """Write into a directory that another fit, which shared it, may just remove, for it is empty."""
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            write()
            return
        except (FileExistsError, FileNotFoundError):
            if not attempts_left or (directory.exists() and not directory.is_dir()):
                raise


def remove_checkpoints(directory: Path) -> None:
    """Remove the checkpoints in a directory, of whatever problem, and the directory if nothing else is in it."""
    with suppress(OSError):
        for path in checkpoints_in(directory):
            path.unlink(missing_ok=True)
        remove_leftovers(directory, "")
        directory.rmdir()


def yield_to_others() -> None:
    """Have this thread work while cores are idle: rounds shall not wait for it. Where the system gives threads no priority of their own,
    nothing changes."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)
