"""The lists of the live path are those of the evaluation: 5,000 clicks through both, in lock step."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from examples import TOPIC_IDS
from shelves import FullReplica, offer, vectors

from encoders.next_click import Floats
from encoders.recommender import Request
from store.database import open_database
from store.history import EVENTS, History
from store.users import UserStore
from streams.assortment import Assortment
from streams.broker import Broker
from streams.clicks import ClicksRole
from streams.evaluation.live import NOT_LISTED, FreshetModel
from streams.evaluation.moments import Moments
from streams.evaluation.stream import Catalog, Clicks, Stream, arrange
from streams.examples import Record
from streams.factors import factor_records
from streams.learning import Learning
from streams.ranking import lists_ranker
from streams.replicas import shelf_topics
from streams.role import Delivery, Message
from streams.settings import Settings
from streams.shelf import Shelf
from streams.simulate import Simulator
from streams.topics import topic_names

CLICKS, PRODUCTS, USERS, SEGMENTS = 5_000, 120, 400, 3  # nobody clicks more often than a history is long
REPLAYS = 2
TOLERANCE = 1e-5
NAMES = topic_names(Settings(), "abc")
PRODUCT_IDS = [f"p{number:03d}" for number in range(PRODUCTS)]  # as the learner numbers them


class LivePath:
    """The classes of the roles, with every record that one publishes handed to the next at once."""

    def __init__(self, home: Path, fused: Floats) -> None:
        self.settings = Settings(home=home, worker_id="w", list_max_age_s=None, explore_share=0.0)
        self.users = UserStore(open_database(None, home, "users"))
        self.shelf = Shelf()
        assortment = Assortment()
        for product_id, vector in zip(PRODUCT_IDS, fused, strict=True):
            for view in (self.shelf, assortment):
                view.put_offer(product_id.encode(), offer(), ())
                view.put_vectors(product_id.encode(), vectors(vector.tolist()), ())
        broker = Broker(self.settings)
        self.role = ClicksRole(self.settings, NAMES, broker, self.users, self.shelf, FullReplica())  # type: ignore[arg-type]
        self.learning = Learning(assortment, TOPIC_IDS)
        self.ranker = lists_ranker(self.shelf, self.settings)
        self._puts = shelf_topics(self.shelf, NAMES)
        self._sequence = 0
        self.publish()

    def publish(self) -> None:
        """All that the learner has to tell is on the shelf."""
        self._sequence += 1
        changes = self.learning.take_changes(PRODUCTS, PRODUCTS)
        for record in factor_records(changes, NAMES, 1, self._sequence):
            self._puts[record.topic](record.key or b"", record.value, record.headers)

    def list_of(self, user_id: str, at: float, segment: str | None) -> list[dict[str, Any]]:
        """What the api would answer."""
        row = self.users.read([user_id]).get(user_id)
        return self.ranker.rank([History.of(row.clicks if row else ())], at=at, segments=[segment])[0].items

    def click(self, number: int, value: dict[str, Any]) -> list[dict[str, Any]]:
        """The click is through every role; the list that it was answered with."""
        message = Message(
            NAMES.user_clicks, "t", 0, number, value["user_id"].encode(), orjson.dumps(value), (), time.time()
        )
        outcome = self.role.compute([Delivery(message, self.role.parse(message))], None)
        outcome.commit()
        examples = [out.value for out in outcome.publish if out.topic == NAMES.training_examples]
        lists = [orjson.loads(out.value or b"") for out in outcome.publish if out.topic == NAMES.recommendations]
        self.learning.receive([Record(0, number, example) for example in examples])
        assert self.learning.learn(1, REPLAYS) == 1
        self.publish()
        items: list[dict[str, Any]] = lists[0]["items"]
        return items


def simulated() -> tuple[list[dict[str, Any]], Stream]:
    """Clicks of all four events, two of three with a segment, a user's never two at one time; the same as a stream."""
    chance = np.random.default_rng(0)
    catalog = [
        {"product_id": product_id, "title": product_id, "category": ["x", f"kind {chance.integers(8)}"]}
        for product_id in PRODUCT_IDS
    ]
    simulator = Simulator(catalog, USERS, segments=SEGMENTS)
    start = datetime.fromtimestamp(time.time() - 2 * CLICKS * 20, UTC).replace(microsecond=0)
    clicks = [simulator.next_click(start + timedelta(seconds=20 * number)) for number in range(CLICKS)]
    for click in clicks[::3]:
        del click["segment"]
    users = list(dict.fromkeys(click["user_id"] for click in clicks))
    segments = [None, *(f"segment-{number}" for number in range(SEGMENTS))]
    columns = Clicks(
        users,
        PRODUCT_IDS,
        [users.index(click["user_id"]) for click in clicks],
        [PRODUCT_IDS.index(click["product_id"]) for click in clicks],
        [EVENTS.index(click["event"]) for click in clicks],
        [datetime.fromisoformat(click["occurred_at"]).timestamp() for click in clicks],
        [segments.index(click.get("segment")) - 1 for click in clicks],
    )
    return clicks, arrange(columns, Catalog({product_id: {} for product_id in PRODUCT_IDS}), "catalog")


def best(scores: Floats, request: Request, length: int) -> list[tuple[str, float]]:
    """The first of the evaluation's list: what is no candidate, or excluded, is not in it."""
    scores = scores.copy()
    scores[request.excluded] = -np.inf
    scores[request.history[:3]] = -np.inf
    order = np.argsort(-scores, kind="stable")[:length]
    return [(PRODUCT_IDS[row], float(scores[row])) for row in order if scores[row] > -NOT_LISTED / 2]


def same(live: list[dict[str, Any]], evaluated: list[tuple[str, float]]) -> Iterator[bool]:
    """Of each place: the same product, or one that scores the same, and the same score."""
    yield len(live) == len(evaluated)
    for item, (product_id, score) in zip(live, evaluated, strict=False):
        yield item["product_id"] == product_id or abs(item["score"] - score) <= TOLERANCE / 10
        yield abs(item["score"] - score) <= TOLERANCE * max(1.0, abs(score))


def test_the_live_lists_are_those_of_the_evaluation(tmp_path: Path) -> None:
    clicks, stream = simulated()
    fused = np.random.default_rng(1).standard_normal((PRODUCTS, 16)).astype(np.float32)
    fused /= np.linalg.norm(fused, axis=1, keepdims=True)
    model = FreshetModel(stream.facts._replace(fused=fused), replays=REPLAYS)
    model.grow(PRODUCTS)
    moments = Moments(stream, ("purchase",))
    live = LivePath(tmp_path, fused)
    scores = np.empty(PRODUCTS, np.float32)
    by_segment = 0
    for number, click in enumerate(clicks):
        at, user_id = float(stream.times[number]), click["user_id"]
        request = moments.at(number, at)
        model.score(request, scores)
        requested = best(scores, request, live.settings.list_length)
        asked = live.list_of(user_id, at, click.get("segment"))
        assert all(same(asked, requested)), f"list requested at click {number}"
        by_segment += not len(request.history) and request.segment >= 0
        after = Request(
            request.user,
            np.concatenate((stream.rows[number : number + 1], request.history)),
            np.concatenate((np.zeros(1, np.float32), request.ages_s)),
            at,
            np.append(request.excluded, stream.rows[number]) if click["event"] == "purchase" else request.excluded,
        )
        model.score(after, scores)
        published = live.click(number, click)
        assert all(same(published, best(scores, after, live.settings.list_length))), f"list after click {number}"
        model.learn(request, int(stream.rows[number]), int(stream.codes[number]))
    assert by_segment > USERS / 2
