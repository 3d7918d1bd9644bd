"""Tasks whose functions and values the scheduler sees as bytes: it unpickles graphs, and need not have this library."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Mapping
from typing import Any

from dask._expr import LLGExpr
from dask.task_spec import DataNode, List, Task
from dask.utils import apply
from distributed import Client, Future

from pipeline.cluster.code.modules import dumps


def call(name: Any, function: Any, *arguments: Any, needs: set[str]) -> Task:
    """function(*arguments), where the function is unpickled on the worker; arguments: references to other tasks, and plain values. needs:
    gains the modules that unpickling imports."""
    return Task(name, apply, value(None, function, needs=needs), List(*arguments))


def value(name: Any, held: Any, *, needs: set[str]) -> Task:
    """A value that is unpickled on the worker. needs: as in `call`."""
    packed, modules = dumps(held)
    needs |= modules
    return Task(name, pickle.loads, packed)


def begin(client: Client, graph: dict[Any, Any], keys: list[Any], **where: Any) -> list[Future[Any]]:
    """Begin the tasks of a graph, and return the futures of these keys. where: Dask's workers= and allow_other_workers=.

    The graph gets a random name. Dask's own name for it comes from all its nodes, and takes longer to make than small tasks take to run.
    Tasks of earlier graphs come first: of graphs that Dask takes for one, workers run the latest first, and the earliest, perhaps, never.
    Inside a task it takes all graphs for one with that task's, whatever is asked.
    """
    expression = LLGExpr(graph, _determ_token=uuid.uuid4().hex)
    futures: list[Future[Any]] = client.get(expression, keys, sync=False, fifo_timeout=0, **where)
    return futures


def modules_in(graph: Mapping[Any, Any]) -> set[str]:
    """The modules that workers import to unpickle a graph's nodes as Dask sends them; of constants, which may be large, those of their
    types."""
    constants = [node for node in graph.values() if isinstance(node, DataNode)]
    _, modules = dumps([node for node in graph.values() if not isinstance(node, DataNode)])
    return {type(node.value).__module__ for node in constants} | modules
