"""Search by words in the address, or with a JSON body, by a picture as well."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from streams.api.access import Access
from streams.search import Search, SearchQuery, WordsQuery


def search_routes(search: Search, access: Access) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["search"], dependencies=[access.needs("read")])

    @routes.get("/search")
    def search_by_words(query: Annotated[WordsQuery, Query()]) -> dict[str, Any]:
        """The products nearest to the words `q`, best first, with their offers."""
        return search.find(query)

    @routes.post("/search")
    def search_by_words_and_picture(query: Annotated[SearchQuery, Body()]) -> dict[str, Any]:
        """The same by words, by a picture, or by both with weights: `picture` is a file's bytes in base64."""
        return search.find(query)

    return routes
