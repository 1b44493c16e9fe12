"""Lists that no click asked for: retractions and pushes, made in small portions between the batches of clicks.

The order of what waits: records of what was withdrawn, what the topic tells of the users after an assignment, pushes,
whole lists for those who have only a record, and then the embeddings of users for look-alikes.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence

import numpy as np
import orjson

from store.history import History
from store.records import UserRow
from store.users import UserStore
from streams.audience import Audience
from streams.broker import Broker, Outgoing
from streams.events import BadEvent, RecommendationList
from streams.experiment_ranking import ExperimentRanker
from streams.last_lists import FoundList, LastLists
from streams.like_minded import LikeMinded
from streams.lists import PROFILE_CLICKS, Cause, MadeList, made_list
from streams.parsing import parse
from streams.push import Push
from streams.retraction import Retraction
from streams.role import Assignment, Outcome
from streams.settings import Settings
from streams.shelf import Shelf
from streams.topics import TopicNames
from streams.user_embeddings import UserEmbeddings

log = logging.getLogger(__name__)

# A portion takes some ten milliseconds, and that is the longest that a click waits for it.
RECORDS_AT_ONCE = 128
LISTS_AT_ONCE = 24
FOUND_AT_ONCE = 64
READ_BACK_PER_USER = 2  # records of the topic that are read after an assignment, per user that has room
LEAVE_EVERY_S = 60.0  # who was not active for too long leaves within this


class UnaskedLists:
    """The audience of one clicks worker, and what it is to get. All but `stop` and `details` in the role's thread."""

    def __init__(
        self,
        settings: Settings,
        names: TopicNames,
        users: UserStore,
        shelf: Shelf,
        ranker: ExperimentRanker,
        broker: Broker,
    ) -> None:
        s = settings
        self._most = s.active_users_max
        self._active_s = s.active_s
        self._names = names
        self._users = users
        self._shelf = shelf
        self._ranker = ranker
        self._audience = Audience(shelf, most=self._most, active_s=s.active_s, length=s.list_length)
        self.like_minded = LikeMinded(shelf, self._audience)
        self._retraction = Retraction(shelf, self._audience, ranker.experiment_of)
        self._push = Push(shelf, self._audience, users=s.push_users, per_s=s.push_per_s, every_s=s.push_every_s)
        self._last_lists = LastLists(
            broker,
            lists=names.recommendations,
            clicks=names.user_clicks,
            window_s=s.active_s,
            most=READ_BACK_PER_USER * self._most,
        )
        self._embeddings = UserEmbeddings(names.user_embeddings, users, per_s=s.embeddings_per_s, most=self._most)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._assignment: Assignment | None = None
        self._left_at = 0.0
        self._counts = {"retracted": 0, "refreshed": 0, "pushed": 0, "push_in_vain": 0, "read_back": 0}

    async def start(self) -> None:
        """What is on the shelf by now is not news."""
        self._loop = asyncio.get_running_loop()
        self._push.start()

    async def stop(self) -> None:
        await self._last_lists.stop()

    # --- what the clicks lead to ---------------------------------------------------------------------------------

    def note(self, lists: Sequence[MadeList], forgotten: Collection[str], now: float) -> None:
        """These lists were published for clicks, and these users were forgotten before."""
        if self._most:
            self._audience.drop(forgotten)
            self._audience.note(lists, active_at=[now] * len(lists))
            self.like_minded.note(lists)
            self._embeddings.drop(forgotten)
            self._embeddings.note([made.user_id for made in lists], now)

    # --- portions ------------------------------------------------------------------------------------------------

    def portion(self, assignment: Assignment) -> Outcome | None:
        """What is to be published next, or None. Raises StoreUnavailable."""
        if not self._most:
            return None
        now = time.time()
        self._last_lists.check()
        self._take_over(assignment, now)
        self._retraction.look()
        self._push.look(now)
        portions = (self._records, self._read_back, self._pushes, self._whole_lists, self._embeddings.portion)
        for next_portion in portions:
            outcome = next_portion(now)
            if outcome is not None:
                return outcome
        return None

    def _take_over(self, assignment: Assignment, now: float) -> None:
        """After an assignment the users of lost partitions leave, and those of won ones are read from the topic."""
        if assignment != self._assignment:
            self._assignment = assignment
            self._audience.keep_only(assignment.partitions, now=now)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._last_lists.read_back, assignment.partitions, now)
        elif now - self._left_at > LEAVE_EVERY_S:
            self._left_at = now
            self._audience.keep_only(assignment.partitions, now=now)
        else:
            self._last_lists.known(now)

    def _records(self, now: float) -> Outcome | None:
        records, looked_at = self._retraction.records(RECORDS_AT_ONCE, now)
        if not looked_at:
            return None

        def commit() -> None:
            self._audience.shorten(records)
            self._counts["retracted"] += len(records)

        return Outcome(self._messages(records), commit)

    def _pushes(self, now: float) -> Outcome | None:
        """Ranked again from the history; published if the new product is in it, else it is no news.

        What fails is not made up for: a push that is late is none.
        """
        wanted = self._push.next_users(LISTS_AT_ONCE, now)
        if not wanted:
            return Outcome() if self._push.choose(now) else None
        ranked = self._ranked(list(wanted), "push", now)
        lists = [made for made in ranked if not wanted[made.user_id].isdisjoint(made.product_ids)]

        def commit() -> None:
            self._audience.note(lists)
            self._counts["pushed"] += len(lists)
            self._counts["push_in_vain"] += len(ranked) - len(lists)

        return Outcome(self._messages(lists), commit)

    def _whole_lists(self, now: float) -> Outcome | None:
        slots = self._audience.latest(self._audience.owes_list, LISTS_AT_ONCE)
        if not slots:
            return None
        user_ids = [user_id for slot in slots if (user_id := self._audience.user_ids[slot]) is not None]
        lists = self._ranked(user_ids, "retraction", now)

        def commit() -> None:
            self._audience.note(lists)
            self._counts["refreshed"] += len(lists)

        return Outcome(self._messages(lists), commit)

    def _ranked(self, user_ids: Sequence[str], cause: Cause, now: float) -> list[MadeList]:
        """A list for each of these users from her history as it is stored; who has no row leaves."""
        rows = self._users.read(user_ids)
        audience = self._audience
        audience.drop(set(user_ids) - rows.keys())
        here = [row for user_id, row in rows.items() if user_id in audience.slots]
        histories = [History.of(row.clicks) for row in here]
        made = self._ranker.rank(histories, user_ids=[row.user_id for row in here])
        lists = []
        for row, history, ranked in zip(here, histories, made, strict=True):
            slot = audience.slots[row.user_id]
            lists.append(
                made_list(
                    ranked,
                    history,
                    user_id=row.user_id,
                    partition=int(audience.partition[slot]),
                    revision=row.revision,
                    made_at=audience.later(slot, now),
                    cause=cause,
                )
            )
        return lists

    def _messages(self, lists: Sequence[MadeList]) -> list[Outgoing]:
        epoch, sequence = self._shelf.weights_version
        return [made.message(self._names.recommendations, f"{epoch}.{sequence}") for made in lists]

    # --- after an assignment -------------------------------------------------------------------------------------

    def _read_back(self, now: float) -> Outcome | None:
        """Users that the topic tells of are here again, if they have a row still."""
        found = self._last_lists.found
        if not found:
            return None
        portion = dict(found.popitem() for _ in range(min(FOUND_AT_ONCE, len(found))))
        try:
            rows = self._users.read(portion)
        except BaseException:
            found.update(portion)
            raise
        restored = [self._restored(rows[user_id], portion[user_id], now) for user_id in portion if user_id in rows]
        kept = [made for made in restored if made is not None]
        self._audience.note(kept, active_at=[rows[made.user_id].updated_at for made in kept])
        self.like_minded.note(kept)
        self._embeddings.note([made.user_id for made in kept], now)
        self._counts["read_back"] += len(kept)
        return Outcome()

    def _restored(self, row: UserRow, found: FoundList, now: float) -> MadeList | None:
        """The user's last list; None if a newer one is known, or she is not recently active, or it is another's."""
        try:
            told: RecommendationList = parse(RecommendationList, found.value)
        except BadEvent as bad:
            log.warning("list on the topic ignored reason=%s", bad)
            return None
        made_at = told.made_at.timestamp()
        is_held = self._assignment is not None and found.partition in self._assignment.partitions
        is_active = row.updated_at > now - self._active_s
        if not (is_held and is_active and self._audience.is_newer(row.user_id, told.revision, made_at)):
            return None
        return MadeList(
            row.user_id,
            found.partition,
            told.revision,
            made_at,
            told.cause,
            orjson.dumps([item.model_dump() for item in told.items]),
            [item.product_id for item in told.items],
            None if row.embedding is None else np.frombuffer(row.embedding, "<f4"),
            History.of(row.clicks).product_ids[:PROFILE_CLICKS],
            withdrawn=told.withdrawn,
            list_id=told.list_id,
            experiment=None if told.experiment is None else told.experiment.model_dump(include={"name", "variant"}),
        )

    def details(self) -> dict[str, int]:
        """Counts since the start; who is here, and how many are owed a record or a whole list."""
        audience = self._audience
        return {
            **self._counts,
            **self._push.counts,
            "active_users": len(audience),
            "embeddings": self._embeddings.published,
            "owed_embeddings": len(self._embeddings),
            "owed_records": int(audience.owes_record.sum()),
            "owed_lists": int(audience.owes_list.sum()),
        }
