"""Whether the workers run the same code, and their CPUs give the same bits, as this process."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from weakref import WeakKeyDictionary

from distributed import Client

from pipeline.cluster.identity import VersionMismatchError
from tasks.direct import prepare_worker
from tasks.fingerprint import worker_report

_checked: WeakKeyDictionary[Client, set[str]] = WeakKeyDictionary()


def check_workers(client: Client, workers: Iterable[str]) -> None:
    """Compare the workers at these addresses with this process, and make them ready for calls, each once.

    Raises VersionMismatchError, listing the workers, when their code differs; warns when their CPUs give other bits.
    """
    known = _checked.setdefault(client, set())
    new = sorted(set(workers) - known)
    if not new:
        return
    own = worker_report()
    try:
        reports = client.run(prepare_worker, workers=new, on_error="return")
    except ModuleNotFoundError as error:
        raise VersionMismatchError(_missing(error)) from error
    for address, report in reports.items():
        if isinstance(report, ModuleNotFoundError | ImportError | AttributeError):
            raise VersionMismatchError(f"worker {address}: {_missing(report)}")
        if isinstance(report, OSError):  # it has just gone; the scheduler knows, or will soon
            continue
        if isinstance(report, Exception):
            raise report
        known.add(address)
        if report["code"] != own["code"]:
            raise VersionMismatchError(f"worker {address} runs another version of dask-descent than this process; install the same on both")
    other = [address for address in new if address in known and reports[address]["numeric"] != own["numeric"]]
    if other:
        warnings.warn(
            f"{', '.join(other)}: the CPU or BLAS there rounds differently from this process's; results will not be bit-identical",
            stacklevel=2,
        )


def _missing(error: BaseException) -> str:
    cure = "install dask-descent in the workers' environment, beside no tasks.py of yours"
    return f"cannot import dask-descent's `tasks` there ({error}); {cure}"
