"""The api role: what is recommended, found and alike, and all that is held of a user or a product, over loopback HTTP.

Every answer is JSON; an error is {"detail": what to do next}.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Protocol

import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse

from store.encoders import EncoderStore
from store.products import ProductStore
from store.records import StoreUnavailable
from store.users import UserStore
from store.vectors import UnknownProduct, VectorStore
from streams.api_errors import handle_errors, no_product, no_user, remedy_of
from streams.broker import BrokerUnavailable
from streams.encoder_routes import encoder_routes
from streams.events import Segment
from streams.health import Backlog, Backlogs
from streams.listed_twice import ListedTwice
from streams.look_alikes import UnknownUser
from streams.ports import listen
from streams.replicas import ReplicaEnded
from streams.search import Search
from streams.search_routes import search_routes
from streams.settings import Settings
from streams.shelf import Neighbour, Neighbourhood
from streams.status import StatusBoard

log = logging.getLogger(__name__)

Recommend = Callable[[str, int, str | None], dict[str, Any]]
Neighbours = Callable[[str, Neighbourhood, int], list[Neighbour]]
Limit = Annotated[int, Query(ge=1, le=200)]
By = Literal["fused", "image", "text", "together", "next"]
AWAITED = ("catalog", "encode", "index", "clicks")  # without the learner, lists still come from the last factors
CLOSE_WITHIN_S = 2


class Replicas(Protocol):
    """The views that `recommend` reads; start() returns when they are full and may raise BrokerUnavailable."""

    @property
    def malformed(self) -> int:
        """Records that were skipped."""

    async def start(self) -> None: ...

    def check(self) -> None:
        """Raises ReplicaEnded if they are not kept up to date any more."""

    async def stop(self) -> None: ...


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The worker alone handles signals."""
        yield


class Api:
    """A Runnable that answers HTTP on the settings' loopback address."""

    def __init__(
        self,
        settings: Settings,
        *,
        users: UserStore,
        products: ProductStore,
        vectors: VectorStore,
        recommend: Recommend,
        neighbours: Neighbours,
        look_alikes: Callable[[str, int], dict[str, Any]],
        search: Search,
        listed_twice: ListedTwice,
        board: StatusBoard,
        replicas: Replicas,
        backlogs: Callable[[], Mapping[str, Backlog]] | None = None,
    ) -> None:
        """Nothing listens yet.

        recommend  (user_id, limit, segment) -> a list as on the topic `recommendations`; runs in any thread, once the
                   replicas are full, also for a user who is not known; may raise ReplicaEnded
        neighbours, look_alikes  as Shelf.neighbours and LookAlikes.of; they may raise the same
        backlogs   what waits for each role, by its name, called in any thread; None: the broker is asked
        """
        self._settings = settings
        self._users = users
        self._products = products
        self._vectors = vectors
        self._recommend = recommend
        self._neighbours = neighbours
        self._look_alikes = look_alikes
        self._search = search
        self._listed_twice = listed_twice
        self._board = board
        self._replicas = replicas
        self._backlogs = backlogs or Backlogs(settings).now
        self._lack_at_start: str | None = "the offers and factors are still being read"
        self._answered = 0
        self._started = False
        self.app = self._make_app()
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=CLOSE_WITHIN_S,
        )
        self._server = _Server(config)

    # --- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Answer until `stop` is called. Raises PortTaken."""
        host, port = self._settings.api_host, self._settings.api_port
        listener = listen(host, port, setting="FRESHET_API_PORT")
        log.info("api listens url=http://%s:%d", host, listener.getsockname()[1])
        beside = [asyncio.create_task(self._board.follow()), asyncio.create_task(self._fill())]
        try:
            self._started = True
            await self._server.serve(sockets=[listener])
        finally:
            listener.close()
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            self._search.close()
            await self._replicas.stop()

    def stop(self) -> None:
        """Take no more requests; `run` returns when those in hand are answered, CLOSE_WITHIN_S at most."""
        self._server.should_exit = True

    def status(self) -> dict[str, Any]:
        """What `streams.events.WorkerStatus` tells of a role; its events are answered requests."""
        state = "stopping" if self._server.should_exit else "running" if self._started else "starting"
        lack = self._lack()
        return {
            "state": "waiting" if state == "running" and lack else state,
            "reason": lack,
            "events": self._answered,
            "lag": 0,
            "oldest_unprocessed_s": 0.0,
            "dead_letters": 0,
            "details": {"replica_malformed": self._replicas.malformed},
        }

    async def _fill(self) -> None:
        """The replicas are full; while the broker is away, try again."""
        while True:
            try:
                await self._replicas.start()
            except BrokerUnavailable as away:
                self._lack_at_start = str(away)
                await asyncio.sleep(1.0)
            else:
                self._lack_at_start = None
                return

    def _lack(self) -> str | None:
        """What the replicas lack for lists to be made."""
        try:
            self._replicas.check()
        except ReplicaEnded as ended:
            return remedy_of(ended)
        return self._lack_at_start

    # --- what is asked -------------------------------------------------------------------------------------------

    def recommendations(self, user_id: str, limit: Limit = 20, segment: Segment = None) -> dict[str, Any]:
        """The list for this moment, with the products' titles; the segment counts while nothing is known of her."""
        self._need_replicas("lists")
        made = self._recommend(user_id, limit, segment)
        rows = self._products.read([item["product_id"] for item in made["items"]])
        titles = {product_id: row.fields.get("title") for product_id, row in rows.items()}
        return {**made, "items": [{**item, "title": titles.get(item["product_id"])} for item in made["items"]]}

    def similar(self, product_id: str, limit: Limit = 20, by: By = "fused") -> dict[str, Any]:
        """The listable products that are like this one, best first: those with the nearest vector of that name, or
        those that are clicked together with it, or next after it. The score is the cosine, or the share. Listings of
        the same thing stand under `duplicates`, which is null while the offers are still being read."""
        try:
            items = self._similar(product_id, limit, by)
        except UnknownProduct as unknown:
            raise HTTPException(404, no_product(product_id)) from unknown
        twins = None if self._lack_at_start else self._listed_twice.duplicates(product_id)
        return {"product_id": product_id, "by": by, "items": items, "duplicates": twins}

    def _similar(self, product_id: str, limit: int, by: By) -> list[dict[str, Any]]:
        fill_page = self._listed_twice.fill_page
        if by == "together" or by == "next":
            self._need_replicas("neighbours")
            found = fill_page(lambda count: self._neighbours(product_id, by, count), limit, beside=product_id)
            return [{"product_id": one.product_id, "score": one.share, "title": one.title} for one in found]
        hits = fill_page(lambda count: self._vectors.similar(product_id, count, by), limit, beside=product_id)
        return [
            {
                "product_id": hit.product_id,
                "score": hit.score,
                "title": hit.payload.get("title"),
                "offer": hit.payload,
            }
            for hit in hits
        ]

    def look_alikes(self, user_id: str, limit: Limit = 20) -> dict[str, Any]:
        """Those whose clicks are most like this user's, best first, and what they clicked last that she has not."""
        self._need_replicas("look-alikes")
        try:
            return self._look_alikes(user_id, limit)
        except UnknownUser as unknown:
            raise HTTPException(404, no_user(user_id)) from unknown

    def _need_replicas(self, what: str) -> None:
        self._replicas.check()
        if self._lack_at_start:
            raise HTTPException(503, f"no {what} yet: {self._lack_at_start}; try again in a moment")

    def user(self, user_id: str) -> dict[str, Any]:
        """All that is held of a user, with the revision and the offsets of the events that made the row."""
        row = self._users.read([user_id]).get(user_id)
        if row is None:
            raise HTTPException(404, no_user(user_id))
        return {
            "user_id": row.user_id,
            "revision": row.revision,
            "updated_at": row.updated_at,
            "clicks": [asdict(click) for click in row.clicks],
            "recent_event_ids": row.recent_event_ids,
            "offsets": row.offsets,
            "embedding_version": row.embedding_version,
            "embedding_bytes": len(row.embedding or b""),
        }

    def product(self, product_id: str) -> dict[str, Any]:
        """All that is held of a product, tombstones too: the catalogue's row, and its point in the vector store."""
        row = self._products.read([product_id]).get(product_id)
        point = self._point(product_id)
        if row is None and point is None:
            raise HTTPException(404, no_product(product_id))
        return {"product_id": product_id, "row": asdict(row) if row else None, "point": point}

    def healthz(self) -> dict[str, Any]:
        """The process answers."""
        return {"alive": True}

    def readyz(self) -> JSONResponse:
        """200 if lists are made and answered, else 503, and what is missing."""
        missing = list(self._missing(time.time()))
        return JSONResponse({"ready": not missing, "missing": missing}, 503 if missing else 200)

    def everything(self) -> dict[str, Any]:
        """What each role says of itself and has still to do, and the counts of each store, or why there are none."""
        counts = {"products": self._products.counts, "users": self._users.counts, "vectors": self._vectors.count}
        stores = {name: _counted(count) for name, count in counts.items()}
        backlogs = self._backlogs()
        return self._board.summary(time.time(), backlogs) | {"stores": stores}

    def _missing(self, now: float) -> Iterator[str]:
        roles = self._board.summary(now)["roles"]
        for name in AWAITED:
            role = roles[name]
            if not role["alive"]:
                yield f"{name}: {role['state']}; start it with `freshet up` or `freshet worker {name}`"
            elif role["state"] != "running":
                yield f"{name}: {role['state']}" + (f", {role['reason']}" if role["reason"] else "")
        if lack := self._lack():
            yield f"api: {lack}"
        for name, count in (("users", self._users.counts), ("vectors", self._vectors.count)):
            counted = _counted(count)
            if "error" in counted:
                yield f"{name}: {counted['error']}"

    def _point(self, product_id: str) -> dict[str, Any] | None:
        """What the vector store holds of it; why it does not answer, so that the row can be seen all the same."""
        try:
            point = self._vectors.fetch(product_id)
        except StoreUnavailable as away:
            return {"error": str(away)}
        if point is None:
            return None
        return {"payload": point.payload, "widths": {name: len(vector) for name, vector in point.vectors.items()}}

    # --- routes --------------------------------------------------------------------------------------------------

    def _make_app(self) -> FastAPI:
        # The order decides: an id may hold slashes, so the routes with something behind the id come first.
        routes = APIRouter()
        routes.add_api_route("/healthz", self.healthz)
        routes.add_api_route("/readyz", self.readyz)
        routes.add_api_route("/status", self.everything)
        routes.include_router(search_routes(self._search, self._settings.picture_max_bytes))
        routes.include_router(encoder_routes(EncoderStore(self._products.engine), self._vectors, self._products))
        routes.add_api_route("/users/{user_id:path}/recommendations", self.recommendations)
        routes.add_api_route("/users/{user_id:path}/look-alikes", self.look_alikes)
        routes.add_api_route("/products/{product_id:path}/similar", self.similar)
        routes.add_api_route("/users/{user_id:path}", self.user)
        routes.add_api_route("/products/{product_id:path}", self.product)
        app = FastAPI(title="Freshet", docs_url=None, redoc_url=None)
        app.include_router(routes)
        app.middleware("http")(self._count)
        handle_errors(app)
        return app

    async def _count(self, request: Request, call_next: Callable[[Request], Any]) -> Any:
        try:
            response = await call_next(request)
        except Exception as error:
            log.error("request failed path=%s", request.url.path, exc_info=error)
            response = JSONResponse({"detail": "the api failed at this request: its log says why"}, 500)
        self._answered += 1
        return response


def _counted(count: Callable[[], dict[str, int]]) -> dict[str, Any]:
    try:
        return dict(count())
    except StoreUnavailable as away:
        return {"error": str(away)}
