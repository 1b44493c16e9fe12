"""Bad input through real processes: each ends as a dead letter or a marked product, and the good goes through."""

import io
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from brokers import LocalKafka, settings_on
from PIL import Image
from system import System, running
from truth import Truth, check_lists, check_users

from store.records import ProductRow
from streams.dead_letters import DeadLetter

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]

Json = dict[str, Any]
SCRIPT = Path(__file__).parent.parent / "crashing_worker.py"
NOW = datetime.now(UTC)
DEADLY = "the lamp that no encoder survives"
TWO_MB = "word " * 400_000


class Bad(NamedTuple):
    """A record, and a part of the reason with which it must end."""

    key: str
    value: Json | bytes | None
    reason: str

    @property
    def raw(self) -> bytes | None:
        return self.value if isinstance(self.value, bytes) or self.value is None else orjson.dumps(self.value)


def click(user: str, number: int = 0, **fields: Any) -> Json:
    good = {"event_id": f"{user}-{number}", "user_id": user, "product_id": "good-1", "event": "view_item"}
    return {**good, "occurred_at": NOW.isoformat(), **fields}


def upsert(product_id: str, **fields: Any) -> Json:
    return {"op": "upsert", "product_id": product_id, "title": f"a lamp called {product_id}", **fields}


def vectors_of(product_id: str, **named: str) -> Json:
    none = {"image": None, "text": None, "fused": None, "missing": []}
    return {"product_id": product_id, "content_revision": 1, "encoder": "unknown", **none, **named}


BAD_CLICKS = {
    "not JSON": Bad("eve", b"view_item good-1", "Invalid JSON"),
    "cut off": Bad("eve", b'{"event_id": "1", "user_id": "eve"', "Invalid JSON: EOF"),
    "not UTF-8": Bad("eve", b'{"event_id": "\xff"}', "Invalid JSON"),
    "not an object": Bad("eve", b'["eve"]', "should be an object"),
    "nothing in it": Bad("eve", b"", "Invalid JSON: EOF"),
    "a number as id": Bad("eve", click("eve", product_id=7), "product_id: Input should be a valid string (got 7)"),
    "a field is missing": Bad("eve", {"event_id": "1"}, "user_id: Field required"),
    "NaN": Bad("eve", b'{"event_id": "1", "position": NaN}', "position: Input should be a valid integer"),
    "NUL": Bad("eve", click("eve", product_id="good\0"), "NUL character"),
    "2 MB of text": Bad("eve", click("eve", list_id=TWO_MB), "list_id: String should have at most 200 characters"),
    "an unknown event": Bad("eve", click("eve", event="teleport"), "event: Input should be 'view_item', 'select_item'"),
    "an empty event_id": Bad("eve", click("eve", event_id=""), "event_id: String should have at least 1 character"),
    "an empty user_id": Bad("eve", click("eve", user_id=""), "user_id: String should have at least 1 character"),
    "no zone": Bad("eve", click("eve", occurred_at="2026-01-01T12:00:00"), "should have timezone info"),
    "no date": Bad("eve", click("eve", occurred_at="yesterday"), "occurred_at: Input should be a valid datetime"),
    "an hour ahead": Bad("eve", click("eve", occurred_at=(NOW + timedelta(hours=1)).isoformat()), "check the clock"),
    "in 1970": Bad("eve", click("eve", occurred_at="1970-01-21T00:00:00Z"), "is it in the right unit?"),
    "nobody to forget": Bad("", None, "the record has no key: publish it with its id as key"),
}
BAD_UPDATES = {
    "not JSON": Bad("bad", b"<product/>", "Invalid JSON"),
    "an unknown operation": Bad("bad", {"op": "sell", "product_id": "bad"}, "'upsert', 'patch', 'delete'"),
    "no title": Bad("bad", {"op": "upsert", "product_id": "bad"}, "title: Field required"),
    "a price as text": Bad("bad", upsert("bad", price={"amount": "9", "currency": "EUR"}), "should be a valid number"),
    "a price without currency": Bad("bad", upsert("bad", price={"amount": 9.0}), "price.currency: Field required"),
    "a price of NaN": Bad(
        "bad",
        b'{"op": "upsert", "product_id": "bad", "title": "x", "price": {"amount": NaN, "currency": "EUR"}}',
        "price.amount: Input should be",
    ),
    "NUL": Bad("bad", upsert("bad", brand="Oak\0stead"), "NUL character"),
    "2 MB of text": Bad("bad", upsert("bad", description=TWO_MB), "should have at most 20000 characters"),
    "an empty id": Bad("bad", upsert(""), "product_id: String should have at least 1 character"),
    "no zone": Bad("bad", upsert("bad", updated_at="2026-01-01T12:00:00"), "should have timezone info"),
    "a year ahead": Bad(
        "bad",
        upsert("bad", updated_at=(NOW + timedelta(days=365)).isoformat()),
        "s ahead, the limit is 300 s",
    ),
    "a patch of an unknown product": Bad(
        "bad", {"op": "patch", "product_id": "bad", "availability": "in_stock"}, "publish an upsert first"
    ),
    "nothing to delete": Bad("", None, "the record has no key"),
}
GARBAGE = {  # on the topics that Freshet itself writes, by their names in TopicNames
    ("product_index", "not JSON"): Bad("bad", b"<offer/>", "Invalid JSON"),
    ("product_index", "a wrong type"): Bad(
        "bad", {"product_id": "bad", "revision": "one"}, "revision: Input should be"
    ),
    ("product_index", "a null without its revision"): Bad("bad", None, "needs its revision as header"),
    ("encode_requests", "not JSON"): Bad("bad", b"\xff\x00", "Invalid JSON"),
    ("encode_requests", "a field is missing"): Bad("bad", {"product_id": "bad"}, "content_revision: Field required"),
    ("encode_requests", "a null without its revision"): Bad("bad", None, "needs its revision as header"),
    ("product_vectors", "not JSON"): Bad("bad", b"[0.1, 0.2]", "should be an object"),
    ("product_vectors", "a field is missing"): Bad("bad", {"product_id": "bad"}, "content_revision: Field required"),
    ("product_vectors", "of another width"): Bad("bad", vectors_of("bad", fused="AACAPw=="), "has 1 values"),
    ("product_vectors", "no numbers"): Bad("bad", vectors_of("bad", text="*"), "not base64 of little-endian float32"),
    ("product_vectors", "a null without its revision"): Bad("bad", None, "needs its revision as header"),
}
READ_BY_TWO = {("product_vectors", "not JSON"), ("product_vectors", "a field is missing")}  # catalog parses them too


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 300 bytes whose header promises 3.6 thousand million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\x00" * 100_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


RED = Image.new("RGB", (40, 40), (200, 20, 30))
PICTURES = {
    "plain.png": saved(RED, "PNG"),
    "text.jpg": b"This is the picture of a lamp.\n",
    "bomb.png": bomb(),
    "dot.png": saved(RED.resize((1, 1)), "PNG"),
    "cut.jpg": saved(RED, "JPEG")[:200],
    "cmyk.jpg": saved(RED.convert("CMYK"), "JPEG"),
    "animated.gif": saved(RED, "GIF", save_all=True, append_images=[Image.new("RGB", (40, 40), "blue")]),
}
MARKED = {
    "text.jpg": "it is no picture in JPEG, PNG, WEBP, GIF, BMP (starts with b'This is the pict'): convert it",
    "bomb.png": "more than 40000000 pixels: shrink it",
    "dot.png": "it is 1 x 1 pixels, at least 8 x 8 are needed: upload a larger one",
    "cut.jpg": "upload it again",
    "not-there.png": "'not-there.png' is not below pictures_root: put it there",
    "../outside.png": "lies outside of pictures_root: move it below",
    "gopher://shop/lamp.png": "is neither http(s) nor a file: publish such a link",
    "http://127.0.0.1/lamp.png": "127.0.0.1",
}
MAY_COME = {"not-there.png", "bomb.png", "../outside.png", "http://127.0.0.1/lamp.png"}
"""Of those, the ones that waiting or another setting may bring."""

TAKEN = ("plain.png", "cmyk.jpg", "animated.gif")


class Aftermath(NamedTuple):
    """What is there when everything was worked on."""

    letters: dict[tuple[str, str], DeadLetter]  # by topic ("clicks", "updates", ...) and name of the bad record
    copies: dict[tuple[str, str], int]  # how many of each there are
    encode_letters: list[DeadLetter]
    others: int  # dead letters that no case asked for
    products: dict[str, ProductRow]
    deaths: list[int]
    system: System
    truth: Truth


@pytest.fixture(scope="module")
def aftermath(kafka: LocalKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    """Every case between good events, through one set of processes, which then has ended."""
    home = tmp_path_factory.mktemp("home")
    (home / "pictures").mkdir()
    for name, content in PICTURES.items():
        (home / "pictures" / name).write_bytes(content)
    (home / "outside.png").write_bytes(PICTURES["plain.png"])
    settings = settings_on(kafka, home, pictures_root=home / "pictures", on_wrong_key="republish")
    with running(settings, nice=0) as system:
        truth = Truth()
        sent = {("updates", name): letter for name, letter in _send_updates(system, truth).items()}
        sent |= {("clicks", name): letter for name, letter in _send_clicks(system, truth).items()}
        sent |= _send_garbage(system)
        system.confirm()
        system.start("catalog", "index", "clicks")
        (dying,) = system.start("encode", command=[sys.executable, str(SCRIPT), "encode", "--on", DEADLY])
        system.until_at_work("catalog", "index", "clicks")
        system.until_quiet(within_s=180)
        deaths = dying.ends.copy()
        dying.ends.clear()
        assert system.unasked_ends() == {}
        assert set(system.end_all().values()) == {0}
        letters = system.letters()
        found = {
            (letter.topic, letter.partition, letter.offset): letter for some in letters.values() for letter in some
        }
        places = {case: (place.topic, place.partition, place.offset) for case, place in sent.items()}
        copies = Counter(
            (letter.topic, letter.partition, letter.offset) for some in letters.values() for letter in some
        )
        yield Aftermath(
            letters={case: found[place] for case, place in places.items() if place in found},
            copies={case: copies[place] for case, place in places.items()},
            encode_letters=[letter for letter in letters[system.names.encode_requests] if letter.key != b"bad"],
            others=len(found.keys() - places.values()),
            products=system.parts.products.read([*truth.products, DEADLY, "bad"]),
            deaths=deaths,
            system=system,
            truth=truth,
        )


def _send_updates(system: System, truth: Truth) -> dict[str, Any]:
    """Places of the bad ones, which stand between good ones."""
    sent, topic = {}, system.names.catalog_updates

    def good(update: Json, key: str | None) -> None:
        truth.update(update)
        system.send(topic, key.encode() if key is not None else None, orjson.dumps(update))

    for number, (name, bad) in enumerate(BAD_UPDATES.items()):
        good(upsert(f"good-{number}"), f"good-{number}")
        sent[name] = system.send(topic, bad.key.encode(), bad.raw)
    good(upsert("under a wrong key"), "good-1")
    good(upsert("under no key"), None)
    good(upsert(DEADLY, title=DEADLY), DEADLY)
    for link in (*TAKEN, *MARKED):
        good(upsert(link, image_links=[link]), link)
    return {name: confirmation.get(timeout=60) for name, confirmation in sent.items()}


def _send_clicks(system: System, truth: Truth) -> dict[str, Any]:
    """Places of the bad ones, which stand between good ones of the same and of other users."""
    sent, topic = {}, system.names.user_clicks
    for number, (name, bad) in enumerate(BAD_CLICKS.items()):
        for user_id in ("eve", f"user-{number}"):
            good = click(user_id, number, event="purchase", product_id=f"good-{number % len(BAD_UPDATES)}")
            truth.click(good)
            system.send(topic, user_id.encode(), orjson.dumps(good))
        sent[name] = system.send(topic, bad.key.encode(), bad.raw)
    for user_id, key in (("wrong", b"eve"), ("keyless", None), ("unfriendly", b"\xff")):
        truth.click(click(user_id))
        system.send(topic, key, orjson.dumps(click(user_id)))
    return {name: confirmation.get(timeout=60) for name, confirmation in sent.items()}


def _send_garbage(system: System) -> dict[tuple[str, str], Any]:
    """Places of the records that no role of Freshet has written, before those that one writes."""
    sent = {
        (topic, name): system.send(getattr(system.names, topic), bad.key.encode(), bad.raw)
        for (topic, name), bad in GARBAGE.items()
    }
    return {case: confirmation.get(timeout=60) for case, confirmation in sent.items()}


@pytest.mark.parametrize("name", BAD_CLICKS)
def test_a_bad_click_is_a_dead_letter_with_a_reason_and_its_bytes(aftermath: Aftermath, name: str) -> None:
    bad, letter = BAD_CLICKS[name], aftermath.letters["clicks", name]
    assert bad.reason in letter.reason
    assert (letter.value, letter.key) == (bad.raw, bad.key.encode())


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_a_bad_update_is_a_dead_letter_with_a_reason_and_its_bytes(aftermath: Aftermath, name: str) -> None:
    bad, letter = BAD_UPDATES[name], aftermath.letters["updates", name]
    assert bad.reason in letter.reason
    assert (letter.value, letter.key) == (bad.raw, bad.key.encode())


@pytest.mark.parametrize("case", GARBAGE, ids=" ".join)
def test_garbage_on_a_topic_that_freshet_writes_is_a_dead_letter_of_each_role_that_reads_it(
    aftermath: Aftermath, case: tuple[str, str]
) -> None:
    bad, letter = GARBAGE[case], aftermath.letters[case]
    assert bad.reason in letter.reason
    assert (letter.value, letter.key) == (bad.raw, bad.key.encode())
    # The encoder, which dies three times on another product, may have given it up again each time.
    assert aftermath.copies[case] >= (2 if case in READ_BY_TWO else 1)


def test_nothing_else_is_a_dead_letter_and_no_bad_product_exists(aftermath: Aftermath) -> None:
    assert aftermath.others == len(aftermath.encode_letters) == 1
    assert "bad" not in aftermath.products


@pytest.mark.parametrize("link", MARKED)
def test_a_picture_that_cannot_be_used_marks_its_product_which_is_encoded_by_its_words(
    aftermath: Aftermath, link: str
) -> None:
    row = aftermath.products[link]
    assert row.image_state == "missing"
    assert row.image_reason is not None
    assert MARKED[link] in row.image_reason
    assert row.encoder == aftermath.system.parts.fingerprint
    assert (row.retry_at is not None) == (link in MAY_COME)


@pytest.mark.parametrize("link", TAKEN)
def test_a_picture_in_an_unusual_form_is_encoded(aftermath: Aftermath, link: str) -> None:
    row = aftermath.products[link]
    assert (row.image_state, row.image_reason) == ("encoded", None)


def test_a_product_on_which_the_encoder_dies_is_a_dead_letter_after_three_deaths(aftermath: Aftermath) -> None:
    assert aftermath.deaths == [-9, -9, -9]
    (letter,) = aftermath.encode_letters
    assert letter.key == DEADLY.encode()
    assert letter.reason.startswith("the process died each time it worked on this event: inspect it")
    assert aftermath.products[DEADLY].encoder is None


def test_the_good_products_around_are_in_the_catalogue_and_encoded(aftermath: Aftermath) -> None:
    for product_id, fields in aftermath.truth.products.items():
        row = aftermath.products[product_id]
        assert row.fields == fields
        assert row.encoder == aftermath.system.parts.fingerprint or product_id == DEADLY


def test_the_good_clicks_around_are_in_their_histories_and_answered(aftermath: Aftermath) -> None:
    check_users(aftermath.system, aftermath.truth)
    check_lists(aftermath.system, aftermath.truth)
