"""Settings: from the environment, checked, and secrets that never print."""

import re
from pathlib import Path

import pytest
from brokers import environment_of
from pydantic import ValidationError

from streams.settings import Settings, UnknownSetting, load_settings
from streams.terminal import BadSettings, read_settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the tests' own environment."""
    import os

    for name in [name for name in os.environ if name.startswith("FRESHET_")]:
        monkeypatch.delenv(name)


def test_without_any_everything_is_embedded() -> None:
    settings = load_settings()
    assert settings.broker_is_embedded
    assert settings.bootstrap == "127.0.0.1:19092"
    assert settings.database_url is None
    assert settings.qdrant_url is None


def test_each_is_set_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_KAFKA_BOOTSTRAP", "one:9092,two:9092")
    monkeypatch.setenv("FRESHET_BATCH_MAX", "7")
    monkeypatch.setenv("FRESHET_LIST_MAX_AGE_S", "null")
    settings = load_settings()
    assert settings.bootstrap == "one:9092,two:9092"
    assert not settings.broker_is_embedded
    assert settings.batch_max == 7
    assert settings.list_max_age_s is None


def test_a_misspelt_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_BOOTSTRAP", "one:9092")
    with pytest.raises(UnknownSetting, match=r"unknown FRESHET_BOOTSTRAP: known are .*FRESHET_KAFKA_BOOTSTRAP"):
        load_settings()


def test_the_names_of_the_tests_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_REQUIRE", "kafka")
    monkeypatch.setenv("FRESHET_DATA", "/data")
    load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BATCH_MAX", "0"),
        ("BATCH_MAX", "many"),
        ("SESSION_TIMEOUT_S", "-1"),
        ("WORKER_ID", "a b"),
        ("NAMESPACE", "Shop"),
        ("ON_WRONG_KEY", "ignore"),
        ("API_HOST", "0.0.0.0/0"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("DEVICE", "gpu"),
        ("DEVICE", "cuda:"),
        *(("DATABASE_URL", url) for url in ("shop", "postgresql:/h/d", "mysql://h/d", "sqlite:///shop.db")),
        *(("QDRANT_URL", url) for url in ("", "qdrant:6333", "ftp://qdrant", "http://", "http://h:x", "http://h:0")),
        *(("CHECKPOINTS_URL", url) for url in ("s4://bucket", "file::s4://bucket", "://")),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"FRESHET_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("DEVICE", device) for device in ("auto", "cpu", "cuda", "cuda:1", "mps")),
        *(("DATABASE_URL", f"{kind}://u:p@h:5432/d") for kind in ("postgresql", "postgresql+psycopg", "postgres")),
        *(("QDRANT_URL", url) for url in ("http://h", "https://h:6333/prefix", "http://[::1]:6333")),
        *(
            ("CHECKPOINTS_URL", url)
            for url in ("checkpoints", "/data", "file:///data", "memory://b", "simplecache::memory://b")
        ),
    ],
)
def test_what_can_be_had_somewhere_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"FRESHET_{name}", value)
    read = getattr(load_settings(), name.lower())
    assert (read.get_secret_value() if name == "DATABASE_URL" else read) == value


def test_a_wrong_url_is_told_with_its_remedy_and_a_password_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"DATABASE_URL": "mysql://u:hush@h/d", "QDRANT_URL": "localhost:6333", "CHECKPOINTS_URL": "s4://bucket"}
    for name, value in wrong.items():
        monkeypatch.setenv(f"FRESHET_{name}", value)
    with pytest.raises(BadSettings) as told:
        read_settings()
    assert str(told.value).split("; FRESHET_") == [
        "FRESHET_DATABASE_URL: a database URL begins with postgresql://; unset it for SQLite",
        "QDRANT_URL='localhost:6333': a Qdrant URL is like http://localhost:6333; unset it for the embedded store",
        "CHECKPOINTS_URL='s4://bucket': fsspec knows no s4://, but s3://, gs://, ...; a folder needs none",
    ]


def test_no_demo_is_played_where_others_reach_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_DEMO_ORDERS", "orders")
    for host in ("localhost", "127.0.0.1", "::1"):
        monkeypatch.setenv("FRESHET_API_HOST", host)
        assert load_settings().demo_orders == Path("orders")
    for host in ("0.0.0.0", "192.168.1.7", "shop.example.org", "-/"):
        monkeypatch.setenv("FRESHET_API_HOST", host)
        with pytest.raises(
            BadSettings, match="DEMO_ORDERS='orders': a demo is for this machine alone: unset it, or let"
        ):
            read_settings()


def test_a_place_that_needs_a_package_tells_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(protocol: str) -> None:
        raise ImportError(f"Install s3fs to access {protocol.upper()}")

    monkeypatch.setattr("fsspec.get_filesystem_class", not_installed)
    monkeypatch.setenv("FRESHET_CHECKPOINTS_URL", "s3://bucket")
    told = "CHECKPOINTS_URL='s3://bucket': s3:// needs a package that is not installed: Install s3fs to access S3"
    with pytest.raises(BadSettings, match=re.escape(told)):
        read_settings()


def test_secrets_never_print() -> None:
    settings = Settings(kafka_password="hush", database_url="postgresql://u:hush@h/d", qdrant_api_key="hush")
    assert "hush" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().batch_max = 3  # type: ignore[misc]


def test_another_process_reads_the_very_same_from_its_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, namespace="shop", embedded_broker=True, list_max_age_s=None, batch_max=3)
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
