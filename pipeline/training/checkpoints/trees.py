"""States of strategies as arrays and JSON: nothing that runs when it is read.

A state is a tree of NamedTuples, frozen dataclasses, tuples, lists, mappings, arrays, NumPy scalars, numbers, strings and None. JSON has
its shape, with the arrays by name; an array that stands in several places is kept once.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.typing import Array


class Flattened:
    """Trees as JSON, and their arrays by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self._names: dict[int, str] = {}

    def flat(self, tree: Any) -> Any:
        """A tree's JSON. Raises TypeError for what a checkpoint cannot hold."""
        if tree is None or isinstance(tree, bool | str):
            return tree
        if type(tree) is np.ndarray and is_plain(tree.dtype):
            return {"array": self._name(tree)}
        if isinstance(tree, np.generic) and is_plain(tree.dtype):
            return {"scalar": tree.dtype.str, "value": self.flat(tree.item())}
        if isinstance(tree, float):
            return tree if np.isfinite(tree) else {"float": repr(tree)}
        if isinstance(tree, int):
            return int(tree)
        if isinstance(tree, list):
            return [self.flat(each) for each in tree]
        if isinstance(tree, Mapping):
            return {"mapping": [[self.flat(key), self.flat(value)] for key, value in tree.items()]}
        names = fields_of(type(tree))
        if names is not None:
            fields = {name: self.flat(getattr(tree, name)) for name in names}
            return {"type": f"{type(tree).__module__}:{type(tree).__qualname__}", "fields": fields}
        if isinstance(tree, tuple):
            return {"tuple": [self.flat(each) for each in tree]}
        raise TypeError(
            f"a checkpoint cannot hold {type(tree).__name__} {tree!r:.80}; a strategy's state must be a NamedTuple of numpy.ndarray of"
            " booleans, integers and floats of at most 8 bytes, numbers, strings, None, and tuples, lists and mappings of them"
        )

    def _name(self, array: Array) -> str:
        name = self._names.setdefault(id(array), f"{len(self._names):04d}")
        self.arrays[name] = array
        return name


def restored(flat: Any, arrays: Mapping[str, Array]) -> Any:
    """The tree that `Flattened.flat` was given. Types are of `tasks`, or of modules that are imported already.

    Raises ValueError for a type of elsewhere, or one whose fields are not those of the present version.
    """
    if isinstance(flat, list):
        return [restored(each, arrays) for each in flat]
    if not isinstance(flat, dict):
        return flat
    match flat:
        case {"array": name}:
            return arrays[name]
        case {"scalar": dtype, "value": value}:
            return np.dtype(dtype).type(restored(value, arrays))
        case {"float": text}:
            return float(text)
        case {"mapping": items}:
            return {restored(key, arrays): restored(value, arrays) for key, value in items}
        case {"tuple": items}:
            return tuple(restored(each, arrays) for each in items)
        case {"type": name, "fields": fields}:
            cls = known_type(name)
            names = fields_of(cls) or ()
            if set(fields) != set(names):
                raise ValueError(f"{name} has the fields {', '.join(names)} here, and {', '.join(fields)} there")
            return cls(**{key: restored(value, arrays) for key, value in fields.items()})
    raise ValueError(f"{flat!r:.80} is no part of a state")


def known_type(name: str) -> Any:
    """The NamedTuple or frozen dataclass "module:Name". Raises ValueError for a type that no state can be of."""
    module, _, qualname = name.partition(":")
    if module not in sys.modules and module.partition(".")[0] != "tasks":
        raise ValueError(f"{name} is not known here; import its module first")
    try:
        found: Any = sys.modules[module] if module in sys.modules else importlib.import_module(module)
        for part in qualname.split("."):
            found = vars(found)[part]
    except (ImportError, KeyError):
        raise ValueError(f"there is no {name} here") from None
    if not isinstance(found, type) or fields_of(found) is None:
        raise ValueError(f"{name} is no NamedTuple, nor a frozen dataclass")
    return found


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether safetensors has that kind of numbers."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def fields_of(cls: Any) -> tuple[str, ...] | None:
    """The names of the fields of a NamedTuple or a frozen dataclass of `tasks`; None for what is neither."""
    if issubclass(cls, tuple):
        return next((vars(base)["_fields"] for base in cls.__mro__ if "_fields" in vars(base)), None)
    if dataclasses.is_dataclass(cls) and cls.__module__.startswith("tasks.") and vars(cls)["__dataclass_params__"].frozen:
        return tuple(field.name for field in dataclasses.fields(cls) if field.init)
    return None
