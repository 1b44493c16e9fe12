"""An experiment: variants of the ranking, of which each user who takes part gets one, or lists drawn from two.

It stands on a compacted topic, so that lists on the topic and the api's are made by the same variants at once. Which
variant a user gets is a function of her id (encoders.user_split); what of a list was clicked is told by the list's id
(streams.list_ids).
"""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from encoders.user_split import fractions_of, part_of
from streams.broker import Headers
from streams.list_ids import Origin, origin_of, tag_of
from streams.published_document import PublishedDocument

DRAWN = -1  # in place of a variant's number: her lists are drawn from both
VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$", description="letters, digits, - and _")]
ExperimentName = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="small letters, digits and -; used once")
]


class _Part(BaseModel):
    """Unknown names are wrong, also on the topic: a worker that does not know a setting must not try the variant."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class VariedSettings(_Part):
    """What a variant changes: settings of the same names and bounds (FRESHET_...). What is left out stays the shop's.

    Those that begin with explore_ are of lists on the topic only: no other list holds new products for their share.
    """

    diversity: Annotated[float, Field(ge=0, le=1)] | None = None
    duplicates: Literal["keep", "one"] | None = None
    explore_share: Annotated[float, Field(ge=0, le=1)] | None = None
    explore_impressions: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    explore_nearest: Annotated[float, Field(ge=0.001, le=1)] | None = None
    explore_per_list: Annotated[int, Field(ge=1, le=200)] | None = None
    explore_per_user: Annotated[int, Field(ge=1, le=255)] | None = None
    explore_days: Annotated[float, Field(gt=0)] | None = None
    second_stage: bool = True  # False: the order is that of scores and contents, before anything is learned of lists

    def of_settings(self) -> dict[str, Any]:
        """Those fields of streams.settings.Settings that are changed."""
        return self.model_dump(exclude={"second_stage"}, exclude_none=True)


class Variant(_Part):
    name: VariantName
    weight: Annotated[float, Field(gt=0, le=1_000, description="of the users who take part, beside the others")] = 1.0
    settings: VariedSettings = VariedSettings()


class Experiment(_Part):
    """What is tried; the first variant is the one that the others are compared with."""

    name: ExperimentName
    mode: Literal["split", "interleave"] = "split"
    traffic: Annotated[float, Field(gt=0, le=1, description="share of all users that take part")] = 1.0
    variants: Annotated[list[Variant], Field(min_length=2, max_length=8)]

    @field_validator("variants")
    @classmethod
    def _differ(cls, variants: list[Variant], told: ValidationInfo) -> list[Variant]:
        names = [variant.name for variant in variants]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two have the name {', '.join(twice)}")
        if told.data.get("mode") == "interleave":
            if len(variants) != 2:
                raise ValueError(f"lists are interleaved from two, and here are {len(variants)}")
            if len({variant.weight for variant in variants}) > 1:
                raise ValueError("interleaved lists hold as much of both: leave the weights out")
        return variants


class PublishedExperiment(_Part):
    """experiments: the one that runs. A null record ends it."""

    experiment: Experiment | None
    started_at: float  # s since 1970; what happened before does not count


NO_EXPERIMENT = PublishedExperiment(experiment=None, started_at=0.0)


class Attributed(NamedTuple):
    """What an event is owed to."""

    team: int | None  # in an interleaved list, the number of the variant whose item it was, if the position tells


class Trial:
    """An experiment that runs."""

    def __init__(self, experiment: Experiment, started_at: float) -> None:
        self.experiment = experiment
        self.name = experiment.name
        self.started_at = started_at
        self.tag = tag_of(experiment.name)
        self.is_drawn = experiment.mode == "interleave"
        self._weights = [variant.weight for variant in experiment.variants]

    def arm_of(self, user_id: str) -> int | None:
        """The number of her variant, or DRAWN; None: she takes no part."""
        taking_part, variant = fractions_of(self.name, user_id)
        if taking_part >= self.experiment.traffic:
            return None
        return DRAWN if self.is_drawn else part_of(variant, self._weights)

    def variant_name(self, arm: int) -> str | None:
        """None for DRAWN."""
        return None if arm == DRAWN else self.experiment.variants[arm].name

    def mark(self, arm: int) -> dict[str, str | None]:
        """What a list says of itself, as streams.events.ListExperiment."""
        return {"name": self.name, "variant": self.variant_name(arm)}

    def mark_of(self, list_id: str) -> dict[str, str | None] | None:
        """The same by a list's id; None if no variant of this experiment made it."""
        origin = self._own(origin_of(list_id))
        return None if origin is None else self.mark(DRAWN if origin.variant is None else origin.variant)

    def attribute(self, arm: int, list_id: str | None, position: int | None) -> Attributed | None:
        """What the event of a user of this arm is owed to; None: to no list that this experiment made for her arm."""
        origin = self._own(origin_of(list_id)) if list_id else None
        if origin is None or origin.variant != (None if arm == DRAWN else arm):
            return None
        is_told = position is not None and position < len(origin.teams)
        return Attributed(origin.teams[position] if is_told and position is not None else None)

    def _own(self, origin: Origin | None) -> Origin | None:
        if origin is None or origin.tag != self.tag or (origin.variant is None) != self.is_drawn:
            return None
        return origin if origin.variant is None or origin.variant < len(self._weights) else None


class RunningExperiment(PublishedDocument[PublishedExperiment]):
    """The experiment that runs, as the topic told last. `trial` may be read in any thread."""

    def __init__(self) -> None:
        super().__init__(NO_EXPERIMENT)
        self.trial: Trial | None = None

    def put(self, key: bytes, value: bytes | None, headers: Headers) -> None:
        """A record of the topic. Raises BadEvent, and the one before goes on."""
        super().put(key, value, headers)
        told = self.current
        self.trial = None if told.experiment is None else Trial(told.experiment, told.started_at)
