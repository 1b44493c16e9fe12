"""What can be searched by: words, a picture or both, by which half of the search, and with what beside the products."""

from base64 import b64decode
from threading import Semaphore
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from streams.events import Id
from streams.facets import Facet
from streams.filters import BadQuery, Filters
from streams.picture_decoding import PictureMissing, decode

NEEDS = {"image": ("picture", "words"), "text": ("words", "picture")}  # by -> what is searched by, and what is not
SIDE_MAX_PX = 1_024  # of a picture as it is encoded
DECODING = Semaphore(2)  # pictures at a time: one of few bytes may be unpacked to hundreds of megabytes
Weight = Annotated[float, Field(ge=0, le=1_000, allow_inf_nan=False)]


def _apart(told: Any) -> Any:
    """The names in `brand,price`, or in a list of such texts, as an address has them."""
    texts = [told] if isinstance(told, str) else told
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return told
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


class WordsQuery(Filters):
    """What is searched by words alone."""

    q: Annotated[str, Field(max_length=1_000)] = ""
    by: Literal["fused", "image", "text"] = "fused"
    mode: Annotated[
        Literal["hybrid", "dense", "lexical"],
        Field(description="dense: by vectors, of what is meant; lexical: by the words themselves; hybrid: by both"),
    ] = "hybrid"
    dense_weight: Weight = 1.0
    lexical_weight: Weight = 1.0
    user: Annotated[
        Annotated[Id, Field(pattern=r"^[^\x00]*$")] | None,
        Field(description="of what answers equally well, what this user is likely to click stands higher"),
    ] = None
    user_weight: Weight = 0.5
    facets: Annotated[
        tuple[Facet, ...],
        BeforeValidator(_apart),
        Field(description="names, separated by commas: how many of the products found have each value"),
    ] = ()
    all: bool = False  # sold-out products, too
    limit: Annotated[int, Field(ge=1, le=200)] = 20


class SearchQuery(WordsQuery):
    """What is searched by words, by a picture, or by both."""

    picture: str | None = None  # base64 of a file as it is: JPEG, PNG, WebP, GIF or BMP
    words_weight: Weight = 1.0
    image_weight: Weight = 1.0


class Wanted(NamedTuple):
    """What of a query counts: words, "" for none, and the decoded picture."""

    words: str
    picture: NDArray[np.uint8] | None
    words_share: float  # 0 to 1, of the words beside the picture


def wanted(query: SearchQuery, *, picture_max_bytes: int, picture_max_pixels: int) -> Wanted:
    """The words and the decoded picture, each only if it counts. Raises BadQuery if nothing is left."""
    given = {"words": bool(query.q.strip()), "picture": bool(query.picture)}
    if not any(given.values()):
        raise BadQuery("the query is empty: give words, a picture, or both")
    counts = {
        "words": given["words"] and query.words_weight > 0,
        "picture": given["picture"] and query.image_weight > 0,
    }
    if not any(counts.values()):
        raise BadQuery("what is given has the weight 0: raise words_weight or image_weight")
    if query.by != "fused":
        needed, unused = NEEDS[query.by]
        if not counts[needed]:
            raise BadQuery(f"by={query.by} searches by {needed}, and there is none: give one, or take by=fused")
        if counts[unused]:
            raise BadQuery(f"by={query.by} does not look at {unused}: leave it out, or take by=fused")
    if query.mode == "lexical" and not counts["words"]:
        raise BadQuery("mode=lexical searches by words, and there are none: give some, or take mode=hybrid")
    if query.mode == "hybrid" and not query.dense_weight and not (query.lexical_weight and counts["words"]):
        raise BadQuery("nothing is searched by: raise dense_weight or lexical_weight")
    picture = None
    if counts["picture"] and query.picture:
        picture = decoded_picture(query.picture, picture_max_bytes, picture_max_pixels)
    share = query.words_weight / (query.words_weight + query.image_weight) if picture is not None else 1.0
    return Wanted(query.q, picture, share) if counts["words"] else Wanted("", picture, 0.0)


def decoded_picture(packed: str, most: int, pixels_max: int) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of a file in base64. Raises BadQuery."""
    try:
        content = b64decode("".join(packed.split()), validate=True)
    except ValueError as error:
        raise BadQuery(f"picture: it is not base64 ({error}): send the file's bytes in base64") from error
    if len(content) > most:
        raise BadQuery(f"picture: it has more than {most} bytes: shrink it or raise FRESHET_PICTURE_MAX_BYTES")
    with DECODING:
        picture = decode(content, pixels_max, SIDE_MAX_PX)  # one picture, which the encoder shrinks anyway
    if isinstance(picture, PictureMissing):
        raise BadQuery(f"picture: {picture.reason}")
    return picture.array
