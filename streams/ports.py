"""Ports on this machine: taken or free, said in a way that a person can act on; and which addresses are its own."""

import ipaddress
import os
import socket
from functools import lru_cache


class PortTaken(Exception):
    """Something else listens on a port that Freshet wants; str() names the setting of another one."""


def listen(host: str, port: int, *, setting: str) -> socket.socket:
    """A listening socket, for port 0 on any free port.

    setting  the variable that sets the port, for PortTaken, which is raised if the port cannot be had
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise PortTaken(
            f"cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}): if another `freshet up` runs there, "
            f"stop it, else set {setting} to a free port"
        ) from error
    # Connections inherit it. asyncio sets it only where a socket names its protocol, which this one does not; without
    # it the second part of an answer waits for the acknowledgement of the first, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nothing listens at this moment."""
    with listen(host, 0, setting="the port") as listener:
        port: int = listener.getsockname()[1]
        return port


@lru_cache(maxsize=64)
def names_loopback(host: str) -> bool:
    """True for localhost and the addresses of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
