"""Requests over some connections at once, each sent when the one before was answered, by a client that costs little."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import orjson

CONNECTIONS = 8


def get(path: str) -> bytes:
    """A request as it goes over the wire."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, body: object) -> bytes:
    """The same with a JSON body."""
    packed = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(packed)}"
    return head.encode() + b"\r\n\r\n" + packed


async def latencies_s(
    port: int,
    requests: Iterable[bytes],
    *,
    connections: int = CONNECTIONS,
    check: Callable[[bytes], None] | None = None,
) -> list[float]:
    """How long each was answered after it was sent. Raises RuntimeError for a status that is not 200."""
    waiting = iter(requests)
    taken: list[float] = []

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in waiting:
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
            taken.append(time.perf_counter() - began)
            if b" 200 " not in head[:16]:
                raise RuntimeError(f"answered {head.splitlines()[0]!r}: {body[:500]!r}")
            if check:
                check(body)
        writer.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(ask())
    return taken


def quantiles_ms(latencies: Sequence[float], *shares: float) -> list[float]:
    """In ms."""
    return [float(value) for value in np.quantile(np.array(latencies) * 1000, shares)]


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise RuntimeError(f"no content-length in {head!r}")
