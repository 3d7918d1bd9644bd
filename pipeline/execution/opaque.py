"""Tasks whose functions and values the scheduler sees as bytes: it unpickles graphs, and need not have this library."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle
from dask.task_spec import List, Task
from dask.utils import apply


def call(name: Any, function: Any, *arguments: Any) -> Task:
    """function(*arguments), where the function is unpickled on the worker; arguments: references to other tasks, and plain values."""
    return Task(name, apply, value(None, function), List(*arguments))


def value(name: Any, held: Any) -> Task:
    """A value that is unpickled on the worker."""
    return Task(name, pickle.loads, cloudpickle.dumps(held, protocol=5))
