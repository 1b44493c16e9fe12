"""Three products and a user in real stores and on a shelf behind an Api, for tests that ask it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from shelves import factors, neighbours, offer, weights

from encoders.product import ProductEncoder
from store.database import open_database
from store.products import ProductStore
from store.records import Click, ProductRow, UserRow
from store.user_vectors import UserPoint
from store.users import UserStore
from store.vectors import OfferPoint, VectorPoint, VectorStore, open_vectors
from streams.api.role import Api
from streams.broker import Broker, BrokerUnavailable, Publisher
from streams.door import Door
from streams.experiments import RunningExperiment
from streams.first_clicks import FirstClicks
from streams.happenings import Happenings
from streams.health import Backlog
from streams.list_feed import ListFeed
from streams.listed_twice import ListedTwice
from streams.live_lists import LiveLists
from streams.look_alikes import LookAlikes
from streams.next_clicks import NextClicks
from streams.ports import free_port
from streams.replicas import ReplicaEnded
from streams.search import Search
from streams.settings import Settings
from streams.shelf import Shelf
from streams.shelf_lists import ShelfLists
from streams.shelf_search import ShelfSearch
from streams.status import StatusBoard
from streams.topics import topic_names

BALL = "15CM CHRISTMAS GLASS BALL 20 LIGHTS/A"
TITLES = {BALL: "Glass ball", "b": "Bauble", "c": "Cup"}


class ReplicasAtHand:
    """Replicas that are full at once, or away so often before."""

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.stopped = False
        self.malformed = 0
        self.ended_by: Exception | None = None

    async def start(self) -> None:
        if self.away:
            self.away -= 1
            raise BrokerUnavailable("no answer from Kafka at 127.0.0.1:1")

    async def stop(self) -> None:
        self.stopped = True

    def check(self) -> None:
        if self.ended_by is not None:
            raise ReplicaEnded(f"the reader of product-index has ended: {self.ended_by!r}")


class AskedShop:
    """Three products and a user, in real stores, behind an Api."""

    def __init__(
        self,
        home: Path,
        replicas: ReplicasAtHand,
        load: Callable[[str], ProductEncoder] | None = None,
        **more: Any,
    ) -> None:
        """load makes the encoder of searches; more is of the settings."""
        self.settings = Settings(home=home, api_port=free_port(), **more)
        self.products = ProductStore(open_database(None, home, "products", self.settings.namespace))
        self.users = UserStore(open_database(None, home, "users", self.settings.namespace))
        self.vectors: VectorStore = open_vectors(None, None, home, "")
        self.shelf = Shelf()
        self.broker = Broker(self.settings)
        self.publisher = Publisher(self.broker)
        self.names = topic_names(self.settings, "f")
        self.board = StatusBoard(self.broker, "worker-status")
        self.replicas = replicas
        self.backlogs: dict[str, Backlog] = {}  # as the broker tells them
        self.listed_twice = ListedTwice(self.shelf, keeps_one=True)
        self.feed = ListFeed(Broker(self.settings), topic_names(self.settings, "f").recommendations)
        clicks, lists = self.names.user_clicks, self.names.recommendations
        self.happenings = Happenings(self.shelf, self.board, self.feed.tail, clicks=clicks, lists=lists)
        self.experiment = RunningExperiment()
        self.shelf_search = ShelfSearch(self.shelf)
        next_clicks = NextClicks(self.shelf, self.users)
        self.search = Search(
            self.settings, self.vectors, self.shelf_search, self.listed_twice, load, next_clicks=next_clicks.of
        )
        self.api = Api(
            self.settings,
            users=self.users,
            products=self.products,
            vectors=self.vectors,
            lists=LiveLists(self.shelf, self.users, self.settings, replicas.check, self.experiment),
            shelf_lists=ShelfLists(self.shelf, replicas.check, keeps_one=True),
            feed=self.feed,
            look_alikes=LookAlikes(self.shelf, self.users, self.vectors, self.settings).of,
            search=self.search,
            listed_twice=self.listed_twice,
            board=self.board,
            happenings=self.happenings,
            first_clicks=FirstClicks(self.shelf, self.feed.tail, clicks=clicks),
            door=Door(self.settings, self.names, self.broker, self.publisher, self.users),
            replicas=replicas,
            backlogs=lambda: self.backlogs,
        )

    def fill(self) -> None:
        self.products.write([product(BALL, "Glass ball"), product("b", "Bauble"), product("c", "Cup")])
        self.users.write(
            [
                UserRow(
                    user_id="ann/1",
                    revision=1,
                    clicks=(Click(BALL, "purchase", 100.0), Click("b", "view_item", 50.0)),
                    recent_event_ids=("e2", "e1"),
                    offsets={"topic/0": 7},
                    embedding=b"\0" * 8,
                    embedding_version="1.2",
                )
            ]
        )
        self.vectors.ensure("f", {"fused": 2, "text": 2})
        self.vectors.put_offers([OfferPoint(i, 1, {"title": t, "state": "listable"}) for i, t in TITLES.items()])
        places = {BALL: [1.0, 0.0], "b": [0.9, 0.1], "c": [0.0, 1.0]}
        self.vectors.put_vectors(
            [VectorPoint(i, 1, {"fused": np.array(place, np.float32)}) for i, place in places.items()]
        )
        self.vectors.ensure_users(2)
        self.fill_shelf(places)

    def fill_shelf(self, places: dict[str, list[float]]) -> None:
        """The same products; the ball has neighbours, of which one was never published."""
        shelf = self.shelf
        for product_id, title in TITLES.items():
            shelf.put_offer(product_id.encode(), offer(title=title), ())
            shelf.put_factors(product_id.encode(), factors(places[product_id]), ())
        together, after = {"c": 0.25, "b": 0.5, "gone": 0.75}, {"c": 0.125}
        shelf.put_neighbours(BALL.encode(), neighbours(after, together), ())
        shelf.put_weights(b"next-click", weights(), ())

    def have(self, user_id: str, embedding: list[float] | None, *product_ids: str, epoch: int = 1) -> None:
        """A user who clicked these products, the newest first, and her embedding in the vector store."""
        clicks = [Click(product_id, "view_item", 100.0 - place) for place, product_id in enumerate(product_ids)]
        self.users.write([UserRow(user_id, 1, clicks, (), {"topic/0": 8})])
        if embedding is not None:
            self.vectors.put_users([UserPoint(user_id, 1, epoch, np.array(embedding, np.float32), 1e12)])

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.api.app), base_url="http://localhost")


def product(product_id: str, title: str) -> ProductRow:
    return ProductRow(
        product_id,
        {"title": title},
        revision=1,
        content_hash="h",
        content_revision=1,
        created_at=1.0,
        changed_at=2.0,
        offsets={"topic/3": 41},
    )
