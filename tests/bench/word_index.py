"""The index of words in memory: what it takes, and how long it answers and takes up a change."""

import asyncio
import time
import tracemalloc
from collections.abc import Callable, Sequence

import numpy as np
from brokers import LocalKafka

from streams.lexical import Document, LexicalIndex
from tests.bench.report import Figure
from tests.bench.shelf import four_words, words_only
from tests.bench.stage import Sizes, Tell

BAR_MB = 100.0


async def word_index(_: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """Of many products, in this process."""
    tell(f"{sizes.many_products:,} products")
    return await asyncio.to_thread(_measured, sizes.many_products)


def _measured(products: int) -> list[Figure]:
    documents = [Document.of(product) for product in words_only(products, "product")]
    tracemalloc.start()
    index = LexicalIndex()
    for row, document in enumerate(documents):
        index.put(row, document)
    megabytes = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    allowed, clicks = np.ones(products, np.bool_), np.zeros(products, np.int64)
    queries = [four_words(number) for number in range(200)]
    changes = range(0, products, max(1, products // 500))
    asked = _ms(lambda at: index.find(queries[at], allowed, 100, clicks), range(len(queries)))
    put = _ms(lambda at: index.put(at, documents[(at + 1) % products]), changes)
    of = f"the index of words, {products:,} products"
    return [
        Figure(f"{of}, MB", megabytes, "MB", at_most=BAR_MB),
        Figure(f"{of}, a query of 4 words", asked, "ms"),
        Figure(f"{of}, a product whose words change", put, "ms"),
    ]


def _ms(do: Callable[[int], object], places: Sequence[int]) -> float:
    began = time.process_time()
    for place in places:
        do(place)
    return (time.process_time() - began) / len(places) * 1_000
