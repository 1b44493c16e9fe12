"""The catalogue: the shop's updates become products in SQL, offers for everybody, and work for the encoders.

An offer is published with each update, an encode request only if something changed that an encoder reads, or if the
picture is missing and the update names it again. What the serving encoders answer is noted in the row; that raises its
revision, but makes no offer. Which versions of the encoders there are is published here too, because the others have no
database.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any

from store.database import get_fact, set_fact
from store.encoders import EncoderStore
from store.products import ProductStore
from store.records import ImageState, ProductRow
from streams.broker import Broker, BrokerUnavailable, Outgoing
from streams.catalog_rows import (
    Update,
    encoded_content,
    is_replay,
    names_pictures,
    next_revision,
    unknown,
    updated,
    with_offset,
)
from streams.events import (
    BadEvent,
    EncodeRequest,
    Offer,
    ProductVectors,
)
from streams.latencies import Latencies
from streams.parsing import parse, parse_catalog_update
from streams.role import Delivery, Message, Outcome, Role
from streams.settings import Settings
from streams.topics import TopicNames
from streams.versions import version_of, version_record

LISTABLE = frozenset({"in_stock", "preorder", "backorder"})
OFFER_FIELDS = ("title", "brand", "category", "price", "availability", "image_links", "attributes")
RECENT_S = 300.0  # longer than a worker that lost its partitions can go on writing
CHUNK = 500  # rows published at once
RETRY_MAX_S = 86_400.0
PURGE_EVERY_S = 3_600.0
PUBLISHED_TO = "catalog-published-to"  # the fact that names the topics which hold every row

Event = Update | ProductVectors | None


@dataclass
class _Fold:
    """The rows of a batch as its events make them."""

    stored: dict[str, ProductRow]
    rows: dict[str, ProductRow]
    offered: set[str] = field(default_factory=set)  # products with an update, new or replayed
    asked: set[str] = field(default_factory=set)  # products whose encode request is sent, whatever their content


class CatalogRole(Role[Event]):
    """Writer of the rows, of product-index, of encode-requests and of encoders."""

    name = "catalog"
    every_s: float | None = 1.0

    def __init__(self, settings: Settings, names: TopicNames, products: ProductStore) -> None:
        self.topics = (names.catalog_updates,)
        self._settings = settings
        self._names = names
        self._products = products
        self._broker = Broker(settings)
        self._purge_at = 0.0
        self._encode_retries = 0
        self._encoders = EncoderStore(products.engine)
        self._told: dict[str, int] = {}  # revisions of the versions that are published
        self._update_to_offer = Latencies()

    def parse(self, message: Message) -> Event:
        if message.topic == self._names.product_vectors:
            vectors: ProductVectors | None = None if message.value is None else parse(ProductVectors, message.value)
            return vectors
        update = parse_catalog_update(message.key, message.value)
        ahead_s = update.updated_at.timestamp() - time.time() if update.updated_at else 0.0
        if ahead_s > (limit_s := self._settings.future_limit_s):
            raise BadEvent(f"updated_at is {ahead_s:.0f} s ahead, the limit is {limit_s:.0f} s: check the clock")
        return update

    def compute(self, batch: Sequence[Delivery[Event]], prepared: Any) -> Outcome:  # noqa: ARG002
        """One write per row and batch; a replay changes nothing, but publishes the row's current records again."""
        stored = self._products.read({event.product_id for _, event in batch if event is not None})
        fold = _Fold(stored, dict(stored))
        outcome = Outcome()
        for message, event in batch:
            try:
                if isinstance(event, ProductVectors):
                    self._fold_vectors(fold, message, event)
                elif event is not None:
                    _fold_update(fold, message, event)
            except BadEvent as bad:
                outcome.rejected.append((message, str(bad)))

        if written := _write(fold):
            told_at = [message.at for message, event in batch if isinstance(event, Update)]
            outcome.commit = partial(self._commit, written, told_at)
        outcome.publish = [self._offer(row) for key, row in fold.rows.items() if key in fold.offered]
        outcome.publish += [self._encode_request(row) for key, row in fold.rows.items() if key in fold.asked]
        return outcome

    def _commit(self, written: Sequence[ProductRow], told_at: Sequence[float]) -> None:
        self._update_to_offer.add(told_at, time.time())  # the offers are confirmed by now
        self._products.write(written)

    def _fold_vectors(self, fold: _Fold, message: Message, vectors: ProductVectors) -> None:
        """Vectors of another content than the row's are not noted; late ones are asked for again."""
        row = fold.rows.get(vectors.product_id)
        if row is None or is_replay(row, message):
            return
        if vectors.content_revision == row.content_revision and not row.deleted:
            noted = self._noted(row, vectors)
            if noted != row:  # after a rebuild every vector comes again, and most say nothing new
                fold.rows[row.product_id] = with_offset(noted, message)
        elif vectors.content_revision < row.content_revision and (row.deleted or row.encoder is not None):
            # An encoder or a catalogue wrote them while it died, after the current ones: the topic would keep these.
            fold.asked.add(row.product_id)

    def _noted(self, row: ProductRow, vectors: ProductVectors) -> ProductRow:
        """The row after an encoder's answer to its content."""
        reasons = {missing.modality: missing.reason for missing in vectors.missing}
        retry = any(missing.retry for missing in vectors.missing)
        pause_s = min(self._settings.picture_retry_s * 2.0 ** min(row.retries, 30), RETRY_MAX_S)
        absent: ImageState = "missing" if row.fields["image_links"] else "none"
        return replace(
            row,
            encoder=vectors.encoder,
            image_state="encoded" if vectors.image is not None else absent,
            image_reason=reasons.get("image"),
            retry_at=time.time() + pause_s if retry else None,
            retries=row.retries + 1 if retry else 0,
        )

    # --- by the clock, and after an assignment --------------------------------------------------------------------

    def tick(self) -> Outcome:
        """What has changed of the encoders' versions is told, pictures that could not be had are asked for again; now
        and then, old tombstones go."""
        now = time.time()
        if now >= self._purge_at:
            self._products.purge_tombstones(now - (self._settings.topic_retention_days + 1) * 86_400)
            self._purge_at = now + PURGE_EVERY_S
        versions = [version_of(row) for row in self._encoders.all()]
        news = [version for version in versions if self._told.get(version.fingerprint) != version.revision]
        due = self._products.due_for_retry(now, CHUNK)
        # The requests are durable before their rows say that nothing is due; the answers set the next time.
        rows = [replace(row, revision=row.revision + 1, retry_at=None) for row in due]
        self._encode_retries += len(rows)
        records = [version_record(self._names, version) for version in news]

        def commit() -> None:
            if rows:
                self._products.write(rows)
            self._told |= {version.fingerprint: version.revision for version in news}

        return Outcome([*records, *map(self._encode_request, rows)], commit)

    def assigned(self) -> Iterator[list[Outgoing]]:
        """The offers of rows changed in the last minutes, which heals what a dying predecessor wrote late.

        If the derived topics are not those that hold every row (a first start, a broker that keeps nothing): every
        row's records. Once all are confirmed, the topics' ids are kept as a fact. A version of the encoders that is new
        needs no requests: it reads all there are.
        """
        self._told = {}
        topics = self._derived_topics()
        held = get_fact(self._products.engine, PUBLISHED_TO) or ""
        if held.split()[: len(topics)] == topics:  # behind them stood the topic of the vectors, once
            for rows in _chunks(self._products.changed_since(time.time() - RECENT_S)):
                yield [self._offer(row) for row in rows]
            return
        for rows in _chunks(self._products.all_rows(CHUNK)):
            yield [*map(self._offer, rows), *map(self._encode_request, rows)]
        set_fact(self._products.engine, PUBLISHED_TO, " ".join(topics))

    def details(self) -> dict[str, float | int | str]:
        return {"encode_retries": self._encode_retries, **self._update_to_offer.details("update_to_offer")}

    def _derived_topics(self) -> list[str]:
        """The ids of the topics of which every row has a record."""
        names = (self._names.product_index, self._names.encode_requests)
        ids = self._broker.topic_ids(names)
        if absent := set(names) - ids.keys():
            raise BrokerUnavailable(f"no topics {sorted(absent)}: make them with `freshet topics create`")
        return [ids[name] for name in names]

    # --- records --------------------------------------------------------------------------------------------------

    def _offer(self, row: ProductRow) -> Outgoing:
        value = None if row.deleted else _offer_of(row).model_dump_json().encode()
        headers = (("revision", b"%d" % row.revision),)
        return Outgoing(self._names.product_index, row.product_id.encode(), value, headers)

    def _encode_request(self, row: ProductRow) -> Outgoing:
        value = None if row.deleted else _request_of(row).model_dump_json().encode()
        headers = (("revision", b"%d" % row.content_revision),)
        return Outgoing(self._names.encode_requests, row.product_id.encode(), value, headers)


class NotesRole(CatalogRole):
    """What the encoders have answered is noted in the rows, beside the shop's updates: another version's vectors are
    another consumer, which holds up none of them."""

    every_s = None

    def __init__(self, settings: Settings, names: TopicNames, products: ProductStore, group: str = "") -> None:
        """group: as EncoderVersion has it, of the version whose vectors these are."""
        super().__init__(settings, names, products)
        self.topics = (names.product_vectors,)
        self.group = f"-notes{group}"

    def assigned(self) -> Iterator[list[Outgoing]]:
        yield from ()


def _fold_update(fold: _Fold, message: Message, update: Update) -> None:
    """Raises BadEvent, with nothing changed, for a patch of an unknown product."""
    key = update.product_id
    row = fold.rows.get(key) or unknown(key, created_at=message.at)
    if is_replay(row, message):
        if row.encoder is None:
            fold.asked.add(key)
    else:
        fold.rows[key] = with_offset(updated(row, update, message.at), message)
        if row.image_state == "missing" and names_pictures(update):
            # The shop may have put the picture right under its old link: nothing else would tell the encoders.
            fold.asked.add(key)
    fold.offered.add(key)


def _write(fold: _Fold) -> list[ProductRow]:
    """The rows that the batch changed, each with its next revision, also in fold.rows."""
    now = time.time()
    written = []
    for key, row in fold.rows.items():
        before = fold.stored.get(key)
        if row is before:
            continue
        changed_at = now if key in fold.offered else row.changed_at
        fold.rows[key] = row = replace(next_revision(before, row), changed_at=changed_at)
        if row.content_revision == row.revision:
            fold.asked.add(key)
        written.append(row)
    return written


def _offer_of(row: ProductRow) -> Offer:
    state = "listable" if row.fields["availability"] in LISTABLE else "sold_out"
    own = {"product_id": row.product_id, "revision": row.revision, "state": state}
    times = {"changed_at": row.changed_at, "created_at": row.created_at}
    return Offer.model_validate(own | times | {name: row.fields[name] for name in OFFER_FIELDS})


def _request_of(row: ProductRow) -> EncodeRequest:
    own = {"product_id": row.product_id, "content_revision": row.content_revision}
    return EncodeRequest.model_validate(own | encoded_content(row.fields))


def _chunks(rows: Iterable[ProductRow]) -> Iterator[list[ProductRow]]:
    rows = iter(rows)
    for first in rows:
        yield list(chain([first], islice(rows, CHUNK - 1)))
