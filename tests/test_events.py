"""The contracts: what a value may be, and a reason that a person can act on when it is not."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streams.events import (
    BadEvent,
    PastClick,
    ProductDelete,
    ProductPatch,
    ProductUpsert,
    UserClick,
    UserEvent,
    UserIdentified,
    WrongKey,
    pack_vector,
    unpack_vector,
)
from streams.parsing import Gone, parse, parse_catalog_update, parse_click, parse_gone, parse_key, unknown_fields

NOW = datetime.now(UTC)
CLICK: dict[str, Any] = {
    "event_id": "e1",
    "user_id": "anna",
    "product_id": "tea",
    "event": "view_item",
    "occurred_at": NOW.isoformat(),
}
PAST = {"product_id": "cup", "event": "purchase", "occurred_at": NOW.isoformat()}
IDENTIFY = {"event_id": "i1", "user_id": "anna", "event": "identify", "occurred_at": NOW.isoformat(), "clicks": [PAST]}
TEA: dict[str, Any] = {"op": "upsert", "product_id": "tea", "title": "Green tea"}


def click(raw: bytes | None, key: bytes | None = b"anna") -> UserEvent | None:
    return parse_click(key, raw, future_limit_s=300.0)


def changed(base: dict[str, Any], /, **fields: Any) -> bytes:
    """The event with other fields; those that are ... are left out."""
    return json.dumps({name: value for name, value in (base | fields).items() if value is not ...}).encode()


# --- clicks ----------------------------------------------------------------------------------------------------------


def test_a_click_is_what_was_sent() -> None:
    parsed = click(changed(CLICK, position=3, list_id="l1"))
    assert isinstance(parsed, UserClick)
    assert (parsed.event_id, parsed.user_id, parsed.product_id, parsed.event) == ("e1", "anna", "tea", "view_item")
    assert parsed.occurred_at == NOW
    assert (parsed.list_id, parsed.position) == ("l1", 3)


@pytest.mark.parametrize(
    ("told", "segment"),
    [(..., None), (None, None), ("DE", "DE"), ("  DE\n", "DE"), ("", None), (" ", None), (" " + 64 * "x", 64 * "x")],
)
def test_a_click_may_name_a_segment_and_an_empty_one_is_none(told: Any, segment: str | None) -> None:
    parsed = click(changed(CLICK, segment=told))
    assert isinstance(parsed, UserClick)
    assert parsed.segment == segment
    assert not parsed.model_extra


def test_a_null_click_means_forget_this_user() -> None:
    assert click(None) is None


def test_an_identify_event_carries_the_clicks_of_a_visitor() -> None:
    parsed = click(changed(IDENTIFY))
    assert isinstance(parsed, UserIdentified)
    assert (parsed.event_id, parsed.user_id, parsed.occurred_at) == ("i1", "anna", NOW)
    assert parsed.clicks == [PastClick(product_id="cup", event="purchase", occurred_at=NOW)]
    assert isinstance(click(changed(CLICK, product_id="identify")), UserClick)


BAD_IDENTIFIES = {
    "no clicks": (changed(IDENTIFY, clicks=...), r"^clicks: Field required"),
    "an empty history": (changed(IDENTIFY, clicks=[]), r"^clicks: .*at least 1 item"),
    "too many": (changed(IDENTIFY, clicks=[PAST] * 1_001), r"^clicks: .*at most 1000 items"),
    "a click of no product": (changed(IDENTIFY, clicks=[PAST, {**PAST, "product_id": ""}]), r"^clicks.1.product_id: "),
    "an identify in the past": (changed(IDENTIFY, clicks=[{**PAST, "event": "identify"}]), r"^clicks.0.event: "),
    "a click far ahead": (
        changed(IDENTIFY, clicks=[PAST, {**PAST, "occurred_at": (NOW + timedelta(hours=1)).isoformat()}]),
        r"^clicks.1.occurred_at is [23]\d\d\d s ahead",
    ),
    "a click of long ago": (
        changed(IDENTIFY, clicks=[{**PAST, "occurred_at": "1970-01-20T00:00:00Z"}]),
        r"^clicks.0.occurred_at .*before 1990",
    ),
    "another kind of event": (changed(IDENTIFY, event="glance"), r"product_id: Field required.*event: .*'view_item'"),
    "cut off": (changed(IDENTIFY)[:-1], r"Invalid JSON.*EOF"),
}


@pytest.mark.parametrize(("raw", "reason"), BAD_IDENTIFIES.values(), ids=BAD_IDENTIFIES)
def test_a_bad_identify_event_says_what_is_wrong(raw: bytes, reason: str) -> None:
    with pytest.raises(BadEvent, match=reason):
        click(raw)


def test_an_identify_event_under_another_key_names_the_right_one() -> None:
    with pytest.raises(WrongKey, match="the key should be 'anna'"):
        click(changed(IDENTIFY), b"cookie")


BAD_CLICKS = {
    "nothing": (b"", r"Invalid JSON.*EOF"),
    "not JSON": (b"{event_id: 1}", r"Invalid JSON.*line 1"),
    "cut off": (changed(CLICK)[:-1], r"Invalid JSON.*EOF"),
    "not UTF-8": (changed(CLICK).replace(b"tea", b"t\xffa"), r"Invalid JSON.*(UTF-8|unicode)"),
    "a list": (b"[]", r"value: .*object.*\(got \[\]\)"),
    "a field missing": (changed(CLICK, user_id=...), r"user_id: Field required"),
    "a number as id": (changed(CLICK, user_id=7), r"user_id: Input should be a valid string \(got 7\)"),
    "a truth value as position": (changed(CLICK, position=True), r"position: .*valid integer \(got True\)"),
    "a text as position": (changed(CLICK, position="1"), r"position: .*valid integer \(got '1'\)"),
    "a negative position": (changed(CLICK, position=-1), r"position: .*greater than or equal to 0 \(got -1\)"),
    "NaN": (changed(CLICK, position=float("nan")), r"position"),
    "an empty id": (changed(CLICK, product_id=""), r"product_id: .*at least 1 character"),
    "a long id": (changed(CLICK, product_id="x" * 201), r"product_id: .*at most 200 characters"),
    "an unknown event": (changed(CLICK, event="scroll"), r"event: .*'view_item', 'select_item'.*\(got 'scroll'\)"),
    "a NUL": (changed(CLICK, product_id="te\x00a"), r"NUL character.*remove"),
    "a date without zone": (changed(CLICK, occurred_at="2026-01-02T03:04:05"), r"occurred_at: .*timezone"),
    "a number as date": (changed(CLICK, occurred_at=1_700_000_000), r"occurred_at: "),
    "a day as date": (changed(CLICK, occurred_at="2026-01-02"), r"occurred_at: "),
    "no date": (changed(CLICK, occurred_at="yesterday"), r"occurred_at: .*\(got 'yesterday'\)"),
    "far ahead": (
        changed(CLICK, occurred_at=(NOW + timedelta(hours=1)).isoformat()),
        r"[23]\d\d\d s ahead.*300 s.*clock",
    ),
    "long ago": (changed(CLICK, occurred_at="1970-01-20T00:00:00Z"), r"1970-01-20.*before 1990.*unit"),
    "two problems": (changed(CLICK, event="x", user_id=""), r"user_id: .*; event: "),
}


@pytest.mark.parametrize(("raw", "reason"), BAD_CLICKS.values(), ids=BAD_CLICKS)
def test_a_bad_click_says_what_is_wrong(raw: bytes, reason: str) -> None:
    with pytest.raises(BadEvent, match=reason):
        click(raw)


def test_a_click_may_be_a_little_ahead() -> None:
    assert click(changed(CLICK, occurred_at=(NOW + timedelta(seconds=200)).isoformat())) is not None


@pytest.mark.parametrize("key", [None, b"", b"bert", b"\xff", b"anna\x00"])
def test_a_wrong_key_names_the_right_one(key: bytes | None) -> None:
    with pytest.raises(WrongKey, match="the key should be 'anna'") as wrong:
        click(changed(CLICK), key)
    assert wrong.value.right_key == "anna"


@pytest.mark.parametrize("key", [None, b""])
def test_a_null_click_without_key_is_nobody_s_wish(key: bytes | None) -> None:
    with pytest.raises(BadEvent, match="no key: publish it with its id as key"):
        click(None, key)


# --- the catalogue ---------------------------------------------------------------------------------------------------


def test_an_upsert_takes_defaults_for_what_it_does_not_name() -> None:
    parsed = parse_catalog_update(b"tea", changed(TEA))
    assert isinstance(parsed, ProductUpsert)
    assert (parsed.title, parsed.availability, parsed.price, parsed.category) == ("Green tea", "in_stock", None, [])


def test_a_patch_changes_what_it_names_and_nothing_else() -> None:
    raw = changed({"op": "patch", "product_id": "tea"}, availability="out_of_stock", brand=None)
    parsed = parse_catalog_update(b"tea", raw)
    assert isinstance(parsed, ProductPatch)
    assert parsed.changes() == {"availability": "out_of_stock", "brand": None}


@pytest.mark.parametrize("raw", [None, b'{"op": "delete", "product_id": "tea"}'])
def test_a_delete_comes_as_a_null_or_by_name(raw: bytes | None) -> None:
    assert parse_catalog_update(b"tea", raw) == ProductDelete(op="delete", product_id="tea")


BAD_UPDATES = {
    "no op": (changed(TEA, op=...), r"op|discriminator"),
    "an unknown op": (changed(TEA, op="insert"), r"'insert'.*'upsert', 'patch', 'delete'"),
    "no title": (changed(TEA, title=...), r"title: Field required"),
    "an empty title": (changed(TEA, title=""), r"title: .*at least 1 character"),
    "2 MB of text": (changed(TEA, description="x" * 2_000_000), r"description: .*at most 20000 characters"),
    "a price as text": (changed(TEA, price={"amount": "3.50", "currency": "EUR"}), r"price.amount: .*valid number"),
    "a price alone": (changed(TEA, price={"amount": 3.5}), r"price.currency: Field required"),
    "a bare price": (changed(TEA, price=3.5), r"price: .*\(got 3\.5\)"),
    "an infinite price": (changed(TEA, price={"amount": float("inf"), "currency": "EUR"}), r"price.amount: .*finite"),
    "NaN as price": (changed(TEA, price={"amount": float("nan"), "currency": "EUR"}), r"price.amount: "),
    "a negative price": (
        changed(TEA, price={"amount": -1, "currency": "EUR"}),
        r"price.amount: .*greater than or equal",
    ),
    "a small currency": (changed(TEA, price={"amount": 1, "currency": "eur"}), r"price.currency: .*\[A-Z\]"),
    "an unknown availability": (changed(TEA, availability="soon"), r"availability: .*'in_stock', 'out_of_stock'"),
    "a category as text": (changed(TEA, category="Tea > Green"), r"category: .*array"),
    "many pictures": (changed(TEA, image_links=["http://x/1.jpg"] * 21), r"image_links: .*at most 20 items"),
    "a number as attribute": (changed(TEA, attributes={"size": 3}), r"attributes.size: .*string \(got 3\)"),
    "many attributes": (changed(TEA, attributes={str(n): "x" for n in range(101)}), r"attributes: .*at most 100"),
    "a far place": (
        changed(TEA, location={"latitude": 91, "longitude": 0}),
        r"location.latitude: .*less than or equal",
    ),
    "a time without zone": (changed(TEA, updated_at="2026-01-02T03:04:05"), r"updated_at: .*timezone"),
    "a NUL in the title": (changed(TEA, title="te\x00a"), r"NUL character"),
    "a NUL in an attribute": (changed(TEA, attributes={"size": "\x00"}), r"NUL character"),
    "a NUL in an attribute's name": (changed(TEA, attributes={"si\x00ze": "3"}), r"NUL character"),
    "a NUL in a list": (changed(TEA, category=["Tea", "\x00"]), r"NUL character"),
    "a NUL in an unknown field": (changed(TEA, extra={"deep": [{"er\x00": 1}]}), r"NUL character"),
    "a NUL in an unknown field's name": (changed(TEA, **{"ex\x00tra": 1}), r"NUL character"),
}


@pytest.mark.parametrize(("raw", "reason"), BAD_UPDATES.values(), ids=BAD_UPDATES)
def test_a_bad_update_says_what_is_wrong(raw: bytes, reason: str) -> None:
    with pytest.raises(BadEvent, match=reason) as bad:
        parse_catalog_update(b"tea", raw)
    assert len(str(bad.value)) < 2_000, "a reason quotes what is wrong, not all of it"


BAD_KEYS = {
    "none": (None, "no key"),
    "empty": (b"", "no key"),
    "not UTF-8": (b"\xff", r"b'\\xff' is not UTF-8"),
    "long": (b"x" * 201, "more than 200"),
    "with a NUL": (b"te\x00a", "NUL"),
}


@pytest.mark.parametrize(("key", "reason"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_a_bad_key_of_a_null_update_says_what_is_wrong(key: bytes | None, reason: str) -> None:
    with pytest.raises(BadEvent, match=reason):
        parse_catalog_update(key, None)


@pytest.mark.parametrize("key", [None, b"", b"cup", b"\xff"])
def test_a_wrong_key_of_an_update_names_the_right_one(key: bytes | None) -> None:
    with pytest.raises(WrongKey, match="the key should be 'tea'"):
        parse_catalog_update(key, changed(TEA))


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    parsed = parse_catalog_update(b"tea", changed(TEA, title=r"C:\u0000"))
    assert isinstance(parsed, ProductUpsert)
    assert parsed.title == r"C:\u0000"


def test_unknown_fields_are_ignored_and_named() -> None:
    parsed = parse_catalog_update(b"tea", changed(TEA, colour="green", weight=100))
    assert sorted(unknown_fields(parsed)) == ["colour", "weight"]
    assert list(unknown_fields(parse_catalog_update(b"tea", changed(TEA)))) == []


# --- null records ----------------------------------------------------------------------------------------------------


def test_a_null_record_says_from_which_revision_the_product_is_gone() -> None:
    assert parse_gone(b"tea", [("revision", b"12")]) == Gone("tea", 12)


@pytest.mark.parametrize("headers", [[], [("revision", b"")], [("revision", b"-1")], [("revision", b"1.5")]])
def test_a_null_record_without_a_revision_is_bad(headers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(BadEvent, match="needs its revision as header"):
        parse_gone(b"tea", headers)


# --- properties ------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
any_bytes = st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode())
any_key = st.none() | st.binary(max_size=12) | st.just(b"anna") | st.just(b"tea")


@given(any_key, any_bytes | st.none())
def test_any_bytes_are_an_event_or_bad_and_nothing_else_is_raised(key: bytes | None, raw: bytes | None) -> None:
    for parses in (lambda: click(raw, key), lambda: parse_catalog_update(key, raw)):
        try:
            parses()
        except (BadEvent, WrongKey):
            continue


@given(st.sampled_from(sorted(CLICK)), json_values, any_key)
def test_a_click_with_any_value_in_a_field_is_a_click_or_bad(field: str, value: Any, key: bytes | None) -> None:
    try:
        parsed = click(changed(CLICK, **{field: value}), key)
    except (BadEvent, WrongKey):
        return
    assert isinstance(parsed, UserClick)  # an identify carries clicks
    assert key == parsed.user_id.encode()
    assert parsed.occurred_at.timestamp() <= time.time() + 300


@given(st.sampled_from([*ProductUpsert.model_fields, "unknown"]), json_values)
def test_no_nul_comes_through_in_any_field(field: str, value: Any) -> None:
    try:
        parsed = parse(ProductUpsert, changed(TEA, **{field: value}))
    except BadEvent:
        return
    assert "\\u0000" not in json.dumps(parsed.model_dump(mode="json")).replace("\\\\", "")


@given(arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_a_vector_survives_the_wire(vector: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    assert unpack_vector(pack_vector(vector)).tobytes() == vector.tobytes()


def test_a_vector_is_little_endian_base64() -> None:
    assert pack_vector(np.array([1.0], dtype=np.float32)) == "AACAPw=="
    assert pack_vector(np.array([[1.0], [2.0]], dtype=">f4")) == "AACAPwAAAEA="


@pytest.mark.parametrize("text", ["AACAP", "not base64!", "AACA", "é"])
def test_what_is_not_base64_of_whole_values_is_bad(text: str) -> None:
    with pytest.raises(BadEvent, match="not base64 of little-endian float32"):
        unpack_vector(text)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_bad(value: float) -> None:
    with pytest.raises(BadEvent, match="not finite"):
        unpack_vector(pack_vector(np.array([1.0, value], dtype=np.float32)))


@given(st.binary(min_size=1, max_size=400))
def test_a_key_is_text_that_gives_the_key_back_or_it_is_bad(key: bytes) -> None:
    try:
        text = parse_key(key)
    except BadEvent:
        return
    assert text.encode() == key
    assert 1 <= len(text) <= 200
