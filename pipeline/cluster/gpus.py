"""The GPUs of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from tasks.machine.devices import VARIABLE


def local_gpus() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES lists, else all that `nvidia-smi -L` lists (parts of a GPU that is cut into MIG devices).

    Raises ValueError when there is none.
    """
    given = os.environ.get(VARIABLE)
    devices = parse_listing(_listing()) if given is None else [device.strip() for device in given.split(",")]
    devices = [device for device in devices if device not in ("", "-1")]
    if not devices:
        found = f"{VARIABLE} lists none" if given is not None else "nvidia-smi lists none"
        raise ValueError(
            f"gpu=True, and this machine has no GPU ({found}); leave gpu out to work on its cores, or use queue= or an address"
        )
    return devices


def _listing() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    run = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return run.stdout if run.returncode == 0 else ""


def parse_listing(text: str) -> list[str]:
    """The UUIDs in a listing, which CUDA takes as they are; its numbers follow another order than nvidia-smi's."""
    devices: list[str] = []
    whole = False  # the last of them is a whole GPU
    for line in text.splitlines():
        uuid = re.search(r"UUID: ([\w/-]+)", line)
        if uuid is None:
            continue
        if not line.startswith("GPU") and whole:
            devices.pop()
        whole = line.startswith("GPU")
        devices.append(uuid[1])
    return devices
