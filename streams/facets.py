"""What the products found are like: how many are of each brand, category and availability, and what they cost."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Rows
from streams.shelf_offers import ShelfOffers

Facet = Literal["brand", "category", "availability", "price"]
VALUES_MAX = 100  # of a facet, those of the most products
PRICE_RANGES = 4  # of about as many products each


def count_facets(offers: ShelfOffers, rows: Rows, names: Sequence[Facet]) -> dict[str, Any]:
    """Of these rows (n,), each once: by value how many have it, the commonest first, and by prices from the lowest.

    A product counts in each category of its path. A price range holds the products that a search with its ends as
    price_min and price_max finds: ends are prices that are there. Call under the shelf's lock.
    """
    made: dict[str, Any] = {}
    for name in dict.fromkeys(names):
        if name == "price":
            made[name] = [
                one for currency, amounts in offers.amounts(rows).items() for one in _ranges(currency, amounts)
            ]
        else:
            made[name] = _values(offers.counts(name, rows))
    return made


def _values(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return [{"value": value, "count": count} for value, count in ordered[:VALUES_MAX]]


def _ranges(currency: str, amounts: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Of the prices (n,) in one currency; those that are the same are in one range."""
    prices, counts = np.unique(amounts, return_counts=True)
    before = np.cumsum(counts) - counts
    part = before * PRICE_RANGES // len(amounts)
    ranges = []
    for number in np.unique(part).tolist():
        own = part == number
        ends = {"price_min": float(prices[own][0]), "price_max": float(prices[own][-1])}
        ranges.append({"currency": currency, **ends, "count": int(counts[own].sum())})
    return ranges
