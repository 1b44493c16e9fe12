"""Starts and stops experiments: in SQL, where its counts are, and on the topic, which every maker of lists reads.

SQL has the say. What the topic does not tell, because the broker went away in between, it is told by the same command
again; and the embedded broker, which loses its topics, by `freshet up` (streams.kept_documents).
"""

import time

from store.experiments import ExperimentStore, Started
from streams.broker import Broker
from streams.experiment_report import document_of
from streams.experiments import Experiment
from streams.kept_documents import confirmed, publish_kept, running
from streams.publish import require_topic


class ExperimentControl:
    """Its methods raise StoreUnavailable, BrokerUnavailable and TopicMissing."""

    def __init__(self, store: ExperimentStore, broker: Broker, topic: str) -> None:
        self._store = store
        self._broker = broker
        self._topic = topic
        self._publish = confirmed(broker, "the experiment was")

    def start(self, experiment: Experiment) -> Started:
        """It runs, and the broker has confirmed it. Raises ExperimentRefused as ExperimentStore.start."""
        require_topic(self._broker, self._topic)
        started = self._store.start(experiment.name, document_of(experiment), time.time())
        self._tell()
        return started

    def stop(self) -> str | None:
        """None runs any more; returns the name of the one that did."""
        require_topic(self._broker, self._topic)
        names = [row.name for row in self._store.all() if row.stopped_at is None]
        for name in names:
            self._store.stop(name, time.time())
        self._tell()
        return names[0] if names else None

    def _tell(self) -> None:
        publish_kept(self._publish, self._topic, lambda: running(self._store))
