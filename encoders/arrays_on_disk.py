"""The names and shapes of a safetensors file's arrays, read without torch; a file that is cut short is told.

Source: the format's page, huggingface.co/docs/safetensors: eight bytes N, little-endian; N bytes of JSON; the arrays.
"""

import json
from pathlib import Path

HEADER_MAX_BYTES = 100_000_000  # as the format's own reader has it


class CutShort(ValueError):
    """The file is not all of a safetensors file."""


def names_and_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Of each array. Raises CutShort if the file's length is not what its header says, or it has none."""
    length = file.stat().st_size
    with file.open("rb") as stream:
        header_length = int.from_bytes(stream.read(8), "little")
        if not 2 <= header_length <= min(HEADER_MAX_BYTES, length - 8):
            raise CutShort(f"{file} is cut short or no safetensors file")
        try:
            header = json.loads(stream.read(header_length))
            header.pop("__metadata__", None)
            ends = max((array["data_offsets"][1] for array in header.values()), default=0)
            shapes = {name: tuple(array["shape"]) for name, array in header.items()}
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise CutShort(f"{file} is cut short or no safetensors file ({error})") from error
    if length != 8 + header_length + ends:
        raise CutShort(f"{file} has {length:,} bytes of {8 + header_length + ends:,}")
    return shapes
