"""Partitions that cannot be read, or hold what no fit can use, as partitions without rows: by what they are, wherever they are read."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tasks.loading.checking import first_fault
from tasks.rows.partition import Block, make_group


class Failed(NamedTuple):
    """A stand-in for a value that could not be made, and for all that would be made from it."""

    why: str


@dataclass(frozen=True, eq=False)
class Guarded:
    """A node of a source's graph, `run(values)`, that gives `Failed` where it would raise; needs: the keys of the values, in order."""

    run: Callable[[dict[Hashable, Any]], Any]
    needs: tuple[Hashable, ...]

    def __call__(self, *values: Any) -> Any:
        """The node's value. Raises MemoryError and ModuleNotFoundError: what memory and packages there are does not depend on the data
        alone."""
        failed = next((value for value in values if isinstance(value, Failed)), None)
        if failed is not None:
            return failed
        try:
            return self.run(dict(zip(self.needs, values, strict=True)))
        except (MemoryError, ModuleNotFoundError):
            raise
        except Exception as error:  # noqa: BLE001  of the user's own code, or of whatever reads the file
            return Failed(text_of(error))


@dataclass(frozen=True)
class Screen:
    """A screen that lets blocks of numbers through; n_columns and dtype: of X."""

    n_columns: int
    dtype: str

    def __call__(self, block: Block | Failed, partition: int) -> Block:
        """The block, or one without rows that says why: a text, or a `tasks.loading.checking.Fault`."""
        if isinstance(block, Failed):
            return self._quarantine(block.why.removeprefix(f"partition {partition}: "))
        fault = first_fault(make_group([block], partition))
        return block if fault is None else self._quarantine(fault)

    def _quarantine(self, why: Any) -> Block:
        return Block(np.zeros((0, self.n_columns), self.dtype), np.zeros(0, object), quarantined=why)


def text_of(error: BaseException) -> str:
    """The text of an exception, with its type unless that says nothing; of pandas, which columns a frame lacks."""
    said = str(error).strip()
    if isinstance(error, KeyError) and said.rstrip("\"'").endswith(("not in index", "in the [columns]")):
        return f"it lacks columns that the first one has, {error.args[0]}; add them, or leave them out with columns="
    return said if said and isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {said}".removesuffix(": ")
