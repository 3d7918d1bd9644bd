"""Modules that are imported by their first use: what takes long to import, and is of no use before the first rows come."""

from __future__ import annotations

from importlib import import_module
from threading import RLock
from types import ModuleType
from typing import Any, Final

_FIRST_USE: Final = RLock()
"""One first use at a time: Dask and pandas import themselves in circles, and two threads that enter these at different places disturb each
other."""


class Lazy:
    """A module by name, which its first attribute imports.

    It stands for the module in code alone: `sys.modules`, pickles and `isinstance` never meet it. Type checkers and the checks of imports
    see the import beside it:

        if TYPE_CHECKING:
            from tasks.kernels import passes
        else:
            passes = Lazy("tasks.kernels.passes")
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, attribute: str) -> Any:
        if self._module is None:
            with _FIRST_USE:
                self._module = import_module(self._name)
        return getattr(self._module, attribute)

    def __repr__(self) -> str:
        return f"Lazy({self._name!r})"
