"""Bytes from anywhere to a small RGB array, or a reason why not."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
SIDE_MIN_PX = 8
SIDE_MAX_PX = 448  # of the result: twice what an encoder sees, so nothing is lost and memory stays bounded
JPEG_SCANS_MAX = 64  # real ones have about 10; each scan of a hostile one costs a pass over all its pixels
START_OF_SCAN = b"\xff\xda"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture."""

    array: NDArray[np.uint8]  # (H, W, 3) RGB


@dataclass(frozen=True, slots=True)
class PictureMissing:
    """A picture that could not be had."""

    reason: str  # says what to change
    retry: bool  # True if it may be had later as it is: by waiting, or after a change of the settings


def decode(content: bytes, max_pixels: int, side_max_px: int = SIDE_MAX_PX) -> Picture | PictureMissing:
    """The picture in RGB, upright, its first frame, on white where it is transparent, shrunk to side_max_px.

    Never raises for what the bytes are. Its size is checked before anything is unpacked.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            fault = _fault(image, content, max_pixels)
            return fault or Picture(_pixels(image, side_max_px))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return _too_many(max_pixels)
    except UnidentifiedImageError:
        start = content[:16]
        return PictureMissing(
            f"it is no picture in {', '.join(FORMATS)} (starts with {start!r}): convert it", retry=False
        )
    except Exception as error:  # noqa: BLE001 - decoders of hostile bytes raise anything, and no picture is worth a worker
        reason = f"the picture is damaged ({type(error).__name__}: {str(error)[:120]}): upload it again"
        return PictureMissing(reason, retry=False)


def _fault(image: Image.Image, content: bytes, max_pixels: int) -> PictureMissing | None:
    """What forbids unpacking, known from the header alone."""
    width, height = image.size
    if width * height > max_pixels:
        return _too_many(max_pixels, f"it is {width} x {height}: ")
    if min(width, height) < SIDE_MIN_PX:
        return PictureMissing(
            f"it is {width} x {height} pixels, at least {SIDE_MIN_PX} x {SIDE_MIN_PX} are needed: upload a larger one",
            retry=False,
        )
    if image.format == "JPEG" and content.count(START_OF_SCAN) > JPEG_SCANS_MAX:
        return PictureMissing(f"the JPEG has more than {JPEG_SCANS_MAX} scans: save it anew", retry=False)
    return None


def _too_many(max_pixels: int, size: str = "") -> PictureMissing:
    reason = f"{size}the picture has more than {max_pixels} pixels: shrink it or raise picture_max_pixels"
    return PictureMissing(reason, retry=True)


def _pixels(image: Image.Image, side_max_px: int) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it instead of scaling it
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.has_transparency_data and image.mode != "RGBA":
        image = image.convert("RGBA")
    elif image.mode in ("P", "1"):
        image = image.convert("RGB")
    # In place, and a JPEG is unpacked at a fraction of its size.
    image.thumbnail((side_max_px, side_max_px), Image.Resampling.BICUBIC, reducing_gap=2.0)
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "RGBA":
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return np.asarray(upright.convert("RGB"))
