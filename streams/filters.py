"""What products are asked for: the filters of a request, and the conditions that they come to."""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from store.conditions import Conditions, PriceRange
from streams.events import Availability, ShortText

NAMED = re.compile(r"attributes(?:\.(?P<dotted>.*)|\[(?P<bracketed>.*)\])", re.DOTALL)  # the second is OpenAPI's
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
AttributeName = Annotated[str, Field(pattern=r'^[^"\\]{1,100}$')]  # Qdrant's paths take neither, quoted or not


class BadQuery(ValueError):
    """The query cannot be answered as it is; str() says what to change."""


class Filters(BaseModel):
    """All of them hold. Unknown fields are refused: a misspelled filter would filter nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    brand: ShortText | None = None
    category: Annotated[
        str | None, Field(max_length=200, description="stands anywhere in the product's category path")
    ] = None
    availability: Availability | None = None
    price_min: Amount | None = None
    price_max: Amount | None = None
    currency: Annotated[
        str | None, Field(pattern=r"^[A-Z]{3}$", description="of the prices; needed where there are several")
    ] = None
    attributes: Annotated[
        dict[AttributeName, ShortText],
        Field(
            max_length=20, description="names and values; in an address attributes.NAME=VALUE or attributes[NAME]=VALUE"
        ),
    ] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather_attributes(cls, told: Any) -> Any:
        """`attributes.colour: red` and `attributes[colour]: red`, as an address has it, is the attribute colour."""
        if not isinstance(told, Mapping):
            return told
        found = {name: NAMED.fullmatch(str(name)) for name in told}
        named = {name: match["dotted"] or match["bracketed"] or "" for name, match in found.items() if match}
        if not named and isinstance(told.get("attributes"), str):
            raise PydanticCustomError("unnamed", "attributes: say which, as attributes.NAME=VALUE")
        if not named:
            return told
        if "attributes" in told or len({*named.values()}) < len(named):
            raise PydanticCustomError("twice", "attributes: tell them in one way, here or as attributes.NAME")
        others = {name: value for name, value in told.items() if name not in named}
        return {**others, "attributes": {own: told[name] for name, own in named.items()}}

    def conditions(self, currencies: Callable[[], Collection[str]]) -> Conditions:
        """The same for stores and shelves; where all prices have one currency, it need not be named.

        currencies  gives those of the products; asked only where a price counts
        Raises BadQuery.
        """
        price, attributes = self._price(currencies), tuple(sorted(self.attributes.items()))
        return Conditions(self.brand, self.category, self.availability, price, attributes)

    def _price(self, currencies: Callable[[], Collection[str]]) -> PriceRange | None:
        if self.currency is None and self.price_min is None and self.price_max is None:
            return None
        if self.price_min is not None and self.price_max is not None and self.price_min > self.price_max:
            raise BadQuery(f"price_min {self.price_min:g} is above price_max {self.price_max:g}: exchange them")
        known = currencies()
        shown = ", ".join(sorted(known)) or "none"
        if self.currency is None and len(known) != 1:
            raise BadQuery(f"prices are in {shown}: say in which with currency")
        currency = self.currency or next(iter(known))
        if currency not in known:
            raise BadQuery(f"no product has its price in {currency}: there are {shown}")
        return PriceRange(currency, self.price_min, self.price_max)


class PageQuery(Filters):
    """So many products that pass the filters."""

    limit: Annotated[int, Field(ge=1, le=200)] = 20
