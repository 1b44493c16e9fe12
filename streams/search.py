"""Products by words, by a picture, or by both: the query is encoded as products are, then its nearest are found.

The model of queries is loaded at the first search, not before: an api that nobody searches needs no torch. One thread
owns it.

In a fused vector of encoders that were not trained, words and pictures lie in directions of their own: there, words
find products by their words and pictures by their pictures. Once they were aligned, words find pictures without words.
"""

import logging
from base64 import b64decode
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from functools import partial
from threading import Lock
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from encoders.product import ProductEncoder  # imports torch when it is called, not before
from encoders.version import Version
from encoders.weights import UnknownSource
from store.records import StoreUnavailable
from store.vectors import VectorStore
from streams.filters import BadQuery, Filters
from streams.listed_twice import ListedTwice
from streams.picture_decoding import PictureMissing, decode
from streams.settings import Settings
from streams.version_files import load_encoder

log = logging.getLogger(__name__)

LOADED_WITHIN_S = 20.0  # a search waits for the model for so long; it takes about 5 s from a warm disk
NEEDS = {"image": ("picture", "words"), "text": ("words", "picture")}  # by -> what is searched by, and what is not
Weight = Annotated[float, Field(ge=0, le=1_000, allow_inf_nan=False)]


class WordsQuery(Filters):
    """What is searched by words alone."""

    q: Annotated[str, Field(max_length=1_000)] = ""
    by: Literal["fused", "image", "text"] = "fused"
    all: bool = False  # sold-out products, too
    limit: Annotated[int, Field(ge=1, le=200)] = 20


class SearchQuery(WordsQuery):
    """What is searched by words, by a picture, or by both."""

    picture: str | None = None  # base64 of a file as it is: JPEG, PNG, WebP, GIF or BMP
    words_weight: Weight = 1.0
    image_weight: Weight = 1.0


class StillLoading(Exception):
    """The model is not loaded yet: try again in some seconds."""


class Search:
    """Answers queries from the vector store. Its methods may be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        vectors: VectorStore,
        listed_twice: ListedTwice,
        load: Callable[[str], ProductEncoder] | None = None,
        *,
        loaded_within_s: float = LOADED_WITHIN_S,
    ) -> None:
        """load makes the encoder of this fingerprint, in the thread that owns it; it may raise UnknownSource and
        UnknownDevice. None: the one of the settings, if it is that."""
        self._settings = settings
        self._vectors = vectors
        self._listed_twice = listed_twice
        self._load = load or self._load_by_settings
        self._loaded_within_s = loaded_within_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._encoder: Future[ProductEncoder] | None = None
        self._fingerprint: str | None = None  # of that one
        self._lock = Lock()

    def find(self, query: WordsQuery) -> dict[str, Any]:
        """The products nearest to the query among those that meet all its conditions, best first, what is listed twice
        once; the score is the cosine. Encoded and searched by one version of the encoders, the one that serves.

        Raises BadQuery, StillLoading, StoreUnavailable, and what ended the loading of the model.
        """
        asked = query if isinstance(query, SearchQuery) else SearchQuery(**query.model_dump())
        words, picture = self._wanted(asked)
        conditions = asked.conditions(self._vectors.currencies)
        serving = self._vectors.serving()
        if serving is None:
            raise StoreUnavailable("there is no collection of products yet: is the index role up?")
        encoder = self._loaded(serving)
        encoding = self._thread.submit(encoder.encode_query, words, picture, asked.words_weight, asked.image_weight)
        vector = encoding.result().get(asked.by)
        if vector is None:
            raise BadQuery("the query has no word that the encoder knows: use others")
        nearest = partial(
            self._vectors.nearest,
            asked.by,
            vector,
            listable_only=not asked.all,
            conditions=conditions,
            fingerprint=serving,
        )
        hits = self._listed_twice.fill_page(nearest, asked.limit)
        items = [
            {
                "product_id": hit.product_id,
                "score": hit.score,
                "title": hit.payload.get("title"),
                "offer": hit.payload,
            }
            for hit in hits
        ]
        return {"by": asked.by, "encoder": serving, "items": items}

    def close(self) -> None:
        """No more searches; one in hand is answered."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _wanted(self, query: SearchQuery) -> tuple[str, NDArray[np.uint8] | None]:
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
        picture = self._decoded(query.picture) if counts["picture"] and query.picture else None
        return query.q if counts["words"] else "", picture

    def _decoded(self, packed: str) -> NDArray[np.uint8]:
        most = self._settings.picture_max_bytes
        try:
            content = b64decode("".join(packed.split()), validate=True)
        except ValueError as error:
            raise BadQuery(f"picture: it is not base64 ({error}): send the file's bytes in base64") from error
        if len(content) > most:
            raise BadQuery(f"picture: it has more than {most} bytes: shrink it or raise FRESHET_PICTURE_MAX_BYTES")
        picture = decode(content, self._settings.picture_max_pixels)
        if isinstance(picture, PictureMissing):
            raise BadQuery(f"picture: {picture.reason}")
        return picture.array

    # --- the model -----------------------------------------------------------------------------------------------

    def _loaded(self, serving: str) -> ProductEncoder:
        """The encoder. Raises StillLoading; a loading that failed is tried again by the next search."""
        with self._lock:
            if self._encoder is None or self._fingerprint != serving:
                log.info("search loads the encoder fingerprint=%s", serving)
                self._encoder, self._fingerprint = self._thread.submit(self._load, serving), serving
            loading = self._encoder
        try:
            return loading.result(self._loaded_within_s)
        except TooLate as late:
            if loading.done():  # the loading itself timed out
                raise
            raise StillLoading("the encoder of queries is being loaded: try again in some seconds") from late
        except BaseException:
            with self._lock:
                if self._encoder is loading:
                    self._encoder = None
            raise

    def _load_by_settings(self, fingerprint: str) -> ProductEncoder:
        s = self._settings
        version = Version(s.image_encoder, s.text_encoder)
        if version.fingerprint != fingerprint:
            raise UnknownSource(
                f"the products' vectors are of the encoders {fingerprint}, the settings name {version.fingerprint}: "
                "set FRESHET_IMAGE_ENCODER and FRESHET_TEXT_ENCODER as they were"
            )
        return load_encoder(s, version)
