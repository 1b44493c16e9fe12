"""The lists that users get: by the shop's settings, or, of those who take part in an experiment, by its variants.

Where new products are tried by the same rule, the shop's lists and the variants' share what was tried so far. Lists
that are drawn from two are the exception: each of the two tries its own, as a drawn list holds half of each.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

from encoders.exploration import Exploration
from encoders.exploration_step import Rule
from encoders.team_draft import FIRST, SECOND, draft
from store.history import History
from streams.duplicates import ALONE
from streams.experiments import DRAWN, RunningExperiment, Trial
from streams.explorations import exploration_of
from streams.list_ids import Origin, list_id_of, new_list_id
from streams.list_items import Ranked
from streams.ranking import CountAlike, Narrowing, Ranker, lists_ranker
from streams.rules import DEFAULT_SCENARIO
from streams.ruling import CapCount
from streams.settings import Settings
from streams.shelf import Shelf

PIN_COINS = 256  # the first of 512 coins that is tossed for a pinned product: a draft of two lists of 200 takes 200
Mark = dict[str, str | None]
Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class Listed(Ranked):
    """A ranked list with the id that it goes by, and the variant that made it."""

    list_id: str
    experiment: Mark | None  # as streams.events.ListExperiment; None: of no experiment


class ExperimentRanker:
    """Makes lists from a shelf. One thread at a time."""

    def __init__(
        self, shelf: Shelf, settings: Settings, running: RunningExperiment | None = None, *, explores: bool = False
    ) -> None:
        """
        running   filled by the reader of the topic; None: there never is an experiment
        explores  new products get their share, which only who publishes lists may give
        """
        self._shelf = shelf
        self._settings = settings
        self._running = running or RunningExperiment()
        self._explores = explores
        self._exploration = exploration_of(settings) if explores else None
        self._usual = lists_ranker(shelf, settings, self._exploration)
        self._variants: list[Ranker] = []  # of _trial
        self._trial: Trial | None = None
        self._like_minded: CountAlike | None = None
        self._explored = 0  # by variants of earlier experiments

    @property
    def trial(self) -> Trial | None:
        """The experiment that runs."""
        return self._running.trial

    @property
    def explored(self) -> int:
        """Positions that new products got so far."""
        return self._explored + sum(ranker.explored for ranker in self._rankers())

    def tell_of_others(self, count: CountAlike) -> None:
        """From now on reasons tell of those who are like a user: as Ranker.like_minded."""
        self._like_minded = count
        for ranker in self._rankers():
            ranker.like_minded = count

    def experiment_of(self, list_id: str) -> Mark | None:
        """What is told of a list's experiment, by its id; None if it is of none that runs."""
        trial = self.trial
        return None if trial is None else trial.mark_of(list_id)

    def seen(self, history: History) -> set[str]:
        """As Ranker.seen, which no variant changes."""
        return self._usual.seen(history)

    def rank(
        self,
        histories: Sequence[History],
        *,
        user_ids: Sequence[str],
        segments: Sequence[str | None] = (),
        explores: bool = False,
    ) -> list[Listed]:
        """A list for each of these users, as Ranker.rank; explores: with new products and reasons that tell of others,
        as its explore_for."""

        def make(ranker: Ranker, places: list[int]) -> list[Ranked]:
            explore_for = [user_ids[place] for place in places] if explores else ()
            return ranker.rank(_at(histories, places), segments=_at(segments, places), explore_for=explore_for)

        return self._by_arms(user_ids, make, self._shelf.lock)

    def rank_narrowed(
        self,
        histories: Sequence[History],
        narrowing: Narrowing,
        *,
        user_ids: Sequence[str | None],
        at: float,
        length: int,
        segments: Sequence[str | None] = (),
    ) -> list[Listed]:
        """As Ranker.rank_narrowed; call under the shelf's lock. Who has no user_id takes no part."""

        def make(ranker: Ranker, places: list[int]) -> list[Ranked]:
            some, of_whom = _at(histories, places), _at(segments, places)
            return ranker.rank_narrowed(some, narrowing, at=at, length=length, segments=of_whom)

        return self._by_arms(user_ids, make, nullcontext(), length=length, scenario=narrowing.scenario)

    # --- one list ------------------------------------------------------------------------------------------------

    def _by_arms(
        self,
        user_ids: Sequence[str | None],
        make: Callable[[Ranker, list[int]], list[Ranked]],
        lock: AbstractContextManager[Any],
        **more: Any,
    ) -> list[Listed]:
        """The lists that `make` makes of the users at some places, by the rankers of each one's arm.

        lock  the shelf's, held while lists are drawn
        more  as _listed takes it
        """
        trial = self._follow()
        if trial is None:
            made = make(self._usual, list(range(len(user_ids))))
            return [Listed(one.items, one.embedding, new_list_id(), None) for one in made]
        arms: dict[int | None, list[int]] = defaultdict(list)
        for place, user_id in enumerate(user_ids):
            arms[None if user_id is None else trial.arm_of(user_id)].append(place)
        lists: dict[int, Listed] = {}
        for arm, places in arms.items():
            ranked = [make(ranker, places) for ranker in self._of(arm)]
            with lock:
                for place, *made in zip(places, *ranked, strict=True):
                    lists[place] = self._listed(trial, arm, *made, **more)
        return [lists[place] for place in range(len(user_ids))]

    def _listed(
        self,
        trial: Trial,
        arm: int | None,
        *made: Ranked,
        length: int | None = None,
        scenario: str = DEFAULT_SCENARIO,
    ) -> Listed:
        """The shelf's lock is held. made: by the user's ranker, or by both."""
        if arm is None:
            return Listed(made[0].items, made[0].embedding, new_list_id(), None)
        if arm != DRAWN:
            origin = Origin(trial.tag, arm)
            return Listed(made[0].items, made[0].embedding, new_list_id(origin), trial.mark(arm))
        return self._drawn(trial, *made, length=length or self._settings.list_length, scenario=scenario)

    def _drawn(self, trial: Trial, first: Ranked, second: Ranked, *, length: int, scenario: str) -> Listed:
        """One list from both, drawn by the tosses that are the list's own: a hash of its id.

        What rules pin stands as in the first, and is its item, each for a team by a toss. Caps hold: what is one too
        many is passed over, and where both have nothing else the list is shorter.
        """
        unique = new_list_id()
        coins = int.from_bytes(blake2b(unique.encode()).digest())  # 512 of them
        keys = self._keys(first), self._keys(second)
        ruling = self._shelf.follow_rules(time.time()).ruling(scenario)
        caps = CapCount(ruling) if ruling is not None and ruling.caps else None
        pins = [place for place in first.pinned if self._admits(caps, first.items[place])]
        pinned = {keys[FIRST][place] for place in pins}
        rest = [[place for place, key in enumerate(of_team) if key not in pinned] for of_team in keys]
        ranked = [[of_team[place] for place in left] for of_team, left in zip(keys, rest, strict=True)]
        every = draft(ranked[FIRST], ranked[SECOND], sum(map(len, ranked)), coins)
        drawn = [(team, (first, second)[team].items[rest[team][place]]) for team, place in every]
        picked = [(team, item) for team, item in drawn if self._admits(caps, item)][: length - len(pins)]
        for number, place in enumerate(pins):
            picked.insert(place, (coins >> (PIN_COINS + number) & 1, first.items[place]))
        items = [item for _, item in picked]
        for rank, item in enumerate(items, 1):
            item["rank"] = rank
        origin = Origin(trial.tag, None, tuple(team for team, _ in picked))
        return Listed(items, first.embedding, list_id_of(unique, origin), trial.mark(DRAWN))

    def _admits(self, caps: CapCount | None, item: dict[str, Any]) -> bool:
        """True if the list may hold it too; then it counts."""
        row = self._shelf.rows.get(item["product_id"])
        return caps is None or row is None or caps.admit(row)

    def _keys(self, made: Ranked) -> list[Hashable]:
        """What is the same in both lists: products, and duplicates where neither list holds two of a kind."""
        product_ids = [item["product_id"] for item in made.items]
        if not all(ranker.keeps_one for ranker in self._variants):
            return product_ids
        rows, group = self._shelf.rows, self._shelf.duplicates.group
        groups = [ALONE if (row := rows.get(product_id)) is None else int(group[row]) for product_id in product_ids]
        return [id_ if one == ALONE else one for id_, one in zip(product_ids, groups, strict=True)]

    # --- rankers -------------------------------------------------------------------------------------------------

    def _rankers(self) -> list[Ranker]:
        return [self._usual, *self._variants]

    def _of(self, arm: int | None) -> list[Ranker]:
        """Who makes the lists of this arm: one, or both."""
        if arm is None:
            return [self._usual]
        return [self._variants[FIRST], self._variants[SECOND]] if arm == DRAWN else [self._variants[arm]]

    def _follow(self) -> Trial | None:
        """The experiment that runs; its variants' rankers are there."""
        trial = self._running.trial
        if trial is not self._trial:
            self._explored += sum(ranker.explored for ranker in self._variants)
            self._trial, self._variants = trial, [] if trial is None else self._made(trial)
        return trial

    def _made(self, trial: Trial) -> list[Ranker]:
        known: dict[Rule, Exploration] = {}
        if self._exploration is not None:
            known[self._exploration.rule] = self._exploration
        made = []
        for variant in trial.experiment.variants:
            settings = self._settings.model_copy(update=variant.settings.of_settings())
            exploration = exploration_of(settings) if self._explores else None
            if exploration is not None and not trial.is_drawn:
                exploration = known.setdefault(exploration.rule, exploration)
            ranker = lists_ranker(self._shelf, settings, exploration, second_stage=variant.settings.second_stage)
            ranker.like_minded = self._like_minded
            made.append(ranker)
        return made


def _at(things: Sequence[Thing], places: Sequence[int]) -> list[Thing]:
    """Those at these places; none of none."""
    return [things[place] for place in places] if things else []
