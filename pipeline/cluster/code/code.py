"""A check that workers run the same code as this process, on CPUs that give the same bits; code that they lack is sent."""

from __future__ import annotations

import os
import socket
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions
from typing import Final
from weakref import WeakKeyDictionary

from distributed import Client
from distributed.versions import get_package_info

from pipeline.cluster.asking import ask, packages_of
from pipeline.cluster.code.library import VersionMismatchError
from pipeline.cluster.code.modules import own_sources, packages_of_modules, users_modules
from pipeline.cluster.code.shipping import (
    Found,
    Look,
    ModuleForWorkers,
    Sources,
    clients_of,
    digest_of,
    lacking,
    look,
    prepare,
    put_on_scheduler,
)
from pipeline.cluster.code.versions import COMPARED_IN_USE, PACKAGES, compare_versions, release, short, some
from tasks.machine.fingerprint import numeric_digest

TASKS: Final = "tasks"
COMPARED_ANYWAY: Final = frozenset(PACKAGES)


@dataclass(eq=False)
class Known:
    """A client's knowledge of its cluster: the workers that were looked at, those among them that cannot be used, and the user's modules
    that all must have, by their digests."""

    workers: set[str] = field(default_factory=set)
    unusable: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_known: WeakKeyDictionary[Client, Known] = WeakKeyDictionary()


def usable_workers(client: Client, workers: Sequence[str], *, late: bool = False) -> list[str]:
    """The addresses (of worker threads) that can be used among these: each worker is compared with this process once, gets the code that
    it lacks, and is made ready for calls. Workers that join later get that code, too.

    Raises VersionMismatchError, listing what differs; late: warns instead, and leaves workers that joined a running fit out, unless none
    is left then. Warns of workers whose CPUs give other bits.
    """
    known = _known.setdefault(client, Known())
    with known.lock:
        known.workers &= set(workers)  # nobody should wait for answers of dead workers
        new = sorted(set(workers) - known.workers - known.unusable.keys())
        if new:
            for some_new in [[worker] for worker in new] if late else [new]:
                try:
                    _compare(client, known, some_new)
                except VersionMismatchError as error:
                    if not late:
                        raise
                    known.unusable |= dict.fromkeys(some_new, str(error))
                    warnings.warn(f"a worker that joined cannot be used: {error}", stacklevel=2)
    usable = [worker for worker in workers if worker not in known.unusable]
    if workers and not usable:
        raise VersionMismatchError(f"no worker is left that can be used: {known.unusable[workers[0]]}")
    return usable


def _compare(client: Client, known: Known, new: list[str]) -> None:
    compare_versions(packages_of(client, new, PACKAGES))
    users = users_modules(known.modules)
    supply(client, new, {TASKS: own_sources(TASKS), **users})
    digests = ask(client, prepare, new)
    known.workers |= digests.keys()
    own = numeric_digest()
    other = [worker for worker, digest in digests.items() if digest != own]
    if other:
        warnings.warn(
            f"{some(other)}: the CPU or BLAS there rounds differently from this process's; results will not be bit-identical",
            stacklevel=3,
        )


def send_users_modules(client: Client, names: Iterable[str], *, anew: bool = False) -> None:
    """Send those of these modules that are the user's own (a loss, a function that makes partitions) to workers that lack them, or have
    other ones: an older one, after a reload here. anew: look again at what was sent already, for other clients send, too.

    Raises VersionMismatchError when another client that is connected uses another version of one.
    """
    modules = users_modules(names)
    if not modules:
        return
    known = _known.setdefault(client, Known())
    digests = {module: digest_of(sources) for module, sources in modules.items()}
    with known.lock:
        wanted = {module: modules[module] for module in modules if anew or known.modules.get(module) != digests[module]}
        if wanted:
            supply(client, sorted(known.workers), wanted)
            known.modules |= {module: digests[module] for module in wanted}


def require_packages(client: Client, workers: Iterable[str], names: Iterable[str]) -> None:
    """Raise VersionMismatchError, naming the workers, when some lack packages that these modules import, which they are about to get, or
    have other versions of those that give other bits."""
    packages = packages_of_modules(names) - COMPARED_ANYWAY
    if packages:
        require_found(client, workers, packages)
    for package in packages.intersection(COMPARED_IN_USE):
        require_same(client, sorted(set(workers)), package)


def require_same(client: Client, workers: Sequence[str], package: str) -> None:
    """Raise VersionMismatchError, naming the workers, when some have another version of this package, in its first two numbers."""
    here = get_package_info([package])[package]
    others = {worker: found[package] for worker, found in packages_of(client, workers, [package]).items()}
    other = {worker: version for worker, version in others.items() if release(version) != release(here)}
    if other:
        lines = [f"{package} {short(here)} here, {short(version)} on {worker}" for worker, version in sorted(other.items())]
        raise VersionMismatchError("results would have other bits:\n  " + "\n  ".join(lines) + "\ninstall the same version on both")


def require_found(client: Client, workers: Iterable[str], packages: Iterable[str]) -> None:
    """Raise VersionMismatchError, naming the workers, when some lack these packages, given by the names that are imported."""
    lack: dict[str, list[str]] = defaultdict(list)
    for worker, missing in ask(client, lacking, sorted(set(workers)), sorted(packages)).items():
        for package in missing:
            lack[package].append(worker)
    if lack:
        lines = [f"{distribution_of(package)}, missing on {some(sorted(lack[package]))}" for package in sorted(lack)]
        named = " ".join(map(distribution_of, sorted(lack)))
        raise VersionMismatchError(
            "workers lack packages that this data or model uses:\n  "
            + "\n  ".join(lines)
            + f"\ninstall them where those workers run (pip install {named}), or work without these workers"
        )


def distribution_of(package: str) -> str:
    """The distribution that has to be installed for a top-level module to be there."""
    return next(iter(packages_distributions().get(package, ())), package)


def supply(client: Client, workers: Sequence[str], modules: Mapping[str, Sources]) -> None:
    """Send what some of these workers, or the scheduler, lack. Raises VersionMismatchError for a worker that has another `tasks`, and for
    modules that another client has sent and still uses."""
    digests = {module: digest_of(sources) for module, sources in modules.items()}
    lacking: dict[str, Found] = {}
    for worker, answer in ask(client, look, workers, sorted(modules)).items():
        found = Look.of(answer)
        for module in lacking_there(found, digests):
            lacking[module] = found.modules[module]
            if module == TASKS and lacking[module].digest is not None:
                raise VersionMismatchError(f"worker {worker} {other_tasks(lacking[module])}")
    check_owners(client, lacking)
    for module in sorted(lacking):
        plugin = ModuleForWorkers(module, modules[module], client.id, first=module != TASKS)
        client.register_plugin(plugin, name=f"dask-descent-{module}")
    with suppress(TypeError, ValueError):  # errors of a scheduler that runs no functions
        for module in sorted(lacking_there(Look.of(client.run_on_scheduler(look, sorted(modules))), digests)):
            client.run_on_scheduler(put_on_scheduler, module, dict(modules[module]), client.id, module != TASKS)


def check_owners(client: Client, lacking: Mapping[str, Found]) -> None:
    """Raises VersionMismatchError when the version that is there is another connected client's."""
    owned = {module: found.owner for module, found in lacking.items() if found.digest is not None and found.owner not in ("", client.id)}
    if not owned:
        return
    with suppress(TypeError, ValueError):
        connected = client.run_on_scheduler(clients_of)
        for module, owner in owned.items():
            if owner in connected:
                raise VersionMismatchError(
                    f"another client of this cluster, {owner}, uses another version of {module}; close it, or rename the module here"
                )


def lacking_there(found: Look, digests: Mapping[str, str]) -> set[str]:
    """Modules that the process lacks, or has otherwise. This process itself lacks nothing."""
    if found.process == (socket.gethostname(), os.getpid()):
        return set()
    return {module for module, digest in digests.items() if found.modules[module].digest != digest}


def other_tasks(found: Found) -> str:
    """The message on what is wrong with a worker's `tasks`, and the cure."""
    if "/dask-descent/" in found.place:
        return "runs another version of dask-descent, which another client sent; end that client, then client.restart() the workers"
    if found.place.endswith("tasks.py"):
        return f"imports {found.place} as `tasks`, which is not dask-descent's package; rename that file, or start the worker elsewhere"
    return f"runs another version of dask-descent than this process ({found.place}); install the same on both, or none there: it is sent"
