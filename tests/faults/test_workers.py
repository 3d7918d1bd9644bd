"""A worker process dies, stops or fails at a certain moment of a fit: the undisturbed digest, or the error by its name."""

from __future__ import annotations

import pytest
from distributed import Client

from tasks.reductions.memory import OutOfMemoryError
from tests.faults.gate import Gate
from tests.faults.moments import MOMENTS
from tests.faults.scene import SIGNALS, Victim, at

pytestmark = [pytest.mark.timeout(60), pytest.mark.faults]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("fault", SIGNALS)
def test_signals(fault: str, moment: str, client: Client, gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def inject(pid: int) -> str:
        SIGNALS[fault](Victim(client, pid))
        return "pass"

    with at(gate, inject):
        assert MOMENTS[moment](gate, monkeypatch) == expected


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("end", ["segfault", "exit"])
def test_ends_from_inside(end: str, moment: str, client: Client, gate: Gate, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with at(gate, lambda pid: end):
        assert MOMENTS[moment](gate, monkeypatch) == expected


@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if moment != "load"])
def test_an_exception(moment: str, client: Client, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, from the line where it was raised."""
    gate.tell_all("exception")
    with pytest.raises(ZeroDivisionError, match="what the user's code does") as raised:
        MOMENTS[moment](gate, monkeypatch)
    assert raised.traceback[-1].name == "fail"


@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if moment != "load"])
def test_out_of_memory(moment: str, client: Client, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    gate.tell_all("out of memory")
    said = r"ran out of memory at partition.*: Unable to allocate .* rows would fit \(n_partitions="
    if moment == "tree":
        said = r"ran out of memory where the sums of 3 tasks were added up.*: Unable to allocate .*, or a solver without Hessians"
    with pytest.raises(OutOfMemoryError, match=said):
        MOMENTS[moment](gate, monkeypatch)
