"""GET /search by words in the address; POST /search with JSON, by a picture as well."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from encoders.product import UnknownDevice
from encoders.weights import UnknownSource
from streams.search import BadQuery, Search, SearchQuery, StillLoading, WordsQuery

BESIDE_THE_PICTURE_BYTES = 100_000  # of a body: words and filters
RETRY_AFTER_S = 5


def search_routes(search: Search, picture_max_bytes: int) -> APIRouter:
    """The routes; a body larger than such a picture in base64 is not read to its end."""
    body_max_bytes = picture_max_bytes * 4 // 3 + BESIDE_THE_PICTURE_BYTES
    routes = APIRouter()

    @routes.get("/search")
    def by_words(query: Annotated[WordsQuery, Query()]) -> Any:
        """The products nearest to the words q, best first, with their offers."""
        return _answer(search, query)

    @routes.post("/search")
    async def by_words_and_picture(request: Request) -> Any:
        """The same by the JSON of a SearchQuery: `picture` is a file's bytes in base64."""
        query = _parse(await _body(request, body_max_bytes))
        return await run_in_threadpool(_answer, search, query)

    return routes


def _answer(search: Search, query: WordsQuery) -> Any:
    try:
        return search.find(query)
    except BadQuery as bad:
        raise HTTPException(422, str(bad)) from bad
    except (UnknownSource, UnknownDevice) as unknown:
        raise HTTPException(503, f"no search: {unknown}") from unknown
    except StillLoading as loading:
        return JSONResponse({"detail": str(loading)}, 503, {"Retry-After": str(RETRY_AFTER_S)})


async def _body(request: Request, most_bytes: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most_bytes:
            raise HTTPException(
                413, f"the body has more than {most_bytes} bytes: shrink the picture or raise FRESHET_PICTURE_MAX_BYTES"
            )
    return bytes(body)


def _parse(body: bytes) -> SearchQuery:
    try:
        return SearchQuery.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        ) from error
