"""A process that is killed while it writes a checkpoint."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from pipeline import Checkpoint, Dataset, minimise
from pipeline.checkpoints.files import SUFFIX
from tasks.losses import LogisticLoss
from tasks.objectives import LinearObjective
from tasks.penalties import L2
from tasks.strategies.gradient_descent import GradientDescent

N_COLUMNS = 200_000
N_ROUNDS = 120
KILLS = 50


def fit(directory: str | None) -> str:
    """Many rounds with a few MB of state, saved after each."""
    rng = np.random.default_rng(0)
    X = sp.random_array((300, N_COLUMNS), density=1e-4, format="csr", rng=rng)
    dataset = Dataset.from_arrays(X, np.arange(300) % 2, n_partitions=3)
    objective = LinearObjective(LogisticLoss(), N_COLUMNS, 1, fit_intercept=True, classes=dataset.schema.classes)
    strategy = GradientDescent(tol=0.0, max_iter=N_ROUNDS, step_size=0.1)
    kept = None if directory is None else Checkpoint(directory=directory, every_rounds=1)
    return minimise(objective, dataset, strategy, np.zeros(N_COLUMNS + 1), penalty=L2(1e-3), checkpoint=kept).parameters_sha256


def fit_in_child(directory: str, answer: Any) -> None:
    answer.send(fit(directory))


def being_written(directory: Path) -> list[Path]:
    return list(directory.glob(f".*{SUFFIX}.*.tmp"))


@pytest.mark.faults
@pytest.mark.timeout(60)
def test_fifty_kills_while_checkpoints_are_written(tmp_path: Path) -> None:
    """One fit, which goes on after each kill from what is there, to the bits of a fit that never stopped."""
    whole = fit(None)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline", __name__])
    moments = random.Random(0)
    torn = kills = 0
    while True:
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=fit_in_child, args=(str(tmp_path), send))
        child.start()
        while kills < KILLS and child.is_alive() and not being_written(tmp_path):
            time.sleep(0.0005)
        if kills == KILLS:
            break
        time.sleep(moments.uniform(0, 0.01))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
        torn += bool(being_written(tmp_path))
    assert receive.recv() == whole
    child.join()
    assert not tmp_path.exists()
    assert torn >= KILLS // 3  # or nothing was shown
