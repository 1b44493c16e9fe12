"""Builds the roles of a process from their names, with the stores and replicas that they share."""

import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sqlalchemy import Engine

from encoders.next_click import FACTORS
from encoders.weights import fingerprint_of, widths_of
from store.database import open_database
from store.history import History
from store.products import ProductStore
from store.users import UserStore
from store.vectors import VectorStore, open_vectors
from streams.broker import Broker, Publisher
from streams.listed_twice import ListedTwice
from streams.look_alikes import LookAlikes
from streams.lossless import LosslessConsumer
from streams.ranking import lists_ranker
from streams.replicas import Replica, shelf_topics
from streams.role import Role
from streams.settings import Settings
from streams.shelf import Neighbour, Neighbourhood, Shelf
from streams.topics import TopicNames, topic_names
from streams.worker import Runnable, run_worker


class UnknownRole(ValueError):
    """Not one of MAKERS."""


class Parts:
    """What the roles of one process are made of; each part is opened when the first role asks for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.broker = Broker(settings)
        self.publisher = Publisher(self.broker)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.settings.image_encoder, self.settings.text_encoder)

    @cached_property
    def names(self) -> TopicNames:
        return topic_names(self.settings, self.fingerprint)

    @cached_property
    def products(self) -> ProductStore:
        return ProductStore(self.database("products"))

    @cached_property
    def users(self) -> UserStore:
        return UserStore(self.database("users"))

    @cached_property
    def vectors(self) -> VectorStore:
        s = self.settings
        key = s.qdrant_api_key.get_secret_value() if s.qdrant_api_key else None
        return open_vectors(s.qdrant_url, key, s.home, s.namespace)

    @cached_property
    def shelf(self) -> Shelf:
        return Shelf()

    @cached_property
    def replica(self) -> Replica:
        """The one reader that fills the shelf."""
        return Replica(self.broker, shelf_topics(self.shelf, self.names), self.shelf.lock)

    @cached_property
    def listed_twice(self) -> ListedTwice:
        return ListedTwice(self.shelf, keeps_one=self.settings.duplicates == "one")

    def database(self, name: str) -> Engine:
        """An engine: a SQLite file of this name, or the one PostgreSQL."""
        s = self.settings
        url = s.database_url.get_secret_value() if s.database_url else None
        return open_database(url, s.home, name, s.namespace)

    def recommend(self, user_id: str, limit: int, segment: str | None = None) -> dict[str, Any]:
        """A list for this moment, as on the topic `recommendations`, from the row and the shelf as they are.

        Raises what ended the shelf's reader, if something did: a list from a stale shelf might hold what sold out.
        """
        self.replica.check()
        row = self.users.read([user_id]).get(user_id)
        history = History.of(row.clicks if row else ())
        ranker = lists_ranker(self.shelf, self.settings)
        now = datetime.now(UTC)
        made = ranker.rank([history], at=now.timestamp(), length=limit, segments=[segment])[0]
        epoch, sequence = self.shelf.weights_version
        return {
            "list_id": uuid.uuid4().hex,
            "user_id": user_id,
            "revision": row.revision if row else 0,
            "made_at": now.isoformat(),
            "versions": {"weights": f"{epoch}.{sequence}"},
            "items": made.items,
        }

    def neighbours(self, product_id: str, by: Neighbourhood, limit: int) -> list[Neighbour]:
        """As Shelf.neighbours. Raises what ended the shelf's reader, too."""
        self.replica.check()
        return self.shelf.neighbours(product_id, by, limit)

    def look_alikes(self, user_id: str, limit: int) -> dict[str, Any]:
        """As LookAlikes.of. Raises what ended the shelf's reader, too."""
        self.replica.check()
        return LookAlikes(self.shelf, self.users, self.vectors, self.settings).of(user_id, limit)


def _catalog(parts: Parts) -> Runnable:
    from streams.catalog import CatalogRole

    return _lossless(parts, CatalogRole(parts.settings, parts.names, parts.products))


def _encode(parts: Parts) -> Runnable:
    from streams.encode import EncodeRole

    return _lossless(parts, EncodeRole(parts.settings, parts.names))


def _index(parts: Parts) -> Runnable:
    from streams.index import IndexRole

    widths = widths_of(parts.settings.image_encoder, parts.settings.text_encoder)
    return _lossless(parts, IndexRole(parts.settings, parts.names, parts.vectors, parts.fingerprint, widths, FACTORS))


def _clicks(parts: Parts) -> Runnable:
    from streams.clicks import ClicksRole

    role = ClicksRole(parts.settings, parts.names, parts.broker, parts.users, parts.shelf, parts.replica)
    return _lossless(parts, role)


def _learner(parts: Parts) -> Runnable:
    from streams.learner import Learner

    return Learner(parts.settings, parts.names, parts.broker, parts.publisher, parts.database("learner"))


def _api(parts: Parts) -> Runnable:
    from streams.api import Api
    from streams.search import Search
    from streams.status import StatusBoard

    return Api(
        parts.settings,
        users=parts.users,
        products=parts.products,
        vectors=parts.vectors,
        recommend=parts.recommend,
        neighbours=parts.neighbours,
        look_alikes=parts.look_alikes,
        search=Search(parts.settings, parts.vectors, parts.listed_twice),
        listed_twice=parts.listed_twice,
        board=StatusBoard(parts.broker, parts.names.worker_status),
        replicas=parts.replica,
    )


def _lossless(parts: Parts, role: Role[Any]) -> Runnable:
    return LosslessConsumer(role, parts.settings, parts.broker, parts.publisher)


MAKERS: dict[str, Callable[[Parts], Runnable]] = {
    "catalog": _catalog,
    "encode": _encode,
    "index": _index,
    "clicks": _clicks,
    "learner": _learner,
    "api": _api,
}


async def run_roles(role_names: Sequence[str], settings: Settings) -> None:
    """Run these roles in this process until SIGTERM or SIGINT. Raises UnknownRole."""
    unknown = [name for name in role_names if name not in MAKERS]
    if unknown or not role_names:
        raise UnknownRole(f"no role {', '.join(unknown) or 'named'}: the roles are {', '.join(MAKERS)}")
    parts = Parts(settings)
    roles = {name: MAKERS[name](parts) for name in role_names}
    await run_worker(roles, settings, parts.publisher)
