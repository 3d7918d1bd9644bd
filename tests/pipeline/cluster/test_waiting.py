"""What waiting for tasks leaves behind."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
from distributed import Client

from pipeline.cluster import workers
from pipeline.cluster.workers import Workers


class Held:
    """Something of a caller's."""


def test_a_long_wait_lets_go_of_its_callers(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without help of the garbage collector, which may come by much later."""
    monkeypatch.setattr(workers, "STUCK_AFTER", 0.05)

    def wait() -> weakref.ref[Held]:
        held = Held()
        future = client.submit(time.sleep, 0.5, pure=False)
        Workers(client).wait([future])
        assert future.done()
        return weakref.ref(held)

    gc.collect()
    gc.disable()
    try:
        assert wait()() is None
    finally:
        gc.enable()
