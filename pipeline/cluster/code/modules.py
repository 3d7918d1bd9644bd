"""Which modules of the user's own a round needs: those that its objects come from, and that no package manager installed."""

from __future__ import annotations

import ast
import dis
import io
import site
import sys
import sysconfig
import threading
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import cloudpickle

from pipeline.cluster.code.shipping import Sources, reloaded, sources_of, spec_of, specs_of

NEVER_SENT: Final = ("tasks", "pipeline", "__main__")

_sources: dict[str, tuple[dict[str, Any], Sources]] = {}
_parsing = threading.Lock()


def dumps(value: Any) -> tuple[bytes, frozenset[str]]:
    """A pickle of the value, and the names of the modules that unpickling it imports, and of those of the user's that what it holds will
    import."""
    with io.BytesIO() as file:
        recorder = _Recorder(file)
        recorder.dump(value)
        return file.getvalue(), frozenset(recorder.modules)


class _Recorder(cloudpickle.Pickler):
    """Notes the modules of all classes and functions that it meets."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ModuleType):
            self.modules.add(obj.__name__)
        elif isinstance(obj, FunctionType):
            self.modules.add(obj.__module__ or "")
            if obj.__module__ in (None, "__main__") or "<locals>" in obj.__qualname__:  # pickled by value
                self.modules |= set(filter(is_users, map(top_level, imported_in(obj.__code__))))  # others it may do without
        else:
            self.modules.add((obj if isinstance(obj, type) else type(obj)).__module__ or "")
        return super().reducer_override(obj)


@cache
def imported_in(code: CodeType) -> set[str]:
    """Modules that a function's body imports."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME" and step.argval}
    return found.union(*(imported_in(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def users_modules(names: Iterable[str]) -> dict[str, Sources]:
    """The sources of those of these modules that are the user's, and of what they import that is."""
    found: dict[str, Sources] = {}
    waiting = set(map(top_level, names))
    while waiting:
        name = waiting.pop()
        if name not in found and is_users(name) and (sources := own_sources(name)):
            found[name] = sources
            waiting |= imported(content for relative, content in sources.items() if relative.endswith(".py"))
    return found


def packages_of_modules(names: Iterable[str]) -> set[str]:
    """The installed packages that importing these modules takes; of this library's, what the module itself imports first of all."""
    return set[str]().union(*map(_packages_of, names))


@cache
def _packages_of(name: str) -> frozenset[str]:
    if name.startswith("dask.dataframe"):
        return frozenset({"pandas", "pyarrow"})
    found = {top_level(name)}
    if top_level(name) == "tasks":
        sources, path = own_sources("tasks"), name.replace(".", "/")
        content = sources.get(f"{path}.py") or sources.get(f"{path}/__init__.py") or b""
        body = parsed(content).body
        found = {top_level(alias.name) for node in body if isinstance(node, ast.Import) for alias in node.names}
        found |= {top_level(node.module or "") for node in body if isinstance(node, ast.ImportFrom)}
    return frozenset(filter(is_installed, found))


def parsed(source: bytes) -> ast.Module:
    """The syntax tree of a file. One at a time: in CPython 3.11 two threads that build trees at once disturb each other."""
    with _parsing:
        return ast.parse(source)


def top_level(name: str) -> str:
    """The package, or the module itself where it is in none."""
    return name.partition(".")[0]


def own_sources(name: str) -> Sources:
    """The sources of a module imported here, as they were when it was first asked for, or when it was last reloaded: what this process
    runs."""
    specs = specs_of(name)
    before, sources = _sources.get(name, ({}, {}))
    if not sources or reloaded(before, specs):
        sources = sources_of(name)
        _sources[name] = (specs, sources)
    return sources


def imported(sources: Iterable[bytes]) -> set[str]:
    """Top-level names that these files import."""
    return set[str]().union(*map(imported_by, sources))


@lru_cache(maxsize=1 << 14)
def imported_by(source: bytes) -> frozenset[str]:
    """Top-level names that one file imports, kept because every round asks for them."""
    names: set[str] = set()
    try:
        tree = parsed(source)
    except (SyntaxError, ValueError):
        return frozenset()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return frozenset(names)


def is_users(name: str) -> bool:
    """Whether a top-level module is a file or package of the user's: one that is not where packages are installed."""
    return _is_installed(name) is False


def is_installed(name: str) -> bool:
    """Whether a top-level module belongs to a package that was installed, and is neither this library's nor Python's own."""
    return _is_installed(name) is True


def _is_installed(name: str) -> bool | None:
    """Whether a top-level module lies where packages are installed; None for this library's, Python's own, and what is no file."""
    if not name or name in NEVER_SENT or name in sys.stdlib_module_names:
        return None
    spec = spec_of(name)
    return None if spec is None else _are_installed((spec.origin or "", *map(str, spec.submodule_search_locations or ())))


@cache
def _are_installed(places: tuple[str, ...]) -> bool | None:
    files = [Path(place).resolve() for place in places if Path(place).exists()]  # not "built-in" or ""
    return any(file.is_relative_to(folder) for file in files for folder in installed_folders()) if files else None


@cache
def installed_folders() -> tuple[Path, ...]:
    """The folders where the standard library and packages live."""
    paths = sysconfig.get_paths()
    names = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(Path(name).resolve() for name in (*names, *site.getsitepackages(), site.getusersitepackages()))
