"""Which hosts gave no answer lately, so that a dead one holds up a batch once and not with each of its links."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpcore

HOSTS_MAX = 1_000  # kept in memory; links come from outside, and so does the number of their hosts


class HostSilent(Exception):
    """The host gave no answer a moment ago, so it was not asked again."""


class SilentHosts:
    """Hosts, each as "https://pictures.example:8443", that are left alone for silent_s after they gave no answer.

    clock  s, never goes back
    """

    def __init__(self, silent_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._silent_s = silent_s
        self._clock = clock
        self._silent_until: dict[str, float] = {}
        self._answered_at: dict[str, float] = {}

    @contextmanager
    def asking(self, host: str) -> Iterator[None]:
        """Around a request, up to the beginning of its answer: whether one comes is remembered.

        Raises HostSilent, with nothing asked.
        """
        asked_at = self._clock()
        if asked_at < self._silent_until.get(host, asked_at):
            raise HostSilent(
                f"{host} gave no answer a moment ago and is left alone for {self._silent_s:g} s: "
                "make sure that it is up, or raise picture_timeout_s"
            )
        try:
            yield
        except (httpcore.ConnectError, httpcore.TimeoutException, asyncio.CancelledError):  # cancelled: out of time
            # One that answers others meanwhile is there: only this picture takes it too long.
            if self._answered_at.get(host, asked_at) <= asked_at:
                _keep(self._silent_until, host, self._clock() + self._silent_s)
            raise
        _keep(self._answered_at, host, self._clock())
        self._silent_until.pop(host, None)


def _keep(times: dict[str, float], host: str, at: float) -> None:
    """Remember the newest HOSTS_MAX."""
    times.pop(host, None)
    times[host] = at
    if len(times) > HOSTS_MAX:
        del times[next(iter(times))]
