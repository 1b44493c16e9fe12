"""What a list costs one core: both stages and the reasons, on a shelf in memory; beside it the first stage alone.

Then what rules and an experiment add to it.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from brokers import LocalKafka
from threadpoolctl import threadpool_limits

from encoders.next_click import embed, score
from encoders.weights import fingerprint_of
from store.history import History
from store.records import Click
from streams.compiling import compile_ranking
from streams.ranking import USERS_AT_ONCE, lists_ranker
from streams.replicas import shelf_topics
from streams.settings import Settings
from streams.shelf import Shelf
from streams.topics import topic_names
from tests.bench.report import Figure
from tests.bench.shelf import ids_of, shelf_records
from tests.bench.stage import Sizes, Tell
from tests.bench.varied_lists import with_experiment, with_rules

HISTORIES = (10, 50)  # distinct products clicked; 50 are all that a ranking reads
BARS_MS = {"few": 0.6, "many": 1.5}  # in batches
CLICK_GAP_S = 60.0


async def list_cost(_: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """The mean in batches of users, and one by one; the baseline is the first stage's best by next-click score."""
    compile_ranking()
    figures = []
    for size, products in (("few", sizes.products), ("many", sizes.many_products)):
        settings = Settings(_env_file=None)  # type: ignore[call-arg]
        shelf, product_ids = shelf_of(settings, products, tell), ids_of(products)
        ranker, chance = lists_ranker(shelf, settings), np.random.default_rng(1)
        for clicks in HISTORIES:
            tell(f"lists of {products:,} products, {clicks} clicks")
            users = [_history(product_ids, clicks, chance) for _ in range(USERS_AT_ONCE)]
            for what, batches in (("in batches", [users]), ("one by one", [[user] for user in users])):
                made = _ms_per_list(ranker.rank, batches)
                scored = _ms_per_list(partial(_first_stage, shelf, settings.list_length), batches)
                named = f"ms of one core a list, {products:,} products, {clicks} clicks of history, {what}"
                bar = BARS_MS[size] if what == "in batches" else None
                figures.append(Figure(named, made, "ms", scored, "first stage alone", at_most=bar))
        users = [_history(product_ids, HISTORIES[0], chance) for _ in range(USERS_AT_ONCE)]
        of = f"{products:,} products"
        tell(f"lists of {of}, with rules and in an experiment")
        figures += with_experiment(shelf, settings, users, _ms_per_list, of)
        figures += with_rules(shelf, ranker, users, _ms_per_list, of)
    return figures


def shelf_of(settings: Settings, products: int, tell: Tell) -> Shelf:
    """As a replica of the role clicks fills it."""
    shelf = Shelf()
    shelf.keep_offers()
    names = topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))
    puts = shelf_topics(shelf, names)
    for records in shelf_records(settings, names, ids_of(products), factors=True):
        tell(f"{len(shelf):,} of {products:,} products are on the shelf")
        for record in records:
            assert record.key is not None
            puts[record.topic](record.key, record.value, record.headers)
    return shelf


def _history(product_ids: Sequence[str], clicks: int, chance: np.random.Generator) -> History:
    places = chance.choice(len(product_ids), clicks, replace=False).tolist()
    times = time.time() - CLICK_GAP_S * np.arange(clicks)
    return History.of(
        [Click(product_ids[place], "view_item", at) for place, at in zip(places, times.tolist(), strict=True)]
    )


def _first_stage(shelf: Shelf, length: int, users: Sequence[History]) -> None:
    """The users' next-click scores, and the products with the best of them."""
    assert shelf.weights is not None
    rows = np.array([[shelf.rows[product_id] for product_id in user.product_ids] for user in users], np.int32)
    ages_s = np.array([user.times[0] - user.times for user in users], np.float32)
    read = min(rows.shape[1], shelf.weights.memory_length)
    lengths = np.full(len(users), read, np.int32)
    padded = np.zeros((len(users), shelf.weights.memory_length), np.int32)
    ages = np.zeros(padded.shape, np.float32)
    padded[:, :read], ages[:, :read] = rows[:, :read], ages_s[:, :read]
    embeddings = embed(shelf.weights, shelf.context, padded, ages, lengths)
    scores = score(shelf.target[: len(shelf)], shelf.bias[: len(shelf)], embeddings)
    for of_user in scores:
        best = np.argpartition(-of_user, length)[:length]
        best[np.argsort(-of_user[best])]


def _ms_per_list(make: Callable[[Sequence[History]], object], batches: Sequence[Sequence[History]]) -> float:
    """The mean after one round of warming up, over at least half a second."""
    lists, spent_s = 0, 0.0
    with threadpool_limits(1):  # a second thread of a matrix product would be counted for waiting
        for batch in batches[:1]:
            make(batch)
        while spent_s < 0.5:
            began = time.process_time()
            for batch in batches:
                make(batch)
                lists += len(batch)
            spent_s += time.process_time() - began
    return spent_s / lists * 1_000
