"""The connection that `connect` returns: a client, all that was opened for it, and ways to look at it."""

from __future__ import annotations

import getpass
import html
import os
import socket
import warnings
from contextlib import ExitStack, nullcontext
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from distributed import Client
from distributed.comm import get_address_host
from distributed.deploy import Cluster
from distributed.utils import format_dashboard_link

from pipeline.cluster.interrupts import quiet_logs
from pipeline.cluster.network import answers, is_here
from pipeline.cluster.queue.queue_jobs import Queue
from pipeline.cluster.queue.queues import scale_jobs
from pipeline.cluster.schedulers import SECURE


class Connection:
    """A context in which `client` is the current client; what was opened here, and nothing else, is closed at its end, or by `close`.

    client: None when the work stays in this process. cluster: the Dask cluster behind it, None when only its scheduler is known.
    dashboard_link: where the cluster shows itself to a browser on this machine; None in this process. tunnel_command: what makes it reach a
    browser elsewhere, where that is needed, at localhost.
    """

    def __init__(self, kind: str, client: Client | None, cluster: Cluster | None, opened: ExitStack, queue: Queue | None = None) -> None:
        self.client = client
        self.cluster = cluster
        self.address: str | None = scheduler_address(client)
        self.dashboard_link = dashboard(client, queue)
        self.tunnel_command = tunnel(self.address, self.dashboard_link)
        self._kind = kind
        self._opened = opened
        self._queue = queue
        self._adaptive: Any = None

    @property
    def encrypted(self) -> bool:
        """Whether the network's traffic is encrypted; true where there is none."""
        return self.address is None or self.address.startswith(SECURE)

    def scale(self, n: int) -> None:
        """Ask for n workers; of a queue, for n jobs. Ends `adapt`. Raises ValueError where the cluster is not ours to scale."""
        cluster = self._scalable()
        if self._adaptive is not None:
            cluster.loop.add_callback(self._adaptive.stop)
            self._adaptive = None
        if self._queue is not None and self.client is not None:
            scale_jobs(self._queue, self.client, n)
        else:
            cluster.scale(n)

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let the number of workers follow the work: a fit asks for a first one, and those that hold rows stay. Raises ValueError where the
        cluster is not ours to scale, and for numbers that are none: 0 <= minimum <= maximum, and at least 1 at most."""
        if not 0 <= minimum <= maximum or maximum < 1:
            raise ValueError(f"adapt needs 0 <= minimum <= maximum, and a maximum of at least 1, got {minimum} and {maximum}")
        self._adaptive = self._scalable().adapt(minimum=minimum, maximum=maximum)

    def await_workers(self, n: int, timeout: float) -> None:
        """Wait for n workers, timeout seconds at most; fewer, but one at least, are warned of.

        Raises TimeoutError, and closes the connection, when there is none; ValueError in this process, which has no workers.
        """
        if self.client is None:
            raise ValueError(f"{self!r} has no workers to wait for")
        try:
            self.client.wait_for_workers(n, timeout=timeout)
        except TimeoutError as error:
            if (found := len(self.client.scheduler_info(n_workers=-1)["workers"])) == 0:
                self.close()
                raise TimeoutError(f"no worker has come to the scheduler in {timeout:g} s") from error
            warnings.warn(f"{found} of {n} workers came in {timeout:g} s; going on with them", stacklevel=2)

    def _scalable(self) -> Any:
        if self.cluster is None:
            raise ValueError(f"{self!r} has no cluster object to scale; connect to a Dask Cluster, or use n_workers= or queue=")
        return self.cluster

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        if self.client is not None:  # also inside the with block of another client
            self._opened.enter_context(self.client.as_current())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with quiet_logs() if kind is KeyboardInterrupt else nullcontext():  # what was under way complains of closed connections
            self.close()

    def _rows(self) -> dict[str, str]:
        if self.client is None:
            return {"where": self._kind}
        rows: dict[str, str | None] = {
            "where": self._kind,
            "client": repr(self.client),
        }  # repr tells of workers and memory without asking anybody
        if self.client.status != "running":
            return {name: text for name, text in rows.items() if text}
        rows |= {
            "network": "encrypted" if self.encrypted else "plain",
            "dashboard": self.dashboard_link,
            "tunnel": self.tunnel_command,
        }
        return {name: text for name, text in rows.items() if text}

    def __repr__(self) -> str:
        return f"Connection({', '.join(self._rows().values())})"

    def _repr_html_(self) -> str:
        cells = {name: html.escape(text) for name, text in self._rows().items()}
        if "dashboard" in cells:
            cells["dashboard"] = f'<a href="{cells["dashboard"]}" target="_blank">{cells["dashboard"]}</a>'
        lines = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in cells.items())
        return f"<table><caption>dask-descent connection</caption>{lines}</table>"


def scheduler_address(client: Client | None) -> str | None:
    """The address of the client's scheduler, as long as it has one."""
    return None if client is None or client.scheduler is None else str(client.scheduler.address)


def dashboard(client: Client | None, queue: Queue | None) -> str | None:
    """The dashboard's link. That of a queue's scheduler, which runs in this process, listens on this machine alone."""
    if client is None:
        return None
    try:
        if queue is not None:
            return str(format_dashboard_link("localhost", queue.cluster.scheduler_info["services"]["dashboard"]))
        link: str | None = client.dashboard_link or None
    except KeyError:  # a scheduler without a dashboard
        return None
    place = urlsplit(link or "")
    if place.hostname and place.port and is_here(place.hostname) and not answers(place.hostname, place.port):
        return place._replace(netloc=f"localhost:{place.port}").geturl()  # the dashboard listens for this machine alone
    return link


def tunnel(address: str | None, link: str | None) -> str | None:
    """The command that brings the dashboard's port to a machine whose browser cannot reach it."""
    port = urlsplit(link).port if link else None
    if address is None or port is None or address.startswith("inproc://"):
        return None
    host = get_address_host(address)
    if not is_here(host):
        return f"ssh -N -L {port}:localhost:{port} {host}"
    if "SSH_CONNECTION" in os.environ:
        return f"ssh -N -L {port}:localhost:{port} {getpass.getuser()}@{socket.gethostname()}"
    return None
