"""A Python with this environment's packages, but without this library, and Dask's commands in it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def make_bare_python(directory: Path) -> Path:
    """The interpreter of a virtual environment that sees this one's packages, but none that are installed as editable: the path files of
    a folder that is itself named by a path file are not read."""
    venv.create(directory, symlinks=True, with_pip=False)
    python = directory / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True, check=True
    )
    (Path(site.stdout.strip()) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for module, there in (("tasks", False), ("pipeline", False), ("distributed", True)):
        code = f"import importlib.util; raise SystemExit((importlib.util.find_spec({module!r}) is not None) != {there})"
        subprocess.run([python, "-c", code], cwd=directory, env=environment(), check=True)
    return python


def environment(**more: str) -> dict[str, str]:
    """Without a PYTHONPATH that might lead to this library."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


@contextmanager
def command_line_cluster(
    python: Path | str = sys.executable,
    *,
    directory: Path,
    n_workers: int = 2,
    options: tuple[str, ...] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """`dask scheduler` and `dask worker` as processes in this directory; the scheduler file.

    options: of all commands; variables: of their environment.
    """
    file = directory / "scheduler.json"
    dask = [str(python), "-m", "dask"]
    with (directory / "cluster.log").open("w") as log:
        address = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
        commands = [[*dask, "scheduler", "--scheduler-file", str(file), *address, *options]]
        start = ["worker", "--scheduler-file", str(file), "--nthreads", "1", "--dashboard-address", "127.0.0.1:0"]
        commands += [[*dask, *start, "--name", f"worker-{i}", *options] for i in range(n_workers)]
        processes = []
        try:
            for command in commands:
                processes.append(subprocess.Popen(command, cwd=directory, env=environment(**variables or {}), stdout=log, stderr=log))
                deadline = time.monotonic() + 30
                while not file.exists() and time.monotonic() < deadline:
                    time.sleep(0.05)
            yield file
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(20)
