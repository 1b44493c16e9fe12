"""Path 3: a click becomes the user's history, her embedding and her list; and an example for the learner.

One list per user and batch, which names every event it answers. A click that was applied before (a replay) changes
nothing: the list is made again from the row as it is, because nobody knows whether the first one was published. The
clicks of a visitor who turned out to be the user join her history, and make no examples: they were learned when they
came.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from encoders.ranking_features import JUST_LOOKED_AT
from store.history import History
from store.records import Click, UserRow, source_key
from store.users import Forgotten, UserStore
from streams.broker import Broker, Outgoing
from streams.compiling import compile_ranking
from streams.events import UserClick, UserEvent, UserIdentified
from streams.experiment_counts import ExperimentCounts
from streams.experiment_ranking import ExperimentRanker, Listed
from streams.experiments import RunningExperiment
from streams.latencies import Latencies
from streams.lists import MadeList, made_list
from streams.parsing import parse_click, parse_key
from streams.replicas import Replica
from streams.role import Assignment, Delivery, Message, Outcome, Role
from streams.served_vectors import ServedVectors
from streams.settings import Settings
from streams.shelf import Shelf
from streams.topics import TopicNames
from streams.tracing import NO_TRACING, Tracing
from streams.unasked import UnaskedLists
from streams.user_embeddings import forgotten_record

EVENT_RING = 64  # event ids kept of a user: a publisher's duplicate within so many clicks is known
PURGE_EVERY_S = 3_600.0
ASIDE_EVERY_S = 0.05  # a share of the second in which a retraction is out
EXAMPLE_CLICKS = 50  # history that an example carries: what the model reads


@dataclass
class _User:
    """One user's part of a batch."""

    user_id: str
    row: UserRow | None
    offsets: dict[str, int]
    revision: int  # of the row as it is stored
    history: History
    event_ids: list[str]  # ring, newest first
    partition: int = 0  # of user-clicks
    changed: bool = False
    answers: list[str] = field(default_factory=list)  # events that the list answers
    segment: str | None = None  # of the newest of them
    examples: list[Outgoing] = field(default_factory=list)
    forgotten: Forgotten | None = None


class ClicksRole(Role[UserEvent | None]):
    """user-clicks to users, recommendations and training-examples."""

    name = "clicks"
    urgent = True
    every_s = PURGE_EVERY_S
    aside_every_s = ASIDE_EVERY_S

    def __init__(
        self,
        settings: Settings,
        names: TopicNames,
        broker: Broker,
        users: UserStore,
        shelf: Shelf,
        replica: Replica | ServedVectors,
        experiment: RunningExperiment | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        """experiment: filled by the replica; None: there never is one."""
        self.topics = (names.user_clicks,)
        self._settings = settings
        self._names = names
        self._users = users
        self._shelf = shelf
        self._replica = replica
        self._tracing = tracing
        self._ranker = ExperimentRanker(shelf, settings, experiment, explores=True)
        self._unasked = UnaskedLists(settings, names, users, shelf, self._ranker, broker)
        self._ranker.tell_of_others(self._unasked.like_minded.count)
        self._counts = {"lists": 0, "duplicates": 0, "replays": 0, "forgotten": 0, "not_learned": 0, "identified": 0}
        self._click_to_list = Latencies()

    async def start(self) -> None:
        """The replicas have read to the end before the first click is handled."""
        await asyncio.to_thread(compile_ranking)
        await self._replica.start()
        await self._unasked.start()

    async def stop(self) -> None:
        await self._unasked.stop()
        await self._replica.stop()

    def parse(self, message: Message) -> UserEvent | None:
        """None: forget the user of the key."""
        return parse_click(message.key, message.value, future_limit_s=self._settings.future_limit_s)

    def compute(self, batch: Sequence[Delivery[UserEvent | None]], prepared: object) -> Outcome:  # noqa: ARG002
        """Histories as they are after the batch, examples, lists; the rows are written by the commit."""
        self._replica.check()
        now = time.time()
        trace = self._tracing.batch(self.name, [message for message, _ in batch])
        trace.begin("read users")
        users = self._read_users({_user_id(delivery) for delivery in batch})
        counts = ExperimentCounts(self._ranker.trial)
        for delivery in batch:
            self._apply(users[_user_id(delivery)], delivery, now, counts)
        trace.begin("rank")
        ranked = self._rank([user for user in users.values() if user.answers])
        rows = [self._row(user, ranked, now) for user in users.values() if user.changed]
        counts.note_lists(ranked, [row.user_id for row in rows])
        wishes = [user.forgotten for user in users.values() if user.forgotten]
        lists = [self._list(users[user_id], made, now) for user_id, made in ranked.items()]
        self._counts["lists"] += len(lists)
        answered = [message.at for message, click in batch if click and click.event_id in users[click.user_id].answers]

        def commit() -> None:
            trace.begin("commit")
            self._click_to_list.add(answered, time.time())  # the lists are confirmed by now
            self._users.write(rows, wishes, counts.all())
            self._unasked.note(lists, [wish.user_id for wish in wishes], now)
            trace.end()

        publish = [example for user in users.values() for example in user.examples]
        version = self._weights_version()
        carried = {_user_id(delivery): trace.carried(place) for place, delivery in enumerate(batch)}  # of the newest
        publish += [made.message(self._names.recommendations, version, carried[made.user_id]) for made in lists]
        forgotten = [(wish.user_id, users[wish.user_id].revision) for wish in wishes]
        publish += [forgotten_record(self._names.user_embeddings, *user) for user in forgotten]
        trace.begin("publish")
        return Outcome(publish, commit)

    def aside(self, assignment: Assignment) -> Outcome | None:
        """Retractions, pushes, and embeddings for look-alikes."""
        self._replica.check()
        return self._unasked.portion(assignment)

    def tick(self) -> Outcome:
        """Marks of forgotten users are kept as long as the clicks that might bring them back."""
        self._users.purge_forgotten(time.time() - self._settings.topic_retention_days * 86_400)
        return Outcome()

    # --- state ---------------------------------------------------------------------------------------------------

    def _read_users(self, user_ids: set[str]) -> dict[str, _User]:
        rows = self._users.read(user_ids)
        marks = self._users.marks(missing) if (missing := user_ids - rows.keys()) else {}
        users = {}
        for user_id in user_ids:
            row, mark = rows.get(user_id), marks.get(user_id)
            if row is not None:
                history = History.of(row.clicks)
                users[user_id] = _User(
                    user_id, row, dict(row.offsets), row.revision, history, list(row.recent_event_ids)
                )
            else:
                offsets, revision = (dict(mark.offsets), mark.revision) if mark else ({}, 0)
                users[user_id] = _User(user_id, None, offsets, revision, History.of(()), [])
        return users

    def _apply(self, user: _User, delivery: Delivery[UserEvent | None], now: float, counts: ExperimentCounts) -> None:
        message, event = delivery
        user.partition = message.partition
        source = source_key(message.topic_id, message.partition)
        is_replay = message.offset <= user.offsets.get(source, -1)
        user.offsets[source] = max(message.offset, user.offsets.get(source, -1))
        if event is None:
            if not is_replay:
                self._forget(user, source, message.offset, now)
                counts.forget(user.user_id)
            return
        if is_replay:
            self._counts["replays"] += 1
            if user.row is not None:  # a forgotten user gets no list for a click from before
                self._answer(user, event, now)
            return
        user.changed = True
        if event.event_id in user.event_ids:
            self._counts["duplicates"] += 1
            return
        user.event_ids = [event.event_id, *user.event_ids][:EVENT_RING]
        if isinstance(event, UserIdentified):
            self._merge(user, event)
        else:
            self._add(user, message, event)
            counts.note_click(event)
        self._answer(user, event, now)

    def _merge(self, user: _User, identified: UserIdentified) -> None:
        self._counts["identified"] += 1
        clicks = [Click(past.product_id, past.event, past.occurred_at.timestamp()) for past in identified.clicks]
        user.history = user.history.merged_with(clicks, self._settings.history_clicks)

    def _add(self, user: _User, message: Message, click: UserClick) -> None:
        """The click is the newest of the history, and an example unless the user clicks too fast."""
        occurred_at = click.occurred_at.timestamp()
        if self._is_learned(user.history, occurred_at):
            user.examples.append(self._example(user.history, message, click, occurred_at))
        else:
            self._counts["not_learned"] += 1
        newest = Click(click.product_id, click.event, occurred_at)
        user.history = user.history.with_newest((newest,), self._settings.history_clicks)

    def _forget(self, user: _User, source: str, offset: int, now: float) -> None:
        """Nothing of the user is left: neither the row nor what this batch has gathered of her so far."""
        self._counts["forgotten"] += 1
        user.forgotten = Forgotten(user.user_id, source, offset, now)
        user.row, user.history, user.event_ids = None, History.of(()), []
        user.changed, user.answers = False, []

    def _answer(self, user: _User, event: UserEvent, now: float) -> None:
        limit_s = self._settings.list_max_age_s
        if limit_s is None or now - event.occurred_at.timestamp() <= limit_s:
            user.answers.append(event.event_id)
            if isinstance(event, UserClick):
                user.segment = event.segment

    def _is_learned(self, history: History, occurred_at: float) -> bool:
        """False beyond the cap of clicks that a user may have learned in a minute."""
        cap = self._settings.learn_clicks_per_minute
        return len(history) < cap or occurred_at - float(history.times[cap - 1]) >= 60.0

    # --- what is published ---------------------------------------------------------------------------------------

    def _rank(self, users: list[_User]) -> dict[str, Listed]:
        user_ids = [user.user_id for user in users]
        segments = [user.segment for user in users]
        histories = [user.history for user in users]
        ranked = self._ranker.rank(histories, user_ids=user_ids, segments=segments, explores=True)
        return {user.user_id: made for user, made in zip(users, ranked, strict=True)}

    def _row(self, user: _User, ranked: dict[str, Listed], now: float) -> UserRow:
        made = ranked.get(user.user_id)
        embedding = made.embedding if made else None
        return UserRow(
            user_id=user.user_id,
            revision=user.revision + 1,
            clicks=user.history,
            recent_event_ids=tuple(user.event_ids),
            offsets=user.offsets,
            embedding=embedding.astype("<f4").tobytes() if embedding is not None else None,
            embedding_version=self._weights_version() if embedding is not None else "",
            updated_at=now,
        )

    def _weights_version(self) -> str:
        epoch, sequence = self._shelf.weights_version
        return f"{epoch}.{sequence}"

    def _list(self, user: _User, made: Listed, now: float) -> MadeList:
        return made_list(
            made,
            user.history,
            user_id=user.user_id,
            partition=user.partition,
            revision=user.revision + user.changed,
            made_at=now,
            cause="click",
            event_ids=user.answers,
        )

    def _example(self, history: History, message: Message, click: UserClick, occurred_at: float) -> Outgoing:
        ages_s = np.maximum(occurred_at - history.times[:EXAMPLE_CLICKS], 0.0).tolist()
        seen = self._ranker.seen(history)
        value = {
            "topic_id": message.topic_id,
            "partition": message.partition,
            "offset": message.offset,
            "product_id": click.product_id,
            "event": click.event,
            "occurred_at": occurred_at,
            "eligible": click.product_id not in seen.union(history.product_ids[:JUST_LOOKED_AT]),
            "history": [
                {"product_id": product_id, "age_s": age_s, "seen": product_id in seen}
                for product_id, age_s in zip(history.product_ids[:EXAMPLE_CLICKS], ages_s, strict=True)
            ],
        }
        if click.segment is not None:
            value["segment"] = click.segment
        return Outgoing(self._names.training_examples, None, orjson.dumps(value), (), message.partition)

    def details(self) -> dict[str, float | int | str]:
        """Counts since the start, the size of the shelf, and what the recently active users are owed."""
        products = int(self._shelf.listable.sum())
        facts: dict[str, float | int | str] = {
            **self._counts,
            "products": products,
            "explored": self._ranker.explored,
            "replica_malformed": self._replica.malformed,
            **self._click_to_list.details("click_to_list"),
            **self._unasked.details(),
        }
        return facts


def _user_id(delivery: Delivery[UserEvent | None]) -> str:
    return delivery.event.user_id if delivery.event is not None else parse_key(delivery.message.key)
