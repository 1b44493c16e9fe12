"""What a product must be to be in an answer: the same conditions for the vector store, and for lists from memory."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PriceRange:
    """Prices in one currency, both ends included; None: no end."""

    currency: str
    lowest: float | None = None
    highest: float | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """All of them hold; None: any. Text is compared as the shop spells it."""

    brand: str | None = None
    category: str | None = None  # one that stands anywhere in the product's category path
    availability: str | None = None  # as an offer has it
    price: PriceRange | None = None  # a product without a price is in no range
    attributes: tuple[tuple[str, str], ...] = ()  # names and values; a name holds no quotation mark


ANY = Conditions()
