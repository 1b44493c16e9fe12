"""From clicks to a list: the shelf's products, ranked in two stages for each user, as they are at this moment.

The first stage finds candidates, the second puts them in order: encoders.list_ranking. What is sold out, deleted or
seen is no candidate: that is looked at under the shelf's lock, where the list is made. A user of whom nothing is known
gets what the re-ranker has learned of such users; where nothing was learned yet, what is clicked most and what is new.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np

from encoders.explained_ranking import explain_listed
from encoders.exploration import Exploration
from encoders.list_ranking import clicks_behind, rank_candidates, rank_rows
from encoders.next_click import ABSENT, Floats, Mask, Rows
from encoders.ranking_features import HISTORY, JUST_LOOKED_AT, Knowledge, new_scratch
from encoders.segments import EVERYBODY
from store.history import EVENTS, History
from streams.list_items import Ranked, Scored, list_items, tell_rules
from streams.list_rows import NO_ROWS, Held, ListRows
from streams.reasons import tell_of_others
from streams.rules import DEFAULT_SCENARIO
from streams.ruling import Ruling
from streams.served_factors import next_click_scores, served_factors
from streams.settings import Settings
from streams.shelf import Shelf

USERS_AT_ONCE = 64  # bounds the matrix of scores: 64 users of 100,000 products are 26 MB
CountAlike = Callable[[str, Floats, Rows], Sequence[int]]
"""As streams.like_minded.LikeMinded.count."""


@dataclass(frozen=True, slots=True, eq=False)
class Narrowing:
    """What a list may hold beside what its user may not get, as rows of the shelf under the lock that is held."""

    allowed: Mask | None = None  # (P,) bool; None: all
    exclude: Rows = field(default_factory=NO_ROWS.copy)
    explain: bool = False  # each item has `explanation`, of encoders.explained_ranking
    scenario: str = DEFAULT_SCENARIO  # whose rules it obeys


EVERYTHING = Narrowing()


class Ranker:
    """Makes lists from a shelf. One thread at a time."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        length: int,
        seen_events: Collection[str],
        diversity: float = 0.0,
        exploration: Exploration | None = None,
        explore_s: float = 0.0,
        one_of_each: bool = False,
        second_stage: bool = True,
    ) -> None:
        """
        length       items of a list
        seen_events  after which a product is not listed for the user again
        diversity    0 to 1, see encoders.list_ranking.choose_listed
        one_of_each  a list holds the best of a product's duplicates, and none of what she has had
        exploration  gives positions to new products, no older than explore_s; None: the order is the ranking's
        second_stage False: the order is the one before the re-ranker has learned anything
        """
        self._shelf = shelf
        self._length = length
        self._is_seen = np.isin(EVENTS, list(seen_events))  # by the code of the event
        self._exploration = exploration
        self._explore_s = explore_s
        self.keeps_one = one_of_each
        self._second_stage = second_stage
        self._rows = ListRows(shelf, diversity=diversity, one_of_each=one_of_each)
        self.like_minded: CountAlike | None = None  # None: reasons tell of the user's own clicks only
        self._scratch = new_scratch(0)
        self._listable = shelf.listable[:0]
        self.explored = 0  # positions so far

    def rank(
        self,
        histories: Sequence[History],
        *,
        at: float | None = None,
        length: int | None = None,
        segments: Sequence[str | None] = (),
        explore_for: Sequence[str] = (),
    ) -> list[Ranked]:
        """A list for each history (newest click first), by what is known and available at this moment.

        at           the time (s since 1970) from which the clicks' ages count; None: the newest click of each
        segments     of each user, or of none; it counts for who has no click on a product of the shelf
        explore_for  the users' ids: their lists may hold new products that are to find their shoppers, and reasons
                     tell of others who are like them; none: neither
        """
        ranked: list[Ranked] = []
        for begin in range(0, len(histories), USERS_AT_ONCE):
            chunk = slice(begin, begin + USERS_AT_ONCE)
            with self._shelf.lock:
                some = histories[chunk], segments[chunk]
                ranked += self._rank(*some, at, length or self._length, explore_for[chunk])
        return ranked

    def rank_narrowed(
        self,
        histories: Sequence[History],
        narrowing: Narrowing,
        *,
        at: float,
        length: int,
        segments: Sequence[str | None] = (),
    ) -> list[Ranked]:
        """The lists of some users, as `rank` makes them, of what the narrowing leaves; call under the shelf's lock.

        Each has `length` items wherever so many are left.
        """
        return self._rank(histories, segments, at, length, (), narrowing)

    def seen(self, history: History) -> set[str]:
        """The products that this user has had, by the shop's setting, and gets in no list."""
        pairs = zip(history.product_ids, history.codes, strict=True)
        return {product_id for product_id, code in pairs if self._is_seen[code]}

    def score(
        self,
        histories: Sequence[Rows],
        ages_s: Sequence[Floats],
        unwanted: Sequence[Rows],
        segments: Sequence[str | None] = (),
        allowed: Mask | None = None,
        ruling: Ruling | None = None,
    ) -> list[Scored]:
        """The candidates of each user and their scores; call under the shelf's lock.

        histories  (<= HISTORY,) int32 each, rows of the clicked products, newest first, -1 unknown
        ages_s     as long, how long before this moment
        unwanted   rows that the user must not get
        segments   of each user, or of none
        allowed    (P,) bool, what is listable and may be listed; None: all that is listable
        ruling     rules that bring candidates of their own, and move scores
        """
        shelf = self._shelf
        allowed = shelf.listable if allowed is None else allowed
        self._make_room(allowed)
        knowledge, next_click, embeddings = self._knowledge(), *next_click_scores(shelf, histories, ages_s)
        reranker = shelf.stage.reranker if self._second_stage else shelf.stage.unlearned
        scored = []
        for user, history in enumerate(histories):
            self._listable[unwanted[user]] = False
            age_s = float(ages_s[user][0]) if len(history) else 0.0
            segment = shelf.stage.column_of(segments[user]) if segments else EVERYBODY
            scores, listable = next_click[user], self._listable
            rows, ranked = rank_candidates(
                knowledge, reranker, scores, listable, history, age_s, segment, self._scratch
            )
            if ruling is not None and self._is_ranked(history):
                more = ruling.more_candidates(rows, scores, listable)
                of_more = rank_rows(knowledge, reranker, scores, history, age_s, segment, more, self._scratch)
                rows, ranked = np.concatenate((rows, more)), np.concatenate((ranked, of_more))
            if ruling is not None and ruling.moves is not None:
                ranked = ranked + ruling.moves[rows]
            self._listable[unwanted[user]] = allowed[unwanted[user]]
            embedding = embeddings[user] if embeddings is not None and (history != ABSENT).any() else None
            scored.append(Scored(rows, ranked, scores, embedding))
        return scored

    # --- one chunk of users --------------------------------------------------------------------------------------

    def _rank(
        self,
        histories: Sequence[History],
        segments: Sequence[str | None],
        at: float | None,
        length: int,
        explore_for: Sequence[str],
        narrowing: Narrowing = EVERYTHING,
    ) -> list[Ranked]:
        shelf = self._shelf
        if not len(shelf):
            return [Ranked([], None) for _ in histories]
        shelf.stage.map_alone(shelf.fused, shelf.has_vector)
        ruling = shelf.follow_rules(time.time()).ruling(narrowing.scenario)
        allowed = shelf.listable if narrowing.allowed is None else shelf.listable & narrowing.allowed
        if ruling is not None:
            allowed = ruling.without_blocked(allowed)
        clicked, ages_s, unwanted = [], [], []
        for history in histories:
            rows = np.array([shelf.rows.get(product_id, ABSENT) for product_id in history.product_ids], np.int32)
            seen = rows[self._is_seen[np.frombuffer(history.codes, np.uint8)]]
            out = np.concatenate((seen, rows[:JUST_LOOKED_AT], narrowing.exclude))
            unwanted.append(self._rows.with_others(out[out != ABSENT]))
            clicked.append(rows[:HISTORY])
            times = history.times[:HISTORY]
            now = (times[0] if len(times) else 0.0) if at is None else at
            ages_s.append(np.maximum(now - times, 0.0).astype(np.float32))
        scored = self.score(clicked, ages_s, unwanted, segments, allowed, ruling)
        new = self._new_rows(allowed) if explore_for else NO_ROWS
        lists = []
        for user, history in enumerate(histories):
            held = self._rows.hold(ruling, allowed, unwanted[user], length)
            rows = self._choose(held, scored[user], clicked[user])
            if len(new):
                held, rows = self._explore(explore_for[user], held, scored[user], clicked[user], rows, new)
            rows = self._rows.whole(held, rows)
            if explore_for and self._exploration is not None:
                self._exploration.count(rows, shelf.clicks)
            made = self._list(scored[user], history, clicked[user], ages_s[user], rows, held)
            if explore_for and self.like_minded is not None and made.embedding is not None:
                tell_of_others(made.items, self.like_minded(explore_for[user], made.embedding, rows))
            if narrowing.explain:
                self._explain(made, scored[user], clicked[user], rows, allowed, unwanted[user])
            if ruling is not None:
                tell_rules(made.items, rows, ruling, held.pins)
            lists.append(made)
        return lists

    def _make_room(self, allowed: Mask) -> None:
        """The working arrays are as long as the shelf's, and what is allowed may be listed."""
        if len(self._listable) != len(self._shelf.listable):
            self._scratch = new_scratch(len(self._shelf.listable))
        self._listable = allowed.copy()

    def _is_ranked(self, clicked: Rows) -> bool:
        """False where scores say nothing yet: what is clicked most makes the list."""
        return self._shelf.stage.is_learned or bool((clicked != ABSENT).any())

    def _knowledge(self) -> Knowledge:
        return self._shelf.stage.knowledge(self._shelf.clicks)

    # --- new products --------------------------------------------------------------------------------------------

    def _new_rows(self, allowed: Mask) -> Rows:
        """Candidates of the exploration in this chunk."""
        shelf = self._shelf
        if self._exploration is None:
            return NO_ROWS
        young = shelf.created_at > time.time() - self._explore_s
        return self._exploration.new_rows(allowed & shelf.has_vector & young, shelf.clicks, shelf.births)

    def _explore(
        self, user_id: str, held: Held, scored: Scored, clicked: Rows, rows: Rows, new: Rows
    ) -> tuple[Held, Rows]:
        """What the list holds and its rows, with the new products that are tried on this user."""
        assert self._exploration is not None
        new = new[self._rows.once(new, np.concatenate((rows, held.rows)))]
        level = scored.next_click[rows[-1]] if len(rows) else np.float32(0.0)
        affinity = scored.next_click[new] - level
        user = int.from_bytes(blake2b(user_id.encode(), digest_size=8).digest())
        out = np.concatenate((held.unwanted, rows, held.rows))
        clicks, length = self._shelf.clicks, held.length - len(held.pins)
        places, chosen = self._exploration.choose(user, new, affinity, out, held.allowed, clicks, length)
        if held.caps is not None and len(chosen):
            admitted = np.isin(chosen, held.caps.admitted(chosen))
            places, chosen = places[admitted], chosen[admitted]
        held = replace(held, tried=chosen)
        if held.caps is not None and len(chosen):
            rows = self._choose(held, scored, clicked)  # what is tried counts, and others give way to it
        listed = rows.tolist()
        for place, row in zip(places.tolist(), chosen.tolist(), strict=True):
            listed.insert(place, row)
        self.explored += len(chosen)
        return held, np.array(listed[:length], np.int32)

    # --- one list ------------------------------------------------------------------------------------------------

    def _choose(self, held: Held, scored: Scored, clicked: Rows) -> Rows:
        """Rows of the list beside what it holds, best first; before anything was learned, what is clicked most."""
        is_ranked = self._is_ranked(clicked)
        among, scores = (scored.rows, scored.scores) if is_ranked else (NO_ROWS, scored.scores[:0])
        return self._rows.choose(held, among, scores, self._knowledge().content)

    def _list(self, scored: Scored, history: History, clicked: Rows, ages_s: Floats, rows: Rows, held: Held) -> Ranked:
        shelf, knowledge = self._shelf, self._knowledge()
        reranker = shelf.stage.reranker if self._second_stage else shelf.stage.unlearned
        behind = clicks_behind(knowledge, reranker, served_factors(shelf), clicked, ages_s, rows, self._scratch.place)
        items = list_items(shelf, knowledge, scored, rows, clicked, history.codes, behind, held.tried)
        return Ranked(items, scored.embedding, pinned=held.pinned_in(rows))

    def _explain(self, made: Ranked, scored: Scored, clicked: Rows, rows: Rows, allowed: Mask, unwanted: Rows) -> None:
        listable = allowed.copy()
        listable[unwanted] = False
        knowledge = self._knowledge()
        explained = explain_listed(knowledge, scored.next_click, listable, clicked, rows, self._scratch)
        for item, explanation in zip(made.items, explained, strict=True):
            item["explanation"] = explanation


def lists_ranker(
    shelf: Shelf, settings: Settings, exploration: Exploration | None = None, *, second_stage: bool = True
) -> Ranker:
    """One by the shop's settings; exploration: by streams.explorations, which only who publishes lists may have."""
    s = settings
    return Ranker(
        shelf,
        length=s.list_length,
        seen_events=s.seen_events,
        diversity=s.diversity,
        exploration=exploration,
        explore_s=s.explore_days * 86_400,
        one_of_each=s.duplicates == "one",
        second_stage=second_stage,
    )
