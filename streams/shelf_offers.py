"""What an offer says beside its title, of every product on a shelf: compact, and quick to filter by.

Text is kept once and rows hold its number, so that 50,000 products take some megabytes. The shelf fills it, under its
lock.
"""

from array import array
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Mask, Rows, longer
from store.conditions import Conditions
from streams.lexical import Document, LexicalIndex

NONE = -1
TOLD_KEPT = 5_000  # offers as answers tell them
Attribute = tuple[str, str]  # name and value
Value = TypeVar("Value", bound=Hashable)


class Numbered(Generic[Value]):
    """Values that were seen, each once, and their numbers."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self._numbers: dict[Value, int] = {}

    def number_of(self, value: Value) -> int:
        """Its number, a new one if it was not seen before."""
        number = self._numbers.setdefault(value, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number

    def known(self, value: Value | None) -> int | None:
        """Its number; None if it was not seen."""
        return None if value is None else self._numbers.get(value)


class ShelfOffers:
    """Of P rows: brand, category path, price, availability, attributes and the main picture."""

    def __init__(self) -> None:
        self.brands: Numbered[str] = Numbered()
        self.brand: NDArray[np.int32] = np.zeros(0, np.int32)  # (P,) numbers of brands, NONE without
        self._paths: Numbered[tuple[str, ...]] = Numbered()
        self.path: NDArray[np.int32] = np.zeros(0, np.int32)  # (P,) numbers of category paths; an empty one has one
        self._paths_with: dict[str, list[int]] = {}  # category -> numbers of the paths that it stands in
        self._currencies: Numbered[str] = Numbered()
        self._currency: NDArray[np.int16] = np.zeros(0, np.int16)
        self._amount: NDArray[np.float64] = np.zeros(0, np.float64)
        self._availabilities: Numbered[str] = Numbered()
        self._availability: NDArray[np.int8] = np.zeros(0, np.int8)
        self._attributes: list[tuple[Attribute, ...]] = []  # of each row, sorted
        self._rows_with: dict[Attribute, tuple[Attribute, array[int]]] = {}  # itself, and rows in no order
        self._pictures: list[str | None] = []
        self._told: dict[int, dict[str, Any]] = {}  # by row, of the rows that were told since they were put
        self.keeps_words = False
        self.words = LexicalIndex()  # empty where words are not kept

    def grow(self, rows: int) -> None:
        """There is room for so many."""
        for name in ("brand", "path", "_currency", "_availability"):
            setattr(self, name, longer(getattr(self, name), rows, NONE))
        self._amount = longer(self._amount, rows, NONE)
        more = rows - len(self._pictures)
        self._attributes += [()] * more
        self._pictures += [None] * more

    def put(self, row: int, offer: Mapping[str, Any]) -> bool:
        """The row's product is offered so, as streams.events.Offer has it; True if that is another brand, category or
        attribute than before."""
        brand, price, links = offer.get("brand"), offer.get("price"), offer.get("image_links")
        self._told.pop(row, None)
        before = self.brand[row], self.path[row], self._attributes[row]
        self.brand[row] = NONE if brand is None else self.brands.number_of(brand)
        self.path[row] = self._number_of_path(tuple(offer.get("category") or ()))
        self._currency[row] = self._currencies.number_of(price["currency"]) if price else NONE
        self._amount[row] = price["amount"] if price else NONE
        self._availability[row] = self._availabilities.number_of(offer.get("availability") or "in_stock")
        self._put_attributes(row, offer.get("attributes") or {})
        self._pictures[row] = links[0] if links else None
        if self.keeps_words:
            self.words.put(row, Document.of(offer))
        return (self.brand[row], self.path[row], self._attributes[row]) != before

    def clear(self, row: int) -> None:
        """Nothing is offered here."""
        self._told.pop(row, None)
        self.brand[row] = self.path[row] = self._currency[row] = self._availability[row] = NONE
        self._amount[row] = NONE
        self._put_attributes(row, {})
        self._pictures[row] = None
        if self.keeps_words:
            self.words.put(row, None)

    def meeting(self, conditions: Conditions) -> Mask:
        """(P,) bool, a new array: the rows whose offers meet every condition."""
        met = np.ones(len(self.brand), np.bool_)
        if conditions.brand is not None:
            met &= self._with(self.brand, self.brands.known(conditions.brand))
        if conditions.category is not None:
            is_wanted = np.zeros(len(self._paths.values) + 1, np.bool_)  # the last: NONE
            is_wanted[self._paths_with.get(conditions.category, [])] = True
            met &= is_wanted[self.path]
        if conditions.availability is not None:
            met &= self._with(self._availability, self._availabilities.known(conditions.availability))
        if (price := conditions.price) is not None:
            met &= self._with(self._currency, self._currencies.known(price.currency))
            if price.lowest is not None:
                met &= self._amount >= price.lowest
            if price.highest is not None:
                met &= self._amount <= price.highest
        for attribute in conditions.attributes:
            has = np.zeros(len(met), np.bool_)
            if attribute in self._rows_with:
                has[np.array(self._rows_with[attribute][1], np.int32)] = True
            met &= has
        return met

    def is_meeting(self, row: int, conditions: Conditions) -> bool:
        """The same of one row, without the price: for rows that change one by one."""
        path = int(self.path[row])
        return (
            (conditions.brand is None or int(self.brand[row]) == self.brands.known(conditions.brand))
            and (conditions.category is None or (path != NONE and conditions.category in self._paths.values[path]))
            and all(attribute in self._attributes[row] for attribute in conditions.attributes)
        )

    def numbers(self, each: Literal["brand", "category"]) -> NDArray[np.int32]:
        """(P,) of brands, or of whole category paths."""
        return self.brand if each == "brand" else self.path

    def has(self, each: Literal["brand", "category"], row: int) -> bool:
        """True if the row has a brand, or a category."""
        number = int(self.numbers(each)[row])
        values: Sequence[str | tuple[str, ...]] = self.brands.values if each == "brand" else self._paths.values
        return number != NONE and bool(values[number])

    def of_brand(self, brand: str) -> Mask:
        """(P,) bool: the rows of this brand, however its case is."""
        wanted = brand.strip().casefold()
        numbers = [number for number, other in enumerate(self.brands.values) if other.strip().casefold() == wanted]
        return np.isin(self.brand, np.array(numbers, np.int32))

    def currencies(self) -> Collection[str]:
        """Those that prices are in."""
        numbers = np.unique(self._currency[self._currency != NONE])
        return [self._currencies.values[number] for number in numbers.tolist()]

    def told(self, row: int) -> dict[str, Any]:
        """brand, category, price, availability and image_link of the row's offer, as JSON values; not to be changed."""
        if (known := self._told.get(row)) is not None:
            return known
        if len(self._told) >= TOLD_KEPT:
            self._told.clear()
        told = self._told[row] = self._as_json(row)
        return told

    def _as_json(self, row: int) -> dict[str, Any]:
        brand, path, currency = int(self.brand[row]), int(self.path[row]), int(self._currency[row])
        availability = int(self._availability[row])
        amount = float(self._amount[row])
        return {
            "brand": None if brand == NONE else self.brands.values[brand],
            "category": [] if path == NONE else list(self._paths.values[path]),
            "price": None if currency == NONE else {"amount": amount, "currency": self._currencies.values[currency]},
            "availability": None if availability == NONE else self._availabilities.values[availability],
            "image_link": self._pictures[row],
        }

    def attributes(self, row: int) -> dict[str, str]:
        """Of the row's offer, by their names."""
        return dict(self._attributes[row])

    def counts(self, name: Literal["brand", "category", "availability"], rows: Rows) -> dict[str, int]:
        """How many of these rows have each value; one with several categories is counted in each."""
        if name == "category":
            counts: dict[str, int] = {}
            for path, count in _counted(self.path[rows]):
                for category in set(self._paths.values[path]):
                    counts[category] = counts.get(category, 0) + count
            return counts
        seen, numbers = (self.brands, self.brand) if name == "brand" else (self._availabilities, self._availability)
        return {seen.values[number]: count for number, count in _counted(numbers[rows])}

    def amounts(self, rows: Rows) -> dict[str, NDArray[np.float64]]:
        """The prices of these rows, by currency."""
        own = self._currency[rows]
        return {self._currencies.values[number]: self._amount[rows][own == number] for number, _ in _counted(own)}

    def _number_of_path(self, path: tuple[str, ...]) -> int:
        known = len(self._paths.values)
        number = self._paths.number_of(path)
        if number == known:
            for category in set(path):
                self._paths_with.setdefault(category, []).append(number)
        return number

    def _put_attributes(self, row: int, attributes: Mapping[str, str]) -> None:
        before, now = self._attributes[row], tuple(sorted(attributes.items()))
        if now == before:
            return
        for attribute in before:
            rows = self._rows_with[attribute][1]
            rows.remove(row)
            if not rows:  # what changes with every update, such as a count in stock, does not pile up
                del self._rows_with[attribute]
        kept = []
        for attribute in now:
            one, rows = self._rows_with.setdefault(attribute, (attribute, array("i")))
            rows.append(row)
            kept.append(one)
        self._attributes[row] = tuple(kept)

    @staticmethod
    def _with(numbers: NDArray[np.signedinteger[Any]], number: int | None) -> Mask:
        return np.zeros(len(numbers), np.bool_) if number is None else numbers == number


def told_payload(payload: Mapping[str, Any]) -> dict[str, Any]:
    """As ShelfOffers.told, of an offer as the vector store has it."""
    links = payload.get("image_links") or [None]
    return {
        "brand": payload.get("brand"),
        "category": payload.get("category") or [],
        "price": payload.get("price"),
        "availability": payload.get("availability") or "in_stock",
        "image_link": links[0],
    }


def _counted(numbers: NDArray[np.signedinteger[Any]]) -> list[tuple[int, int]]:
    """Each number but NONE, and how often it is there."""
    each, counts = np.unique(numbers[numbers != NONE], return_counts=True)
    return list(zip(each.tolist(), counts.tolist(), strict=True))
