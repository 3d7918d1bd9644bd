"""What an object is: the same in every process, and another when its state or its code is."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.sparse as sp

from pipeline.training.checkpoints.identity import identity
from tasks.strategies.lbfgs import LBFGS
from tasks.strategies.optimizers import Adam

SCRIPT = """
import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar
import re
import numpy as np
from numba import njit
import helpers
from pipeline.training.checkpoints.identity import identity
FACTOR = {factor}
WEIGHTS = np.array([1.0, {weight}])
OPTIONS = dict(power={power})
LOCK = threading.Lock()
def helper(x):
    with LOCK:
        return helpers.shifted(FACTOR * x * WEIGHTS ** OPTIONS["power"])
@njit
def fast(x):
    return x + {added}
@lru_cache
def slow(x):
    return x - {taken}
@dataclass(frozen=True)
class Mean:
    n: int
    delta: ClassVar[float] = {delta}
    pattern: re.Pattern = re.compile("a+")
    compiled: object = fast
    @property
    def layout(self):
        return self.n
    @cached_property
    def labels(self):
        return {label}
    def loss_and_gradient(self, group, parameters):  {comment}
        return [helper(each) + fast(each) + slow(each) for each in parameters] + [{constant}]
mean = Mean({n})
before = identity(mean)
assert mean.labels == {label} and identity(mean) == before
print(before)
"""
HELPERS = """
SHIFT = {shift}
OTHER = 3
def shifted(x):
    return x + SHIFT
"""
CONSTANTS = ("shift", "factor", "weight", "power", "added", "taken", "delta", "label", "constant", "n")


RUN = """
import importlib, json, runpy, sys
for variant in json.loads(sys.argv[1]):
    sys.path[0] = variant
    sys.modules.pop("helpers", None)
    importlib.invalidate_caches()
    runpy.run_path(variant + "/script.py", run_name="__main__")
"""


def in_scripts(directory: Path, variants: list[dict[str, Any]]) -> list[str]:
    """What each prints, one after another in a process of their own."""
    places = []
    for number, changes in enumerate(variants):
        constants = dict.fromkeys(CONSTANTS, 2) | {"comment": ""} | changes
        place = directory / str(number)
        place.mkdir(exist_ok=True)
        (place / "helpers.py").write_text(HELPERS.format(**constants))
        (place / "script.py").write_text(SCRIPT.format(**constants))
        places.append(str(place))
    command = [sys.executable, "-c", RUN, json.dumps(places)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()


@pytest.mark.long
def test_classes_of_scripts_are_known_by_their_code(tmp_path: Path) -> None:
    (first,) = in_scripts(tmp_path, [{"comment": "# what it does"}])
    again, *others = in_scripts(tmp_path, [{}, *({change: 7} for change in CONSTANTS)])
    assert first == again
    assert len({first, *others}) == 1 + len(CONSTANTS)


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Holder:
    values: Any
    more: dict[str, Any] = field(default_factory=dict)


class Plain:
    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


def objects() -> list[Any]:
    """Each is another."""
    loop: list[Any] = []
    loop.append(loop)
    return [
        None, True, 1, 1.0, 1j, "1", b"1", (), [], {}, (1,), [1], {1: 2}, {2: 1}, {1, 2}, frozenset({1, 2}),
        np.float64(1), np.float32(1), np.arange(3), np.arange(3.0), np.arange(3).reshape(1, 3),
        np.array(["a"], object), np.array(["b"], object),
        Pair(1, 2), Pair(2, 1), Pair([1], (1,)), Holder([1]), Holder([2]), Holder([1], {"a": 1}), Plain(a=1), Plain(a=2), Plain(b=1),
        LBFGS(), LBFGS(memory=3), Adam(), Adam(0.8), sp.csr_array(np.eye(2)), sp.csr_array(np.eye(3)), np.random.default_rng(0),
        np.random.default_rng(1), np.random.RandomState(0), len, sum, np.mean, lambda: 1, lambda: 2, functools.partial(sum, [1]),
        functools.partial(sum, [2]), Holder, Plain, Plain(a=1).__init__, Path("a"), Path("b"), loop,
    ]  # fmt: skip


def test_different_objects_differ_and_equal_ones_do_not() -> None:
    found = list(map(identity, objects()))
    assert found == list(map(identity, objects()))
    assert len(set(found)) == len(found)


@pytest.mark.torch
def test_tensors_are_known_by_their_numbers_and_whether_they_move() -> None:
    torch = pytest.importorskip("torch")
    one = torch.ones(2)
    made = [
        one,
        one.clone().requires_grad_(),
        2 * one,
        one.double(),
        one.bfloat16(),
        one.half(),
        one.reshape(1, 2),
        torch.tensor(1.0),
        one[:0],
    ]
    found = list(map(identity, made))
    assert found == [identity(each.detach().clone().requires_grad_(each.requires_grad)) for each in made]
    assert len(set(found)) == len(found)


def test_sets_have_no_order() -> None:
    assert identity({f"{i}" for i in range(50)}) == identity({f"{i}" for i in reversed(range(50))})


def test_what_nobody_can_tell_apart_is_refused() -> None:
    with pytest.raises(TypeError, match=r"lock .* cannot be part of what is checkpointed"):
        identity(Holder(threading.Lock()))
