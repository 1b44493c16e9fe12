"""Who may use the models now: one at a time, and what serves before what is filled."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock that one who is first gets as soon as it is free, however many others wait."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._is_taken = False
        self._first_waiting = 0

    @contextmanager
    def take(self, *, first: bool) -> Iterator[None]:
        """Nobody else is in such a block; whoever is first comes next, before all who wait and are not."""
        with self._free:
            self._first_waiting += first
            self._free.wait_for(lambda: not self._is_taken and (first or not self._first_waiting))
            self._first_waiting -= first
            self._is_taken = True
        try:
            yield
        finally:
            with self._free:
                self._is_taken = False
                self._free.notify_all()
