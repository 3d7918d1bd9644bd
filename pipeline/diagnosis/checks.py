"""All checks, in the order in which they are made."""

from __future__ import annotations

from typing import Final

from pipeline.diagnosis import cluster, gpus, machine, queues
from pipeline.diagnosis.findings import Check
from pipeline.diagnosis.packages import extra, library, name_of, package, requirements, spelled

IMPORT_SECONDS: Final = 120.0
"""From a file system of many nodes that all start at once, an import takes long."""
OWN: Final = ("gpu12", "gpu13", "torch")
"""Extras of packages that have checks of their own."""


def all_checks(address: str | None, file: str | None, tls: str | None, timeout: float) -> list[Check]:
    """The checks of a machine, and of the cluster that these arguments name; timeout: seconds to wait for its scheduler."""
    needs = requirements()
    return [
        Check("Python", machine.python),
        Check("dask-descent", library),
        *(
            Check(name_of(line), package, (line,), f"python -m pip install --force-reinstall {spelled(line)}", seconds=IMPORT_SECONDS)
            for line in needs.get("", ())
        ),
        *(Check(f"extra {name}", extra, (name, needs[name]), needed=False) for name in needs if name not in ("", *OWN)),
        Check("cores", machine.cores, seconds=IMPORT_SECONDS),
        Check("memory", machine.memory),
        Check("BLAS", machine.blas, seconds=IMPORT_SECONDS),
        Check("fingerprint", machine.fingerprint),
        Check("machine code", machine.machine_code, seconds=IMPORT_SECONDS),
        Check("runs", machine.runs_directory, (), "go to a directory that you can write, or give --out"),
        Check("NVIDIA driver", gpus.driver, needed=False, seconds=90.0),
        Check("CuPy", gpus.cupy, (), "install the extra for the CUDA of the driver, gpu12 or gpu13", needed=False, seconds=IMPORT_SECONDS),
        Check("PyTorch", gpus.pytorch, (), "install PyTorch again", needed=False, seconds=IMPORT_SECONDS),
        Check("queueing systems", queues.none_here, needed=False),
        *(
            Check(" or ".join(names), queues.queue, (command, names), queues.SUPPORT, needed=False, seconds=90.0)
            for command, names in queues.by_command().items()
        ),
        Check("TLS", cluster.certificates, (), "mend distributed.comm.tls in Dask's configuration, or the file"),
        Check(
            "scheduler",
            cluster.scheduler,
            (address, file, tls, timeout),
            "start a scheduler (dask scheduler), or name one that runs",
            seconds=timeout + 120.0,
        ),
    ]
