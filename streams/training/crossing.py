"""`freshet train cross-modal`, from a folder of products to a version whose encoder reads word pieces and places."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.cross_modal import CrossModalEncoder
from encoders.retrieval import recall_at
from encoders.training.cross_modal import CrossModalRule, teach_cross_modal
from streams.evaluation.encoder_figures import DEPTHS, Rows, Split, recalls, split, untrained_vectors
from streams.evaluation.features import facts_of
from streams.evaluation.taught import hashes, read_taught, write_taught
from streams.evaluation.tokens import KeptTokens
from streams.training.fusing import parts_of, told_of
from streams.training.runs import checksum, finished, run_of
from streams.training.session import Session
from streams.training.views import alike

Vectors = NDArray[np.float32]
Figures = dict[str, dict[str, float]]
AT_ONCE = 256  # products that are encoded together: bounds what is filled up


def train_cross_modal(
    session: Session, folder: Path, columns: str, out: Path, rule: CrossModalRule, beside: Path | None
) -> str:
    """A version with a cross-modal encoder is in the folder out; what it finds, beside vectors that were not taught.

    beside  folder of a version whose heads and fusion are asked too; what it has not seen is held out
    """
    labelled, features = session.shop(folder, columns)
    seed = session.options.seed
    other, parts = None, split(len(features.title), seed)
    if beside is not None:
        other, about_other = read_taught(beside, session.settings, features)
        parts = parts_of(features, about_other, seed)
    tokens = session.tokens(labelled, folder)
    learns_from = checksum(parts.taught, *tokens.image, *tokens.text)
    identity = {"task": "cross-modal", "rule": rule._asdict(), "data": learns_from}
    with run_of(session.options, identity, processes=session.processes, bars=session.bars) as run:
        encoder = teach_cross_modal(tokens.image, tokens.text, tokens.grid, parts.taught, rule, run)
    if not session.processes.is_first:
        return ""
    facts = facts_of(labelled.products)
    vectors = untrained_vectors(features, facts)[0]
    if other is not None:
        vectors["version beside"] = other.fuse(features.image, features.said, facts)
    vectors["cross-modal"] = encoded(encoder, tokens, np.arange(len(features.title)))
    found: Figures = {name: alike(rows, labelled, parts.held_out) for name, rows in vectors.items()}
    if other is not None:
        found["version beside"] |= _found_of(recalls(other.heads, features, parts))
    found["cross-modal"] |= own_recalls(encoder, tokens, parts)
    known = hashes(features)
    about: dict[str, Any] = {
        "task": "cross-modal",
        "taught": [known[row] for row in parts.taught.tolist()],
        "data": learns_from,
        "rule": rule._asdict(),
        "seed": seed,
        "figures": found,
    }
    version = write_taught(out, session.settings, encoder.cpu().of_whole_regions(tokens.axes), about)
    finished(session.options)
    return f"{out}: version {version.fingerprint}.\n\n{told_of(found, len(parts.held_out))}"


def encoded(
    encoder: CrossModalEncoder, tokens: KeptTokens, rows: Rows, *, pictures: bool = True, words: bool = True
) -> Vectors:
    """(n, D) of these products, by their pictures, their words, or both."""
    sides = (tokens.image, pictures), (tokens.text, words)
    image, text = (side if is_read else side._replace(counts=np.zeros_like(side.counts)) for side, is_read in sides)
    places = encoder.shape.rows * encoder.shape.columns
    found = [
        encoder.encode(image.of(some, places), text.of(some)).vectors
        for some in np.array_split(rows, range(AT_ONCE, len(rows), AT_ONCE))
    ]
    return np.concatenate(found)


def own_recalls(encoder: CrossModalEncoder, tokens: KeptTokens, parts: Split) -> dict[str, float]:
    """What share of those held out, as far as they have a picture and words, finds its own; none without such."""
    both = (tokens.image.counts > 0) & (tokens.text.counts > 0)
    asked = parts.held_out[both[parts.held_out]]
    if not len(asked):
        return {}
    seen, said = encoded(encoder, tokens, asked, words=False), encoded(encoder, tokens, asked, pictures=False)
    pairs = {"words_to_picture": (said, seen), "picture_to_words": (seen, said)}
    return {f"{name}_r_at_{depth}": recall_at(*pair, depth) for name, pair in pairs.items() for depth in DEPTHS}


def _found_of(recalled: dict[str, Any]) -> dict[str, float]:
    """Of what heads find, the same."""
    names = [f"{name}_r_at_{depth}" for name in ("words_to_picture", "picture_to_words") for depth in DEPTHS]
    return {name: recalled[name] for name in names if np.isfinite(recalled[name])}
