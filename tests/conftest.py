"""Fixtures that every test may use."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest_plugins = ["brokers"]
pytest.register_assert_rewrite("accounts", "system", "truth")  # their asserts tell as much as those of a test

REPOSITORY = Path(__file__).parent.parent


def required(name: str) -> bool:
    """True where the absence of a part is a failure: under CI, or named in FRESHET_REQUIRE."""
    return os.environ.get("CI") == "true" or name in os.environ.get("FRESHET_REQUIRE", "").split(",")


@pytest.fixture(autouse=True)
def _signals_are_heard() -> Iterator[None]:
    """After a test, too: `freshet demo` leaves signals ignored, and processes of later tests would inherit that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Returns the folder of a real data set; skips where it is not, fails where it is required."""

    def folder(name: str) -> Path:
        place = Path(os.environ.get("FRESHET_DATA", REPOSITORY.parent / "shared" / "data")) / name
        if place.is_dir():
            return place
        if required("data"):
            pytest.fail(f"the data set {name} is required, but {place} is not a folder")
        pytest.skip(f"no data set {name}: put it at {place}, or set FRESHET_DATA")

    return folder
