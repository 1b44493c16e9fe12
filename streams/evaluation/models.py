"""The models that can be evaluated, by name. A model's module is imported when it is made: some bring torch."""

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import NamedTuple

from encoders.recommender import Recommender
from streams.evaluation.stream import StreamFacts

REFITS = 20  # of a model that is fitted again now and then, over the whole stream: every 5 %


class UnknownModel(ValueError):
    """No model has this name; str() lists those that there are."""


class Entry(NamedTuple):
    """Where a model is, and how it is run where nobody says otherwise."""

    factory: str  # module.attribute
    every: int = 1  # each so many-th click is judged: more than 1 for what is slow
    refits: int = REFITS  # over the whole stream


MODELS = {
    "freshet": Entry("streams.evaluation.live.FreshetModel"),
    "popularity": Entry("encoders.baselines.popularity.RecentPopularity"),
    "item-knn": Entry("encoders.baselines.item_knn.ItemKnn"),
    "user-knn": Entry("encoders.baselines.user_knn.UserKnn"),
    "transitions": Entry("encoders.baselines.transitions.Transitions"),
    "vmis-knn": Entry("encoders.baselines.vmis_knn.VmisKnn"),
    "mf-sgd": Entry("encoders.baselines.mf_sgd.IncrementalFactorization"),
    "als": Entry("encoders.baselines.als.AlternatingLeastSquares", refits=100),
    "ease": Entry("encoders.baselines.ease.Ease", refits=50),
    "two-towers": Entry("encoders.baselines.two_towers.TwoTowers"),
}


class Wanted(NamedTuple):
    """A model to evaluate, as it was asked for."""

    name: str
    factory: str
    every: int
    refits: int = REFITS


def wanted(asked: str, every: int = 1) -> Wanted:
    """The model of `name`, `name:every=5:refits=50`, or the path of one of your own, `module.attribute`.

    every: what is meant where neither the text nor the table says more

    Raises UnknownModel; ValueError for an option that is not understood.
    """
    name, *options = asked.split(":")
    if name in MODELS:
        entry = MODELS[name]
    elif "." in name:
        entry = Entry(name)
    else:
        raise UnknownModel(
            f"there is no model {name!r}: take one of {', '.join(MODELS)}, or module.attribute of one of your own"
        )
    numbers = {"every": max(every, entry.every), "refits": entry.refits}
    for option in options:
        key, _, value = option.partition("=")
        if key not in numbers or not value.isdecimal() or int(value) < 1:
            raise ValueError(f"{asked!r}: the options are every=N and refits=N, with N from 1, as in {name}:every=5")
        numbers[key] = int(value)
    return Wanted(name, entry.factory, **numbers)


def make(model: Wanted, facts: StreamFacts, seed: int) -> Recommender:
    """The recommender, made with those of these arguments that its factory takes.

    seed         of everything random in it
    facts        StreamFacts
    content      (P, D) float32 vectors by row, or None
    refit_every  clicks after which a model that is fitted anew should be

    Raises UnknownModel if there is nothing at its path.
    """
    module, _, attribute = model.factory.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UnknownModel(f"there is no model at {model.factory}: {error}") from error
    offered = {
        "seed": seed,
        "facts": facts,
        "content": facts.fused,
        "refit_every": max(1, facts.events_total // model.refits),
    }
    taken = inspect.signature(made).parameters
    recommender: Recommender = made(**{name: value for name, value in offered.items() if name in taken})
    return recommender


def source_of(factory: str) -> Path | None:
    """The file of the model's module, where there is one."""
    try:
        found = importlib.util.find_spec(factory.rpartition(".")[0])
    except ModuleNotFoundError:
        return None
    return Path(found.origin) if found is not None and found.origin is not None else None
