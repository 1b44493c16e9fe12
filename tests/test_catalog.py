"""The catalogue role: what each update makes of the row, and what is published of it."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from messages import NAMES, Json, Source, delivered, headers, run, values
from sqlalchemy import Engine, delete

from encoders.attributes import price_band
from store.database import get_fact, open_database, set_fact
from store.encoders import EncoderRow, EncoderStore
from store.products import ProductStore
from store.products import products as products_table
from store.records import ProductRow
from streams.broker import Broker, BrokerUnavailable
from streams.catalog import PUBLISHED_TO, CatalogRole, NotesRole
from streams.events import BadEvent, WrongKey
from streams.role import Message
from streams.settings import Settings

CUP: Json = {
    "title": "Red cup",
    "description": "Holds tea",
    "brand": "Tidewear",
    "category": ["Kitchen", "Cups"],
    "price": {"amount": 3.5, "currency": "EUR"},
    "image_links": ["cup.jpg"],
    "attributes": {"colour": "red"},
}
INDEX, REQUESTS = NAMES.product_index, NAMES.encode_requests


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_database(None, tmp_path_factory.mktemp("catalog"), "products")
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> ProductStore:
    """A store without rows."""
    with engine.begin() as connection:
        connection.execute(delete(products_table))
    return ProductStore(engine)


@pytest.fixture
def role(store: ProductStore, tmp_path: Path) -> CatalogRole:
    return CatalogRole(Settings(home=tmp_path, picture_retry_s=60.0), NAMES, store)


@pytest.fixture
def updates() -> Source:
    return Source(NAMES.catalog_updates)


@pytest.fixture
def encoders() -> Source:
    return Source(NAMES.product_vectors, "vectors")


def upsert(key: str = "cup", **changes: Any) -> Json:
    return {"op": "upsert", "product_id": key, **CUP, **changes}


def patch(key: str = "cup", **changes: Any) -> Json:
    return {"op": "patch", "product_id": key, **changes}


def answer(content_revision: int, key: str = "cup", image: bool = True, **missing: Any) -> Json:
    vector = "AACAPw==" if image else None
    return {
        "product_id": key,
        "content_revision": content_revision,
        "encoder": "ab12",
        "image": vector,
        "text": "AACAPw==",
        "fused": "AACAPw==",
        "missing": [{"modality": "image", "reason": "not found: upload it", "retry": True} | missing] * (not image),
    }


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(1_000_000 + seconds, UTC).isoformat()


def row_of(store: ProductStore, key: str = "cup") -> ProductRow:
    return store.read([key])[key]


# --- offers and encode requests ----------------------------------------------------------------------------------


def test_a_new_product_becomes_a_row_an_offer_and_an_encode_request(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    before = time.time()
    outcome = run(role, updates.message("cup", upsert(), at=77.0))
    row = row_of(store)
    assert row.fields == CUP | {"availability": "in_stock", "location": None}
    assert (row.revision, row.content_revision, row.deleted, row.image_state) == (1, 1, False, "pending")
    assert row.created_at == 77.0
    assert before <= row.changed_at <= time.time()
    assert row.offsets == {"made-once/0": 0}
    assert values(outcome, INDEX) == {
        "cup": {
            "product_id": "cup",
            "revision": 1,
            "state": "listable",
            "title": "Red cup",
            "brand": "Tidewear",
            "category": ["Kitchen", "Cups"],
            "price": {"amount": 3.5, "currency": "EUR"},
            "availability": "in_stock",
            "image_links": ["cup.jpg"],
            "attributes": {"colour": "red"},
            "changed_at": row.changed_at,
            "created_at": 77.0,
        }
    }
    encoded = ("title", "description", "brand", "category", "attributes", "image_links")
    request = {"product_id": "cup", "content_revision": 1, "price_band": price_band(CUP["price"]["amount"])}
    request |= {name: CUP[name] for name in encoded}
    assert values(outcome, REQUESTS) == {"cup": request}
    assert headers(outcome, INDEX) == headers(outcome, REQUESTS) == {"cup": {"revision": b"1"}}
    assert not outcome.rejected


def test_a_price_never_reaches_the_encoder_and_a_title_does(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    run(role, updates.message("cup", upsert()))
    cheaper = run(role, updates.message("cup", patch(price={"amount": 2, "currency": "EUR"})))
    assert values(cheaper, INDEX)["cup"] == values(cheaper, INDEX)["cup"] | {"revision": 2, "title": "Red cup"}  # type: ignore[operator]
    assert not values(cheaper, REQUESTS)
    renamed = run(role, updates.message("cup", patch(title="Blue cup")))
    assert values(renamed, REQUESTS)["cup"] == values(renamed, REQUESTS)["cup"] | {  # type: ignore[operator]
        "content_revision": 3,
        "title": "Blue cup",
    }
    assert row_of(store).fields["price"] == {"amount": 2.0, "currency": "EUR"}


@pytest.mark.parametrize(
    ("availability", "state"),
    [("in_stock", "listable"), ("preorder", "listable"), ("backorder", "listable"), ("out_of_stock", "sold_out")],
)
def test_what_cannot_be_bought_is_sold_out(role: CatalogRole, updates: Source, availability: str, state: str) -> None:
    outcome = run(role, updates.message("cup", upsert(availability=availability)))
    assert values(outcome, INDEX)["cup"]["state"] == state  # type: ignore[index]


def test_updates_of_one_batch_fold_in_order_into_one_write_and_one_offer(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    outcome = run(
        role,
        updates.message("cup", upsert()),
        updates.message("hat", upsert("hat", title="Hat")),
        updates.message("cup", patch(title="Blue cup", brand=None)),
        updates.message("cup", patch(title="Green cup")),
    )
    row = row_of(store)
    assert (row.fields["title"], row.fields["brand"], row.revision) == ("Green cup", None, 1)
    assert row.offsets == {"made-once/0": 3}
    offers = values(outcome, INDEX)
    assert {key: offer and offer["title"] for key, offer in offers.items()} == {"cup": "Green cup", "hat": "Hat"}


def test_what_the_contract_does_not_know_is_in_no_row(role: CatalogRole, store: ProductStore, updates: Source) -> None:
    price = {"amount": 1.0, "currency": "EUR", "net": 0.8}
    run(role, updates.message("cup", upsert(price=price, colour="red")))
    assert row_of(store).fields["price"] == {"amount": 1.0, "currency": "EUR"}
    assert "colour" not in row_of(store).fields


# --- patches of nothing, deletes, returns -------------------------------------------------------------------------


def test_a_patch_of_an_unknown_product_is_rejected_and_the_others_go_through(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    lost = updates.message("hat", patch("hat", title="Hat"))
    outcome = run(role, lost, updates.message("cup", upsert()))
    assert outcome.rejected == [(lost, "unknown product 'hat': publish an upsert first, then this patch again")]
    assert list(values(outcome, INDEX)) == ["cup"]
    assert list(store.read(["hat", "cup"])) == ["cup"]


@pytest.mark.parametrize("value", [None, {"op": "delete", "product_id": "cup"}])
def test_a_delete_leaves_a_tombstone_and_null_on_both_topics(
    role: CatalogRole, store: ProductStore, updates: Source, value: Json | None
) -> None:
    run(role, updates.message("cup", upsert()))
    outcome = run(role, updates.message("cup", value))
    assert values(outcome, INDEX) == values(outcome, REQUESTS) == {"cup": None}
    assert headers(outcome, INDEX) == headers(outcome, REQUESTS) == {"cup": {"revision": b"2"}}
    row = row_of(store)
    assert (row.deleted, row.fields, row.revision, row.offsets) == (True, {}, 2, {"made-once/0": 1})
    assert row.image_state == "none"
    rejected = run(role, updates.message("cup", patch(title="Ghost"))).rejected
    (reason,) = (reason for _, reason in rejected)
    assert reason == "unknown product 'cup': publish an upsert first, then this patch again"


def test_a_product_that_comes_back_is_encoded_again_and_its_revision_goes_on(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    run(role, updates.message("cup", upsert()))
    run(role, updates.message("cup", None))
    outcome = run(role, updates.message("cup", upsert()))
    assert values(outcome, INDEX)["cup"]["revision"] == 3  # type: ignore[index]
    assert values(outcome, REQUESTS)["cup"]["content_revision"] == 3  # type: ignore[index]
    assert row_of(store).fields["title"] == "Red cup"


def test_a_delete_of_a_product_never_seen_is_remembered(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    outcome = run(role, updates.message("cup", None))
    assert values(outcome, INDEX) == {"cup": None}
    assert row_of(store).deleted
    late = run(role, updates.message("cup", upsert(updated_at="1970-01-01T00:01:00Z")))
    assert values(late, INDEX) == {"cup": None}, "the delete's record is of second 100, the upsert of second 60"


def test_old_tombstones_are_purged_and_younger_ones_stay(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    run(role, updates.message("old", None), updates.message("new", None))
    days = Settings().topic_retention_days + 1
    old = row_of(store, "old")
    store.write([replace(old, revision=2, changed_at=time.time() - days * 86_400 - 5)])
    run(role, updates.message("cup", upsert()))
    role.tick().commit()
    assert sorted(row.product_id for row in store.all_rows()) == ["cup", "new"]


# --- which update wins --------------------------------------------------------------------------------------------


def test_an_older_update_loses_field_by_field(role: CatalogRole, store: ProductStore, updates: Source) -> None:
    run(role, updates.message("cup", upsert(updated_at=moment(10))))
    run(role, updates.message("cup", patch(title="At 30", updated_at=moment(30))))
    run(role, updates.message("cup", patch(title="At 20", brand="At 20", updated_at=moment(20))))
    fields = row_of(store).fields
    assert (fields["title"], fields["brand"]) == ("At 30", "At 20")
    run(role, updates.message("cup", upsert(title="At 25", brand="At 25", updated_at=moment(25))))
    fields = row_of(store).fields
    assert (fields["title"], fields["brand"]) == ("At 30", "At 25")


def test_of_two_updates_of_the_same_time_the_later_in_the_stream_wins(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    run(role, updates.message("cup", upsert(title="First", updated_at=moment(10))))
    run(role, updates.message("cup", patch(title="Second", updated_at=moment(10))))
    assert row_of(store).fields["title"] == "Second"


def test_an_update_without_a_time_wins_and_counts_from_its_record(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    run(role, updates.message("cup", upsert(updated_at=moment(50))))
    run(role, updates.message("cup", patch(title="Undated"), at=1_000_020.0))
    assert row_of(store).fields["title"] == "Undated", "though its record is older than what it replaces"
    run(role, updates.message("cup", patch(title="At 40", brand="At 40", updated_at=moment(40))))
    assert row_of(store).fields["title"] == "Undated"
    run(role, updates.message("cup", patch(brand="Undated"), at=1_000_090.0))
    run(role, updates.message("cup", patch(title="At 80", brand="At 80", updated_at=moment(80))))
    assert (row_of(store).fields["title"], row_of(store).fields["brand"]) == ("At 80", "Undated")


def test_a_delete_loses_to_a_newer_field_and_an_older_upsert_brings_nothing_back(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    def delete_at(seconds: float) -> Json:
        return {"op": "delete", "product_id": "cup", "updated_at": moment(seconds)}

    run(role, updates.message("cup", upsert(updated_at=moment(10))))
    run(role, updates.message("cup", patch(brand="At 30", updated_at=moment(30))))
    outcome = run(role, updates.message("cup", delete_at(20)))
    assert values(outcome, INDEX)["cup"] is not None
    run(role, updates.message("cup", delete_at(40)))
    assert row_of(store).deleted
    run(role, updates.message("cup", upsert(updated_at=moment(35))))
    assert row_of(store).deleted
    assert row_of(store).fields == {}
    run(role, updates.message("cup", upsert(updated_at=moment(45))))
    assert row_of(store).fields["title"] == "Red cup"
    run(role, updates.message("cup", patch(title="At 41", updated_at=moment(41))))
    assert row_of(store).fields["title"] == "Red cup"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("cup", upsert(updated_at="2999-01-01T00:00:00Z"), r"updated_at is \d+ s ahead, the limit is 300 s: check"),
        ("cup", upsert(updated_at="2024-01-01T00:00:00"), "updated_at: .*timezone"),
        ("cup", upsert(price={"amount": 1}), "currency: Field required"),
        ("cup", {"op": "steal", "product_id": "cup"}, "'steal'"),
    ],
)
def test_an_update_that_breaks_the_contract_says_what_to_change(
    role: CatalogRole, updates: Source, key: str, value: Json, reason: str
) -> None:
    with pytest.raises(BadEvent, match=reason):
        role.parse(updates.message(key, value))


@pytest.mark.parametrize("key", ["hat", ""])
def test_an_update_under_another_key_is_told_its_right_one(role: CatalogRole, updates: Source, key: str) -> None:
    with pytest.raises(WrongKey, match="'cup'"):
        role.parse(updates.message(key, upsert()))


# --- replays ------------------------------------------------------------------------------------------------------


def test_a_replay_changes_nothing_and_publishes_the_current_records_again(
    role: CatalogRole, store: ProductStore, updates: Source
) -> None:
    first = updates.message("cup", upsert())
    run(role, first)
    run(role, updates.message("cup", patch(title="Blue cup")))
    before = row_of(store)
    outcome = run(role, first)
    assert row_of(store) == before
    assert values(outcome, INDEX)["cup"]["title"] == "Blue cup"  # type: ignore[index]
    assert values(outcome, REQUESTS)["cup"]["content_revision"] == 2  # type: ignore[index]


def test_a_replay_of_encoded_content_asks_the_encoder_nothing(
    role: CatalogRole, updates: Source, encoders: Source
) -> None:
    first = updates.message("cup", upsert())
    run(role, first)
    run(role, encoders.message("cup", answer(1)))
    outcome = run(role, first)
    assert list(values(outcome, INDEX)) == ["cup"]
    assert not values(outcome, REQUESTS)


def test_a_topic_that_was_made_again_starts_anew(role: CatalogRole, store: ProductStore, updates: Source) -> None:
    run(role, updates.message("cup", upsert()))
    run(role, updates.message("cup", patch(title="Blue cup")))
    again = Source(NAMES.catalog_updates, "made-again")
    run(role, again.message("cup", patch(title="Green cup")))
    assert row_of(store).fields["title"] == "Green cup"
    assert row_of(store).offsets == {"made-once/0": 1, "made-again/0": 0}


def test_a_row_keeps_its_newest_sources_only(role: CatalogRole, store: ProductStore) -> None:
    for start in range(12):
        run(role, Source(NAMES.catalog_updates, f"start-{start}").message("cup", upsert()))
    assert list(row_of(store).offsets) == [f"start-{start}/0" for start in range(4, 12)]


KEYS = st.sampled_from(["cup", "hat"])
TIMES = st.none() | st.integers(0, 5).map(moment)
UPDATES = st.one_of(
    st.builds(lambda key, title, at: upsert(key, title=title, updated_at=at), KEYS, st.sampled_from("ABC"), TIMES),
    st.builds(lambda key, brand, at: patch(key, brand=brand, updated_at=at), KEYS, st.sampled_from("DEF"), TIMES),
    st.builds(lambda key, at: {"op": "delete", "product_id": key, "updated_at": at}, KEYS, TIMES),
    st.builds(lambda key: patch(key, availability="out_of_stock"), KEYS),
)
ENDS = st.sampled_from(["acknowledged", "acknowledged", "died before the commit", "died before the acknowledgement"])
STEPS = st.lists(st.tuples(st.integers(1, 5), ENDS, st.integers(0, 4)), max_size=12)


class Shop:
    """A catalogue role on an empty database, and the last record of each key of product-index."""

    def __init__(self, store: ProductStore, home: Path) -> None:
        self.store = store
        self.role = CatalogRole(Settings(home=home), NAMES, store)
        self.offers: dict[str, Json | None] = {}
        self.rejected: set[int] = set()  # offsets

    def handle(self, batch: list[Message], *, dies_before_commit: bool = False) -> None:
        outcome = self.role.compute(delivered(self.role, batch), None)
        self.offers |= values(outcome, INDEX)
        self.rejected |= {message.offset for message, _ in outcome.rejected}
        if not dies_before_commit:
            outcome.commit()

    def rows(self) -> dict[str, ProductRow]:
        """What must not depend on where batches end: all but the revisions and the clock."""
        own = {"revision": 0, "content_revision": 0, "changed_at": 0.0}
        return {row.product_id: replace(row, **own) for row in self.store.all_rows()}  # type: ignore[arg-type]

    def last_offers(self) -> dict[str, Json | None]:
        own = {"revision": 0, "changed_at": 0.0}
        return {key: offer and offer | own for key, offer in self.offers.items()}


@hypothesis_settings(max_examples=60, deadline=None)
@given(sent=st.lists(UPDATES, max_size=12), steps=STEPS)
def test_any_deaths_replays_and_batches_give_the_rows_and_offers_of_one_pass(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory, sent: list[Json], steps: list[tuple[int, str, int]]
) -> None:
    source = Source(NAMES.catalog_updates)
    messages = [source.message(value["product_id"], value, at=1_000_002.0) for value in sent]
    home = tmp_path_factory.getbasetemp()

    def emptied() -> Shop:
        with engine.begin() as connection:
            connection.execute(delete(products_table))
        return Shop(ProductStore(engine), home)

    calm = emptied()
    expected = [calm.rows()]  # after each number of messages
    for message in messages:
        calm.handle([message])
        expected.append(calm.rows())
    offers = calm.last_offers()

    shop = emptied()
    position = applied = 0
    for size, end, back in [*steps, (len(messages), "acknowledged", 0)]:
        if batch := messages[position : position + size]:
            shop.handle(batch, dies_before_commit=end == "died before the commit")
            if end != "died before the commit":
                applied = max(applied, position + len(batch))
            assert shop.rows() == expected[applied], "no row is turned back, and none is ahead"
            if end == "acknowledged":
                position += len(batch)
            position = max(0, position - back)
    if messages[position:]:
        shop.handle(messages[position:])

    assert shop.rows() == expected[-1]
    assert shop.last_offers() == offers
    assert shop.rejected >= calm.rejected
    for row in shop.store.all_rows():
        offer = shop.offers[row.product_id]
        assert offer is None or offer["revision"] == row.revision


# --- what the encoders answer -------------------------------------------------------------------------------------


def test_an_answer_is_noted_without_an_offer(
    role: CatalogRole, store: ProductStore, updates: Source, encoders: Source
) -> None:
    run(role, updates.message("cup", upsert()))
    before = row_of(store)
    outcome = run(role, encoders.message("cup", answer(1)))
    assert not outcome.publish
    row = row_of(store)
    assert (row.encoder, row.image_state, row.image_reason, row.retry_at) == ("ab12", "encoded", None, None)
    assert (row.revision, row.content_revision, row.changed_at) == (2, 1, before.changed_at)


def test_a_product_without_links_has_no_picture_and_misses_none(
    role: CatalogRole, store: ProductStore, updates: Source, encoders: Source
) -> None:
    run(role, updates.message("cup", upsert(image_links=[])))
    run(role, encoders.message("cup", answer(1, image=False, reason="no image_links", retry=False)))
    row = row_of(store)
    assert (row.encoder, row.image_state, row.image_reason, row.retry_at) == ("ab12", "none", "no image_links", None)


def test_a_missing_picture_is_asked_for_again_later_and_later(
    role: CatalogRole, store: ProductStore, updates: Source, encoders: Source
) -> None:
    run(role, updates.message("cup", upsert()))
    for pause_s in (60, 120, 240):
        now = time.time()
        run(role, encoders.message("cup", answer(1, image=False)))
        row = row_of(store)
        assert (row.image_state, row.image_reason) == ("missing", "not found: upload it")
        assert row.retry_at == pytest.approx(now + pause_s, abs=5)
        assert not role.tick().publish, "it is not due yet"
        store.write([replace(row, revision=row.revision + 1, retry_at=now - 1)])
        tick = role.tick()
        assert values(tick, REQUESTS)["cup"]["content_revision"] == 1  # type: ignore[index]
        assert role.tick().publish, "nothing was committed: the same again"
        tick.commit()
        assert not role.tick().publish
    run(role, encoders.message("cup", answer(1)))
    assert (row_of(store).retries, row_of(store).retry_at, row_of(store).image_state) == (0, None, "encoded")


def test_a_pause_is_a_day_at_most(role: CatalogRole, store: ProductStore, updates: Source, encoders: Source) -> None:
    run(role, updates.message("cup", upsert()))
    store.write([replace(row_of(store), revision=2, retries=5_000)])
    run(role, encoders.message("cup", answer(1, image=False)))
    assert row_of(store).retry_at == pytest.approx(time.time() + 86_400, abs=5)


def test_a_missing_picture_is_asked_for_once_with_each_update_that_names_it_again(
    role: CatalogRole, store: ProductStore, updates: Source, encoders: Source
) -> None:
    run(role, updates.message("cup", upsert()))
    run(role, encoders.message("cup", answer(1, image=False, reason="no picture: convert it", retry=False)))
    assert row_of(store).retry_at is None
    for again in (upsert(), patch(image_links=["cup.jpg"])):
        message = updates.message("cup", again)
        assert values(run(role, message), REQUESTS)["cup"]["content_revision"] == 1  # type: ignore[index]
        assert not values(run(role, message), REQUESTS), "a replay"
    cheaper = patch(price={"amount": 2, "currency": "EUR"})
    assert not values(run(role, updates.message("cup", cheaper)), REQUESTS), "nothing is said of its picture"
    run(role, encoders.message("cup", answer(1)))
    assert (row_of(store).image_state, row_of(store).image_reason) == ("encoded", None)
    assert not values(run(role, updates.message("cup", upsert())), REQUESTS), "it is there"


def test_an_answer_to_other_content_is_ignored_and_new_content_waits_for_its_own(
    role: CatalogRole, store: ProductStore, updates: Source, encoders: Source
) -> None:
    run(role, updates.message("cup", upsert()))
    run(role, updates.message("cup", patch(title="Blue cup")), encoders.message("cup", answer(1, image=False)))
    row = row_of(store)
    assert (row.content_revision, row.encoder, row.image_state, row.retry_at) == (2, None, "pending", None)
    before = row
    assert not run(role, encoders.message("cup", answer(1)), encoders.message("hat", answer(1, "hat"))).publish
    assert row_of(store) == before
    run(role, encoders.message("cup", answer(2)))
    assert row_of(store).encoder == "ab12"


def test_vectors_that_were_written_late_are_asked_for_again(
    role: CatalogRole, updates: Source, encoders: Source
) -> None:
    old, new, ghost = answer(1), answer(2), answer(1, "hat")
    run(role, updates.message("cup", upsert()), updates.message("hat", upsert("hat")))
    run(role, updates.message("cup", patch(title="Blue cup")), updates.message("hat", None))
    outcome = run(role, *[encoders.message(value["product_id"], value) for value in (new, old, ghost)])
    requests = values(outcome, REQUESTS)
    assert requests["cup"]["content_revision"] == 2  # type: ignore[index]
    assert requests["hat"] is None
    assert not values(outcome, INDEX)


def test_a_replayed_answer_is_noted_once(
    role: CatalogRole, store: ProductStore, updates: Source, encoders: Source
) -> None:
    run(role, updates.message("cup", upsert()))
    message = encoders.message("cup", answer(1, image=False))
    run(role, message)
    before = row_of(store)
    run(role, message, encoders.message("cup", None))
    assert row_of(store) == before


# --- after an assignment ------------------------------------------------------------------------------------------


def test_new_topics_are_filled_with_every_row_before_the_fact_is_kept(
    role: CatalogRole, store: ProductStore, engine: Engine, updates: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "topic_ids", lambda _, names: {name: f"first-{name}" for name in names})
    monkeypatch.setattr("streams.catalog.CHUNK", 2)
    run(role, *[updates.message(key, upsert(key)) for key in "abcde"], updates.message("b", None))
    for row in list(store.all_rows()):
        store.write([replace(row, revision=row.revision + 1, changed_at=0.0)])
    chunks = role.assigned()
    published = [record for chunk in [next(chunks), next(chunks), next(chunks)] for record in chunk]
    assert [(m.topic, m.key) for m in published if m.topic == INDEX] == [(INDEX, key.encode()) for key in "abcde"]
    assert [m.key for m in published if m.topic == REQUESTS] == [key.encode() for key in "abcde"]
    assert [m.value is None for m in published if m.topic == INDEX] == [False, True, False, False, False]
    assert get_fact(engine, PUBLISHED_TO) is None, "the last chunk is not confirmed yet"
    assert list(chunks) == []
    assert get_fact(engine, PUBLISHED_TO) is not None
    assert list(role.assigned()) == [], "the same topics, and no row changed lately"

    monkeypatch.setattr(Broker, "topic_ids", lambda _, names: {name: f"second-{name}" for name in names})
    assert len(list(role.assigned())) == 3


def test_the_ids_that_were_kept_before_there_were_versions_are_known(
    role: CatalogRole, store: ProductStore, engine: Engine, updates: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "topic_ids", lambda _, names: {name: f"id-{name}" for name in names})
    run(role, updates.message("cup", upsert("cup")))
    store.write([replace(row_of(store), revision=2, changed_at=0.0)])
    set_fact(engine, PUBLISHED_TO, f"id-{INDEX} id-{REQUESTS} id-of-the-vectors")
    assert list(role.assigned()) == []
    set_fact(engine, PUBLISHED_TO, f"id-{INDEX} other id-of-the-vectors")
    assert len(list(role.assigned())) == 1


def test_what_notes_the_answers_reads_nothing_else_and_publishes_nothing_again(
    role: CatalogRole, store: ProductStore, updates: Source, encoders: Source, tmp_path: Path
) -> None:
    notes = NotesRole(Settings(home=tmp_path), NAMES, store, "-cd34")
    assert (role.topics, notes.topics) == ((NAMES.catalog_updates,), (NAMES.product_vectors,))
    assert (notes.name, notes.group, notes.every_s) == ("catalog", "-notes-cd34", None)
    assert list(notes.assigned()) == []
    run(role, updates.message("cup", upsert("cup")))
    run(notes, encoders.message("cup", answer(row_of(store).content_revision)))
    assert row_of(store).encoder is not None


def test_versions_of_the_encoders_are_told_when_they_change_and_after_an_assignment(
    role: CatalogRole, store: ProductStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "topic_ids", lambda _, names: {name: f"id-{name}" for name in names})
    encoders = EncoderStore(store.engine)
    sources = {"image": "package:i", "text": "package:t"}

    def told() -> dict[str, tuple[str, int]]:
        outcome = role.tick()
        outcome.commit()
        found = values(outcome, NAMES.encoders)
        return {key: (value["state"], value["served"]) for key, value in found.items() if value}

    encoders.add_untrained(EncoderRow("ab12", sources, {"fused": 2}))
    encoders.add(EncoderRow("cd34", sources, {"fused": 2}))
    assert told() == {"ab12": ("serving", 1), "cd34": ("idle", 0)}
    assert told() == {}
    encoders.fill("cd34")
    assert set(values(role.tick(), NAMES.encoders)) == {"cd34"}, "not confirmed"
    assert told() == {"cd34": ("filling", 0)}
    encoders.switch("cd34")
    assert told() == {"ab12": ("filling", 1), "cd34": ("serving", 2)}
    list(role.assigned())
    assert told().keys() == {"ab12", "cd34"}


def test_after_an_assignment_the_offers_of_the_last_minutes_are_published_again(
    role: CatalogRole, store: ProductStore, updates: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "topic_ids", lambda _, names: {name: f"id-{name}" for name in names})
    list(role.assigned())
    run(role, *[updates.message(key, upsert(key)) for key in ("old", "new", "gone")], updates.message("gone", None))
    store.write([replace(row_of(store, "old"), revision=2, changed_at=time.time() - 301)])
    [again] = role.assigned()
    assert {(m.topic, m.key, m.value is None) for m in again} == {(INDEX, b"new", False), (INDEX, b"gone", True)}


def test_without_its_topics_it_waits(role: CatalogRole, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broker, "topic_ids", lambda *_: {INDEX: "1"})
    with pytest.raises(BrokerUnavailable, match=rf"no topics .*{REQUESTS}.*: make them with `freshet topics create`"):
        list(role.assigned())
