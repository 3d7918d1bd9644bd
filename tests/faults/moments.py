"""The moments of a fit at which something can happen: each a function of a gate that runs a fit (or a score) through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

import pipeline.data.dataset
import pipeline.estimators.rows
from pipeline import Dataset
from pipeline.execution import graph, sending
from pipeline.execution.sessions import Sessions
from tasks.loading.checking import CHECK
from tasks.objectives.scoring import SCORE
from tests.faults.gate import Gate, GatedMerge, Where, gated
from tests.faults.scene import N_ROUNDS, arrays, fitted, made, model

Moment = Callable[..., str]


def released(dataset: Dataset, run: Callable[[Dataset], str]) -> str:
    try:
        return run(dataset)
    finally:
        dataset.release()


def load(gate: Gate, patch: pytest.MonkeyPatch, n_rounds: int = N_ROUNDS) -> str:
    return released(made(gate), lambda rows: fitted(model(n_rounds=n_rounds), rows))


def check(gate: Gate, patch: pytest.MonkeyPatch, n_rounds: int = N_ROUNDS) -> str:
    patch.setattr(pipeline.data.dataset, "CHECK", gated(CHECK, gate))
    return released(arrays(), lambda rows: fitted(model(n_rounds=n_rounds), rows))


def rounds(gate: Gate, where: Where, dataset: Dataset, n_rounds: int) -> str:
    return released(dataset, lambda rows: fitted(model(gate, where, n_rounds=n_rounds), rows))


def from_here(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sessions, "due", lambda self: False)


def only_tasks(patch: pytest.MonkeyPatch) -> None:
    from_here(patch)
    patch.setattr(sending, "CALLED_ROUND", -1.0)


def task(gate: Gate, patch: pytest.MonkeyPatch, n_rounds: int = N_ROUNDS) -> str:
    only_tasks(patch)
    return rounds(gate, "task", made(), n_rounds)


def task_of_arrays(gate: Gate, patch: pytest.MonkeyPatch, n_rounds: int = N_ROUNDS) -> str:
    only_tasks(patch)
    return rounds(gate, "task", arrays(), n_rounds)


def call(gate: Gate, patch: pytest.MonkeyPatch, n_rounds: int = N_ROUNDS) -> str:
    from_here(patch)
    return rounds(gate, "call", arrays(), n_rounds)


def session(gate: Gate, patch: pytest.MonkeyPatch, n_rounds: int = N_ROUNDS) -> str:
    return rounds(gate, "session", made(), n_rounds)


def tree(gate: Gate, patch: pytest.MonkeyPatch, n_rounds: int = N_ROUNDS) -> str:
    """As large sums and parameters travel: both in tasks of their own."""
    only_tasks(patch)
    patch.setattr(graph, "CLIENT_COMBINE_BYTES", 0)
    patch.setattr(graph, "INLINE_BYTES", 0)
    patch.setattr(graph, "merge_sums", GatedMerge(gate))
    return released(made(), lambda rows: fitted(model(n_rounds=n_rounds), rows))


def scores(gate: Gate, patch: pytest.MonkeyPatch, n_rounds: int = N_ROUNDS) -> str:
    """After an undisturbed fit."""
    patch.setattr(pipeline.estimators.rows, "SCORE", gated(SCORE, gate))

    def run(rows: Dataset) -> str:
        found: Any = model()
        digest = fitted(found, rows)
        first = found.score(rows)
        patch.undo()
        assert found.score(rows) == first  # to the last bit
        return digest

    return released(arrays(), run)


MOMENTS: Final[dict[str, Moment]] = {
    "load": load,
    "check": check,
    "task": task,
    "task, rows sent": task_of_arrays,
    "call": call,
    "session": session,
    "tree": tree,
    "scores": scores,
}
