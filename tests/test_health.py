"""A container is healthy while its worker's role says that it runs; what waits for a role, the broker tells."""

import asyncio
import time
from collections.abc import Mapping

import aiokafka
import pytest
from aiokafka import TopicPartition
from brokers import LocalBroker, MakeSettings
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import GroupAuthorizationFailedError

from encoders.next_click import FACTORS
from encoders.weights import fingerprint_of
from streams.broker import Broker, BrokerUnavailable
from streams.catalog import CatalogRole, NotesRole
from streams.clicks import ClicksRole
from streams.encode import EncodeRole
from streams.events import WorkerStatus
from streams.health import ASK_S, HEARD_S, Backlog, Backlogs, group_id, topics_of_groups, trouble
from streams.index import IndexRole
from streams.ports import free_port
from streams.role import Role
from streams.roles import Parts
from streams.settings import Settings
from streams.topics import create_topics, topic_names

NOW = 1_000_000.0


def status(worker_id: str = "w-1", role: str = "index", *, age_s: float = 1.0, state: str = "running") -> WorkerStatus:
    return WorkerStatus.model_validate(
        {
            "worker_id": worker_id,
            "role": role,
            "pid": 7,
            "state": state,
            "reason": "Qdrant does not answer" if state == "waiting" else None,
            "started_at": NOW - 60,
            "at": NOW - age_s,
            "events": 3,
            "events_per_s": 0.0,
            "lag": 0,
            "oldest_unprocessed_s": 0.0,
            "dead_letters": 0,
            "details": {},
        }
    )


def test_a_role_that_runs_has_no_trouble() -> None:
    assert trouble([status(age_s=HEARD_S)], "w-1", "index", NOW) is None


def test_the_newest_status_counts() -> None:
    assert trouble([status(state="waiting", age_s=3.0), status(age_s=2.0)], "w-1", "index", NOW) is None


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        ([], "index of w-1 has said nothing yet"),
        ([status("w-2"), status(role="clicks")], "index of w-1 has said nothing yet"),
        ([status(age_s=16.0)], "index of w-1 is silent for 16 s, the limit is 15 s"),
        ([status(state="waiting")], "index of w-1 is waiting: Qdrant does not answer"),
        ([status(state="starting")], "index of w-1 is starting: it has just begun"),
    ],
)
def test_trouble_is_named(statuses: list[WorkerStatus], reason: str) -> None:
    assert trouble(statuses, "w-1", "index", NOW) == reason


# --- what waits ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> LocalBroker:
    """Each of the two."""
    found: LocalBroker = request.getfixturevalue(request.param)
    return found


def acknowledge(settings: Settings, role: str, offsets: Mapping[TopicPartition, int]) -> None:
    """The role's group has committed these offsets."""

    async def commit() -> None:
        consumer = aiokafka.AIOKafkaConsumer(
            **Broker(settings).async_arguments(), group_id=group_id(settings, role), enable_auto_commit=False
        )
        await consumer.start()
        consumer.assign(list(offsets))
        await consumer.commit(dict(offsets))
        await consumer.stop()

    asyncio.run(commit())


def test_a_backlog_counts_from_the_committed_offsets_or_from_the_beginning(
    broker: LocalBroker, broker_settings: MakeSettings
) -> None:
    settings = broker_settings(broker, partitions=2)
    names = topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))
    create_topics(settings, names)
    backlogs = Backlogs(settings)
    deadline = time.monotonic() + 30
    while not backlogs.now():  # a Kafka that is just up has no group coordinator yet
        assert time.monotonic() < deadline
        time.sleep(0.1)
    nothing = Backlog(0, None)
    assert backlogs.measure() == {"catalog": nothing, "encode": nothing, "index": nothing, "clicks": nothing}

    producer = Broker(settings).sync_producer()
    for n in range(10):  # five in each partition, a second apart
        for topic in (names.user_clicks, names.product_vectors, names.encode_requests):
            at_ms = 1_700_000_000_000 + n * 1_000
            producer.send(topic, key=b"any", value=b"thing", partition=n % 2, timestamp_ms=at_ms)
    producer.flush()
    producer.close()
    acknowledge(settings, "clicks", {TopicPartition(names.user_clicks, 0): 3, TopicPartition(names.user_clicks, 1): 1})
    acknowledge(settings, "catalog-notes", {TopicPartition(names.product_vectors, 0): 4})
    acknowledge(settings, "index", {TopicPartition(names.product_vectors, n): 5 for n in range(2)})
    acknowledge(settings, "encode", {TopicPartition(names.encode_requests, 1): 2})
    assert backlogs.measure() == {
        "catalog": Backlog(1 + 5, 1_700_000_001.0),  # nothing is committed of partition 1
        "encode": Backlog(5 + 3, 1_700_000_000.0),  # nothing is committed of partition 0
        "index": nothing,
        "clicks": Backlog(2 + 4, 1_700_000_003.0),  # the fourth of all is the second of partition 1
    }
    deadline = time.monotonic() + 30
    while backlogs.now() != backlogs.measure():  # what was told before is good enough for a while
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_nobody_waits_long_for_a_broker_that_is_away(broker_settings: MakeSettings) -> None:
    class Nobody:
        port = free_port()

    backlogs = Backlogs(broker_settings(Nobody()))
    began = time.monotonic()
    assert backlogs.now() == {}
    assert time.monotonic() - began < 10 * ASK_S


def test_a_broker_that_cannot_tell_is_unavailable(
    broker_settings: MakeSettings, tansu: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = broker_settings(tansu)
    create_topics(settings, topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder)))
    backlogs = Backlogs(settings)

    def without_leader(_: object, places: list[TopicPartition], **__: object) -> dict[TopicPartition, int]:
        raise KeyError(places[0])

    monkeypatch.setattr(KafkaConsumer, "beginning_offsets", without_leader)
    with pytest.raises(BrokerUnavailable, match=r"catalog-updates', partition=0\) has no leader for now: try again"):
        backlogs.measure()

    def refused(*_: object, **__: object) -> None:
        raise GroupAuthorizationFailedError

    monkeypatch.setattr(KafkaAdminClient, "list_group_offsets", refused)
    with pytest.raises(
        BrokerUnavailable, match=r"no backlogs to read at 127.0.0.1:\d+: .*GroupAuthorizationFailedError"
    ):
        backlogs.measure()
    assert backlogs.now() == {}


def test_every_role_that_is_a_group_reads_the_topics_that_its_backlog_counts(broker_settings: MakeSettings) -> None:
    class Nobody:
        port = free_port()

    parts = Parts(broker_settings(Nobody()))
    settings, names = parts.settings, parts.names
    roles: list[Role] = [
        CatalogRole(settings, names, parts.products),
        NotesRole(settings, names, parts.products),
        EncodeRole(settings, names),
        IndexRole(settings, names, None, "", {}, FACTORS),  # type: ignore[arg-type]
        ClicksRole(settings, names, parts.broker, parts.users, parts.shelf, parts.replica),
    ]
    assert {role.name + role.group: role.topics for role in roles} == topics_of_groups(names)
    another = NotesRole(settings, names, parts.products, "-ab12")
    assert topics_of_groups(names, "-ab12")[another.name + another.group] == another.topics
