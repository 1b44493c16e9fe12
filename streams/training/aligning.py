"""`freshet train align`, from a folder of products to heads."""

from pathlib import Path

from encoders.training.align import AlignmentRule
from streams.cli_encoders import fingerprint
from streams.evaluation.encoder_figures import recalls, split, teach
from streams.evaluation.heads import About, hashes, write_heads
from streams.training.runs import checksum, finished, run_of
from streams.training.session import Session


def train_align(session: Session, folder: Path, columns: str, out: Path, rule: AlignmentRule) -> str:
    """Heads taught on four fifths of the products are in the file out; what they are worth on the others."""
    _, features = session.shop(folder, columns)
    seed = session.options.seed
    parts = split(len(features.title), seed)
    learns_from = checksum(features.views[:, parts.taught], features.words[parts.taught])
    identity = {"task": "align", "rule": rule._asdict(), "data": learns_from}
    with run_of(session.options, identity, processes=session.processes, bars=session.bars) as run:
        learned = teach(features, parts.taught, rule, run)
    if not session.processes.is_first:
        return ""
    found = recalls(learned, features, parts)
    known = hashes(features)
    about: About = {"encoders": fingerprint(session.settings), "taught": [known[row] for row in parts.taught.tolist()]}
    about |= {"taught_on": f"on {len(parts.taught):,} of these products", "data": learns_from, "figures": found}
    write_heads(out, learned, about | {"rule": rule._asdict(), "seed": seed})
    finished(session.options)
    return (
        f"{out}: of {found['held_out']:,} products that the heads never saw, words find "
        f"{found['words_to_picture_r_at_1']:.3f} of the pictures first and {found['words_to_picture_r_at_10']:.3f} "
        "among ten"
    )
