"""The lossless consumer in real processes on the embedded broker."""

from collections.abc import Iterator

import pytest
from accounts import Accounts, Event, accounts, additions
from brokers import MakeSettings

from streams.embedded_broker import EmbeddedBroker


@pytest.fixture
def book(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> Iterator[Accounts]:
    with accounts(broker_settings(tansu, batch_max=16)) as made:
        yield made


def test_events_are_applied_once_and_answered(book: Accounts) -> None:
    book.send(*additions(100))
    book.start()
    book.check()
