"""Ctrl-C in the middle of a fit: the program ends, and no task stays on the cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed import Client

PROGRAM = """
import sys
import numpy as np
from distributed import Client
from pipeline import LogisticRegression

class Tell:
    told = False
    def setup(self, estimator, context): pass
    def teardown(self, estimator, context): pass
    def on_fit_task_begin(self, estimator, context): pass
    def on_fit_task_end(self, estimator, context):
        if not Tell.told:
            print("fitting", flush=True)
            Tell.told = True
        return False

X = np.random.default_rng(0).normal(size=(20000, 10))
with Client(sys.argv[1]) if len(sys.argv) > 1 else open("/dev/null"):
    model = LogisticRegression(solver="gradient-descent", tol=0.0, max_iter=10**9).set_callbacks(Tell())
    model.fit(X, X[:, 0] + X[:, 1] ** 3 > 0.5)
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("where", ["cluster", "in process"])
@pytest.mark.long
def test_ctrl_c(where: str, client: Client) -> None:
    arguments = [client.scheduler.address] if where == "cluster" else []
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "fitting\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
    deadline = time.monotonic() + 20
    while (left := client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == 0


IGNORING = """
trap "" INT TERM
exec "$0" -m pytest -q -p no:cacheprovider \
    tests/pipeline/test_cli.py::test_ctrl_c_during_the_imports_is_quiet \
    tests/pipeline/training/checkpoints/test_termination.py::test_sigterm_is_raised_once_and_the_handler_goes
"""


@pytest.mark.timeout(120)
@pytest.mark.long
def test_tests_of_signals_where_the_shell_ignores_them() -> None:
    """As with nohup, or with & in a script: children inherit that, and Python leaves it as it is."""
    tests = Path(__file__).parents[2]
    done = subprocess.run(
        ["sh", "-c", IGNORING, sys.executable],
        cwd=tests,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
