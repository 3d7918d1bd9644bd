"""This machine, as a process here finds it: Python, cores, memory, BLAS, the bits that it gives, and places that must be writable."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.diagnosis.findings import Item, counted, told


def python() -> Iterator[Item]:
    """Python and the platform."""
    yield Item("ok", "Python", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}")


def cores() -> Iterator[Item]:
    """The cores that this process may use, and what holds it to fewer than the machine has."""
    from dask.system import cpu_count

    from pipeline.execution.threads import default_threads

    machine = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else machine
    usable, threads = cpu_count(), default_threads()
    found = f"{usable} of {machine}"
    if allowed < machine:
        found += f", affinity allows {allowed}"
    if usable < allowed:
        found += f", the cgroup allows {usable}"
    if threads != usable:
        found += f"; fits take {counted(threads, 'thread')}, as num_workers or pool in Dask's configuration says"
    yield Item("ok", "cores", found)


def memory() -> Iterator[Item]:
    """The memory that this process may use."""
    import psutil
    from dask.utils import format_bytes

    there, limit = psutil.virtual_memory(), cgroup_limit()
    found = f"{format_bytes(there.total)}, {format_bytes(there.available)} of it free"
    if limit is not None and limit < there.total:
        found += f", the cgroup allows {format_bytes(limit)}"
    yield Item("ok", "memory", found)


def cgroup_limit(root: Path = Path("/")) -> int | None:
    """The least of the limits, in bytes, of this process's cgroup and of those around it, of either version; None without any."""
    limits: list[int] = []
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, name = ("sys/fs/cgroup/memory", "memory.limit_in_bytes") if controllers else ("sys/fs/cgroup", "memory.max")
        parts = Path(path.lstrip("/")).parts
        files = [root.joinpath(base, *parts[:depth], name) for depth in range(len(parts) + 1)]
        texts = [file.read_text().strip() for file in files if file.exists()]
        limits += [int(text) for text in texts if text.isdigit()]  # else "max"
    return min(limits, default=None)


def blas() -> Iterator[Item]:
    """The BLAS libraries that NumPy and SciPy load, and their threads."""
    from threadpoolctl import threadpool_info

    import tasks.machine.threads  # noqa: F401  which loads them

    found = [each for each in threadpool_info() if each["user_api"] == "blas"]
    for each in found:
        kind = f" ({each['architecture']})" if each.get("architecture") else ""
        version = f"{each['internal_api']} {each['version'] or ''}".rstrip()
        yield Item("ok", "BLAS", f"{version}{kind}, {counted(each['num_threads'], 'thread')}, {each['filepath']}")
    if not found:
        cure = "install NumPy and SciPy with OpenBLAS or MKL where the same bits are wanted on any number of threads"
        yield Item("missing", "BLAS", "no library whose threads can be limited", cure, needed=False)


def fingerprint() -> Iterator[Item]:
    """The digest of what the CPU and BLAS round: machines with the same one give the same bits."""
    from tasks.machine.fingerprint import numeric_digest

    yield Item("ok", "fingerprint", f"{numeric_digest()} (machines with the same one give the same bits)")


def machine_code() -> Iterator[Item]:
    """The place where numba keeps compiled kernels."""
    from dask.utils import format_bytes

    try:
        from tasks.kernels.compiling import SOURCES
        from tasks.kernels.passes import gradient_pass
    except RuntimeError as error:
        if "cannot cache" not in str(error):  # as numba says when there is no such place
            raise
        cure = "set the environment variable NUMBA_CACHE_DIR to a directory that you can write"
        yield Item("broken", "machine code", told(error), cure)
        return
    place = Path(gradient_pass.stats.cache_path)
    sizes = [file.stat().st_size for file in place.glob(f"*{SOURCES}*.nbc")]
    kept = f"{counted(len(sizes), 'kernel')}, {format_bytes(sum(sizes))}" if sizes else "none yet, the first fits compile for some seconds"
    yield Item("ok", "machine code", f"{kept}, kept in {place}")


def runs_directory() -> Iterator[Item]:
    """The place where runs are written."""
    from dask.utils import format_bytes

    runs = Path("runs").absolute()
    place = runs if runs.exists() else runs.parent
    tempfile.TemporaryFile(dir=place).close()
    yield Item("ok", "runs", f"can be written to {place}, {format_bytes(shutil.disk_usage(place).free)} free")
