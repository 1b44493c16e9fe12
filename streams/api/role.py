"""The api role: what is recommended, found and alike, and all that is held of a user or a product, over HTTP; and the
door for events.

Every answer is JSON; an error is a problem document, whose `detail` says what to do next.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI

from store.database import ping
from store.encoders import EncoderStore
from store.experiments import ExperimentStore
from store.keys import KeyStore
from store.products import ProductStore
from store.records import StoreUnavailable
from store.users import UserStore
from store.vectors import VectorStore, serving_of
from streams.api.access import Access, Guard
from streams.api.board_metrics import BoardCollector
from streams.api.demo_routes import demo_routes
from streams.api.described import describe
from streams.api.encoder_routes import encoder_routes
from streams.api.event_routes import event_routes
from streams.api.experiment_routes import experiment_routes
from streams.api.happening_routes import happening_routes
from streams.api.letter_routes import letter_routes
from streams.api.list_routes import list_routes
from streams.api.metrics import Measured, Metrics, metric_routes
from streams.api.operation_routes import probe_routes, status_routes
from streams.api.page_routes import page_routes, picture_routes
from streams.api.person_routes import person_routes
from streams.api.problems import handle_errors
from streams.api.product_routes import product_routes
from streams.api.rule_routes import rule_routes
from streams.api.search_routes import search_routes
from streams.api.shelf_routes import shelf_routes
from streams.api.traced import Traced
from streams.api.user_routes import user_routes
from streams.api.views import Replicas, Views
from streams.broker import end
from streams.compiling import compile_ranking
from streams.demo_orders import Orders
from streams.door import Door
from streams.first_clicks import FirstClicks
from streams.happenings import Happenings
from streams.health import Backlog, Backlogs
from streams.letter_board import LetterBoard
from streams.list_feed import ListFeed
from streams.listed_twice import ListedTwice
from streams.live_lists import LiveLists
from streams.ports import listen, names_loopback
from streams.replays import Replays
from streams.search import Search
from streams.settings import Settings
from streams.shelf_lists import ShelfLists
from streams.status import StatusBoard
from streams.tracing import NO_TRACING, Tracing

log = logging.getLogger(__name__)

CLOSE_WITHIN_S = 2
BESIDE_THE_PICTURE_BYTES = 100_000  # of a body: words and filters


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The worker alone handles signals."""
        yield


class Api:
    """A Runnable that answers HTTP on the settings' address."""

    def __init__(
        self,
        settings: Settings,
        *,
        users: UserStore,
        products: ProductStore,
        vectors: VectorStore,
        lists: LiveLists,
        shelf_lists: ShelfLists,
        feed: ListFeed,
        look_alikes: Callable[[str, int], dict[str, Any]],
        search: Search,
        listed_twice: ListedTwice,
        board: StatusBoard,
        happenings: Happenings,
        first_clicks: FirstClicks,
        door: Door,
        replicas: Replicas,
        backlogs: Callable[[], Mapping[str, Backlog]] | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        """Nothing listens yet.

        lists, shelf_lists  asked once the replicas are full
        look_alikes  as LookAlikes.of; it may raise ReplicaEnded, as the lists
        backlogs  what waits for each role, by its name, called in any thread; None: the broker is asked
        """
        self._settings = settings
        self._search = search
        self._board = board
        self._feed = feed
        self._tracing = tracing
        self._happenings = happenings
        self._is_loopback = names_loopback(settings.api_host)
        self._access = Access(
            KeyStore(products.engine), is_loopback=self._is_loopback, requests_per_s=settings.api_requests_per_s
        )
        self.views = Views(replicas, compile_ranking, partial(_products_to_come, lists, products))
        self._answered = 0
        self._started = False
        backlogs = backlogs or Backlogs(settings).now
        replays, self.letters = Replays(settings, products, users), LetterBoard(settings)
        self.metrics = Metrics(BoardCollector(board, backlogs, self.letters, replays.letters))
        access, counts = self._access, {"products": products.counts, "users": users.counts, "vectors": vectors.count}
        pings: dict[str, Callable[[], object]] = {
            "users": partial(ping, users.engine),
            "vectors": partial(serving_of, vectors),
        }
        orders = Orders(settings.demo_orders) if settings.demo_orders else None
        experiments = ExperimentStore(users.engine)
        # In this order: an id may hold slashes, so a route that takes the rest of a path comes behind the others.
        self.app = self._make_app(
            list_routes(lists, feed, self.views, access),
            search_routes(self.metrics.timed(search), self.views, access),
            shelf_routes(shelf_lists, self.views, access),
            rule_routes(shelf_lists, self.views, access),
            event_routes(door, access),
            person_routes(door, access),
            user_routes(users, experiments, look_alikes, self.views, access),
            picture_routes(shelf_lists, settings, self.views, access),
            product_routes(products, vectors, shelf_lists, listed_twice, self.views, access),
            encoder_routes(EncoderStore(products.engine), vectors, products, access),
            status_routes(board, counts, backlogs, access),
            letter_routes(self.letters, replays, access),
            happening_routes(happenings, first_clicks, self.views, access, is_demo=orders is not None),
            *([demo_routes(settings, orders, door, board, backlogs, access)] if orders else []),
            experiment_routes(experiments, access),
            probe_routes(board, pings, self.views, access),
            metric_routes(self.metrics, access),
            page_routes(),
        )
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=CLOSE_WITHIN_S,
        )
        self._server = _Server(config)

    async def run(self) -> None:
        """Answer until `stop` is called. Raises PortTaken, NoKeys where others could ask without one, and what ended a
        reader of a topic: whoever runs the role starts it again, and it does not go on with what is never new."""
        self._access.require_keys()
        host, port = self._settings.api_host, self._settings.api_port
        listener = listen(host, port, setting="FRESHET_API_PORT")
        log.info("api listens url=http://%s:%d", host, listener.getsockname()[1])
        happenings = self._happenings.follow(lambda: self.views.are_full)
        followed = self._board.follow(), self.views.fill(), self._feed.follow(), self.letters.follow(), happenings
        beside = [asyncio.create_task(one) for one in followed]
        for task in beside:
            task.add_done_callback(self._stop_with)
        ended: list[asyncio.Task[None]] = []
        try:
            self._started = True
            await self._server.serve(sockets=[listener])
        finally:
            ended = [task for task in beside if task.done()]
            listener.close()
            self._close_streams()
            for task in beside:
                await end(task)
            self._search.close()
            await self.views.replicas.stop()
        for task in ended:
            task.result()

    def stop(self) -> None:
        """Take no more requests; `run` returns when those in hand are answered, CLOSE_WITHIN_S at most."""
        self._server.should_exit = True
        self._close_streams()

    def status(self) -> dict[str, Any]:
        """What `streams.events.WorkerStatus` tells of a role; its events are answered requests."""
        state = "stopping" if self._server.should_exit else "running" if self._started else "starting"
        lack = self.views.lack()
        return {
            "state": "waiting" if state == "running" and lack else state,
            "reason": lack,
            "events": self._answered,
            "lag": 0,
            "oldest_unprocessed_s": 0.0,
            "dead_letters": 0,
            "details": {
                "replica_malformed": self.views.replicas.malformed,
                "streams": self._feed.open_streams,
                "lists_unread": self._feed.lost,
            },
        }

    def _make_app(self, *routers: APIRouter) -> FastAPI:
        app = FastAPI(title="Freshet", summary="Streaming product recommendations.", docs_url=None, redoc_url=None)
        for router in routers:
            app.router.routes += router.routes  # as they are: a router in a router looks for the route once more
        handle_errors(app)
        describe(app)
        app.add_middleware(
            Guard,
            access=self._access,
            body_max_bytes=self._settings.picture_max_bytes * 4 // 3 + BESIDE_THE_PICTURE_BYTES,
            is_loopback=self._is_loopback,
            answered=self._count,
        )
        app.add_middleware(Measured, metrics=self.metrics)
        if self._tracing.is_on:
            app.add_middleware(Traced, tracing=self._tracing)
        return app

    def _close_streams(self) -> None:
        self._feed.close()
        self._happenings.close()

    def _stop_with(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception():
            self.stop()

    def _count(self) -> None:
        self._answered += 1


def _products_to_come(lists: LiveLists, products: ProductStore) -> str | None:
    """Why there is no product to list, although the shop has some: a broker that forgot its topics is being told."""
    try:
        if lists.has_products or not products.counts()["products"]:
            return None
    except StoreUnavailable as away:
        return str(away)
    return "the products are being published again: is the role catalog up?"
