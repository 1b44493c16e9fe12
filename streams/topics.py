"""The topics: names, partitions, retention, and how they are created."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kafka.admin import NewTopic
from kafka.errors import KafkaTimeoutError, TopicAlreadyExistsError

from streams.broker import Broker, BrokerUnavailable
from streams.settings import Settings

DAY_MS = 86_400_000
Kept = Literal["shop", "compacted", "days"]


@dataclass(frozen=True)
class Topic:
    """A topic as it should be."""

    name: str
    partitions: int
    kept: Kept
    days: float | None = None  # how long, where kept is "days"

    def config(self, *, min_insync_replicas: int) -> dict[str, str]:
        """The topic's settings at the broker."""
        settings = {"min.insync.replicas": str(min_insync_replicas), "max.message.bytes": "4194304"}
        if self.kept == "compacted":
            settings |= {
                "cleanup.policy": "compact",
                "segment.ms": "600000",
                "segment.bytes": "33554432",
                "min.cleanable.dirty.ratio": "0.1",
            }
        if self.kept == "days" and self.days is not None:
            settings["retention.ms"] = str(int(self.days * DAY_MS))
        return settings


@dataclass(frozen=True)
class TopicNames:
    """Every topic's full name under the namespace; `vectors` carries the encoder's fingerprint."""

    catalog_updates: str
    user_clicks: str
    product_index: str
    encode_requests: str
    product_vectors: str
    user_embeddings: str
    training_examples: str
    item_factors: str
    item_neighbours: str
    model_weights: str
    recommendations: str
    worker_status: str
    encoders: str
    experiments: str

    @property
    def fingerprint(self) -> str:
        """Of the version whose vectors are on product_vectors."""
        return self.product_vectors.rpartition("-")[2]


def topic_names(settings: Settings, fingerprint: str) -> TopicNames:
    """The names for this namespace and this encoder fingerprint."""
    prefix = f"{settings.namespace}." if settings.namespace else ""
    return TopicNames(
        catalog_updates=f"{prefix}catalog-updates",
        user_clicks=f"{prefix}user-clicks",
        product_index=f"{prefix}product-index",
        encode_requests=f"{prefix}encode-requests",
        product_vectors=f"{prefix}product-vectors-{fingerprint}",
        user_embeddings=f"{prefix}user-embeddings",
        training_examples=f"{prefix}training-examples",
        item_factors=f"{prefix}item-factors",
        item_neighbours=f"{prefix}item-neighbours",
        model_weights=f"{prefix}model-weights",
        recommendations=f"{prefix}recommendations",
        worker_status=f"{prefix}worker-status",
        encoders=f"{prefix}encoders",
        experiments=f"{prefix}experiments",
    )


def dead_letters_of(topic: str) -> str:
    """The topic that takes the dead letters of a topic."""
    return f"{topic}.dead-letters"


def topics_of(settings: Settings, names: TopicNames, versions: Iterable[str] = ()) -> list[Topic]:
    """All topics, in the order of the data's path. training-examples has user-clicks' partitions, one for one.

    versions  fingerprints of more versions of the encoders than that of the names
    """
    many = settings.partitions
    topics = [
        Topic(names.catalog_updates, many, "shop"),
        Topic(names.user_clicks, many, "shop"),
        Topic(names.product_index, many, "compacted"),
        Topic(names.encode_requests, many, "compacted"),
        Topic(names.product_vectors, many, "compacted"),
        Topic(names.user_embeddings, many, "days", 1),
        Topic(names.training_examples, many, "days", 7),
        Topic(names.item_factors, many, "compacted"),
        Topic(names.item_neighbours, many, "compacted"),
        Topic(names.model_weights, 1, "compacted"),
        Topic(names.recommendations, many, "days", 1),
        Topic(names.worker_status, 1, "days", 0.05),
        Topic(names.encoders, 1, "compacted"),
        Topic(names.experiments, 1, "compacted"),
    ]
    consumed = (
        names.catalog_updates,
        names.user_clicks,
        names.product_index,
        names.encode_requests,
        names.product_vectors,
        names.user_embeddings,
    )
    more = [topic_names(settings, version).product_vectors for version in versions if version != names.fingerprint]
    topics += [Topic(name, many, "compacted") for name in more]
    letters = (*consumed, *more)
    topics += [Topic(dead_letters_of(name), 1, "days", settings.topic_retention_days) for name in letters]
    return topics


def create_topics(
    settings: Settings, names: TopicNames, versions: Iterable[str] = (), *, wait_s: float = 30.0
) -> list[str]:
    """Create what is missing and return those names, when every partition has a leader. Existing ones stay as they are.

    Raises BrokerUnavailable if the broker does not answer.
    """
    wanted = topics_of(settings, names, versions)
    made = []
    with Broker(settings).admin() as admin:
        existing = set(admin.list_topics())
        for topic in wanted:
            if topic.name in existing:
                continue
            config = topic.config(min_insync_replicas=settings.min_insync_replicas)
            new = NewTopic(topic.name, topic.partitions, settings.replication_factor, topic_configs=config)
            try:
                admin.create_topics([new])
            except TopicAlreadyExistsError:
                continue  # another worker was quicker
            made.append(topic.name)
        try:
            admin.wait_for_topics([topic.name for topic in wanted], timeout_ms=wait_s * 1000)
        except KafkaTimeoutError as error:
            raise BrokerUnavailable(f"topics have no leader after {wait_s:.0f} s: is the broker healthy?") from error
    return made
