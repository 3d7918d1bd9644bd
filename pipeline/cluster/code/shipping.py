"""Modules that workers lack, sent to them as files, so that numba finds its machine code beside them in the next process, too.

Workers need not have this library: what runs there is sent by value, and imports the standard library and distributed alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import cloudpickle
from distributed import WorkerPlugin

cloudpickle.register_pickle_by_value(sys.modules[__name__])

Sources = Mapping[str, bytes]
"""The files of a module: path relative to the folder that it is imported from -> content."""
MOST_BYTES: Final = 64 << 20
NOTES: Final = "_dask_descent_modules"
"""The name of a module that holds a process's notes, because functions that are sent by value have no globals that stay."""


class Found(NamedTuple):
    """A module as it is in a process: the digest of its sources, None when there is none; its place; the client that sent it, if any."""

    digest: str | None
    place: str
    owner: str


class Look(NamedTuple):
    """The findings of `look`, and the process: its host and number."""

    process: tuple[str, int]
    modules: dict[str, Found]

    @classmethod
    def of(cls, answer: Answer) -> Look:
        process, modules = answer
        return cls(process, {name: Found(*found) for name, found in modules.items()})


Answer = tuple[tuple[str, int], dict[str, tuple[str | None, str, str]]]
"""A `Look` in builtin types: to pickle any other, a worker that has this library would import all of it, and be silent for seconds."""


def spec_of(name: str) -> ModuleSpec | None:
    """The spec that an import of a top-level module finds; None for nothing, and for modules that were made without an import."""
    try:
        return find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def sources_of(name: str) -> dict[str, bytes]:
    """The file of a module, or all files of a package; {} when there is none that could be read.

    Raises ValueError for a package of more than 64 MiB.
    """
    if (spec := spec_of(name)) is None:
        return {}
    files: dict[str, Path] = {}
    if not spec.submodule_search_locations:
        origin = Path(spec.origin or "")
        files = {origin.name: origin} if origin.suffix == ".py" else {}
    for root in map(Path, reversed(list(spec.submodule_search_locations or ()))):
        files |= {path.relative_to(root.parent).as_posix(): path for path in sorted(root.rglob("*")) if is_source(path)}
    if (size := sum(path.stat().st_size for path in files.values() if path.is_file())) > MOST_BYTES:
        raise ValueError(f"package {name} has {size >> 20} MiB, too much to send; install it where the workers run")
    return {relative: path.read_bytes() for relative, path in files.items() if path.is_file()}


def is_source(path: Path) -> bool:
    """Whether a file of a package belongs to it: data and extension modules do, caches and hidden files do not."""
    return path.is_file() and path.suffix not in (".pyc", ".nbi", ".nbc") and not any(part.startswith(".") for part in path.parts[-3:])


def digest_of(sources: Sources) -> str:
    """SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for relative in sorted(sources):
        digest.update(f"{relative}\0{len(sources[relative])}\0".encode())
        digest.update(sources[relative])
    return digest.hexdigest()


def specs_of(name: str) -> dict[str, Any]:
    """The specs of the module and of all below it that are imported here; a reload makes other ones."""
    loaded = [(each, module) for each, module in sys.modules.copy().items() if each.partition(".")[0] == name]
    return {each: getattr(module, "__spec__", None) for each, module in loaded}


def reloaded(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether any of these modules was imported anew, or is gone."""
    return any(now.get(name) is not spec for name, spec in before.items())


def notes() -> Any:
    """The memory of this process: `digests` {module: (specs, digest)} of what it imported; of what was sent, `roots` {module: folder} and
    `owners` {module: client}."""
    if NOTES not in sys.modules:
        made: Any = ModuleType(NOTES)
        made.digests, made.roots, made.owners = {}, {}, {}
        sys.modules[NOTES] = made
    return sys.modules[NOTES]


async def prepare(dask_worker: Any) -> str:
    """Import and run `tasks.workers.calls.prepare_worker` in a thread: that may take longer than a scheduler waits for a silent worker."""

    def run() -> str:
        digest: str = importlib.import_module("tasks.workers.calls").prepare_worker(dask_worker)
        return digest

    return await asyncio.get_running_loop().run_in_executor(None, run)


def look(names: Sequence[str]) -> Answer:
    """Look at what these modules are in this process, see `Look`. What is imported counts, as its files were when it was first looked at,
    not what they are now."""
    importlib.invalidate_caches()
    found = {}
    for name in names:
        specs, (before, digest) = specs_of(name), notes().digests.get(name, ({}, None))
        if digest is None or reloaded(before, specs):
            sources = sources_of(name)
            digest = digest_of(sources) if sources else None
        if specs:
            notes().digests[name] = (specs, digest)
        spec = spec_of(name)
        found[name] = (digest, str(spec.origin) if spec else "", notes().owners.get(name, ""))
    return (socket.gethostname(), os.getpid()), found


def lacking(names: Sequence[str]) -> list[str]:
    """The top-level modules among these that this process cannot import."""
    importlib.invalidate_caches()
    return [name for name in names if spec_of(name) is None]


def put(module: str, sources: Sources, owner: str, first: bool, scratch: Callable[[], Path]) -> None:
    """Write the files where this process imports them from. owner: the client that sends them. first: before what is installed, and instead
    of what was imported already.

    The folder is the user's own, named by the digest, and stays: machine code that numba keeps there is found again. Without a home that
    can be written, it is in `scratch()`. Raises OSError where neither can be.
    """
    digest = digest_of(sources)
    root = folder(digest, scratch)
    for relative, content in sources.items():
        path = root / relative
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, beside = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(beside).replace(path)  # other processes of this machine may read it at this moment
    for old in (notes().roots.get(module), str(root)):
        if old in sys.path:
            sys.path.remove(old)
    notes().roots[module], notes().owners[module] = str(root), owner
    sys.path.insert(0 if first else len(sys.path), str(root))
    importlib.invalidate_caches()
    if first and notes().digests.pop(module, ({}, None))[1] != digest:
        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            del sys.modules[name]


def folder(digest: str, scratch: Callable[[], Path]) -> Path:
    """The folder for modules of this digest: in the user's cache; in `scratch()` where that is not theirs alone, or cannot be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for root in private_folders(cache, scratch):
        try:
            for each in (root, root / digest):
                each.mkdir(exist_ok=True, mode=0o700)
            states = [each.stat() for each in (root, root / digest)]
        except OSError:  # no home on this node
            continue
        if all(state.st_uid == os.getuid() and not state.st_mode & 0o022 for state in states) and os.access(root / digest, os.W_OK):
            return root / digest
    raise OSError(f"there is no folder under {cache}, nor for scratch, that is this user's alone, to put modules that the client sends")


def private_folders(cache: Path, scratch: Callable[[], Path]) -> Iterator[Path]:
    """The places where folders of modules may be, best first."""
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield cache / "dask-descent"
    except OSError:
        pass
    yield scratch() / "dask-descent"


class ModuleForWorkers(WorkerPlugin):
    """Puts a module on workers, those that start later too."""

    def __init__(self, module: str, sources: Sources, owner: str, *, first: bool) -> None:
        self.module = module
        self.sources = dict(sources)
        self.owner = owner
        self.first = first

    def setup(self, worker: Any) -> None:
        put(self.module, self.sources, self.owner, self.first, lambda: Path(worker.local_directory))


def put_on_scheduler(module: str, sources: Sources, owner: str, first: bool) -> None:
    """Put a module on the scheduler, which unpickles the graphs of lazy predictions."""
    put(module, sources, owner, first, lambda: Path(tempfile.mkdtemp(prefix="dask-descent-")))


def clients_of(dask_scheduler: Any) -> list[str]:
    """The names of the clients that are connected."""
    return list(dask_scheduler.clients)
