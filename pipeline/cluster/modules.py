"""Which modules of the user's own a round needs: those that its objects come from, and that no package manager installed."""

from __future__ import annotations

import ast
import dis
import io
import site
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import cloudpickle

from pipeline.cluster.shipping import Sources, reloaded, sources_of, spec_of, specs_of

NEVER_SENT: Final = ("tasks", "pipeline", "__main__")

_sources: dict[str, tuple[dict[str, Any], Sources]] = {}


def dumps(value: Any) -> tuple[bytes, frozenset[str]]:
    """A pickle, and the top-level names of the modules that unpickling it imports."""
    with io.BytesIO() as file:
        recorder = _Recorder(file)
        recorder.dump(value)
        return file.getvalue(), frozenset(name.partition(".")[0] for name in recorder.modules)


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
                self.modules |= imported_in(obj.__code__)
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
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        if name not in found and is_users(name) and (sources := own_sources(name)):
            found[name] = sources
            waiting |= imported(content for relative, content in sources.items() if relative.endswith(".py"))
    return found


def own_sources(name: str) -> Sources:
    """Of a module imported here, as they were when it was first asked for, or when it was last reloaded: what this process runs."""
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
    """Of one file: asked for in every round."""
    names: set[str] = set()
    try:
        tree = ast.parse(source)
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
    if name in NEVER_SENT or name in sys.stdlib_module_names:
        return False
    spec = spec_of(name)
    return spec is not None and _is_users_place((spec.origin or "", *map(str, spec.submodule_search_locations or ())))


@cache
def _is_users_place(places: tuple[str, ...]) -> bool:
    files = [Path(place).resolve() for place in places if Path(place).exists()]  # not "built-in" or ""
    return bool(files) and not any(file.is_relative_to(folder) for file in files for folder in installed_folders())


@cache
def installed_folders() -> tuple[Path, ...]:
    """Where the standard library and packages live."""
    paths = sysconfig.get_paths()
    names = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(Path(name).resolve() for name in (*names, *site.getsitepackages(), site.getusersitepackages()))
