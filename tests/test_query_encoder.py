"""Queries of words that come while others are encoded are encoded together."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.product import ProductQuery
from streams.query_encoder import AT_ONCE, QueryEncoder, Vectors
from streams.settings import Settings


class Gated:
    """Encodes a batch each time its gate is opened; the words "bad" cannot be encoded."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Semaphore(0)

    def hurry_queries(self) -> None: ...

    def encode_queries(self, queries: Sequence[ProductQuery]) -> list[Vectors]:
        self.batches.append([query.words for query in queries])
        assert self.gate.acquire(timeout=20)
        if any(query.words == "bad" for query in queries):
            raise FloatingPointError("not finite")
        return [{"fused": np.array([len(query.words)], np.float32)} for query in queries]


class Shoppers:
    """Ask at the same time."""

    def __init__(self, encoder: QueryEncoder, threads: ThreadPoolExecutor) -> None:
        self.encoder = encoder
        self._threads = threads

    def ask(self, words: str, **more: Any) -> Future[Vectors]:
        ask = partial(self.encoder.encode, loaded_within_s=20.0)
        return self._threads.submit(ask, "f", ProductQuery(words, **more))

    def wait(self, waiting: int) -> None:
        """So many queries wait."""
        until(lambda: len(self.encoder._waiting) == waiting)


@pytest.fixture
def gated() -> Gated:
    return Gated()


@pytest.fixture
def shoppers(gated: Gated, tmp_path: Path) -> Iterator[Shoppers]:
    encoder = QueryEncoder(Settings(home=tmp_path), lambda _: gated)  # type: ignore[arg-type, return-value]
    with ThreadPoolExecutor(2 * AT_ONCE) as threads:
        yield Shoppers(encoder, threads)
        encoder.close()
        gated.gate.release(4 * AT_ONCE)


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_comes_while_others_are_encoded_is_encoded_together(gated: Gated, shoppers: Shoppers) -> None:
    first = shoppers.ask("a")
    until(lambda: gated.batches == [["a"]])
    lengths = range(2, AT_ONCE + 4)
    later = [shoppers.ask("b" * length) for length in lengths]
    shoppers.wait(len(later))
    gated.gate.release(3)
    assert first.result(20)["fused"] == [1.0]
    assert [answer.result(20)["fused"][0] for answer in later] == [*map(float, lengths)]
    assert [len(batch) for batch in gated.batches] == [1, AT_ONCE, len(later) - AT_ONCE]


def test_what_ends_a_batch_is_told_to_everybody_in_it_and_the_next_is_encoded(gated: Gated, shoppers: Shoppers) -> None:
    first = shoppers.ask("a")
    until(lambda: gated.batches == [["a"]])
    together = [shoppers.ask("bad"), shoppers.ask("good")]
    shoppers.wait(2)
    gated.gate.release(3)
    for answer in together:
        with pytest.raises(FloatingPointError, match="not finite"):
            answer.result(20)
    assert (first.result(20)["fused"], shoppers.ask("next").result(20)["fused"]) == ([1.0], [4.0])


def test_words_that_are_asked_for_again_are_encoded_once_while_they_are_among_the_last(
    gated: Gated, shoppers: Shoppers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.query_encoder.KEPT", 2)
    gated.gate.release(20)
    for words in ("a", "b", "a", "c", "a", "b"):  # c drives b out, which was asked for longest ago
        assert shoppers.ask(words).result(20)["fused"] == [1.0]
    assert [words for batch in gated.batches for words in batch] == ["a", "b", "c", "b"]
    shoppers.ask("b", words_weight=2.0).result(20)
    ask = partial(shoppers.encoder.encode, loaded_within_s=20.0)
    ask("another", ProductQuery("b", words_weight=2.0))
    assert gated.batches[-2:] == [["b"], ["b"]], "other weights, and another version"


def test_a_picture_is_encoded_alone_and_what_waits_at_the_end_is_told(gated: Gated, shoppers: Shoppers) -> None:
    picture = shoppers.ask("", picture=np.zeros((8, 8, 3), np.uint8))
    until(lambda: gated.batches == [[""]])
    waiting = shoppers.ask("a")
    shoppers.wait(1)
    shoppers.encoder.close()
    with pytest.raises(CancelledError):
        waiting.result(20)
    gated.gate.release()
    assert picture.result(20)["fused"] == [0.0]
