"""Dead letters are settled: published again where they stood, or dropped.

To publish an old record again is to give it the newest offset, so one that was overtaken would turn back what came
after it. Here it is decided whether it may (`Replays.why_not`), from what the rows know of later events:

- A catalogue update with `updated_at` may: the row itself decides field by field which time is later.
- One without counts as now, so it may not if the row has moved on. If the row's last update came from the letter's own
  partition, their offsets say so; else (another key, a topic made again) whether the row was changed after the letter
  was given up. An update that is in the topic, but not in its row yet, is not seen: wait until catalog has no lag.
- A click, or whatever else a person did, may: her row holds the event_ids of her last 64 (streams.clicks.EVENT_RING),
  so one that is there counts once. One that came by another way too, so many clicks ago, counts twice, and nothing can
  tell. It may not if she asked to be forgotten after it. It becomes the newest of her history, however old it is.
- What Freshet derives from a product's row may while it is what would be derived today; embeddings of users never.
- Nothing may that would be given up again at once, or that was too large to be kept whole.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kafka.errors import KafkaError

from store.letters import How, LetterStore, Place, Settled
from store.products import ProductStore
from store.records import ProductRow, source_key
from store.users import UserStore
from streams.broker import Broker, BrokerUnavailable
from streams.dead_letters import DeadLetter, kind_of, read_dead_letters, topics_with_letters
from streams.events import BadEvent, EncodeRequest, Offer, ProductPatch, ProductVectors, WrongKey
from streams.parsing import parse, parse_catalog_update, parse_click, parse_gone, parse_key
from streams.settings import Settings
from streams.topics import topic_names

ORIGIN = "replayed-from"  # header of a record that was published again: the place where it stood
CONFIRM_WITHIN_S = 30.0


class Refused(NamedTuple):
    """A letter that is not published again."""

    place: Place
    why: str


class Replayed(NamedTuple):
    """What became of some letters."""

    replayed: list[Place]
    refused: list[Refused]


class _Never(Exception):
    """It may not be published again, whoever wants it."""


class Replays:
    """Settles dead letters, in any thread. Its methods raise StoreUnavailable and BrokerUnavailable."""

    def __init__(self, settings: Settings, products: ProductStore, users: UserStore) -> None:
        self._settings = settings
        self._names = topic_names(settings, "")
        self._products = products
        self._users = users
        self._broker = Broker(settings)
        self.letters = LetterStore(products.engine)
        self._topic_ids: dict[str, str] = {}  # of now

    def topics(self) -> list[str]:
        """The topics of which dead letters are kept."""
        return topics_with_letters(self._broker, self._settings.namespace)

    def held(
        self, topics: Sequence[str], *, place: Place | None = None, reason: str | None = None
    ) -> list[tuple[DeadLetter, Settled | None]]:
        """The letters that are kept of these topics, each place once by its newest, and how it was settled.

        reason  as kind_of has it, or how the reasons begin
        """
        settled = self.letters.settled()
        newest: dict[Place, DeadLetter] = {}
        for letter in self._kept([place.topic] if place else topics):
            if _fits(letter, reason) and place in (None, letter.place):
                newest.pop(letter.place, None)
                newest[letter.place] = letter  # in the order in which they were given up
        return [(letter, settlement_of(letter.place, letter.given_up_at, settled)) for letter in newest.values()]

    def first_open(
        self, topics: Sequence[str], *, reason: str | None, most: int
    ) -> tuple[list[tuple[DeadLetter, Settled | None]], int]:
        """The first `most` letters of these topics that are open, as `held` has them, and how many more there are; of
        those nothing is kept in memory but the place."""
        first, _, left = self._first(topics, reason, most, lambda _: None)
        return [(letter, None) for letter in first], left

    def replay_first(
        self, topics: Sequence[str], *, reason: str | None, most: int, anyway: bool = False
    ) -> tuple[Replayed, int]:
        """As `replay`, of the first `most` open letters of these topics that may be; and how many open ones it did not
        come to. Those that may not be stand in nobody's way."""
        self._topic_ids = {}
        first, refused, left = self._first(
            topics, reason, most, lambda letter: self.why_not(letter, None, anyway=anyway)
        )
        self._publish(first)
        return Replayed([letter.place for letter in first], refused), left

    def replay(self, held: Sequence[tuple[DeadLetter, Settled | None]], *, anyway: bool = False) -> Replayed:
        """Those that may be are on their topic again, confirmed by the broker, and settled; the others are told why
        not. anyway: also those that were settled, that turn something back, or that will be given up again."""
        self._topic_ids = {}
        chosen: list[DeadLetter] = []
        refused: list[Refused] = []
        for letter, settled in held:
            why = self.why_not(letter, settled, anyway=anyway)
            if why is None:
                chosen.append(letter)
            else:
                refused.append(Refused(letter.place, why))
        self._publish(chosen)
        return Replayed([letter.place for letter in chosen], refused)

    def drop(self, held: Iterable[tuple[DeadLetter, Settled | None]]) -> list[Place]:
        """They are settled, and nothing is published."""
        opened = [letter for letter, settled in held if settled is None]
        self._settle(opened, "dropped")
        return [letter.place for letter in opened]

    def why_not(self, letter: DeadLetter, settled: Settled | None, *, anyway: bool = False) -> str | None:
        """Why this letter is not to be published again; None: it may be."""
        try:
            if letter.is_cut:
                raise _Never("it was too large to be kept whole: publish the record from where it came from")
            why = self._why_not_its_content(letter)
        except _Never as never:
            return str(never)
        except WrongKey as wrong:
            why = f"its key is {letter.key!r}, and {wrong}: publish it with that key"
        except BadEvent as bad:
            why = f"it would be given up again: {bad}"
        if settled is not None:
            why = f"it was {settled.how} before"
        return None if anyway or why is None else f"{why}; `anyway` publishes it all the same"

    def _kept(self, topics: Sequence[str]) -> Iterator[DeadLetter]:
        """Those given up less than topic_retention_days ago: brokers keep some for longer, what settled them is not."""
        since = time.time() - self._settings.topic_retention_days * 86_400
        return (letter for letter in read_dead_letters(self._broker, list(topics)) if letter.given_up_at > since)

    def _first(
        self, topics: Sequence[str], reason: str | None, most: int, why_not: Callable[[DeadLetter], str | None]
    ) -> tuple[list[DeadLetter], list[Refused], int]:
        """The first `most` open letters that may be, those that may not be, and how many it did not come to."""
        settled = self.letters.settled()
        first: dict[Place, DeadLetter] = {}
        refused: dict[Place, Refused] = {}
        others: set[Place] = set()
        for letter in self._kept(topics):
            place = letter.place
            if not _fits(letter, reason) or settlement_of(place, letter.given_up_at, settled) is not None:
                continue
            is_known = place in first or place in refused  # it was given up again
            if not is_known and (len(first) >= most or place in others):
                others.add(place)
            elif why := why_not(letter):
                refused[place] = Refused(place, why)
                first.pop(place, None)
            else:
                first[place] = letter
                refused.pop(place, None)
        return [*first.values()], [*refused.values()], len(others)

    # --- what the rows know --------------------------------------------------------------------------------------

    def _why_not_its_content(self, letter: DeadLetter) -> str | None:
        """Raises BadEvent, WrongKey, _Never."""
        names = self._names
        if letter.topic == names.catalog_updates:
            return self._why_not_an_update(letter)
        if letter.topic == names.user_clicks:
            return self._why_not_a_click(letter)
        if letter.topic == names.user_embeddings:
            raise _Never("her next click makes a newer one, and she may have been forgotten since: drop it")
        if letter.topic == names.product_index:
            return self._why_not_an_offer(letter)
        return self._why_not_a_content(letter)

    def _why_not_an_update(self, letter: DeadLetter) -> str | None:
        update = parse_catalog_update(letter.key, letter.value)
        limit_s = self._settings.future_limit_s
        if update.updated_at and (ahead_s := update.updated_at.timestamp() - time.time()) > limit_s:
            return f"its updated_at is still {ahead_s:.0f} s ahead, the limit is {limit_s:.0f} s: wait, or drop it"
        row = self._row(update.product_id)
        if isinstance(update, ProductPatch) and (row is None or row.deleted):
            return f"product {update.product_id!r} is still unknown: publish an upsert first"
        if update.updated_at is not None or row is None or not self._has_moved_on(row, letter):
            return None
        return (
            f"product {update.product_id!r} was updated since, and an update without updated_at would turn it back: "
            "publish what you want of it anew, or drop this"
        )

    def _has_moved_on(self, row: ProductRow, letter: DeadLetter) -> bool:
        """True if the row holds an update that came after this letter's record."""
        if letter.topic not in self._topic_ids:
            self._topic_ids |= self._broker.topic_ids([letter.topic])
        topic_id = self._topic_ids.get(letter.topic)
        if topic_id is not None and topic_id == letter.topic_id:
            fed_by = [source for source in row.offsets if source.rpartition("/")[0] == topic_id]  # the last one last
            own = source_key(topic_id, letter.partition)
            if fed_by and fed_by[-1] == own:
                return row.offsets[own] > letter.offset
        return row.changed_at > letter.given_up_at

    def _why_not_a_click(self, letter: DeadLetter) -> str | None:
        parse_click(letter.key, letter.value, future_limit_s=self._settings.future_limit_s)
        if letter.value is None:
            return None  # a wish to be forgotten is never too late
        user_id = parse_key(letter.key)
        mark = self._users.marks([user_id]).get(user_id)
        if mark is None:
            return None
        at = mark.offsets.get(source_key(letter.topic_id or "", letter.partition))
        if at is None or at > letter.offset:
            raise _Never("she asked to be forgotten since: drop it")
        return None

    def _why_not_an_offer(self, letter: DeadLetter) -> str | None:
        if letter.value is None:
            gone = parse_gone(letter.key, letter.headers)
            row = self._row(gone.product_id)
            is_old = row is not None and row.revision > gone.revision
        else:
            offer: Offer = parse(Offer, letter.value)
            row = self._row(offer.product_id)
            is_old = row is None or row.changed_at > offer.changed_at
        return "a newer offer of this product was published since: drop it" if is_old else None

    def _why_not_a_content(self, letter: DeadLetter) -> str | None:
        """encode-requests and product-vectors."""
        has_picture = True
        if letter.value is None:
            product_id, revision = parse_gone(letter.key, letter.headers)
        elif letter.topic == self._names.encode_requests:
            request: EncodeRequest = parse(EncodeRequest, letter.value)
            product_id, revision = request.product_id, request.content_revision
        else:
            vectors: ProductVectors = parse(ProductVectors, letter.value)
            product_id, revision = vectors.product_id, vectors.content_revision
            has_picture = vectors.image is not None
        row = self._row(product_id)
        is_old = letter.value is not None if row is None else row.content_revision > revision
        if is_old or (row is not None and row.image_state == "encoded" and not has_picture):
            return "the product has other content by now, or its picture was found since: drop it"
        return None

    def _row(self, product_id: str) -> ProductRow | None:
        return self._products.read([product_id]).get(product_id)

    # --- publishing ----------------------------------------------------------------------------------------------

    def _publish(self, letters: Sequence[DeadLetter]) -> None:
        """Confirmed, and settled as far as they are. Raises BrokerUnavailable, which says how many are."""
        if not letters:
            return
        sent: list[tuple[DeadLetter, Any]] = []
        confirmed: list[DeadLetter] = []
        failure: KafkaError | None = None
        producer = self._broker.sync_producer()
        deadline = time.monotonic() + CONFIRM_WITHIN_S
        try:
            try:
                for letter in letters:
                    made = producer.send(letter.topic, key=letter.key, value=letter.value, headers=_headers(letter))
                    sent.append((letter, made))
            except KafkaError as error:
                failure = error  # what was sent before may be confirmed all the same
            for letter, confirmation in sent:
                try:
                    confirmation.get(max(0.0, deadline - time.monotonic()))
                    confirmed.append(letter)
                except KafkaError as error:
                    failure = failure or error
        finally:
            producer.close(timeout=1.0)
            self._settle(confirmed, "replayed")
        if failure is not None:
            raise BrokerUnavailable(
                f"{len(confirmed)} of {len(letters)} letters were confirmed, and are settled: {failure!r}; try again"
            ) from failure

    def _settle(self, letters: Iterable[DeadLetter], how: How) -> None:
        settled = {letter.place: letter.given_up_at for letter in letters}
        kept_s = self._settings.topic_retention_days * 86_400
        self.letters.settle(settled, how, now=time.time(), kept_s=kept_s)


def settlement_of(place: Place, given_up_at: float, settled: Mapping[Place, Settled]) -> Settled | None:
    """How a letter that was given up then is settled; None: it is open."""
    found = settled.get(place)
    return found if found is not None and given_up_at <= found.given_up_at else None


def place_of(text: str) -> Place:
    """The place that topic/partition/offset names. Raises ValueError."""
    topic, _, rest = text.partition("/")
    partition, _, offset = rest.partition("/")
    if not (topic and partition.isdecimal() and offset.isdecimal()):
        raise ValueError(f"{text!r} names no place: write it as the list does, topic/partition/offset")
    return Place(topic, int(partition), int(offset))


def _fits(letter: DeadLetter, reason: str | None) -> bool:
    return reason is None or kind_of(letter.reason) == reason or letter.reason.startswith(reason)


def _headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    others = [(name, text) for name, text in letter.headers if name != ORIGIN]
    return [*others, (ORIGIN, str(letter.place).encode())]
