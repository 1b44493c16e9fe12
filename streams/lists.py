"""A list that was made for a user, and the record on `recommendations` that publishes it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from numpy.typing import NDArray

from store.history import History
from streams.broker import Headers, Outgoing
from streams.experiment_ranking import Listed, Mark
from streams.list_ids import new_list_id

PROFILE_CLICKS = 3  # the last clicks that content is compared with, as in the ranking
Cause = Literal["click", "push", "retraction"]


@dataclass(frozen=True, slots=True, eq=False)
class MadeList:
    """A user's list as streams.events.RecommendationList, with what it was made from."""

    user_id: str
    partition: int  # of user-clicks, where the user's clicks come from
    revision: int  # of the user's row
    made_at: float  # s since 1970; what was withdrawn until then is not in it
    cause: Cause
    items: bytes  # JSON list of streams.events.ListItem
    product_ids: Sequence[str]  # of the items
    embedding: NDArray[Any] | None = None  # (F,) float32
    clicked: Sequence[str] = ()  # the last products clicked, newest first
    event_ids: Sequence[str] = ()
    withdrawn: Sequence[str] = ()
    list_id: str = field(default_factory=new_list_id)
    experiment: Mark | None = None  # as streams.events.ListExperiment

    def message(self, topic: str, weights_version: str, headers: Headers = ()) -> Outgoing:
        """The record, under the user's key."""
        value = {
            "list_id": self.list_id,
            "user_id": self.user_id,
            "revision": self.revision,
            "made_at": datetime.fromtimestamp(self.made_at, UTC).isoformat(),
            "cause": self.cause,
            "event_ids": self.event_ids,
            "versions": {"weights": weights_version},
            "items": orjson.Fragment(self.items),
        }
        if self.experiment is not None:
            value["experiment"] = self.experiment
        if self.withdrawn:
            value["withdrawn"] = self.withdrawn
        return Outgoing(topic, self.user_id.encode(), orjson.dumps(value), headers)


def made_list(
    ranked: Listed,
    history: History,
    *,
    user_id: str,
    partition: int,
    revision: int,
    made_at: float,
    cause: Cause,
    event_ids: Sequence[str] = (),
) -> MadeList:
    """A whole list, ranked from this history."""
    return MadeList(
        user_id,
        partition,
        revision,
        made_at,
        cause,
        orjson.dumps(ranked.items),
        [item["product_id"] for item in ranked.items],
        ranked.embedding,
        history.product_ids[:PROFILE_CLICKS],
        event_ids,
        list_id=ranked.list_id,
        experiment=ranked.experiment,
    )
