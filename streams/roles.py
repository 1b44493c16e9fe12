"""Builds the roles of a process from their names, with the stores and replicas that they share."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from sqlalchemy import Engine

from encoders.next_click import FACTORS
from encoders.product import ProductEncoder
from encoders.version import UnusableVersion
from encoders.weights import UnknownSource, fingerprint_of, widths_of
from store.encoders import EncoderRow, EncoderStore
from store.products import ProductStore
from store.users import UserStore
from store.vectors import VectorStore, open_vectors
from streams.broker import Broker, Publisher
from streams.databases import database_of
from streams.events import EncoderVersion
from streams.experiments import RunningExperiment
from streams.listed_twice import ListedTwice
from streams.look_alikes import LookAlikes
from streams.lossless import LosslessConsumer
from streams.per_version import PerVersion, Wanted
from streams.replicas import Replica, shelf_topics
from streams.role import Role
from streams.served_vectors import ServedVectors
from streams.settings import Settings
from streams.shelf import Shelf
from streams.topics import TopicNames, topic_names
from streams.tracing import Tracing, open_tracing
from streams.turns import Turns
from streams.version_files import load_encoder, open_version
from streams.versions import Versions, encoding, filled, version_of
from streams.worker import Runnable, run_worker

log = logging.getLogger(__name__)


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
        """Of the untrained encoders of the settings."""
        return fingerprint_of(self.settings.image_encoder, self.settings.text_encoder)

    @cached_property
    def names(self) -> TopicNames:
        return topic_names(self.settings, self.fingerprint)

    @cached_property
    def encoders(self) -> EncoderStore:
        return EncoderStore(self.products.engine)

    @cached_property
    def versions(self) -> Versions:
        return Versions()

    @cached_property
    def version_reader(self) -> Replica:
        """The one reader that fills `versions`."""
        return Replica(self.broker, {self.names.encoders: self.versions.put}, self.versions.lock)

    @cached_property
    def turns(self) -> Turns:
        """With the models of all versions."""
        return Turns()

    async def told_versions(self) -> list[EncoderVersion]:
        """Every version that the catalogue has told of. Raises BrokerUnavailable, ReplicaEnded."""
        await self.version_reader.start()
        self.version_reader.check()
        return self.versions.all()

    async def stored_versions(self) -> list[EncoderVersion]:
        """Every version in SQL; that of the settings is among them. Raises StoreUnavailable, UnknownSource."""

        def read() -> list[EncoderVersion]:
            rows = self.encoders.all()
            if not any(row.fingerprint == self.fingerprint and row.state != "removed" for row in rows):
                added = self.encoders.add_untrained(self._untrained())
                if added.state != "serving":
                    log.warning("others serve than the settings name: freshet encoders fill %s", self.fingerprint)
                rows = self.encoders.all()
            return [version_of(row) for row in rows]

        return await asyncio.to_thread(read)

    def _untrained(self) -> EncoderRow:
        sources = {"image": self.settings.image_encoder, "text": self.settings.text_encoder}
        return EncoderRow(self.fingerprint, sources, widths_of(*sources.values()))

    def open_encoder(self, version: EncoderVersion) -> ProductEncoder:
        """The models of a version, on the device of the settings.

        Raises UnusableVersion, UnknownSource, UnknownDevice, StoreUnavailable.
        """
        return load_encoder(self.settings, open_version(self.settings, version))

    def open_by_fingerprint(self, fingerprint: str) -> ProductEncoder:
        """The same of a version that was told of, or of the settings. Raises UnknownSource for any other, too."""
        told = [version for version in self.versions.all() if version.fingerprint == fingerprint]
        if not told and fingerprint == self.fingerprint:
            told = [version_of(self._untrained())]
        try:
            if told:
                return self.open_encoder(told[0])
        except UnusableVersion as error:
            raise UnknownSource(str(error)) from error
        raise UnknownSource(f"nothing is known of the encoders {fingerprint}: is the catalog role up?")

    def serves(self, fingerprint: str) -> bool:
        """True for the version that serves, as far as was told."""
        serving = self.versions.serving
        return serving is not None and serving.fingerprint == fingerprint

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
        shelf = Shelf()
        shelf.keep_offers()  # rules tell products by what is offered
        return shelf

    @cached_property
    def experiment(self) -> RunningExperiment:
        return RunningExperiment()

    @cached_property
    def replica(self) -> ServedVectors:
        """The one reader that fills the shelf, and what lists are made by beside it."""
        puts = {**shelf_topics(self.shelf, self.names), self.names.experiments: self.experiment.put}
        return ServedVectors(self.broker, self.settings, self.names, self.versions, self.shelf, puts)

    @cached_property
    def tracing(self) -> Tracing:
        return open_tracing(self.settings)

    async def close(self) -> None:
        """What no role closes is closed."""
        if "tracing" in self.__dict__:
            await asyncio.to_thread(self.tracing.close)
        if "version_reader" in self.__dict__:
            await self.version_reader.stop()

    @cached_property
    def listed_twice(self) -> ListedTwice:
        return ListedTwice(self.shelf, keeps_one=self.settings.duplicates == "one")

    def database(self, name: str) -> Engine:
        """An engine: a SQLite file of this name, or the one PostgreSQL."""
        return database_of(self.settings, name)

    def look_alikes(self, user_id: str, limit: int) -> dict[str, Any]:
        """As LookAlikes.of. Raises what ended the shelf's reader, too."""
        self.replica.check()
        return LookAlikes(self.shelf, self.users, self.vectors, self.settings).of(user_id, limit)


def _catalog(parts: Parts) -> Runnable:
    from streams.catalog import CatalogRole, NotesRole

    products = parts.products  # opened now: a database that does not answer ends the worker, to be started again

    def choose(versions: list[EncoderVersion]) -> list[Wanted]:
        notes = [Wanted(one.fingerprint, one.group, is_vital=True) for one in encoding(versions)[:1]]
        return [Wanted("", is_vital=True), *notes]

    def make(_: Wanted, version: EncoderVersion | None) -> Runnable:
        if version is None:
            return _lossless(parts, CatalogRole(parts.settings, parts.names, products))
        names = topic_names(parts.settings, version.fingerprint)
        return _lossless(parts, NotesRole(parts.settings, names, products, version.group))

    return PerVersion("catalog", parts.settings, parts.stored_versions, choose, make)


def _encode(parts: Parts) -> Runnable:
    from encoders.product import use_device
    from streams.encode import EncodeRole

    use_device(parts.settings.device, parts.settings.encode_threads)  # a wrong one is told before any version comes

    def choose(versions: list[EncoderVersion]) -> list[Wanted]:
        return [Wanted(one.fingerprint, one.group, is_vital=place == 0) for place, one in enumerate(encoding(versions))]

    def make(_: Wanted, version: EncoderVersion | None) -> Runnable:
        assert version is not None, "none was chosen"
        names, fingerprint = topic_names(parts.settings, version.fingerprint), version.fingerprint
        opens, serves = partial(parts.open_encoder, version), partial(parts.serves, fingerprint)
        role = EncodeRole(parts.settings, names, opens, parts.turns, serves)
        role.group = version.group
        return _lossless(parts, role)

    return PerVersion("encode", parts.settings, parts.told_versions, choose, make)


def _index(parts: Parts) -> Runnable:
    from streams.index import IndexRole, align

    def choose(versions: list[EncoderVersion]) -> list[Wanted]:
        kept = filled(versions)
        leader = min(kept, key=lambda one: (one.group, one.fingerprint), default=None)
        return [Wanted(one.fingerprint, one.group, one is leader, place == 0) for place, one in enumerate(kept)]

    def make(wanted: Wanted, version: EncoderVersion | None) -> Runnable:
        assert version is not None, "none was chosen"
        s, names, fingerprint = parts.settings, topic_names(parts.settings, version.fingerprint), version.fingerprint
        role = IndexRole(s, names, parts.vectors, fingerprint, version.widths, FACTORS, with_users=wanted.leads)
        role.group = version.group
        return _lossless(parts, role)

    async def also(versions: list[EncoderVersion]) -> bool:
        return await asyncio.to_thread(align, parts.vectors, versions)

    return PerVersion("index", parts.settings, parts.told_versions, choose, make, also)


def _clicks(parts: Parts) -> Runnable:
    from streams.clicks import ClicksRole

    role = ClicksRole(
        parts.settings,
        parts.names,
        parts.broker,
        parts.users,
        parts.shelf,
        parts.replica,
        parts.experiment,
        parts.tracing,
    )
    return _lossless(parts, role)


def _learner(parts: Parts) -> Runnable:
    from streams.learner import Learner

    return Learner(parts.settings, parts.names, parts.broker, parts.publisher, parts.database("learner"))


def _api(parts: Parts) -> Runnable:
    from streams.api.role import Api
    from streams.door import Door
    from streams.first_clicks import FirstClicks
    from streams.happenings import Happenings
    from streams.health import Backlogs
    from streams.list_feed import ListFeed
    from streams.live_lists import LiveLists
    from streams.next_clicks import NextClicks
    from streams.search import Search
    from streams.shelf_lists import ShelfLists
    from streams.shelf_search import ShelfSearch
    from streams.status import StatusBoard

    search = Search(
        parts.settings,
        parts.vectors,
        ShelfSearch(parts.shelf),
        parts.listed_twice,
        parts.open_by_fingerprint,
        next_clicks=NextClicks(parts.shelf, parts.users).of,
    )
    names = parts.names
    feed, board = ListFeed(parts.broker, names.recommendations), StatusBoard(parts.broker, names.worker_status)
    clicks, lists = names.user_clicks, names.recommendations
    return Api(
        parts.settings,
        users=parts.users,
        products=parts.products,
        vectors=parts.vectors,
        lists=LiveLists(parts.shelf, parts.users, parts.settings, parts.replica.check, parts.experiment),
        shelf_lists=ShelfLists(parts.shelf, parts.replica.check, keeps_one=parts.settings.duplicates == "one"),
        feed=feed,
        look_alikes=parts.look_alikes,
        search=search,
        listed_twice=parts.listed_twice,
        board=board,
        happenings=Happenings(parts.shelf, board, feed.tail, clicks=clicks, lists=lists),
        first_clicks=FirstClicks(parts.shelf, feed.tail, clicks=clicks),
        door=Door(parts.settings, parts.names, parts.broker, parts.publisher, parts.users, parts.tracing),
        replicas=parts.replica,
        backlogs=Backlogs(parts.settings, lambda: parts.versions.serving).now,
        tracing=parts.tracing,
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


async def run_roles(role_names: Sequence[str], settings: Settings, parts: Parts | None = None) -> None:
    """Run these roles in this process until SIGTERM or SIGINT. Raises UnknownRole.

    parts  None: those of the settings
    """
    unknown = [name for name in role_names if name not in MAKERS]
    if unknown or not role_names:
        raise UnknownRole(f"no role {', '.join(unknown) or 'named'}: the roles are {', '.join(MAKERS)}")
    parts = parts or Parts(settings)
    roles = {name: MAKERS[name](parts) for name in role_names}
    try:
        await run_worker(roles, settings, parts.publisher)
    finally:
        closing = asyncio.ensure_future(parts.close())
        for closed in (await asyncio.wait({closing}, timeout=settings.shutdown_s))[0]:
            closed.result()
