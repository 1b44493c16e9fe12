"""What an experiment has shown so far: rates by variant with their intervals, and whether the split can be trusted."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from encoders.experiment_statistics import (
    Estimate,
    Ratio,
    rate,
    rate_difference,
    ratio,
    ratio_difference,
    ratio_interval,
    sign_p,
    split_p,
)
from store.experiments import ExperimentRow, ExperimentStore, VariantSums
from streams.experiments import Experiment

SPLIT_IS_OFF = 0.001  # p of the split, below which nothing of the report can be believed: Fabijan et al., KDD 2019
FEW_USERS = 1_000  # of a variant
RATES = {
    "clicked": "clicked in a list",
    "put_into_cart": "put into the basket from a list",
    "bought": "bought from a list",
    "put_into_cart_at_all": "put into the basket at all",
    "bought_at_all": "bought at all",
}
SPLIT_WARNING = (
    "the split is off (sample ratio mismatch, p = {p:.1g}): believe nothing below until it is known why. Look for "
    "users that one variant loses or gains: an error or a delay in one of them, robots, a shop that publishes the "
    "clicks of one part of its users only; whether the weights are those of the file; and, where lists are asked for "
    "over HTTP, whether one variant brings more people to do anything at all: a user counts from her first event"
)
NOT_FROM_LISTS = (
    "no event is of a list of this experiment: does the shop send the list's own list_id with the clicks on its items?"
)
NO_POSITIONS = "{missing} of {clicks} clicks told no position in their list, so that they count for neither variant"


class UnknownExperiment(LookupError):
    """No experiment has this name; str() names those that there are."""


def report_of(store: ExperimentStore, name: str | None = None) -> dict[str, Any]:
    """The report of an experiment, by default of the one that was started last.

    Rates are shares of the variant's users that did something at least once; a difference is to the first variant.
    Raises UnknownExperiment, StoreUnavailable.
    """
    rows = store.all()
    chosen = [row for row in rows if name in (None, row.name)]
    if not chosen:
        named = ", ".join(row.name for row in rows) or "none"
        raise UnknownExperiment(f"there is no experiment {name or 'yet'}: there are {named}")
    return made_report(chosen[0], store.sums(chosen[0].name))


def made_report(row: ExperimentRow, sums: Mapping[str, VariantSums]) -> dict[str, Any]:
    """The same from the sums of its variants."""
    experiment = experiment_of(row)
    head = summary(row) | {"traffic": experiment.traffic}
    if experiment.mode == "interleave":
        return head | _interleaved(experiment, sums.get("", _nothing("")))
    counted = [sums.get(variant.name, _nothing(variant.name)) for variant in experiment.variants]
    weights = [variant.weight for variant in experiment.variants]
    users = [one.users for one in counted]
    p = split_p(users, weights)
    variants = [
        {
            "name": one.variant,
            "weight": weight,
            "users": one.users,
            "expected_users": round(sum(users) * weight / sum(weights), 1),
            "lists": one.lists,
            "clicks": one.clicks,
            "measures": _measures(one, None if one is counted[0] else counted[0]),
        }
        for one, weight in zip(counted, weights, strict=True)
    ]
    warnings = [SPLIT_WARNING.format(p=p)] if p < SPLIT_IS_OFF else []
    warnings += _warnings(counted)
    return head | {"variants": variants, "split": {"p": p, "is_off": p < SPLIT_IS_OFF}, "warnings": warnings}


def summary(row: ExperimentRow) -> dict[str, Any]:
    """What is told of an experiment beside its counts."""
    return {
        "name": row.name,
        "mode": experiment_of(row).mode,
        "started_at": _iso(row.started_at),
        "stopped_at": None if row.stopped_at is None else _iso(row.stopped_at),
    }


def experiment_of(row: ExperimentRow) -> Experiment:
    """As it was started."""
    return Experiment.model_validate_json(row.document)


def document_of(experiment: Experiment) -> str:
    """As it is kept: the same text for the same experiment."""
    return orjson.dumps(experiment.model_dump(mode="json", exclude_defaults=True), option=orjson.OPT_SORT_KEYS).decode()


# --- variants ----------------------------------------------------------------------------------------------------


def _measures(one: VariantSums, control: VariantSums | None) -> list[dict[str, Any]]:
    measures = []
    for name, words in RATES.items():
        own = rate(getattr(one, name), one.users)
        difference = None
        if control is not None:
            difference = rate_difference(own, rate(getattr(control, name), control.users))
        measures.append(_measure(name, words, own, difference, users=getattr(one, name)))
    clicks = _clicks_per_list(one)
    of_control = None if control is None else _clicks_per_list(control)
    if clicks is not None:
        difference = None if of_control is None else ratio_difference(clicks, of_control)
        measures.append(_measure("clicks_per_list", "clicks per list", ratio_interval(clicks), difference))
    return measures


def _clicks_per_list(one: VariantSums) -> Ratio | None:
    return ratio(one.users, one.lists, one.clicks, one.lists_2, one.clicks_2, one.lists_clicks)


def _measure(
    name: str, words: str, made: Estimate, difference: Estimate | None, *, users: int | None = None
) -> dict[str, Any]:
    """users: that did it; None: it is no rate of users."""
    told = None if difference is None else {**_told(difference), "is_clear": difference.low > 0 or difference.high < 0}
    return {"measure": name, "words": words, "users": users, **_told(made), "difference": told}


def _told(made: Estimate) -> dict[str, float]:
    return {name: round(value, 6) for name, value in made._asdict().items()}


# --- drawn lists -------------------------------------------------------------------------------------------------


def _interleaved(experiment: Experiment, sums: VariantSums) -> dict[str, Any]:
    """Who wins a user: the variant with more of her clicks."""
    first, second = (variant.name for variant in experiment.variants)
    wins, losses = sums.second_wins, sums.first_wins
    missing = sums.clicks - sums.team_clicks
    warnings = _warnings([sums])
    if missing:
        warnings.append(NO_POSITIONS.format(missing=missing, clicks=sums.clicks))
    return {
        "variants": [{"name": first, "users_won": losses}, {"name": second, "users_won": wins}],
        "users": sums.users,
        "lists": sums.lists,
        "clicks": sums.clicks,
        "ties": sums.ties,
        "preference": {  # of the users that are no tie, the share that the second variant wins
            "variant": second,
            "users": wins + losses,
            **_told(rate(wins, wins + losses)),
            "p": sign_p(wins, losses),
        },
        "warnings": warnings,
    }


def _warnings(counted: Sequence[VariantSums]) -> list[str]:
    warnings = []
    users = [one.users for one in counted]
    if sum(users) and not any(one.clicked + one.put_into_cart + one.bought for one in counted):
        warnings.append(NOT_FROM_LISTS)
    if min(users) < FEW_USERS:
        warnings.append(f"few users so far ({min(users)}): what looks like a difference may be none tomorrow")
    return warnings


def _nothing(variant: str) -> VariantSums:
    return VariantSums(variant, *[0] * (len(VariantSums._fields) - 1))


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
