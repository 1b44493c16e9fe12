"""Documents of a person: what they say, and every fault by its line."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from streams.events import BadEvent
from streams.published_document import KEY, PublishedDocument, document_record
from streams.yaml_documents import DOCUMENT_MAX_BYTES, BadDocument, load_document, parse_document


class Round(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    kind: Literal["round"]
    radius: Annotated[float, Field(gt=0)]
    since: AwareDatetime | None = None


class Square(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    kind: Literal["square"]
    names: list[str]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    tops: list[Annotated[Round | Square, Field(discriminator="kind")]] = []


def faults_of(text: str) -> list[str]:
    with pytest.raises(BadDocument) as bad:
        parse_document(text, Table, "f")
    return str(bad.value).splitlines()


def test_a_document_is_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "tables.yaml"
    file.write_text(
        "tops:\n  - {kind: round, radius: 2.5, since: 2026-12-01T08:00:00Z}\n  - {kind: square, names: [a]}\n"
    )
    round_one, square = load_document(file, Table).tops
    assert isinstance(round_one, Round)
    assert isinstance(square, Square)
    assert round_one.radius == 2.5
    assert round_one.since is not None
    assert round_one.since.isoformat() == "2026-12-01T08:00:00+00:00"
    assert square.names == ["a"]


def test_every_fault_is_told_with_its_line() -> None:
    text = "tops:\n- kind: round\n  radius: -1\n  since: 2026-12-01 08:00:00\n"
    text += "- kind: square\n  names:\n  - a\n  - 7\n  weight: 1\n"
    assert faults_of(text) == [
        "f:3: radius: Input should be greater than 0",
        "f:4: since: Input should have timezone info; like 2026-12-01T08:00:00Z",
        "f:8: names: Input should be a valid string; YAML takes it for something else: put it into quotes",
        "f:9: weight: Extra inputs are not permitted",
    ]


def test_what_is_missing_is_told_where_it_should_stand() -> None:
    assert faults_of("tops:\n- kind: square\n  names: []\n- kind: round\n") == ["f:4: radius: Field required"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "f:1: it is empty"),
        ("tops: []\ntops: []\n", "f:2: tops stands here twice"),
        (
            "tops:\n- kind: square\n  names: &all [a]\n- kind: square\n  names: *all\n",
            "f:3: it is used again by an alias",
        ),
        ("tops:\n  - kind: [\n", "f:3: "),
        ("tops: []\n---\ntops: []\n", "f:2: "),
        ("tops:\n- !!python/object/apply:os.system [ls]\n", "f:2: could not determine a constructor"),
        ("[1]: 2\n", "f:1: a name is a text"),
        ("tops: \x00", "f:1: "),
        ("tops:\n- 2026-13-01\n", "f:1: month must be in 1..12"),
        ("- a\n", "f:1: "),
    ],
)
def test_what_is_no_such_document_is_refused(text: str, fault: str) -> None:
    assert faults_of(text)[0].startswith(fault)


@given(st.text(max_size=60))
def test_whatever_the_text_is_a_fault_has_a_line(text: str) -> None:
    known_good = parse_document("tops: []", Table, "f")
    try:
        assert parse_document(text, Table, "f") == known_good
    except BadDocument as bad:
        told = str(bad)
        assert re.fullmatch(r"f:\d+: .+", told, re.DOTALL)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadDocument, match="cannot be read: No such file"):
        load_document(tmp_path / "absent.yaml", Table)
    (tmp_path / "latin.yaml").write_bytes(b"\xff")
    with pytest.raises(BadDocument, match="not UTF-8 text"):
        load_document(tmp_path / "latin.yaml", Table)
    (tmp_path / "long.yaml").write_bytes(b"#" * (DOCUMENT_MAX_BYTES + 1))
    with pytest.raises(BadDocument, match="longer than 1,000,000 bytes"):
        load_document(tmp_path / "long.yaml", Table)


def test_the_document_that_was_published_last_is_in_force() -> None:
    told = PublishedDocument(Table())
    assert told.current == Table()
    record = document_record("tables", Table(tops=[Square(kind="square", names=["a"])]))
    assert (record.topic, record.key) == ("tables", KEY)
    assert record.value is not None
    told.put(KEY, record.value, ())
    assert told.current.tops == [Square(kind="square", names=["a"])]
    with pytest.raises(BadEvent, match="tops"):
        told.put(KEY, b'{"tops": "x"}', ())
    told.put(KEY, None, ())
    assert told.current == Table()
    assert told.revision == 2
