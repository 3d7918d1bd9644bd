"""What a worker does with a broadcast."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from tasks.objectives.base import Layout, Sums
from tasks.objectives.linear import LinearObjective
from tasks.objectives.losses.regression import SquaredLoss
from tasks.reductions.reduction import NodeSums, merge_sums, reduce_groups
from tasks.rounds.oracles import ORACLES, Broadcast, reduction_of
from tasks.rows.partition import Group

GROUP = Group(np.ones((3, 2)), np.zeros(3), None, np.array([0, 3]), 0)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("row_step", [1, 3])
def test_groups_whose_sums_are_larger_than_their_rows_are_passed_over_together(compiled: bool, row_step: int) -> None:
    """To the bits of each by itself, by one worker and by two."""
    rng, p, n_groups = np.random.default_rng(0), 40_000, 11
    X = sp.random_array((200, p), density=2e-4, rng=rng, format="csr")
    objective = LinearObjective(SquaredLoss(), p, 1, True, compiled=compiled)
    cuts = [np.array([0, 5, 9, 9, 20])] * (n_groups - 1) + [np.array([0, 6, 18, 20])]
    groups = [Group(X[i : i + 20], rng.normal(size=20), None, cuts[i], 4 * i) for i in range(n_groups)]
    broadcast = Broadcast(objective, "loss_and_gradient", rng.normal(size=(1, p + 1)), None, row_step)
    together = reduction_of(broadcast)
    alone = together._replace(joint=None)
    assert sum(1 for _ in together.parts(list(enumerate(groups)), n_groups, broadcast)) == 1
    assert sum(1 for _ in together.parts(list(enumerate(groups)), n_groups, broadcast, n_threads=3)) == 3
    (expected,) = reduce_groups(enumerate(groups), n_groups, alone, broadcast).values()
    numbered = list(enumerate(groups))
    for cut in (0, 3, 8):
        nodes = reduce_groups(numbered[:cut], n_groups, together, broadcast) | reduce_groups(numbered[cut:], n_groups, together, broadcast)
        found = together.whole(merge_sums([NodeSums(nodes, {})], n_groups, together.combine).nodes, n_groups, broadcast)
        for left, right in zip(found[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(left, right)


def misaligned(values: Any) -> Any:
    """The same numbers one byte further on, as a network may deliver them."""
    found = np.frombuffer(b"0" + np.asarray(values).tobytes(), np.uint8)[1:].view(np.asarray(values).dtype).reshape(np.shape(values))
    assert not found.flags.aligned
    return found


class Recorder:
    """An objective that looks at what it gets."""

    classes = None
    layout = Layout({"coef": (2,)}, {})

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def loss_and_gradient(self, group: Group, parameters: Any) -> Sums:
        self.seen.append(parameters)
        return Sums(np.zeros(len(parameters)), np.full(len(parameters), 3.0), np.zeros(parameters.shape))

    def hessian(self, group: Group, parameters: Any) -> Sums:
        return self.loss_and_gradient(group, parameters)

    def hessian_blocks(self, group: Group, parameters: Any) -> Sums:
        return self.loss_and_gradient(group, parameters)

    def gram(self, group: Group, parameters: Any) -> Sums:
        return self.loss_and_gradient(group, parameters)

    def gram_in_basis(self, group: Group, parameters: Any, basis: Any) -> Sums:
        self.seen.append(basis)
        return self.loss_and_gradient(group, parameters)

    def hessian_vector(self, group: Group, parameters: Any, direction: Any) -> Sums:
        self.seen.append(direction)
        return self.loss_and_gradient(group, parameters)

    def predict(self, parameters: Any, X: Any) -> Any:
        self.seen.append(parameters)
        return X @ parameters[:, None]


@pytest.mark.parametrize("oracle", sorted(ORACLES.keys() - {"local_hessian", "local_steps", "consensus"}))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_objectives_get_aligned_parameters(oracle: str, dtype: Any) -> None:
    objective, at, along = Recorder(), np.array([[1.0, 2.0], [3.0, 4.0]], dtype), np.array([[5.0, 6.0], [7.0, 8.0]], dtype)
    broadcast = Broadcast(objective, oracle, misaligned(at), misaligned(along), 1)
    reduction_of(broadcast).map([GROUP], broadcast)
    expected: dict[str, list[Any]] = {
        "gradient_difference": [np.concatenate([at, along])],
        "hessian_vector": [along, at],
        "gram_in_basis": [along, at],
        "score": list(at),
    }
    assert all(array.flags.aligned and array.flags.c_contiguous for array in objective.seen)
    np.testing.assert_array_equal(objective.seen, expected.get(oracle, [at]))
