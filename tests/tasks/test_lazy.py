"""Modules that their first use imports."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.lazy import Lazy

SLOW = "import time\ntime.sleep(0.1)\nCOUNT = {'imports': 0}\nCOUNT['imports'] += 1\nLATE = 'there'\n"


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "slow_module.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "slow_module"
    sys.modules.pop("slow_module", None)


def test_the_first_attribute_imports(slow_module: str) -> None:
    lazy = Lazy(slow_module)
    assert repr(lazy) == "Lazy('slow_module')"
    assert slow_module not in sys.modules
    assert lazy.LATE == "there"
    assert slow_module in sys.modules
    with pytest.raises(AttributeError, match="slow_module"):
        lazy.absent  # noqa: B018


def test_threads_find_it_whole(slow_module: str) -> None:
    lazy, start = Lazy(slow_module), threading.Barrier(8)

    def late(_: int) -> str:
        start.wait()
        return str(lazy.LATE)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(late, range(8))) == {"there"}
    assert lazy.COUNT == {"imports": 1}


def test_a_module_that_is_not_there_is_an_error_at_its_first_use() -> None:
    lazy = Lazy("no_such_module_at_all")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
            lazy.anything  # noqa: B018


@pytest.mark.long
def test_what_is_replaced_in_the_module_is_seen(slow_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = Lazy(slow_module)
    assert lazy.LATE == "there"
    monkeypatch.setattr("slow_module.LATE", "replaced")
    assert lazy.LATE == "replaced"
