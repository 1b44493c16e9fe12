"""What gives new products their share of the lists, by the settings."""

from encoders.exploration import Exploration
from encoders.exploration_step import Rule
from streams.settings import Settings


def rule_of(settings: Settings) -> Rule:
    """The rule that the settings explore_... are."""
    return Rule(
        share=settings.explore_share,
        impressions=settings.explore_impressions,
        nearest=settings.explore_nearest,
        per_list=settings.explore_per_list,
        per_user=settings.explore_per_user,
    )


def exploration_of(settings: Settings) -> Exploration | None:
    """One that has shown nothing yet; None: the share is 0."""
    return Exploration(rule_of(settings)) if settings.explore_share > 0 else None
