"""Files that a person writes in YAML: checked against a contract, and what is wrong is told by line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

DOCUMENT_MAX_BYTES = 1_000_000
HINTS = {
    "string_type": "; YAML takes it for something else: put it into quotes",
    "timezone_aware": "; like 2026-12-01T08:00:00Z",
    "datetime_type": "; like 2026-12-01T08:00:00Z",
}
Model = TypeVar("Model", bound=BaseModel)


class BadDocument(ValueError):
    """The file is no such document; str() has a line `FILE:LINE: what is wrong` for each fault."""


def load_document(path: Path, contract: type[Model]) -> Model:
    """The file's document. Raises BadDocument with every fault, also if the file cannot be read."""
    try:
        raw = path.read_bytes()
        if len(raw) > DOCUMENT_MAX_BYTES:
            raise BadDocument(f"{path}: it is longer than {DOCUMENT_MAX_BYTES:,} bytes")
        return parse_document(raw.decode(), contract, str(path))
    except OSError as error:
        raise BadDocument(f"{path}: it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadDocument(f"{path}: it is not UTF-8 text: {error.reason} at byte {error.start}") from error


def parse_document(text: str, contract: type[Model], name: str) -> Model:
    """The document that the text holds. Raises BadDocument; its lines begin with the name."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise BadDocument(f"{name}:1: it is empty")
        _refuse_what_stands_twice(node, name)
        value = _value_of(loader, node, name)
    except yaml.YAMLError as error:
        raise BadDocument(f"{name}:{_line_of_fault(error)}: {_problem(error)}") from error
    try:
        return contract.model_validate(value, strict=True)
    except ValidationError as error:
        faults = sorted((_line_at(node, fault["loc"]), _told(fault)) for fault in error.errors())
        raise BadDocument("\n".join(f"{name}:{line}: {told}" for line, told in faults)) from error


def _value_of(loader: yaml.SafeLoader, node: yaml.Node, name: str) -> Any:
    try:
        return loader.construct_document(node)
    except ValueError as error:  # what looks like a date and is none, such as one in month 13
        raise BadDocument(f"{name}:{_line(node)}: {error}") from error


def _refuse_what_stands_twice(node: yaml.Node, name: str) -> None:
    """YAML would take the last of two equal keys. An alias (*name) could make a small file endless."""
    known: set[int] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if id(one) in known:
            raise BadDocument(f"{name}:{_line(one)}: it is used again by an alias (*name): write it out")
        known.add(id(one))
        if isinstance(one, yaml.SequenceNode):
            waiting += one.value
        if isinstance(one, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in one.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise BadDocument(f"{name}:{_line(key)}: a name is a text, not a list")
                if key.value in keys:
                    raise BadDocument(f"{name}:{_line(key)}: {key.value} stands here twice")
                keys.add(key.value)
                waiting += [key, value]


def _line_at(node: yaml.Node, place: Sequence[int | str]) -> int:
    """The line of what stands at this place of the document, or else of what it should stand in.

    A part that the document does not have is the contract's: which of several kinds it was taken for.
    """
    line = _line(node)
    for part in place:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    line, node = _line(key), value
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = _line(node)
    return line


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _told(fault: Any) -> str:
    """One broken rule, with the name of what breaks it."""
    names = [part for part in fault["loc"] if isinstance(part, str)]
    what = fault["msg"].removeprefix("Value error, ") + HINTS.get(fault["type"], "")
    return f"{names[-1]}: {what}" if names else what


def _line_of_fault(error: yaml.YAMLError) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return 1 if mark is None else int(mark.line) + 1


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it is not YAML")
