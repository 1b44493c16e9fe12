"""A route whose request is read at once, beside the same route as FastAPI reads it."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from store.database import open_database
from store.keys import KeyStore
from streams.api.access import Access
from streams.api.answers import packed
from streams.api.ids import UserId
from streams.api.problems import handle_errors
from streams.api.read_at_once import read_at_once
from streams.live_lists import ListQuery
from streams.search_query import WordsQuery

pytestmark = pytest.mark.anyio
USER = "/v1/users/{user_id:path}/recommendations"
READ = (
    "",
    "limit=5",
    "limit=05&explain=true&explain2=",
    "explain=1&segment=DE&scenario=cart+page",
    "brand=S%C3%BCd%2FOst&category=Lamps%20%26%20more",
    "exclude=a&exclude=b%20c&exclude=a",
    "price_min=1.5&price_max=2e3&currency=EUR",
    "attributes.colour=red&attributes[size]=XL",
    "attributes%5Bcolour%5D=",
    "availability=preorder&attributes.=x",
    "limit=5;brand=x",
    "brand=%FF%00&limit=1",
    "&&limit=3&",
    "scenario",
    "brand=",
)
SEARCHED = (
    "q=red+lamp",
    "q=l%C3%A1mp&facets=brand,price&limit=3",
    "facets=brand&facets=price&q=x",
    "facets=&q=",
    "q=a&q=b",
    "q=x&mode=dense&dense_weight=.5&all=true&user=ann",
    "q=x&facets=shape",
    "q=x&attributes.colour=red",
)
LEFT = ("limit=0", "limit=1&limit=2", "limt=5", "attributes=x", "exclude=", "attributes.a=1&attributes[a]=2")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Beside:
    """Both routes: `plain` is FastAPI's own."""

    def __init__(self, home: Path, model: type[BaseModel] = ListQuery) -> None:
        self.keys = KeyStore(open_database(None, home, "products"))
        self.left = 0  # requests that were left to FastAPI
        self._model = model
        self._plain, self._at_once = self._app(), self._app()
        [route] = [one for one in self._at_once.routes if isinstance(one, APIRoute)]
        fastapis = route.app

        async def counted(*message: object) -> None:
            self.left += 1
            await fastapis(*message)  # type: ignore[arg-type]

        route.app = counted
        access = Access(self.keys, is_loopback=True, requests_per_s=0)
        read_at_once(
            self._at_once.router, route.endpoint, access, needs="read", model=model, path_ids={"user_id": UserId}
        )

    def _app(self) -> FastAPI:
        access = Access(self.keys, is_loopback=True, requests_per_s=0)
        routes, app = APIRouter(dependencies=[access.needs("read")]), FastAPI()

        @routes.get(USER)
        async def asked(user_id: UserId, query: Annotated[self._model, Query()]) -> Response:  # type: ignore[name-defined]
            return packed({"user_id": user_id, "query": query.model_dump(mode="json")})

        app.router.routes += routes.routes
        handle_errors(app)
        return app

    async def ask(self, path: str, key: str | None = None) -> list[tuple[int, str]]:
        """Status and body of both, the plain one first."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answers = []
        for app in (self._plain, self._at_once):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                response = await client.get(path, headers=headers)
                answers.append((response.status_code, response.text))
        return answers


@pytest.mark.parametrize("query", READ)
async def test_a_query_is_read_as_fastapi_reads_it(tmp_path: Path, query: str) -> None:
    beside = Beside(tmp_path)
    plain, at_once = await beside.ask(f"/v1/users/ann%2F1/recommendations?{query}")
    assert at_once == plain
    assert beside.left == (plain[0] != 200)


@pytest.mark.parametrize("query", SEARCHED)
async def test_a_search_is_read_as_fastapi_reads_it(tmp_path: Path, query: str) -> None:
    plain, at_once = await Beside(tmp_path, WordsQuery).ask(f"/v1/users/ann/recommendations?{query}")
    assert at_once == plain


@pytest.mark.parametrize("query", LEFT)
async def test_what_is_refused_is_refused_in_fastapis_words(tmp_path: Path, query: str) -> None:
    beside = Beside(tmp_path)
    plain, at_once = await beside.ask(f"/v1/users/ann/recommendations?{query}")
    assert at_once == plain
    assert beside.left == 1


@pytest.mark.parametrize("user_id", ["ann", "a/b/c", "Süd 1", "x" * 200, "x" * 201, "\x00", "a?b"])
async def test_an_id_is_what_stands_in_the_path(tmp_path: Path, user_id: str) -> None:
    plain, at_once = await Beside(tmp_path).ask(f"/v1/users/{quote(user_id, safe='/')}/recommendations")
    assert at_once == plain


async def test_a_key_opens_both_alike(tmp_path: Path) -> None:
    beside = Beside(tmp_path)
    texts = {scope: beside.keys.make(scope, [scope])[1] for scope in ("read", "write")}
    for told, code in ((None, 401), ("nonsense", 401), (texts["write"], 403), (texts["read"], 200)):
        plain, at_once = await beside.ask("/v1/users/ann/recommendations?limit=2", told)
        assert (plain[0], at_once) == (code, plain)
    assert beside.left == 0
