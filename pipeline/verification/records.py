"""Records of runs, and fits that are compared with them, round by round and group by group.

digests.jsonl   a line about the rows ("seed", and "content": the digest of each partition), then one for each round: "round", "level"
                and "marks" (see `tasks.marks`), digests as 16 hexadecimal digits
"""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from pipeline.data.dataset import Dataset
from tasks.marks import Marks
from tasks.typing import UInt64

RECORD_FILE: Final = "digests.jsonl"
UNFINISHED: Final = ".digests.jsonl.part"


class Record(Protocol):
    """What a fit tells of its rounds."""

    def begin(self, dataset: Dataset, seed: int | None, resumed_from: int) -> int | None:
        """Before the first round after number `resumed_from`; the seed to take in place of the one that was drawn."""

    def add(self, n_round: int, marks: Marks) -> None:
        """After a round."""


class RoundRecord:
    """A context with the record of a run in its directory: one that goes on from a checkpoint goes on with the record, too."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / UNFINISHED
        self._lines: list[str] = []

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._lines = self._path.read_text().splitlines(keepends=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(AttributeError):  # it never began
            self._file.close()

    def begin(self, dataset: Dataset, seed: int | None, resumed_from: int) -> int | None:
        kept = self._lines[: resumed_from + 1] if resumed_from else []
        self._file = self._path.open("w", buffering=1)  # a line is there before the checkpoint after its round
        self._file.writelines(kept or [json.dumps({"seed": seed, "content": hexadecimal(dataset.contents)}) + "\n"])
        return None

    def add(self, n_round: int, marks: Marks) -> None:
        self._file.write(json.dumps({"round": n_round, "level": marks.level, "marks": hexadecimal(marks.values)}) + "\n")


def publish_record(directory: Path) -> None:
    """The record of a run that is done takes the place of an earlier one's, or of none."""
    with suppress(FileNotFoundError):
        (directory / RECORD_FILE).unlink()
    with suppress(FileNotFoundError):
        (directory / UNFINISHED).replace(directory / RECORD_FILE)


def hexadecimal(values: UInt64) -> list[str]:
    """Each as 16 digits."""
    return [f"{value:016x}" for value in values.tolist()]


class Difference(NamedTuple):
    """The first one. round: 0 for the rows themselves; what: in words."""

    n_round: int
    what: str


class FoundEnd(Exception):  # noqa: N818  nothing has failed
    """Ends the fit that is compared where the recorded one was interrupted."""


class FoundDifference(Exception):  # noqa: N818  nothing has failed
    """Ends the fit that is compared. `difference`: the first one."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(difference.what)
        self.difference = difference


class Comparison:
    """Compares a fit with the record of another; interrupted: one that did not come to its end.

    Raises FileNotFoundError without a record, ValueError for one that is none.
    """

    def __init__(self, directory: Path, *, interrupted: bool = False) -> None:
        path = directory / RECORD_FILE
        self._interrupted = interrupted
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there; only a run of `python -m pipeline train` or `submit` leaves a record")
        try:
            rows, *rounds = [json.loads(line) for line in path.read_text().splitlines()]
            self._seed: int | None = rows["seed"]
            self._content: list[str] = list(rows["content"])
            self._rounds = {int(each["round"]): (int(each["level"]), list(each["marks"])) for each in rounds}
            if not (self._seed is None or (isinstance(self._seed, int) and self._seed >= 0)):
                raise ValueError(f"its seed is {self._seed!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no record of a run: {error}") from error
        self.n_compared = 0

    def begin(self, dataset: Dataset, seed: int | None, resumed_from: int) -> int | None:
        self._dataset = dataset
        here = hexadecimal(dataset.contents)
        for partition, (then, now) in enumerate(zip_longest(self._content, here)):
            if then != now:
                n_then, n_now = len(self._content), len(here)
                what = f"{n_now} partitions here, {n_then} then"
                if n_then == n_now:
                    what = f"the rows of partition {partition} ({dataset.source.place(partition)}) are not those of the run"
                raise FoundDifference(Difference(0, what))
        return self._seed

    def add(self, n_round: int, marks: Marks) -> None:
        if n_round not in self._rounds:
            if self._interrupted:
                raise FoundEnd
            raise FoundDifference(Difference(n_round, f"round {n_round}, which the run's record does not have"))
        now, (level, then) = hexadecimal(marks.values), self._rounds[n_round]
        if (marks.level, len(now)) != (level, len(then)):
            raise FoundDifference(Difference(n_round, f"round {n_round} adds up {len(now)} lanes of groups here, {len(then)} then"))
        for lane, (left, right) in enumerate(zip(then, now, strict=True)):
            if left != right:
                raise FoundDifference(Difference(n_round, f"round {n_round}, {self._groups(lane, marks.level)}"))
        self.n_compared += 1

    @property
    def n_left(self) -> int:
        """Rounds of the record that were not compared."""
        return len(self._rounds) - self.n_compared

    def _groups(self, lane: int, level: int) -> str:
        """Which they are, of which partitions, and where those come from."""
        source = self._dataset.source
        first, last = lane << level, min((lane + 1) << level, source.n_groups) - 1
        groups = f"group {first}" if first == last else f"groups {first} to {last}"
        return f"{groups}: {source.places_of(source.group_starts[first], source.group_starts[last + 1] - 1)}"
