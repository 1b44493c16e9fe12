"""What an evaluation tells: figures of each model for programs, and Markdown rows for people."""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from encoders.next_click import Floats
from streams.evaluation.comparison import Difference, compare, pairs
from streams.evaluation.jobs import Outcome
from streams.evaluation.measures import FEW_CLICKS, HISTORY_LENGTHS, LISTED, PUBLISHED, measured, measured_by_history
from streams.evaluation.moments import Ints
from streams.evaluation.schedules import Judged, Plan
from streams.evaluation.stream import Stream

COMPARED = ("hr_at_10", "ndcg_at_10")
COLUMNS = (
    *("model", "events", "HR@10", "HR@20", "NDCG@10", "MRR", "coverage", "popularity", "likeness"),
    "new shelf HR@10",
    *("update us", "list us", "memory MiB"),
)

Figures = dict[str, Any]
Compared = tuple[str, str, list[Difference]]


def ranks_of(outcome: Outcome) -> Floats:
    """The ranks in the list that the plan judges first."""
    return outcome.published_ranks if outcome.job.plan.judged_list == "published" else outcome.ranks


def figures(outcome: Outcome, stream: Stream, lengths: Ints) -> Figures:
    """All that was measured of one model; None where nothing was judged.

    lengths  (N,) clicks of each click's user before it
    """
    plan, users = outcome.job.plan, stream.users
    shelf = {f"new_shelf_{name}": value for name, value in measured(outcome.shelf_ranks, users).items()}
    published = {"published": measured(outcome.published_ranks, users)} if plan.judged_list == "both" else {}
    return {
        "model": outcome.job.label,
        "protocol": plan.protocol,
        **({"delay_s": plan.delay_s, "delay_history": plan.delay_history} if plan.protocol == "delayed" else {}),
        "list": plan.judged_list,
        "every": plan.every,
        "seed": plan.seed,
        **measured(ranks_of(outcome), users),
        "coverage": outcome.coverage,
        "popularity": outcome.popularity,
        "likeness": outcome.likeness,
        **shelf,
        "by_history": measured_by_history(ranks_of(outcome), users, lengths),
        **published,
        "update_us": outcome.update_us,
        "list_us": outcome.list_us,
        "peak_mib": outcome.peak_mib,
        "growth_mib": outcome.growth_mib,
        "model_mib": outcome.model_mib,
    }


def compared(
    outcomes: Sequence[Outcome], found: Sequence[Figures], stream: Stream, asked: Sequence[tuple[str, str]]
) -> list[Compared]:
    """The differences of the pairs of labels that were asked for, or else of those that comparison.pairs chooses."""
    labels = [outcome.job.label for outcome in outcomes]
    chosen = asked or pairs(labels, [each["hr_at_10"] for each in found], [o.job.model.name for o in outcomes])
    ranks = {outcome.job.label: ranks_of(outcome) for outcome in outcomes}
    differences = []
    for first, second in chosen:
        if first in ranks and second in ranks:
            each = [compare(ranks[first], ranks[second], stream.users, measure) for measure in COMPARED]
            differences.append((first, second, [difference for difference in each if difference is not None]))
    return differences


# --- Markdown ----------------------------------------------------------------------------------------------------


def markdown(
    outcomes: Sequence[Outcome],
    found: Sequence[Figures],
    differences: Sequence[Compared],
    stream: Stream,
    left: Judged,
    seen_events: Iterable[str],
) -> str:
    """The whole report."""
    plan = outcomes[0].job.plan
    both = plan.judged_list == "both"
    columns = (*COLUMNS, f"HR@10 published, of {PUBLISHED}") if both else COLUMNS
    parts = [
        where(),
        what(stream, plan, left, seen_events),
        table(columns, [_row(outcome, each, both) for outcome, each in zip(outcomes, found, strict=True)]),
        "HR@10 by the clicks that the user had before:",
        table(
            ("model", *HISTORY_LENGTHS),
            [[each["model"], *(_hits(each["by_history"][name]) for name in HISTORY_LENGTHS)] for each in found],
        ),
    ]
    if differences:
        parts += [
            "Differences on the clicks that both were judged on, with their 95 % intervals:",
            table(("model", "against", "events", "HR@10", "NDCG@10"), [_difference(*each) for each in differences]),
        ]
    parts.append(
        f"± is the standard error; it allows for likeness among the clicks of a user. Coverage: the share of the known "
        f"products that were in any first {LISTED}. Popularity: clicks so far of what is in a first {LISTED}, as a "
        f"multiple of a known product's mean. Likeness: the mean cosine of every two in a first {LISTED}, seen from "
        f"the mean of all products' vectors. New shelf: products with fewer than {FEW_CLICKS} clicks, ranked among "
        "such. Update, list: mean time to learn one click, and to score every known product once. Memory: what the "
        "process grew by at most, compiled code included, and in brackets the pickled model."
    )
    return "\n\n".join(parts)


def where() -> str:
    """A line: the command, the commit, the day, the machine."""
    return (
        f"`{command()}` at {commit()}, {time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores, one for each model, "
        f"load {os.getloadavg()[0]:.1f} at the end; Python {platform.python_version()}, "
        f"numpy {version('numpy')}, numba {version('numba')}"
    )


def what(stream: Stream, plan: Plan, left: Judged, seen_events: Iterable[str]) -> str:
    """A paragraph: the clicks, the protocol, and what was not judged for which reason."""
    protocol = {
        "prequential": "each click is predicted, then learned",
        "split": "nothing is learned after the warm-up, but histories grow",
        "delayed": "each click is learned with a delay" + (", and known of its user" if plan.delay_history else ""),
    }[plan.protocol]
    unseen = ", ".join(sorted(seen_events)) or "nothing"
    repeats = "of what the user had" if plan.repeats else "of what the user had clicked before"
    judged = int(left.mask.sum()) + left.passed_over
    return (
        f"{len(stream):,} clicks of {int(stream.users.max()) + 1:,} users on {int(stream.known[-1]):,} products; "
        f"{protocol}. The first {left.warm_up:,} clicks are the warm-up; of the later ones {judged:,} can be judged, "
        f"{left.first_clicks:,} are the first of a product that nobody could know, and {left.repeats:,} are repeats "
        f"{repeats}. Not listed again: what the user had under {unseen}."
        + (f" {stream.twice:,} lines came twice and count once." if stream.twice else "")
        + (f" {stream.passed_over:,} updates of the catalogue are no upserts." if stream.passed_over else "")
    )


def command() -> str:
    """What was typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def commit() -> str:
    """The commit of this code, with -dirty where it was changed since; the version where there is no repository."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return ""
        return done.stdout.strip()

    if git("rev-parse", "--show-toplevel") != str(root):  # a repository around an installed package is not ours
        return f"version {version('freshet')}"
    return git("describe", "--always", "--dirty", "--exclude", "*")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join(map(row, [columns, ["---"] * len(columns), *rows]))


def row(cells: Sequence[object]) -> str:
    """A line of one."""
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def _row(outcome: Outcome, found: Figures, both: bool) -> list[str]:
    plan = outcome.job.plan
    return [
        found["model"],
        f"{found['events']:,}" + (f", 1 in {plan.every}" if plan.every > 1 else ""),
        _hits(found),
        *(_number(found[name], "{:.4f}") for name in ("hr_at_20", "ndcg_at_10", "mrr")),
        _number(found["coverage"], "{:.1%}"),
        _number(found["popularity"], "{:.1f}"),
        _number(found["likeness"], "{:.2f}"),
        _hits(found, "new_shelf_"),
        _number(found["update_us"], "{:,.0f}"),
        _number(found["list_us"], "{:,.0f}"),
        f"{found['growth_mib']:,.0f} ({found['model_mib']:,.1f})",
        *([_hits(found["published"])] if both else []),
    ]


def _difference(first: str, second: str, differences: Sequence[Difference]) -> list[str]:
    events = f"{differences[0].events:,}" if differences else "0"
    cells = [f"{each.difference:+.4f} ({each.low:+.4f} to {each.high:+.4f})" for each in differences]
    return [first, second, events, *(cells or ["", ""])]


def _hits(found: Figures, prefix: str = "") -> str:
    value, stderr = found[f"{prefix}hr_at_10"], found[f"{prefix}hr_at_10_stderr"]
    return _number(value, "{:.4f}") + (f" ± {stderr:.4f}" if stderr is not None else "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None or np.isnan(value) else form.format(value)
