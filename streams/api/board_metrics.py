"""What the status board, the board of dead letters and the broker tell, as Prometheus collects it."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from store.letters import LetterStore
from store.records import StoreUnavailable
from streams.events import WorkerStatus
from streams.health import Backlog
from streams.latencies import QUANTILES
from streams.letter_board import LetterBoard
from streams.status import ALIVE_S, StatusBoard

log = logging.getLogger(__name__)

KINDS_MAX = 50  # of reasons: those that are rarer are counted together
OTHER = "other"
HOPS = {  # what a role times, by how the name of its detail begins
    "click_to_list": ("freshet_click_to_list_seconds", "From a click's record to its list, confirmed."),
    "update_to_offer": ("freshet_update_to_offer_seconds", "From an update's record to its offer, confirmed."),
    "product_to_offer": ("freshet_product_to_offer_seconds", "From a product's change to its offer in the index."),
    "product_to_vectors": (
        "freshet_product_to_vectors_seconds",
        "From a product's change to its new vectors in the index: then it is found.",
    ),
}


class BoardCollector(Collector):
    """Collected at each scrape."""

    def __init__(
        self,
        board: StatusBoard,
        backlogs: Callable[[], Mapping[str, Backlog]],
        letters: LetterBoard,
        settled: LetterStore,
    ) -> None:
        """backlogs  what waits for each role, as the broker tells it; settled  which letters are."""
        self._board = board
        self._backlogs = backlogs
        self._letters = letters
        self._settled = settled

    def collect(self) -> Iterable[Metric]:
        now = time.time()
        yield from self._of_roles(now)
        workers = self._board.workers(now)
        yield from _of_workers(workers, now)
        yield from _of_hops(workers, now)
        yield self._of_letters(now)

    def _of_roles(self, now: float) -> Iterator[Metric]:
        summary = self._board.summary(now, self._backlogs())
        roles = summary["roles"]
        told = {
            "freshet_role_up": ("1 if a worker of the role was heard lately.", "alive"),
            "freshet_role_workers": ("Workers of the role that were heard lately.", "workers"),
            "freshet_role_lag_events": ("Events behind the end of what the role reads.", "lag"),
            "freshet_role_oldest_unprocessed_seconds": ("Age of the oldest event that waits.", "oldest_unprocessed_s"),
        }
        for name, (help_text, field) in told.items():
            metric = GaugeMetricFamily(name, help_text, labels=("role",))
            for role, facts in roles.items():
                metric.add_metric((role,), float(facts[field]))
            yield metric
        running = GaugeMetricFamily(
            "freshet_role_running", "1 if no worker of the role waits for something or is silent.", labels=("role",)
        )
        for role, facts in roles.items():
            running.add_metric((role,), float(facts["state"] == "running"))
        yield running
        age = GaugeMetricFamily("freshet_factors_age_seconds", "Time since the newest click that the factors know.")
        if summary["factors_age_s"] is not None:
            age.add_metric((), summary["factors_age_s"])
        yield age

    def _of_letters(self, now: float) -> Metric:
        """No samples while the database is away: how many are settled is not known."""
        metric = GaugeMetricFamily(
            "freshet_dead_letters_open", "Dead letters that are neither replayed nor dropped, by topic and kind of "
            "reason.", labels=("topic", "reason"),
        )  # fmt: skip
        try:
            found = self._letters.open(self._settled.settled(), now)
        except StoreUnavailable as away:
            log.warning("open dead letters are not known reason=%s", away)
            return metric
        for one in found[:KINDS_MAX]:
            metric.add_metric((one.topic, one.kind), one.count)
        for topic in sorted({one.topic for one in found[KINDS_MAX:]}):
            metric.add_metric((topic, OTHER), sum(one.count for one in found[KINDS_MAX:] if one.topic == topic))
        return metric


def _of_workers(workers: list[WorkerStatus], now: float) -> Iterator[Metric]:
    labels = ("role", "worker")
    up = GaugeMetricFamily("freshet_worker_up", "1 if the worker's role was heard lately.", labels=labels)
    begun = GaugeMetricFamily("freshet_worker_start_time_seconds", "When the worker began, since 1970.", labels=labels)
    events = CounterMetricFamily(
        "freshet_worker_events", "Events that were done since the worker began.", labels=labels
    )
    rate = GaugeMetricFamily("freshet_worker_events_per_second", "Events done in the last second.", labels=labels)
    lag = GaugeMetricFamily("freshet_worker_lag_events", "Events that wait, as the worker knows.", labels=labels)
    oldest = GaugeMetricFamily(
        "freshet_worker_oldest_unprocessed_seconds", "Age of the oldest event in hand.", labels=labels
    )
    letters = CounterMetricFamily(
        "freshet_worker_dead_letters", "Events given up since the worker began.", labels=labels
    )
    lists = CounterMetricFamily("freshet_lists_published", "Lists that clicks led to, published.", labels=("worker",))
    detail = GaugeMetricFamily(
        "freshet_worker_detail", "The numbers among what a role says of itself, by name.", labels=(*labels, "name")
    )
    for one in workers:
        who = (one.role, one.worker_id)
        is_up = now - one.at <= ALIVE_S
        up.add_metric(who, float(is_up))
        begun.add_metric(who, one.started_at)
        events.add_metric(who, one.events)
        rate.add_metric(who, one.events_per_s if is_up else 0.0)
        lag.add_metric(who, one.lag)
        oldest.add_metric(who, one.oldest_unprocessed_s)
        letters.add_metric(who, one.dead_letters)
        if one.role == "clicks" and "lists" in one.details:
            lists.add_metric((one.worker_id,), float(one.details["lists"]))
        for name, value in one.details.items():
            if not isinstance(value, str) and math.isfinite(value):
                detail.add_metric((*who, name), value)
    yield from (up, begun, events, rate, lag, oldest, letters, lists, detail)


def _of_hops(workers: list[WorkerStatus], now: float) -> Iterator[Metric]:
    """Of workers that are up: p50 and p99 of the last five minutes, nothing where nothing happened."""
    for hop, (name, help_text) in HOPS.items():
        metric = GaugeMetricFamily(name, f"{help_text} Of the last minutes.", labels=("worker", "quantile"))
        for one in workers:
            for short, quantile in QUANTILES.items():
                value = one.details.get(f"{hop}_{short}_s")
                if isinstance(value, float | int) and now - one.at <= ALIVE_S:
                    metric.add_metric((one.worker_id, f"{quantile:g}"), value)
        yield metric
