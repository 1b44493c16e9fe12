"""Products by words, by a picture, or by both, from two halves: by vectors, of what is meant, and by the very words.

The dense half encodes the query as products are and asks the vector store for the nearest. The lexical half is in
memory, on the shelf. Their orders are fused by reciprocal rank. If a user is named, what she would click next stands
higher among what answers the query equally well. Where one half cannot answer, the other does alone, and the answer
says so.

In a fused vector of encoders that were not trained, words and pictures lie in directions of their own: there, words
find products by their words and pictures by their pictures. Once they were aligned, words find pictures without words.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from threading import Semaphore
from typing import Any

from encoders.product import ProductEncoder, ProductQuery, UnknownDevice  # imports torch when it is called, not before
from encoders.reciprocal_rank import Fused, fuse_ranks
from encoders.weights import UnknownSource
from store.conditions import Conditions
from store.records import StoreUnavailable
from store.vectors import Hit, VectorStore, serving_of
from streams.filters import BadQuery
from streams.listed_twice import ListedTwice
from streams.query_encoder import QueryEncoder, StillLoading
from streams.search_query import SearchQuery, Wanted, WordsQuery, wanted
from streams.settings import Settings
from streams.shelf_search import FoundByWords, FoundProduct, NextClicks, ShelfSearch

LOADED_WITHIN_S = 20.0  # a search waits for the model for so long; it takes about 5 s from a warm disk
LOADED_WITHIN_BESIDE_WORDS_S = 0.05  # or for so long, where the lexical half has found something
DEPTH = 100  # products of each half that are fused, at least, and of the dense half those that facets count
SERVER_TURNS = 8  # searches at once, while they wait for a server; what is all in this process only waits for itself
ALMOST = 0.05  # of the way from the best cosine to the mean one: what is no further answers about as well
SPARE = 20  # more than a page needs: what sold out a moment ago may be among them
AWAY = (StillLoading, StoreUnavailable, UnknownSource, UnknownDevice)


@dataclass
class _Halves:
    """What answers one query: each gives so many products, best first, and is asked once for as many."""

    by_words: Callable[[int], FoundByWords] | None = None
    by_vectors: Callable[[int], Sequence[Hit]] | None = None
    no_order_of_hers: str | None = None  # why it is not the user's own, though one is named

    def orders(self, depth: int) -> dict[str, list[str]]:
        orders = {}
        if self.by_words:
            orders["lexical"] = self.by_words(depth).product_ids
        if self.by_vectors:
            orders["dense"] = [hit.product_id for hit in self.by_vectors(depth)]
        return orders

    def best(self, depth: int) -> frozenset[str]:
        """Those that answer as well as the best does: by the words, or where none has any, by the vectors."""
        if self.by_words and (found := self.by_words(depth)).as_close:
            return frozenset(found.product_ids[: found.as_close])
        hits = self.by_vectors(depth) if self.by_vectors else ()
        cosines = [hit.score for hit in hits] or [0.0]
        nearest = max(cosines)
        least = nearest - ALMOST * (nearest - sum(cosines) / len(cosines))
        return frozenset(hit.product_id for hit in hits if hit.score >= least)


class Search:
    """Answers queries. Its methods may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        vectors: VectorStore,
        shelf: ShelfSearch,
        listed_twice: ListedTwice,
        load: Callable[[str], ProductEncoder] | None = None,
        *,
        next_clicks: NextClicks | None = None,
        loaded_within_s: float = LOADED_WITHIN_S,
    ) -> None:
        """
        load         as QueryEncoder takes it
        next_clicks  None: no order is a user's own
        """
        self._settings = settings
        self._vectors = vectors
        self._shelf = shelf
        self._listed_twice = listed_twice
        self._next_clicks = next_clicks
        self._encoder = QueryEncoder(settings, load)
        self._loaded_within_s = loaded_within_s
        self._turns = Semaphore(1 if settings.qdrant_url is None else SERVER_TURNS)

    def find(self, query: WordsQuery, lack: str | None = None) -> dict[str, Any]:
        """The products that meet all conditions of the query, best first, what is listed twice once.

        lack  why the shelf cannot be asked; then the dense half answers alone

        The score is 1 for what stands first in every order, and falls with the ranks, which are told beside it; a
        user's own order moves only what answers equally well, whatever the score. Facets count the listings that have
        as many of the words as the best one has, no more of them corrected, and the DEPTH that are nearest by vectors,
        all under the conditions. Encoded and searched by one version of the encoders, the one that serves.

        Raises BadQuery, and where neither half can answer StillLoading, StoreUnavailable, and what ended the loading.
        """
        asked = query if isinstance(query, SearchQuery) else SearchQuery(**query.model_dump())
        s = self._settings
        wants = wanted(asked, picture_max_bytes=s.picture_max_bytes, picture_max_pixels=s.picture_max_pixels)
        with self._turns:
            return self._find(asked, wants, lack)

    def close(self) -> None:
        """No more searches; one in hand is answered."""
        self._encoder.close()

    def _find(self, asked: SearchQuery, wants: Wanted, lack: str | None) -> dict[str, Any]:
        if lack and asked.mode == "lexical":
            raise StoreUnavailable(lack)
        conditions = asked.conditions(self._vectors.currencies if lack else self._shelf.currencies)
        halves, read, serving = _Halves(), None, None
        degraded = f"found by vectors alone: {lack}" if lack and asked.mode == "hybrid" else None
        if wants.words and asked.mode != "dense" and not lack:
            halves.by_words = cache(partial(self._shelf.by_words, wants.words, conditions, sold_out=asked.all))
            read = halves.by_words(_depth(asked.limit))
        if asked.mode != "lexical":
            try:
                serving, halves.by_vectors = self._nearest(asked, wants, conditions, read, is_alone=lack is not None)
            except AWAY as away:
                if read is None:
                    raise
                degraded = f"found by words alone: {_told(away)}"
        weights = {"lexical": asked.lexical_weight * wants.words_share, "dense": asked.dense_weight}
        if len(halves.orders(_depth(asked.limit))) == 1:  # one half alone counts whatever it weighs
            weights = {"lexical": 1.0, "dense": 1.0}
        weights["user"] = asked.user_weight
        there = partial(self._there, asked, conditions, halves, weights, is_full=not lack)
        page = self._listed_twice.fill_page(there, asked.limit)
        return {
            "by": asked.by,
            "mode": asked.mode,
            "encoder": serving,
            "degraded": "; ".join(filter(None, (degraded, halves.no_order_of_hers))) or None,
            "corrected": read.corrected if read else {},
            "unknown": read.unknown if read else [],
            "is_personal": any("user" in one.fused.ranks for one in page),
            "items": [_item(one) for one in page],
            "facets": None if lack or not asked.facets else self._facets(asked, conditions, halves),
        }

    @contextmanager
    def _others_turn(self) -> Iterator[None]:
        """Others search meanwhile."""
        self._turns.release()
        try:
            yield
        finally:
            self._turns.acquire()

    # --- the dense half ------------------------------------------------------------------------------------------

    def _nearest(
        self, asked: SearchQuery, wants: Wanted, conditions: Conditions, read: FoundByWords | None, *, is_alone: bool
    ) -> tuple[str, Callable[[int], Sequence[Hit]]]:
        """The version that serves, and what finds the nearest by it; that has found a page already.

        is_alone  the shelf tells nothing of what is found: the vector store does
        """
        serving = serving_of(self._vectors)
        words = read.reading if read else wants.words
        query = ProductQuery(words, wants.picture, asked.words_weight, asked.image_weight)
        within_s = LOADED_WITHIN_BESIDE_WORDS_S if read and read.product_ids else self._loaded_within_s
        with self._others_turn():
            encoded = self._encoder.encode(serving, query, loaded_within_s=within_s)
        vector = encoded.get(asked.by)
        if vector is None:
            raise BadQuery("the query has no word that the encoder knows: use others")
        nearest = partial(
            self._vectors.nearest,
            asked.by,
            vector,
            listable_only=not asked.all,
            conditions=conditions,
            fingerprint=serving,
            with_payload=is_alone,
        )
        by_vectors: Callable[[int], Sequence[Hit]] = cache(nearest)
        by_vectors(_depth(asked.limit))
        return serving, by_vectors

    # --- both ----------------------------------------------------------------------------------------------------

    def _there(
        self,
        asked: SearchQuery,
        conditions: Conditions,
        halves: _Halves,
        weights: dict[str, float],
        count: int,
        *,
        is_full: bool,
    ) -> list[FoundProduct]:
        """So many products, if there are as many, in the fused order."""
        orders = halves.orders(_depth(count))
        fused = fuse_ranks(orders, weights)
        hits = {hit.product_id: hit for hit in halves.by_vectors(_depth(count))} if halves.by_vectors else {}
        if not is_full:
            return [FoundProduct.of_hit(one, hits[one.thing]) for one in fused[:count]]
        if asked.user is not None and (hers := self._hers(asked.user, fused, halves)):
            fused = _moved(fused, fuse_ranks({**orders, "user": hers}, weights), halves.best(_depth(count)))
        return self._shelf.still_there(fused, hits, conditions, count, sold_out=asked.all)

    def _hers(self, user_id: str, fused: Sequence[Fused[str]], halves: _Halves) -> list[str]:
        """Those that the ranking knows, the likeliest to be clicked first; none while nothing is known of the user."""
        if self._next_clicks is None or halves.no_order_of_hers is not None:
            return []
        product_ids = [one.thing for one in fused]
        try:
            scores = self._next_clicks(user_id, product_ids)
        except StoreUnavailable as away:
            halves.no_order_of_hers = f"in no order of the user's own: {away.told}"
            return []
        if scores is None:
            return []
        known = [(score, product_id) for score, product_id in zip(scores.tolist(), product_ids, strict=True)]
        return [product_id for score, product_id in sorted(known, key=lambda one: -one[0]) if score == score]

    def _facets(self, asked: SearchQuery, conditions: Conditions, halves: _Halves) -> dict[str, Any]:
        depth = _depth(asked.limit)
        closest = halves.by_words(depth).closest if halves.by_words else None
        nearest = halves.orders(depth).get("dense", [])[:DEPTH]
        return self._shelf.facets(asked.facets, closest, nearest, conditions, sold_out=asked.all)


def _moved(plain: Sequence[Fused[str]], hers: Sequence[Fused[str]], best: frozenset[str]) -> list[Fused[str]]:
    """The best keep their places among them, and so do the others; who has which of these is as in her order."""
    orders = {is_best: iter([one for one in hers if (one.thing in best) is is_best]) for is_best in (True, False)}
    return [next(orders[one.thing in best]) for one in plain]


def _told(away: Exception) -> str:
    return away.told if isinstance(away, StoreUnavailable) else str(away)


def _depth(count: int) -> int:
    return max(DEPTH, count + SPARE)


def _item(found: FoundProduct) -> dict[str, Any]:
    return {
        "product_id": found.product_id,
        "score": found.fused.score,
        "ranks": found.fused.ranks,
        "cosine": found.cosine,
        "title": found.title,
        "offer": found.offer,
    }
