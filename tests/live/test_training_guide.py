"""docs/guides/train.md as a shop follows it: its ten commands in order, against `freshet up` with real encoders."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from streams.ports import free_port
from streams.shop import draw_shop
from streams.supervisor import dies_with_parent

pytestmark = pytest.mark.timeout(540)

REPOSITORY = Path(__file__).parent.parent.parent
GUIDE = REPOSITORY / "docs/guides/train.md"
PRODUCTS = 60
WITHIN_S = 120.0


class Shop:
    """A drawn shop with clicks, and everything running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        draw_shop(folder / "shop", PRODUCTS)
        ports = {name: str(free_port()) for name in ("FRESHET_EMBEDDED_PORT", "FRESHET_API_PORT")}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}
        own = {"FRESHET_HOME": str(folder / "home"), "FRESHET_PICTURES_ROOT": str(folder / "shop")}
        self._environment = inherited | ports | own | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "150"}
        self._api = f"http://127.0.0.1:{ports['FRESHET_API_PORT']}"
        self._log = (folder / "up.log").open("wb")
        self._up = subprocess.Popen(
            self._command("up"),
            cwd=folder,
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
            preexec_fn=dies_with_parent(),
        )
        self.until_ready()

    def run(self, command: str) -> str:
        """What a line of the guide says; it must succeed."""
        ran = subprocess.run(
            self._command(*shlex.split(command)[1:]),
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        return ran.stdout

    def serving(self) -> str:
        """The fingerprint of the version that serves."""
        [serving] = [version for version in self.versions() if version["state"] == "serving"]
        return str(serving["fingerprint"])

    def versions(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = orjson.loads(self.run("freshet encoders list --json"))
        return found

    def until_encoded(self) -> None:
        """Every product has vectors of the version that serves."""
        deadline = time.monotonic() + WITHIN_S
        while not any(version["encoded"] == PRODUCTS for version in self.versions()):
            assert time.monotonic() < deadline, self.versions()
            time.sleep(1.0)

    def until_ready(self) -> None:
        deadline = time.monotonic() + WITHIN_S
        while True:
            assert self._up.poll() is None, (self.folder / "up.log").read_text()[-3_000:]
            try:
                if httpx.get(f"{self._api}/readyz", trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            assert time.monotonic() < deadline, (self.folder / "up.log").read_text()[-3_000:]
            time.sleep(0.5)

    def close(self) -> None:
        self._up.terminate()
        self._up.wait(60)
        self._log.close()

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "streams.cli", *arguments]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    opened = Shop(tmp_path)
    yield opened
    opened.close()


def commands() -> list[str]:
    """The command of each numbered step."""
    steps = re.split(r"^## \d+\. ", GUIDE.read_text(encoding="utf-8").partition("## More")[0], flags=re.MULTILINE)[1:]
    found = [re.findall(r"^    (freshet .+)$", step, flags=re.MULTILINE) for step in steps]
    assert [len(of_step) for of_step in found] == [1] * 10, "ten steps of one command each"
    return [command for [command] in found]


def test_the_guide_s_ten_commands_lead_from_a_catalogue_to_a_switched_encoder_and_back(shop: Shop) -> None:
    shop.run("freshet simulate shop/catalog.jsonl shop/clicks.jsonl --users 40 --clicks 600")
    shop.run("freshet publish catalog shop/catalog.jsonl")
    shop.until_encoded()
    before, taught, said = shop.serving(), "", {}
    for number, command in enumerate(commands(), 1):
        written = command.replace("SERVING", before).replace("FINGERPRINT", taught)
        said[number] = shop.run(written)
        if number == 5:
            taught = re.findall(r"\b[0-9a-f]{12}\b", said[number])[0]
        if number in (7, 8):
            assert shop.serving() == (before if number == 7 else taught)
    assert taught != before
    assert shop.serving() == before, "rolled back"
    assert "fused taught" in said[4]
    assert f"filling {taught}" in said[6] or f"{taught} is full" in said[6]
    assert "dress" in said[9], "of a drawn shop some are dresses, and words find them"
    in_one_go = shop.run("freshet encoders train shop --clicks shop/clicks.jsonl")
    assert re.search(r"\b([0-9a-f]{12}) is idle: fill it with `freshet encoders fill \1`", in_one_go)
