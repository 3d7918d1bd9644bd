"""Values that a cluster holds already, persisted or scattered through any client: waited for, or named when they are gone."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

from distributed import Client

from pipeline.cluster.workers import STUCK, STUCK_AFTER, Workers
from pipeline.sources.graphs import Outside

FIRST_LOOK: Final = 0.005
LAST_LOOK: Final = 0.1


def await_held(client: Client, workers: Workers, outside: Outside) -> dict[Hashable, Sequence[str]]:
    """Wait until workers hold what is needed, or have failed to make it, and return the workers that hold each key. It may have come
    through another client of the same scheduler.

    Raises ValueError, naming the collections, for what is gone; ConnectionError for what no worker can make; WorkersUnavailableError when
    no worker is left.
    """
    keys = sorted(outside.keys, key=str)
    holders = ask(client, "who_has", keys) if keys else {}
    waiting = without = [key for key in keys if not holders[key]]
    look_after, busy_at = FIRST_LOOK, time.monotonic() + STUCK_AFTER
    give_up_at = busy_at  # on what a client has asked for, and the scheduler has not heard of
    while waiting:
        states = ask(client, "get_task_status", waiting)
        gone = [key for key in waiting if states[key] in (None, "forgotten")]
        if gone and (time.monotonic() > give_up_at or not all(holding(key, "pending") for key in gone)):
            raise gone_error(gone, outside, client)
        waiting = [key for key in waiting if states[key] not in ("memory", "erred")]
        if waiting:
            if time.monotonic() > busy_at:
                if not workers.busy():
                    raise ConnectionError(STUCK)
                busy_at = time.monotonic() + STUCK_AFTER
            time.sleep(look_after)
            look_after = min(2 * look_after, LAST_LOOK)
    return holders | (ask(client, "who_has", without) if without else {})


def held_bytes(client: Client, holders: Mapping[Hashable, Sequence[str]]) -> dict[Hashable, dict[str, float]]:
    """The workers that hold each key, with its bytes; {} when one has just been forgotten."""
    held = {key: workers for key, workers in holders.items() if workers}
    if not held:
        return {}
    try:
        sizes: Mapping[Any, float] = client.nbytes(list(held), summary=False)
    except KeyError:
        return {}
    return {key: dict.fromkeys(workers, sizes[key]) for key, workers in held.items()}


def require_none(outside: Outside) -> None:
    """Raise ValueError, naming the collections, when something is needed that only a cluster can hold: this process computes by itself."""
    if not outside.keys:
        return
    keys = sorted(outside.keys, key=str)
    what = described(keys, outside)
    if addresses := holding(keys[0]):
        raise ValueError(
            f"persisted rows of this data are on the cluster of {addresses[0]}, and this process would work without it: {what}; have its"
            " client be the current one (with client.as_current(): ...) and no scheduler= in Dask's configuration, or .compute() them first"
        )
    raise ValueError(
        f"persisted rows of this data are gone, or out of reach: {what}; no open client has them here; connect to their cluster, and"
        " persist them again, or get them again (client.get_dataset) if they are published"
    )


def gone_error(gone: Sequence[Hashable], outside: Outside, client: Client) -> ValueError:
    """What to raise of keys that the client's scheduler does not know."""
    what, here = described(gone, outside), address_of(client)
    if elsewhere := [address for address in holding(gone[0]) if address != here]:
        return ValueError(
            f"persisted rows of this data are not on the current client's cluster, {here}, but on that of {elsewhere[0]}: {what};"
            " fit with that one's client (with client.as_current(): ...), or persist them again with the current one"
        )
    return ValueError(
        f"persisted rows of this data are gone from {here}: {what}; they were cancelled, let go when their client was closed, or lost with"
        " the worker that they had been scattered to; persist them again"
    )


def described(keys: Sequence[Hashable], outside: Outside) -> str:
    """Which collections these keys belong to, and how many there are."""
    names = outside.names(keys)
    of = f"of {', '.join(names[:-1])}{' and ' * (len(names) > 1)}{names[-1]}, " if names else ""
    return f"{of}{keys[0]!r}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


def holding(key: Hashable, *states: str) -> list[str]:
    """The scheduler's address of each client in this process that has a future of this key, in one of these states: by default any but
    cancelled."""
    found = []
    for client in list(Client._instances):
        future = client.futures.get(key) if client.status == "running" else None
        if future is not None and (future.status in states if states else future.status != "cancelled"):
            found.append(address_of(client))
    return found


def address_of(client: Client) -> str:
    """Its scheduler's."""
    scheduler: Any = client.scheduler
    return "a scheduler that is gone" if scheduler is None else str(scheduler.address)


def ask(client: Client, question: str, keys: Sequence[Hashable]) -> dict[Any, Any]:
    """The scheduler's answer about keys. By key, because the client's futures may be those of another client, or of an earlier persist."""
    found: dict[Any, Any] = client.sync(getattr(client.scheduler, question), keys=list(keys))
    return found
