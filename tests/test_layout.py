"""The layout that the project keeps: who imports whom, how long files are, and what lies where."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("streams", "encoders", "store")
LINES_MAX = 350
TOP_LEVEL = {
    "streams", "encoders", "store", "tests", "deploy", "docs", ".ci", ".gitignore", "docker-compose.yml",
    "pyproject.toml", "README.md", "Makefile", "CHANGELOG.md", "LICENSE",
}  # fmt: skip
# In parts, so that this file does not find itself.
FORBIDDEN = re.compile(
    "|".join(["/" + "work/", "/" + "tmp/", "/" + "root/", "/" + r"home/\w", "issue" + r" #?\d"]), re.I
)


def sources(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The full names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively: name the package"
            yield node.module or ""


def packages_imported_by(package: str) -> set[str]:
    names = {name.partition(".")[0] for path in sources(package) for name in imported(path)}
    return names & set(PACKAGES) - {package}


def test_streams_imports_the_other_two() -> None:
    assert packages_imported_by("streams") == {"encoders", "store"}


@pytest.mark.parametrize("package", ["encoders", "store"])
def test_encoders_and_store_import_neither_each_other_nor_streams(package: str) -> None:
    assert packages_imported_by(package) == set()


def test_only_the_encoders_import_torch() -> None:
    torches = {"torch", "torchvision", "transformers"}
    using = {
        package for package in PACKAGES for path in sources(package) for name in imported(path)
        if name.partition(".")[0] in torches
    }  # fmt: skip
    assert using == {"encoders"}


def test_what_a_shopper_waits_for_starts_without_torch() -> None:
    modules = "streams.cli, streams.clicks, streams.catalog, streams.index, streams.api, streams.learner"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "one of them imports torch"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_longer_than_a_person_reads_at_once(package: str) -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(package)}
    assert {name: length for name, length in lengths.items() if length > LINES_MAX} == {}


def test_the_top_level_holds_only_what_belongs_there() -> None:
    assert {path.parts[0] for path in kept_files()} - TOP_LEVEL == set()


def test_no_file_names_a_place_on_somebodys_machine_or_an_entry_of_a_tracker() -> None:
    found = []
    for path in kept_files():
        try:
            text = (REPOSITORY / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        found += [f"{path}: {match[0]}" for match in FORBIDDEN.finditer(text)]
    assert found == []


def kept_files() -> list[Path]:
    """Files that git keeps, or would if they were added."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no clone: git knows which files are kept")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    paths = [Path(name) for name in listed.split("\0") if name]
    return [path for path in paths if (REPOSITORY / path).is_file()]
