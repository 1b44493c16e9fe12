"""Each list that is published, handed on to whoever has a stream of its user open: one reader for all streams.

All of it runs on the event loop.
"""

import asyncio

import aiokafka

from streams.broker import Broker
from streams.queued_stream import QueuedStream, TooManyStreams, require_share
from streams.tail import Tail

STREAMS_MAX = 500
STREAMS_OF_KEY_MAX = 100
LISTS_KEPT = 4  # of a stream whose client reads slowly: the oldest go, since a later list is worth more than all before


class ListStream(QueuedStream[bytes]):
    """The lists of one user from now on, as published."""

    def __init__(self, feed: "ListFeed", user_id: str, key_id: str | None) -> None:
        """As ListFeed.open makes it."""
        super().__init__(LISTS_KEPT, lambda: feed.drop(self), key_id)
        self.user_id = user_id


class ListFeed:
    """The open streams, and the reader of the topic that fills them."""

    def __init__(self, broker: Broker, topic: str, *, most: int = STREAMS_MAX) -> None:
        """topic: of lists; most: streams that may be open at once."""
        self.tail = Tail(broker, lambda: bool(self._streams))
        self.tail.add(topic, self._put_record)
        self._most = most
        self._streams: dict[str, set[ListStream]] = {}
        self._is_closing = False
        self.lost = 0  # lists that came and went unread, of all streams

    @property
    def is_following(self) -> asyncio.Event:
        """Set once what is published is handed on."""
        return self.tail.is_following

    @property
    def open_streams(self) -> int:
        return sum(map(len, self._streams.values()))

    def open(self, user_id: str, key_id: str | None = None) -> ListStream:
        """A stream of her lists, for who has this key, if any is needed. Raises TooManyStreams."""
        if self._is_closing:
            raise TooManyStreams("the api is stopping: connect again in some seconds")
        if self.open_streams >= self._most:
            raise TooManyStreams(
                f"this api holds {self._most} streams already: try again later, or start another `freshet worker api`"
            )
        opened = (stream for streams in self._streams.values() for stream in streams)
        require_share(key_id, opened, STREAMS_OF_KEY_MAX)
        stream = ListStream(self, user_id, key_id)
        self._streams.setdefault(user_id, set()).add(stream)
        return stream

    def drop(self, stream: ListStream) -> None:
        """It gets no more lists."""
        streams = self._streams.get(stream.user_id, set())
        streams.discard(stream)
        if not streams:
            self._streams.pop(stream.user_id, None)

    def close(self) -> None:
        """Every stream ends, and no more are opened."""
        self._is_closing = True
        for streams in list(self._streams.values()):
            for stream in list(streams):
                stream.close()

    async def follow(self) -> None:
        """As Tail.follow."""
        await self.tail.follow()

    def _put_record(self, record: aiokafka.ConsumerRecord) -> None:
        self._put(record.key, record.value)

    def _put(self, key: bytes | None, value: bytes | None) -> None:
        if key and value:
            for stream in self._streams.get(key.decode(errors="replace"), ()):
                self.lost += stream.put(value)
