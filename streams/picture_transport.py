"""An httpx transport that connects to public addresses only, checked at the moment of connecting; not to silent hosts.

The check sits where the socket is opened, so redirects pass it as well, and a host is resolved once: the addresses
that were checked are those connected to, whatever DNS says a moment later.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterable, AsyncIterator, Iterable

import httpcore
import httpx

from streams.picture_hosts import SilentHosts

WEB_PORTS = frozenset({80, 443, 8080, 8443})
NAT64 = ipaddress.ip_network("64:ff9b::/96")

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


class AddressRefused(Exception):
    """The host has an address, or the link a port, that pictures may not be fetched from."""


class CheckedTransport(httpx.AsyncBaseTransport):
    """Like httpx.AsyncHTTPTransport (HTTP/1.1), but every connection goes through CheckedBackend.

    Raises AddressRefused, HostSilent, and the errors of httpcore.
    """

    def __init__(self, *, allow_private: bool, max_connections: int, silent_s: float) -> None:
        """silent_s: so long a host is left alone that gave no answer."""
        self._silent_hosts = SilentHosts(silent_s)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=max_connections,
            keepalive_expiry=5.0,
            network_backend=CheckedBackend(allow_private=allow_private),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, its body still to be read."""
        url = request.url
        asked = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=b"",
            extensions=request.extensions,
        )
        with self._silent_hosts.asking(f"{url.scheme}://{url.netloc.decode()}"):  # here, so redirects pass it as well
            answer = await self._pool.handle_async_request(asked)
        if not isinstance(answer.stream, AsyncIterable):
            raise TypeError(f"httpcore answered with {type(answer.stream)}, which cannot be read asynchronously")
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer.stream, answer))

    async def aclose(self) -> None:
        await self._pool.aclose()


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a host once, checks every address, and connects to the first that answers."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """An open connection. Raises AddressRefused, httpcore.ConnectError, httpcore.UnsupportedProtocol."""
        if port > 65_535:  # a redirect may say anything, and sockets raise OverflowError
            raise httpcore.UnsupportedProtocol(f"there is no port {port}")
        addresses = await resolve(host, port)
        if not self._allow_private:
            check(host, port, addresses)
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise httpcore.ConnectError(f"no address of {host} answers: {failure}") from failure


async def resolve(host: str, port: int) -> list[str]:
    """Every address of the host, each once, in the resolver's order. Raises httpcore.ConnectError if it has none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"the host {host!r} cannot be resolved: {error}") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def check(host: str, port: int, addresses: Iterable[str]) -> None:
    """Nothing, if the port is one of the web and all addresses are public. Raises AddressRefused."""
    if port not in WEB_PORTS:
        raise AddressRefused(
            f"port {port} is none of {sorted(WEB_PORTS)}: serve it there, or set pictures_allow_private"
        )
    for address in addresses:
        if not is_public(address):
            raise AddressRefused(
                f"{host} is {address}, not a public address: serve it publicly, or set pictures_allow_private"
            )


def is_public(address: str) -> bool:
    """True for an address that anybody on the internet may reach, also where IPv6 only wraps an IPv4 one."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip in NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip.sixtofour or ip.teredo:  # tunnels that nobody serves pictures through any more
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


class _Body(httpx.AsyncByteStream):
    """The body of an httpcore answer as httpx reads it."""

    def __init__(self, pieces: AsyncIterable[bytes], answer: httpcore.Response) -> None:
        self._pieces = pieces
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        await self._answer.aclose()
