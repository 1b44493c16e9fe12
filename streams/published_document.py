"""One document on a compacted topic of one partition: the newest record is in force, for every role, at once."""

from typing import Generic, TypeVar

from pydantic import BaseModel

from streams.broker import Headers, Outgoing
from streams.parsing import parse

KEY = b"document"
Model = TypeVar("Model", bound=BaseModel)


class PublishedDocument(Generic[Model]):
    """The document that was published last, as a reader of its topic (streams.replicas.Replica) was told."""

    def __init__(self, nothing: Model) -> None:
        """nothing: what is in force while none was published"""
        self.current = nothing
        self.revision = 0  # rises with each that was told of
        self._nothing = nothing

    def put(self, key: bytes, value: bytes | None, headers: Headers) -> None:  # noqa: ARG002
        """A record of the topic; a null one takes the document back. Raises BadEvent, and what was before stays."""
        self.current = self._nothing if value is None else parse(type(self._nothing), value)
        self.revision += 1


def document_record(topic: str, document: BaseModel) -> Outgoing:
    """The message that puts it in force."""
    return Outgoing(topic, KEY, document.model_dump_json(exclude_unset=True).encode())
