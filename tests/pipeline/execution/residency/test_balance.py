"""Pieces go to who is fast, and stay where they are otherwise."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.execution.residency.balance import FEWEST, GAIN, LEAST, SIMILAR, Room, Speeds, balanced, settled
from pipeline.execution.residency.placement import PIECES, pieces
from tasks.reductions.tree import n_nodes

SPEEDS = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=6)


def ends(assigned: list[list[int]], sizes: list[float], speeds: list[float]) -> float:
    return max(sum(sizes[p] for p in run) / speed for run, speed in zip(assigned, speeds, strict=True))


def rebalanced(assigned: list[list[int]], sizes: list[float], speeds: list[float]) -> list[list[int]]:
    """A worker for each thread, and no limits of memory."""
    return balanced(assigned, sizes, speeds, Room([str(i) for i in range(len(speeds))], [1.0] * len(sizes), {}))


def equal(n_threads: int, each: int = 8) -> list[list[int]]:
    return [list(range(i * each, (i + 1) * each)) for i in range(n_threads)]


def test_one_of_four_is_four_times_slower() -> None:
    speeds = [0.25, 1.0, 1.0, 1.0]
    found = rebalanced(equal(4), [1.0] * 32, speeds)
    assert len(found[0]) in (2, 3)
    assert 32 / ends(found, [1.0] * 32, speeds) >= 0.95 * sum(speeds)


@given(SPEEDS, st.data())
def test_every_piece_stays_and_no_round_gets_longer(speeds: list[float], data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.floats(0.5, 2.0), min_size=len(speeds), max_size=40))
    where = data.draw(st.lists(st.integers(0, len(speeds) - 1), min_size=len(sizes), max_size=len(sizes)))
    assigned = [[p for p, i in enumerate(where) if i == thread] for thread in range(len(speeds))]
    found = rebalanced(assigned, sizes, speeds)
    assert sorted(chain.from_iterable(found)) == list(range(len(sizes)))
    if found != assigned:
        assert ends(found, sizes, speeds) * GAIN <= ends(assigned, sizes, speeds) * (SIMILAR + 1e-9)
        smallest = max(sizes) / min(speeds)
        assert ends(found, sizes, speeds) <= SIMILAR * (sum(sizes) / sum(speeds) + smallest)


def test_what_moves_stays_together() -> None:
    """Of runs come few sums: 11 of 16 pieces leave the slow thread, in one run for each of the others."""
    found = rebalanced(equal(4, 16), [1.0] * 64, [0.25, 1.0, 1.0, 1.0])
    assert len(found[0]) in (4, 5)
    assert sum(b - a > 1 for run in found for a, b in pairwise(run)) <= 3
    assert 64 / ends(found, [1.0] * 64, [0.25, 1.0, 1.0, 1.0]) >= 0.95 * 3.25


def test_small_differences_move_nothing() -> None:
    assert rebalanced(equal(3), [1.0] * 24, [1.0, 0.95, 1.05]) == equal(3)


def test_who_joins_gets_a_share() -> None:
    assert [len(run) for run in rebalanced([*equal(3), []], [1.0] * 24, [1.0] * 4)] == [6, 6, 6, 6]


def test_what_stands_still_loses_everything() -> None:
    found = rebalanced(equal(2), [1.0] * 16, [1e-3, 1.0])
    assert found == [[], list(range(16))]


def test_speeds_are_medians_of_rounds() -> None:
    speeds = Speeds()
    for slow in (4.0, 4.0, 40.0):  # one hiccup does not count
        assert not speeds.known(["a", "b"])
        speeds.add(["a", "b"], [8.0, 8.0], [slow, 1.0])
    assert speeds.known(["a", "b"])
    assert speeds.of("b") / speeds.of("a") == pytest.approx(4.0)
    assert speeds.lost == pytest.approx(sum(slow - 16 / (8 / slow + 8) for slow in (4.0, 4.0, 40.0)))
    speeds.moved(["a", "b"])
    assert speeds.lost == 0
    assert speeds.of("b") / speeds.of("a") == pytest.approx(4.0)
    assert speeds.of("a") < speeds.of("new") < speeds.of("b")
    for _ in range(FEWEST):
        speeds.add(["a", "b"], [8.0, 8.0], [1.0, 1.0])
    assert speeds.of("a") == speeds.of("b") == 1.0


def test_a_round_is_one_observation_however_many_threads() -> None:
    speeds = Speeds()
    speeds.add(["a"] * 4 + ["b"] * 2, [8.0] * 6, [2.0] * 4 + [1.0] * 2)
    assert not speeds.known(["a", "b"])
    for _ in range(FEWEST - 1):
        speeds.add(["a"] * 4 + ["b"] * 2, [8.0] * 6, [2.0] * 4 + [1.0] * 2)
    assert speeds.of("b") / speeds.of("a") == pytest.approx(2.0)


def test_memory_is_a_limit() -> None:
    """The fast worker has room for two more pieces, and the slow one cannot get rid of more."""
    found = balanced(equal(2), [1.0] * 16, [0.1, 1.0], Room(["a", "b"], [10.0] * 16, {"b": 100.0}))
    assert [len(run) for run in found] == [6, 10]
    assert balanced(equal(2), [1.0] * 16, [0.1, 1.0], Room(["a", "b"], [10.0] * 16, {"b": 50.0})) == equal(2)
    within = balanced([list(range(8)), []], [1.0] * 8, [1.0, 1.0], Room(["a", "a"], [10.0] * 8, {"a": 1.0}))
    assert [len(run) for run in within] == [4, 4]  # between threads of one worker nothing is held twice


def test_rounds_that_say_nothing() -> None:
    speeds = Speeds()
    speeds.add(["a", "b"], [0.0, 8.0], [1e-6, 1.0])
    speeds.add(["a", "b"], [8.0, 8.0], [0.0, 1.0])
    for _ in range(FEWEST):
        speeds.add(["a", "b"], [8.0, 8.0], [0.5 * LEAST, 0.9 * LEAST])
    assert not speeds.known(["b"])
    assert speeds.lost == 0


def test_pieces_stay_with_who_holds_them() -> None:
    holders = [["a"], ["b"], ["c"], ["b", "a"]]
    assert settled([[0, 1], [2, 3]], ["a", "b"], [*holders[:2], ["b"], ["b"]], [1.0] * 4) == ([[0], [1, 2, 3]], True)
    assert settled([[0, 1], [2, 3]], ["a", "b"], holders, [1.0] * 4)[1] is False  # c is gone
    assert settled([[0, 1], [2, 3]], ["a", "b"], [["a"], [], ["b"], ["b"]], [1.0] * 4) == ([[0, 1], [2, 3]], False)
    shared = settled([[0, 1, 2, 3], [], []], ["a", "b", "b"], [["b"]] * 4, [1.0] * 4)
    assert shared == ([[], [0, 2], [1, 3]], True)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=80), st.lists(st.sampled_from("abc"), min_size=1, max_size=6))
def test_every_group_is_in_one_piece(sizes: list[int], workers: list[str]) -> None:
    threads = sorted(workers)
    numbers, homes = pieces(sizes, threads, [{}] * len(sizes))
    assert sorted(chain.from_iterable(numbers)) == list(range(len(sizes)))
    assert len(set(homes)) == min(len(threads), len(sizes))
    assert len(numbers) <= PIECES * len(threads)
    assert all(n_nodes(run, len(sizes)) == 1 for run in numbers)
