"""TLS: who may connect is who holds a certificate of one dedicated authority. docs/security.md says what that protects."""

from __future__ import annotations

import copy
import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from distributed import Security

CA: Final = "ca.pem"
CA_KEY: Final = "ca-key.pem"
ROLES: Final = ("scheduler", "worker", "client")
DAYS: Final = 365
ENVIRONMENT: Final = "DASK_DISTRIBUTED__COMM__TLS__"


class InsecureConnectionError(ConnectionError):
    """The scheduler speaks plain TCP where TLS was required, or TLS where no certificates were given."""


class CertificateError(ConnectionError):
    """The two sides hold certificates of different authorities."""


def make_certificates(directory: str | Path, *, hosts: Sequence[str] = (), days: int = DAYS) -> Path:
    """Make an authority of its own, and a certificate and key (ECDSA P-256) for scheduler, worker and client, signed by it.

    Files: ca.pem, ca-key.pem, and scheduler.pem, scheduler-key.pem, worker.pem and so on. Keys are readable by their owner alone; whoever
    can read one of them may connect and run code. ca-key.pem is needed for further certificates only. hosts: names and addresses written
    into the certificates, for programs that look (Dask does not).
    Returns the directory. Raises FileExistsError when an authority is there already: a new one would lock out all that trust the old;
    PermissionError for a directory that others can write.
    """
    directory = Path(directory)
    if (directory / CA).exists():
        raise FileExistsError(f"{directory / CA} is there already; choose another directory, or remove this one and all its certificates")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_unwritable(directory)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dask-descent authority {os.urandom(8).hex()}")])
    ca = _certificate(ca_name, ca_key, ca_name, ca_key, days).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = ca.add_extension(_key_usage(signs_certificates=True), critical=True)
    _write_key(directory / CA_KEY, ca_key)
    for role in ROLES:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, role)])
        certificate = (
            _certificate(name, key, ca_name, ca_key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in ("localhost", *hosts)]), critical=False)
        )
        _write_key(directory / f"{role}-key.pem", key)
        _write(directory / f"{role}.pem", certificate.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    _write(directory / CA, ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return directory


def _certificate(name: x509.Name, key: Any, issuer: x509.Name, issuer_key: Any, days: int) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))  # clocks of nodes differ
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(path: Path, key: Any) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(path, pem, mode=0o600)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def read_certificates(directory: str | Path) -> Security:
    """The Security of a directory that `make_certificates` made, whose connections must be encrypted.

    Raises FileNotFoundError for files that are missing, PermissionError for keys that others can read and for what others can write.
    """
    directory = Path(directory)
    files = {"tls_ca_file": CA}
    for role in ROLES:
        files |= {f"tls_{role}_cert": f"{role}.pem", f"tls_{role}_key": f"{role}-key.pem"}
    present = {option: str((directory / name).resolve()) for option, name in files.items() if (directory / name).is_file()}
    if not {"tls_ca_file", "tls_client_cert", "tls_client_key"} <= present.keys():
        raise FileNotFoundError(
            f"tls={str(directory)!r}: needs {CA}, client.pem and client-key.pem there;"
            f" `python -m pipeline certificates {directory}` makes them"
        )
    for written in (directory, *map(Path, present.values())):
        check_unwritable(written)
    for option, path in present.items():
        if option.endswith("_key") and Path(path).stat().st_mode & 0o077:
            raise PermissionError(f"{path} can be read by others, who could run code on the cluster with it; chmod 600 it")
    return Security(require_encryption=True, **present)


def check_unwritable(path: Path) -> None:
    """Raise PermissionError for a file or directory that others can write: who puts an authority there is trusted."""
    if path.stat().st_mode & 0o022:
        raise PermissionError(
            f"{path} can be written by others, who could let themselves in with an authority of their own; chmod go-w {path}"
        )


def as_security(tls: Security | str | Path | bool | None) -> Security | None:
    """The security that connect's tls= stands for: a Security object, a directory of `make_certificates`, or True for keys that live as
    long as the cluster, in memory. None for None and False: then Dask's configuration says.

    Raises TypeError for anything else.
    """
    if tls is None or tls is False:
        return None
    if tls is True:
        return Security.temporary()
    if isinstance(tls, Security):
        return tls
    if isinstance(tls, str | Path):
        return read_certificates(tls)
    raise TypeError(f"tls must be a distributed.Security, a directory of certificates, True, False or None, got {tls!r}")


def is_complete(security: Security, *roles: str) -> bool:
    """Whether it has an authority, and a certificate and key for each of these roles."""
    configs = [security.get_tls_config_for_role(role) for role in roles]
    return all(config[part] is not None for config in configs for part in ("ca_file", "cert", "key"))


def configured() -> Security | None:
    """The Security of Dask's configuration when it has all that a scheduler, its workers and a client need."""
    security = Security()
    return security if is_complete(security, *ROLES) else None


def with_worker_files(security: Security, directory: str | Path) -> Security:
    """The same Security, with what workers on other machines need from it as files in `directory`, readable by their owner alone."""
    copied = copy.copy(security)
    for option, role_key in (("tls_ca_file", "ca_file"), ("tls_worker_cert", "cert"), ("tls_worker_key", "key")):
        content = security.get_tls_config_for_role("worker")[role_key]
        if content is not None and "\n" in content:  # else it is a path
            path = Path(directory) / f"{option.removeprefix('tls_')}.pem"
            _write(path, content.encode(), mode=0o600)
            setattr(copied, option, str(path))
    return copied


def tls_environment(directory: str | Path) -> dict[str, str]:
    """Environment variables that make every `dask scheduler`, `dask worker` and Client take the certificates of this directory, and refuse
    plain connections."""
    directory = Path(directory).resolve()
    variables = {f"{ENVIRONMENT}CA_FILE": str(directory / CA), "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True"}
    for role in ROLES:
        variables[f"{ENVIRONMENT}{role.upper()}__CERT"] = str(directory / f"{role}.pem")
        variables[f"{ENVIRONMENT}{role.upper()}__KEY"] = str(directory / f"{role}-key.pem")
    return variables
