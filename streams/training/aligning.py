"""`freshet train align`, from a folder of products to a version of the encoders."""

from pathlib import Path

import numpy as np

from encoders.training.align import AlignmentRule
from encoders.training.loop import Run
from streams.evaluation.encoder_figures import Split, fitted, recalls, split, teach
from streams.evaluation.taught import hashes, write_taught
from streams.training.runs import checksum, finished, run_of
from streams.training.searching import ALIGN, searched
from streams.training.session import Session


def train_align(session: Session, folder: Path, columns: str, out: Path, rule: AlignmentRule) -> str:
    """Heads taught on four fifths of the products are in the folder out; what they are worth on the others."""
    _, features = session.shop(folder, columns)
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
    if not session.processes.is_first:
        return ""
    fusion = fitted(features, parts.taught, heads, seed)
    found = recalls(heads, features, parts)
    known = hashes(features)
    about = {
        "task": "align",
        "taught_on": f"on {len(parts.taught):,} of these products",
        "taught": [known[row] for row in parts.taught.tolist()],
        "data": learns_from,
        "rule": rule._asdict(),
        "seed": seed,
        "figures": found,
    }
    version = write_taught(out, session.settings, fusion, about)
    finished(session.options)
    return (
        f"{out}: version {version.fingerprint}. Of {found['held_out']:,} products that the heads never saw, words find "
        f"{found['words_to_picture_r_at_1']:.3f} of the pictures first and {found['words_to_picture_r_at_10']:.3f} "
        "among ten"
    )
