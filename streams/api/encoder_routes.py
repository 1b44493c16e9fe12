"""GET /encoders: every version of the encoders and how full it is; GET /encoders/A/compare/B: two of them."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query

from store.encoders import EncoderRow, EncoderStore, UnknownVersion
from store.products import ProductStore
from store.records import StoreUnavailable
from store.vectors import VectorStore
from streams.api import PREFIX
from streams.api.access import Access
from streams.compared_versions import compare

SAMPLE_MAX = 2_000


def encoder_routes(encoders: EncoderStore, vectors: VectorStore, products: ProductStore, access: Access) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, tags=["encoders"], dependencies=[access.needs("admin")])

    @routes.get("/encoders", summary="Every version of the encoders")
    def every_version() -> list[dict[str, Any]]:
        """In the order in which they were added."""
        rows = encoders.known()
        wanted = next((_answered(vectors, row) for row in rows if row.state == "serving"), None)
        return [_version(row, _answered(vectors, row), wanted) for row in rows]

    @routes.get("/encoders/{one}/compare/{other}", summary="Two versions of the encoders compared")
    def compare_two(one: str, other: str, sample: Annotated[int, Query(ge=1, le=SAMPLE_MAX)] = 200) -> dict[str, Any]:
        """Their states, figures and products with vectors, and the share of the ten nearest that both find, of `sample`
        products drawn at random."""
        try:
            first, second = encoders.get(one), encoders.get(other)
        except UnknownVersion as unknown:
            raise HTTPException(404, str(unknown)) from unknown
        return compare(vectors, first, second, products.sample(sample))

    return routes


def _answered(vectors: VectorStore, row: EncoderRow) -> int | None:
    """How many products that are for sale it has answered for; None: there is no collection of it."""
    if row.filled_at is None:
        return None
    try:
        return vectors.answered(fingerprint=row.fingerprint)
    except StoreUnavailable:
        return None


def _version(row: EncoderRow, answered: int | None, wanted: int | None) -> dict[str, Any]:
    """`lacks`: how many products it has not answered for, of those that the serving one has."""
    lacks = None if answered is None or wanted is None else max(0, wanted - answered)
    return {
        "fingerprint": row.fingerprint,
        "state": row.state,
        "served": row.served,
        "sources": dict(row.sources),
        "widths": dict(row.widths),
        "added_at": row.added_at,
        "has_files": row.has_files,
        "encoded": answered,
        "lacks": lacks,
    }
