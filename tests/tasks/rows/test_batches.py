"""Which rows a mini-batch has: every row once an epoch, in an order of its own, or drawn by importance."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from weakref import ref

import array_api_strict
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses import LOSSES
from tasks.reductions.reduction import NodeSums, merge_sums, reduce_groups, subtrees
from tasks.rounds import oracles
from tasks.rounds.oracles import Broadcast, reduction_of
from tasks.rows import batches, gathering
from tasks.rows.batches import HELD_OUT, ROWS_A_SUBTREE, SUBTREE_BYTES, TRAINING, Batch, Sampling, draw_ahead, select, subtree_level, turns
from tasks.rows.partition import Group

Float64 = NDArray[np.float64]
DRAWS_OF = batches.draws_of


def numbered(sizes: Sequence[int], weighted: bool = False, convert: Any = np.asarray) -> list[Group]:
    """Groups whose targets are the numbers of their rows in all, of 3 columns."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    groups = []
    for number, (start, stop) in enumerate(pairwise(starts.tolist())):
        rows = np.arange(start, stop)
        X = np.where(np.arange(3) == rows[:, None] % 3, 1.0 + rows[:, None], 0.0)
        weight = 0.5 + rows if weighted else None
        groups.append(Group(convert(X), rows, weight, np.array([0, stop - start]), 2 * number))
    return groups


def drawn(groups: list[Group], sampling: Sampling, epoch: int = 0) -> list[list[int]]:
    """The rows of each round."""
    return [
        [
            int(row)
            for _, subtree in subtrees(enumerate(groups), len(groups), sampling.level)
            for row in select(subtree, Batch(sampling, epoch, number)).y
        ]  # type: ignore[union-attr]
        for number in range(sampling.n_rounds)
    ]


def held_out(groups: list[Group], sampling: Sampling) -> list[int]:
    return [int(row) for group in groups for row in select([group], Batch(sampling, 0, HELD_OUT)).y]  # type: ignore[union-attr]


# -- every row once ----------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=9),
    st.integers(1, 40),
    st.integers(0, 4),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    st.integers(0, 5),
)
@pytest.mark.long
def test_an_epoch_has_every_training_row_once(
    sizes: list[int], n_rounds: int, level: int, shuffle: bool, fraction: float, epoch: int
) -> None:
    groups = numbered(sizes)
    sampling = Sampling(7, n_rounds, level, shuffle, fraction)
    rounds = drawn(groups, sampling, epoch)
    visited, rest = [row for rows in rounds for row in rows], held_out(groups, sampling)
    assert sorted(visited + rest) == list(range(sum(sizes)))
    assert bool(fraction) or not rest
    starts = np.cumsum([0, *sizes]).tolist()
    for start, stop in pairwise(starts):
        own = [[row for row in rows if start <= row < stop] for rows in rounds]
        share = sum(map(len, own)) / n_rounds
        assert all(share - 1 < len(rows) < share + 1 for rows in own)  # every group is drawn from in proportion
        in_order = [row for rows in own for row in rows]
        assert shuffle or in_order == sorted(in_order)


def test_rows_and_rounds_that_are_many() -> None:
    groups = numbered([100_003])
    rounds = drawn(groups, Sampling(0, 997))
    assert sorted(row for rows in rounds for row in rows) == list(range(100_003))
    assert {len(rows) for rows in rounds} == {100, 101}


@pytest.mark.parametrize("n_turns", [1, 2, 7, 37, 64])
def test_turns_that_follow_each_other_are_far_apart(n_turns: int) -> None:
    orders = {turns(Sampling(seed, 2, n_turns=n_turns)) for seed in range(20)}
    assert all(sorted(order) == list(range(n_turns)) for order in orders)
    assert len(orders) > min(n_turns - 1, 5)
    for order in orders if n_turns == 64 else ():
        for first in range(0, 64, 4):  # one for each of four workers
            assert sorted(number // 16 for number in order[first : first + 4]) == [0, 1, 2, 3]
    assert turns(Sampling(0, 2, n_turns=n_turns, shuffle=False)) == tuple(range(n_turns))


def test_small_groups_take_turns() -> None:
    """In each round about as many of the groups with a single row."""
    rounds = drawn(numbered([1] * 1000), Sampling(3, 10, level=4))
    assert sum(map(len, rounds)) == 1000
    assert all(abs(len(rows) - 100) < 4 * np.sqrt(1000 * 0.1 * 0.9) for rows in rounds)


def test_training_rows_are_those_not_held_out() -> None:
    for weighted in (False, True):
        groups = numbered([40, 1, 0, 60], weighted)
        sampling = Sampling(1, 5, validation_fraction=0.3)
        rest = held_out(groups, sampling)
        assert 20 < len(rest) < 40
        for group in groups:
            chosen = select([group], Batch(sampling, 3, TRAINING))
            out = np.isin(group.y, rest)  # type: ignore[arg-type]
            weight = np.ones(group.n_rows) if chosen.sample_weight is None else chosen.sample_weight
            before = np.ones(group.n_rows) if group.sample_weight is None else group.sample_weight
            np.testing.assert_array_equal(weight, np.where(out, 0.0, before))
            assert chosen.X is group.X
            scored = select([group], Batch(sampling, 3, HELD_OUT))
            if weighted:
                np.testing.assert_array_equal(scored.sample_weight, before[out])  # type: ignore[arg-type]
            np.testing.assert_array_equal(scored.X, np.asarray(group.X)[out])
    assert select(groups[:1], Batch(Sampling(1, 5), 0, TRAINING)) is groups[0]
    assert select([groups[0]], Batch(sampling, 0, HELD_OUT)) is select([groups[0]], Batch(sampling, 9, HELD_OUT))  # one copy


# -- orders ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("importance", ["uniform", "norm"])
def test_orders_depend_on_seed_epoch_and_group_alone(importance: Any) -> None:
    groups = numbered([50] * 5)
    sampling = Sampling(4, 6, validation_fraction=0.2, importance=importance)
    expected = drawn(groups, sampling, 2)
    drawn(groups, sampling, 3)  # another epoch in between
    assert drawn(groups, sampling, 2) == expected
    for level in (1, 2, 3):
        assert drawn(groups, sampling._replace(level=level), 2) == expected
    assert drawn(pickle.loads(pickle.dumps(groups)), sampling, 2) == expected
    alone = [[int(row) for row in select([groups[3]], Batch(sampling, 2, number)).y] for number in range(6)]  # type: ignore[union-attr]
    assert alone == [[row for row in rows if 150 <= row < 200] for rows in expected]
    for other in (drawn(groups, sampling, 1), drawn(groups, sampling._replace(seed=5), 2)):
        assert other != expected
    first, second = ([row - 50 * group for rows in expected for row in rows if row // 50 == group] for group in (0, 1))
    assert first != second


def test_what_other_samplings_drew_is_not_remembered() -> None:
    sampling = Sampling(4, 6, level=2)
    others = ({"n_rounds": 4}, {"shuffle": False}, {"importance": "norm"}, {"validation_fraction": 0.5}, {"seed": 5}, {"level": 0})
    groups = numbered([50] * 5)
    for changed in others:
        other = sampling._replace(**changed)  # type: ignore[arg-type]
        drawn(groups, sampling)
        assert drawn(groups, other) == drawn(numbered([50] * 5), other)


@pytest.mark.long
def test_every_order_is_as_likely() -> None:
    groups = numbered([5])
    first = [drawn(groups, Sampling(seed, 5), epoch)[0] for seed in range(20) for epoch in range(100)]
    counts = np.bincount([rows[0] for rows in first if rows], minlength=5)
    assert np.all(np.abs(counts - len(first) / 5) < 4 * np.sqrt(len(first) * 0.16))


def test_draws_stay_as_they_are() -> None:
    """Other values here would change everybody's fits."""
    assert drawn(numbered([4, 3]), Sampling(0, 3, validation_fraction=0.2), 1) == [[2, 4], [1, 5], [3, 6]]
    assert select(numbered([4]), Batch(Sampling(5, 2), 7, 1)).draw == (5, 7, 1, 0)


# -- what is kept ------------------------------------------------------------------------------------------------------------------


def test_fits_of_other_seeds_leave_nothing_behind() -> None:
    groups, kept = numbered([100, 60], weighted=True), []
    for seed in range(6):
        sampling = Sampling(seed, 4, 1, validation_fraction=0.1, importance="norm")
        drawn(groups, sampling)
        held_out(groups, sampling)
        for group in groups:
            select([group], Batch(sampling, 0, TRAINING))
        kept.append(sum(group.derived_nbytes for group in groups))
    assert 16 * (3 + 2) * 8 < kept[0] < kept[1]  # rows held out, at least: X, y and weight; two fits may take turns
    assert kept[1:] == [kept[1]] * 5


def test_nothing_is_kept_of_rows_where_none_are_held_out() -> None:
    (group,) = numbered([100])
    assert len(held_out([group], Sampling(0, 4))) == group.derived_nbytes == 0
    drawn([group], Sampling(0, 4))
    assert group.derived_nbytes == 100 * 8 + 4 * 2 * 8  # the order of this epoch, and of each of its rounds, where it begins and ends


def test_arrays_that_are_kept_count_once() -> None:
    (group,) = numbered([100])
    group.derived("shares", lambda whole: (whole.y, np.ones(3), (np.ones(2), "text")))
    assert group.derived_nbytes == 5 * 8
    sampling = Sampling(0, 4, shuffle=False, validation_fraction=0.5)
    drawn([group], sampling)
    before = group.derived_nbytes
    assert before == 5 * 8 + 100 * 8 + 50 * 8 + 4 * 2 * 8  # the split, the order of the 50, and where rounds begin and end
    select([group], Batch(sampling, 0, TRAINING))
    assert group.derived_nbytes == before + 100 * 8  # the weight: X and y are the group's own
    select([group], Batch(sampling, 0, HELD_OUT))
    assert group.derived_nbytes == before + 100 * 8 + 50 * 4 * 8 + 2 * 8  # copies of X and y, and offsets


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array], ids=["dense", "csr"])
def test_rows_drawn_ahead_count(convert: Any) -> None:
    (group,) = numbered([100], convert=convert)
    sampling = Sampling(0, 4)
    drawn([group], sampling)
    before = group.derived_nbytes
    draw_ahead([group], Batch(sampling, 0, 0))
    rows = 25 * 3 * 8 if convert is np.asarray else 25 * (8 + 8) + 26 * 8  # one value a row; scipy makes indices int64, as indptr is
    assert group.derived_nbytes == before + rows + 25 * 8 + 2 * 8


def test_two_fits_that_take_turns_draw_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Batch] = []
    monkeypatch.setattr(batches, "draws_of", lambda groups, batch: made.append(batch) or DRAWS_OF(groups, batch))
    (group,) = numbered([100])
    for number in range(4):
        for seed in (1, 2):
            select([group], Batch(Sampling(seed, 4), 0, number))
    assert len(made) == 2


def test_the_last_two_keys_of_a_name_are_kept() -> None:
    (group,), made = numbered([3]), []
    for key in (1, 2, 1, 3, 1, 2):
        assert group.keep_last_two("name", key, lambda _, key=key: made.append(key) or 10 * key) == 10 * key
    assert made == [1, 2, 3, 2]  # 2 was used least lately when 3 came


# -- gathering ---------------------------------------------------------------------------------------------------------------------


def as_csr64(X: Any) -> Any:
    found = sp.csr_array(X)
    found.indices, found.indptr = found.indices.astype(np.int64), found.indptr.astype(np.int64)
    return found


def dense(X: Any) -> Any:
    return X.toarray() if isinstance(X, sp.csr_array) else np.asarray(X)


@pytest.mark.parametrize(
    "convert", [np.float32, sp.csr_array, as_csr64, array_api_strict.asarray], ids=["dense", "csr", "csr64", "array api"]
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_rows_targets_and_weights_belong_together(convert: Any, weighted: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "WORTH_COMPILING", 0 if compiled else 1 << 40)
    groups = numbered([20, 0, 13, 1], weighted, convert)
    everything = np.concatenate([dense(group.X) for group in groups])
    for number in range(30):
        batch = select(groups, Batch(Sampling(0, 30, level=2), 0, number))
        assert batch.y is not None
        assert type(batch.X) is type(groups[0].X)
        assert batch.X.dtype == groups[0].X.dtype
        assert batch.X.shape == (len(batch.y), 3)
        np.testing.assert_array_equal(dense(batch.X), everything[batch.y])
        assert batch.offsets.tolist() == [0, len(batch.y)]
        if weighted:
            np.testing.assert_array_equal(batch.sample_weight, 0.5 + batch.y)  # type: ignore[arg-type]
        else:
            assert batch.sample_weight is None


@pytest.mark.parametrize("compiled", [False, True])
def test_targets_of_any_kind(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "WORTH_COMPILING", 0 if compiled else 1 << 40)
    for y in (np.array(list("abcdef")), np.array(list("abcdef"), object), np.arange(12.0).reshape(6, 2), np.arange(6) > 2, None):
        X = np.arange(6.0)[:, None]
        batch = select([Group(X, y, None, np.array([0, 6]), 0)], Batch(Sampling(0, 2), 0, 0))
        if y is None:
            assert batch.y is None
        else:
            np.testing.assert_array_equal(batch.y, y[batch.X[:, 0].astype(int)])  # type: ignore[index, union-attr, arg-type]


@pytest.mark.parametrize("convert", [np.array, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("compiled", [False, True])
def test_groups_of_unlike_columns_are_an_error(convert: Any, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is copied, which would be other memory than that of the rows."""
    monkeypatch.setattr(gathering, "WORTH_COMPILING", 0 if compiled else 1 << 40)
    monkeypatch.setattr(gathering, "copying", None)
    X, y = np.ones((4, 3)), [np.arange(4), np.arange(4.0)]  # of unlike dtypes, which are gathered
    groups = [Group(convert(X[:, : 3 - i]), y[i], None, np.array([0, 4]), i) for i in range(2)]
    for order in (groups, groups[::-1]):
        with pytest.raises(ValueError, match=r"must match exactly|columns"):
            gathering.gather(order, np.array([0, 3, 1]), np.array([0, 2, 3]))
    empty = [groups[0], Group(convert(X[:0, :1]), y[1][:0], None, np.array([0, 0]), 1)]
    monkeypatch.undo()
    found, _ = gathering.gather(empty, np.array([0, 3]), np.array([0, 2, 2]))
    assert found.shape == (2, 3)


@pytest.mark.parametrize("convert", [np.array, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("compiled", [False, True])
def test_groups_that_move_away_take_their_memory_along(convert: Any, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept on the first group of a subtree holds no rows of the others; others in their place are gathered from."""
    monkeypatch.setattr(gathering, "WORTH_COMPILING", 0 if compiled else 1 << 40)
    first, second, other = numbered([5, 4], convert=convert) + numbered([5, 8], convert=convert)[1:]
    rows, bounds = np.array([4, 1, 3, 0]), np.array([0, 2, 4])
    gathering.gather([first, second], rows, bounds)
    memory = ref(second.X)
    del second
    assert memory() is None
    other.X += other.X
    found, y = gathering.gather([first, other], rows, bounds)
    np.testing.assert_array_equal(dense(found), np.concatenate([dense(first.X)[rows[:2]], dense(other.X)[rows[2:]]]))
    np.testing.assert_array_equal(y, np.concatenate([first.y[rows[:2]], other.y[rows[2:]]]))


def test_arrays_of_unlike_dtypes_are_gathered() -> None:
    X = np.arange(4.0)[:, None]
    y = [np.array(["a", "bb", "c", "d"]), np.array(["long", "e", "f", "g"])]
    groups = [Group(X + 4 * i, y[i], None, np.array([0, 4]), i) for i in range(2)]
    found = [select(groups, Batch(Sampling(0, 2, level=1), 0, number)) for number in range(2)]
    assert sorted(label for batch in found for label in batch.y) == sorted(np.concatenate(y))  # type: ignore[union-attr]
    for batch in found:
        np.testing.assert_array_equal(batch.y, np.concatenate(y)[batch.X[:, 0].astype(int)])  # type: ignore[arg-type]


@pytest.mark.parametrize("convert", [np.float32, sp.csr_array], ids=["dense", "csr"])
@pytest.mark.parametrize("compiled", [False, True])
def test_subtrees_that_are_passed_over_at_once_have_the_sums_of_each(convert: Any, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, whatever is joined: on threads, and on a worker that has but some groups."""
    monkeypatch.setattr(gathering, "WORTH_COMPILING", 0 if compiled else 1 << 40)
    groups = numbered([20, 0, 13, 1, 40, 7, 9], True, convert)
    objective = LinearObjective(LOSSES["squared"], 3, 1, True)
    at = np.array([[0.3, -1.7, 0.1, 2.0]])
    for number in range(3):
        broadcast = Broadcast(objective, "loss_and_gradient", at, None, 1, batch=Batch(Sampling(5, 3), 1, number))
        joint = reduction_of(broadcast)
        alone = joint._replace(joint=None)
        held = list(enumerate(groups))[1:]
        (whole,) = reduce_groups(enumerate(groups), 7, alone, broadcast).values()
        assert sum(1 for _ in joint.parts(held, 7, broadcast)) == 3
        assert sum(1 for _ in joint.parts(list(enumerate(groups)), 7, broadcast, n_threads=2)) == 2
        parts = reduce_groups(held, 7, joint, broadcast) | reduce_groups([(0, groups[0])], 7, joint, broadcast)
        (found,) = merge_sums([NodeSums(parts, {})], 7, joint.combine).nodes.values()
        for left, right in zip(whole[:3], found[:3], strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("empty", [0, 3, 7])
def test_a_group_without_rows_does_not_say_how_many_are_joined(empty: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as of groups that all have rows, wherever the empty one is."""
    monkeypatch.setattr(oracles, "TOGETHER_BYTES", 10_000)  # three groups of 100 rows
    broadcast = Broadcast(LinearObjective(LOSSES["squared"], 3, 1, True), "loss_and_gradient", np.zeros((1, 4)), None, 1)
    broadcast = broadcast._replace(batch=Batch(Sampling(0, 1), 0, 0))
    sizes = [100 * (number != empty) for number in range(8)]
    for groups in (numbered([100] * 8), numbered(sizes)):
        parts = [group for _, group in reduction_of(broadcast).parts(list(enumerate(groups)), 8, broadcast)]
        assert [len(part) for part in parts] == [2] * 4


def test_rows_drawn_ahead_are_those_of_the_next_round() -> None:
    sampling = Sampling(0, 4, level=1)
    for number in range(4):
        ahead, fresh = numbered([30, 21], weighted=True), numbered([30, 21], weighted=True)
        draw_ahead(ahead, Batch(sampling, 2, number - 1) if number else Batch(sampling, 1, 3))
        kept = ahead[0].derived_nbytes
        for batch in (Batch(sampling, 2, number), Batch(sampling, 2, (number + 1) % 4)):  # the second was not prepared
            found, expected = select(ahead, batch), select(fresh, batch)
            assert np.array_equal(found.X, expected.X)
            assert np.array_equal(found.y, expected.y)
            assert np.array_equal(found.sample_weight, expected.sample_weight)
            assert found.draw == expected.draw
        assert not number or ahead[0].derived_nbytes < kept  # handed out once


def test_batches_without_rows() -> None:
    for convert in (np.asarray, sp.csr_array):
        for weighted in (False, True):
            batch = select(numbered([0, 0], weighted, convert), Batch(Sampling(0, 2, level=1, importance="norm"), 0, 0))
            assert batch.X.shape == (0, 3)
            assert batch.y is not None
            assert len(batch.y) == len(batch.sample_weight) == 0  # type: ignore[arg-type]


# -- importance --------------------------------------------------------------------------------------------------------------------


def unequal(n: int, weighted: bool, sparse: bool = False) -> Group:
    random = np.random.default_rng(5)
    X = random.normal(size=(n, 4)) * np.exp(random.normal(scale=2.0, size=n))[:, None]
    weight = np.where(random.random(n) < 0.2, 0.0, random.random(n)) if weighted else None
    return Group(sp.csr_array(X) if sparse else X, random.integers(0, 2, n), weight, np.array([0, n]), 0)


def probabilities(group: Group, rows: Any) -> Float64:
    """r_i by the definition."""
    size = np.linalg.norm(np.column_stack([dense(group.X)[rows], np.ones(len(rows))]), axis=1)
    if group.sample_weight is not None:
        size = size * group.sample_weight[rows]
    return np.asarray(0.5 / len(rows) + 0.5 * size / size.sum())


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.long
def test_importance_has_the_sums_of_all_rows_as_its_mean(weighted: bool, sparse: bool) -> None:
    """Σ over all outcomes of one draw of probability times what it counts; and rows come as often as they should."""
    group = unequal(5, weighted, sparse)
    group.y = np.arange(5)
    sampling, r = Sampling(1, 5, importance="norm"), probabilities(group, np.arange(5))
    counts, counted = np.zeros(5), np.full(5, np.nan)
    for epoch in range(800):
        for number in range(5):
            batch = select([group], Batch(sampling, epoch, number))
            assert batch.y is not None
            assert len(batch.y) == 1  # five rows, five rounds
            counts[batch.y] += 1
            counted[batch.y] = batch.sample_weight
    weight = np.ones(5) if group.sample_weight is None else group.sample_weight
    f = np.random.default_rng(0).normal(size=5)
    assert np.all(counts > 0)
    assert r @ (counted * f) == pytest.approx(weight @ f, rel=1e-12)
    assert np.all(np.abs(counts - 4000 * r) < 4 * np.sqrt(4000 * r * (1 - r)))


def gradients(groups: list[Group], sampling: Sampling, n: int, divide: bool) -> Float64:
    """The first round's gradient of n epochs; divided by the weight of its rows, or not."""
    objective = LinearObjective(LOSSES["logistic"], 4, 1, True, np.arange(2))
    at = np.random.default_rng(2).normal(size=(1, 5)) * 0.1
    found = []
    for epoch in range(n):
        partial = objective.loss_and_gradient(select(groups, Batch(sampling, epoch, 0)), at)
        found.append(partial.gradient_sum[0] / (partial.weight_sum[0] if divide else 1.0))
    return np.array(found)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.long
def test_gradients_of_drawn_rows_are_unbiased(weighted: bool) -> None:
    """Within four standard errors, with groups whose share of a round is no whole number and with rows held out."""
    group = unequal(61, weighted)
    weight = group.sample_weight
    groups = [
        Group(group.X[a:b], group.y[a:b], None if weight is None else weight[a:b], np.array([0, b - a]), number)  # type: ignore[index]
        for number, (a, b) in enumerate(pairwise([0, 30, 31, 61]))
    ]
    sampling = Sampling(3, 7, 2, validation_fraction=0.2, importance="norm")
    objective = LinearObjective(LOSSES["logistic"], 4, 1, True, np.arange(2))
    at = np.random.default_rng(2).normal(size=(1, 5)) * 0.1
    exact = sum(objective.loss_and_gradient(select([each], Batch(sampling, 0, TRAINING)), at).gradient_sum[0] for each in groups)
    found = gradients(groups, sampling, 2500, divide=False)
    error = found.std(axis=0) / np.sqrt(len(found))
    assert np.all(error < 0.1 * np.abs(exact).max())  # or the test could not fail
    assert np.all(np.abs(found.mean(axis=0) - exact) < 4 * error)


def test_importance_lowers_the_variance_where_rows_are_unequal() -> None:
    group = unequal(400, weighted=False)
    uniform = gradients([group], Sampling(0, 20), 600, divide=True).var(axis=0).sum()
    importance = (gradients([group], Sampling(0, 20, importance="norm"), 600, divide=False) / 400).var(axis=0).sum()
    assert importance < uniform / 3


def test_rows_of_no_weight_at_all_can_be_drawn() -> None:
    group = unequal(6, weighted=False)
    group.sample_weight = np.zeros(6)
    batch = select([group], Batch(Sampling(0, 2, importance="norm"), 0, 0))
    np.testing.assert_array_equal(batch.sample_weight, np.zeros(batch.n_rows))  # type: ignore[arg-type]


# -- subtrees -------------------------------------------------------------------------------------------------------------------------


def subtree_bytes(n_groups: int, n_bytes: float, level: int) -> float:
    return n_bytes / n_groups * min(1 << level, n_groups)


@given(st.integers(1, 5000) | st.integers(1, 20), st.floats(0, 1e12) | st.floats(0, 20.0 * SUBTREE_BYTES), st.integers(1, 1 << 22))
def test_subtrees_are_as_small_as_they_may_be(n_groups: int, n_bytes: float, batch_size: int) -> None:
    level = subtree_level(n_groups, n_bytes, batch_size)

    def rows(level: int) -> float:
        return batch_size / -(-n_groups // 2**level)

    assert level == 0 or subtree_bytes(n_groups, n_bytes, level) <= SUBTREE_BYTES
    assert level == 0 or rows(level - 1) < ROWS_A_SUBTREE
    whole = 2**level >= n_groups
    assert whole or rows(level) >= ROWS_A_SUBTREE or subtree_bytes(n_groups, n_bytes, level + 1) > SUBTREE_BYTES
    assert level >= subtree_level(n_groups, n_bytes, 2 * batch_size)


def test_subtrees_of_known_data() -> None:
    assert subtree_level(1, 1e12, 1) == 0
    assert subtree_level(64, 64 << 20, 64 * ROWS_A_SUBTREE) == 0
    assert subtree_level(64, 64 << 20, 16 * ROWS_A_SUBTREE) == 2
    assert subtree_level(64, 64 << 20, 1) == 6
    assert subtree_level(4, 4 * SUBTREE_BYTES, 1) == 0
    assert subtree_level(5, 1.4 * SUBTREE_BYTES, 1) == 1  # a subtree of four would be too large, though two subtrees have 0.7 on average
    assert Batch(Sampling(0, 3, level=2), 0, 1).level == 2
    assert Batch(Sampling(0, 3, level=2), 0, TRAINING).level == Batch(Sampling(0, 3, level=2), 0, HELD_OUT).level == 0
