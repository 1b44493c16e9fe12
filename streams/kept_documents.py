"""What the topics of rules and experiments hold, kept in SQL: the embedded broker loses its topics when it ends.

Whoever changes a document writes it to SQL first and publishes then what SQL holds, until SQL holds what it published:
so of several at once the last word on the topic is SQL's, whichever of them comes last.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from kafka.errors import KafkaError
from pydantic import BaseModel, ValidationError

from store.database import get_fact, set_fact
from store.experiments import ExperimentStore
from store.records import StoreUnavailable
from streams.broker import Broker, BrokerUnavailable, Outgoing
from streams.databases import database_of, is_there
from streams.experiment_report import experiment_of
from streams.experiments import PublishedExperiment
from streams.published_document import KEY, document_record
from streams.rules import NO_RULES, RuleSet
from streams.settings import Settings
from streams.topics import TopicNames

log = logging.getLogger(__name__)

CONFIRM_WITHIN_S = 10.0
RULES = "rules"  # the fact in the products database
Document = TypeVar("Document", bound=BaseModel)


def publish_kept(publish: Callable[[Outgoing], None], topic: str, kept: Callable[[], Document | None]) -> None:
    """The topic holds what `kept` reads; a null record for None. Raises what the two raise."""
    document = kept()
    while True:
        publish(Outgoing(topic, KEY, None) if document is None else document_record(topic, document))
        published, document = document, kept()
        if document == published:
            return


def confirmed(broker: Broker, what: str) -> Callable[[Outgoing], None]:
    """Publishes a message and returns when the broker has confirmed it. It raises BrokerUnavailable."""

    def publish(message: Outgoing) -> None:
        producer = broker.sync_producer()
        try:
            producer.send(message.topic, key=message.key, value=message.value).get(CONFIRM_WITHIN_S)
        except KafkaError as error:
            raise BrokerUnavailable(f"{what} not confirmed ({error!r}): give the command again") from error
        finally:
            producer.close(timeout=1.0)

    return publish


def running(store: ExperimentStore) -> PublishedExperiment | None:
    """The experiment that SQL says runs. Raises StoreUnavailable."""
    rows = [row for row in store.all() if row.stopped_at is None]
    return PublishedExperiment(experiment=experiment_of(rows[0]), started_at=rows[0].started_at) if rows else None


def keep_rules(settings: Settings, rules: RuleSet | None) -> None:
    """These are the rules that were applied last; None: all were taken back. Raises StoreUnavailable."""
    engine = database_of(settings, "products")
    try:
        set_fact(engine, RULES, (rules or NO_RULES).model_dump_json(exclude_unset=True))
    finally:
        engine.dispose()


def kept_rules(settings: Settings) -> RuleSet | None:
    """Those that were kept last, if any. Raises StoreUnavailable, and ValidationError for another version's."""
    if not is_there(settings, "products"):
        return None
    engine = database_of(settings, "products")
    try:
        text = get_fact(engine, RULES)
    finally:
        engine.dispose()
    rules = None if text is None else RuleSet.model_validate_json(text)
    return rules if rules is not None and rules.rules else None


def kept_experiment(settings: Settings) -> PublishedExperiment | None:
    """The experiment that runs, if there is one. Raises as kept_rules."""
    if not is_there(settings, "users"):
        return None
    engine = database_of(settings, "users")
    try:
        return running(ExperimentStore(engine))
    finally:
        engine.dispose()


def publish_all_kept(settings: Settings, names: TopicNames) -> None:
    """On topics that are empty: they hold what SQL keeps; what cannot be read is told of and left out.

    Raises BrokerUnavailable.
    """
    publish = confirmed(Broker(settings), "what SQL keeps was")
    documents: tuple[tuple[str, Callable[[], BaseModel | None]], ...] = (
        (names.rules, partial(kept_rules, settings)),
        (names.experiments, partial(kept_experiment, settings)),
    )
    for topic, kept in documents:
        try:
            if kept() is not None:
                publish_kept(publish, topic, kept)
                log.info("published again topic=%s", topic)
        except (StoreUnavailable, ValidationError) as error:
            log.warning("not published again topic=%s reason=%s", topic, error)
