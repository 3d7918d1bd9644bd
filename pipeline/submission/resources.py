"""The resources of a batch job: what `submit` may ask of the queue, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 2**20
LEAST_MEMORY: Final = 512 * MIB  # what the scheduler and the training need beside a single worker


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources that the queue is asked for.

    jobs: workers; cores: threads of each; memory: bytes of each; gpus: of each; walltime: seconds, or
    None for the partition's default; directives: further #SBATCH options.
    Raises ValueError, naming the option, for what cannot be.
    """

    jobs: int = 1
    cores: int = 1
    memory: int = 4096 * MIB
    gpus: int = 0
    walltime: int | None = None
    account: str | None = None
    partition: str | None = None
    directives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, least in (("jobs", 1), ("cores", 1), ("gpus", 0)):
            if (given := getattr(self, option)) < least:
                raise ValueError(f"--{option} must be at least {least}, got {given}")
        if self.memory < LEAST_MEMORY:
            raise ValueError(f"--memory is each worker's, 4GiB or 16000MB for instance, at least 512MiB; got {self.memory} bytes")
        for directive in self.directives:
            if not directive.startswith("-"):
                raise ValueError(f"--directive takes an option of sbatch, --directive=--constraint=ib for instance, got {directive!r}")
        for text in (self.account, self.partition, *self.directives):
            one_line(text or "")


def one_line(text: str) -> str:
    """The same text. Raises ValueError when it has a line break, which would end its line in the script."""
    if "\n" in text or "\r" in text:
        raise ValueError(f"a line break cannot stand in a batch script's path or option, got {text!r}")
    return text
