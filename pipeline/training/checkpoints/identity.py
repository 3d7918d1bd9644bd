"""What an object is, as a digest that is the same in every process: its class, its state, and the code of the user's own classes.

Dask's `tokenize` gives classes of a script or notebook another token in each process, and classes of modules the same one whatever
their code has become.
"""

from __future__ import annotations

import copyreg
import hashlib
import sys
from collections.abc import Mapping
from functools import cached_property, lru_cache, singledispatchmethod
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, Final

import numpy as np
from numba.core.dispatcher import Dispatcher

from pipeline.cluster.code.modules import is_users

PLAIN: Final = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
CODE: Final = (FunctionType, property, classmethod, staticmethod)
LAYOUT: Final = (GetSetDescriptorType, MemberDescriptorType)
VALUES: Final = ("builtins", "numpy", "scipy", "numba", "functools", "types", "collections", "datetime", "pathlib", "enum", "tasks")
"""Packages whose objects are values, when code refers to them; a cluster's client, say, is none."""


def identity(value: Any) -> str:
    """SHA-256 in 16 digits. Raises TypeError, naming it, for an object of which nobody can say what it is: one that cannot be pickled."""
    walk = _Walk()
    walk.take(value)
    return walk.sha256.hexdigest()[:16]


def is_own(module: str | None) -> bool:
    """Whether code of this module is the user's: that of packages is known by their versions."""
    top = (module or "__main__").partition(".")[0]
    return top == "__main__" or is_users(top)


class _Walk:
    """Takes in an object and all that it refers to, each once."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._modules: set[int] = set()
        self._held: list[Any] = []  # an id is one object's only as long as that lives

    def take(self, value: Any) -> None:
        if isinstance(value, PLAIN):
            self._note(type(value).__name__, repr(value))
            return
        if id(value) in self._seen:
            self._note("again", self._seen[id(value)])
            return
        self._seen[id(value)] = len(self._seen)
        self._held.append(value)
        self._object(value)

    def _take_around(self, value: Any) -> None:
        """What code refers to. A client, a lock or a file among it counts as one of its class."""
        module = type(value).__module__
        if not (is_own(module) or module.partition(".")[0] in VALUES):
            self._note("some", module, type(value).__qualname__)
            return
        try:
            self.take(value)
        except TypeError:
            self._note("some", module, type(value).__qualname__)

    def _note(self, *words: Any) -> None:
        self.sha256.update(repr(words).encode())

    def _all(self, kind: str, values: Any) -> None:
        values = list(values)
        self._note(kind, len(values))
        for each in values:
            self.take(each)

    @singledispatchmethod
    def _object(self, value: Any) -> None:
        """The identity of an object by how it would be pickled: what makes it, from what."""
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):  # whose pickles have addresses
            self._note("tensor", str(value.dtype), tuple(value.shape), value.requires_grad)
            self._array(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())  # NumPy lacks some of its dtypes
            return
        try:
            reducer = copyreg.dispatch_table.get(type(value))
            made = value.__reduce_ex__(4) if reducer is None else reducer(value)
        except TypeError as error:
            name = f"{type(value).__name__} {value!r:.80}"
            raise TypeError(f"{name} cannot be part of what is checkpointed: {error}; make it where it is used") from error
        if isinstance(made, str):
            self._note("global", type(value).__module__, made)
            return
        maker, arguments, *rest = made
        if rest and isinstance(rest[0], dict):
            rest[0] = {name: each for name, each in rest[0].items() if not is_cached(value, name)}
        self._all("made", (maker, arguments, *(list(each) if index else each for index, each in enumerate(rest) if each is not None)))

    @_object.register(tuple)
    @_object.register(list)
    def _sequence(self, value: Any) -> None:
        self.take(type(value))
        self._all("items", value)

    @_object.register
    def _mapping(self, value: dict) -> None:  # type: ignore[type-arg]
        self._all("mapping", (each for item in value.items() for each in item))

    @_object.register(set)
    @_object.register(frozenset)
    def _set(self, value: Any) -> None:
        self._note(type(value).__name__, sorted(map(identity, value)))

    @_object.register
    def _array(self, value: np.ndarray) -> None:
        self._note("array", value.dtype.str, value.shape)
        if value.dtype.hasobject:
            self._all("objects", value.ravel().tolist())
        else:
            self.sha256.update(np.ascontiguousarray(value).tobytes())

    @_object.register
    def _class(self, value: type) -> None:
        self._note("class", value.__module__, value.__qualname__, version_of(value.__module__))
        if is_own(value.__module__):
            own = {name: each for name, each in vars(value).items() if is_of_body(name, each)}
            self._note("body", sorted(own))
            self.take(value.__bases__)
            for _, each in sorted(own.items()):
                self._take_around(each)

    @_object.register
    def _property(self, value: property) -> None:
        self._all("property", (value.fget, value.fset))

    @_object.register
    def _cached_property(self, value: cached_property) -> None:  # type: ignore[type-arg]
        self._all("cached property", (value.func,))

    @_object.register(type(lru_cache(len)))
    def _cached(self, value: Any) -> None:
        self._all("cached", (value.__wrapped__,))

    @_object.register
    def _dispatcher(self, value: Dispatcher) -> None:
        self._all("compiled", (value.py_func,))

    @_object.register(classmethod)
    @_object.register(staticmethod)
    def _wrapped(self, value: Any) -> None:
        self._all(type(value).__name__, (value.__func__,))

    @_object.register
    def _function(self, value: FunctionType) -> None:
        self._note("function", value.__module__, value.__qualname__, version_of(value.__module__))
        if is_own(value.__module__):
            cells = list(map(content_of, value.__closure__ or ()))
            self._all("function", (value.__code__, value.__defaults__, value.__kwdefaults__, cells))
            self._around(names_in(value.__code__), value.__globals__)

    def _around(self, names: set[str], known: Mapping[str, Any]) -> None:
        """What code with these names finds by them, also in modules of the user's."""
        found = {name: known[name] for name in names & known.keys()}
        self._note("names", sorted(found))
        for _, each in sorted(found.items()):
            self._take_around(each)
            if isinstance(each, ModuleType) and is_own(each.__name__) and id(each) not in self._modules:
                self._modules.add(id(each))
                self._around(names, vars(each))

    @_object.register
    def _code(self, value: CodeType) -> None:
        self.sha256.update(value.co_code)
        self._all("code", (value.co_consts, value.co_names, value.co_varnames, value.co_freevars))

    @_object.register
    def _method(self, value: MethodType) -> None:
        self._all("method", (value.__func__, value.__self__))

    @_object.register
    def _builtin(self, value: BuiltinFunctionType) -> None:
        self._note("builtin", value.__module__, value.__qualname__)

    @_object.register
    def _module(self, value: ModuleType) -> None:
        self._note("module", value.__name__)


def is_cached(value: Any, name: str) -> bool:
    """Whether an object has it from its other state, once somebody asked."""
    return isinstance(getattr(type(value), name, None), cached_property)


def is_of_body(name: str, value: Any) -> bool:
    """Whether the user has written it into a class."""
    return isinstance(value, CODE) or not (name.startswith(("__", "_abc_")) or isinstance(value, LAYOUT))


def content_of(cell: CellType) -> Any:
    """The content of a variable of the function around; None before it has one."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def version_of(module: str | None) -> str:
    """The version of a package that somebody else wrote. Those that the bits hang on anyway are told apart elsewhere."""
    package = (module or "").partition(".")[0]
    return "" if package in (*VALUES, "pipeline") else str(vars(sys.modules.get(package, sys)).get("__version__", ""))


def names_in(code: CodeType) -> set[str]:
    """Names that a function's body, or a function inside, refers to."""
    return set(code.co_names).union(*(names_in(inner) for inner in code.co_consts if isinstance(inner, CodeType)))
