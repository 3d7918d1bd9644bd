"""Where rows live between rounds: on the host, or on a device.

A partition is read, made, checked and digested on the host, whatever device it is for, so that schemas, digests and checkpoints are of the
same numbers. The first round that goes through a group takes its X to the device (`at_home`), where it stays; what a loss makes of labels
and weights, which stay here, follows once (`tasks.objectives.encoding`). A group on its way to another worker, or to disk, travels as
NumPy's, and the next round takes it to a device again, that of whoever has it now.

Devices go by name: "cuda" is CuPy on the GPU that this process has (`tasks.machine.devices`); "torch:cuda:0" or "array_api_strict:device1"
are a library of the array API and one of its devices, "torch" the device that it takes by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from threading import Lock
from typing import Any, Final

import numpy as np
import scipy.sparse as sp

from tasks.machine.namespaces import beside, device_of, is_elsewhere, namespace_of
from tasks.reductions.memory import OutOfMemoryError, ran_out
from tasks.rows.digests import DIGESTS, partition_digests
from tasks.rows.partition import HERE, Group, nbytes

CUDA: Final = "cuda"
_moving: Final = Lock()


def require_device(device: Any) -> None:
    """Raise TypeError or ValueError for what names no device. Whether there is such a one those say who are to have the rows."""
    if device is None:
        return
    if not isinstance(device, str):
        raise TypeError(f"device must be None or a name, 'cuda' say, got {device!r}")
    if not re.fullmatch(r"[A-Za-z_][\w.]*(:[\w:]+)?", device) or device.startswith(f"{HERE}:"):
        raise ValueError(
            f"device={device!r} names none; use None, {CUDA!r} (CuPy), {HERE!r} (the host), or a library of the array API and one of its"
            " devices, 'torch:cuda:0' say"
        )


def home_of(X: Any) -> str | None:
    """The name of the device that an array is on; None for what is here."""
    if not is_elsewhere(X):
        return None
    from array_api_compat import is_cupy_array

    return CUDA if is_cupy_array(X) else f"{namespace_of(X).__name__.removeprefix('array_api_compat.')}:{_word(device_of(X))}"


@cache
def example(name: str) -> Any:
    """An array on the device of that name. Raises ValueError where this process has none."""
    library, _, own = ("cupy", "", "") if name == CUDA else name.partition(":")
    try:
        module = import_module(library)
    except ImportError as error:
        extra = "; pip install 'dask-descent[gpu13]', or [gpu12], has it" if library == "cupy" else ""
        raise ValueError(
            f"device={name!r} needs {library}, which cannot be imported where the rows are to live ({error}){extra}; or leave device= out"
        ) from error
    try:
        there = module.asarray([0.0])
        xp = namespace_of(there)
        devices = {_word(each): each for each in xp.__array_namespace_info__().devices()} if own else {}
        if own and own not in devices:
            raise LookupError(f"{library} has {', '.join(devices)}")
        return xp.asarray(np.zeros(1), device=devices.get(own, device_of(there)))
    except Exception as error:
        raise ValueError(
            f"there is no device={name!r} with numbers of 64 bits where the rows are to live: {type(error).__name__}: {error};"
            " leave device= out, or have workers that have one"
        ) from error


def _word(device: Any) -> str:
    """The name of a device by itself, however a library writes it: <CUDA Device 0>, cuda:0, Device('device1')."""
    return str(re.findall(r"[\w:]+", str(device))[-1])


def require_home(group: Group) -> None:
    """Raise ValueError for rows that cannot come to where they are to live: they are sparse, or there is no such device."""
    if group.home is not None:
        require_dense(group.X, group.home, f"partition {group.first_partition}: ")
        example(group.home)


def require_dense(X: Any, home: str | None, whose: str = "") -> None:
    """Raise ValueError for sparse rows that are to live on a device."""
    if sp.issparse(X) and home not in (None, HERE):
        raise ValueError(f"{whose}X is sparse, and rows on a device are dense; make it dense (X.toarray()), or leave device={home!r} out")


def at_home(groups: Iterable[Group]) -> None:
    """Have groups live where they are to: those that are still here go to their device. Raises OutOfMemoryError, naming the partitions,
    where they do not fit there, ValueError where there is no such device."""
    for group in groups:
        if group.home is not None and not is_elsewhere(group.X):
            with _moving:
                if not is_elsewhere(group.X):  # nor has another thread moved it
                    _settle(group, group.home)


def _settle(group: Group, home: str) -> None:
    require_home(group)
    if not group.from_client:
        partition_digests(group)  # of the numbers that were read
    there = example(home)
    try:
        group.move(beside(there, group.X), DIGESTS)
    except Exception as error:
        if not ran_out(error):
            raise
        raise OutOfMemoryError(_unfit(group, home, there, error)) from error


def _unfit(group: Group, home: str, there: Any, error: Exception) -> str:
    """What did not fit on a device, and what would."""
    first, last = group.first_partition, group.first_partition + len(group.offsets) - 2
    where = f"partition {first}" if first == last else f"partitions {first} to {last}"
    n_bytes, free = nbytes(group.X), free_bytes(there)
    fitting = "fewer or shorter partitions for each device would fit"
    if free is not None:
        fitting = f"{free / 1e6:.3g} MB are free there, so about {free * group.n_rows // max(n_bytes, 1)} of their rows would fit"
    return (
        f"X of {where} ({group.n_rows} rows, {n_bytes / 1e6:.3g} MB) does not fit on device={home!r}: {error}; {fitting}: have more"
        " workers with a device each, or leave device= out"
    )


def free_bytes(there: Any) -> int | None:
    """The bytes that are free on the device of an array; None where its library does not say."""
    from array_api_compat import is_cupy_array, is_torch_array

    if is_cupy_array(there):
        return int(there.device.mem_info[0])
    if is_torch_array(there) and there.is_cuda:
        return int(import_module("torch").cuda.mem_get_info(there.device)[0])
    return None
