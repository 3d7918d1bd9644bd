"""Which modules of the user's own a round needs: those that its objects come from, and that no package manager would install."""

from __future__ import annotations

import ast
import io
import site
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import cloudpickle

from pipeline.cluster.shipping import sources_of

OURS: Final = ("tasks", "pipeline", "__main__")


def users_modules(value: Any) -> set[str]:
    """Top-level names of the modules that the workers need to unpickle this and to run what it imports; without those of this library, of
    the standard library, and of installed packages. {} for what cannot be pickled here: Dask has ways of its own."""
    recorder = _Recorder()
    try:
        recorder.dump(value)
    except Exception:  # noqa: BLE001  whatever it is, the round itself will raise it, or not
        return set()
    found: set[str] = set()
    waiting = {name.partition(".")[0] for name in recorder.modules}
    while waiting:
        name = waiting.pop()
        if name not in found and is_users(name) and (sources := sources_of(name)):
            found.add(name)
            waiting |= imported(sources.values())
    return found


class _Recorder(cloudpickle.Pickler):
    """Notes the modules of all classes and functions that it meets; arrays are not copied."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), protocol=5, buffer_callback=lambda buffer: None)
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        named = obj if isinstance(obj, type | FunctionType) else type(obj)
        self.modules.add(named.__module__ or "")
        return super().reducer_override(obj)


def imported(sources: Iterable[bytes]) -> set[str]:
    """Top-level names that these files import."""
    names: set[str] = set()
    for source in sources:
        try:
            tree = ast.parse(source)
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


@cache
def is_users(name: str) -> bool:
    """Whether a top-level module is a file or package of the user's, imported here, and not installed."""
    module = sys.modules.get(name)
    if module is None or name in OURS or name in sys.stdlib_module_names:
        return False
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    files = [Path(place).resolve() for place in places if place]
    return bool(files) and not any(file.is_relative_to(folder) for file in files for folder in installed_folders())


@cache
def installed_folders() -> tuple[Path, ...]:
    """Where the standard library and packages live."""
    paths = sysconfig.get_paths()
    names = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(Path(name).resolve() for name in (*names, *site.getsitepackages(), site.getusersitepackages()))
