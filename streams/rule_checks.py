"""What is likely wrong with rules that can be applied all the same."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

from streams.rules import BLOCKS_ALONE, Block, Pin, Rule, RuleSet


def doubts(rules: RuleSet, now: float, products: Iterable[Mapping[str, Any]] | None) -> Iterator[str]:
    """Each as a sentence.

    now       s since 1970
    products  of the shop, as streams.events.ProductFields with their product_id; None: nothing is known of any
    """
    alive = {}
    for name, rule in rules.rules.items():
        if rule.until is not None and rule.until.timestamp() <= now:
            yield f"{name}: its time is over since {rule.until.isoformat()}"
        else:
            alive[name] = rule
        if not isinstance(rule, Block) and (idle := BLOCKS_ALONE.intersection(rule.scenarios)):
            yield f"{name}: in {', '.join(sorted(idle))} it does nothing: those lists obey blocks alone"
    pins = [(name, rule) for name, rule in alive.items() if isinstance(rule, Pin)]
    for (name, rule), (other, second) in combinations(pins, 2):
        if rule.position == second.position and not _never_meet(rule, second):
            yield f"{other}: {name} has position {rule.position} already, so its products stand behind those"
    if products is not None:
        yield from _unknown(rules, products)


def _never_meet(one: Rule, other: Rule) -> bool:
    """True if no list obeys both."""
    if one.scenarios and other.scenarios and set(one.scenarios).isdisjoint(other.scenarios):
        return True
    spans = ((one.until, other.since), (other.until, one.since))
    return any(until is not None and since is not None and until <= since for until, since in spans)


def _unknown(rules: RuleSet, products: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Names that no product of the shop has."""
    known: set[tuple[str, Any]] = set()
    for fields in products:
        known.add(("product", fields["product_id"]))
        known.add(("brand", fields.get("brand")))
        known |= {("category", category) for category in fields.get("category") or ()}
        known |= {("attribute", pair) for pair in (fields.get("attributes") or {}).items()}
    for name, rule in rules.rules.items():
        named: list[tuple[str, Any]] = [("product", product_id) for product_id in getattr(rule, "products", ())]
        if not isinstance(rule, Pin):
            named += [(kind, told) for kind in ("brand", "category") if (told := getattr(rule, kind)) is not None]
            named += [("attribute", pair) for pair in rule.attributes.items()]
        for kind, told in named:
            if (kind, told) not in known:
                shown = f"{told[0]}: {told[1]}" if kind == "attribute" else told
                yield f"{name}: the shop has no {kind} {shown!r}"
