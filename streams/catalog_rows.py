"""Which update of a product wins: pure functions from a row and an event to the row after it.

Field by field the update with the later updated_at wins, of two with the same the later in the stream. One without
updated_at counts as now: it wins, and its time is that of its record. A delete wins over a product none of whose
fields is newer. A product that is not known is a tombstone of revision 0, so a new one and one that comes back are
the same case.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from encoders.attributes import price_band
from store.records import ProductRow, source_key
from streams.events import BadEvent, Location, Price, ProductDelete, ProductFields, ProductPatch, ProductUpsert
from streams.role import Message

Update = ProductUpsert | ProductPatch | ProductDelete

ENCODED_FIELDS = ("title", "description", "brand", "category", "attributes", "image_links")
DELETED = "(deleted)"  # in a tombstone's field_times: when
SOURCES_KEPT = 8  # per row, the newest: a broker that keeps nothing has new topic ids with each start
NEVER = float("-inf")


def unknown(product_id: str, created_at: float) -> ProductRow:
    """The row of a product that has none; created_at in s since 1970."""
    return ProductRow(product_id, {}, 0, "", 0, created_at=created_at, changed_at=0.0, deleted=True)


def updated(row: ProductRow, update: Update, record_at: float) -> ProductRow:
    """The row with this update folded in; its revisions are left as they are.

    record_at  s since 1970, the record's own time

    Raises BadEvent for a patch of a product that is deleted or was never known.
    """
    dated = update.updated_at.timestamp() if update.updated_at else None
    newest = max(row.field_times.values(), default=NEVER)
    if isinstance(update, ProductDelete):
        if dated is not None and dated < newest:
            return row
        times = {DELETED: max(record_at, newest) if dated is None else dated}
        return replace(row, fields={}, content_hash="", deleted=True, field_times=times)
    if isinstance(update, ProductPatch) and row.deleted:
        raise BadEvent(f"unknown product {update.product_id!r}: publish an upsert first, then this patch again")

    values = _values(update)
    before = {name: row.field_times.get(name, row.field_times.get(DELETED, NEVER)) for name in values}
    times = {name: max(record_at, before[name]) if dated is None else dated for name in values}
    won = [name for name in values if times[name] >= before[name]]
    if not won:
        return row
    fields = row.fields | {name: values[name] for name in won}
    field_times = {name: at for name, at in row.field_times.items() if name != DELETED}
    return replace(
        row,
        fields=fields,
        content_hash=_content_hash(fields),
        deleted=False,
        field_times=field_times | {name: times[name] for name in won},
    )


def is_replay(row: ProductRow, message: Message) -> bool:
    """True if the row already holds the effect of this message, or of a later one of its source."""
    return row.offsets.get(source_key(message.topic_id, message.partition), -1) >= message.offset


def with_offset(row: ProductRow, message: Message) -> ProductRow:
    """The row, fed by this message."""
    source = source_key(message.topic_id, message.partition)
    others = [(key, offset) for key, offset in row.offsets.items() if key != source]
    return replace(row, offsets=dict([*others[1 - SOURCES_KEPT :], (source, message.offset)]))


def next_revision(before: ProductRow | None, row: ProductRow) -> ProductRow:
    """The row to write in place of `before`; content that changed waits for an encoder, whatever was noted.

    The content revision is the row's new revision if the content changed, else it stays.
    """
    row = replace(row, revision=row.revision + 1)
    if row.content_hash == (before.content_hash if before else ""):
        return row
    return replace(
        row,
        content_revision=row.revision,
        encoder=None,
        image_state="pending" if row.fields.get("image_links") else "none",
        image_reason=None,
        retry_at=None,
        retries=0,
    )


def names_pictures(update: Update) -> bool:
    """True for an update that says where the product's pictures are, be it where they were before."""
    return isinstance(update, ProductUpsert) or (isinstance(update, ProductPatch) and "image_links" in update.changes())


def _values(update: ProductUpsert | ProductPatch) -> dict[str, Any]:
    """The update's product fields as JSON values, without what the contract does not know inside of them."""
    if isinstance(update, ProductPatch):
        values = update.changes()
    else:
        values = update.model_dump(mode="json", include=set(ProductFields.model_fields))
    for name, contract in (("price", Price), ("location", Location)):
        if values.get(name):
            values[name] = {part: values[name][part] for part in contract.model_fields}
    return values


def encoded_content(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What an encoder reads of a product's fields; of its price the band, as it is whenever something else is read
    anew: a price that changes asks for no encoding, or a sale would encode the whole shop again."""
    price = fields["price"]
    band = price_band(price["amount"]) if price else None
    return {name: fields[name] for name in ENCODED_FIELDS} | {"price_band": band}


def _content_hash(fields: dict[str, Any]) -> str:
    """32 hex digits of what an encoder reads, but for the price."""
    content = orjson.dumps([fields[name] for name in ENCODED_FIELDS], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, digest_size=16).hexdigest()
