"""Records of runs, and fits that are compared with them, round by round and group by group.

digests.jsonl   a line about the rows ("seed", and "content": the digest of each partition), then one for each round: "round", "level"
                and "marks" (see `tasks.reductions.stages.marks`), digests as 16 hexadecimal digits; of a round about one subtree of groups
                "subtree", too, so that the order in which results came can be repeated
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from pipeline.data.dataset import Dataset
from pipeline.files.lines import LineFile
from pipeline.files.whole import replace_file
from pipeline.training.history import Row
from pipeline.training.observers import Record
from tasks.rounds.fitting import Report
from tasks.typing import UInt64

RECORD_FILE: Final = "digests.jsonl"
UNFINISHED: Final = ".digests.jsonl.part"
NO_RECORD: Final = "this run keeps no record, and cannot be verified"


class RoundRecord(Record):
    """A context with the record of a run in its directory: one that goes on from a checkpoint goes on with the record, too."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / UNFINISHED
        self._file: LineFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def begin(self, dataset: Dataset, seed: int | None, resumed_from: int) -> int | None:
        """Cut the record that is there to the rounds that the fit goes on from. Where they are not all there, warn, and write no record."""
        rows = json.dumps({"seed": seed, "content": hexadecimal(dataset.contents)}) + "\n"
        kept = lines_of(self._path)[: resumed_from + 1] if resumed_from else [rows]
        if kept[:1] == [rows] and rounds_of(kept[1:]) == list(range(1, resumed_from + 1)):
            self._file = LineFile(self._path, "".join(kept), NO_RECORD)
        else:
            self._path.unlink(missing_ok=True)
            warnings.warn(f"{NO_RECORD}: that of the {resumed_from} rounds that it goes on from is not whole", stacklevel=2)
        return None

    def hear(self, row: Row, report: Report) -> None:
        """Add the line of a round, before a checkpoint can have that round."""
        if self._file is not None and report.marks is not None:
            marks = {"level": report.marks.level, "marks": hexadecimal(report.marks.values)}
            which = {} if report.subtree is None else {"subtree": report.subtree}
            self._file.add(json.dumps({"round": row["round"], **which, **marks}) + "\n")


def lines_of(path: Path) -> list[str]:
    """The lines of a record's file; none where there is no file."""
    try:
        return path.read_text(errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return []


def rounds_of(lines: Sequence[str]) -> list[int]:
    """Numbers of the rounds that lines of a record are about, none for lines that are not."""
    try:
        return [json.loads(line)["round"] for line in lines]
    except (ValueError, KeyError, TypeError):
        return []


def publish_record(directory: Path, n_rounds: int) -> None:
    """Put the record of a run of so many rounds in the place of an earlier one's, if it is whole. An unfinished record stays, for a run
    that goes on."""
    (directory / RECORD_FILE).unlink(missing_ok=True)
    lines = lines_of(directory / UNFINISHED)
    if len(lines) > n_rounds:  # more rounds than that may have been told before an interrupt
        replace_file(directory / RECORD_FILE, "".join(lines[: n_rounds + 1]))


def hexadecimal(values: UInt64) -> list[str]:
    """The values in text, each as 16 digits."""
    return [f"{value:016x}" for value in values.tolist()]


class Difference(NamedTuple):
    """The first difference between two runs. round: 0 for the rows themselves; what: in words."""

    n_round: int
    what: str


class FoundDifference(Exception):  # noqa: N818  nothing has failed
    """The end of a fit that is compared and differs. `difference`: the first one."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(difference.what)
        self.difference = difference


class Comparison(Record):
    """The comparison of a fit with the record of a run of n_rounds rounds; interrupted: one that did not come to its end.

    Raises FileNotFoundError without a record, ValueError for one that is none, or not whole.
    """

    def __init__(self, directory: Path, n_rounds: int, *, interrupted: bool = False) -> None:
        path = directory / RECORD_FILE
        self._interrupted = interrupted
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there; a run of `python -m pipeline train` or `submit` leaves a record, unless its earlier part was"
                " lost; train the job again, without --resume"
            )
        try:
            rows, *rounds = [json.loads(line) for line in path.read_text().splitlines()]
            self._seed: int | None = rows["seed"]
            self._content: list[str] = list(rows["content"])
            self._rounds = {int(each["round"]): (int(each["level"]), list(each["marks"])) for each in rounds}
            self.arrivals = tuple(int(each["subtree"]) for each in rounds if "subtree" in each)
            if min(self.arrivals, default=0) < 0:
                raise ValueError(f"a round of it is about subtree {min(self.arrivals)}")
            if not (self._seed is None or (isinstance(self._seed, int) and self._seed >= 0)):
                raise ValueError(f"its seed is {self._seed!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no record of a run: {error}") from error
        if list(self._rounds) != list(range(1, n_rounds + 1)):
            raise ValueError(f"{path} is incomplete: it has {len(self._rounds)} of the run's {n_rounds} rounds; train the job again")
        self.n_compared = 0

    def begin(self, dataset: Dataset, seed: int | None, resumed_from: int) -> int | None:
        self._dataset = dataset
        here = hexadecimal(dataset.contents)
        for partition, (then, now) in enumerate(zip_longest(self._content, here)):
            if then != now:
                n_then, n_now = len(self._content), len(here)
                what = f"{n_now} partitions here, {n_then} then"
                if n_then == n_now:
                    what = f"the rows of partition {partition} ({dataset.source.location(partition)}) are not those of the run"
                raise FoundDifference(Difference(0, what))
        return self._seed

    def hear(self, row: Row, report: Report) -> None:
        n_round, marks = row["round"], report.marks
        assert marks is not None
        if n_round not in self._rounds:
            if self._interrupted:
                return
            raise FoundDifference(Difference(n_round, f"round {n_round}, which the run did not have"))
        now, (level, then) = hexadecimal(marks.values), self._rounds[n_round]
        if (marks.level, len(now)) != (level, len(then)):
            raise FoundDifference(Difference(n_round, f"round {n_round} adds up {len(now)} subtrees of groups here, {len(then)} then"))
        for subtree, (left, right) in enumerate(zip(then, now, strict=True)):
            if left != right:
                raise FoundDifference(Difference(n_round, f"round {n_round}, {self._groups(marks.first + subtree, marks.level)}"))
        self.n_compared += 1

    @property
    def n_left(self) -> int:
        """The number of rounds of the record that were not compared."""
        return len(self._rounds) - self.n_compared

    def _groups(self, subtree: int, level: int) -> str:
        """The groups of a subtree in words: which they are, of which partitions, and where those come from."""
        source = self._dataset.source
        first, last = subtree << level, min((subtree + 1) << level, source.n_groups) - 1
        groups = f"group {first}" if first == last else f"groups {first} to {last}"
        return f"{groups}: {source.locations_of(source.group_starts[first], source.group_starts[last + 1] - 1)}"
