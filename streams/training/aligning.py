"""`freshet train align`, from a folder of products to a version of the encoders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.alignment import Alignment
from encoders.text import TextEncoder
from encoders.training.align import AlignmentRule
from encoders.training.loop import Run
from encoders.training.unfreeze import UnfreezeRule, unfreeze
from encoders.weights import find_weights
from streams.evaluation.encoder_figures import Split, fitted, recalls, split, teach
from streams.evaluation.features import Features, facts_of, read_again, texts_of
from streams.evaluation.labelled import Labelled
from streams.evaluation.taught import hashes, write_taught
from streams.training.language import TEXT, files_of
from streams.training.runs import Options, checksum, finished, run_of
from streams.training.searching import ALIGN, searched
from streams.training.session import Session
from streams.training.sources import write_text_source

Vectors = NDArray[np.float32]


def train_align(
    session: Session, folder: Path, columns: str, out: Path, rule: AlignmentRule, onward: UnfreezeRule | None = None
) -> str:
    """Heads taught on four fifths of the products are in the folder out; what they are worth on the others.

    onward  the last layers of the text network learn too, after the heads; its source is in out/text
    """
    labelled, features = session.shop(folder, columns)
    seed = session.options.seed
    parts = split(len(features.title), seed)
    learns_from = checksum(features.views[:, parts.taught], features.words[parts.taught])

    def quality(tried: AlignmentRule, inner: Split) -> float:
        options = session.options
        tried_heads = teach(features, inner.taught, tried, Run(options.seed, options.device, options.threads))
        found = recalls(tried_heads, features, inner)
        return float(np.mean([found["words_to_picture_r_at_10"], found["picture_to_words_r_at_10"]]))

    rule = searched(session, rule, ALIGN, parts, quality, measure="mean R@10", data=learns_from)
    identity = {"task": "align", "rule": rule._asdict(), "data": learns_from}
    with run_of(session.options, identity, processes=session.processes, bars=session.bars) as run:
        heads = teach(features, parts.taught, rule, run)
    settings = session.settings
    if onward is not None:
        frozen = recalls(heads, features, parts)
        heads, arrays, files = unfrozen(session, labelled, features, parts, heads, onward, learns_from)
        if session.processes.is_first:
            write_text_source(out / TEXT, arrays, *files[1:])
            source = f"path:{(out / TEXT).resolve()}"
            settings = settings.model_copy(update={"text_encoder": source})
            encoder = TextEncoder(find_weights(source, "text"), device=session.options.device)
            features = read_again(features, labelled.products, encoder)
    if not session.processes.is_first:
        return ""
    fusion = fitted(features, facts_of(labelled.products), parts.taught, heads, seed)
    found = recalls(heads, features, parts)
    known = hashes(features)
    about: dict[str, Any] = {
        "task": "align",
        "taught_on": f"on {len(parts.taught):,} of these products",
        "taught": [known[row] for row in parts.taught.tolist()],
        "data": learns_from,
        "rule": rule._asdict(),
        "seed": seed,
        "figures": found,
    }
    if onward is not None:
        about |= {"unfrozen": onward._asdict(), "figures_frozen": frozen}
    version = write_taught(out, settings, fusion, about)
    finished(session.options)
    finished(onward_options(session))
    before = "" if onward is None else f" ({frozen['words_to_picture_r_at_1']:.3f} before the network learned too)"
    first, among_ten = found["words_to_picture_r_at_1"], found["words_to_picture_r_at_10"]
    return (
        f"{out}: version {version.fingerprint}. Of {found['held_out']:,} products that the heads never saw, words find "
        f"{first:.3f} of the pictures first{before} and {among_ten:.3f} among ten"
    )


def unfrozen(
    session: Session,
    labelled: Labelled,
    features: Features,
    parts: Split,
    heads: Alignment,
    rule: UnfreezeRule,
    learns_from: str,
) -> tuple[Alignment, dict[str, Vectors], tuple[Path, Path, Path]]:
    """Heads, and the text network's arrays after its last layers learned with them, and its files."""
    rows = parts.taught[features.image[parts.taught].any(axis=1)]
    texts = texts_of([labelled.products[row] for row in rows.tolist()])
    files = files_of(find_weights(session.settings.text_encoder, "text"))
    start = checksum(*heads.state().values())
    identity = {"task": "unfreeze", "rule": rule._asdict(), "data": learns_from, "start": start}
    options = onward_options(session)
    with run_of(options, identity, processes=session.processes, bars=session.bars, name="end to end") as run:
        learned, arrays = unfreeze(heads, files, texts, features.views[:, rows], rule, run)
    return learned, arrays, files


def onward_options(session: Session) -> Options:
    """Those of the run that follows the heads', in a folder of its own."""
    folder = session.options.folder
    return replace(session.options, folder=None if folder is None else folder / "unfreeze")
