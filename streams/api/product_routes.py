"""What is like a product or goes with it, and all that is held of it."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query

from store.products import ProductStore
from store.records import StoreUnavailable
from store.vectors import UnknownProduct, VectorStore
from streams.api import PREFIX
from streams.api.access import Access
from streams.api.answers import ITEM, OFFER, answers
from streams.api.ids import ProductId
from streams.api.problems import no_product
from streams.api.views import Views
from streams.filters import PageQuery
from streams.listed_twice import ListedTwice
from streams.search import SPARE
from streams.shelf_lists import FoundNearby, ShelfLists

DEEPEST = 4_096  # nearest products that are looked through for those that no rule blocks
SIMILAR = {"product_id": "lamp-1", "by": "fused", "items": [ITEM | {"score": 0.87}], "duplicates": []}
OFFERED = ITEM | {"listable": True, "offer": OFFER | {"attributes": {"colour": "brass"}}}
ACROSS = {"product_id": "lamp-1", "items": [ITEM | {"score": 0.98, "cosine": 0.81, "share": 0.04}]}


class SimilarQuery(PageQuery):
    """By which likeness."""

    by: Literal["fused", "image", "text", "together", "next"] = "fused"


def product_routes(
    products: ProductStore,
    vectors: VectorStore,
    lists: ShelfLists,
    listed_twice: ListedTwice,
    views: Views,
    access: Access,
) -> APIRouter:
    """The routes. An id may hold slashes, so those with something behind the id come first."""
    routes = APIRouter(prefix=PREFIX, tags=["products"])

    @routes.get(
        "/products/{product_id:path}/similar",
        summary="What is like a product, or goes with it",
        dependencies=[access.needs("read")],
        responses=answers(SIMILAR),
    )
    def similar(product_id: ProductId, query: Annotated[SimilarQuery, Query()]) -> dict[str, Any]:
        """The listable products that are like this one, best first: those with the nearest vector of that name, or
        those that are clicked together with it, or next after it. The score is the cosine, or the share. Listings of
        the same thing stand under `duplicates`, which is null while the offers are still being read. Filters fill the
        page from all products by vectors, and from the 64 neighbours that are known by clicks. What sold out a moment
        ago is not among them."""
        try:
            items = similar_items(product_id, query)
        except UnknownProduct as unknown:
            raise HTTPException(404, no_product(product_id)) from unknown
        twins = listed_twice.duplicates(product_id) if views.are_full else None
        return {"product_id": product_id, "by": query.by, "items": items, "duplicates": twins}

    def similar_items(product_id: str, query: SimilarQuery) -> list[dict[str, Any]]:
        by = query.by
        if by == "together" or by == "next":
            views.need("neighbours")
            return lists.neighbours(product_id, by, query)
        conditions = query.conditions(vectors.currencies)
        is_full = not views.lack()

        def find(count: int) -> list[FoundNearby]:
            if not is_full:
                hits = vectors.similar(product_id, count, by, conditions=conditions)
                return [FoundNearby.of_hit(hit) for hit in hits]
            asked = count + SPARE
            while True:
                hits = vectors.similar(product_id, asked, by, conditions=conditions)
                kept = lists.still_there(hits, query)
                if len(kept) >= count or len(hits) < asked or asked >= DEEPEST:
                    return kept[:count]
                asked = min(4 * asked, DEEPEST)  # a rule may block all that are nearest

        return [one._asdict() for one in listed_twice.fill_page(find, query.limit, beside=product_id)]

    @routes.get(
        "/products/{product_id:path}/across-brands",
        summary="What goes with a product, of other brands",
        dependencies=[access.needs("read")],
        responses=answers(ACROSS),
    )
    def across_brands(product_id: ProductId, query: Annotated[PageQuery, Query()]) -> dict[str, Any]:
        """Products of other brands that are like this one, or are clicked together with it, best first. The score
        fuses both orders: 1 is the first of both; beside it the cosine of the vectors and the share of clicks."""
        views.need("neighbours")
        try:
            return {"product_id": product_id, "items": lists.across_brands(product_id, query)}
        except UnknownProduct as unknown:
            raise HTTPException(404, no_product(product_id)) from unknown

    @routes.get(
        "/products/{product_id:path}/offer",
        summary="What is offered of a product",
        dependencies=[access.needs("read")],
        responses=answers(OFFERED),
    )
    def offer(product_id: ProductId) -> dict[str, Any]:
        """Its title, price, stock and attributes, sold out or not."""
        views.need("offers")
        try:
            return lists.offer(product_id)
        except UnknownProduct as unknown:
            raise HTTPException(404, no_product(product_id)) from unknown

    @routes.get(
        "/products/{product_id:path}", summary="All that is held of a product", dependencies=[access.needs("admin")]
    )
    def held_of_a_product(product_id: ProductId) -> dict[str, Any]:
        """All that is held of a product, tombstones too: the catalogue's row, and its point in the vector store."""
        row = products.read([product_id]).get(product_id)
        point = point_of(product_id)
        if row is None and point is None:
            raise HTTPException(404, no_product(product_id))
        return {"product_id": product_id, "row": asdict(row) if row else None, "point": point}

    def point_of(product_id: str) -> dict[str, Any] | None:
        """What the vector store holds of it; why it does not answer, so that the row can be seen all the same."""
        try:
            point = vectors.fetch(product_id)
        except StoreUnavailable as away:
            return {"error": str(away)}
        if point is None:
            return None
        return {"payload": point.payload, "widths": {name: len(vector) for name, vector in point.vectors.items()}}

    return routes
