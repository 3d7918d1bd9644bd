"""Where rows are to live: names of devices, groups that go there and travel by way of the host, and what is refused."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import array_api_strict
import numpy as np
import pytest
import scipy.sparse as sp

from tasks.loading import residence
from tasks.loading.blocks import BlockSpec, make_block
from tasks.loading.residence import at_home, example, home_of, require_device, require_home
from tasks.machine.namespaces import beside, device_of, is_elsewhere, on_host
from tasks.reductions.memory import OutOfMemoryError
from tasks.rows.digests import partition_digests
from tasks.rows.partition import Group, join_groups, nbytes

DEVICE = "array_api_strict:device1"
X = np.random.default_rng(0).normal(size=(30, 4))


def group(rows: Any = X, home: str | None = DEVICE) -> Group:
    return Group(rows, np.arange(rows.shape[0]) % 2, None, np.array([0, 20, rows.shape[0]]), 7, home=home)


def test_a_group_goes_home_once_with_the_digests_of_what_was_read() -> None:
    own, here = group(), group(home=None)
    at_home([own, here])
    assert device_of(own.X) == array_api_strict.Device("device1")
    assert here.X is X
    there = own.X
    at_home([own])
    assert own.X is there
    np.testing.assert_array_equal(on_host(own.X), X)
    np.testing.assert_array_equal(partition_digests(own), partition_digests(here))
    assert nbytes(own.X) == nbytes(X)


def test_what_was_derived_here_is_made_anew_there() -> None:
    own = group()
    assert own.derived("where", lambda g: is_elsewhere(g.X)) is False
    at_home([own])
    assert own.derived("where", lambda g: is_elsewhere(g.X)) is True


def test_a_group_travels_by_way_of_the_host() -> None:
    own = group()
    at_home([own])
    arrived = pickle.loads(pickle.dumps(own, protocol=5))
    assert isinstance(arrived.X, np.ndarray)
    np.testing.assert_array_equal(arrived.X, X)
    at_home([arrived])
    assert home_of(arrived.X) == arrived.home == DEVICE


def test_neighbours_on_a_device_join_there() -> None:
    parts = [group(X[:12]), group(X[12:])]
    at_home(parts)
    joined = join_groups(*parts)
    assert (home_of(joined.X), joined.home) == (DEVICE, DEVICE)
    np.testing.assert_array_equal(on_host(joined.X), X)


def test_blocks_remember_where_they_come_from() -> None:
    there = beside(example(DEVICE), X.astype(np.float32))
    y, weight = (beside(example(DEVICE), each) for each in (np.arange(30), np.ones(30)))
    block = make_block(None, BlockSpec("float32"), there, y, weight)
    assert block.home == home_of(there) == DEVICE
    for found, expected in ((block.X, X.astype(np.float32)), (block.y, np.arange(30)), (block.sample_weight, np.ones(30))):
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, expected)
    assert make_block(None, BlockSpec("float64"), X.tolist()).home is None


@pytest.mark.parametrize("device", ["", "cuda 0", "torch:", ":cpu", "numpy:cpu"])
def test_names_that_are_none(device: str) -> None:
    with pytest.raises(ValueError, match=r"names none; use None, 'cuda' \(CuPy\), 'numpy' \(the host\), or a library"):
        require_device(device)


def test_a_device_is_a_name() -> None:
    with pytest.raises(TypeError, match=r"device must be None or a name, 'cuda' say, got Device"):
        require_device(type("Device", (), {"__repr__": lambda self: "Device"})())


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    example.cache_clear()
    with pytest.raises(ValueError, match=r"device='cuda' needs cupy, which cannot be imported where the rows are to live .*gpu13"):
        require_home(group(home="cuda"))


@pytest.mark.parametrize("name", ["array_api_strict:device7", "array_api_strict:no_float64"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(ValueError, match=rf"there is no device='{name}' with numbers of 64 bits where the rows are to live"):
        require_home(group(home=name))


def test_sparse_rows_are_refused() -> None:
    for refuse in (require_home, lambda each: at_home([each])):
        with pytest.raises(ValueError, match=rf"partition 7: X is sparse, .* it dense \(X\.toarray\(\)\), or leave device='{DEVICE}' out"):
            refuse(group(sp.csr_array(X)))


@pytest.mark.parametrize("kind", [MemoryError, type("OutOfMemoryError", (RuntimeError,), {})])
@pytest.mark.parametrize("free", [None, 480])
def test_rows_that_do_not_fit(kind: Any, free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise kind("no room")

    monkeypatch.setattr(residence, "beside", full)
    monkeypatch.setattr(residence, "free_bytes", lambda there: free)
    said = r"X of partitions 7 to 8 \(30 rows, 0\.00096 MB\) does not fit on device=.*: no room; "
    with pytest.raises(OutOfMemoryError, match=said) as raised:
        at_home([group()])
    fitting = "fewer or shorter partitions" if free is None else "0.00048 MB are free there, so about 15 of their rows would fit"
    assert fitting in str(raised.value)


def test_other_errors_on_the_way_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(residence, "beside", broken)
    with pytest.raises(ZeroDivisionError):
        at_home([group()])
