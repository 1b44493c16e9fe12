"""The half of a search that the shelf answers: products by their words, and what is known of those that were found."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Rows
from encoders.reciprocal_rank import Fused
from store.conditions import Conditions
from store.vectors import Hit
from streams.facets import Facet, count_facets
from streams.shelf import Shelf
from streams.shelf_offers import ShelfOffers, told_payload

NO_ROWS = np.empty(0, np.int32)
NextClicks = Callable[[str, Sequence[str]], NDArray[np.float32] | None]
"""As streams.next_clicks.NextClicks.of."""


class FoundByWords(NamedTuple):
    """What the words found, and how they were read."""

    product_ids: list[str]  # best first
    closest: Rows  # all that have as many of the words as the best one has, and no more of them corrected
    as_close: int  # so many of product_ids, the first, are among them
    corrected: dict[str, list[str]]
    unknown: list[str]
    reading: str  # the query as it was understood


class FoundProduct(NamedTuple):
    """A product of the fused order as the shelf has it."""

    product_id: str
    fused: Fused[str]
    title: str | None
    offer: dict[str, Any]  # as ShelfOffers.told
    cosine: float | None  # None: the dense half did not find it

    @classmethod
    def of_hit(cls, fused: Fused[str], hit: Hit) -> "FoundProduct":
        """As the vector store has it, while the shelf cannot be asked."""
        return cls(fused.thing, fused, hit.payload.get("title"), told_payload(hit.payload), hit.score)


class ShelfSearch:
    """Asks a shelf that keeps offers. Its methods take the shelf's lock."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._offers: ShelfOffers = shelf.keep_offers(words=True)

    def currencies(self) -> Sequence[str]:
        """Those that prices are in."""
        return self._shelf.currencies()

    def by_words(self, words: str, conditions: Conditions, most: int, *, sold_out: bool) -> FoundByWords:
        """The first `most` products that meet the conditions, as LexicalIndex.find orders them.

        sold_out  those too
        """
        shelf = self._shelf
        with shelf.lock:
            allowed = self._offers.meeting(conditions)
            if not sold_out:
                allowed &= shelf.listable
            found = self._offers.words.find(words, allowed, most, shelf.clicks)
            product_ids = [str(shelf.product_ids[row]) for row in found.rows.tolist()]
        closest = np.flatnonzero(found.closest).astype(np.int32)
        as_close = int(found.closest[found.rows].sum())
        return FoundByWords(product_ids, closest, as_close, found.corrected, found.unknown, found.reading)

    def still_there(
        self, fused: Sequence[Fused[str]], hits: Mapping[str, Hit], conditions: Conditions, most: int, *, sold_out: bool
    ) -> list[FoundProduct]:
        """The first `most` that meet the conditions now, with what is offered: the vector store may be behind."""
        shelf = self._shelf
        found: list[FoundProduct] = []
        with shelf.lock:
            met = self._offers.meeting(conditions)
            for one in fused:
                row = shelf.rows.get(one.thing)
                if row is not None and met[row] and (shelf.listable[row] or (sold_out and shelf.has_offer(one.thing))):
                    cosine = hits[one.thing].score if one.thing in hits else None
                    found.append(FoundProduct(one.thing, one, shelf.titles[row], self._offers.told(row), cosine))
                if len(found) == most:
                    break
        return found

    def facets(
        self,
        names: Sequence[Facet],
        closest: Rows | None,
        nearest: Sequence[str],
        conditions: Conditions,
        *,
        sold_out: bool,
    ) -> dict[str, Any]:
        """`total`, how many different products these are, and what they are like: streams.facets.count_facets."""
        shelf = self._shelf
        with shelf.lock:
            rows = [shelf.rows[product_id] for product_id in nearest if shelf.has_offer(product_id)]
            counted = np.union1d(NO_ROWS if closest is None else closest, np.array(rows, np.int32))
            met = self._offers.meeting(conditions)
            if not sold_out:
                met &= shelf.listable
            counted = counted[met[counted]]
            return {"total": len(counted), **count_facets(self._offers, counted, names)}
