"""Arrays and text in one file of the safetensors format, with a digest of all: nothing that runs when it is read."""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from pipeline.files.whole import write_beside
from tasks import __version__
from tasks.typing import Array

NUMBERS: Final = ("I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "F16", "F32", "F64")
DTYPES: Final = {"b1": "BOOL"} | {f"{name[0].lower()}{int(name[1:]) // 8}": name for name in NUMBERS}
"""Names of the format's dtypes by NumPy's."""
ALIGNMENT: Final = 8
"""The bytes to whose multiples arrays are aligned, for they begin at multiples of the size of their numbers."""


class Kind(NamedTuple):
    """A kind of file: `format` and `version` stand in it, `words` in messages, "model" say. Files of other versions are refused."""

    format: str
    words: str
    version: str


class Digests:
    """SHA-256 of arrays, for files that share them: one that was in the file before, the same object, is not read again, and must not have
    changed."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Array], str]] = {}

    def of(self, arrays: Mapping[str, Array]) -> dict[str, str]:
        """The digests of the arrays, by name."""
        self._known = known = {id(array): self._entry(array) for array in arrays.values()}
        return {name: known[id(array)][1] for name, array in arrays.items()}

    def _entry(self, array: Array) -> tuple[weakref.ref[Array], str]:
        known = self._known.get(id(array))
        if known is not None and known[0]() is array:
            return known
        return weakref.ref(array), hashlib.sha256(as_bytes(array)).hexdigest()


def write_tensors(
    path: Path,
    kind: Kind,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
    digests: Digests | None = None,
    spare: Path | None = None,
) -> None:
    """Write arrays of numbers and booleans, and text, to `path`, whole or not at all; `metadata` gets format, format_version, version (of
    the library), and sha256 of everything else. digests: of a series of files; spare: a file to write over. Raises OSError, naming the
    path, ValueError for text that is no Unicode."""
    tensors = dict(sorted(((name, as_tensor(array)) for name, array in arrays.items()), key=lambda item: (-item[1].itemsize, item[0])))
    text = {"format": kind.format, "format_version": kind.version, "version": __version__, **metadata}
    text["sha256"] = content_digest(tensors, text, digests or Digests())
    begin = header(tensors, text)
    size = len(begin) + sum(array.nbytes for array in tensors.values())
    with write_beside(path, spare, size) as beside, os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
        file.write(begin)
        for array in tensors.values():
            file.write(as_bytes(array))
        file.truncate()


def read_tensors(path: Path, kind: Kind) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays, in memory of their own, and the metadata.

    Raises FileNotFoundError when there is no such file, PermissionError for one that may not be read, ValueError for one that is damaged,
    of another make, or of another format version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {kind.words} {path}")
    path.open("rb").close()  # raises PermissionError, where safetensors would say that there is no file
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: np.array(file.get_tensor(name), order="C") for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from error
    if metadata.get("format") != kind.format:
        raise ValueError(f"{path} is a safetensors file, but no {kind.words} that dask-descent wrote")
    if metadata.get("format_version") != kind.version:
        found = metadata.get("format_version")
        raise ValueError(
            f"{path} has format version {found}, this dask-descent reads {kind.version}; read it with the version that wrote it"
        )
    if metadata.pop("sha256", None) != content_digest(arrays, metadata, Digests()):
        raise ValueError(f"{path} is damaged: its content is not what its SHA-256 says")
    return arrays, metadata


def header(arrays: Mapping[str, Array], text: Mapping[str, str]) -> bytes:
    """The header that a safetensors file begins with: its own length, and JSON of the text and of each array's dtype, shape and place in
    the bytes that follow. (The package's own writer copies every array first.)"""
    entries: dict[str, Any] = {"__metadata__": dict(text)}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        entries[name] = {"dtype": DTYPES[array.dtype.kind + str(array.itemsize)], "shape": array.shape, "data_offsets": [start, end]}
    encoded = json.dumps(entries, ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    return len(encoded).to_bytes(8, "little") + encoded


def as_bytes(array: Array) -> memoryview:
    """The memory of an array."""
    return array.reshape(-1).view(np.uint8).data


def as_tensor(values: Any) -> Array:
    """The values as a C-ordered, little-endian array: safetensors writes the memory of any other array as if it were one. Copied only where
    it is not."""
    array = np.asarray(values, order="C")
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def content_digest(arrays: Mapping[str, Array], metadata: Mapping[str, str], digests: Digests) -> str:
    """SHA-256 over names, dtypes, shapes and digests of the arrays, and the metadata."""
    found = digests.of(arrays)
    entries = [[name, arrays[name].dtype.str, arrays[name].shape, found[name]] for name in sorted(arrays)]
    return hashlib.sha256(json.dumps([entries, metadata], sort_keys=True).encode()).hexdigest()
