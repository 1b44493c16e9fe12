"""Rules of a shop: what each does to a list worked out by hand, and what holds of every list, whatever the rules."""

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shelves import factors, offer, vectors, weights

from encoders.exploration import Exploration
from encoders.exploration_step import Rule as ExplorationRule
from store.history import History
from store.records import Click
from streams.filters import PageQuery
from streams.published_document import KEY, document_record
from streams.ranking import Narrowing, Ranked, Ranker
from streams.rules import RULES_MAX, RuleSet
from streams.shelf import Shelf
from streams.shelf_lists import ShelfLists
from streams.shelf_rules import ONE_BY_ONE_MAX
from streams.yaml_documents import BadDocument, parse_document

KNOWN = 1_000_000
# product -> next-click score after tea, brand, category path; the order of the list after tea
PRODUCTS: dict[str, tuple[float, str | None, list[str]]] = {
    "tea": (1.0, "Lux", ["Drinks"]),
    "cup": (0.9, "Lux", ["Home", "Cups"]),
    "mug": (0.8, "Lux", ["Home", "Cups"]),
    "jug": (0.7, "Lux", ["Home", "Jugs"]),
    "pot": (0.5, "Nord", ["Home", "Pots"]),
    "axe": (-1.0, None, []),
}
PLAIN = ["cup", "mug", "jug", "pot", "axe"]


class Shop:
    """Six products; what a user who looked at tea gets."""

    def __init__(self, length: int = 10, *, learned: bool = True, **more: Any) -> None:
        self.shelf = Shelf()
        self.shelf.keep_offers()
        self.ranker = Ranker(self.shelf, length=length, seen_events={"purchase"}, **more)
        for at, (product_id, (score, _, _)) in enumerate(PRODUCTS.items()):
            self.offer(product_id, at=at)
            key = product_id.encode()
            self.shelf.put_vectors(key, vectors([score, 0.1]), ())
            self.shelf.put_factors(key, factors([score, 0.0], clicks=KNOWN), ())
        if learned:
            self.shelf.put_weights(b"next-click", weights(), ())

    def offer(self, product_id: str, revision: int = 1, *, at: float = 0.0, **more: Any) -> None:
        _, brand, path = PRODUCTS.get(product_id, (0.0, None, []))
        told = {"brand": brand, "category": path, "created_at": at} | more
        self.shelf.put_offer(product_id.encode(), offer(revision, title=product_id.upper(), **told), ())

    def apply(self, **rules: dict[str, Any]) -> None:
        self.put(RuleSet.model_validate({"rules": rules}))

    def put(self, rules: RuleSet) -> None:
        self.shelf.rules.published.put(KEY, document_record("rules", rules).value, ())

    def made(self, *clicked: str, narrowing: Narrowing | None = None, event: str = "view_item") -> Ranked:
        clicks = [Click(one, event, 1_000.0 - age) for age, one in enumerate(clicked)]
        if narrowing is None:
            return self.ranker.rank([History.of(clicks)])[0]
        with self.shelf.lock:
            [made] = self.ranker.rank_narrowed([History.of(clicks)], narrowing, at=1_000.0, length=self.ranker._length)
        return made

    def ids(self, *clicked: str, **more: Any) -> list[str]:
        return ids(self.made(*clicked, **more))


def ids(made: Ranked) -> list[str]:
    assert [item["rank"] for item in made.items] == list(range(1, len(made.items) + 1))
    return [item["product_id"] for item in made.items]


def told(made: Ranked) -> dict[str, list[str]]:
    return {item["product_id"]: item["rules"] for item in made.items if "rules" in item}


# --- what each does --------------------------------------------------------------------------------------------------


def test_a_pinned_product_stands_at_its_position_and_says_by_which_rule() -> None:
    shop = Shop()
    assert shop.ids("tea") == PLAIN
    shop.apply(winter={"action": "pin", "products": ["axe"], "position": 2})
    made = shop.made("tea")
    assert ids(made) == ["cup", "axe", "mug", "jug", "pot"]
    assert told(made) == {"axe": ["winter"]}
    assert made.items[1]["reason"] == "often clicked now", "as without the rule: no click speaks for it"
    shop.apply()
    assert shop.ids("tea") == PLAIN


def test_pins_stand_in_their_order_and_where_two_want_one_position_the_later_has_the_next() -> None:
    shop = Shop(length=4)
    shop.apply(
        late={"action": "pin", "products": ["jug"], "position": 9},
        first={"action": "pin", "products": ["axe", "pot"]},
        second={"action": "pin", "products": ["mug", "axe"], "position": 2},
    )
    assert shop.ids("tea") == ["axe", "pot", "mug", "cup"]
    shop = Shop(length=10)
    shop.apply(late={"action": "pin", "products": ["cup"], "position": 9})
    assert shop.ids("tea") == ["mug", "jug", "pot", "axe", "cup"], "behind the last: a list has no gaps"


def test_a_pin_does_not_list_what_may_not_be_listed() -> None:
    shop = Shop()
    shop.apply(
        all={"action": "pin", "products": ["gone", "mug", "tea", "axe", "jug"]},
        no_jugs={"action": "block", "products": ["jug"]},
    )
    shop.offer("mug", 2, state="sold_out")
    assert shop.ids("tea") == ["axe", "cup", "pot"], "tea was just looked at"
    assert shop.ids("cup", "cup", "cup", "axe", event="purchase") == ["tea", "pot"]
    narrowed = shop.shelf.offers and shop.shelf.listable & (shop.shelf.offers.of_brand("Nord"))
    assert shop.ids("tea", narrowing=Narrowing(narrowed)) == ["pot"]


def test_a_boost_multiplies_the_odds_and_a_bury_divides_them() -> None:
    shop = Shop()
    before = {item["product_id"]: item["score"] for item in shop.made("tea").items}
    shop.apply(
        pots={"action": "boost", "category": "Pots", "factor": 1e6},
        lux={"action": "bury", "brand": "Lux", "factor": 2.0},
        cups={"action": "bury", "category": "Cups", "attributes": {}, "factor": 1_000.0},
    )
    made = shop.made("tea", narrowing=Narrowing(explain=True))
    after = {item["product_id"]: item["score"] for item in made.items}
    for product_id, moved in (
        ("pot", math.log(1e6)),
        ("jug", -math.log(2)),
        ("cup", -math.log(2) - math.log(1_000)),
        ("axe", 0.0),
    ):
        assert after[product_id] - before[product_id] == pytest.approx(moved, abs=1e-5)
    assert sorted(after, key=lambda one: -after[one]) == ids(made)
    assert told(made) == {"pot": ["pots"], "jug": ["lux"], "cup": ["lux", "cups"], "mug": ["lux", "cups"]}
    explained = {item["product_id"]: item["explanation"]["rules"] for item in made.items}
    assert explained["cup"] == [
        {"name": "lux", "action": "bury", "factor": 2.0, "added_to_score": -0.693147},
        {"name": "cups", "action": "bury", "factor": 1000.0, "added_to_score": -6.907755},
    ]
    assert explained["axe"] == []


def test_a_boosted_or_pinned_product_is_ranked_although_it_is_no_candidate() -> None:
    shop = Shop(length=3)
    for number in range(400):  # more than there are candidates
        shop.offer(f"better {number}")
        shop.shelf.put_factors(f"better {number}".encode(), factors([2.0, 0.0], clicks=KNOWN), ())
    odd = ["odd 0", "odd 1", "odd 2"]
    for at, product_id in enumerate(odd):
        shop.offer(product_id, brand="Odd")
        shop.shelf.put_factors(product_id.encode(), factors([-0.1 * at, 0.0], clicks=KNOWN), ())
    assert not set(odd) & set(shop.ids("tea"))
    shop.apply(odd={"action": "boost", "brand": "Odd", "factor": 1e6})
    assert shop.ids("tea") == odd
    shop.apply(odd={"action": "pin", "products": ["odd 2"], "position": 3})
    made = shop.made("tea")
    assert made.items[2]["product_id"] == "odd 2"
    assert made.items[2]["score"] < made.items[1]["score"], "it has the score that it would have had"
    assert made.items[2]["source"] == "next-click"


def test_before_anything_was_learned_a_boost_multiplies_the_clicks() -> None:
    shop = Shop(learned=False)
    for at, (product_id, clicks) in enumerate({"cup": 9, "mug": 3, "jug": 2, "pot": 0}.items()):
        shop.shelf.put_factors(product_id.encode(), factors([0.0, 0.0], clicks=clicks, sequence=2 + at), ())
    assert shop.ids()[:5] == ["axe", "tea", "cup", "mug", "jug"]
    shop.apply(jugs={"action": "boost", "category": "Jugs", "factor": 3.0})  # (1 + 2) * 3 = 9 > 1 + 3
    assert shop.ids()[:5] == ["axe", "tea", "cup", "jug", "mug"]


def test_nothing_that_is_blocked_is_listed_and_the_list_is_filled_with_others() -> None:
    shop = Shop(length=3)
    shop.apply(cups={"action": "block", "category": "Cups"})
    assert shop.ids("tea") == ["jug", "pot", "axe"]
    assert not {"cup", "mug"} & set(shop.ids())


def test_a_cap_leaves_the_best_and_the_list_is_filled_with_others() -> None:
    shop = Shop(length=3)
    shop.apply(one={"action": "cap", "brand": "Lux", "most": 1})
    assert shop.ids("tea") == ["cup", "pot", "axe"]
    shop.apply(each={"action": "cap", "each": "brand", "most": 2})
    assert shop.ids("tea") == ["cup", "mug", "pot"]
    shop.apply(each={"action": "cap", "each": "category", "most": 1})
    assert shop.ids("tea") == ["cup", "jug", "pot"], "cups and jugs have other paths, though both are in Home"
    shop.apply(
        home={"action": "cap", "category": "Home", "most": 2}, each={"action": "cap", "each": "brand", "most": 1}
    )
    assert shop.ids("tea") == ["cup", "pot", "axe"], "what has no brand is not capped by it"


def test_a_pinned_product_counts_in_a_cap_that_holds_over_pins_too() -> None:
    shop = Shop()
    shop.apply(
        jug={"action": "pin", "products": ["jug"], "position": 2},
        mug={"action": "pin", "products": ["mug"], "position": 3},
        one={"action": "cap", "brand": "Lux", "most": 1},
    )
    assert shop.ids("tea") == ["pot", "jug", "axe"]


def test_caps_hold_for_what_a_short_list_is_filled_with() -> None:
    shop = Shop(length=6, learned=False)
    for number in range(50):
        shop.offer(f"lux {number}", brand="Lux", at=9.0)
    assert len(shop.ids()) == 6
    shop.apply(one={"action": "cap", "brand": "Lux", "most": 3})
    brands = [PRODUCTS.get(one, (0, "Lux", []))[1] for one in shop.ids()]
    assert brands.count("Lux") == 3
    assert len(brands) == 5, "there are two others"


def test_pins_and_caps_hold_over_exploration() -> None:
    policy = Exploration(ExplorationRule(share=0.5, nearest=1.0, per_user=255, top=0, per_list=2))
    shop = Shop(length=4, exploration=policy, explore_s=60.0)
    for number in range(3):
        shop.offer(f"new {number}", at=time.time(), brand="Nord")
        key = f"new {number}".encode()
        shop.shelf.put_vectors(key, vectors([0.4, 0.2]), ())
        shop.shelf.put_factors(key, factors([0.0, 0.0]), ())
    histories = [History.of([Click("tea", "view_item", 1.0)])]

    def listed() -> list[list[dict[str, Any]]]:
        return [shop.ranker.rank(histories, explore_for=[f"u{user}"])[0].items for user in range(20)]

    tried = [sum(item["source"] == "new" for item in items) for items in listed()]
    assert max(tried) == 2
    shop.apply(
        first={"action": "pin", "products": ["axe"]},
        nord={"action": "cap", "brand": "Nord", "most": 1},
        one={"action": "block", "products": ["new 1"]},
    )
    explored = 0
    for items in listed():
        found = [item["product_id"] for item in items]
        assert (len(found), len(set(found)), found[0]) == (4, 4, "axe")
        assert len({"pot", "new 0", "new 2"} & set(found)) <= 1
        assert "new 1" not in found
        explored += sum(item["source"] == "new" for item in items)
    assert explored, "new products still find their shoppers: others give way"


# --- where and when --------------------------------------------------------------------------------------------------


def test_a_rule_holds_in_its_scenarios_and_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    day = {"since": "2026-12-01T00:00:00Z", "until": "2026-12-02T01:00:00+01:00"}
    shop.put(
        RuleSet.model_validate_json(
            b"""{"rules": {
                "cart": {"action": "block", "brand": "Lux", "scenarios": ["cart", "default"]},
                "day": {"action": "block", "products": ["pot"], "since": "%s", "until": "%s"}
            }}"""
            % tuple(one.encode() for one in day.values())
        )
    )
    start = 1_796_083_200.0  # 2026-12-01T00:00:00Z
    for now, pots in ((start - 1, True), (start, False), (start + 86_399, False), (start + 86_400, True)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        assert shop.ids("tea") == ["pot", "axe"][not pots :]
        assert shop.ids("tea", narrowing=Narrowing(scenario="cart")) == ["pot", "axe"][not pots :]
        home = shop.ids("tea", narrowing=Narrowing(scenario="home"))
        assert home == [one for one in PLAIN if pots or one != "pot"]


def test_products_that_come_change_and_go_are_under_the_rules_at_once() -> None:
    shop = Shop()
    shop.apply(
        red={"action": "block", "attributes": {"colour": "red"}, "category": "Cups"},
        late={"action": "pin", "products": ["late"]},
    )
    assert shop.ids("tea") == PLAIN
    shop.offer("cup", 2, attributes={"colour": "red"})
    shop.offer("jug", 2, attributes={"colour": "red"})
    assert shop.ids("tea") == ["mug", "jug", "pot", "axe"]
    shop.offer("cup", 3, category=["Home"], attributes={"colour": "red"})
    shop.offer("late", category=["Home", "Cups"])
    assert shop.ids("tea") == ["late", "cup", "mug", "jug", "pot", "axe"]
    shop.offer("late", 2, category=["Cups"], attributes={"colour": "red"})
    assert shop.ids("tea") == ["cup", "mug", "jug", "pot", "axe"]
    for number in range(3 * ONE_BY_ONE_MAX):  # so many that all rows are looked at again, in longer arrays
        shop.offer(f"red {number}", category=["Cups"], attributes={"colour": "red"})
    assert shop.ids("tea") == ["cup", "mug", "jug", "pot", "axe"]
    shop.shelf.put_offer(b"red 1", None, [("revision", b"2")])
    shop.offer("red 1", 3, category=["Pots"], attributes={"colour": "red"})
    assert "red 1" in shop.ids("tea")


def test_a_record_of_no_known_form_leaves_the_rules_as_they_were() -> None:
    shop = Shop()
    shop.apply(lux={"action": "block", "brand": "Lux"})
    with pytest.raises(Exception, match="does not match any of the expected tags"):
        shop.shelf.rules.published.put(KEY, b'{"rules": {"a": {"action": "sell"}}}', ())
    assert shop.ids("tea") == ["pot", "axe"]
    shop.shelf.rules.published.put(KEY, None, ())
    assert shop.ids("tea") == PLAIN


def test_blocks_hold_in_lists_that_are_for_nobody_by_the_names_of_these() -> None:
    shop = Shop()
    lists = ShelfLists(shop.shelf, lambda: None, keeps_one=True)

    def new() -> set[str]:
        return {item["product_id"] for item in lists.new(PageQuery())}

    def brands() -> set[str]:
        return {item["brand"] for item in lists.related_brands("Lux", 5)}

    assert (new(), brands()) == (set(PRODUCTS), {"Nord"})
    shop.apply(
        lux={"action": "block", "brand": "Lux", "scenarios": ["new"]},
        pot={"action": "block", "products": ["pot"]},
        pin={"action": "pin", "products": ["cup"]},
    )
    assert (new(), brands()) == ({"axe"}, set())
    assert {item["product_id"] for item in lists.trending(PageQuery())} == set(PRODUCTS) - {"pot"}
    assert [(one["name"], one["is_on"], one["products_for_sale"]) for one in lists.rules()] == [
        ("lux", True, 4),
        ("pot", True, 1),
        ("pin", True, 1),
    ]


# --- what holds of every list ----------------------------------------------------------------------------------------

IDS = st.lists(st.sampled_from([*PRODUCTS, "gone"]), min_size=1, max_size=3)
ABOUT = st.one_of(
    st.fixed_dictionaries({"products": IDS}),
    st.fixed_dictionaries({"brand": st.sampled_from(["Lux", "Nord", "None"])}),
    st.fixed_dictionaries({"category": st.sampled_from(["Home", "Cups", "Jugs", "None"])}),
)
MOST = st.integers(1, 3)
RULE = st.one_of(
    st.builds(lambda products, at: {"action": "pin", "products": products, "position": at}, IDS, st.integers(1, 6)),
    st.builds(
        lambda about, action, factor: {"action": action, "factor": factor} | about,
        ABOUT,
        st.sampled_from(["boost", "bury"]),
        st.floats(1.5, 1e6),
    ),
    st.builds(lambda about: {"action": "block"} | about, ABOUT),
    st.builds(lambda about, most: {"action": "cap", "most": most} | about, ABOUT, MOST),
    st.builds(lambda each, most: {"action": "cap", "most": most, "each": each}, st.sampled_from(["brand"]), MOST),
)


def is_about(rule: dict[str, Any], product_id: str) -> bool:
    _, brand, path = PRODUCTS[product_id]
    return (
        ("products" not in rule or product_id in rule["products"])
        and ("brand" not in rule or rule["brand"] == brand)
        and ("category" not in rule or rule["category"] in path)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(RULE, max_size=6),
    st.lists(st.sampled_from([*PRODUCTS, "gone"]), max_size=4),
    st.sets(st.sampled_from(list(PRODUCTS))),
    st.integers(1, 7),
    st.booleans(),
    st.sampled_from([0.0, 0.6]),
)
def test_whatever_the_rules_a_list_is_one_that_may_be(
    rules: list[dict[str, Any]], clicked: list[str], sold_out: set[str], length: int, learned: bool, diversity: float
) -> None:
    shop = Shop(length, learned=learned, diversity=diversity)
    for product_id in sold_out:
        shop.offer(product_id, 2, state="sold_out")
    before = shop.made(*clicked)
    shop.apply(**{f"rule {number}": rule for number, rule in enumerate(rules)})
    found = shop.ids(*clicked)
    blocks, caps = ([rule for rule in rules if rule["action"] == action] for action in ("block", "cap"))
    free = set(PRODUCTS) - sold_out - set(clicked[:3])
    free = {one for one in free if not any(is_about(rule, one) for rule in blocks)}
    assert set(found) <= free
    assert len(found) == len(set(found)) <= length

    def is_full(rule: dict[str, Any], other: str) -> bool:
        """No more than the cap are in the list; True if the other one would be one more."""
        brand = PRODUCTS[other][1]
        if not is_about(rule, other) or ("each" in rule and brand is None):
            return False
        same = [one for one in found if is_about(rule, one) and ("each" not in rule or PRODUCTS[one][1] == brand)]
        assert len(same) <= rule["most"]
        return len(same) == rule["most"]

    for product_id in found:
        for cap in caps:
            is_full(cap, product_id)
    if len(found) < length:
        assert all(any(is_full(cap, one) for cap in caps) for one in free - set(found)), "it could be longer"
    shop.apply()
    assert shop.made(*clicked).items == before.items, "when they are gone, it is as if they had never been"


# --- what is wrong with them -----------------------------------------------------------------------------------------


def test_every_fault_of_a_file_is_told_by_its_line() -> None:
    text = """\
rules:
  a: {action: sell}
  b:
    action: boost
    factor: 0.5
    brand: Lux
  c: {action: block}
  d:
    action: pin
    products: [a, 7]
    since: 2026-12-02T00:00:00Z
    until: 2026-12-01T00:00:00Z
  e: {action: cap, most: 3}
  none: {brand: Lux}
  f:
    action: block
    brands: [Lux]
"""
    with pytest.raises(BadDocument) as bad:
        parse_document(text, RuleSet, "f")
    assert str(bad.value).splitlines() == [
        "f:2: a: its action 'sell' is none of 'pin', 'boost', 'bury', 'block', 'cap'",
        "f:5: factor: Input should be greater than 1",
        "f:7: block: say of what: products, brand, category or attributes",
        "f:10: products: Input should be a valid string; YAML takes it for something else: put it into quotes",
        "f:12: until: it ends before it begins: since is 2026-12-02 00:00:00+00:00",
        "f:13: cap: say of what: each, products, brand, category or attributes",
        "f:14: none: say its action",
        "f:17: brands: Extra inputs are not permitted",
    ]


def test_what_no_reader_would_take_is_refused_before_it_is_published() -> None:
    for rules in (
        {"a": {"action": "block", "brand": "L\0x"}},
        {"a\0": {"action": "block", "brand": "Lux"}},
        {f"{number}": {"action": "block", "brand": "Lux"} for number in range(RULES_MAX + 1)},
    ):
        with pytest.raises(ValueError, match=r"should match pattern|at most 500"):
            RuleSet.model_validate({"rules": rules})
