"""BLAS on one thread, whoever asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np  # noqa: F401  the BLAS to be limited
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tasks.machine.threads import single_blas_thread


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def in_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_any_thread_can_ask() -> None:
    """Also one that comes after another, which is still there, has asked or has set limits of its own."""
    found: list[set[int]] = []

    def ask() -> None:
        with single_blas_thread():
            found.append(blas_threads())

    before = blas_threads()
    if before == {1}:
        pytest.skip("BLAS has one thread here anyway")
    for run in (ask, lambda: in_thread(ask), ask, lambda: in_thread(ask)):
        run()
        assert blas_threads() == before
    with threadpool_limits(2, user_api="blas"):
        in_thread(ask)
    assert found == [{1}] * 5


def test_the_last_to_leave_restores() -> None:
    """Blocks that overlap in two threads."""
    before = blas_threads()
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with single_blas_thread():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    with single_blas_thread():
        thread.start()
        assert entered.wait(10)
    assert blas_threads() == {1}
    leave.set()
    thread.join()
    assert blas_threads() == before
