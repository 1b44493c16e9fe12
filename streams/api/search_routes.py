"""Search by words in the address, or with a JSON body, by a picture as well."""

from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Body, Query
from fastapi.responses import Response

from streams.api import PREFIX
from streams.api.access import Access
from streams.api.answers import Answer, answers, packed
from streams.api.read_at_once import read_at_once
from streams.api.views import Views
from streams.search import Search
from streams.search_query import SearchQuery, WordsQuery

FOUND = {
    "by": "fused",
    "mode": "hybrid",
    "encoder": "3f2a9c51d07e",
    "degraded": None,
    "corrected": {"kettel": ["kettle"]},
    "unknown": [],
    "is_personal": False,
    "items": [
        {
            "product_id": "k-7",
            "score": 0.99,
            "ranks": {"lexical": 1, "dense": 2},
            "cosine": 0.61,
            "title": "Electric kettle of steel",
            "offer": {
                "brand": "Nord",
                "category": ["Home", "Kitchen"],
                "price": {"amount": 25.0, "currency": "EUR"},
                "availability": "in_stock",
                "image_link": "https://shop.example/k-7.jpg",
            },
        }
    ],
    "facets": {
        "total": 12,
        "brand": [{"value": "Nord", "count": 9}, {"value": "Lux", "count": 3}],
        "price": [{"currency": "EUR", "price_min": 12.0, "price_max": 25.0, "count": 12}],
    },
}
AT_ONCE = 16  # searches; they wait for a model, and are not to take every thread of the process
BOTH = {"summary": "Words and a picture", "value": {"q": "summer dress", "picture": "/9j/4AAQSkZJRg==", "limit": 5}}
FILTERED = {"summary": "Words under filters", "value": {"q": "kettel", "price_max": 30, "facets": ["brand", "price"]}}


def search_routes(search: Search, views: Views, access: Access) -> APIRouter:
    """The routes. While the shelf is still being read, products are found by vectors alone."""
    places = CapacityLimiter(AT_ONCE)
    routes = APIRouter(
        prefix=f"{PREFIX}/search",
        tags=["search"],
        dependencies=[access.needs("read")],
        responses=answers(FOUND),
    )

    @routes.get("", summary="Products by words", response_model=Answer)
    async def search_by_words(query: Annotated[WordsQuery, Query()]) -> Response:
        """The products that `q` describes or names, best first, with their offers. A score is 1 for what stands first
        by every order in `ranks`. `corrected` has the words that were misspelled, `degraded` says why a half of the
        search did not answer, and `facets` counts `total` listings: those with as many of the words as the best one
        has, and the 100 nearest by vectors."""
        return await found(query)

    read_at_once(routes, search_by_words, access, needs="read", model=WordsQuery)

    @routes.post("", summary="Products by words, by a picture, or by both", response_model=Answer)
    async def search_by_words_and_picture(
        query: Annotated[SearchQuery, Body(openapi_examples={"both": BOTH, "filtered": FILTERED})],
    ) -> Response:
        """The same by words, by a picture, or by both with weights: `picture` is a file's bytes in base64."""
        return await found(query)

    async def found(query: WordsQuery) -> Response:
        return await to_thread.run_sync(lambda: packed(search.find(query, views.lack())), limiter=places)

    return routes
