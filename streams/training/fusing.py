"""`freshet train fuse`, from a folder of products and its clicks to a version of the encoders."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.modality_maps import ModalityMaps, fit_modality_maps, with_kinds
from encoders.reduction import CannotReduce
from encoders.taught_fusion import TaughtFusion
from encoders.training.align import AlignmentRule
from encoders.training.fuse import NO_CATEGORY, FuseRule, fuse, terms_of
from encoders.training.loop import Run
from streams.evaluation.encoder_figures import HELD_OUT_SHARE, Rows, Split, fitted, split, teach
from streams.evaluation.features import Features, facts_of
from streams.evaluation.labelled import Labelled
from streams.evaluation.report import table
from streams.evaluation.taught import About, hashes, read_taught, write_taught
from streams.training.clicked import earlier_and_later, next_found, read_pairs
from streams.training.runs import checksum, finished, run_of
from streams.training.searching import FUSE, searched
from streams.training.session import Session
from streams.training.views import alike, mixed, views_of

Vectors = NDArray[np.float32]
NO_PAIRS: Rows = np.zeros((0, 2), np.int64)


def train_fuse(
    session: Session, folder: Path, columns: str, out: Path, rule: FuseRule, start: Path | None, clicks: Path | None
) -> str:
    """A version whose fusion has learned is in the folder out; what it finds, beside the one that it began with."""
    labelled, features = session.shop(folder, columns)
    fusion, parts = begin(session, labelled, features, start)
    pairs = NO_PAIRS if clicks is None else read_pairs(clicks, [product.product_id for product in labelled.products])
    earlier, later = earlier_and_later(pairs, HELD_OUT_SHARE)
    views = views_of(fusion, labelled, features)
    knows_kinds = "category" in terms_of(views.taught(parts.taught, earlier), rule)
    kinds = views.categories if knows_kinds else np.full_like(views.categories, NO_CATEGORY)

    def maps(fused: Vectors, rows: Rows) -> ModalityMaps | None:
        """What pictures and words alone tell of whole products, and of their kinds; None: there are too few."""
        with suppress(CannotReduce):
            told = with_kinds(fused[rows], kinds[rows])
            return fit_modality_maps(features.views[:, rows], features.words[rows], told)
        return None

    def knowing_kinds(rows: Rows) -> TaughtFusion:
        """The fusion whose tokens have learned from these products' kinds, as far as those count."""
        learned = maps(views.fused[0], rows) if knows_kinds else None
        return fusion if learned is None else fusion.with_tokens(learned)

    def quality(tried: FuseRule, inner: Split) -> float:
        options = session.options
        run = Run(options.seed, options.device, options.threads)
        inner_views = views_of(knowing_kinds(inner.taught), labelled, features)
        mix = fuse(inner_views.taught(inner.taught, earlier), None, tried, run)
        fused = mixed(inner_views.fused[0], mix)
        found = alike(fused, labelled, inner.held_out)
        return float(np.mean(list(found.values()))) if found else next_found(fused, earlier)

    begun = knowing_kinds(parts.taught)
    begun_views = views_of(begun, labelled, features)
    taught = begun_views.taught(parts.taught, earlier)
    learns_from = checksum(*taught)
    rule = searched(session, rule, FUSE, parts, quality, measure="same type and colour", data=learns_from)
    identity = {"task": "fuse", "rule": rule._asdict(), "data": learns_from}
    with run_of(session.options, identity, processes=session.processes, bars=session.bars) as run:
        mix = fuse(taught, None, rule, run)
    if not session.processes.is_first:
        return ""
    terms = terms_of(taught, rule)
    fused = mixed(begun_views.fused[0], mix)
    begun = begun._replace(mix=mix, alone=maps(fused, parts.taught) or begun.alone)
    vectors = {"fused before": views.fused[0], "fused taught": fused}
    if begun.alone is not None:
        vectors["image taught"] = begun.alone.image(features.image)
        vectors["text taught"] = begun.alone.text(features.words)
    found = nearest_figures(labelled, features, vectors, parts, later)
    known = hashes(features)
    about: dict[str, Any] = {
        "task": "fuse",
        "taught": [known[row] for row in parts.taught.tolist()],
        "terms": terms,
        "pairs_of_clicks": len(taught.clicked),
        "data": learns_from,
        "rule": rule._asdict(),
        "seed": session.options.seed,
        "figures": found,
    }
    version = write_taught(out, session.settings, begun, about)
    finished(session.options)
    by = ", ".join(f"{name} {weight:g}" for name, weight in terms.items())
    return f"{out}: version {version.fingerprint}, taught by {by}.\n\n{told_of(found, len(parts.held_out))}"


def begin(session: Session, labelled: Labelled, features: Features, start: Path | None) -> tuple[TaughtFusion, Split]:
    """The fusion to begin with, and which products it may learn from; without a version, heads are taught now."""
    options = session.options
    if start is None:
        parts = split(len(features.title), options.seed)
        run = Run(options.seed, options.device, options.threads)
        heads = teach(features, parts.taught, AlignmentRule(), run)
        return fitted(features, facts_of(labelled.products), parts.taught, heads, options.seed), parts
    fusion, about = read_taught(start, session.settings, features)
    return fusion.plain, parts_of(features, about, options.seed)


def parts_of(features: Features, about: About, seed: int) -> Split:
    """What a version has not seen is held out from what learns after it; of another shop's, a fifth drawn by the seed.

    about  what is told of the version
    """
    is_taught = np.isin(hashes(features), about.get("taught", []))
    if is_taught.any():
        return Split(np.flatnonzero(is_taught), np.flatnonzero(~is_taught))
    return split(len(features.title), seed)


def nearest_figures(
    labelled: Labelled, features: Features, taught: dict[str, Vectors], parts: Split, later: Rows
) -> dict[str, dict[str, float]]:
    """What the nearest of all other products has in common with those held out, by kind of vectors.

    taught  vectors of all products (P, any width) by kind, which are listed after the features
    """
    vectors = {"image": features.image, "text": features.text, **taught}
    found = {name: alike(rows, labelled, parts.held_out) for name, rows in vectors.items()}
    if len(later):
        for name in ("fused before", "fused taught"):
            found[name]["next_click_r_at_10"] = next_found(vectors[name], later)
    return found


def told_of(found: dict[str, dict[str, float]], held_out: int) -> str:
    """The figures as a Markdown table."""
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    rows = [[kind, *(f"{own[name]:.3f}" if name in own else "" for name in names)] for kind, own in found.items()]
    return f"{held_out:,} products held out:\n\n{table(('vectors', *(name.replace('_', ' ') for name in names)), rows)}"
