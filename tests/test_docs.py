"""What the documentation shows runs, and says what it says."""

from __future__ import annotations

import builtins
import re
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client
from scipy.optimize import check_grad

import pipeline
from pipeline import Dataset, minimise
from tasks.rows.partition import Block, make_group
from tasks.strategies.newton import Newton

DOCS = Path(__file__).parents[1] / "docs"


def test_errors_that_are_named_can_be_imported() -> None:
    texts = [*DOCS.glob("*.md"), *(DOCS.parent / name for name in ("README.md", "CHANGELOG.md"))]
    named = {name for path in texts for name in re.findall(r"`(\w+(?:Error|Warning))`", path.read_text(encoding="utf-8"))}
    ours = {name for name in named if name not in vars(builtins)}
    assert {"SchedulerLostError", "WorkersKilledError", "OutOfMemoryError", "PartitionError"} <= ours
    assert ours <= set(pipeline.__all__)


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The code of docs/own-models.md, run in this process."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "own-models.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 80
    names: dict[str, Any] = {"__name__": "__main__"}
    with dask.config.set(scheduler="threads"):
        exec(compile(code, "own-models.md", "exec"), names)
    return names


def test_own_model_learns(example: dict[str, Any]) -> None:
    X, y, machine = example["X"], example["y"], example["machine"]
    for found in (example["by_batches"], example["by_passes"]):
        assert np.mean((machine.predict(found.parameters, X)[:, 0] > 0) == y) > 0.85


def test_own_model_has_the_gradient_that_it_says(example: dict[str, Any]) -> None:
    X, y, machine = example["X"][:50], example["y"][:50], example["machine"]
    group = make_group([Block(X, y)], 0)

    def value(parameters: Any) -> float:
        return float(machine.loss_and_gradient(group, parameters[None]).loss_sum[0])

    def gradient(parameters: Any) -> Any:
        return machine.loss_and_gradient(group, parameters[None]).gradient_sum[0]

    assert check_grad(value, gradient, example["start"]) < 1e-4


def test_own_model_on_a_cluster(client: Client, example: dict[str, Any]) -> None:
    data = Dataset.from_arrays(example["X"], example["y"], n_partitions=16)
    for strategy, here in ((example["strategy"], example["by_batches"]), (example["LBFGS"](max_iter=200), example["by_passes"])):
        there = minimise(example["machine"], data, strategy, example["start"], penalty=example["L2"](1e-5))
        assert there.parameters_sha256 == here.parameters_sha256


def test_own_model_that_lacks_something(example: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="FactorisationMachine is not compatible with Newton: it must implement hessian"):
        minimise(example["machine"], example["data"], Newton(), example["start"])
    with pytest.raises(ValueError, match=r"start must be \(51,\), as the layout of FactorisationMachine says, got \(3,\)"):
        minimise(example["machine"], example["data"], example["strategy"], np.zeros(3))
