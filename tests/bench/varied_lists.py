"""What rules and an experiment add to a list: each beside the same lists without them, on a shelf in memory."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from store.history import History
from streams.experiment_ranking import ExperimentRanker
from streams.experiments import PublishedExperiment, RunningExperiment
from streams.published_document import KEY
from streams.ranking import Ranker
from streams.rules import DEFAULT_SCENARIO, RuleSet
from streams.settings import Settings
from streams.shelf import Shelf
from tests.bench.report import Figure

BRANDS, KINDS, COLOURS = 100, 200, 50
OF_EACH_KIND = 20  # rules
PINS_HOLDING = 5  # of them in the lists that are measured: the others are of another scenario
CHANGED = 100  # offers at once
TIMES = 5
Lists = Callable[[Sequence[History]], object]
Measure = Callable[[Lists, Sequence[Sequence[History]]], float]


def with_rules(shelf: Shelf, ranker: Ranker, users: Sequence[History], measure: Measure, of: str) -> list[Figure]:
    """100 rules, some of each kind; the shelf has none before and after."""
    for number, product_id in enumerate(list(shelf.rows)):
        _offer(shelf, product_id, number, revision=2)
    named = f"ms of one core a list, {of}, 10 clicks of history"
    modes = (("in batches", [users]), ("one by one", [[user] for user in users]))
    without = {mode: measure(ranker.rank, batches) for mode, batches in modes}
    unruled = _ms_of_changes(shelf, revision=3)
    document = _rules(list(shelf.rows))
    taken = [_ms(lambda: _apply(shelf, document)) for _ in range(TIMES)]
    figures = [
        Figure(
            f"{named}, under {5 * OF_EACH_KIND} rules, {mode}",
            measure(ranker.rank, some),
            "ms",
            without[mode],
            "no rules",
        )
        for mode, some in modes
    ]
    figures.append(Figure(f"ms of one core to take {5 * OF_EACH_KIND} rules in, {of}", sum(taken) / TIMES, "ms"))
    changed = _ms_of_changes(shelf, revision=3 + TIMES)
    what = f"ms of one core for {CHANGED} offers of another brand and category, {of}, under {5 * OF_EACH_KIND} rules"
    figures.append(Figure(what, changed, "ms", unruled, "no rules"))
    _apply(shelf, None)
    return figures


def with_experiment(
    shelf: Shelf, settings: Settings, users: Sequence[History], measure: Measure, of: str
) -> list[Figure]:
    """Two variants with the shop's own settings, so that what differs is the experiment."""
    user_ids = {id(user): f"user-{number}" for number, user in enumerate(users)}

    def lists(mode: str | None) -> Lists:
        ranker = ExperimentRanker(shelf, settings, None if mode is None else _running(mode))
        return lambda some: ranker.rank(some, user_ids=[user_ids[id(user)] for user in some])

    figures = []
    for how, batches in (("in batches", [users]), ("one by one", [[user] for user in users])):
        without = measure(lists(None), batches)
        for mode in ("split", "interleave"):
            what = f"ms of one core a list, {of}, 10 clicks of history, in an experiment ({mode}), {how}"
            figures.append(Figure(what, measure(lists(mode), batches), "ms", without, "no experiment"))
    return figures


def _running(mode: str) -> RunningExperiment:
    experiment = {"name": "bench", "mode": mode, "variants": [{"name": "one"}, {"name": "two"}]}
    told = PublishedExperiment.model_validate({"experiment": experiment, "started_at": 0.0})
    running = RunningExperiment()
    running.put(KEY, told.model_dump_json().encode(), ())
    return running


def _rules(product_ids: Sequence[str]) -> bytes:
    rules: dict[str, Any] = {}
    for n in range(OF_EACH_KIND):
        elsewhere = {} if n < PINS_HOLDING else {"scenarios": ["elsewhere"]}
        rules[f"pin {n}"] = {"action": "pin", "products": [product_ids[n]], "position": 1 + 3 * n} | elsewhere
        rules[f"boost {n}"] = {"action": "boost", "factor": 2.0, "category": f"kind-{n}"}
        rules[f"bury {n}"] = {"action": "bury", "factor": 2.0, "attributes": {"colour": f"colour-{n}"}}
        rules[f"block {n}"] = {"action": "block", "category": f"kind-{KINDS - 1 - n}"}
        rules[f"cap {n}"] = {"action": "cap", "most": 2, "brand": f"brand-{n}"}
    return RuleSet.model_validate({"rules": rules}).model_dump_json(exclude_unset=True).encode()


def _apply(shelf: Shelf, document: bytes | None) -> None:
    with shelf.lock:
        shelf.rules.published.put(KEY, document, ())
        shelf.follow_rules(time.time()).ruling(DEFAULT_SCENARIO)


def _ms_of_changes(shelf: Shelf, *, revision: int) -> float:
    """The mean over TIMES revisions from this one on; the last one's brands and categories stay."""
    product_ids = list(shelf.rows)[:CHANGED]

    def change(revision: int) -> None:
        with shelf.lock:
            for number, product_id in enumerate(product_ids):
                _offer(shelf, product_id, number + revision, revision=revision)
            shelf.follow_rules(time.time()).ruling(DEFAULT_SCENARIO)

    return sum(_ms(lambda at=at: change(revision + at)) for at in range(TIMES)) / TIMES


def _offer(shelf: Shelf, product_id: str, number: int, *, revision: int) -> None:
    offer = {
        "revision": revision,
        "state": "listable",
        "title": f"Product {product_id}",
        "brand": f"brand-{number % BRANDS}",
        "category": ["Shop", f"kind-{number % KINDS}"],
        "attributes": {"colour": f"colour-{number % COLOURS}"},
        "availability": "in_stock",
        "created_at": time.time(),
    }
    shelf.put_offer(product_id.encode(), orjson.dumps(offer), ())


def _ms(do: Callable[[], None]) -> float:
    began = time.process_time()
    do()
    return (time.process_time() - began) * 1_000
