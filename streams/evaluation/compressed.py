"""What a compressed encoder costs and keeps, beside the one that it was made of.

Both read the same products in turns, so that whatever else the machine does slows both.
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.compression import Files, Method, compress_pictures, compress_text
from encoders.image import ImageEncoder, Pixels
from encoders.product import product_content
from encoders.pruning import DistillationRule
from encoders.recipes import Modality, Weights
from encoders.retrieval import same_label_at_1, unit_or_zero
from encoders.text import TextEncoder
from encoders.weights import TEXT_RECIPE, find_weights
from streams.evaluation.encoder_figures import Split
from streams.evaluation.labelled import Labelled
from streams.evaluation.report import table
from streams.events import ProductUpsert
from streams.pictures import Picture, PictureLoader, PictureMissing

Vectors = NDArray[np.float32]
Told = Callable[[str, float], None]
"""What is done now, and how much of it is done: 0 to 1."""

AT_ONCE = 32
SINGLES = 100  # products that are encoded one by one
CALIBRATED_ON = 100  # pictures
NEAREST = 10
KEPT_MIN, FASTER_MIN = 0.99, 1.5  # the bar


class AlreadyThere(FileExistsError):
    """The folder to write is there."""


class Job(NamedTuple):
    """What is compressed, how, and on what."""

    weights: Weights
    method: Method
    labelled: Labelled
    pictures_root: Path
    parts: Split  # it may learn from the taught ones; the held-out ones tell what it is worth
    sparsity: float = 0.5
    rule: DistillationRule = DistillationRule()
    seed: int = 0


def compress(job: Job, out: Path, told: Told = lambda *_: None) -> dict[str, Any]:
    """The folder out is the compressed encoder; returns its figures beside those of the one it was made of.

    On a CPU, with the threads that torch has. Raises AlreadyThere, CannotCompress, CannotExport, TooFewTexts,
    UnknownSource.
    """
    if out.exists():
        raise AlreadyThere(f"{out} is there already: remove it or name another folder")
    told("compressing", 0.0)
    write_folder(out, _files(job, told))
    compressed = find_weights(f"path:{out}", job.weights.modality)
    return {"side": job.weights.modality, "method": job.method, "of": job.weights.source} | measure(
        job.weights, compressed, job.labelled, job.pictures_root, job.parts, told
    )


def write_folder(out: Path, files: Files) -> None:
    """The folder holds these files, or is not there at all. Raises AlreadyThere."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for name, content in files.items():
            (partial / name).write_bytes(content)
        partial.chmod(0o755)
        partial.rename(out)
    except OSError as error:
        if out.exists():
            raise AlreadyThere(f"{out} is there already: remove it or name another folder") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def measure(
    original: Weights,
    compressed: Weights,
    labelled: Labelled,
    pictures_root: Path,
    parts: Split,
    told: Told = lambda *_: None,
) -> dict[str, Any]:
    """Size, speed and quality of both encoders of one modality."""
    modality = original.modality
    products = labelled.products
    runs = asyncio.run(_in_turns((original, compressed), products, pictures_root, told))
    there = np.any(runs[0].vectors, axis=1)
    cosines = np.einsum("nd,nd->n", runs[0].vectors[there], runs[1].vectors[there])
    asked = parts.held_out[there[parts.held_out]]
    sides: list[dict[str, Any]] = [
        {
            "megabytes": sum(file.stat().st_size for file in weights.files) / 1e6,
            "per_s_alone": run.per_s_alone,
            "per_s_in_batches": run.per_s_in_batches,
            "same_type_at_1": same_label_at_1(run.vectors, labelled.types, asked),
            "same_colour_at_1": same_label_at_1(run.vectors, labelled.colours, asked),
        }
        for weights, run in zip((original, compressed), runs, strict=True)
    ]
    nearest_kept = _nearest_kept(runs[0].vectors, runs[1].vectors, asked)
    kept = sides[1]["same_type_at_1"] / sides[0]["same_type_at_1"] if sides[0]["same_type_at_1"] > 0 else nearest_kept
    found: dict[str, Any] = {
        "products": int(there.sum()),
        "held_out": len(asked),
        "original": sides[0],
        "compressed": sides[1],
        "cosine_mean": float(cosines.mean()) if len(cosines) else float("nan"),
        "cosine_p1": float(np.percentile(cosines, 1)) if len(cosines) else float("nan"),
        "nearest_10_kept": nearest_kept,
        "quality_kept": kept,
        "faster_alone": sides[1]["per_s_alone"] / sides[0]["per_s_alone"],
        "faster_in_batches": sides[1]["per_s_in_batches"] / sides[0]["per_s_in_batches"],
    }
    assert modality == compressed.modality
    return found | {"short_of_the_bar": _short_of_the_bar(found)}


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The figures as people read them."""
    rows: list[list[Any]] = []
    for each in found:
        for name, side in ((each["of"], each["original"]), (each["method"], each["compressed"])):
            is_new = side is each["compressed"]
            cosines = f"{each['cosine_mean']:.4f}, {each['cosine_p1']:.4f}" if is_new else ""
            speeds = [
                f"{side[f'per_s_{how}']:.0f}" + (f" ({each[f'faster_{how}']:.2f} x)" if is_new else "")
                for how in ("alone", "in_batches")
            ]
            labels = [_shown(side[f"same_{label}_at_1"]) for label in ("type", "colour")]
            kept = [f"{each[key]:.1%}" if is_new else "" for key in ("nearest_10_kept", "quality_kept")]
            rows.append([each["side"], name, f"{side['megabytes']:.1f}", *speeds, cosines, *labels, *kept])
    columns = ("side", "encoder", "MB", "products/s alone", "in batches of 32", "cosine: mean, 1st percentile",
               "same type", "same colour", "nearest 10 kept", "quality kept")  # fmt: skip
    lines = [f"{each['side']}, {each['method']}: {each['short_of_the_bar'] or 'reaches the bar'}" for each in found]
    bar = f"The bar: {KEPT_MIN:.0%} of the quality kept, {FASTER_MIN} times as fast in batches, on a CPU."
    return "\n\n".join([table(columns, rows), bar, "\n".join(f"- {line}" for line in lines)])


def _short_of_the_bar(found: dict[str, Any]) -> str:
    """Why the bar is not reached; "" if it is."""
    reasons = []
    if not found["quality_kept"] >= KEPT_MIN:
        reasons.append(f"keeps {found['quality_kept']:.1%} of the quality")
    if not found["faster_in_batches"] >= FASTER_MIN:
        reasons.append(f"is {found['faster_in_batches']:.2f} times as fast")
    return " and ".join(reasons)


class _Run(NamedTuple):
    vectors: Vectors  # (P, V) or (P, T), zeros where there is nothing to encode
    per_s_alone: float  # products
    per_s_in_batches: float


def _files(job: Job, told: Told) -> Files:
    taught = [job.labelled.products[row] for row in job.parts.taught.tolist()]
    if job.weights.modality == "image":
        pictures = asyncio.run(_some_pictures(taught, job.pictures_root)) if job.method == "onnx-int8" else []
        return compress_pictures(job.weights, job.method, pictures)
    texts = dict.fromkeys(text for product in taught for text in _texts(product) if text)  # each once, in order
    return compress_text(
        job.weights,
        job.method,
        [*texts] if job.method == "pruned" else [],
        sparsity=job.sparsity,
        rule=job.rule,
        seed=job.seed,
        told=lambda epoch, loss: told(f"distilling, loss {loss:.4f}", epoch / job.rule.epochs),
    )


def _texts(product: ProductUpsert) -> tuple[str, str]:
    """The headline and the details."""
    content = product_content(
        title=product.title,
        brand=product.brand,
        category=product.category,
        attributes=product.attributes,
        description=product.description,
    )
    return content.text, content.details


async def _some_pictures(products: Sequence[ProductUpsert], root: Path) -> list[Pixels]:
    found: list[Pixels] = []
    async with PictureLoader(pictures_root=root, pictures_per_product=1) as loader:
        for begin in range(0, len(products), AT_ONCE):
            links = [product.image_links for product in products[begin : begin + AT_ONCE]]
            found += [each for each in _arrays(await loader.load_pictures(links)) if each is not None]
            if len(found) >= CALIBRATED_ON:
                break
    return found[:CALIBRATED_ON]


def _arrays(loaded: Sequence[tuple[Picture, ...] | PictureMissing | None]) -> list[Pixels | None]:
    """The first picture of each product."""
    return [each[0].array if isinstance(each, tuple) and each else None for each in loaded]


async def _in_turns(
    both: tuple[Weights, Weights], products: Sequence[ProductUpsert], root: Path, told: Told
) -> tuple[_Run, _Run]:
    """Every product through both encoders, a batch each in turns; the first few one by one besides."""
    modality: Modality = both[0].modality
    encode = [_text_reader(weights) if modality == "text" else _picture_reader(weights) for weights in both]
    rows: list[list[Vectors]] = [[], []]
    took_s: list[list[float]] = [[], []]  # of a product, in full batches
    alone_s: list[list[float]] = [[], []]
    async with PictureLoader(pictures_root=root, pictures_per_product=1) as loader:
        for begin in range(0, len(products), AT_ONCE):
            some = products[begin : begin + AT_ONCE]
            inputs: Sequence[Any] = [_texts(product) for product in some]
            if modality == "image":
                loaded = await loader.load_pictures([product.image_links for product in some])
                inputs = _arrays(loaded)
            for which in (0, 1):
                began = time.perf_counter()
                rows[which].append(encode[which](inputs))
                there = sum(each is not None for each in inputs)
                if begin and there == AT_ONCE:  # the first batch warms up
                    took_s[which].append((time.perf_counter() - began) / there)
            for each in inputs if begin and len(alone_s[0]) < SINGLES else []:
                for which in (0, 1) if each is not None else ():
                    began = time.perf_counter()
                    encode[which]([each])
                    alone_s[which].append(time.perf_counter() - began)
            told("measuring", (begin + len(some)) / len(products))
    joined = [np.concatenate(parts) for parts in rows]
    speeds = [[1 / float(np.median(s)) if s else float("nan") for s in (alone_s[i], took_s[i])] for i in (0, 1)]
    return _Run(joined[0], *speeds[0]), _Run(joined[1], *speeds[1])


def _text_reader(weights: Weights) -> Callable[[Sequence[Any]], Vectors]:
    encoder = TextEncoder(weights)

    def read(texts: Sequence[tuple[str, str]]) -> Vectors:
        encoded = encoder.encode([headline for headline, _ in texts] + [details for _, details in texts])
        zeros = np.zeros(weights.width, np.float32)
        headlines, details = np.split(np.stack([zeros if row is None else row for row in encoded]), 2)
        return unit_or_zero(headlines + TEXT_RECIPE.details_weight * details)

    return read


def _picture_reader(weights: Weights) -> Callable[[Sequence[Any]], Vectors]:
    encoder = ImageEncoder(weights)

    def read(pictures: Sequence[Pixels | None]) -> Vectors:
        vectors = np.zeros((len(pictures), weights.width), np.float32)
        there = [place for place, picture in enumerate(pictures) if picture is not None]
        vectors[there] = encoder.encode([picture for picture in pictures if picture is not None])
        return vectors

    return read


def _nearest_kept(original: Vectors, compressed: Vectors, asked: NDArray[np.int64]) -> float:
    """The mean share of the original's nearest others that are among the compressed one's; NaN if none is asked."""
    nearest = []
    for vectors in (original, compressed):
        cosines = vectors[asked] @ vectors.T
        cosines[np.arange(len(asked)), asked] = -np.inf
        depth = min(NEAREST, max(1, len(vectors) - 1))
        nearest.append(np.argpartition(-cosines, depth - 1, axis=1)[:, :depth])
    shares = [len(set(a) & set(b)) / len(a) for a, b in zip(*(rows.tolist() for rows in nearest), strict=True)]
    return float(np.mean(shares)) if shares else float("nan")


def _shown(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"
