"""Memory used again: never while anybody can still see it, and within bounds."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.machine import buffers
from tasks.objectives.base import Sums, add_sums
from tasks.reductions.tree import Tree

SIZES = [(1, 20_000), (2, 10_000), (130, 130)]  # the first two share their memory


@pytest.fixture(autouse=True)
def nothing_idle() -> Iterator[None]:
    buffers._idle.clear()
    yield
    buffers._idle.clear()


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def idle_bytes() -> int:
    return sum(size * len(memories) for size, memories in buffers._idle.items())


def test_memory_is_used_again_when_the_last_view_is_gone() -> None:
    array = buffers.empty((300, 100), "float32")
    assert array.shape == (300, 100)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
    at, view = address(array), array.reshape(-1)[5:].T
    del array
    assert idle_bytes() == 0
    other = buffers.empty((300, 100), "float32")
    assert not np.shares_memory(other, view)
    del view
    assert idle_bytes() == 120_000
    again = buffers.empty((150, 100), "float64")  # as many bytes
    assert address(again) == at
    assert again.dtype == np.float64
    assert idle_bytes() == 0


def test_small_and_huge_arrays_are_ordinary() -> None:
    for shape in ((0, 5), (3, 4), (buffers.LIMIT // 8 + 1,)):
        array = buffers.empty(shape, np.float64)
        assert array.shape == shape
        assert array.base is None


def test_what_lies_idle_is_bounded_and_gives_way_to_other_sizes() -> None:
    many = [buffers.empty((1 << 20,), np.float64) for _ in range(12)]
    assert len({address(array) for array in many}) == 12
    many.clear()
    assert idle_bytes() == buffers.LIMIT
    other = buffers.empty((1 << 21,), np.float64)
    del other
    assert list(buffers._idle) == [1 << 24]


def test_copies_are_ordinary_and_survive() -> None:
    array = buffers.empty((20_000,), np.float64)
    array[:] = 3.0
    copies = [pickle.loads(pickle.dumps(array)), copy.deepcopy(array), pickle.loads(pickle.dumps(array, protocol=5))]
    del array
    buffers.empty((20_000,), np.float64)[:] = 0.0
    assert all(np.all(c == 3.0) for c in copies)


@given(st.lists(st.tuples(st.sampled_from(["new", "view", "drop", "add"]), st.integers(0, 99), st.sampled_from(SIZES)), max_size=60))
def test_live_arrays_never_share_memory(steps: list[tuple[str, int, tuple[int, int]]]) -> None:
    """Every array, and every view that outlives its array, keeps the number that was written to it."""
    live: list[tuple[Any, float]] = []
    for number, (step, index, shape) in enumerate(steps):
        if step == "new" or not live:
            array = buffers.empty(shape, np.float64)
            array[...] = number
            live.append((array, number))
            continue
        array, value = live[index % len(live)]
        if step == "view":
            live[index % len(live)] = (array[..., : 1 + array.shape[-1] // 2], value)
        elif step == "drop":
            live.pop(index % len(live))
        else:
            array += 1.0  # in place, as sums along the tree
            live = [(a, v + 1.0 if np.shares_memory(a, array) else v) for a, v in live]
    for array, value in live:
        assert np.all(array == value)


@pytest.mark.long
def test_reductions_on_many_threads_are_those_of_fresh_memory() -> None:
    def leaf(seed: int, empty: Any) -> Sums:
        values = np.random.default_rng(seed).normal(size=(2, 10_000))
        gradient = empty(values.shape, np.float64)
        np.multiply(values, 3.0, out=gradient)
        return Sums(values.sum(axis=1), np.ones(len(values)), gradient)

    def reduce(seed: int, empty: Any) -> tuple[bytes, bytes]:
        random = np.random.default_rng(seed)
        n = int(random.integers(1, 24))
        tree = Tree(n, add_sums)
        for index in random.permutation(n).tolist():
            tree.add((0, index), leaf(100 * seed + index, empty))
        total: Sums = tree.result()
        return total.gradient_sum.tobytes(), total.loss_sum.tobytes()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda seed: reduce(seed, buffers.empty), range(100)))
    finally:
        sys.setswitchinterval(interval)
    assert found == [reduce(seed, np.empty) for seed in range(100)]
    assert 0 < idle_bytes() < 100 * 160_000  # memory was used again


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_start_without_idle_memory() -> None:
    program = """
import os
import numpy as np
from tasks.machine import buffers

buffers.empty((100_000,), np.float64)
child = os.fork()
if child == 0:
    os._exit(len(buffers._idle))
assert len(buffers._idle) == 1
assert os.waitpid(child, 0)[1] == 0
last = buffers.empty((100_000,), np.float64)  # dies with the process, silently
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
