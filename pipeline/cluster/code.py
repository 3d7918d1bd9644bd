"""Whether the workers run the same code, and their CPUs give the same bits, as this process; code that they lack is sent."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final
from weakref import WeakKeyDictionary

from distributed import Client

from pipeline.cluster.identity import VersionMismatchError
from pipeline.cluster.modules import users_modules
from pipeline.cluster.shipping import Found, ModuleForWorkers, digest_of, look, put_on_scheduler, sources_of
from pipeline.cluster.versions import compare_versions, some
from tasks.direct import prepare_worker
from tasks.fingerprint import numeric_digest

OURS: Final = "tasks"


@dataclass(eq=False)
class Known:
    """What one client knows of its cluster: the workers that were looked at, and the modules that they must have."""

    workers: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=lambda: {OURS})
    lock: threading.Lock = field(default_factory=threading.Lock)


_known: WeakKeyDictionary[Client, Known] = WeakKeyDictionary()


def check_workers(client: Client, workers: Iterable[str]) -> None:
    """Compare the workers at these addresses with this process, send them the code that they lack, and make them ready for calls, each
    once. Workers that join later get that code, too.

    Raises VersionMismatchError, listing what differs; warns when their CPUs give other bits.
    """
    known = _known.setdefault(client, Known())
    with known.lock:
        new = sorted(set(workers) - known.workers)
        if not new:
            return
        compare_versions(client, new)
        supply(client, new, known.modules)
        digests = ask(client, prepare_worker, new)
        known.workers |= digests.keys()
    own = numeric_digest()
    other = [worker for worker, digest in digests.items() if digest != own]
    if other:
        warnings.warn(
            f"{some(other)}: the CPU or BLAS there rounds differently from this process's; results will not be bit-identical",
            stacklevel=2,
        )


def send_users_modules(client: Client, value: Any) -> None:
    """Send the user's own modules that `value` needs to be unpickled and run (a loss, a function that makes partitions) to workers that
    lack them, or have other ones."""
    known = _known.setdefault(client, Known())
    names = users_modules(value)
    with known.lock:
        new = names - known.modules
        if new:
            supply(client, sorted(known.workers), new)
            known.modules |= new


def supply(client: Client, workers: Sequence[str], modules: Collection[str]) -> None:
    """Send what some of these workers, or the scheduler, lack. Raises VersionMismatchError for a worker that has another `tasks`."""
    sources = {module: own_sources(module) for module in modules}
    digests = {module: digest_of(sources[module]) for module in modules}
    lacking = set()
    for worker, found in ask(client, look, workers, sorted(modules)).items():
        differ = {module for module in modules if found[module].digest != digests[module]}
        if OURS in differ and found[OURS].digest is not None:
            raise VersionMismatchError(f"worker {worker} {other_tasks(found[OURS])}")
        lacking |= differ
    for module in sorted(lacking):
        plugin = ModuleForWorkers(module, sources[module], first=module != OURS)
        client.register_plugin(plugin, name=f"dask-descent-{module}-{digests[module][:12]}")
    with suppress(TypeError, ValueError):  # a scheduler that runs no functions
        there = client.run_on_scheduler(look, sorted(modules))
        for module in [module for module in sorted(modules) if there[module].digest != digests[module]]:
            client.run_on_scheduler(put_on_scheduler, module, dict(sources[module]), module != OURS)


@cache
def own_sources(module: str) -> Mapping[str, bytes]:
    """Of a module imported here, as it was when first asked for."""
    return sources_of(module)


def other_tasks(found: Found) -> str:
    """What is wrong with a worker's `tasks`, and the cure."""
    if "/dask-descent/" in found.place:
        return "runs another version of dask-descent, which another client sent; end that client, then client.restart() the workers"
    if found.place.endswith("tasks.py"):
        return f"imports {found.place} as `tasks`, which is not dask-descent's package; rename that file, or start the worker elsewhere"
    return f"runs another version of dask-descent than this process ({found.place}); install the same on both, or none there: it is sent"


def ask(client: Client, function: Any, workers: Sequence[str], *arguments: Any) -> dict[str, Any]:
    """What the function returns on each of these workers; those that have just gone are left out, for the scheduler knows or will soon."""
    answers = client.run(function, *arguments, workers=list(workers), on_error="return") if workers else {}
    for answer in answers.values():
        if isinstance(answer, Exception) and not isinstance(answer, OSError):
            raise answer
    return {worker: answer for worker, answer in answers.items() if not isinstance(answer, OSError)}
