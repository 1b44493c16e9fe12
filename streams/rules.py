"""What a shop wants of its lists, whatever the ranking says: rules that a person writes and every list obeys.

A rule never overrides what may not be listed: what is sold out, deleted, or had by the user stays out, pinned or not.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from store.conditions import Conditions
from streams.events import Id

DEFAULT_SCENARIO = "default"  # of the lists on the topic, and of those that are asked for without one
BLOCKS_ALONE = frozenset({"similar", "across-brands", "related", "trending", "new"})  # there other rules do nothing
WITHOUT_NUL = r"^[^\x00]+$"  # no reader takes a record with one
RULES_MAX = 500
LIST_MAX = 200  # the longest list there is
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=WITHOUT_NUL)]
Text = Annotated[str, Field(min_length=1, max_length=1_000, pattern=WITHOUT_NUL)]
ProductId = Annotated[Id, Field(pattern=WITHOUT_NUL)]


def _moment(told: Any) -> Any:
    """A text as the time that it names: JSON has nothing else for it, nor has YAML within quotes."""
    try:
        return datetime.fromisoformat(told) if isinstance(told, str) else told
    except ValueError:
        return told


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]


class _Rule(BaseModel):
    """Where and when a rule holds."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    scenarios: Annotated[
        list[Name], Field(max_length=20, description="in lists of these alone; none: in every list")
    ] = []
    since: Moment | None = None
    until: Moment | None = None

    @field_validator("until")
    @classmethod
    def _ends_after_it_begins(cls, until: datetime | None, others: ValidationInfo) -> datetime | None:
        since = others.data.get("since")
        if until is not None and since is not None and until <= since:
            raise PydanticCustomError("ends_first", "it ends before it begins: since is {since}", {"since": f"{since}"})
        return until

    def holds_in(self, scenario: str) -> bool:
        """True if lists of this scenario obey it."""
        return not self.scenarios or scenario in self.scenarios

    def is_on(self, at: float) -> bool:
        """True if it holds at this time (s since 1970): from `since` on, and no more at `until`."""
        begun = self.since is None or at >= self.since.timestamp()
        return begun and (self.until is None or at < self.until.timestamp())


class _About(_Rule):
    """Which products it is about: those that all of this is true of."""

    products: Annotated[list[ProductId], Field(max_length=10_000, description="any of these")] = []
    brand: Annotated[Text | None, Field(description="as the shop spells it")] = None
    category: Annotated[Text | None, Field(description="stands anywhere in the product's category path")] = None
    attributes: Annotated[dict[Text, Text], Field(max_length=20, description="names and values")] = {}

    @property
    def conditions(self) -> Conditions:
        """Those on the offer."""
        return Conditions(self.brand, self.category, attributes=tuple(sorted(self.attributes.items())))

    @property
    def is_about_all(self) -> bool:
        """True if it names no products in any way."""
        return not self.products and self.conditions == Conditions()


class _AboutSome(_About):
    @model_validator(mode="after")
    def _names_some(self) -> "_AboutSome":
        if self.is_about_all:
            raise PydanticCustomError("about_all", "say of what: products, brand, category or attributes")
        return self


class Pin(_Rule):
    """These products stand from this position on, in this order, those of them that may be listed."""

    action: Literal["pin"]
    products: Annotated[list[ProductId], Field(min_length=1, max_length=LIST_MAX)]
    position: Annotated[int, Field(ge=1, le=LIST_MAX)] = 1


class Weigh(_AboutSome):
    """The odds of a click on these products count so many times as high (boost), or as low (bury)."""

    action: Literal["boost", "bury"]
    factor: Annotated[float, Field(gt=1, le=1e6)]


class Block(_AboutSome):
    """None of these products is listed."""

    action: Literal["block"]


class Cap(_About):
    """A list holds at most so many of these products; with `each`, of these of each brand, or each category path."""

    action: Literal["cap"]
    most: Annotated[int, Field(ge=1, le=LIST_MAX)]
    each: Literal["brand", "category"] | None = None

    @model_validator(mode="after")
    def _names_some(self) -> "Cap":
        if self.is_about_all and self.each is None:
            raise PydanticCustomError("about_all", "say of what: each, products, brand, category or attributes")
        return self


Rule = Annotated[Pin | Weigh | Block | Cap, Field(discriminator="action")]


class RuleSet(BaseModel):
    """rules: all that hold, by their names. Where two contend for a position, the one that stands first has it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    rules: Annotated[dict[Name, Rule], Field(max_length=RULES_MAX)]  # to be told: an empty file takes none back


NO_RULES = RuleSet(rules={})
