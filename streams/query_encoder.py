"""Queries to vectors, by the version of the encoders whose vectors are searched.

The model is loaded at the first search, not before: an api that nobody searches needs no torch. One thread owns it.
While it encodes, others come: those of words alone it encodes together next, for eight at once cost as much as three
one by one. Pictures gain nothing by it. The words that are asked for again and again are encoded once.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.product import ProductEncoder, ProductQuery  # imports torch when it is called, not before
from encoders.version import Version
from encoders.weights import UnknownSource
from streams.settings import Settings
from streams.version_files import load_encoder

AT_ONCE = 16  # queries of words
KEPT = 2_000  # of them, the last ones; 3 kB each
log = logging.getLogger(__name__)

Vectors = dict[str, NDArray[np.float32]]
"""As ProductEncoder.encode_queries gives them."""


class StillLoading(Exception):
    """The model is not loaded yet: try again in some seconds."""


class _Waiting(NamedTuple):
    """A query of words that is to be encoded."""

    encoder: ProductEncoder
    query: ProductQuery
    vectors: Future[Vectors]


class QueryEncoder:
    """The model of queries. Its methods may be called from any thread."""

    def __init__(self, settings: Settings, load: Callable[[str], ProductEncoder] | None = None) -> None:
        """load makes the encoder of this fingerprint, in the thread that owns it; it may raise UnknownSource and
        UnknownDevice. None: the one of the settings, if it is that."""
        self._settings = settings
        self._load = load or self._load_by_settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._encoder: Future[ProductEncoder] | None = None
        self._fingerprint: str | None = None  # of that one
        self._waiting: list[_Waiting] = []
        self._known: OrderedDict[tuple[str, str, float, float], Vectors] = OrderedDict()  # the one asked last is last
        self._lock = Lock()

    def encode(self, fingerprint: str, query: ProductQuery, *, loaded_within_s: float) -> Vectors:
        """The vectors of a query by the version of this fingerprint, which is loaded if it is not.

        Raises StillLoading if that takes longer, and what ended the loading; the next call tries again.
        """
        encoder = self._loaded(fingerprint, loaded_within_s)
        if query.picture is not None:
            return self._thread.submit(encoder.encode_queries, [query]).result()[0]
        asked = fingerprint, query.words, query.words_weight, query.image_weight
        waiting = _Waiting(encoder, query, Future())
        with self._lock:
            if (known := self._known.get(asked)) is not None:
                self._known.move_to_end(asked)
                return known
            self._waiting.append(waiting)
        self._thread.submit(self._encode_waiting)
        vectors = waiting.vectors.result()
        with self._lock:
            self._known[asked] = vectors
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return vectors

    def _encode_waiting(self) -> None:
        """Those that wait for the same encoder as the first of them have their vectors."""
        with self._lock:
            together = [one for one in self._waiting if one.encoder is self._waiting[0].encoder][:AT_ONCE]
            self._waiting = [one for one in self._waiting if one not in together]
        if not together:
            return  # an earlier call had them
        try:
            vectors = together[0].encoder.encode_queries([one.query for one in together])
        except BaseException as error:  # noqa: BLE001  # who asked gets it
            for one in together:
                one.vectors.set_exception(error)
            return
        for one, own in zip(together, vectors, strict=True):
            one.vectors.set_result(own)

    def close(self) -> None:
        """No more queries; those in hand are encoded, those that wait are not."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.vectors.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _loaded(self, fingerprint: str, within_s: float) -> ProductEncoder:
        with self._lock:
            if self._encoder is None or self._fingerprint != fingerprint:
                log.info("search loads the encoder fingerprint=%s", fingerprint)
                self._encoder, self._fingerprint = self._thread.submit(self._hurried, fingerprint), fingerprint
            loading = self._encoder
        try:
            return loading.result(within_s)
        except TooLate as late:
            if loading.done():  # the loading itself timed out
                raise
            raise StillLoading("the encoder of queries is being loaded: try again in some seconds") from late
        except BaseException:
            with self._lock:
                if self._encoder is loading:
                    self._encoder = None
            raise

    def _hurried(self, fingerprint: str) -> ProductEncoder:
        encoder = self._load(fingerprint)
        encoder.hurry_queries()
        return encoder

    def _load_by_settings(self, fingerprint: str) -> ProductEncoder:
        s = self._settings
        version = Version(s.image_encoder, s.text_encoder)
        if version.fingerprint != fingerprint:
            raise UnknownSource(
                f"the products' vectors are of the encoders {fingerprint}, the settings name {version.fingerprint}: "
                "set FRESHET_IMAGE_ENCODER and FRESHET_TEXT_ENCODER as they were"
            )
        return load_encoder(s, version)
