"""The dead letters: how many are open and why, and publishing them again or dropping them."""

import time
from typing import Annotated, Any, Self

from fastapi import APIRouter, Body, HTTPException
from pydantic import BaseModel, ConfigDict, Field, model_validator

from store.letters import Place, Settled
from streams.api import PREFIX
from streams.api.access import Access
from streams.api.answers import answers
from streams.dead_letters import DeadLetter
from streams.letter_board import LetterBoard
from streams.replays import Replays, place_of

AT_ONCE_MAX = 1_000  # letters of a request
PLACE = "catalog-updates/2/4711"
KIND = "unknown product '…': publish an upsert first, then this patch again"
OPEN = {
    "open": 1,
    "reasons": [
        {
            "topic": "catalog-updates",
            "reason": KIND,
            "open": 1,
            "newest": [
                {
                    "place": PLACE,
                    "at": "2026-01-31T12:00:00.000+00:00",
                    "key": "p7",
                    "reason": "unknown product 'p7': publish an upsert first, then this patch again",
                }
            ],
        }
    ],
}
EXAMPLES: Any = {
    "one": {"summary": "One letter", "value": {"place": PLACE}},
    "reason": {"summary": "All of a reason", "value": {"reason": KIND, "topic": "catalog-updates"}},
    "all": {"summary": "All of a topic", "value": {"all": True, "topic": "user-clicks"}},
}
REPLAYED = {
    "replayed": [PLACE],
    "refused": [
        {"place": "catalog-updates/2/4690", "why": "product 'p7' is still unknown: publish an upsert first"},
    ],
    "left": 0,
}


class Which(BaseModel):
    """Which letters: the one of a place, all of a reason, or all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: str | None = Field(None, max_length=400, description="topic/partition/offset of the record")
    reason: str | None = Field(None, min_length=3, description="as GET tells it, or how the reason begins")
    all: bool = False
    topic: str | None = Field(
        None, max_length=300, description="with `reason` or `all`: only the letters of this topic"
    )

    @model_validator(mode="after")
    def name_one(self) -> Self:
        if sum((self.place is not None, self.reason is not None, self.all)) != 1:
            raise ValueError("say which: a `place`, a `reason`, or `all`: true")
        if self.place is not None:
            place_of(self.place)
        return self


class Replay(Which):
    """Which letters to publish again."""

    anyway: bool = Field(False, description="also what is refused because it turns something back, or fails again")


def letter_routes(board: LetterBoard, replays: Replays, access: Access) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=f"{PREFIX}/dead-letters", tags=["operation"], dependencies=[access.needs("admin")])

    @routes.get("", summary="The open dead letters", responses=answers(OPEN))
    def open_letters() -> dict[str, Any]:
        """How many are open, by topic and kind of reason, the most first; the newest of each kind, without values."""
        found = board.open(replays.letters.settled(), time.time())
        reasons = [
            {
                "topic": one.topic,
                "reason": one.kind,
                "open": one.count,
                "newest": [example._asdict() | {"place": str(example.place)} for example in one.newest],
            }
            for one in found
        ]
        return {"open": sum(one.count for one in found), "reasons": reasons}

    @routes.post("/replay", summary="Publish dead letters again", responses=answers(REPLAYED))
    def replay(which: Annotated[Replay, Body(openapi_examples=EXAMPLES)]) -> dict[str, Any]:
        """The raw bytes are on their topic again, under their key, with a header `replayed-from`, and confirmed; what
        would turn back something newer is refused and stays open. At most 1,000 at once: `left` says to how many more
        it did not come, and `refused` names the first 1,000."""
        if which.place is not None:
            done, left = replays.replay(of_place(place_of(which.place)), anyway=which.anyway), 0
        else:
            done, left = replays.replay_first(
                topics_of(which), reason=which.reason, most=AT_ONCE_MAX, anyway=which.anyway
            )
        refused = [{"place": str(one.place), "why": one.why} for one in done.refused[:AT_ONCE_MAX]]
        return {"replayed": [str(place) for place in done.replayed], "refused": refused, "left": left}

    @routes.post("/drop", summary="Drop dead letters", responses=answers({"dropped": [PLACE], "left": 0}))
    def drop(which: Annotated[Which, Body(openapi_examples=EXAMPLES)]) -> dict[str, Any]:
        """They are settled: nothing is published, and they are counted no more."""
        if which.place is not None:
            held, left = of_place(place_of(which.place)), 0
        else:
            held, left = replays.first_open(topics_of(which), reason=which.reason, most=AT_ONCE_MAX)
        return {"dropped": [str(place) for place in replays.drop(held)], "left": left}

    def topics_of(which: Which) -> list[str]:
        topics = replays.topics()
        if which.topic is None:
            return topics
        if which.topic not in topics:
            known = ", ".join(sorted(topics)) or "none yet"
            raise HTTPException(404, f"no dead letters are kept of {which.topic!r}: there are those of {known}")
        return [which.topic]

    def of_place(place: Place) -> list[tuple[DeadLetter, Settled | None]]:
        """Of one place, open or not."""
        held = replays.held([], place=place) if place.topic in replays.topics() else []
        if not held:
            raise HTTPException(404, f"no dead letter is kept of {place}: it is no letter's, or was kept long enough")
        return held

    return routes
