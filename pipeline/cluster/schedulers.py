"""A client of a scheduler that runs already. Distributed's errors of TLS, some of them obscure, become causes and cures."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import dask
import distributed
from distributed import Security
from distributed.comm import CommClosedError

from pipeline.cluster.network import speaks_tls
from pipeline.cluster.security import CertificateError, InsecureConnectionError, is_complete

SECURE: Final = ("tls://", "wss://", "inproc://")  # inproc never leaves the process
CERTIFICATES: Final = (
    "tls=DIRECTORY (of `python -m pipeline certificates`), tls=Security(...), or distributed.comm.tls in Dask's configuration"
)


class ClosingClient(distributed.Client):
    """A client that is gone when it cannot start; Dask's own stays the current one after some errors, and every later fit would fail."""

    def start(self, **options: Any) -> None:
        try:
            super().start(**options)
        except BaseException:
            self.close()
            raise


def open_client(address: str, security: Security | None, timeout: float, *, require_tls: bool) -> ClosingClient:
    """A client of the scheduler at this address; security: None for what Dask's configuration says.

    Raises InsecureConnectionError when one side speaks TLS and the other does not, CertificateError when they trust different authorities,
    OSError when nobody answers within `timeout` seconds.
    """
    if "://" not in address:
        address = f"{dask.config.get('distributed.comm.default-scheme')}://{address}"
    if require_tls:
        check_secure(address)
    if not address.startswith(SECURE) and (security or Security()).require_encryption:
        raise InsecureConnectionError(
            f"the certificates or Dask's configuration here require encryption, and {address} is a plain address;"
            " if the scheduler speaks TLS, its address begins with tls://"
        )
    loaded = security is None and dask.config.get("distributed.client.security-loader")  # then the Client asks that function
    if address.startswith("tls://") and not loaded and not is_complete(security or Security(), "client"):
        raise InsecureConnectionError(f"{address} takes TLS only, and there are no certificates here; give {CERTIFICATES}")
    with _explained(address):
        return ClosingClient(address, security=security, timeout=timeout)


def check_secure(address: str) -> None:
    """Raise InsecureConnectionError for the address of a plain scheduler."""
    if not address.startswith(SECURE):
        cure = f"start the scheduler with certificates, whose address then begins with tls://, and give {CERTIFICATES}"
        raise InsecureConnectionError(f"require_tls=True, and {address} is not encrypted; {cure}")


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, AssertionError, TypeError, ValueError) as error:
        chain = list(_causes(error))
        if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in chain):
            raise CertificateError(f"{address} has a certificate of another authority than {CERTIFICATES} names here") from error
        plain = ("WRONG_VERSION_NUMBER", "IOStream is not idle")  # it may have sent its greeting before the handshake, or not
        if address.startswith("tls://") and any(words in str(cause) for cause in chain for words in plain):
            raise InsecureConnectionError(
                f"the scheduler at {address} speaks plain TCP; start it with certificates: {CERTIFICATES}"
            ) from error
        if not address.startswith("tls://") and speaks_tls(address):
            secure = "tls://" + address.partition("://")[2]
            raise InsecureConnectionError(
                f"the scheduler at {address} takes TLS only; connect to {secure} and give {CERTIFICATES}"
            ) from error
        if address.startswith("tls://") and isinstance(error, CommClosedError | ssl.SSLError):  # it hung up in the handshake, or after
            raise CertificateError(f"{address} refused these certificates, of another authority than its own: {error}") from error
        if isinstance(error, AssertionError | TypeError):
            raise ConnectionError(f"{address} answered, but not as a Dask scheduler: {error!r}") from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def read_scheduler_file(path: str, timeout: float) -> str:
    """The address in a scheduler's file, once it is there and whole.

    Raises FileNotFoundError after `timeout` seconds without it, ValueError for a file of something else.
    """
    await_file(path, timeout)
    deadline = time.monotonic() + 1.0  # the file may be read while it is written
    while True:
        try:
            return str(json.loads(Path(path).read_text())["address"])
        except (ValueError, KeyError, TypeError) as error:
            if time.monotonic() > deadline:
                raise ValueError(f"{path} is no scheduler file: `dask scheduler --scheduler-file` writes JSON with an address") from error
        time.sleep(0.05)


def await_file(path: str, timeout: float) -> None:
    """Wait for a scheduler that is starting to write its file; distributed.Client would wait for ever."""
    deadline = time.monotonic() + timeout
    while not Path(path).exists():
        if time.monotonic() > deadline:
            cure = f"start one with: dask scheduler --scheduler-file {path}"
            raise FileNotFoundError(f"no scheduler file {path} after {timeout:.0f} s; {cure}")
        time.sleep(0.1)
