"""States of strategies as arrays and JSON: nothing that runs when it is read.

A state is a tree of NamedTuples, tuples, lists, mappings, arrays, NumPy scalars, numbers, strings and None. JSON has its shape, with the
arrays by name; an array that stands in several places is kept once.
"""

from __future__ import annotations

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
        if is_named_tuple(type(tree)):
            fields = {name: self.flat(value) for name, value in zip(tree._fields, tree, strict=True)}
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
    """The tree that `Flattened.flat` was given. NamedTuples are of `tasks`, or of modules that are imported already.

    Raises ValueError for a NamedTuple of elsewhere, or one whose fields are not those of the present version.
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
            cls = named_tuple(name)
            if set(fields) != set(cls._fields):
                raise ValueError(f"{name} has the fields {', '.join(cls._fields)} here, and {', '.join(fields)} there")
            return cls(**{key: restored(value, arrays) for key, value in fields.items()})
    raise ValueError(f"{flat!r:.80} is no part of a state")


def named_tuple(name: str) -> Any:
    """The NamedTuple "module:Name". Raises ValueError for one that no state can be of."""
    module, _, qualname = name.partition(":")
    if module not in sys.modules and module.partition(".")[0] != "tasks":
        raise ValueError(f"{name} is not known here; import its module first")
    try:
        found: Any = sys.modules[module] if module in sys.modules else importlib.import_module(module)
        for part in qualname.split("."):
            found = vars(found)[part]
    except (ImportError, KeyError):
        raise ValueError(f"there is no {name} here") from None
    if not (isinstance(found, type) and is_named_tuple(found)):
        raise ValueError(f"{name} is no NamedTuple")
    return found


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether safetensors has that kind of numbers."""
    return dtype.kind in "biuf" and dtype.itemsize <= 8


def is_named_tuple(cls: type) -> bool:
    """Whether instances are NamedTuples."""
    return issubclass(cls, tuple) and any("_fields" in vars(base) for base in cls.__mro__)
