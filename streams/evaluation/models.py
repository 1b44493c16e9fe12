"""The models that can be evaluated, by name. A model's module is imported when it is made: some bring torch."""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
SPEEDS = ("popularity:half_life_clicks=200", "popularity", "popularity:half_life_clicks=inf")
EVERY_MODEL = ("freshet", *SPEEDS, *(name for name in MODELS if name not in ("freshet", "popularity")))
"""What is evaluated where nobody names any."""


class Wanted(NamedTuple):
    """A model to evaluate, as it was asked for."""

    name: str  # with its options, but for every and refits
    factory: str
    every: int
    refits: int = REFITS
    options: tuple[tuple[str, float], ...] = ()  # numbers for the factory, by parameter or parameter.part

    @property
    def content_counts(self) -> bool:
        """True if its scores may depend on the products' vectors."""
        try:
            return not {"facts", "content"}.isdisjoint(inspect.signature(_factory(self.factory)).parameters)
        except UnknownModel:  # told where it is made
            return False


def wanted(asked: str, every: int = 1) -> Wanted:
    """The model of `name`, `name:every=5:refits=50`, or the path of one of your own, `module.attribute`.

    Other options are numbers that the factory takes: `popularity:half_life_clicks=200`; where it takes several under
    one name, each by its own: `freshet:event_weights.purchase=2`.

    every: what is meant where neither the text nor the table says more

    Raises UnknownModel; ValueError for an option that is not understood.
    """
    name, *texts = asked.split(":")
    if name in MODELS:
        entry = MODELS[name]
    elif "." in name:
        entry = Entry(name)
    else:
        raise UnknownModel(
            f"there is no model {name!r}: take one of {', '.join(MODELS)}, or module.attribute of one of your own"
        )
    counts = {"every": max(every, entry.every), "refits": entry.refits}
    options: dict[str, float] = {}
    for text in texts:
        option, _, value = text.partition("=")
        if option in counts:
            if not value.isdecimal() or int(value) < 1:
                raise ValueError(f"{asked!r}: {option} is a whole number from 1, as in {name}:{option}=5")
            counts[option] = int(value)
        else:
            options[option] = _number(asked, option, value)
    if options:
        try:
            _arguments(_factory(entry.factory), options)
        except ValueError as error:
            raise ValueError(f"{asked!r}: {error}") from error
    label = ":".join([name, *(f"{option}={value:g}" for option, value in options.items())])
    return Wanted(label, entry.factory, **counts, options=tuple(options.items()))


def make(model: Wanted, facts: StreamFacts, seed: int) -> Recommender:
    """The recommender, made with the model's options and with those of these arguments that its factory takes.

    seed         of everything random in it
    facts        StreamFacts
    content      (P, D) float32 vectors by row, or None
    refit_every  clicks after which a model that is fitted anew should be

    Raises UnknownModel if there is nothing at its path.
    """
    made = _factory(model.factory)
    offered = {
        "seed": seed,
        "facts": facts,
        "content": facts.fused,
        "refit_every": max(1, facts.events_total // model.refits),
    }
    taken = inspect.signature(made).parameters
    given = {name: value for name, value in offered.items() if name in taken} | _arguments(made, dict(model.options))
    recommender: Recommender = made(**given)
    return recommender


def _factory(path: str) -> Callable[..., Any]:
    module, _, attribute = path.rpartition(".")
    try:
        made: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UnknownModel(f"there is no model at {path}: {error}") from error
    return made


def _number(asked: str, option: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{asked!r}: options are numbers, as in every=5, and {option}={value} is none") from None


def _arguments(made: Callable[..., Any], options: Mapping[str, float]) -> dict[str, Any]:
    """The options as arguments: a number in place of a default that is one, or of a part of a default."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(made).parameters.items()}
    arguments: dict[str, Any] = {}
    for option, value in options.items():
        name, _, part = option.partition(".")
        default: Any = arguments.get(name, defaults.get(name))
        if not part and type(default) in (int, float):
            arguments[name] = _like(default, option, value)
        elif part and isinstance(default, Mapping):
            arguments[name] = {**default, part: value}
        elif part in getattr(default, "_fields", ()):
            arguments[name] = default._replace(**{part: _like(getattr(default, part), option, value)})
        else:
            numbers = [name for name, default in defaults.items() if type(default) in (int, float)]
            parts = [f"{name}.PART" for name, default in defaults.items() if isinstance(default, Mapping | tuple)]
            raise ValueError(f"no number {option}: its options are {', '.join(['every', 'refits', *numbers, *parts])}")
    return arguments


def _like(default: float, option: str, value: float) -> float:
    """As the default: whole if that is."""
    if isinstance(default, int) and not value.is_integer():
        raise ValueError(f"{option}={value:g}: write whole numbers, like {default}")
    return type(default)(value)


def source_of(factory: str) -> Path | None:
    """The file of the model's module, where there is one."""
    try:
        found = importlib.util.find_spec(factory.rpartition(".")[0])
    except ModuleNotFoundError:
        return None
    return Path(found.origin) if found is not None and found.origin is not None else None
