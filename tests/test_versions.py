"""Versions of the encoders as they are told, and what a reader of them knows."""

import asyncio
from pathlib import Path

import pytest
from messages import NAMES

from store.encoders import EncoderRow
from streams.events import BadEvent
from streams.roles import Parts
from streams.settings import Settings
from streams.versions import Versions, serving_of, version_of, version_record

WIDTHS = {"image": 4, "text": 2, "fused": 2}


def row(fingerprint: str, **more: object) -> EncoderRow:
    return EncoderRow(fingerprint, {"image": "package:i", "text": "package:t"}, WIDTHS, **more)  # type: ignore[arg-type]


def put(versions: Versions, *rows: EncoderRow) -> None:
    for one in rows:
        record = version_record(NAMES, version_of(one))
        assert record.key is not None
        versions.put(record.key, record.value, record.headers)


def test_the_first_version_keeps_the_groups_of_a_shop_without_versions() -> None:
    groups = [
        version_of(row("aa", first=True)).group,
        version_of(row("aa", first=True, life=2)).group,
        version_of(row("bb")).group,
        version_of(row("bb", life=3)).group,
    ]
    assert groups == ["", "-aa-2", "-bb", "-bb-3"]


def test_in_whichever_order_the_two_records_of_a_switch_come_one_version_serves() -> None:
    before = [row("aa", state="serving", served=1, filled_at=1.0), row("bb", state="filling", filled_at=2.0)]
    after = [row("aa", state="filling", served=1, revision=2), row("bb", state="serving", served=2, revision=2)]
    for order in (after, after[::-1]):
        versions = Versions()
        assert versions.serving is None
        put(versions, *before)
        seen = []
        for one in order:
            put(versions, one)
            serving = versions.serving
            assert serving is not None
            seen.append(serving.fingerprint)
        assert seen[-1] == "bb"
        assert seen.count("bb") + seen.count("aa") == 2
        put(versions, *before)  # written late
        assert versions.serving is not None
        assert versions.serving.fingerprint == "bb"


def test_the_encoders_of_the_settings_serve_at_first_and_others_wait_until_they_are_switched_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class OtherParts(Parts):
        fingerprint = "bb"

    def told(parts: Parts) -> dict[str, str]:
        return {version.fingerprint: version.state for version in asyncio.run(parts.stored_versions())}

    parts = Parts(Settings(home=tmp_path))
    assert told(parts) == told(parts) == {parts.fingerprint: "serving"}
    assert caplog.messages == []
    assert told(OtherParts(parts.settings)) == {parts.fingerprint: "serving", "bb": "idle"}
    assert "others serve than the settings name: freshet encoders fill bb" in caplog.text


def test_a_removed_version_does_not_serve() -> None:
    assert serving_of([version_of(row("aa", state="removed", served=5))]) is None


def test_a_record_that_breaks_its_contract_is_refused() -> None:
    for value in (None, b"{}", b'{"fingerprint": "../x"}'):
        with pytest.raises(BadEvent):
            Versions().put(b"aa", value, ())
