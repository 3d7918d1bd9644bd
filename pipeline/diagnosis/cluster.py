"""Dask clusters: the certificates of Dask's configuration, and a scheduler with its workers."""

from __future__ import annotations

import datetime as dt
import ssl
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.diagnosis.findings import Item, counted, told

CERTIFICATES: Final = "python -m pipeline certificates DIR makes certificates"


def certificates() -> Iterator[Item]:
    """The TLS files of Dask's configuration: whether they can be read, belong together, and are still valid. Raises OSError for one that
    cannot be read."""
    import dask

    from pipeline.cluster.security import ROLES

    parts = ("ca-file", *(f"{role}.{part}" for role in ROLES for part in ("cert", "key")))
    paths = {part: path for part in parts if (path := dask.config.get(f"distributed.comm.tls.{part}", None))}
    if not paths and dask.config.get("distributed.comm.require-encryption", None):
        yield Item("broken", "TLS", "Dask's configuration requires encryption, and names no certificates", CERTIFICATES)
        return
    if not paths:
        yield Item("missing", "TLS", "no certificates in Dask's configuration", f"{CERTIFICATES}, if you want them", needed=False)
        return
    for path in paths.values():
        Path(path).read_bytes()
    roles = {role: valid_until(role, paths) for role in ROLES if f"{role}.cert" in paths}
    until = min(roles.values(), default=None)
    if until is not None and until < dt.datetime.now(dt.UTC):
        yield Item("broken", "TLS", f"certificates that ended on {until:%Y-%m-%d}", CERTIFICATES)
        return
    valid = f", valid until {until:%Y-%m-%d}" if until is not None else ""
    exposed = [path for part, path in paths.items() if part.endswith("key") and Path(path).stat().st_mode & 0o077]
    cure = f"chmod 600 {' '.join(exposed)}, which others can read, and run code on the cluster with" if exposed else ""
    yield Item("ok", "TLS", f"certificates for {', '.join(roles) or 'nobody'}{valid}", cure)


def valid_until(role: str, paths: Mapping[str, str]) -> dt.datetime:
    """The end of a role's certificate. Raises ValueError where it, its key and the authority do not go together."""
    from cryptography.x509 import load_pem_x509_certificate

    certificate = paths[f"{role}.cert"]
    try:
        ssl.create_default_context(cafile=paths.get("ca-file")).load_cert_chain(certificate, paths.get(f"{role}.key"))
    except ssl.SSLError as error:
        raise ValueError(f"the certificate of the {role}: {error}") from error
    return load_pem_x509_certificate(Path(certificate).read_bytes()).not_valid_after_utc


def scheduler(address: str | None, file: str | None, tls: str | None, timeout: float) -> Iterator[Item]:
    """The scheduler at this address, or of this file, or of Dask's configuration, if any, and its workers. Nothing there is changed."""
    import dask

    from pipeline.cluster.connect import connect

    if address is None and file is None:
        address = dask.config.get("scheduler-address", None)
    if address is None and file is None:
        return
    with connect(address, scheduler_file=file, tls=tls, timeout=timeout) as connection:
        assert connection.client is not None
        workers = connection.client.scheduler_info(n_workers=-1)["workers"]
        n_threads = sum(worker["nthreads"] for worker in workers.values())
        network = "encrypted" if connection.encrypted else "plain"
        yield Item(
            "ok", "scheduler", f"{connection.address} ({network}), {counted(len(workers), 'worker')}, {counted(n_threads, 'thread')}"
        )
        if workers:
            yield from look_at(connection.client, workers)
        else:
            yield Item("missing", "workers", "none", f"start some: dask worker {connection.address}")


def look_at(client: Any, workers: Mapping[str, Any]) -> Iterator[Item]:
    """The workers: their packages, their code, the bits that they give, and their kinds. Nothing is sent to them."""
    from pipeline.cluster.asking import ANSWER_SECONDS, ask, packages_of
    from pipeline.cluster.code.code import TASKS, lacking_there, other_tasks
    from pipeline.cluster.code.modules import own_sources
    from pipeline.cluster.code.shipping import Look, digest_of, look
    from pipeline.cluster.code.versions import PACKAGES, some
    from tasks.machine.devices import visible_devices
    from tasks.machine.fingerprint import numeric_digest

    packages = packages_of(client, list(workers), PACKAGES)
    if silent := [worker for worker in workers if worker not in packages]:
        cure = "look into their logs, and start them again"
        yield Item("broken", "silent workers", f"{some(silent)}: no answer in {ANSWER_SECONDS:.0f} s", cure)
    yield versions(packages)
    own = {TASKS: digest_of(own_sources(TASKS))}
    looks = {worker: Look.of(answer) for worker, answer in ask(client, look, list(packages), [TASKS]).items()}
    theirs = {worker: found.modules[TASKS] for worker, found in looks.items()}
    same = [worker for worker in looks if not lacking_there(looks[worker], own)]
    none = [worker for worker in looks if theirs[worker].digest is None]
    if other := [worker for worker in looks if worker not in (*same, *none)]:
        what, _, cure = other_tasks(theirs[other[0]]).partition("; ")
        yield Item("broken", "workers' code", f"{some(other)} {what}", cure)
    else:
        yield Item("ok", "workers' code", f"{len(same)} have this process's, {len(none)} have none and get it with the first fit")
    if same:
        digests, here = ask(client, numeric_digest, same), numeric_digest()
        yield bits([worker for worker in digests if digests[worker] != here], len(digests))
    yield from kinds(workers, ask(client, visible_devices, same))


def versions(packages: Mapping[str, Any]) -> Item:
    """The workers' packages beside those here."""
    from pipeline.cluster.code.library import VersionMismatchError
    from pipeline.cluster.code.versions import compare_versions

    name = "workers' packages"
    with warnings.catch_warnings(record=True) as slight:
        warnings.simplefilter("always")
        try:
            compare_versions(packages)
        except VersionMismatchError as error:
            what, _, cure = str(error).rpartition("\n")
            return Item("broken", name, told(what), cure)
    return Item("ok", name, "; ".join(str(each.message) for each in slight) or "the same versions as here")


def bits(other: Sequence[str], n_asked: int) -> Item:
    """Whether the workers give the bits of this process; other: those that do not."""
    from pipeline.cluster.code.versions import some

    if not other:
        return Item("ok", "workers' bits", f"{n_asked} as this process's", needed=False)
    cure = "have the client and all workers on CPUs of one kind where the same bits are wanted"
    return Item("broken", "workers' bits", f"{some(other)}: the CPU or BLAS there rounds differently", cure, needed=False)


def kinds(workers: Mapping[str, Any], devices: Mapping[str, Sequence[str]]) -> Iterator[Item]:
    """The workers, those that are alike in a line; devices: the GPUs of those that were asked."""
    from dask.utils import format_bytes

    from pipeline.cluster.code.versions import some

    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for address, worker in workers.items():
        memory = format_bytes(worker["memory_limit"]) if worker.get("memory_limit") else "no memory limit"
        gpus = counted(len(devices[address]), "GPU") if address in devices else "GPUs not asked for"
        alike[f"{counted(worker['nthreads'], 'thread')}, {memory}, {gpus}", worker.get("status", "running")].append(address)
    for (kind, status), addresses in alike.items():
        found = f"{len(addresses)} with {kind}: {some(addresses)}"
        if status == "running":
            yield Item("ok", "workers", found)
        else:
            cure = "paused workers are full: give them more memory, or start more of them"
            yield Item("broken", "workers", f"{found}, {status}", cure)
