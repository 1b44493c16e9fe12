"""Orders to the supervisor of `freshet demo`, which stops one of its processes or starts it again because somebody at
the page wants to see what happens then.

They come over a socket in the demo's own folder, which no other user of the machine may open. Whoever orders names a
process; the supervisor alone knows process ids and ends them. An order is a line of JSON, and so is its answer.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from streams.supervisor import Supervisor

LINE_MAX_BYTES = 4_096
READ_WITHIN_S = 5.0
ANSWER_WITHIN_S = 20.0  # a process that does not end by itself is killed after 10
PATH_MAX_BYTES = 100  # of a socket; the systems' limits are 104 and 108
Order = Literal["tell", "stop", "start"]


class OrdersUnavailable(Exception):
    """The supervisor takes none."""


class UnknownProcess(LookupError):
    """There is none of this name that may be stopped."""


class ProcessState(NamedTuple):
    """How a process stands."""

    state: str  # as Supervisor.state
    pid: int | None  # None while none runs; by it a worker's word is told from that of the process before it


def fits(path: Path) -> bool:
    """False for a path that no socket can have."""
    return len(bytes(path)) <= PATH_MAX_BYTES


@contextlib.asynccontextmanager
async def orders_taken(supervisor: Supervisor, names: Collection[str], path: Path) -> AsyncIterator[None]:
    """Orders for these processes are carried out meanwhile.

    path  of the socket, in a folder that is this user's alone; it fits
    """

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):  # whoever asks so gets no answer
            order = orjson.loads(await asyncio.wait_for(reader.readline(), READ_WITHIN_S))
            writer.write(orjson.dumps(await _carried_out(supervisor, names, order)) + b"\n")
            await writer.drain()
        writer.close()

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    server = await asyncio.start_unix_server(take, sock=listener, limit=LINE_MAX_BYTES)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


async def _carried_out(supervisor: Supervisor, names: Collection[str], order: Any) -> dict[str, Any]:
    """The answer: how each process stands that may be stopped, or no `processes` for an order of an unknown one."""
    told = order if isinstance(order, dict) else {}
    kind, name = told.get("order"), told.get("process")
    if kind in ("stop", "start"):
        if not isinstance(name, str) or name not in names:
            return {"unknown": name}
        if kind == "stop":
            await supervisor.hold(name)
        else:
            supervisor.release(name)
    pids = supervisor.processes
    return {"processes": {name: ProcessState(supervisor.state(name), pids.get(name))._asdict() for name in names}}


class Orders:
    """Gives orders. Its methods raise OrdersUnavailable and return how each process that may be stopped stands."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def tell(self) -> dict[str, ProcessState]:
        """How they stand."""
        return await self._ask("tell")

    async def stop(self, name: str) -> dict[str, ProcessState]:
        """The process has ended, and stays so until `start`. Raises UnknownProcess."""
        return await self._ask("stop", name)

    async def start(self, name: str) -> dict[str, ProcessState]:
        """The process is started again, if it was stopped. Raises UnknownProcess."""
        return await self._ask("start", name)

    async def _ask(self, order: Order, name: str | None = None) -> dict[str, ProcessState]:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                reader, writer = await asyncio.open_unix_connection(str(self._path), limit=LINE_MAX_BYTES)
                try:
                    writer.write(orjson.dumps({"order": order, "process": name}) + b"\n")
                    answer = orjson.loads(await reader.readline())
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError) as error:
            raise OrdersUnavailable(f"the supervisor takes no orders ({error!r}): is `freshet demo` ending?") from error
        if "unknown" in answer:
            raise UnknownProcess(f"no process {name!r} may be stopped: GET /v1/demo has those that may")
        return {process: ProcessState(**state) for process, state in answer["processes"].items()}
