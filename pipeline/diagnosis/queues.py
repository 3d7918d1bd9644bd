"""Queueing systems whose commands are here, and whether they answer."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.cluster.queue.slurm import ask, words
from pipeline.cluster.queue.systems import SYSTEMS
from pipeline.diagnosis.findings import Item, told

SUPPORT: Final = "ask the site's support whether the queue is up"
SETTINGS: Final = f"see whether SLURM_CONF is right, or {SUPPORT}"
UP: Final = frozenset(("idle", "mixed", "allocated", "completing", "reserved", "planned"))
"""Of SLURM's states of nodes those that run jobs; a further character is a remark, "*" that the node does not answer."""


def by_command() -> dict[str, list[str]]:
    """The systems by the command that lists their jobs; some share it."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, system in SYSTEMS.items():
        found[system.list_command()[0]].append(name)
    return found


def none_here() -> Iterator[Item]:
    """An item where there is no queueing system."""
    commands = by_command()
    if not any(map(shutil.which, commands)):
        yield Item("missing", "queueing systems", f"none of {', '.join(commands)} on PATH")


def queue(command: str, names: Sequence[str]) -> Iterator[Item]:
    """The systems that have this command, where it is: whether it answers."""
    path, title = shutil.which(command), " or ".join(names)
    if path is not None:
        yield slurm(path) if "slurm" in names else listed(path, title)


def slurm(path: str) -> Item:
    """SLURM and its nodes. Raises TimeoutError when it does not answer."""
    done = ask("sinfo", "-h", "-N", "-o", "%N|%T")
    if done.returncode != 0:
        return Item("broken", "slurm", f"{path}, but the controller does not answer: {words(done.stderr)}", SETTINGS)
    states = dict(line.split("|", 1) for line in done.stdout.split())  # a node may be in several partitions
    up = sum(state.rstrip("~#!%$@^-+") in UP for state in states.values())
    counts = ", ".join(f"{count} {state}" for state, count in sorted(Counter(states.values()).items()))
    found = f"{path}, {up} of {len(states)} nodes up ({counts or 'no node'})"
    return Item("ok" if up else "broken", "slurm", found, "" if up else SUPPORT)


def listed(path: str, title: str) -> Item:
    """Another system, asked for the user's jobs."""
    import asyncio

    from pipeline.cluster.queue.queue_jobs import CommandError, call

    system = SYSTEMS[title.split()[0]]
    try:
        asyncio.run(call(system.list_command()))
    except CommandError as error:
        if system.nothing is None or system.nothing not in str(error):
            return Item("broken", title, f"{path}: {told(str(error))}", SUPPORT)
    return Item("ok", title, f"{path}, and it answers")
