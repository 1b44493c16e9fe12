"""Freshet itself under evaluation: the learner's and the ranking's own classes, without the topics between them.

What the learner would publish is on the shelf at once, as views of its arrays: rows of the model are rows of the shelf.
"""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from encoders.list_ranking import choose_listed
from encoders.next_click import Floats
from encoders.next_click_step import Rule
from encoders.next_click_training import DEFAULT_RULE
from encoders.ranking_features import HISTORY, JUST_LOOKED_AT
from encoders.recommender import Request
from store.history import EVENTS
from streams.assortment import Assortment
from streams.evaluation.measures import PUBLISHED
from streams.evaluation.stream import StreamFacts
from streams.events import pack_vector
from streams.examples import Example, TopicIds
from streams.learning import Learning
from streams.ranking import Ranker
from streams.settings import Settings
from streams.shelf import Shelf

NOT_LISTED = 1e3  # below the next-click score: what is no candidate stands behind the candidates
NOWHERE = TopicIds("", "", "")
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}


class FreshetModel:
    """A Recommender. With content, products have fused vectors, as an encode role would give them."""

    name = "freshet"

    def __init__(
        self,
        facts: StreamFacts,
        *,
        seed: int = 0,
        replays: int = DEFAULTS["learn_replays"],
        factors: int = 64,
        rule: Rule = DEFAULT_RULE,
        event_weights: Mapping[str, float] = DEFAULTS["event_weights"],
        diversity: float = DEFAULTS["diversity"],
    ) -> None:
        """Nothing is learned. Raises pydantic.ValidationError for what the settings refuse, ValueError for an event
        that there is none of."""
        if unknown := sorted(event_weights.keys() - set(EVENTS)):
            raise ValueError(f"no event {', '.join(unknown)}: they are {', '.join(EVENTS)}")
        Settings(event_weights=dict(event_weights), diversity=diversity)
        self._fused = facts.fused
        self._replays = replays
        self._diversity = diversity
        self._products = 0
        self._assortment = _OwnAssortment()
        self._learning = Learning(
            self._assortment, NOWHERE, seed=seed, event_weights=event_weights, factors=factors, rule=rule
        )
        self._shelf = _MirrorShelf()
        self._ranker = Ranker(self._shelf, length=1, seen_events=())
        self._is_shown = False  # the shelf is as the model

    def grow(self, products: int) -> None:
        """Offers of the new rows, and their vectors, have come."""
        for row in range(self._products, products):
            key = _key(row)
            self._assortment.put_offer(key, orjson.dumps({"revision": 1}), ())
            if self._fused is not None and self._fused[row].any():
                record = {"fused": pack_vector(self._fused[row])}
                self._assortment.put_vectors(key, orjson.dumps(record), ())
        self._products = products
        self._learning.follow_assortment()
        self._is_shown = False

    def score(self, request: Request, out: Floats) -> None:
        """The candidates as the ranking scores them, the others behind by their next-click score.

        With diversity, those that make a list of PUBLISHED stand before the others, in the order of the list.
        """
        self._show()
        history = request.history[:HISTORY]
        unwanted = np.concatenate((request.excluded, request.history[:JUST_LOOKED_AT]))
        segments = [_segment(request)]
        scored = self._ranker.score([history], [request.ages_s[: len(history)]], [unwanted], segments)[0]
        out[:] = scored.next_click[: len(out)] - NOT_LISTED
        out[scored.rows] = scored.scores
        if self._diversity > 0 and len(scored.rows):
            content = self._shelf.stage.knowledge(self._shelf.clicks).content
            listed = choose_listed(scored.scores, scored.rows, content, self._diversity, PUBLISHED)
            out[scored.rows[listed]] = scored.scores.max() + np.arange(len(listed), 0, -1, dtype=np.float32)

    def learn(self, request: Request, row: int, code: int = 3) -> None:
        """As the clicks role would tell the learner."""
        history = request.history[:HISTORY]
        example = Example(
            _id(row),
            tuple(map(_id, history.tolist())),
            request.ages_s[: len(history)],
            np.isin(history, request.excluded),
            EVENTS[code],
            row not in request.excluded and row not in request.history[:JUST_LOOKED_AT],
            _segment(request),
        )
        self._learning.ready.append(example)
        self._learning.learn(1, self._replays)
        self._is_shown = False

    def _show(self) -> None:
        """The shelf holds what the model knows at this moment."""
        if self._is_shown:
            return
        self._shelf.show(self._learning)
        self._is_shown = True

    def __getstate__(self) -> Mapping[str, Any]:
        """Views would not be views any more: the shelf is made again."""
        return vars(self) | {"_shelf": None, "_ranker": None, "_is_shown": False}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._shelf = _MirrorShelf()
        self._ranker = Ranker(self._shelf, length=1, seen_events=())


class _MirrorShelf(Shelf):
    """Its rows are the model's, and its arrays the learner's own."""

    def show(self, learning: Learning) -> None:
        """Everything as it is at this moment; what shows it after the next click must be asked for again."""
        model = learning.model
        weights, context, offset, bias = model.served()
        products = len(context)
        if self.context.shape != context.shape:
            self.product_ids = list(map(_id, range(products)))
            self.target = np.empty_like(context)
        self.weights, self.context, self.bias = weights, context, bias
        np.add(context, offset, out=self.target)
        self.listable = self.has_factors = model.known
        self.clicks = model.clicks[:products]
        stage = learning.stage
        self.stage.show(stage.knowledge(self.clicks), stage.segments, stage.serving().reranker)


class _OwnAssortment(Assortment):
    """One that pickles: nobody else holds its lock."""

    def __getstate__(self) -> Mapping[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state, lock=threading.Lock())


def _id(row: int) -> str:
    return f"{row:09d}"  # the learner gives rows to new products in the order of their ids


def _segment(request: Request) -> str | None:
    return str(request.segment) if request.segment >= 0 else None


def _key(row: int) -> bytes:
    return _id(row).encode()
