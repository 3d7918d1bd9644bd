"""Workers leave, join and restart, between two rounds, while the client moves the parameters, or while rows are on their way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

import pytest
from distributed import Client

from pipeline.execution.residency import following
from pipeline.execution.sessions import Sessions
from tasks.rounds.fitting import Fit
from tests.faults.gate import Gate
from tests.faults.moments import from_here
from tests.faults.moments import task as in_task
from tests.faults.scene import N_WORKERS, arrays, at, fitted, made, model, nothing_stays, own_cluster, undisturbed
from tests.rounds import AfterRounds

pytestmark = [pytest.mark.timeout(60), pytest.mark.faults]


def one(client: Client) -> str:
    return str(min(client.scheduler_info()["workers"]))


def pid_of(client: Client, address: str) -> int:
    return int(client.run(os.getpid, workers=[address])[address])


def kill_one(client: Client) -> None:
    os.kill(pid_of(client, one(client)), signal.SIGKILL)


def kill_all(client: Client) -> None:
    for pid in client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)


def retire(client: Client) -> None:
    client.retire_workers([one(client)])


def join(client: Client) -> None:
    client.cluster.scale(N_WORKERS + 1)
    client.wait_for_workers(N_WORKERS + 1, timeout=30)


def leave_by_scaling(client: Client) -> None:
    client.cluster.scale(1)


def restart(client: Client) -> None:
    client.restart(timeout=30, wait_for_workers=False)


def restart_one(client: Client) -> None:
    client.restart_workers([one(client)], timeout=30)


MANY: Final = 300

EVENTS: Final[dict[str, Callable[[Client], None]]] = {
    "SIGKILL": kill_one,
    "SIGKILL of all": kill_all,
    "retirement": retire,
    "joining": join,
    "scaling down": leave_by_scaling,
    "restart": restart,
    "restart of one": restart_one,
}


@pytest.fixture(scope="module")
def expected_of_many() -> str:
    return undisturbed(MANY)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("make", [arrays, made], ids=["rows sent", "rows made"])
def test_between_rounds(event: str, make: Any, expected_of_many: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions may follow, but none has gone further yet."""
    due, happened = Sessions.due, []
    monkeypatch.setattr(Sessions, "due", lambda self: bool(happened) and due(self))

    with own_cluster() as client, nothing_stays(client):

        def act() -> None:
            EVENTS[event](client)
            happened.append(event)

        rows = make()
        assert fitted(model(n_rounds=MANY).set_callbacks(AfterRounds((7,), act)), rows) == expected_of_many
        rows.release()
    assert happened


@pytest.mark.parametrize("event", [event for event in EVENTS if event != "joining"])
def test_in_the_middle_of_a_task(event: str, gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retirement and scaling wait for the task, which goes on meanwhile."""
    waiting: list[threading.Thread] = []

    with own_cluster() as client, nothing_stays(client):

        def inject(pid: int) -> str:
            waiting.append(threading.Thread(target=EVENTS[event], args=(client,)))
            waiting[0].start()
            waiting[0].join(timeout=0.5)
            return "pass"

        with at(gate, inject):
            assert in_task(gate, monkeypatch) == expected
        waiting[0].join()


@pytest.mark.parametrize("event", EVENTS)
def test_while_the_client_moves_the_parameters(event: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from_here(monkeypatch)
    update, count = Fit.update, []

    with own_cluster() as client, nothing_stays(client):

        def updated(*arguments: Any) -> Any:
            count.append(1)
            if len(count) == 7:
                EVENTS[event](client)
            return update(*arguments)

        monkeypatch.setattr(Fit, "update", updated)
        rows = arrays()
        assert fitted(model(), rows) == expected
        rows.release()


@pytest.mark.parametrize("which", ["source", "target"])
@pytest.mark.parametrize("make", [arrays, made], ids=["rows sent", "rows made"])
def test_while_rows_move(which: str, make: Any, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a worker that has joined: the one that gives or takes is stopped, so that the move has not ended when it is killed."""
    from_here(monkeypatch)
    monkeypatch.setattr(following, "FOLLOW_EVERY", 0.0)
    move, killed = following.move, []

    with own_cluster() as client, nothing_stays(client):

        def moved(client: Client, moves: Any) -> None:
            if moves and not killed:
                pid = pid_of(client, moves[0][1 if which == "source" else 2])
                killed.append(pid)
                os.kill(pid, signal.SIGSTOP)
                threading.Timer(1.0, os.kill, (pid, signal.SIGKILL)).start()
            move(client, moves)

        monkeypatch.setattr(following, "move", moved)
        rows = make()
        found = model().set_callbacks(AfterRounds((7,), lambda: join(client)))
        assert fitted(found, rows) == expected
        rows.release()
    assert killed
