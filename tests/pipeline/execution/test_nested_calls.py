"""Fits, scores and predictions inside the functions that make rows, and other work that holds all threads: nobody waits for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import dask
import dask.array as da
import numpy as np
import pytest

from pipeline import LogisticRegression
from pipeline.execution.threads import helpers, results_in_order

pytestmark = pytest.mark.timeout(60)

NESTED = """
import dask, dask.array as da, numpy as np
from pipeline import LinearRegression

X = da.from_array(np.random.default_rng(0).normal(size=(400, 3)), chunks=(50, 3))
y = X.sum(axis=1)

def inner(block):
    rows, target = da.from_array(block, chunks=(10, 3)), da.from_array(block.sum(axis=1), chunks=10)
    {inner}
    return block

with dask.config.set(num_workers=2):
    model = LinearRegression().fit(X, y)
    nested = X.map_blocks(inner, dtype=float, meta=np.empty((0, 0)))
    print({outer})
"""
INNER = {
    "score": "assert abs(model.score(rows, target) - 1) < 1e-12",
    "prediction": "assert np.allclose(model.predict(rows), block.sum(axis=1))",
    "fit with more threads": "with dask.config.set(num_workers=3): assert np.allclose(LinearRegression().fit(rows, target).coef_, 1)",
}
OUTER = {
    "score": "model.score(nested, y)",
    "prediction": "float(abs(model.predict(nested) - y).max().compute() < 1e-9)",
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("outer", "inner"), [("score", inner) for inner in INNER] + [(outer, "score") for outer in OUTER if outer != "score"], ids=str
)
def test_dask_data_inside_the_chunks_of_other_data(outer: str, inner: str) -> None:
    """In a process of its own: threads that wait for ever cannot be ended."""
    script = NESTED.format(inner=INNER[inner], outer=OUTER[outer])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1.0)


@pytest.fixture
def busy() -> Iterator[None]:
    """All helpers of a pool of two held, and of one of one."""
    gate = threading.Event()
    held = [helpers(n).submit(gate.wait) for n in (1, 2) for _ in range(n)]
    try:
        yield
    finally:
        gate.set()
        for future in held:
            future.result()


def in_time(call: object) -> list[object]:
    """What a call returns, in a thread that may be left behind."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)  # type: ignore[operator]
    thread.start()
    thread.join(20)
    assert found, "it still waits"
    return found


def test_rounds_do_not_wait_for_threads_that_others_hold(busy: None) -> None:
    X = np.random.default_rng(0).normal(size=(400, 3))
    y = (X[:, 0] > 0).astype(int)
    lazy = da.from_array(X, chunks=(50, 3)), da.from_array(y, chunks=50)
    with dask.config.set(num_workers=1):
        expected = LogisticRegression().fit(*lazy).parameters_sha256_
    with dask.config.set(num_workers=2):
        assert in_time(lambda: LogisticRegression().fit(*lazy).parameters_sha256_) == [expected]


def test_calls_do_not_wait_for_threads_that_others_hold(busy: None) -> None:
    assert in_time(lambda: list(results_in_order(2, [lambda i=i: i * i for i in range(9)]))) == [[i * i for i in range(9)]]  # type: ignore[misc]

    def broken() -> int:
        raise ZeroDivisionError("a call")

    def failing() -> str:
        with pytest.raises(ZeroDivisionError, match="a call"):
            list(results_in_order(2, [broken, *[int] * 8]))
        return "raised"

    assert in_time(failing) == ["raised"]
