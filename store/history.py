"""A user's clicks as columns: one binary value in the row, and no object for a click that nobody looks at.

A click is answered within a few hundred microseconds; to make two hundred Click objects takes almost two hundred.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import orjson
from numpy.typing import NDArray

from store.records import Click

EVENTS = ("view_item", "select_item", "add_to_cart", "purchase")
"""A row keeps an event as its index here: append only."""

_CODES = {event: code for code, event in enumerate(EVENTS)}


@dataclass(frozen=True, slots=True, eq=False)
class History(Sequence[Click]):
    """Clicks, newest first; reads like a tuple of Click and equals one.

    product_ids  n ids
    codes        n bytes, each an index of EVENTS
    times        (n,) float64, s since 1970
    """

    product_ids: list[str]
    codes: bytes
    times: NDArray[np.float64]

    @classmethod
    def of(cls, clicks: Sequence[Click]) -> "History":
        """The same clicks as columns. Raises ValueError for an event that EVENTS does not name."""
        if isinstance(clicks, History):
            return clicks
        try:
            codes = bytes([_CODES[click.event] for click in clicks])
        except KeyError as error:
            raise ValueError(f"{error.args[0]!r} is not an event that a history keeps: {', '.join(EVENTS)}") from error
        times = np.array([click.occurred_at for click in clicks], dtype=np.float64)
        return cls([click.product_id for click in clicks], codes, times)

    @classmethod
    def unpack(cls, packed: bytes) -> "History":
        """The inverse of pack."""
        count = int.from_bytes(packed[:4], "little")
        times_at = 4 + count
        ids_at = times_at + 8 * count
        times = np.frombuffer(packed, "<f8", count, offset=times_at)
        return cls(orjson.loads(packed[ids_at:]), packed[4:times_at], times)

    def pack(self) -> bytes:
        """4 bytes n, n bytes event codes, n little-endian float64 times, the product ids as a JSON list."""
        times = self.times.astype("<f8", copy=False).tobytes()
        return b"".join((len(self.codes).to_bytes(4, "little"), self.codes, times, orjson.dumps(self.product_ids)))

    def with_newest(self, clicks: Sequence[Click], limit: int) -> "History":
        """These clicks (newest first) before the earlier ones; the oldest go beyond limit."""
        new = History.of(clicks)
        return History(
            (new.product_ids + self.product_ids)[:limit],
            (new.codes + self.codes)[:limit],
            np.concatenate((new.times, self.times))[:limit],
        )

    def merged_with(self, clicks: Sequence[Click], limit: int) -> "History":
        """These clicks and the earlier ones by their time, newest first; the oldest go beyond limit.

        A click that both hold (product, event and time) counts once, so to merge the same clicks again changes nothing.
        """
        missing = Counter(clicks) - Counter(self)
        both = [*self, *missing.elements()]
        return History.of(sorted(both, key=lambda click: click.occurred_at, reverse=True)[:limit])

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> Click: ...
    @overload
    def __getitem__(self, index: slice) -> "History": ...
    def __getitem__(self, index: int | slice) -> "Click | History":
        if isinstance(index, slice):
            return History(self.product_ids[index], self.codes[index], self.times[index])
        return Click(self.product_ids[index], EVENTS[self.codes[index]], float(self.times[index]))

    def __iter__(self) -> Iterator[Click]:
        return map(Click, self.product_ids, map(EVENTS.__getitem__, self.codes), self.times.tolist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, History):
            same_products = self.product_ids == other.product_ids and self.codes == other.codes
            return same_products and np.array_equal(self.times, other.times)
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
