"""`freshet train language`, from a folder of products to a text network that knows the shop's words."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from encoders.fusion import rows_or_zeros
from encoders.retrieval import same_label_at_1
from encoders.text import TextEncoder
from encoders.training.language import LanguageRule, continue_language
from encoders.training.loop import CannotTrain, Run
from encoders.version import Version, write_version
from encoders.weights import Weights, find_weights
from streams.evaluation.encoder_figures import Split, split
from streams.evaluation.labelled import Labelled
from streams.evaluation.taught import made
from streams.training.runs import finished, run_of
from streams.training.searching import LANGUAGE, searched
from streams.training.session import Session
from streams.training.sources import write_text_source

TEXT = "text"


def train_language(session: Session, folder: Path, columns: str, out: Path, rule: LanguageRule) -> str:
    """The network continued on four fifths of the products is in out/text; what titles find before and after."""
    labelled = session.products(folder, columns)
    weights = find_weights(session.settings.text_encoder, "text")
    files = files_of(weights)
    parts = split(len(labelled.products), session.options.seed)
    texts = texts_of(labelled, parts.taught.tolist())
    learns_from = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

    def quality(tried: LanguageRule, inner: Split) -> float:
        options = session.options
        run = Run(options.seed, options.device, options.threads)
        arrays = continue_language(files, texts_of(labelled, inner.taught.tolist()), tried, run)
        with TemporaryDirectory() as folder:
            write_text_source(Path(folder) / TEXT, arrays, *files[1:])
            tried_weights = replace(weights, files=tuple(Path(folder) / TEXT / file.name for file in files))
            return title_figures(session, labelled, inner, tried_weights).get("type", float("nan"))

    rule = searched(session, rule, LANGUAGE, parts, quality, measure="same type", data=learns_from)
    identity = {"task": "language", "rule": rule._asdict(), "data": learns_from, "source": weights.files[0].name}
    with run_of(session.options, identity, processes=session.processes, bars=session.bars) as run:
        arrays = continue_language(files, texts, rule, run)
    if not session.processes.is_first:
        return ""
    write_text_source(out / TEXT, arrays, *files[1:])
    source = f"path:{(out / TEXT).resolve()}"
    before, after = (title_figures(session, labelled, parts, each) for each in (weights, find_weights(source, "text")))
    about = {
        "task": "language",
        "data": learns_from,
        "rule": rule._asdict(),
        "seed": session.options.seed,
        "figures": {"before": before, "after": after},
    }
    version = Version(session.settings.image_encoder, source, about=made(about))
    write_version(out, version)
    finished(session.options)
    told = ", ".join(f"the same {name} {before[name]:.3f} before and {after[name]:.3f} after" for name in before)
    found = f" Of the titles held out, the nearest other title has {told}." if told else ""
    return f"{out}: version {version.fingerprint}, whose words are read by {source}.{found}"


def files_of(weights: Weights) -> tuple[Path, Path, Path]:
    """Parameters, configuration and tokenizer of a BERT. Raises CannotTrain for another network."""
    files = [next((file for file in weights.files if file.name == name), None) for name in NAMES]
    if None in files:
        raise CannotTrain("only a BERT in safetensors is taught: take another FRESHET_TEXT_ENCODER")
    parameters, config, tokenizer = (file for file in files if file is not None)
    return parameters, config, tokenizer


NAMES = ("model.safetensors", "config.json", "tokenizer.json")


def texts_of(labelled: Labelled, rows: Sequence[int]) -> list[str]:
    """Titles and descriptions of these products."""
    products = [labelled.products[row] for row in rows]
    return [text for product in products for text in (product.title, product.description) if text.strip()]


def title_figures(session: Session, labelled: Labelled, parts: Split, weights: Weights) -> dict[str, float]:
    """How often the nearest other title of those held out has the same label, by label as far as there are any."""
    encoder = TextEncoder(weights, device=session.options.device)
    titles = [product.title for product in labelled.products]
    vectors = rows_or_zeros(encoder.encode(titles), encoder.width)
    labels = {"type": labelled.types, "colour": labelled.colours}
    return {name: same_label_at_1(vectors, found, parts.held_out) for name, found in labels.items() if any(found)}
