"""What must come of everything that was sent, worked out in plain Python, and the comparison with what did."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import orjson
from system import System

from store.checkpoints import CheckpointStore
from store.records import ProductRow, UserRow
from store.vectors import VECTOR_NAMES, StoredPoint, open_vectors
from streams.catalog import OFFER_FIELDS
from streams.events import ProductFields, unpack_vector

Json = dict[str, Any]
BY_DEFAULT: Json = {
    name: contract.get_default(call_default_factory=True)
    for name, contract in ProductFields.model_fields.items()
    if not contract.is_required()
}


class Clicked(NamedTuple):
    product_id: str
    event: str
    occurred_at: float  # s since 1970


@dataclass
class Truth:
    """Everything that was sent, as it counts. Told in the order in which each key was sent."""

    clicks: dict[str, list[Clicked]] = field(default_factory=lambda: defaultdict(list))  # by user, oldest first
    accepted: dict[str, tuple[str, Clicked]] = field(default_factory=dict)  # event_id -> user and click
    forgotten: set[str] = field(default_factory=set)
    redirected: set[str] = field(default_factory=set)  # users of clicks that came under another key
    products: dict[str, Json | None] = field(default_factory=dict)  # the fields; None once it is deleted
    bad: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))  # by topic
    learned: int = 0  # examples
    learned_per_minute: int = 60

    def click(self, value: Json) -> None:
        """A click that keeps its contract. One whose event_id came before is a publisher's duplicate."""
        if value["event_id"] in self.accepted:
            return
        user_id, earlier = value["user_id"], self.clicks[value["user_id"]]
        click = Clicked(value["product_id"], value["event"], datetime.fromisoformat(value["occurred_at"]).timestamp())
        most = self.learned_per_minute
        if len(earlier) < most or click.occurred_at - earlier[-most].occurred_at >= 60.0:
            self.learned += 1
        earlier.append(click)
        self.accepted[value["event_id"]] = (user_id, click)

    def forget(self, user_id: str) -> None:
        self.clicks.pop(user_id, None)
        self.forgotten.add(user_id)

    def update(self, value: Json) -> None:
        """An update of the catalogue that keeps its contract and wins, as the later one does."""
        product_id, named = value["product_id"], {k: v for k, v in value.items() if k not in ("op", "product_id")}
        if value["op"] == "delete":
            self.products[product_id] = None
        elif value["op"] == "upsert":
            self.products[product_id] = BY_DEFAULT | named
        else:
            known = self.products[product_id]
            assert known is not None, "a patch of a product that is not there is a dead letter"
            self.products[product_id] = known | named


# --- users -----------------------------------------------------------------------------------------------------------


def check_users(system: System, truth: Truth) -> None:
    """Each history holds exactly the clicks that were sent, in their order; the forgotten ones have none."""
    rows = system.parts.users.read([*truth.clicks, *truth.forgotten])
    found = {user_id: [tuple(click) for click in _oldest_first(row)] for user_id, row in rows.items()}
    kept = system.settings.history_clicks
    assert found == {user_id: [tuple(click) for click in clicks[-kept:]] for user_id, clicks in truth.clicks.items()}


def check_lists(system: System, truth: Truth) -> None:
    """Every click was answered by a list that includes its effect, and the newest list is as new as the row."""
    answers: dict[str, list[Json]] = defaultdict(list)
    newest: Counter[str] = Counter()
    for made in system.lists():
        newest[made["user_id"]] = max(newest[made["user_id"]], made["revision"])
        for event_id in made["event_ids"]:
            answers[event_id].append(made)
    expected = {event_id: (user, click) for event_id, (user, click) in truth.accepted.items() if user in truth.clicks}
    assert sorted(expected.keys() - answers.keys()) == [], "clicks without a list"
    assert answers.keys() <= truth.accepted.keys()
    reached: Counter[str] = Counter()
    for event_id, (user_id, click) in expected.items():
        first_revision = min(made["revision"] for made in answers[event_id])
        # What was applied later cannot stand in an earlier revision.
        assert first_revision >= reached[user_id] > -1, f"{event_id} was answered from a state before its turn"
        reached[user_id] = first_revision
        for made in answers[event_id]:
            assert made["user_id"] == user_id
            assert click.event != "purchase" or click.product_id not in _items(made), f"{event_id} had no effect"
            assert _items(made) <= truth.products.keys()
    # A click that was redirected twice is a duplicate the second time: the row moves on, and nothing is to be answered.
    for user_id, row in system.parts.users.read(truth.clicks.keys() - truth.redirected).items():
        assert newest[user_id] >= row.revision, f"{user_id} has no list of the last revision"


def check_examples(system: System, truth: Truth) -> None:
    """The learner, which has ended, has learned each accepted click exactly once."""
    settings = system.settings
    folder = settings.home / settings.namespace / "checkpoints"
    saved = CheckpointStore(system.parts.database("learner"), str(folder.absolute())).load(
        f"{settings.namespace}.learner"
    )
    assert saved is not None, "no checkpoint"
    arrays, meta = saved
    assert (meta["examples"], len(arrays["waiting_products"])) == (truth.learned, 0)


def _oldest_first(row: UserRow) -> Iterable[Clicked]:
    return [Clicked(click.product_id, click.event, click.occurred_at) for click in reversed(tuple(row.clicks))]


def _items(made: Json) -> set[str]:
    return {item["product_id"] for item in made["items"]}


# --- products --------------------------------------------------------------------------------------------------------


def check_products(system: System, truth: Truth, *, encoded: bool = True) -> None:
    """Row, offer, vectors and point of each product are those of its last update. The index role has ended."""
    rows = system.parts.products.read(truth.products)
    offers, vectors = _last(system, system.names.product_index), _last(system, system.names.product_vectors)
    points = _points(system, list(truth.products))
    for product_id, fields in truth.products.items():
        row, point = rows[product_id], points[product_id]
        assert row.deleted == (fields is None), product_id
        assert row.fields == (fields or {}), product_id
        if fields is None:
            assert offers[product_id] is None, product_id
            assert vectors.get(product_id) is None, product_id
            assert point is None, product_id
            continue
        offer = offers[product_id]
        assert offer is not None, product_id
        assert {name: offer[name] for name in OFFER_FIELDS} == {name: fields[name] for name in OFFER_FIELDS}
        assert offer["revision"] <= row.revision
        assert point is not None, product_id
        assert {name: _rounded(point.payload[name]) for name in offer} == {n: _rounded(v) for n, v in offer.items()}
        if encoded:
            _check_vectors(system, row, vectors[product_id], point)


def _rounded(value: Any) -> Any:
    """The embedded store's reader of JSON may be off by the last bit of a time."""
    return round(value, 3) if isinstance(value, float) else value


def _check_vectors(system: System, row: ProductRow, vectors: Json | None, point: StoredPoint) -> None:
    """The newest record on the topic, the row and the point are of the same content."""
    assert row.encoder == system.parts.fingerprint, row.product_id
    assert vectors is not None, row.product_id
    assert vectors["content_revision"] == row.content_revision == point.payload["content_revision"], row.product_id
    present = {name: unpack_vector(vectors[name]) for name in VECTOR_NAMES if vectors[name] is not None}
    assert point.vectors.keys() == present.keys(), row.product_id
    for name, vector in present.items():
        np.testing.assert_allclose(point.vectors[name], vector, atol=1e-5)


def _last(system: System, topic: str) -> dict[str, Json | None]:
    """The last record of each key: what compaction leaves."""
    return {
        record.key.decode(): None if record.value is None else orjson.loads(record.value)
        for record in system.records(topic)
    }


def _points(system: System, product_ids: Sequence[str]) -> dict[str, StoredPoint | None]:
    settings = system.settings
    store = open_vectors(settings.qdrant_url, None, settings.home, settings.namespace)
    try:
        return {product_id: store.fetch(product_id) for product_id in product_ids}
    finally:
        store.close()


# --- dead letters ----------------------------------------------------------------------------------------------------


def check_letters(system: System, truth: Truth) -> None:
    """Exactly the bad events are dead letters; one that was worked on twice may stand there twice."""
    found = {
        topic: sorted({(letter.partition, letter.offset): letter.value or b"" for letter in letters}.values())
        for topic, letters in system.letters().items()
    }
    assert found == {topic: sorted(values) for topic, values in truth.bad.items()}


def check_all(system: System, truth: Truth) -> None:
    """Everything has ended in good order and is as it must be."""
    check_users(system, truth)
    check_lists(system, truth)
    check_examples(system, truth)
    check_products(system, truth)
    check_letters(system, truth)
