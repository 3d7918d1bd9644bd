"""States as arrays and JSON."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

from pipeline.training.checkpoints.trees import Flattened, restored
from tasks.strategies.base import Iterate, LocalSteps, Status
from tasks.strategies.line_search import begin
from tasks.strategies.optimizers import Momentum


class Own(NamedTuple):
    """A state that a user's strategy might have."""

    value: Any
    other: Any = None


numbers = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
some_arrays = (
    scalar_dtypes()
    .filter(lambda d: d.kind in "biuf" and d.itemsize <= 8)
    .flatmap(lambda d: arrays(d, array_shapes(min_dims=0, min_side=0)))
)
leaves = st.one_of(numbers, some_arrays, st.builds(np.float32, st.floats(width=32)), st.builds(np.int64, st.integers(-(2**63), 2**63 - 1)))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.builds(Own, inner, inner),
        st.builds(Status, st.sampled_from(["running", "converged"]), st.text(max_size=3)),
    ),
    max_leaves=8,
)


def there_and_back(tree: Any) -> Any:
    flattened = Flattened()
    text = json.dumps(flattened.flat(tree), allow_nan=False)
    return restored(json.loads(text), flattened.arrays)


def same(left: Any, right: Any) -> bool:
    """Of the same types all the way down, and of the same bits; of scalars that are no numbers JSON does not keep which."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.floating) and left != left:
        return bool(right != right)
    if isinstance(left, np.ndarray | np.generic):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right) if left == left else right != right
    return bool(left == right)


@given(trees)
@pytest.mark.long
def test_what_comes_back_is_what_was_saved(tree: Any) -> None:
    assert same(there_and_back(tree), tree)


def test_an_array_that_stands_twice_is_kept_once() -> None:
    array = np.arange(3.0)
    tree = Own(array, [Iterate(array, 1.0, array)])
    flattened = Flattened()
    flattened.flat(tree)
    assert len(flattened.arrays) == 1
    back = there_and_back(tree)
    assert back.value is back.other[0].gradient


def test_states_of_tasks_come_back_as_their_classes() -> None:
    search = begin(Iterate(np.zeros(1), 2.0, np.zeros(1)), -1.0, 0.5)
    assert there_and_back([search, None]) == [search, None]
    steps = LocalSteps((0.1, 0.2), Momentum(0.5))  # with a frozen dataclass
    assert there_and_back(steps) == steps


@pytest.mark.parametrize(
    "tree",
    [object(), {1, 2}, 1j, np.array(["a"]), np.array([None]), Own(b"bytes"), np.longdouble(1), np.ma.zeros(3)],
    ids=lambda tree: type(tree).__name__,
)
def test_what_cannot_be_held_is_named(tree: Any) -> None:
    with pytest.raises(TypeError, match="a checkpoint cannot hold"):
        Flattened().flat([tree])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("os:stat_result", "no NamedTuple"),
        ("builtins:eval", "no NamedTuple"),
        ("pipeline.training.history:Row", "no NamedTuple"),
        ("antigravity:Some", "antigravity:Some is not known here; import its module first"),
        ("tasks.nowhere:State", "there is no"),
        ("tasks.strategies.base:Nothing", "there is no"),
        ("tasks.arguments:as_number", "no NamedTuple"),
        ("tasks.rows.partition:Group", "no NamedTuple"),
    ],
)
def test_only_states_are_made(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restored({"type": name, "fields": {}}, {})


def test_fields_of_another_version_are_refused() -> None:
    with pytest.raises(ValueError, match="has the fields kind, reason here, and kind, why there"):
        restored({"type": "tasks.strategies.base:Status", "fields": {"kind": "running", "why": ""}}, {})


@pytest.mark.parametrize("flat", [{"tupel": []}, {}, {"type": "tasks.strategies.base:Status"}], ids=str)
def test_other_json_is_refused(flat: Any) -> None:
    with pytest.raises(ValueError, match="no part of a state"):
        restored(flat, {})
