"""One supervisor over many processes: a process that ends is started again, and none outlives the supervisor."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

MISCONFIGURED = 78  # EX_CONFIG of sysexits.h: to start it again would change nothing
LOG_MAX_BYTES = 10_000_000
PR_SET_PDEATHSIG = 1
AUTOGROUP = Path("/proc/self/autogroup")


class ChildMisconfigured(Exception):
    """A process has ended because of its settings: what it wrote last says which."""


class ChildNotReady(Exception):
    """A process that others wait for ended before it was ready."""


@dataclass(frozen=True)
class Child:
    """A process as it should run."""

    name: str  # also of its log file
    command: Sequence[str]
    environment: Mapping[str, str] | None = None  # None: the supervisor's own
    nice: int = 0
    ready: Callable[[], Awaitable[None]] | None = None  # later ones start when it has returned, and stop before


def dies_with_parent(nice: int = 0) -> Callable[[], None]:
    """What a child runs before exec, so that Linux kills it when the thread that started it ends, for any reason.

    nice  against all processes. Where Linux groups processes by session, the child's session is as nice, if it has one
          of its own: there a process is nice only to its own session (sched(7), autogroup)
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: after a fork almost nothing is safe
    parent = os.getpid()

    def before_exec() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it has died before the line above
                os._exit(1)
        total = os.nice(nice)
        if nice and os.getsid(0) == os.getpid():
            with contextlib.suppress(OSError):  # Linux that groups nothing
                AUTOGROUP.write_text(str(total))

    return before_exec


class Supervisor:
    """Keeps every child running; one that crashes is started again alone, after a pause that doubles."""

    def __init__(
        self,
        children: Sequence[Child],
        logs: Path,
        *,
        first_pause_s: float = 0.2,
        longest_pause_s: float = 10.0,
        steady_after_s: float = 30.0,
        kill_after_s: float = 10.0,
    ) -> None:
        """Nothing is started yet.

        logs            folder of <name>.log
        steady_after_s  a process that lived so long is started again after first_pause_s
        kill_after_s    between SIGTERM and SIGKILL
        """
        self.restarts = dict.fromkeys((child.name for child in children), 0)
        self._children = children
        self._logs = logs
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._steady_after_s = steady_after_s
        self._kill_after_s = kill_after_s
        self._running: dict[str, Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._posts: dict[str, _Post] = {}

    @property
    def processes(self) -> dict[str, int]:
        """The process id of each child that runs now, by name."""
        return {name: process.pid for name, process in self._running.items()}

    async def start(self) -> None:
        """Every child has been started, in order, and those with `ready` are. If one cannot be, none is left.

        Call it in a thread that lives as long as the children, best the main one: Linux ends them with it.
        Raises ChildNotReady, ChildMisconfigured (of one with `ready`; of others `wait` does), OSError for a command
        that cannot run, and what a `ready` raised.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for child in self._children:
                self._posts[child.name] = post = _Post()
                self._keepers[child.name] = keeper = asyncio.create_task(self._keep(child, post))
                is_up = asyncio.create_task(post.up.wait())
                await asyncio.wait({is_up, keeper}, return_when=asyncio.FIRST_COMPLETED)
                is_up.cancel()
                if not post.up.is_set():
                    keeper.result()
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> None:
        """Return when `stop` was called. Raises what ended a child for good, while the other ones go on."""
        ended, _ = await asyncio.wait(self._keepers.values(), return_when=asyncio.FIRST_EXCEPTION)
        for keeper in ended:
            keeper.result()

    async def hold(self, name: str) -> None:
        """The child has ended, and is not started again until `release`. Not for one with `ready`: others need it.

        Raises KeyError for a name that is no child's.
        """
        post = self._posts[name]
        post.hold()
        is_idle = asyncio.create_task(post.idle.wait())
        await asyncio.wait({is_idle, self._keepers[name]}, return_when=asyncio.FIRST_COMPLETED)
        is_idle.cancel()

    def release(self, name: str) -> None:
        """The child runs again, if it was held. Raises KeyError for a name that is no child's."""
        self._posts[name].release()

    def state(self, name: str) -> str:
        """running, held, or pausing: it has ended by itself and is about to be started again."""
        return "held" if self._posts[name].is_held else "running" if name in self._running else "pausing"

    async def stop(self) -> None:
        """No process is left: first those end that nothing waited for, then those with `ready`."""
        for was_awaited in (False, True):
            names = [c.name for c in self._children if c.name in self._posts and (c.ready is not None) is was_awaited]
            for name in names:
                self._posts[name].stop()
            await asyncio.gather(*(self._keepers[name] for name in names), return_exceptions=True)

    # --- one child -----------------------------------------------------------------------------------------------

    async def _keep(self, child: Child, post: "_Post") -> None:
        """Run the child again and again until it is to stop."""
        pause_s = self._first_pause_s
        while True:
            began = time.monotonic()
            code = await self._run_once(child, post)
            if post.to_end.is_set():
                log.info("process stopped name=%s code=%d", child.name, code)
                pause_s = self._first_pause_s
                if await post.is_over():
                    return
                continue
            alive_s = time.monotonic() - began
            if alive_s >= self._steady_after_s:
                pause_s = self._first_pause_s
            log.warning("process ended name=%s code=%d alive_s=%.1f again_in_s=%g", child.name, code, alive_s, pause_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(post.to_end.wait(), pause_s)
                if await post.is_over():
                    return
                pause_s = self._first_pause_s
                continue
            pause_s = min(2 * pause_s, self._longest_pause_s)
            self.restarts[child.name] += 1

    async def _run_once(self, child: Child, post: "_Post") -> int:
        """Run the child until it ends, by itself or because it is to stop; its exit code, negative for a signal."""
        process, written_before = await self._spawn(child)
        ended, stopping = asyncio.create_task(process.wait()), asyncio.create_task(post.to_end.wait())
        ready = asyncio.create_task(_becomes_ready(child))
        try:
            await asyncio.wait({ended, stopping, ready}, return_when=asyncio.FIRST_COMPLETED)
            not_ready = ready.exception() if ready.done() else None
            if ready.done() and not_ready is None:
                post.up.set()
                await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._end(process)
            code = await ended
        finally:
            stopping.cancel()
            ready.cancel()
            del self._running[child.name]
            _kill(process)
        if code == MISCONFIGURED:
            raise ChildMisconfigured(f"{child.name}: {self._last_line(child.name, written_before)}")
        if not post.up.is_set() and not post.to_end.is_set():
            raise not_ready or ChildNotReady(
                f"{child.name} ended with code {code} before it was ready: see {self._log_path(child.name)}"
            )
        if not_ready is not None:
            log.warning("process was not ready name=%s reason=%s", child.name, not_ready)
        return code

    async def _spawn(self, child: Child) -> tuple[Process, int]:
        """The process, and the length of its log before."""
        path = self._log_path(child.name)
        if path.exists() and path.stat().st_size > LOG_MAX_BYTES:
            path.replace(path.with_suffix(".log.1"))
        with path.open("ab") as output:
            written_before = output.tell()
            process = await asyncio.create_subprocess_exec(
                *child.command,
                env=child.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=dies_with_parent(child.nice),
                start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone
            )
        self._running[child.name] = process
        log.info("process started name=%s pid=%d", child.name, process.pid)
        return process, written_before

    async def _end(self, process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._kill_after_s)
        except TimeoutError:
            log.warning("process killed pid=%d did_not_end_within_s=%g", process.pid, self._kill_after_s)
            _kill(process)

    def _log_path(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _last_line(self, name: str, written_before: int) -> str:
        with self._log_path(name).open("rb") as written:
            written.seek(written_before)
            lines = written.read().decode(errors="replace").split("\n")
        return next(
            (line.strip() for line in reversed(lines) if line.strip()), f"it wrote no reason (code {MISCONFIGURED})"
        )


class _Post:
    """What a child's keeper and the supervisor tell each other."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.to_end = asyncio.Event()  # the process that runs now, or is about to
        self.idle = asyncio.Event()  # none runs, and none will until it is released
        self.is_held = False
        self._is_stopped = False
        self._changed = asyncio.Event()

    def stop(self) -> None:
        self._is_stopped = True
        self.to_end.set()
        self._changed.set()

    def hold(self) -> None:
        self.is_held = True
        self.to_end.set()

    def release(self) -> None:
        self.is_held = False
        self._changed.set()

    async def is_over(self) -> bool:
        """The process has ended as it was to: True if for good, False once another one is to run."""
        while self.is_held and not self._is_stopped:
            self.idle.set()
            self._changed.clear()
            await self._changed.wait()
        self.idle.set()
        if not self._is_stopped:
            self.to_end.clear()
            self.idle.clear()
        return self._is_stopped


async def _becomes_ready(child: Child) -> None:
    if child.ready is not None:
        await child.ready()


def _kill(process: Process) -> None:
    """SIGKILL to the process and all that it started, if it still runs."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
