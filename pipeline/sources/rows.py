"""Rows as executors work on them: those of one subset of a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.sources.errors import source_changed
from pipeline.sources.sources import Source
from tasks.rows.digests import total
from tasks.typing import UInt64


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one subset of a source, as a fit found them when it began.

    subset: 0 for all rows or those for training, 1 for those held back by a split. contents (n_partitions,): the digests that rows which
    are read again must have; None before the check, and for rows in this process, which nobody reads again. See `tasks.rows.digests`.
    """

    source: Source
    subset: int
    n_columns: int
    contents: UInt64 | None = None

    @cached_property
    def content(self) -> int | None:
        """The sum of all digests."""
        return None if self.contents is None else total(self.contents)

    def content_of(self, groups: Sequence[int] | None) -> int | None:
        """The sum of the digests of the partitions of these groups; None: of all."""
        if groups is None or self.contents is None:
            return self.content
        return total(self.contents[self.source.partitions_of(groups)])

    def require_contents(self, found: UInt64) -> None:
        """Raise SourceChangedError, naming the partitions, where their digests (n_partitions,) are others. What was read is forgotten then,
        and the next use of a dataset begins anew."""
        assert self.contents is not None
        changed = np.flatnonzero(found != self.contents)
        if len(changed):
            self.source.forget()
            raise source_changed([int(partition) for partition in changed], self.source.location)
