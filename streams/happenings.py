"""What just happened in the shop, for those who look on: clicks and their lists, products that came, sold out and are
back, workers that stopped and started.

Clicks and lists come from their topics, products from the shelf, workers from the status board. Whoever looks on too
slowly misses the oldest. While nobody does, no record is parsed here; once somebody does, each is, and what none of
those who look on may see is dropped at once.
"""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import aiokafka
import orjson

from streams.queued_stream import QueuedStream, TooManyStreams, require_share
from streams.shelf import Shelf
from streams.status import ALIVE_S, StatusBoard
from streams.tail import Tail

LOOK_EVERY_S = 0.1
LOOK_EVERY_IDLE_S = 1.0  # while nobody looks on
STREAMS_MAX = 100
STREAMS_OF_KEY_MAX = 20  # so that a key which many pages share leaves some to the operator's
KEPT = 200  # happenings of a stream that nobody has read yet
CLICKS_KEPT = 10_000  # whose lists have not come
NEW_WITHIN_S = 3_600.0  # a product whose vectors come later was encoded again, and is not new
OF_CLICK = ("event_id", "user_id", "product_id", "event")
Happening = dict[str, Any]


class HappeningStream(QueuedStream[Happening]):
    """What happens from now on, as one who looks on may see it."""

    def __init__(
        self, happenings: "Happenings", user: str | None, key_id: str | None, *, sees_all: bool, names_users: bool
    ) -> None:
        """As Happenings.open makes it."""
        super().__init__(KEPT, lambda: happenings.drop(self), key_id)
        self.user = user
        self.sees_all = sees_all
        self._names_users = names_users
        self._shortened = happenings.shortened

    def put(self, happening: Happening) -> bool:
        """It happened, and is told if it is for these eyes. True if the oldest went unread for it."""
        user = happening.get("user")
        if user is None and happening["kind"] == "worker" and not self.sees_all:
            return False
        if user is not None and user != self.user:
            if not self.sees_all:
                return False
            if not self._names_users:
                happening = happening | {"user": self._shortened(user)}
        return super().put(happening)


class Happenings:
    """The open streams, and what fills them. All but `look` runs on the event loop."""

    def __init__(self, shelf: Shelf, board: StatusBoard, tail: Tail, *, clicks: str, lists: str) -> None:
        """clicks, lists: the topics, which the tail reads for this, too."""
        self._shelf = shelf
        self._board = board
        self._streams: set[HappeningStream] = set()
        self._clicked_at: OrderedDict[str, int] = OrderedDict()  # event id -> ms since 1970, of its record
        # Of users, whose products have no titles yet: of those who look on themselves, and of the others.
        self._own: deque[Happening] = deque(maxlen=KEPT)
        self._others: deque[Happening] = deque(maxlen=KEPT)
        self._positions = {"newcomers": 0, "withdrawn": 0, "restored": 0}  # in the shelf's notices
        self._workers: dict[tuple[str, str], tuple[int, bool]] | None = None  # pid, and whether it is up
        self._secret = secrets.token_bytes(16)
        tail.add(clicks, self.put_click)
        tail.add(lists, self.put_list)

    # --- who looks on --------------------------------------------------------------------------------------------

    def open(
        self, user: str | None, key_id: str | None = None, *, sees_all: bool, names_users: bool
    ) -> HappeningStream:
        """A stream. Raises TooManyStreams.

        user         whose own clicks and lists are told in any case, under her id
        key_id       of who looks on; None where no key is needed
        sees_all     those of the others, too, and workers
        names_users  these under their ids; else under what tells them apart for as long as the api runs
        """
        if len(self._streams) >= STREAMS_MAX:
            raise TooManyStreams(f"{STREAMS_MAX} look on already: close another page, or try again later")
        require_share(key_id, self._streams, STREAMS_OF_KEY_MAX)
        stream = HappeningStream(self, user, key_id, sees_all=sees_all, names_users=names_users)
        self._streams.add(stream)
        return stream

    def drop(self, stream: HappeningStream) -> None:
        """It is told nothing more."""
        self._streams.discard(stream)

    def close(self) -> None:
        """Every stream ends."""
        for stream in list(self._streams):
            stream.close()

    def shortened(self, user: str) -> str:
        """Four hex digits that tell her from the others, and lead nowhere."""
        return hashlib.blake2s(user.encode(), key=self._secret, digest_size=2).hexdigest()

    # --- what happens --------------------------------------------------------------------------------------------

    def put_click(self, record: aiokafka.ConsumerRecord) -> None:
        """A record of user-clicks; what is no click is not told."""
        told = self._parsed(record)
        if not all(isinstance(told.get(name), str) for name in OF_CLICK):
            return
        click = {"user": told["user_id"], "event": told["event"], "product_id": told["product_id"]}
        if self._pend({"kind": "click", "at": record.timestamp / 1000, **click}):
            self._clicked_at[told["event_id"]] = record.timestamp
            while len(self._clicked_at) > CLICKS_KEPT:
                self._clicked_at.popitem(last=False)

    def put_list(self, record: aiokafka.ConsumerRecord) -> None:
        """A record of recommendations; what is no list is not told."""
        told = self._parsed(record)
        user, cause, event_ids = told.get("user_id"), told.get("cause"), told.get("event_ids")
        if not isinstance(user, str) or not isinstance(cause, str):
            return
        of_clicks = [one for one in event_ids if isinstance(one, str)] if isinstance(event_ids, list) else []
        at = record.timestamp / 1000
        self._pend({"kind": "list", "at": at, "user": user, "cause": cause, "event_ids": of_clicks})

    async def follow(self, are_full: Callable[[], bool]) -> None:
        """Tell until cancelled. are_full: the views; what was on the shelf before is nobody's news."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S if self._streams else LOOK_EVERY_IDLE_S)
            found = await asyncio.to_thread(self.look, self.taken(), time.time(), is_news=are_full())
            for happening in found:
                for stream in list(self._streams):
                    stream.put(happening)

    def taken(self) -> list[Happening]:
        """What was read of users since it was taken last; of very much, the newest."""
        taken = [self._timed(one) for one in (*self._own, *self._others)]
        self._own.clear()
        self._others.clear()
        return taken

    def look(self, pending: list[Happening], now: float, *, is_news: bool) -> list[Happening]:
        """What happened to products and workers since the last look (at `now`, s since 1970), and the pending with the
        titles of their products; in the order of their times."""
        with self._shelf.lock:
            found = list(self._of_products(now))
            titled = [happening | self._title(happening["product_id"]) if "product_id" in happening else happening
                      for happening in pending]  # fmt: skip
        found += self._of_workers(now)
        return sorted(titled + found, key=lambda happening: happening["at"]) if is_news else []

    def _timed(self, happening: Happening) -> Happening:
        """A list with the time from its newest click, whose record may have been read after it."""
        if happening["kind"] != "list":
            return happening
        clicked_at = [at for one in happening.pop("event_ids") if (at := self._clicked_at.pop(one, None)) is not None]
        took_ms = max(0, round(happening["at"] * 1000) - max(clicked_at)) if clicked_at else None
        return happening | {"took_ms": took_ms}

    def _parsed(self, record: aiokafka.ConsumerRecord) -> dict[str, Any]:
        """What the record says; nothing if nobody looks on, or it is not of this kind, which its reader will tell."""
        try:
            told = orjson.loads(record.value or b"null") if self._streams else None
        except orjson.JSONDecodeError:
            return {}
        return told if isinstance(told, dict) else {}

    def _pend(self, happening: Happening) -> bool:
        """True if it is for anybody who looks on. However much the others do, who asked for her own gets that."""
        user = happening["user"]
        if any(stream.user == user for stream in self._streams):
            self._own.append(happening)
        elif any(stream.sees_all for stream in self._streams):
            self._others.append(happening)
        else:
            return False
        return True

    def _of_products(self, now: float) -> Iterator[Happening]:
        """Under the shelf's lock."""
        shelf = self._shelf
        for name in self._positions:
            notices = getattr(shelf, name)
            rows, _ = notices.since(self._positions[name])
            self._positions[name] = notices.end
            for row in rows[-KEPT:]:
                product_id = shelf.product_ids[row]
                if product_id is None or not shelf.has_offer(product_id):
                    continue
                about = {"at": now, "product_id": product_id, "title": shelf.titles[row]}
                after_s = now - float(shelf.created_at[row])
                if name == "withdrawn":
                    if not shelf.listable[row]:
                        yield {"kind": "sold_out", **about}
                elif name == "restored":
                    yield {"kind": "restored", **about}
                elif after_s < NEW_WITHIN_S and shelf.is_recommendable(row):
                    yield {"kind": "indexed", **about, "after_s": round(max(0.0, after_s), 3)}

    def _title(self, product_id: str) -> Happening:
        row = self._shelf.rows.get(product_id)
        return {"title": product_id if row is None else self._shelf.titles[row]}

    def _of_workers(self, now: float) -> Iterator[Happening]:
        before, self._workers = self._workers, {}
        for one in self._board.workers(now):
            who, is_up = (one.worker_id, one.role), now - one.at <= ALIVE_S and one.state != "stopping"
            self._workers[who] = one.pid, is_up
            pid, was_up = (before or {}).get(who, (0, False))
            if before is None or (pid, was_up) == (one.pid, is_up) or not (was_up or is_up):
                continue
            what = "stopped" if not is_up else "restarted" if was_up else "started"
            yield {"kind": "worker", "at": now, "role": one.role, "worker_id": one.worker_id, "what": what}
