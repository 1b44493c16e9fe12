"""What the clicks role has not acknowledged yet of one person."""

import time

from aiokafka.partitioner import DefaultPartitioner
from kafka import TopicPartition
from kafka.errors import KafkaError

from streams.broker import Broker, BrokerUnavailable

POLL_MS = 50


class NotStoredYet(Exception):
    """What is to be forgotten was not stored yet, so nothing was published; str() says what to do."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the clicks role has not stored what the anonymous id did before, and nothing was published: {why}; "
            "is the role up (GET /readyz)? Send the request again in a moment"
        )


def last_unread(broker: Broker, group: str, topic: str, key: bytes, *, within_s: float) -> tuple[int, int] | None:
    """The partition, and in it the offset of the last record of this key that the group has not committed; None: it has
    committed them all. It is looked for up to the end that the partition had at the call.

    Raises NotStoredYet if so many records wait for the group that they are not read within_s; BrokerUnavailable.
    """
    consumer = broker.sync_consumer(group_id=group, isolation_level="read_committed")
    deadline = time.monotonic() + within_s
    try:
        numbers = sorted(consumer.partitions_for_topic(topic) or ())
        if not numbers:
            raise BrokerUnavailable(f"there is no topic {topic}: make it with `freshet topics create`")
        # As producers choose by default; the group is not joined by who assigns by hand.
        place = TopicPartition(topic, DefaultPartitioner()(key, numbers, numbers))
        consumer.assign([place])
        committed = consumer.committed(place)
        if committed is None:
            consumer.seek_to_beginning(place)
        else:
            consumer.seek(place, committed)
        last: int | None = None
        end: int | None = None  # as the first fetch tells it: tansu's ListOffsets is wrong about the end
        while end is None or consumer.position(place) < end:
            if time.monotonic() > deadline:
                raise NotStoredYet(
                    f"more waits for it than can be read in {within_s:g} s, or a producer's transaction is still open"
                )
            polled = consumer.poll(timeout_ms=POLL_MS).get(place, ())
            if end is None:
                end = consumer.highwater(place)
            mine = [record.offset for record in polled if record.key == key and (end is None or record.offset < end)]
            last = mine[-1] if mine else last
    except KafkaError as error:
        raise BrokerUnavailable(f"what waits for the clicks role cannot be read ({error!r})") from error
    finally:
        consumer.close()
    return None if last is None else (place.partition, last)
