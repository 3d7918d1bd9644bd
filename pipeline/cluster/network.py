"""This machine's network: which address a scheduler listens on, whether another address is here, whether a port speaks TLS."""

from __future__ import annotations

import socket
import ssl
from typing import Final

import psutil
from distributed.comm import get_address_host_port
from distributed.utils import get_ip

FAST: Final = ("hsn", "ib")  # Slingshot and InfiniBand, as Linux names them: hsn0, ib0, ibp65s0
PROBE_SECONDS: Final = 2.0


def interfaces() -> dict[str, str]:
    """The IPv4 address of each network interface that is up and has one."""
    state = psutil.net_if_stats()
    found = {}
    for name, addresses in psutil.net_if_addrs().items():
        first = next((a.address for a in addresses if a.family == socket.AF_INET), None)
        if first is not None and name in state and state[name].isup:
            found[name] = first
    return found


def check_interface(name: str) -> None:
    """Raise ValueError, with those there are, when no network interface of that name is up here."""
    known = interfaces()
    if name not in known:
        there = ", ".join(f"{each} ({address})" for each, address in known.items())
        raise ValueError(f"interface={name!r}: this machine has no such network interface with an IPv4 address; there are {there}")


def scheduler_host() -> str:
    """The address that workers on other machines reach a scheduler here by: of a fast interface (hsn*, ib*) if one is up, else of the
    default route, else the first that is not loopback; loopback when there is nothing else."""
    known = interfaces()
    fast = [address for name, address in sorted(known.items()) if name.startswith(FAST)]
    other = [address for address in known.values() if not address.startswith("127.")]
    route = get_ip()  # asks the routing table; sends nothing
    if fast:
        return fast[0]
    return route if route in other else [*other, "127.0.0.1"][0]


def is_here(host: str) -> bool:
    """Whether this address, or name, is this machine."""
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    return host in own or host.startswith("127.") or host in ("localhost", socket.gethostname())


def free_port(host: str, low: int, high: int) -> int:
    """The highest port from low to high that is free at this address. Raises ValueError when none is."""
    for port in range(high, low - 1, -1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise ValueError(f'ports="{low}:{high}": none of them is free on {host}')


def answers(host: str, port: int) -> bool:
    """Whether something listens at this address and port, asked for half a second."""
    try:
        with socket.create_connection((host, port), 0.5):
            return True
    except OSError:
        return False


def speaks_tls(address: str) -> bool:
    """Whether a server at this Dask address answers a TLS handshake. Takes at most a few seconds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(get_address_host_port(address), PROBE_SECONDS) as plain,
            context.wrap_socket(plain, do_handshake_on_connect=True),
        ):
            return True
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return False
