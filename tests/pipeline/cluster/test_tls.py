"""TLS with real certificates, over clusters of this process and over processes of the command line."""

from __future__ import annotations

import gc
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from distributed import Client, LocalCluster, Security, default_client

from pipeline import Dataset, LogisticRegression, connect
from pipeline.cluster.network import speaks_tls
from pipeline.cluster.security import (
    CertificateError,
    InsecureConnectionError,
    make_certificates,
    read_certificates,
    tls_environment,
    with_worker_files,
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls") / "ours", hosts=["node1.example", "10.0.0.1"])


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls") / "others")


@pytest.fixture(scope="module")
def secure(certificates: Path) -> Iterator[LocalCluster]:
    options: dict[str, Any] = {"security": read_certificates(certificates), "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, **options) as cluster:
        yield cluster


@pytest.mark.long
def test_who_has_certificates_is_connected(secure: LocalCluster, certificates: Path) -> None:
    address = secure.scheduler_address
    for tls in (certificates, str(certificates), read_certificates(certificates)):
        with connect(address, tls=tls, require_tls=True) as connection:
            assert connection.encrypted and "encrypted" in repr(connection)
    with connect(secure, require_tls=True) as connection:
        assert connection.address == address
    with Client(address, security=read_certificates(certificates)) as client, connect(client, require_tls=True) as connection:
        assert connection.encrypted
        with pytest.raises(ValueError, match="a Client has its connection already; give the certificates to it"):
            connect(client, tls=certificates)


def test_dask_s_own_configuration_is_respected(secure: LocalCluster, certificates: Path) -> None:
    configured = {
        "distributed.comm.tls.ca-file": str(certificates / "ca.pem"),
        "distributed.comm.tls.client.cert": str(certificates / "client.pem"),
        "distributed.comm.tls.client.key": str(certificates / "client-key.pem"),
    }
    with dask.config.set(configured), connect(secure.scheduler_address) as connection:
        assert connection.encrypted


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # distributed leaves a socket of a failed handshake open
def test_one_side_alone(secure: LocalCluster, cluster: LocalCluster, certificates: Path, others: Path) -> None:
    tls, plain = secure.scheduler_address, cluster.scheduler_address
    start = time.monotonic()
    with pytest.raises(InsecureConnectionError, match=r"takes TLS only, and there are no certificates here; give tls=DIRECTORY"):
        connect(tls)
    with pytest.raises(InsecureConnectionError, match=r"takes TLS only; connect to tls://127\.0\.0\.1:\d+ and give tls=DIRECTORY"):
        connect(tls.replace("tls://", "tcp://"), timeout=5)
    with pytest.raises(InsecureConnectionError, match=r"takes TLS only; connect to tls://"):
        connect(tls.removeprefix("tls://"), timeout=5)
    with pytest.raises(CertificateError, match="has a certificate of another authority"):
        connect(tls, tls=others)
    with pytest.raises(InsecureConnectionError, match="speaks plain TCP; start it with certificates"):
        connect(plain.replace("tcp://", "tls://"), tls=certificates)
    with pytest.raises(InsecureConnectionError, match=r"require encryption, and tcp://.* is a plain address"):
        connect(plain, tls=certificates)
    mixed = Security(
        tls_ca_file=str(certificates / "ca.pem"), tls_client_cert=str(others / "client.pem"), tls_client_key=str(others / "client-key.pem")
    )
    with pytest.raises(CertificateError, match="refused these certificates"):
        connect(tls, tls=mixed, timeout=5)
    with pytest.raises(ValueError, match="unknown address scheme 'no'"):
        connect("no://127.0.0.1:1")
    with pytest.raises(ValueError, match="No clients found"):  # none of those that failed is the current one
        default_client()
    gc.collect()
    assert time.monotonic() - start < 40
    assert speaks_tls(tls) and not speaks_tls("tcp://127.0.0.1:1")


def test_plain_is_refused_where_tls_is_required(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    client.write_scheduler_file(str(tmp_path / "scheduler.json"))
    before = client.status
    for to in (cluster.scheduler_address, cluster.scheduler_address.removeprefix("tcp://"), cluster, client):
        with pytest.raises(InsecureConnectionError, match=r"require_tls=True, and tcp://.* is not encrypted; start the scheduler with"):
            connect(to, require_tls=True)
    with pytest.raises(InsecureConnectionError, match="require_tls=True"):
        connect(scheduler_file=str(tmp_path / "scheduler.json"), require_tls=True)
    assert client.status == before
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match=r"other\.json is no scheduler file"):
        connect(scheduler_file=str(tmp_path / "other.json"))


def test_arguments_that_contradict_each_other(cluster: LocalCluster) -> None:
    with pytest.raises(ValueError, match="contradict each other"):
        connect(n_workers=1, tls=False, require_tls=True)
    with pytest.raises(ValueError, match="tls=True makes temporary keys, which a running scheduler does not know"):
        connect(cluster.scheduler_address, tls=True)
    with pytest.raises(TypeError, match=r"tls must be a distributed\.Security, a directory"):
        connect(n_workers=1, tls=5)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"needs ca\.pem, client\.pem and client-key\.pem there"):
        connect(cluster.scheduler_address, tls="/nowhere")


@pytest.mark.parametrize("arguments", [{"tls": True}, {"require_tls": True}, {"tls": "directory"}])
@pytest.mark.long
def test_workers_of_this_machine(arguments: dict[str, Any], certificates: Path) -> None:
    if arguments.get("tls") == "directory":
        arguments = {"tls": certificates}
    with connect(n_workers=1, **arguments) as connection:
        assert connection.client is not None
        assert str(connection.address).startswith("tls://127.0.0.1:")
        assert LogisticRegression().fit(np.eye(4), [0, 1, 0, 1]).n_iter_ > 0


def test_dashboards_listen_on_this_machine_alone() -> None:
    with connect(n_workers=1) as connection:
        assert connection.client is not None
        info = connection.client.scheduler_info()
        ports = {info["services"]["dashboard"], *(worker["services"]["dashboard"] for worker in info["workers"].values())}
        listening = {(c.laddr.ip, c.laddr.port) for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port in ports}
        assert listening == {("127.0.0.1", port) for port in ports} and len(ports) == 2
        for host in ("127.0.0.2", socket.gethostbyname(socket.gethostname())):
            if host != "127.0.0.1":
                with pytest.raises(OSError, match="refused"):
                    socket.create_connection((host, min(ports)), timeout=2)


@pytest.mark.long
def test_processes_of_the_command_line(certificates: Path, others: Path, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    environment = os.environ | tls_environment(certificates) | {"DASK_DISTRIBUTED__SCHEDULER__DASHBOARD__ENABLED": "False"}
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--scheduler-file", str(file), "--host", "tls://127.0.0.1"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--host", "127.0.0.1"]
    words = (["--port", "0", "--dashboard-address", "127.0.0.1:0"], ["--protocol", "tls", "--dashboard-address", "127.0.0.1:0"])
    started = [
        subprocess.Popen([*command, *more], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
        for command, more in zip((scheduler, worker), words, strict=True)
    ]
    try:
        rows = Dataset.from_arrays(np.eye(6), [0, 1, 0, 1, 0, 1], n_partitions=2)
        expected = LogisticRegression().fit(rows).parameters_sha256_
        with connect(scheduler_file=str(file), tls=certificates, require_tls=True, timeout=30) as connection:
            assert str(connection.address).startswith("tls://")
            assert LogisticRegression().fit(rows).parameters_sha256_ == expected
        with pytest.raises(CertificateError, match="another authority"):
            connect(scheduler_file=str(file), tls=others)
        with pytest.raises(InsecureConnectionError, match="no certificates here"):
            connect(scheduler_file=str(file))
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(20)


# -- the files -----------------------------------------------------------------------------------------------------------------------


def test_certificates_are_what_they_say(certificates: Path) -> None:
    ca = x509.load_pem_x509_certificate((certificates / "ca.pem").read_bytes())
    for role in ("scheduler", "worker", "client"):
        certificate = x509.load_pem_x509_certificate((certificates / f"{role}.pem").read_bytes())
        certificate.verify_directly_issued_by(ca)
        key: Any = load_pem_private_key((certificates / f"{role}-key.pem").read_bytes(), None)
        assert key.public_key() == certificate.public_key() and key.curve.name == "secp256r1"
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["localhost", "node1.example"]
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        command = ["openssl", "verify", "-x509_strict", "-CAfile", str(certificates / "ca.pem"), str(certificates / f"{role}.pem")]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.endswith("OK\n")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in certificates.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {
        "ca-key.pem",
        "scheduler-key.pem",
        "worker-key.pem",
        "client-key.pem",
    }
    assert stat.S_IMODE(certificates.stat().st_mode) == 0o700


def test_certificates_are_not_overwritten_and_keys_stay_private(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    before = (made / "ca.pem").read_bytes()
    with pytest.raises(FileExistsError, match=r"ca\.pem is there already; choose another directory"):
        make_certificates(made)
    assert (made / "ca.pem").read_bytes() == before
    (made / "worker-key.pem").chmod(0o640)
    with pytest.raises(PermissionError, match=r"worker-key\.pem can be read by others, who could run code"):
        read_certificates(made)


def test_what_others_can_write_is_no_certificate(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    for mode in (0o775, 0o757, 0o1777):
        shared.chmod(mode)
        with pytest.raises(PermissionError, match=rf"{shared} can be written by others, .*; chmod go-w {shared}$"):
            make_certificates(shared)
    assert list(shared.iterdir()) == []
    shared.chmod(0o755)
    make_certificates(shared)
    for path in (shared, shared / "ca.pem", shared / "client.pem", shared / "worker.pem"):
        mode = stat.S_IMODE(path.stat().st_mode)
        for wrong in (mode | 0o020, mode | 0o002):
            path.chmod(wrong)
            with pytest.raises(PermissionError, match=rf"chmod go-w {path}$"):
                read_certificates(shared)
        path.chmod(mode)
    assert read_certificates(shared).require_encryption


def test_workers_files_are_private(tmp_path: Path) -> None:
    security = with_worker_files(Security.temporary(), tmp_path)
    worker = security.get_tls_config_for_role("worker")
    assert {Path(worker[part]).name for part in ("ca_file", "cert", "key")} == {"ca_file.pem", "worker_cert.pem", "worker_key.pem"}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())
    assert "PRIVATE KEY" in security.get_tls_config_for_role("scheduler")["key"]  # in memory alone
