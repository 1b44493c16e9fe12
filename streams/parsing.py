"""From bytes to events: what breaks its contract is told with every broken rule."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from streams.events import (
    BadEvent,
    CatalogUpdate,
    ProductDelete,
    ProductPatch,
    ProductUpsert,
    UserClick,
    UserEvent,
    UserIdentified,
    WrongKey,
)

EARLIEST = datetime.fromisoformat("1990-01-01T00:00:00+00:00")


class Gone(NamedTuple):
    """What a null record on a topic about products says: as of this revision there is no such product."""

    product_id: str
    revision: int


@lru_cache(maxsize=64)
def _adapter(contract: Any) -> TypeAdapter[Any]:
    return TypeAdapter(contract)


def parse(contract: Any, raw: bytes) -> Any:
    """The value as its contract's model.

    Raises BadEvent with every broken rule, if raw is not UTF-8 JSON, breaks the contract or contains a NUL.
    """
    try:
        value = _adapter(contract).validate_json(raw, strict=True)
    except ValidationError as error:
        raise BadEvent(_reasons(error)) from error
    if b"\\u0000" in raw and _has_nul(value):
        raise BadEvent("a text contains the NUL character (\\u0000): remove it")
    return value


def parse_catalog_update(key: bytes | None, raw: bytes | None) -> ProductUpsert | ProductPatch | ProductDelete:
    """A `catalog-updates` record; a null value is a delete. Raises BadEvent, or WrongKey."""
    if raw is None:
        return ProductDelete(op="delete", product_id=parse_key(key))
    update: ProductUpsert | ProductPatch | ProductDelete = parse(CatalogUpdate, raw)
    if key != update.product_id.encode():
        raise WrongKey(update.product_id)
    return update


def parse_click(key: bytes | None, raw: bytes | None, *, future_limit_s: float) -> UserEvent | None:
    """A `user-clicks` record; None means: forget the user of this key. Raises BadEvent, or WrongKey."""
    if raw is None:
        parse_key(key)
        return None
    # Chosen by hand: pydantic's choice would put the event's name before each field that it complains of.
    event: UserEvent = parse(UserIdentified if _is_identify(raw) else UserClick, raw)
    _check_time(event.occurred_at, "occurred_at", future_limit_s)
    if isinstance(event, UserIdentified):
        for place, click in enumerate(event.clicks):
            _check_time(click.occurred_at, f"clicks.{place}.occurred_at", future_limit_s)
    if key != event.user_id.encode():
        raise WrongKey(event.user_id)
    return event


def _is_identify(raw: bytes) -> bool:
    if b"identify" not in raw:  # almost always, and nothing is parsed for it
        return False
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return False  # whichever contract it is held to says what is wrong
    return isinstance(value, dict) and value.get("event") == "identify"


def _check_time(at: datetime, name: str, future_limit_s: float) -> None:
    ahead_s = at.timestamp() - time.time()
    if ahead_s > future_limit_s:
        raise BadEvent(f"{name} is {ahead_s:.0f} s ahead, the limit is {future_limit_s:.0f} s: check the clock")
    if at < EARLIEST:
        raise BadEvent(f"{name} {at.isoformat()} is before 1990: is it in the right unit?")


def parse_key(key: bytes | None) -> str:
    """The record's key as an id. Raises BadEvent if it is missing, empty, too long or not UTF-8."""
    if not key:
        raise BadEvent("the record has no key: publish it with its id as key (raw UTF-8)")
    try:
        text = key.decode()
    except UnicodeDecodeError as error:
        raise BadEvent(f"the key {key[:40]!r} is not UTF-8") from error
    if len(text) > 200 or "\x00" in text:
        raise BadEvent("the key has more than 200 characters or a NUL: shorten it")
    return text


REVISION_DIGITS = 18  # of a revision, at most: what a signed 64-bit number holds


def parse_gone(key: bytes | None, headers: Sequence[tuple[str, bytes]]) -> Gone:
    """A null record with its header `revision`. Raises BadEvent without one."""
    product_id = parse_key(key)
    revision = dict(headers).get("revision", b"")
    if not (revision.isdigit() and len(revision) <= REVISION_DIGITS):
        raise BadEvent(f"a null record needs its revision as header, got {revision[:40]!r}: let Freshet publish it")
    return Gone(product_id, int(revision))


def unknown_fields(event: BaseModel) -> Iterator[str]:
    """Names of fields that the contract does not know, one level deep."""
    yield from event.model_extra or ()


def _reasons(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_url=False, include_context=False)[:5]:
        where = ".".join(str(part) for part in problem["loc"])
        given = repr(problem["input"])[:80]
        problems.append(f"{where or 'value'}: {problem['msg']} (got {given})")
    return "; ".join(problems)


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, BaseModel):
        return any(_has_nul(part) for part in value.__dict__.values()) or _has_nul(value.model_extra)
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(_has_nul(part) for part in value)
    return False
