"""Modules that workers lack, sent to them as files, so that numba finds its machine code beside them in the next process, too.

Workers need not have this library: what runs there is sent by value, and imports the standard library and distributed alone.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
from distributed import WorkerPlugin

cloudpickle.register_pickle_by_value(sys.modules[__name__])

Sources = Mapping[str, bytes]
"""Of a module: path relative to the folder that it is imported from -> content."""


class Found(NamedTuple):
    """What an import of a module would find: the digest of its sources, None for nothing, and its place."""

    digest: str | None
    place: str


def sources_of(name: str) -> dict[str, bytes]:
    """The files of a module, or of a package with all that is below it; {} when there is none that could be read."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return {}
    if spec is None:
        return {}
    if spec.submodule_search_locations:
        roots = [Path(place) for place in spec.submodule_search_locations]
        files = {path.relative_to(root.parent).as_posix(): path for root in reversed(roots) for path in sorted(root.rglob("*.py"))}
    else:
        files = {Path(spec.origin).name: Path(spec.origin)} if spec.origin and spec.origin.endswith(".py") else {}
    return {relative: path.read_bytes() for relative, path in files.items() if path.is_file()}


def digest_of(sources: Sources) -> str:
    """SHA-256 over names and contents."""
    digest = hashlib.sha256()
    for relative in sorted(sources):
        digest.update(f"{relative}\0{len(sources[relative])}\0".encode())
        digest.update(sources[relative])
    return digest.hexdigest()


def look(names: Sequence[str]) -> dict[str, Found]:
    """What imports of these modules find in this process."""
    importlib.invalidate_caches()
    found = {}
    for name in names:
        sources = sources_of(name)
        spec = find_spec(name) if sources else None
        found[name] = Found(digest_of(sources) if sources else None, str(spec.origin) if spec else "")
    return found


def put(module: str, sources: Sources, first: bool, scratch: Path) -> None:
    """Write the files where this process imports them from. first: before what is installed, and instead of what was imported already.

    The folder is the user's own, named by the digest, and stays: machine code that numba keeps there is found again. Without a home that
    can be written, it is in `scratch`. Raises OSError where neither can be.
    """
    root = folder(digest_of(sources), scratch)
    for relative, content in sources.items():
        path = root / relative
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, beside = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(beside).replace(path)  # other processes of this machine may read it at this moment
    if str(root) not in sys.path:
        sys.path.insert(0 if first else len(sys.path), str(root))
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if first and name.partition(".")[0] == module]:
        if not str(getattr(sys.modules[name], "__file__", "")).startswith(str(root)):
            del sys.modules[name]


def folder(digest: str, scratch: Path) -> Path:
    """The first of the two places that can be written."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    for root in (Path(cache) / "dask-descent" / digest, scratch / f"dask-descent-{digest}"):
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:  # no home on this node
            continue
        if os.access(root, os.W_OK):
            return root
    raise OSError(f"neither {cache} nor {scratch} can be written, to put modules there that the client sends")


class ModuleForWorkers(WorkerPlugin):
    """Puts a module on workers, those that start later too."""

    def __init__(self, module: str, sources: Sources, *, first: bool) -> None:
        self.module = module
        self.sources = dict(sources)
        self.first = first

    def setup(self, worker: Any) -> None:
        put(self.module, self.sources, self.first, Path(worker.local_directory))


def put_on_scheduler(module: str, sources: Sources, first: bool) -> None:
    """The scheduler unpickles the graphs of lazy predictions."""
    put(module, sources, first, Path(tempfile.mkdtemp(prefix="dask-descent-")))
