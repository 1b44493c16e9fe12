"""The batch in hand, on disk: after a crash, the events that may have caused it are known.

An event that crashed the process CRASHES_MAX times is given up (it becomes a dead letter); until then the suspects
run one by one, so that the innocent ones pass. The journal guards against events that kill the process, not against
power loss, so nothing is fsynced.

A process that has a journal open holds a lock on it, which the system takes back when the process ends in any way.
So no two workers of a home share a name: they would take each other's partitions, and each other's crashes for theirs.
"""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

CRASHES_MAX = 3
LOCK_WAIT_S = 3.0  # a worker that is started again at once may meet the end of the one before


EventId = tuple[str, int, int]
"""Where an event stands: topic id (a topic made again has another), partition, offset."""


class JournalInUse(Exception):
    """Another process works under this journal, so under the same worker id."""


class Journal:
    """One file of one role of one worker."""

    def __init__(self, path: Path) -> None:
        """Read what the last process had in hand: each of those events has one crash more.

        Raises JournalInUse if another process has it open and goes on to, LOCK_WAIT_S long.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _open_alone(path)
        self.crashes: dict[EventId, int] = {}
        self._in_hand: set[EventId] = set()
        raw = os.read(self._file, os.fstat(self._file).st_size)
        line, newline, _ = raw.partition(b"\n")  # behind it stands the rest of an older, longer line
        if newline:
            self._recover(line)

    def _recover(self, line: bytes) -> None:
        try:
            last = orjson.loads(line)
        except orjson.JSONDecodeError:
            return  # the machine died while writing: no event is to blame
        self.crashes = {tuple(event): count for event, count in last["crashes"]}
        for event in map(tuple, last["in_hand"]):
            self.crashes[event] = self.crashes.get(event, 0) + 1
        self._write()

    def crashed_too_often(self, event: EventId) -> bool:
        return self.crashes.get(event, 0) >= CRASHES_MAX

    def is_suspect(self, event: EventId) -> bool:
        return event in self.crashes

    def hold(self, events: Iterable[EventId]) -> None:
        """From now on a crash counts against these events."""
        self._in_hand.update(events)
        self._write()

    def release(self, events: Iterable[EventId]) -> None:
        """A crash does not count against these any more, for now."""
        self._in_hand.difference_update(events)
        self._write()

    def clear(self, events: Iterable[EventId]) -> None:
        """These are done: nothing is held against them."""
        for event in events:
            self.crashes.pop(event, None)

    def close(self) -> None:
        """The process ends in good order: what it had in hand is not to blame."""
        self.release(set(self._in_hand))
        os.close(self._file)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """It is closed at the end; if the role ends badly, what it had in hand is suspect to whoever opens it next."""
        try:
            yield
        except BaseException:
            os.close(self._file)
            raise
        self.close()

    def _write(self) -> None:
        state = {"in_hand": list(self._in_hand), "crashes": list(self.crashes.items())}
        os.pwrite(self._file, orjson.dumps(state, option=orjson.OPT_APPEND_NEWLINE), 0)


def _open_alone(path: Path) -> int:
    """The descriptor of the file, which no other process has open as a journal."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            os.close(file)
            raise JournalInUse(
                f"another worker has {path} open: stop it, or give each worker of this home its own FRESHET_WORKER_ID"
            ) from None
        return file
