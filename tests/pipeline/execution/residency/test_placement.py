"""Rows stay where they are, unless that would leave some workers with much more to do than others."""

from __future__ import annotations

from itertools import pairwise

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Dataset, LogisticRegression
from pipeline.execution.residency.placement import PIECES, SLACK, SUBTREES, cut, pieces_by_holder, place
from tasks.reductions.tree import n_nodes

SIZES = st.lists(st.integers(0, 50), min_size=1, max_size=60)
HELD = st.lists(st.dictionaries(st.sampled_from("abcz"), st.integers(1, 9)), max_size=60)


@given(SIZES, st.lists(st.sampled_from("abc"), min_size=1, max_size=8), HELD)
@pytest.mark.long
def test_every_group_has_one_place(sizes: list[int], threads: list[str], held: list[dict[str, int]]) -> None:
    held = (held + [{}] * len(sizes))[: len(sizes)]
    shards = place(sizes, sorted(threads), held)
    assert sorted(number for numbers, _ in shards for number in numbers) == list(range(len(sizes)))
    assert all(numbers and list(numbers) == sorted(numbers) for numbers, _ in shards)
    assert len(shards) <= len(threads)
    assert all(worker in threads for _, worker in shards)


def test_rows_stay_where_they_are() -> None:
    held = [{"a": 8.0}, {"b": 8.0}] * 4
    shards = place([1.0] * 8, ["a", "b"], held)
    assert [(list(numbers), worker) for numbers, worker in shards] == [([0, 2, 4, 6], "a"), ([1, 3, 5, 7], "b")]
    four = place([1.0] * 8, ["a", "a", "b", "b"], held)
    assert [list(numbers) for numbers, _ in four] == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_scattered_rows_do_not_scatter_the_sums() -> None:
    """Rows move once, sums every round: of 256 groups held in turn, whole subtrees stay together."""
    shards = place([1.0] * 256, ["a", "b"], [{"a": 8.0}, {"b": 8.0}] * 128)
    assert sum(n_nodes(numbers, 256) for numbers, _ in shards) <= 2 * SUBTREES
    halves = place([1.0] * 256, ["a", "b"], [{"b": 8.0}] * 128 + [{"a": 8.0}] * 128)
    assert [(worker, n_nodes(numbers, 256)) for numbers, worker in halves] == [("b", 1), ("a", 1)]


def test_most_bytes_win() -> None:
    shards = place([1.0, 1.0], ["a", "b"], [{"a": 1.0, "b": 9.0}, {"a": 9.0, "b": 1.0}])
    assert [(list(numbers), worker) for numbers, worker in shards] == [([0], "b"), ([1], "a")]


@given(st.lists(st.floats(0.5, 2.0), min_size=20, max_size=60))
@pytest.mark.long
def test_a_worker_that_holds_too_much_gives_some_away(sizes: list[float]) -> None:
    shards = place(sizes, ["a", "b", "b"], [{"a": 1.0}] * len(sizes))
    on_a = sum(sizes[number] for numbers, worker in shards for number in numbers if worker == "a")
    assert on_a <= SLACK * sum(sizes) / 3 + 16 * max(sizes)  # a subtree goes or stays as a whole


@given(st.integers(1, 300), st.integers(1, 20))
def test_runs_are_neighbours_of_about_equal_size(n: int, n_shards: int) -> None:
    runs = cut(range(n), [1] * n, n_shards)
    assert [number for run in runs for number in run] == list(range(n))
    assert len(runs) == min(n, n_shards)
    assert max(map(len, runs)) <= 1.15 * n / n_shards + 1


def test_cuts_fall_on_large_subtrees() -> None:
    assert [run[0] for run in cut(range(257), [1] * 257, 4)] == [0, 64, 128, 192]


def test_what_needs_no_neighbours_goes_to_its_holders_in_pieces() -> None:
    held = [{"a": 1.0}, {"b": 2.0, "a": 1.0}, {}, {"b": 1.0}] * 100
    pieces = pieces_by_holder(held, 2)
    assert sorted(number for piece in pieces for number in piece) == list(range(400))
    assert pieces == sorted(pieces)
    for piece in pieces:
        assert len({max(held[number], key=held[number].__getitem__, default="") for number in piece}) == 1
    assert 1.9 * PIECES < len(pieces) <= 2 * PIECES + 3
    assert pieces_by_holder([{"a": 1.0}] * 3, 100) == [(0,), (1,), (2,)]


def received(client: Client) -> int:
    """Bytes that workers have fetched from each other."""
    return sum(client.run(lambda dask_worker: sum(entry["total"] for entry in dask_worker.transfer_incoming_log)).values())


@pytest.mark.parametrize("owners", [(0, 1) * 4, (0, 0, 0, 1, 1, 0, 1, 1)], ids=["in turn", "in disorder"])
def test_persisted_rows_do_not_move(client: Client, owners: tuple[int, ...]) -> None:
    workers = sorted(client.scheduler_info()["workers"])
    rows = [np.random.default_rng(i).normal(size=(2000, 5)) for i in range(8)]
    futures = [client.submit(np.array, X, key=f"rows-{i}", workers=workers[owners[i]]) for i, X in enumerate(rows)]
    X = da.concatenate([da.from_delayed(future, (2000, 5), float) for future in futures])
    y = (X[:, 0] + X[:, 1] > 0).persist()
    before = received(client)
    model = LogisticRegression().fit(X, y)
    assert received(client) - before < 2000 * 5 * 8
    whole = np.concatenate(rows)
    here = Dataset.from_arrays(whole, whole[:, 0] + whole[:, 1] > 0, partition_rows=[2000] * 8)
    with dask.config.set(scheduler="threads"):
        assert LogisticRegression().fit(here).parameters_sha256_ == model.parameters_sha256_


def test_neighbours_go_together_where_nobody_holds_them() -> None:
    shards = place([1.0] * 16, ["a", "b"], [{}] * 16)
    assert all(b - a == 1 for numbers, _ in shards for a, b in pairwise(numbers))


@pytest.mark.long
def test_a_fit_straight_after_persist(client: Client) -> None:
    for seed in range(10):
        X = da.random.RandomState(seed).normal(size=(20_000, 5), chunks=(2_000, 5)).persist()
        y = (X[:, 0] > 0).astype(int).persist()
        model = LogisticRegression().fit(X, y)
        rows = Dataset.from_arrays(X.compute(), y.compute(), partition_rows=[2_000] * 10)
        with dask.config.set(scheduler="threads"):
            here = LogisticRegression().fit(rows)
        assert model.parameters_sha256_ == here.parameters_sha256_
