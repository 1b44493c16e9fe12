"""Starts and stops experiments: in SQL, where its counts are, and on the topic, which every maker of lists reads.

What is in SQL and not on the topic, because the broker went away in between or lost its topics, is put there by the
same command again: what runs is started as it was, and a stop ends whatever the topic holds.
"""

import time

from kafka.errors import KafkaError

from store.experiments import ExperimentStore, Started
from streams.broker import Broker, BrokerUnavailable, Outgoing
from streams.experiment_report import document_of
from streams.experiments import Experiment, PublishedExperiment
from streams.publish import require_topic
from streams.published_document import KEY, document_record

CONFIRM_WITHIN_S = 10.0


class ExperimentControl:
    """Its methods raise StoreUnavailable, BrokerUnavailable and TopicMissing."""

    def __init__(self, store: ExperimentStore, broker: Broker, topic: str) -> None:
        self._store = store
        self._broker = broker
        self._topic = topic

    def start(self, experiment: Experiment) -> Started:
        """It runs, and the broker has confirmed it. Raises ExperimentRefused as ExperimentStore.start."""
        require_topic(self._broker, self._topic)
        started = self._store.start(experiment.name, document_of(experiment), time.time())
        told = PublishedExperiment(experiment=experiment, started_at=started.row.started_at)
        self._publish(document_record(self._topic, told))
        return started

    def stop(self) -> str | None:
        """None runs any more; returns the name of the one that did."""
        require_topic(self._broker, self._topic)
        self._publish(Outgoing(self._topic, KEY, None))
        running = [row.name for row in self._store.all() if row.stopped_at is None]
        for name in running:
            self._store.stop(name, time.time())
        return running[0] if running else None

    def _publish(self, message: Outgoing) -> None:
        producer = self._broker.sync_producer()
        try:
            producer.send(message.topic, key=message.key, value=message.value).get(CONFIRM_WITHIN_S)
        except KafkaError as error:
            raise BrokerUnavailable(f"the experiment was not confirmed ({error!r}): give the command again") from error
        finally:
            producer.close(timeout=1.0)
