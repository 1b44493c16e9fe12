"""What is like a product or goes with it, and all that is held of it."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, HTTPException

from store.products import ProductStore
from store.records import StoreUnavailable
from store.vectors import UnknownProduct, VectorStore
from streams.api.access import Access
from streams.api.problems import no_product
from streams.api.user_routes import Limit
from streams.api.views import Views
from streams.listed_twice import ListedTwice
from streams.shelf import Neighbour, Neighbourhood

Neighbours = Callable[[str, Neighbourhood, int], list[Neighbour]]
By = Literal["fused", "image", "text", "together", "next"]


def product_routes(
    products: ProductStore,
    vectors: VectorStore,
    neighbours: Neighbours,
    listed_twice: ListedTwice,
    views: Views,
    access: Access,
) -> APIRouter:
    """The routes. An id may hold slashes, so those with something behind the id come first."""
    routes = APIRouter(tags=["products"])

    @routes.get("/products/{product_id:path}/similar", dependencies=[access.needs("read")])
    def similar(product_id: str, limit: Limit = 20, by: By = "fused") -> dict[str, Any]:
        """The listable products that are like this one, best first: those with the nearest vector of that name, or
        those that are clicked together with it, or next after it. The score is the cosine, or the share. Listings of
        the same thing stand under `duplicates`, which is null while the offers are still being read."""
        try:
            items = similar_items(product_id, limit, by)
        except UnknownProduct as unknown:
            raise HTTPException(404, no_product(product_id)) from unknown
        twins = listed_twice.duplicates(product_id) if views.are_full else None
        return {"product_id": product_id, "by": by, "items": items, "duplicates": twins}

    def similar_items(product_id: str, limit: int, by: By) -> list[dict[str, Any]]:
        fill_page = listed_twice.fill_page
        if by == "together" or by == "next":
            views.need("neighbours")
            found = fill_page(lambda count: neighbours(product_id, by, count), limit, beside=product_id)
            return [{"product_id": one.product_id, "score": one.share, "title": one.title} for one in found]
        hits = fill_page(lambda count: vectors.similar(product_id, count, by), limit, beside=product_id)
        return [
            {"product_id": hit.product_id, "score": hit.score, "title": hit.payload.get("title"), "offer": hit.payload}
            for hit in hits
        ]

    @routes.get("/products/{product_id:path}", dependencies=[access.needs("admin")])
    def held_of_a_product(product_id: str) -> dict[str, Any]:
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
