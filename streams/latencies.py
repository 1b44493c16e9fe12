"""How long something took lately, as a role tells it in the details of its status."""

import time
from collections import deque
from collections.abc import Iterable

import numpy as np

OBSERVED_MAX = 1_024
LATELY_S = 300.0
QUANTILES = {"p50": 0.5, "p99": 0.99}


class Latencies:
    """The last OBSERVED_MAX times of the last LATELY_S seconds."""

    def __init__(self) -> None:
        self._observed: deque[tuple[float, float]] = deque(maxlen=OBSERVED_MAX)

    def add(self, begun_at: Iterable[float], now: float) -> None:
        """These began then (s since 1970, by whichever clock) and have ended now."""
        self._observed.extend((now, max(0.0, now - at)) for at in begun_at)

    def details(self, name: str) -> dict[str, float]:
        """NAME_p50_s and NAME_p99_s; nothing if nothing ended lately."""
        since = time.time() - LATELY_S
        took_s = [seconds for at, seconds in self._observed.copy() if at >= since]
        if not took_s:
            return {}
        values = np.quantile(took_s, list(QUANTILES.values()))
        return {
            f"{name}_{quantile}_s": round(float(value), 4) for quantile, value in zip(QUANTILES, values, strict=True)
        }
