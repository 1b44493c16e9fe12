"""What the shop's window may show to anybody: what is clicked lately, what is new, which brands go together."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query

from streams.api import PREFIX
from streams.api.access import Access
from streams.api.answers import ITEM, answers
from streams.api.views import Views
from streams.filters import PageQuery
from streams.shelf_lists import ShelfLists, UnknownBrand

Brand = Annotated[str, Path(min_length=1, max_length=1_000)]
RELATED = {"brand": "Oakstead", "score": 0.98, "cosine": 0.41, "share": 0.06, "products": 38}


def shelf_routes(lists: ShelfLists, views: Views, access: Access) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, tags=["lists"], dependencies=[access.needs("read")])

    @routes.get(
        "/trending",
        summary="Clicked more than usual",
        responses=answers({"items": [ITEM | {"score": 4.2, "clicks_lately": 31.5}]}),
    )
    def trending(query: Annotated[PageQuery, Query()]) -> dict[str, Any]:
        """The products that are clicked more lately than over the longer run, the most unusual first. The score is in
        standard deviations; clicks_lately fade with the clicks of the whole shop."""
        views.need("lists")
        return {"items": lists.trending(query)}

    @routes.get("/new", summary="New in the shop", responses=answers({"items": [ITEM | {"created_at": 1772366400.0}]}))
    def new(query: Annotated[PageQuery, Query()]) -> dict[str, Any]:
        """The products for sale that came last, newest first; created_at in seconds since 1970."""
        views.need("lists")
        return {"items": lists.new(query)}

    @routes.get(
        "/brands/{brand:path}/related",
        summary="Brands that go with a brand",
        responses=answers({"brand": "Lumiska", "items": [RELATED]}),
    )
    def related(brand: Brand, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> dict[str, Any]:
        """Other brands whose products are like this one's, or are clicked together with them, best first. The score
        fuses both; case does not count in the brand's name."""
        views.need("brands")
        try:
            return {"brand": brand, "items": lists.related_brands(brand, limit)}
        except UnknownBrand as unknown:
            raise HTTPException(
                404, f"nothing is offered of a brand {brand!r}: it is misspelled, or all of it was deleted"
            ) from unknown

    return routes
