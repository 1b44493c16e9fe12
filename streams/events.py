"""Every contract on the wire: what each topic's value must be; those of the learner are in streams.model_events.

Checked by strict models: no coercion, no NaN, no NUL character, bounded lengths. A field that the contract does not
know is ignored, because shops add fields; `unknown_fields` names it so that it can be counted and warned of.
"""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

Id = Annotated[str, Field(min_length=1, max_length=200, description="an id of the shop")]
ShortText = Annotated[str, Field(max_length=1_000)]
Availability = Literal["in_stock", "out_of_stock", "preorder", "backorder"]
ListSource = Literal["next-click", "content", "popular", "new"]
ClickEvent = Literal["view_item", "select_item", "add_to_cart", "purchase"]
Segment = Annotated[
    Annotated[str, StringConstraints(strip_whitespace=True, max_length=64)] | None,
    AfterValidator(lambda text: text or None),
    Field(description="what the shop tells its users apart by, such as a country; empty counts as none"),
]


class BadEvent(Exception):
    """The event breaks its contract; str() is a reason that a person can act on. It becomes a dead letter."""


class WrongKey(Exception):
    """The record's key is not the id in its value; the right key is the argument."""

    def __init__(self, right_key: str) -> None:
        super().__init__(f"the key should be {right_key!r}")
        self.right_key = right_key


class Contract(BaseModel):
    """Frozen and strict; unknown fields are kept aside in model_extra."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


# --- what the shop publishes -------------------------------------------------------------------------------------


class Price(Contract):
    amount: Annotated[float, Field(ge=0, le=1e12)]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")]


class Location(Contract):
    latitude: Annotated[float, Field(ge=-90, le=90)]
    longitude: Annotated[float, Field(ge=-180, le=180)]


class ProductFields(Contract):
    """Named after the Google product feed."""

    title: Annotated[str, Field(min_length=1, max_length=1_000)]
    description: Annotated[str, Field(max_length=20_000)] = ""
    brand: ShortText | None = None
    category: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=10)] = []
    price: Price | None = None
    availability: Availability = "in_stock"
    image_links: Annotated[list[Annotated[str, Field(min_length=1, max_length=2_000)]], Field(max_length=20)] = []
    attributes: Annotated[dict[Annotated[str, Field(max_length=100)], ShortText], Field(max_length=100)] = {}
    location: Location | None = None


class ProductUpsert(ProductFields):
    """The whole product: what is not named takes its default."""

    op: Literal["upsert"]
    product_id: Id
    updated_at: AwareDatetime | None = None


class ProductPatch(ProductFields):
    """Some fields of a product that is known; model_fields_set says which."""

    op: Literal["patch"]
    product_id: Id
    updated_at: AwareDatetime | None = None
    title: Annotated[str, Field(min_length=1, max_length=1_000)] = "-"

    def changes(self) -> dict[str, Any]:
        """The named fields as plain JSON values."""
        return self.model_dump(mode="json", include=self.model_fields_set & ProductFields.model_fields.keys())


class ProductDelete(Contract):
    op: Literal["delete"]
    product_id: Id
    updated_at: AwareDatetime | None = None


CatalogUpdate = Annotated[ProductUpsert | ProductPatch | ProductDelete, Field(discriminator="op")]


class UserClick(Contract):
    """One interaction, named after the events of Google Analytics 4."""

    event_id: Id
    user_id: Id
    product_id: Id
    event: ClickEvent
    occurred_at: AwareDatetime
    list_id: Annotated[Id | None, Field(description="of the list that it came out of, as the list tells it")] = None
    position: Annotated[
        Annotated[int, Field(ge=0, le=100_000)] | None, Field(description="of the product in that list, from 0")
    ] = None
    segment: Segment = None


class PastClick(Contract):
    """One click of a visitor's history."""

    product_id: Id
    event: ClickEvent
    occurred_at: AwareDatetime


class UserIdentified(Contract):
    """A visitor turned out to be this user: the clicks that she made as such become hers, and are not learned again.

    It names the visitor nowhere. A click that the user's history holds already counts once.
    """

    event_id: Id
    user_id: Id
    event: Literal["identify"]
    occurred_at: AwareDatetime
    clicks: Annotated[list[PastClick], Field(min_length=1, max_length=1_000)]  # in any order


UserEvent = Annotated[UserClick | UserIdentified, Field(discriminator="event")]


# --- what Freshet publishes --------------------------------------------------------------------------------------


class Offer(Contract):
    """product-index: what is for sale now. A null record (header `revision`) follows a delete."""

    product_id: Id
    revision: int
    state: Literal["listable", "sold_out"]
    title: str
    brand: str | None
    category: list[str]
    price: Price | None
    availability: Availability
    image_links: list[str]
    attributes: dict[str, str]
    changed_at: float  # s since 1970, when the row changed
    created_at: float  # s since 1970, when the product appeared


class EncodeRequest(Contract):
    """encode-requests: all that an encoder reads. A null record (header `revision`) follows a delete."""

    product_id: Id
    content_revision: int
    title: str
    description: str
    brand: str | None
    category: list[str]
    attributes: dict[str, str]
    image_links: list[str]
    price_band: int | None = None  # of encoders.attributes.price_band: the price itself changes too often


class Missing(Contract):
    """A modality that could not be had, and what to change."""

    modality: Literal["image", "text"]
    reason: str
    retry: bool  # True if waiting may help


class ProductVectors(Contract):
    """product-vectors-<fingerprint>: vectors are base64 of little-endian float32, null where there is none."""

    product_id: Id
    content_revision: int
    encoder: str
    image: str | None
    text: str | None
    fused: str | None
    missing: list[Missing]
    picture_signature: str | None = None  # base64 of encoders.picture_hash.sign_picture


class EncoderVersion(Contract):
    """encoders: a version of the encoders. Of those that are there the one with the highest `served` serves."""

    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-z]{1,40}$")]
    revision: int  # of its row: readers keep the highest
    state: Literal["serving", "filling", "idle", "removed"]
    served: int  # rises with each switch; 0: it never did
    group: str  # how the names of its consumer groups end
    is_filled: bool  # there is a collection of it
    has_files: bool  # False: it is made of its sources alone
    sources: dict[str, str]  # of the weights, by "image" and "text"
    widths: dict[str, int]  # of the vectors, by "image", "text" and "fused"


class HistoryClick(Contract):
    product_id: Id
    age_s: float  # >= 0, how long before the example's click
    seen: bool = False  # a list holds the product no more: the shop's setting of what counts as seen


class TrainingExample(Contract):
    """training-examples: one accepted click with the history before it, newest first. No user id."""

    topic_id: str
    partition: int
    offset: int
    product_id: Id
    event: ClickEvent
    occurred_at: float  # s since 1970
    eligible: bool = True  # a list might have held the product: the user had not seen it
    segment: Segment = None
    history: list[HistoryClick]


class ListItem(Contract):
    product_id: Id
    score: float
    rank: int  # from 1
    source: ListSource
    reason: str


class ListExperiment(Contract):
    """Which variant made a list. The list's id tells it, too, and in a drawn list whose item stands where."""

    name: str  # of the experiment
    variant: str | None  # None: the list is drawn from both


class RecommendationList(Contract):
    """recommendations: a user's list after the clicks that it names; without any after a push or a retraction.

    The highest revision counts, of those with the same the list made last: a push leaves the user's row. A retraction
    comes twice: what is left of the list and names what was withdrawn; then a whole list.
    """

    list_id: str
    user_id: Id
    revision: int
    made_at: AwareDatetime
    cause: Literal["click", "push", "retraction"]
    event_ids: list[str]
    versions: dict[str, str]
    items: list[ListItem]
    experiment: ListExperiment | None = None  # None: she takes part in none, or the list is from before it
    withdrawn: list[Id] = []  # products taken out of the list before; empty: the list is whole


class UserEmbedding(Contract):
    """user-embeddings: what the next-click model makes of the clicks of a user who was active lately.

    The highest revision counts. A null record (header `revision`) forgets her: it voids that revision and lower ones.
    """

    user_id: Id
    revision: int  # of the user's row
    epoch: int  # of the weights: embeddings of two epochs cannot be compared
    sequence: int
    embedding: str  # (F,) float32
    active_at: float  # s since 1970, of the last click


class WorkerStatus(Contract):
    """worker-status: what a role says of itself every second or two."""

    worker_id: str
    role: str
    pid: int
    state: Literal["starting", "running", "waiting", "stopping"]
    reason: str | None  # what it waits for
    started_at: float
    at: float
    events: int  # since the start
    events_per_s: float
    lag: int
    oldest_unprocessed_s: float
    dead_letters: int
    details: dict[str, float | int | str]


def pack_vector(vector: NDArray[np.float32]) -> str:
    """base64 of little-endian float32, rows one after the other."""
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def unpack_vector(text: str) -> NDArray[np.float32]:
    """(n,) float32. Raises BadEvent if it is not base64 of whole float32 values, or one is not finite."""
    try:
        vector = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
    except ValueError as error:
        raise BadEvent("a vector is not base64 of little-endian float32 values") from error
    if np.isfinite(vector).all():
        return vector
    raise BadEvent("a vector has a value that is not finite")
