"""The rules that lists obey, as an operator asks for them."""

from typing import Any

from fastapi import APIRouter

from streams.api import PREFIX
from streams.api.access import Access
from streams.api.answers import answers
from streams.api.views import Views
from streams.shelf_lists import ShelfLists

TOLD = {
    "name": "lamps in winter",
    "action": "boost",
    "category": "Lamps",
    "factor": 3.0,
    "until": "2027-03-01T00:00:00Z",
    "is_on": True,
    "products_for_sale": 214,
}


def rule_routes(lists: ShelfLists, views: Views, access: Access) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX, tags=["operation"], dependencies=[access.needs("admin")])

    @routes.get("/rules", summary="The rules of lists", responses=answers({"rules": [TOLD]}))
    def rules() -> dict[str, Any]:
        """Those that `freshet rules apply` published last, in their order: whether each holds at this hour, and how
        many products for sale it is about."""
        views.need("rules")
        return {"rules": lists.rules()}

    return routes
