"""The catalogue's rows: what each product is, what an encoder saw of it, and which events made it so."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Engine,
    Index,
    Integer,
    Row,
    Select,
    Table,
    Text,
    case,
    delete,
    func,
    select,
    tuple_,
)

from store.database import (
    in_chunks,
    lock_revisions,
    metadata,
    reading,
    require_previous,
    rows_by_key,
    transaction,
    write_of_next_revision,
    write_rows,
)
from store.records import ProductRow

PAGE = 500

products = Table(
    "products",
    metadata,
    Column("product_id", Text, primary_key=True),
    Column("fields", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("content_revision", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("field_times", Text, nullable=False),
    Column("encoder", Text),
    Column("image_state", Text, nullable=False),
    Column("image_reason", Text),
    Column("retry_at", Double),
    Column("retries", Integer, nullable=False),
    Column("offsets", Text, nullable=False),
    Index("products_changed_at", "changed_at", "product_id"),
    Index("products_retry_at", "retry_at"),
)


class ProductStore:
    """Rows of products; every write is conditional on the revision that was read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._write_sql = write_of_next_revision(engine, products)

    @property
    def engine(self) -> Engine:
        """Where facts are kept beside the rows."""
        return self._engine

    def read(self, product_ids: Iterable[str]) -> dict[str, ProductRow]:
        """The rows of those products that exist, tombstones included, by id."""
        found: dict[str, ProductRow] = {}
        with reading(self._engine) as connection:
            for chunk in in_chunks(product_ids):
                for row in connection.execute(rows_by_key(products), {"keys": chunk}):
                    found[row[0]] = _unpack(row)
        return found

    def write(self, rows: Sequence[ProductRow]) -> None:
        """All rows are durable, each in place of the row whose revision is one less (none, for revision 1).

        Raises StaleRows, with nothing written, if any row has another revision by now.
        """
        with transaction(self._engine) as connection:
            stored = lock_revisions(connection, products, [row.product_id for row in rows])
            require_previous(stored, [(row.product_id, row.revision) for row in rows], "products")
            write_rows(connection, self._write_sql, [_pack(row) for row in rows], "products")

    def changed_since(self, t: float) -> Iterator[ProductRow]:
        """Rows changed at t (s since 1970) or later, tombstones included, the earliest change first."""
        order = tuple_(products.c.changed_at, products.c.product_id)
        after: tuple[float, str] = (t, "")
        while page := self._page(select(products).where(order > after).order_by(*order).limit(PAGE)):
            yield from page
            after = (page[-1].changed_at, page[-1].product_id)

    def all_rows(self, batch: int = PAGE) -> Iterator[ProductRow]:
        """Every row, tombstones included, ordered by id, read batch by batch so that no transaction stays open."""
        after = ""
        key = products.c.product_id
        while page := self._page(select(products).where(key > after).order_by(key).limit(batch)):
            yield from page
            after = page[-1].product_id

    def due_for_retry(self, now: float, limit: int) -> list[ProductRow]:
        """At most limit rows whose encode request is to be sent again, the longest due first."""
        due = products.c.retry_at
        return self._page(select(products).where(due <= now).order_by(due, products.c.product_id).limit(limit))

    def counts(self) -> dict[str, int]:
        """products, deleted (tombstones), pictures_missing, waiting_for_encoder."""
        alive = ~products.c.deleted
        counted = {
            "products": alive,
            "deleted": products.c.deleted,
            "pictures_missing": alive & (products.c.image_state == "missing"),
            "waiting_for_encoder": alive & products.c.encoder.is_(None),
        }
        sums = [func.coalesce(func.sum(case((condition, 1), else_=0)), 0) for condition in counted.values()]
        with reading(self._engine) as connection:
            return dict(zip(counted, map(int, connection.execute(select(*sums)).one()), strict=True))

    def sample(self, limit: int) -> list[str]:
        """The ids of at most so many products, drawn at random among those that are not deleted."""
        drawn = select(products.c.product_id).where(~products.c.deleted).order_by(func.random()).limit(limit)
        with reading(self._engine) as connection:
            return list(connection.execute(drawn).scalars())

    def purge_tombstones(self, before: float) -> int:
        """Remove tombstones older than before (s since 1970: longer ago than the topics are kept); returns how many."""
        old = products.c.deleted & (products.c.changed_at < before)
        with transaction(self._engine) as connection:
            return connection.execute(delete(products).where(old)).rowcount

    def _page(self, query: Select[Any]) -> list[ProductRow]:
        with reading(self._engine) as connection:
            return [_unpack(row) for row in connection.execute(query)]


def _pack(row: ProductRow) -> dict[str, Any]:
    return {
        "product_id": row.product_id,
        "fields": orjson.dumps(row.fields).decode(),
        "revision": row.revision,
        "content_hash": row.content_hash,
        "content_revision": row.content_revision,
        "created_at": row.created_at,
        "changed_at": row.changed_at,
        "deleted": row.deleted,
        "field_times": orjson.dumps(row.field_times).decode(),
        "encoder": row.encoder,
        "image_state": row.image_state,
        "image_reason": row.image_reason,
        "retry_at": row.retry_at,
        "retries": row.retries,
        "offsets": orjson.dumps(row.offsets).decode(),
    }


def _unpack(row: Row[Any]) -> ProductRow:
    stored = row._asdict()
    for name in ("fields", "field_times", "offsets"):
        stored[name] = orjson.loads(stored[name])
    return ProductRow(**stored)
