"""Fixtures that every test may use."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["brokers"]
pytest.register_assert_rewrite("accounts", "system", "truth")  # their asserts tell as much as those of a test

REPOSITORY = Path(__file__).parent.parent


def required(name: str) -> bool:
    """True where the absence of a part is a failure: under CI, or named in FRESHET_REQUIRE."""
    return os.environ.get("CI") == "true" or name in os.environ.get("FRESHET_REQUIRE", "").split(",")


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
