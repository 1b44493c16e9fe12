"""`freshet train transfer`, from another shop's version and a folder of products to a version for this shop."""

from pathlib import Path
from typing import Any

import numpy as np

from encoders.alignment import Alignment
from encoders.taught_fusion import TaughtFusion
from encoders.training.loop import Run
from encoders.training.transfer import TransferRule, transfer
from streams.evaluation.encoder_figures import Figures, Rows, Split, recalls, split
from streams.evaluation.features import Features, facts_of
from streams.evaluation.labelled import Labelled
from streams.evaluation.report import table
from streams.evaluation.taught import hashes, read_taught, write_taught
from streams.training.runs import checksum, finished, run_of
from streams.training.session import Session
from streams.training.views import alike

SPLITS = 5  # that the figures are means of: few-shot figures of one hang on which pairs were drawn
MEASURES = {
    "words_to_picture_r_at_1": "words to picture R@1",
    "words_to_picture_r_at_10": "R@10",
    "picture_to_words_r_at_10": "picture to words R@10",
    "same_type_at_1": "same type",
}


def train_transfer(
    session: Session, folder: Path, columns: str, out: Path, rule: TransferRule, start: Path, shots: tuple[int, ...]
) -> str:
    """A version whose heads have learned on from the start is in the folder out; what none, few and all pairs give."""
    labelled, features = session.shop(folder, columns)
    fusion, _ = read_taught(start, session.settings, features)
    options = session.options
    parts = split(len(features.title), options.seed)
    there = with_picture(features, parts.taught)
    learns_from = checksum(features.views[:, there], features.words[there])
    identity = {
        "task": "transfer",
        "rule": rule._asdict(),
        "data": learns_from,
        "start": checksum(*fusion.heads.state().values()),
    }
    with run_of(options, identity, processes=session.processes, bars=session.bars) as run:
        heads = learned(fusion.heads, features, there, rule, run)
    if not session.processes.is_first:
        return ""
    counts = [0, *(count for count in shots if count < len(there)), len(there)]
    found = figures_by_shots(session, labelled, features, fusion, rule, counts)
    known = hashes(features)
    about: dict[str, Any] = {
        "task": "transfer",
        "taught": [known[row] for row in parts.taught.tolist()],
        "start": str(start),
        "data": learns_from,
        "rule": rule._asdict(),
        "seed": options.seed,
        "figures": found,
    }
    # Another shop's maps of pictures and words alone found no more of the same kind than the networks' own vectors.
    version = write_taught(out, session.settings, fusion._replace(heads=heads, alone=None), about)
    finished(options)
    told = f"{len(parts.held_out):,} products held out; the mean of {SPLITS} splits, and its spread:"
    return f"{out}: version {version.fingerprint}.\n\n{told}\n\n{told_of(found)}"


def learned(start: Alignment, features: Features, rows: Rows, rule: TransferRule, run: Run) -> Alignment:
    """Heads that have learned on from these products."""
    return transfer(start, features.views[:, rows], features.words[rows], rule, run)


def figures_by_shots(
    session: Session,
    labelled: Labelled,
    features: Features,
    fusion: TaughtFusion,
    rule: TransferRule,
    counts: list[int],
) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation over the splits, by how many pairs are taught and by MEASURES."""
    bar = session.bars.add_task("zero and few shots", total=SPLITS * len(counts))
    facts = facts_of(labelled.products)
    found: dict[str, list[Figures]] = {}
    for seed in range(session.options.seed, session.options.seed + SPLITS):
        parts = split(len(features.title), seed)
        there = with_picture(features, parts.taught)
        for place, count in enumerate(counts):
            run = Run(seed, session.options.device, session.options.threads)
            rows = there if place == len(counts) - 1 else there[:count]
            heads = fusion.heads if count == 0 else learned(fusion.heads, features, rows, rule, run)
            vectors = fusion._replace(heads=heads).fuse(features.image, features.said, facts)
            own = recalls(heads, features, Split(rows, parts.held_out)) | alike(vectors, labelled, parts.held_out)
            found.setdefault(_name(place, count, len(counts)), []).append(own)
            session.bars.advance(bar)
    return {
        name: {
            measure: (float(np.mean(values)), float(np.std(values)))
            for measure in MEASURES
            if (values := [own[measure] for own in each if measure in own])
        }
        for name, each in found.items()
    }


def with_picture(features: Features, rows: Rows) -> Rows:
    """Those of these rows that have one."""
    return rows[features.image[rows].any(axis=1)]


def told_of(found: dict[str, dict[str, tuple[float, float]]]) -> str:
    """The figures as a Markdown table."""
    measures = [measure for measure in MEASURES if measure in next(iter(found.values()))]
    rows = [
        [name, *(f"{own[measure][0]:.3f} ± {own[measure][1]:.3f}" for measure in measures)]
        for name, own in found.items()
    ]
    return table(("pairs", *(MEASURES[measure] for measure in measures)), rows)


def _name(place: int, count: int, of: int) -> str:
    if place == 0:
        return "none (zero-shot)"
    return f"all ({count})" if place == of - 1 else str(count)
