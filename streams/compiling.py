"""Machine code for what learns and what ranks. The first time it takes most of a minute, then it is kept on disk.

`python -m streams.compiling` makes it ahead of the first start.
"""

import base64
import time

import numpy as np
import orjson

from encoders.exploration import Exploration
from encoders.exploration_step import Rule
from encoders.list_ranking import rank_rows
from encoders.next_click import GAPS
from encoders.next_click_training import DEFAULT_RULE, NextClickModel
from encoders.ranking_features import new_scratch
from encoders.second_stage import SecondStage
from encoders.segments import EVERYBODY
from encoders.trends import HALF_LIVES
from store.history import History
from store.records import Click
from streams.like_minded import CLICKERS, count_alike
from streams.ranking import Narrowing, Ranker
from streams.shelf import Shelf


def compile_learning() -> None:
    """By learning one click."""
    rule = DEFAULT_RULE._replace(ring_examples=2, recent_clicks=1)
    model, stage = NextClickModel(2, rule=rule), SecondStage()
    rows = np.array([model.add_product()], np.int32)
    stage.grow(1)
    scores = model.scores(model.embed(rows, np.zeros(1, np.float32)))
    stage.rank_and_learn(scores, model.clicks, model.known, rows, 0.0, int(rows[0]), 1.0)
    stage.learn(rows, int(rows[0]), "segment")
    stage.forget(rows)
    model.learn(int(rows[0]), rows, np.zeros(1, np.float32), replays=0)


def compile_ranking() -> None:
    """By making some lists."""
    shelf = Shelf()
    one = base64.b64encode(np.ones(1, "<f4").tobytes()).decode()
    for product_id in (b"a", b"b"):
        offer = {"revision": 1, "title": "", "state": "listable", "created_at": time.time()}
        shelf.put_offer(product_id, orjson.dumps(offer), ())
        shelf.put_vectors(product_id, orjson.dumps({"content_revision": 1, "fused": one}), ())
        factors = {"epoch": 1, "sequence": 1, "context": one, "target": one, "bias": 0.0, "clicks": 1}
        trends = {"lately": [1.0] * len(HALF_LIVES), "counted_at": 1}
        shelf.put_factors(product_id, orjson.dumps(factors | trends), ())
    six = base64.b64encode(np.ones(GAPS, "<f4").tobytes()).decode()
    shared = {"position_weights": one, "gap_weights": six, "memory_weights": one}
    sizes = {"epoch": 1, "sequence": 1, "factors": 1, "memory_length": 1, "memory_decay": 1.0}
    history = History.of((Click("a", "view_item", 0.0),))
    exploration = Exploration(Rule(share=1.0, top=0))
    ranker = Ranker(shelf, length=1, seen_events=(), diversity=0.5, exploration=exploration, explore_s=1e9)
    ranker.rank([history], explore_for=["u"])  # as it is before the learner has published anything
    shelf.put_weights(b"next-click", orjson.dumps(shared | sizes), ())
    ranker.rank([history], explore_for=["u"])
    ranker.rank_narrowed([history], Narrowing(explain=True), at=0.0, length=1)
    shelf.stage.knowledge(shelf.clicks).after.share(0, 1)  # what a reason asks for
    knowledge, rows = shelf.stage.knowledge(shelf.clicks), np.zeros(1, np.int32)
    others, clicks = np.ones((1, 1), np.float32), np.zeros((1, CLICKERS), np.int32)
    count_alike(rows, rows == 0, clicks, others, rows == 0, clicks, 0, others[0])
    rank_rows(knowledge, shelf.stage.reranker, shelf.bias[:2], rows, 0.0, EVERYBODY, rows, new_scratch(2))  # for rules


if __name__ == "__main__":
    compile_learning()
    compile_ranking()
