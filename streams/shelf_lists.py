"""Lists that are for nobody in particular: what goes with a product or a brand, what is clicked lately, what is new.

They are made from the shelf alone, under its lock. Of the rules only blocks are about them, in scenarios that are
named as the lists: similar, across-brands, related, trending and new.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import ABSENT, Floats, Mask, Rows
from encoders.reciprocal_rank import fuse_values
from encoders.trends import faded, rising
from store.conditions import ANY
from store.vectors import Hit, UnknownProduct
from streams.duplicates import kept_once
from streams.filters import Filters, PageQuery
from streams.shelf import Shelf
from streams.shelf_offers import NONE, told_payload

NEAREST = 256  # products of other brands that are compared by their whole fused vectors; the first by their contents
Neighbourhood = Literal["together", "next"]


class UnknownBrand(LookupError):
    """No product of this brand is offered."""


class FoundNearby(NamedTuple):
    """A product that the vector store found, with what is offered."""

    product_id: str
    title: str | None
    score: float
    offer: dict[str, Any]  # as ShelfOffers.told

    @classmethod
    def of_hit(cls, hit: Hit) -> "FoundNearby":
        """As the vector store has it, while the shelf cannot be asked."""
        return cls(hit.product_id, hit.payload.get("title"), hit.score, told_payload(hit.payload))


class ShelfLists:
    """Answers in any thread. Its methods raise what ended the shelf's reader, if something did, and BadQuery."""

    def __init__(self, shelf: Shelf, check: Callable[[], None], *, keeps_one: bool) -> None:
        """The shelf is empty yet; check raises what ended its reader; keeps_one: of what is listed twice."""
        self._shelf = shelf
        self._offers = shelf.keep_offers()
        self._check = check
        self._keeps_one = keeps_one

    def offer(self, product_id: str) -> dict[str, Any]:
        """What is offered of a product, sold out or not. Raises UnknownProduct."""
        self._check()
        with self._shelf.lock:
            row = self._row(product_id)
            return {
                "product_id": product_id,
                "title": self._shelf.titles[row],
                "listable": bool(self._shelf.listable[row]),
                "offer": self._offers.told(row) | {"attributes": self._offers.attributes(row)},
            }

    def neighbours(self, product_id: str, by: Neighbourhood, query: PageQuery) -> list[dict[str, Any]]:
        """The products that are clicked together with this one, or next after it; the score is the share of clicks.

        One that is sold out has neighbours still. Raises UnknownProduct if there is no offer of it.
        """
        with self._asked(query, "similar") as allowed:
            own = self._row(product_id)
            knowledge = self._shelf.stage.knowledge(self._shelf.clicks)
            table = knowledge.after if by == "next" else knowledge.together
            here = (table.ids[own] != ABSENT) & allowed[table.ids[own]]
            rows, shares = table.ids[own][here], table.shares[own][here]
            return self._page(rows, (shares,), query.limit, beside=own, score=shares)

    def still_there(self, hits: Sequence[Hit], query: PageQuery) -> list[FoundNearby]:
        """Those that are listable and pass the filters now: the vector store may be behind."""
        with self._asked(query, "similar") as allowed:
            shelf = self._shelf
            rows = [(hit, shelf.rows.get(hit.product_id)) for hit in hits]
            return [
                FoundNearby(hit.product_id, shelf.titles[row], hit.score, self._offers.told(row))
                for hit, row in rows
                if row is not None and allowed[row]
            ]

    def rules(self) -> list[dict[str, Any]]:
        """Those that were published last: as ShelfRules.told."""
        self._check()
        with self._shelf.lock:
            return self._shelf.follow_rules(time.time()).told(self._shelf.listable)

    def trending(self, query: PageQuery) -> list[dict[str, Any]]:
        """What is clicked more lately than it used to be: encoders.trends.rising; behind it what is clicked most."""
        with self._asked(query, "trending") as allowed:
            shelf, rows = self._shelf, np.flatnonzero(allowed).astype(np.int32)
            knowledge = shelf.stage.knowledge(shelf.clicks)
            lately = faded(knowledge.trends, rows, knowledge.now)
            scores, clicks = rising(lately), lately[:, 0]
            best = scores, clicks, shelf.created_at[rows]
            return self._page(rows, best, query.limit, score=scores, clicks_lately=clicks)

    def new(self, query: PageQuery) -> list[dict[str, Any]]:
        """What came last; created_at in s since 1970."""
        with self._asked(query, "new") as allowed:
            rows = np.flatnonzero(allowed).astype(np.int32)
            created_at = self._shelf.created_at[rows]
            return self._page(rows, (created_at,), query.limit, created_at=created_at)

    def across_brands(self, product_id: str, query: PageQuery) -> list[dict[str, Any]]:
        """Products of other brands that are like this one, or are clicked together with it.

        The score fuses both orders (encoders.reciprocal_rank); beside it the cosine of the fused vectors, None without
        one, and the share of clicks. Raises UnknownProduct.
        """
        with self._asked(query, "across-brands") as allowed:
            shelf, offers, own = self._shelf, self._offers, self._row(product_id)
            shelf.stage.map_alone(shelf.fused, shelf.has_vector)
            brand = offers.brand[own]
            others = allowed & (offers.brand != NONE)
            if brand != NONE:
                others &= ~offers.of_brand(offers.brands.values[brand])
            others[own] = False
            together = shelf.stage.knowledge(shelf.clicks).together
            here = (together.ids[own] != ABSENT) & others[together.ids[own]]
            clicked, shares = together.ids[own][here], together.shares[own][here]
            rows = np.union1d(self._nearest(own, others), clicked).astype(np.int32)
            cosines, share = self._cosines(own, rows), np.full(len(rows), np.nan, np.float32)
            share[np.searchsorted(rows, clicked)] = shares
            scores, share = fuse_values(cosines, share), np.nan_to_num(share)
            return self._page(rows, (scores,), query.limit, beside=own, score=scores, cosine=cosines, share=share)

    def related_brands(self, brand: str, limit: int) -> list[dict[str, Any]]:
        """Other brands with products for sale that go with this one's, as across_brands says, best first.

        cosine  mean of those between the contents of their products; None without any
        share   of the clicks together with products of this brand, the mean over these
        Raises UnknownBrand.
        """
        with self._asked(Filters(), "related") as allowed:
            shelf, offers = self._shelf, self._offers
            shelf.stage.map_alone(shelf.fused, shelf.has_vector)
            own = offers.of_brand(brand)
            if not own.any():
                raise UnknownBrand(brand)
            knowledge, count = shelf.stage.knowledge(shelf.clicks), len(offers.brands.values)
            others = allowed & (offers.brand != NONE) & ~own
            products = np.bincount(offers.brand[others], minlength=count)
            seen = shelf.has_vector & knowledge.content.any(axis=1)
            alike = others & seen
            cosine = knowledge.content[alike] @ _mean(knowledge.content[own & seen])
            total = np.bincount(offers.brand[alike], weights=cosine, minlength=count)
            with_content = np.bincount(offers.brand[alike], minlength=count)
            cosines = np.where(with_content > 0, total / np.maximum(with_content, 1), np.nan)
            if not (own & seen).any():
                cosines[:] = np.nan
            ids, shares = knowledge.together.ids[own], knowledge.together.shares[own]
            here = (ids != ABSENT) & others[ids]
            share = np.bincount(offers.brand[ids[here]], weights=shares[here], minlength=count) / own.sum()
            names = offers.brands.values[:count]
        scores = fuse_values(cosines.astype(np.float32), np.where(share > 0, share, np.nan).astype(np.float32))
        found = [number for number in np.lexsort((np.arange(count), -scores)).tolist() if products[number]]
        return [
            {
                "brand": names[number],
                "score": _number(scores[number]),
                "cosine": _number(cosines[number]),
                "share": _number(share[number]),
                "products": int(products[number]),
            }
            for number in found[:limit]
        ]

    # --- under the lock ------------------------------------------------------------------------------------------

    @contextmanager
    def _asked(self, query: Filters, scenario: str) -> Iterator[Mask]:
        """The shelf's lock, and under it (P,) bool: what is listable, not blocked by a rule, and passes the filters."""
        self._check()
        conditions = query.conditions(self._shelf.currencies)
        with self._shelf.lock:
            ruling = self._shelf.follow_rules(time.time()).ruling(scenario)
            listable = self._shelf.listable if ruling is None else ruling.without_blocked(self._shelf.listable)
            yield listable if conditions == ANY else listable & self._offers.meeting(conditions)

    def _row(self, product_id: str) -> int:
        if not self._shelf.has_offer(product_id):
            raise UnknownProduct(product_id)
        return self._shelf.rows[product_id]

    def _nearest(self, own: int, among: Mask) -> Rows:
        """At most NEAREST of these rows, whose contents are like this one's the most; all if contents are not known."""
        shelf, content = self._shelf, self._shelf.stage.knowledge(self._shelf.clicks).content
        rows = np.flatnonzero(among & shelf.has_vector) if shelf.has_vector[own] else np.zeros(0, np.intp)
        if len(rows) > NEAREST and content[own].any():
            rows = rows[np.argpartition(-(content[rows] @ content[own]), NEAREST - 1)[:NEAREST]]
        return rows.astype(np.int32)

    def _cosines(self, own: int, rows: Rows) -> Floats:
        """(N,) of the fused vectors; NaN where there is none."""
        shelf, cosines = self._shelf, np.full(len(rows), np.nan, np.float32)
        has = shelf.has_vector[rows]
        if shelf.has_vector[own] and has.any():
            ours, theirs = shelf.fused[own], shelf.fused[rows[has]]
            lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours)
            cosines[has] = theirs @ ours / np.maximum(lengths, 1e-9)
        return cosines

    def _page(
        self, rows: Rows, keys: Sequence[NDArray[Any]], limit: int, *, beside: int | None = None, **told: NDArray[Any]
    ) -> list[dict[str, Any]]:
        """The first of these rows (N,), of each group of duplicates one.

        keys  (N,) each: the highest by the first of them come first, of equal ones those by the second, ...
        told  (N,) by name, as numbers of the items
        """
        shelf, listed, wanted = self._shelf, np.array([] if beside is None else [beside], np.int32), limit
        while True:
            best = first_of(wanted, keys)
            if self._keeps_one:
                best = best[kept_once(shelf.duplicates.group, rows[best], listed)]
            if len(best) >= limit or wanted >= len(rows):
                break
            wanted *= 2
        return [
            {"product_id": shelf.product_ids[row], "title": shelf.titles[row]}
            | {name: _number(values[at]) for name, values in told.items()}
            | {"offer": self._offers.told(row)}
            for at, row in ((at, int(rows[at])) for at in best[:limit].tolist())
        ]


def first_of(count: int, keys: Sequence[NDArray[Any]]) -> NDArray[np.intp]:
    """Places (<= count,) of the highest by keys (N,) each, ties by the next key and at last by the lower place.

    Nothing but these is sorted: of 50,000 products, to sort them all takes longer than to rank a list.
    """
    left = np.arange(len(keys[0]))
    chosen, missing = [], count
    for key in keys:
        if len(left) <= missing:
            break
        values = key[left]
        least = np.partition(values, len(values) - missing)[len(values) - missing]
        above = left[values > least]
        chosen.append(above)
        left, missing = left[values == least], missing - len(above)
    places = np.concatenate((*chosen, left[:missing]))
    order: NDArray[np.intp] = places[np.lexsort((places, *(-key[places] for key in reversed(keys))))]
    return order


def _mean(contents: Floats) -> Floats:
    return contents.mean(axis=0) if len(contents) else np.zeros(contents.shape[1], np.float32)


def _number(value: Any) -> float | None:
    """As JSON has it."""
    return None if np.isnan(value) else round(float(value), 6)
