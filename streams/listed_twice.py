"""Answers that show a thing once, however often it is listed: the best of each group, and as many items as ever."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from streams.duplicates import kept_once
from streams.shelf import Shelf


class HasProductId(Protocol):
    @property
    def product_id(self) -> str: ...


Found = TypeVar("Found", bound=HasProductId)


class ListedTwice:
    """What the shelf knows of duplicates. Its methods take the shelf's lock."""

    def __init__(self, shelf: Shelf, *, keeps_one: bool) -> None:
        self._shelf = shelf
        self._keeps_one = keeps_one

    def duplicates(self, product_id: str) -> list[dict[str, Any]]:
        """The other listings of the same thing, ordered by their ids, sold-out ones too."""
        shelf = self._shelf
        with shelf.lock:
            row = shelf.rows.get(product_id)
            others = [] if row is None else shelf.duplicates.others(row)
            found = [
                {"product_id": shelf.product_ids[other], "title": shelf.titles[other], "listable": bool(listable)}
                for other, listable in zip(others, shelf.listable[others], strict=True)
            ]
        return sorted(found, key=lambda one: str(one["product_id"]))

    def fill_page(
        self, find: Callable[[int], Sequence[Found]], limit: int, *, beside: str | None = None
    ) -> list[Found]:
        """The first `limit` that find(so many) gives, of each group the first, and none of the group of `beside`.

        find is asked for more until the page is full or there are no more.
        """
        if not self._keeps_one:
            return list(find(limit))
        asked = limit
        while True:
            found = find(asked)
            kept = self._kept(found, beside)
            if len(kept) >= limit or len(found) < asked:
                return kept[:limit]
            asked *= 2

    def _kept(self, found: Sequence[Found], beside: str | None) -> list[Found]:
        shelf = self._shelf
        with shelf.lock:
            known = [(at, row) for at, one in enumerate(found) if (row := shelf.rows.get(one.product_id)) is not None]
            rows = np.array([row for _, row in known], np.int32)
            own = np.array([shelf.rows[beside]] if beside in shelf.rows else [], np.int32)
            mask = kept_once(shelf.duplicates.group, rows, own)
        twins = {at for (at, _), keep in zip(known, mask.tolist(), strict=True) if not keep}
        return [one for at, one in enumerate(found) if at not in twins]
