"""GPUs: NVIDIA's driver, and what computes on them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, Final, NamedTuple

import tasks
from pipeline.diagnosis.findings import Item, counted, told

NO_DEVICE: Final = 100
"""CUDA's error where there is a driver, and no device that this process may use."""
EXTRAS: Final = {13: "gpu13", 12: "gpu12"}
"""The extra with a CuPy for each CUDA."""


class Driver(NamedTuple):
    """NVIDIA's driver. cuda: the newest CUDA that it takes, 13020 for 13.2; status: 0, or why it does not work."""

    cuda: int
    status: int
    n_devices: int

    @classmethod
    def find(cls) -> Driver | None:
        """The driver, asked as CuPy and PyTorch ask it; None without one."""
        try:
            library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            return None
        cuda, n_devices = ctypes.c_int(), ctypes.c_int()
        status = library.cuInit(0)
        library.cuDriverGetVersion(ctypes.byref(cuda))
        if status == 0:
            library.cuDeviceGetCount(ctypes.byref(n_devices))
        return cls(cuda.value, status, n_devices.value)

    @property
    def cure(self) -> str:
        """What installs a CuPy for it."""
        extra = next((extra for major, extra in EXTRAS.items() if self.cuda >= 1000 * major), None)
        if extra is None:
            return f"update the driver to one for CUDA {min(EXTRAS)} or newer"
        return f"python -m pip install '{tasks.DISTRIBUTION}[{extra}]'"


def dotted(cuda: int) -> str:
    """CUDA's version as it is written."""
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


def driver() -> Iterator[Item]:
    """NVIDIA's driver, and the GPUs that workers here would take."""
    name, found = "NVIDIA driver", Driver.find()
    devices = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    if found is None and devices:
        cure = "install the driver's libraries; a container gets them by --gpus all (Docker) or --nv (Apptainer)"
        yield Item("broken", name, f"{', '.join(devices)} and no libcuda.so.1", cure)
    elif found is None:
        yield Item("missing", name, "none, and no GPU")
    elif found.status == NO_DEVICE:
        cure = "look at CUDA_VISIBLE_DEVICES, or ask for a GPU where the job is submitted, if you want one"
        yield Item("missing", name, f"for CUDA {dotted(found.cuda)}, and no GPU that this process may use", cure)
    elif found.status != 0:
        cure = "see what nvidia-smi says; the driver, or the machine, may have to be started again"
        yield Item("broken", name, f"for CUDA {dotted(found.cuda)}, and cuInit fails with {found.status}", cure)
    else:
        yield Item("ok", name, f"{kernel_module()}for CUDA {dotted(found.cuda)}, {counted(found.n_devices, 'GPU')}")
        yield from gpus_of_workers()


def kernel_module() -> str:
    """The driver's own version, and a comma; "" where it is not told."""
    try:
        version = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return ""
    return f"{version[0]}, " if version else ""


def gpus_of_workers() -> Iterator[Item]:
    """The GPUs that `connect(gpu=True)` starts workers for."""
    from pipeline.cluster.gpus import local_gpus

    try:
        yield Item("ok", "GPUs of workers", ", ".join(local_gpus()))
    except ValueError as error:
        cure = "have nvidia-smi on PATH, or list the GPUs in CUDA_VISIBLE_DEVICES"
        yield Item("broken", "GPUs of workers", told(str(error)), cure)


def cupy() -> Iterator[Item]:
    """CuPy, and a computation on each device."""
    packages, nvidia = sorted(set(packages_distributions().get("cupy", ()))), Driver.find()
    if not packages:
        yield Item("missing", "CuPy", "not installed", nvidia.cure if nvidia else "")
        return
    if len(packages) > 1:
        cure = f"python -m pip uninstall {' '.join(packages)}, then {nvidia.cure if nvidia else 'install one of them'}"
        yield Item("broken", "CuPy", f"{' and '.join(packages)}, of which one alone may be there", cure)
        return
    import cupy

    found = f"{cupy.__version__} ({packages[0]})"
    if nvidia is None or nvidia.status == NO_DEVICE:
        yield Item("missing", "CuPy", f"{found}, and no GPU to compute on")
        return
    runtime = cupy.cuda.runtime
    n_devices = runtime.getDeviceCount()
    versions = f"runtime {dotted(runtime.runtimeGetVersion())}, driver {dotted(runtime.driverGetVersion())}"
    yield Item("ok", "CuPy", f"{found}, CUDA {versions}, {counted(n_devices, 'GPU')}")
    for i in range(n_devices):
        yield device(cupy, i, nvidia.cure)


def device(cupy: Any, i: int, cure: str) -> Item:
    """A device, after small sums on it; NumPy knows them."""
    import numpy as np
    from dask.utils import format_bytes

    name = f"GPU {i}"
    try:
        with cupy.cuda.Device(i) as chosen:
            expected, got = (float((xp.arange(64.0).reshape(8, 8) @ xp.eye(8) + 1.0).sum()) for xp in (np, cupy))
            free, total = chosen.mem_info
        kind = cupy.cuda.runtime.getDeviceProperties(i)["name"].decode()
    except Exception as error:  # noqa: BLE001
        return Item("broken", name, told(error), cure)
    if got != expected:
        return Item("broken", name, f"{kind} computes {got:g} where {expected:g} is right", "have the device looked at")
    return Item("ok", name, f"{kind}, {format_bytes(total)}, {format_bytes(free)} of it free; it computes")


def pytorch() -> Iterator[Item]:
    """PyTorch, and a computation on what it has."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        cure = f"python -m pip install '{tasks.DISTRIBUTION}[torch]' if you want it"
        yield Item("missing", "PyTorch", "not installed", cure)
        return
    nvidia, cuda = Driver.find(), torch.version.cuda
    n_devices = torch.cuda.device_count()
    threads = counted(torch.get_num_threads(), "thread")
    found = f"{torch.__version__}, CUDA {cuda or 'none'}, {counted(n_devices, 'GPU')}, {threads}"
    if cuda and nvidia and nvidia.n_devices and not torch.cuda.is_available():
        cure = f"install a PyTorch for CUDA {dotted(nvidia.cuda)} or older, or a newer driver"
        yield Item("broken", "PyTorch", f"{found}; it does not get on with the driver, for CUDA {dotted(nvidia.cuda)}", cure)
        return
    for place in ["cpu", *(f"cuda:{i}" for i in range(n_devices))]:
        if (got := float(torch.arange(4.0, device=place).sum())) != 6.0:
            raise ArithmeticError(f"0 + 1 + 2 + 3 is {got:g} on {place}")
    yield Item("ok", "PyTorch", found)
