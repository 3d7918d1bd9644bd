"""One GPU a worker process: `dask worker --preload tasks.machine.devices`, before anything there imports CuPy.

A worker whose name ends in -2 (or is the number 2) takes the third of the GPUs that its job may use, those of CUDA_VISIBLE_DEVICES or else
all of the machine; numbers beyond the last begin again with the first, so workers numbered through over jobs of one GPU each are right too.
A restarted worker process finds its nanny's environment, not its predecessor's, and chooses the same again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "CUDA_VISIBLE_DEVICES"


def dask_setup(worker: Any) -> None:
    """Give the worker its GPU: called by Dask in the worker's process, before it takes tasks."""
    device = own_device(str(worker.name), visible_devices())
    if device is not None:
        os.environ[VARIABLE] = device


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as CUDA names them."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return [device.strip() for device in given.split(",") if device.strip()]
    return [str(i) for i in range(sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in Path("/dev").glob("nvidia*")))]


def own_device(name: str, devices: list[str]) -> str | None:
    """The device of the worker with this name; None when there is none."""
    suffix = re.search(r"(?:^|-)(\d+)$", name)
    return devices[int(suffix[1]) % len(devices)] if suffix and devices else next(iter(devices), None)
