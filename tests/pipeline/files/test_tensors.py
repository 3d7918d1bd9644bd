"""Files of arrays and text, as the safetensors package reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from pipeline.files.tensors import DTYPES, Kind, read_tensors, write_tensors
from tasks.typing import Array

KIND = Kind("dask-descent test", "test", version="1")
STRANGE = 'ä ☃ 😀 \u2028 \x00 \x7f " \\ \n'


def of_every_make(dtype: np.dtype[np.generic]) -> dict[str, Array]:
    values = np.arange(24).astype(dtype)
    return {
        "plain": values,
        "none": values[:0].reshape(0, 3),
        "scalar": values[5].reshape(()),
        "three axes": values.reshape(2, 3, 4),
        "columns first": np.asfortranarray(values.reshape(4, 6)),
        "reversed": values[::-3],
        "one of many": values[::24],
        "repeated": np.broadcast_to(values[1:2], (5,)),
        "big-endian": values.astype(dtype.newbyteorder(">")),
    }


@pytest.mark.parametrize("name", DTYPES)
def test_arrays_are_what_the_package_reads(name: str, tmp_path: Path) -> None:
    arrays = of_every_make(np.dtype(name))
    write_tensors(tmp_path / "file", KIND, arrays, {})
    for read in (load_file(tmp_path / "file"), read_tensors(tmp_path / "file", KIND)[0]):
        assert read.keys() == arrays.keys()
        for made, array in arrays.items():
            assert read[made].dtype == np.dtype(name)
            assert read[made].shape == array.shape
            np.testing.assert_array_equal(read[made], array)


def test_arrays_of_all_dtypes_are_aligned(tmp_path: Path) -> None:
    """By three of each: those of wider numbers come first."""
    write_tensors(tmp_path / "file", KIND, {name: np.ones(3, name) for name in DTYPES}, {"text": STRANGE})
    content = (tmp_path / "file").read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:begin])
    assert content[8:9] == b"{"
    assert all((begin + entries[name]["data_offsets"][0]) % np.dtype(name).itemsize == 0 for name in DTYPES)


def test_text_and_names_are_any_unicode(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", KIND, {STRANGE: np.arange(3), "": np.ones(1)}, {STRANGE: STRANGE, "": ""})
    with safe_open(tmp_path / "file", framework="numpy") as file:
        assert set(file.keys()) == {STRANGE, ""}
        assert file.metadata()[STRANGE] == STRANGE
    assert read_tensors(tmp_path / "file", KIND)[1][STRANGE] == STRANGE


@pytest.mark.parametrize(("arrays", "text"), [({"\ud800": np.ones(1)}, {}), ({}, {"text": "\udcff"})])
def test_what_is_no_unicode_is_not_written(arrays: dict[str, Array], text: dict[str, str], tmp_path: Path) -> None:
    """No reader of the format would take it."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        write_tensors(tmp_path / "file", KIND, arrays, text)
    assert list(tmp_path.iterdir()) == []
