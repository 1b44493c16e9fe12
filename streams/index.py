"""Keeps the vector store equal to product-index and product-vectors; the store's only writer.

Offers and vectors of a product come in any order and never wait for each other. Every write carries its revision, so a
batch that is run again, or a record written late, changes nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from store.vectors import VECTOR_NAMES, OfferPoint, VectorPoint, VectorStore
from streams.events import (
    BadEvent,
    Offer,
    ProductVectors,
    unpack_vector,
)
from streams.parsing import parse, parse_gone
from streams.role import Delivery, Message, Outcome, Role
from streams.settings import Settings
from streams.topics import TopicNames

PAYLOAD = frozenset(Offer.model_fields)


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
Event = OfferEvent | VectorEvent


class IndexRole(Role[Event]):
    """Writer of the vector store."""

    name = "index"

    def __init__(
        self,
        settings: Settings,  # noqa: ARG002
        names: TopicNames,
        vectors: VectorStore,
        fingerprint: str,
        widths: Mapping[str, int],
    ) -> None:
        self.topics = (names.product_index, names.product_vectors)
        self._offers_topic = names.product_index
        self._vectors = vectors
        self._fingerprint = fingerprint
        self._widths = widths

    async def start(self) -> None:
        """The encoder's collection exists. Raises StoreUnavailable."""
        await asyncio.to_thread(self._vectors.ensure, self._fingerprint, self._widths)

    def parse(self, message: Message) -> Event:
        if message.topic == self._offers_topic:
            return _parse_offer(message)
        return self._parse_vectors(message)

    def compute(self, batch: Sequence[Delivery[Event]], prepared: Any) -> Outcome:  # noqa: ARG002
        """One commit that writes the last state of each product in the batch; nothing is published."""
        offers: dict[str, OfferEvent] = {}
        vectors: dict[str, VectorEvent] = {}
        for _, event in batch:
            if isinstance(event, OfferPoint | NoOffer):
                known = offers.get(event.product_id)
                if known is None or event.revision >= known.revision:
                    offers[event.product_id] = event
            else:
                before = vectors.get(event.product_id)
                if before is None or event.content_revision >= before.content_revision:
                    vectors[event.product_id] = event
        return Outcome(commit=lambda: self._write(list(offers.values()), list(vectors.values())))

    def details(self) -> dict[str, float | int | str]:
        return {"fingerprint": self._fingerprint}

    def _write(self, offers: Sequence[OfferEvent], vectors: Sequence[VectorEvent]) -> None:
        """Removes come first: a removed product takes its vectors along, but not those of its return."""
        store = self._vectors
        store.remove([(event.product_id, event.revision) for event in offers if isinstance(event, NoOffer)])
        store.put_offers([event for event in offers if isinstance(event, OfferPoint)])
        store.put_vectors([event for event in vectors if isinstance(event, VectorPoint)])
        gone = [(event.product_id, event.content_revision) for event in vectors if isinstance(event, NoVectors)]
        store.remove_vectors(gone)

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


def _parse_offer(message: Message) -> OfferEvent:
    if message.value is None:
        return NoOffer(*parse_gone(message.key, message.headers))
    offer: Offer = parse(Offer, message.value)
    payload = offer.model_dump(mode="json", include=set(PAYLOAD))
    return OfferPoint(offer.product_id, offer.revision, payload)
