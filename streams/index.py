"""Keeps the vector store equal to product-index, product-vectors and user-embeddings; the store's only writer.

Offers and vectors of a product come in any order and never wait for each other. Every write carries its revision, so a
batch that is run again, or a record written late, changes nothing. There is one such role for each version of the
encoders, each with a collection of its own; one of them keeps the users too. Users leave when they were active for the
last time too long ago; who was forgotten leaves at once.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from store.user_vectors import ForgottenUser, UserPoint
from store.vectors import VECTOR_NAMES, OfferPoint, VectorPoint, VectorStore
from streams.events import (
    BadEvent,
    EncoderVersion,
    Offer,
    ProductVectors,
    UserEmbedding,
    unpack_vector,
)
from streams.latencies import Latencies
from streams.parsing import parse, parse_gone
from streams.role import Delivery, Message, Outcome, Role
from streams.settings import Settings
from streams.topics import TopicNames
from streams.versions import serving_of

log = logging.getLogger(__name__)

PAYLOAD = frozenset(Offer.model_fields)
PURGE_EVERY_S = 600.0
AGAIN_S = 5.0  # an offer that comes so long after its change was published again: nobody waited for it
AWAITED_MAX = 10_000  # products whose vectors are timed from their offer
FORGOTTEN_S = 3_600.0  # a mark of a forgotten user is kept for so long: no record of her is an hour late


@dataclass(frozen=True, slots=True)
class NoOffer:
    """The product was deleted."""

    product_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class NoVectors:
    """What an encoder read of the product is gone."""

    product_id: str
    content_revision: int


OfferEvent = OfferPoint | NoOffer
VectorEvent = VectorPoint | NoVectors
UserEvent = UserPoint | ForgottenUser
Event = OfferEvent | VectorEvent | UserEvent


class IndexRole(Role[Event]):
    """Writer of the vector store."""

    name = "index"
    every_s = PURGE_EVERY_S

    def __init__(
        self,
        settings: Settings,
        names: TopicNames,
        vectors: VectorStore,
        fingerprint: str,
        widths: Mapping[str, int],
        factors: int,
        *,
        with_users: bool = True,
    ) -> None:
        """factors: F, of the users' embeddings that are kept; with_users: by this one, not by another version's."""
        self.topics = (names.product_index, names.product_vectors)
        if with_users:
            self.topics = (*self.topics, names.user_embeddings)
        self._with_users = with_users
        self._names = names
        self._active_s = settings.active_s
        self._factors = factors
        self._other_factors = 0
        self._vectors = vectors
        self._fingerprint = fingerprint
        self._widths = widths
        self._offer_latencies, self._vector_latencies = Latencies(), Latencies()
        self._awaited: dict[tuple[str, int], float] = {}  # product and content revision -> when the product changed

    async def start(self) -> None:
        """The encoder's collection and that of the users exist. Raises StoreUnavailable."""
        await asyncio.to_thread(self._vectors.ensure, self._fingerprint, self._widths)
        await asyncio.to_thread(self._vectors.ensure_users, self._factors)

    def parse(self, message: Message) -> Event:
        if message.topic == self._names.product_index:
            return _parse_offer(message)
        if message.topic == self._names.user_embeddings:
            return self._parse_user(message)
        return self._parse_vectors(message)

    def compute(self, batch: Sequence[Delivery[Event]], prepared: Any) -> Outcome:  # noqa: ARG002
        """One commit that writes the last state of each product in the batch, and users as they come; nothing is
        published."""
        offers: dict[str, OfferEvent] = {}
        vectors: dict[str, VectorEvent] = {}
        users: list[UserEvent] = []
        changed: dict[tuple[str, int], float] = {}
        for message, event in batch:
            if isinstance(event, OfferPoint) and message.at - event.payload["changed_at"] < AGAIN_S:
                changed[event.product_id, event.revision] = event.payload["changed_at"]
            if isinstance(event, UserPoint | ForgottenUser):
                users.append(event)
            elif isinstance(event, OfferPoint | NoOffer):
                known = offers.get(event.product_id)
                if known is None or event.revision >= known.revision:
                    offers[event.product_id] = event
            else:
                before = vectors.get(event.product_id)
                if before is None or event.content_revision >= before.content_revision:
                    vectors[event.product_id] = event

        def commit() -> None:
            self._write_users(users)
            self._write_products(list(offers.values()), list(vectors.values()))
            self._observe(changed, list(vectors.values()), time.time())

        return Outcome(commit=commit)

    def tick(self) -> Outcome:
        """Users who were not active for too long leave, and so do marks of those who were forgotten."""
        return Outcome(commit=lambda: self._vectors.purge_users(time.time())) if self._with_users else Outcome()

    def details(self) -> dict[str, float | int | str]:
        return {
            "fingerprint": self._fingerprint,
            "embeddings_of_other_factors": self._other_factors,
            **self._offer_latencies.details("product_to_offer"),
            **self._vector_latencies.details("product_to_vectors"),
        }

    def _observe(self, changed: Mapping[tuple[str, int], float], vectors: Sequence[VectorEvent], now: float) -> None:
        """How long it took from the change of a product until its offer, and its new content, can be retrieved.

        changed  by product and revision. Where the content changed, the content's revision is that; vectors of others
                 came before, or answer no change.
        """
        self._offer_latencies.add(changed.values(), now)
        self._awaited |= changed
        encoded = [(one.product_id, one.content_revision) for one in vectors if isinstance(one, VectorPoint)]
        self._vector_latencies.add([self._awaited.pop(one) for one in encoded if one in self._awaited], now)
        for oldest in list(self._awaited)[: max(0, len(self._awaited) - AWAITED_MAX)]:
            del self._awaited[oldest]

    def _write_users(self, users: Sequence[UserEvent]) -> None:
        """Embeddings of another number of factors come from a worker of another version: they are left out."""
        fitting = [user for user in users if isinstance(user, ForgottenUser) or user.embedding.size == self._factors]
        self._other_factors += len(users) - len(fitting)
        if fitting:
            self._vectors.put_users(fitting)

    def _write_products(self, offers: Sequence[OfferEvent], vectors: Sequence[VectorEvent]) -> None:
        """Removes come first: a removed product takes its vectors along, but not those of its return."""
        store, own = self._vectors, self._fingerprint
        store.remove([(event.product_id, event.revision) for event in offers if isinstance(event, NoOffer)], own)
        store.put_offers([event for event in offers if isinstance(event, OfferPoint)], own)
        store.put_vectors([event for event in vectors if isinstance(event, VectorPoint)], own)
        gone = [(event.product_id, event.content_revision) for event in vectors if isinstance(event, NoVectors)]
        store.remove_vectors(gone, own)

    def _parse_user(self, message: Message) -> UserEvent:
        if message.value is None:
            return ForgottenUser(*parse_gone(message.key, message.headers), time.time() + FORGOTTEN_S)
        record: UserEmbedding = parse(UserEmbedding, message.value)
        expires_at = record.active_at + self._active_s
        return UserPoint(record.user_id, record.revision, record.epoch, unpack_vector(record.embedding), expires_at)

    def _parse_vectors(self, message: Message) -> VectorEvent:
        if message.value is None:
            return NoVectors(*parse_gone(message.key, message.headers))
        record: ProductVectors = parse(ProductVectors, message.value)
        packed = {name: getattr(record, name) for name in VECTOR_NAMES}
        vectors = {name: unpack_vector(text) for name, text in packed.items() if text is not None}
        for name, vector in vectors.items():
            if vector.size != (width := self._widths[name]):
                raise BadEvent(f"the {name} vector has {vector.size} values, {width} are needed: encode it again")
        return VectorPoint(record.product_id, record.content_revision, vectors)


def align(store: VectorStore, versions: Sequence[EncoderVersion]) -> bool:
    """Readers see the version that serves, and what was removed is gone; False if it is to be tried again.

    A command that switches moves the alias itself: this is for one that died before it could.
    """
    serving = serving_of(list(versions))
    if serving is None or serving.state != "serving":  # of a switch, one of the two records has come
        return False
    try:
        if store.serving() != serving.fingerprint:
            store.switch(serving.fingerprint)
        for version in versions:
            if version.state == "removed":
                store.drop(version.fingerprint)
    except ValueError as not_yet:
        log.info("vectors are not aligned yet reason=%s", not_yet)
        return False
    return True


def _parse_offer(message: Message) -> OfferEvent:
    if message.value is None:
        return NoOffer(*parse_gone(message.key, message.headers))
    offer: Offer = parse(Offer, message.value)
    payload = offer.model_dump(mode="json", include=set(PAYLOAD))
    return OfferPoint(offer.product_id, offer.revision, payload)
