"""Tasks whose functions and values the scheduler sees as bytes: it unpickles graphs, and need not have this library."""

from __future__ import annotations

import pickle
from typing import Any

from dask.task_spec import List, Task
from dask.utils import apply

from pipeline.cluster.modules import dumps


def call(name: Any, function: Any, *arguments: Any, needs: set[str]) -> Task:
    """function(*arguments), where the function is unpickled on the worker; arguments: references to other tasks, and plain values. needs:
    gains the modules that unpickling imports."""
    return Task(name, apply, value(None, function, needs=needs), List(*arguments))


def value(name: Any, held: Any, *, needs: set[str]) -> Task:
    """A value that is unpickled on the worker. needs: as in `call`."""
    packed, modules = dumps(held)
    needs |= modules
    return Task(name, pickle.loads, packed)
