"""Whether the workers run the same code, and their CPUs give the same bits, as this process."""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path
from typing import Any

from distributed import Client

import tasks

_checked: set[str] = set()


class VersionMismatchError(RuntimeError):
    """The `tasks` package here or on a worker is not this library's, or another version of it."""


def check_tasks_here() -> None:
    """Raise VersionMismatchError when `tasks` is somebody else's module, a tasks.py beside the notebook for instance."""
    if vars(tasks).get("DISTRIBUTION") != "dask-descent":
        place = vars(tasks).get("__file__", "somewhere")
        raise VersionMismatchError(
            f"`import tasks` found {place}, which is not dask-descent's package; rename that file, or start Python in another directory"
        )


def code_digest() -> str:
    """SHA-256 over the sources of the `tasks` package as imported here."""
    import tasks  # noqa: PLC0415  (runs on workers, where this module's globals may be another process's)

    digest = hashlib.sha256()
    root = Path(tasks.__file__ or "").parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def numeric_digest() -> str:
    """SHA-256 of a small matrix product and factorisation: differs where BLAS picks other kernels."""
    import numpy as np  # noqa: PLC0415
    from scipy import linalg  # noqa: PLC0415

    from tasks.threads import single_blas_thread  # noqa: PLC0415

    values = np.sin(np.arange(257 * 67, dtype=np.float64)).reshape(257, 67)
    with single_blas_thread():
        product = values.T @ values
        factor = linalg.cholesky(product + 67 * np.eye(67), lower=True)
    return hashlib.sha256(product.tobytes() + factor.tobytes()).hexdigest()


def worker_report() -> dict[str, Any]:
    """What a worker says of itself."""
    return {"code": code_digest(), "numeric": numeric_digest(), "python": sys.version_info[:2]}


def check_workers(client: Client) -> None:
    """Compare every worker with this process, once a cluster.

    Raises VersionMismatchError, listing the workers, when their code differs; warns when their CPUs give other bits.
    """
    if client.id in _checked:
        return
    own = worker_report()
    try:
        reports = client.run(worker_report, on_error="return")
    except ModuleNotFoundError as error:
        raise VersionMismatchError(_missing(error)) from error
    for address, report in reports.items():
        if isinstance(report, ModuleNotFoundError | ImportError | AttributeError):
            raise VersionMismatchError(f"worker {address}: {_missing(report)}")
        if isinstance(report, Exception):
            raise report
        if report["code"] != own["code"]:
            raise VersionMismatchError(f"worker {address} runs another version of dask-descent than this process; install the same on both")
    other = [address for address, report in reports.items() if report["numeric"] != own["numeric"]]
    if other:
        warnings.warn(
            f"{', '.join(other)}: the CPU or BLAS there rounds differently from this process's; results will not be bit-identical",
            stacklevel=2,
        )
    _checked.add(client.id)


def _missing(error: BaseException) -> str:
    return f"cannot import dask-descent's `tasks` there ({error}); install dask-descent in the workers' environment, beside no tasks.py of yours"
