"""What is found, and the checks that find it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Mark: TypeAlias = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Item:
    """A line of the diagnosis. found: versions, counts, paths, or what went wrong; cure: what to do about it; needed: false for what
    anyone can do without."""

    mark: Mark
    name: str
    found: str
    cure: str = ""
    needed: bool = True

    @property
    def wrong(self) -> bool:
        """Whether something that is needed is missing or broken."""
        return self.needed and self.mark != "ok"

    def __str__(self) -> str:
        return f"{self.mark:8} {self.name:18} {self.found}" + (f"; {self.cure}" if self.cure else "")


@dataclass(frozen=True)
class Check:
    """A function that yields items, and its arguments. name, cure: of the item when it raises, or ends its process, or takes longer than
    `seconds`. needed: false when anyone can do without any of it.

    It imports what it needs when it runs: any of that may be missing, or broken.
    """

    name: str
    find: Callable[..., Iterable[Item]]
    arguments: tuple[Any, ...] = ()
    cure: str = ""
    needed: bool = True
    seconds: float = 60.0

    def items(self) -> Iterator[Item]:
        """What it finds; an error is one more finding."""
        try:
            for item in self.find(*self.arguments):
                yield item if self.needed else replace(item, needed=False)
        except ModuleNotFoundError as error:
            yield replace(self.broken(told(error)), cure="install what has that module")
        except Exception as error:  # noqa: BLE001
            yield self.broken(told(error))

    def broken(self, found: str) -> Item:
        """The item of a check that could not be made."""
        return Item("broken", self.name, found, self.cure, self.needed)


def told(error: BaseException | str) -> str:
    """An error, or its text, in a line."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return "; ".join(line.strip() for line in text.splitlines() if line.strip()).replace(":; ", ": ")


def counted(n: int, what: str) -> str:
    """So many of something, in words."""
    return f"{n} {what}{'s' * (n != 1)}"
