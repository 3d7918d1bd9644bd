"""Twenty kills in one fit, at random moments."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from tests.faults.scene import fitted, made, model, nothing_stays, own_cluster, undisturbed
from tests.rounds import AfterRounds

pytestmark = [pytest.mark.timeout(60), pytest.mark.faults]

N_KILLS = 20
EVERY = 50
"""Rounds. A kill comes at some moment before as many more are over, or holds them up."""


def test_twenty_random_kills() -> None:
    seed = int(os.environ.get("FAULT_SEED", np.random.default_rng().integers(1 << 31)))
    print(f"FAULT_SEED={seed}")
    random = np.random.default_rng(seed)
    n_rounds = (N_KILLS + 1) * EVERY
    expected = undisturbed(n_rounds)
    due, done = threading.Semaphore(0), threading.Semaphore(1)
    killed: list[int] = []

    with own_cluster() as client, nothing_stays(client):

        def workers() -> list[int]:
            found = [nanny.process.pid for nanny in client.cluster.workers.values() if nanny.process is not None]
            return [pid for pid in found if pid is not None and pid not in killed]

        def kill() -> None:
            for _ in range(N_KILLS):
                due.acquire()
                time.sleep(0.3 * random.random())
                while not (pids := workers()):
                    time.sleep(0.01)
                killed.append(int(random.choice(pids)))
                os.kill(killed[-1], signal.SIGKILL)
                done.release()

        def next_kill() -> None:
            done.acquire()
            due.release()

        killer = threading.Thread(target=kill, daemon=True)  # if the fit fails, nobody tells it of the next
        killer.start()
        rows = made()
        found = model(n_rounds=n_rounds).set_callbacks(AfterRounds(tuple(range(EVERY, N_KILLS * EVERY + 1, EVERY)), next_kill))
        assert fitted(found, rows) == expected
        killer.join(timeout=5)
        rows.release()
    assert len(killed) == N_KILLS
