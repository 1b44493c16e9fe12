"""The files that install and start Freshet name what is really there, and give nothing away."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from streams.settings import Settings
from streams.status import ROLES

REPOSITORY = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (REPOSITORY / "deploy" / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [
    line
    for line in (REPOSITORY / "deploy" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def test_every_pin_is_exact_and_names_no_address() -> None:
    assert [pin for pin in PINS if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)] == []


def test_every_dependency_has_a_pin_that_it_accepts() -> None:
    pinned = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in PINS}
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_a_service_with_its_own_worker_id_and_a_health_check(role: str) -> None:
    service = SERVICES[role]
    assert service["command"] == ["worker", role]
    assert service["environment"]["FRESHET_WORKER_ID"] == f"{role}-1"
    assert service["depends_on"]["topics"] == {"condition": "service_completed_successfully"}
    assert service["healthcheck"]["test"][0] == "CMD"


def test_every_service_has_a_memory_limit_and_is_started_again_after_a_failure() -> None:
    assert {name for name, service in SERVICES.items() if "mem_limit" not in service} == set()
    assert {service["restart"] for service in SERVICES.values()} == {"unless-stopped", "on-failure"}


def test_the_services_that_others_wait_for_have_health_checks() -> None:
    awaited = {
        name
        for service in SERVICES.values()
        for name, wait in service.get("depends_on", {}).items()
        if wait["condition"] == "service_healthy"
    }
    assert awaited == {"kafka", "postgres", "qdrant"}
    assert all("healthcheck" in SERVICES[name] for name in awaited)


def test_ports_are_bound_to_this_machine_and_the_api_has_none() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in SERVICES["api"]


def test_secrets_come_from_variables() -> None:
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|API_KEY|DATABASE_URL", name):
                assert "${" in value, name


def test_the_containers_set_only_what_the_settings_read() -> None:
    known = {f"FRESHET_{name.upper()}" for name in Settings.model_fields}
    named = {name for role in ROLES for name in SERVICES[role]["environment"]}
    named |= set(re.findall(r"FRESHET_[A-Z_]+(?==)", DOCKERFILE))
    assert named - known == set()
    assert "FRESHET_HOME" in named


def test_versions_of_the_encoders_are_where_all_that_encode_find_them() -> None:
    for role in ("encode", "api"):
        folder = SERVICES[role]["environment"]["FRESHET_ENCODERS_URL"]
        assert f"encoders:{folder}" in SERVICES[role]["volumes"]
        assert f"--owner 10001 {folder}\n" in DOCKERFILE, "a volume takes its owner from the image"


def test_the_image_holds_every_package_and_runs_without_root() -> None:
    for package in ("streams", "encoders", "store"):
        assert f"COPY {package} {package}\n" in DOCKERFILE
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["10001"]
    assert "--uid 10001" in DOCKERFILE
    assert DOCKERFILE.index("-c constraints.txt") < DOCKERFILE.index("COPY streams")  # code changes keep the layer


def test_the_image_installs_the_dependencies_that_the_project_names(tmp_path: Path) -> None:
    command = re.search(r'^RUN (python -c ".*?") > requirements.txt', DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert command is not None
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    shell = command[1].replace("\\\n", "")
    printed = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    wanted = [PROJECT["optional-dependencies"][extra] for extra in ("embedded", "postgresql", "opentelemetry")]
    assert printed.splitlines() == sum(wanted, PROJECT["dependencies"])


@pytest.fixture
def makefile(tmp_path: Path) -> Path:
    """A folder with nothing but the Makefile and the pins."""
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    (tmp_path / "deploy").mkdir()
    shutil.copy(REPOSITORY / "deploy" / "constraints.txt", tmp_path / "deploy")
    return tmp_path


def run_make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_make_alone_prints_every_target(makefile: Path) -> None:
    done = run_make(makefile)
    assert done.returncode == 0
    for target in ("demo", "test", "check", "bench", "clean"):
        assert f"make {target} " in done.stdout


def test_make_demo_hands_the_shop_on(makefile: Path) -> None:
    assert '.venv/bin/freshet demo --shop "my shop"' in run_make(makefile, "-n", "demo", "SHOP=my shop").stdout


def test_make_refuses_an_old_python_and_says_what_to_do(makefile: Path) -> None:
    old = makefile / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    done = run_make(makefile, "demo", f"PYTHON={old}")
    assert done.returncode != 0
    assert "Freshet needs Python 3.11 or newer" in done.stdout
    assert not (makefile / ".venv").exists()


def test_ci_runs_the_targets_that_a_person_runs() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make (\w+)$", script, re.MULTILINE) == ["check", "test"]
    assert script.rstrip().endswith("make test")  # pytest's own line is the last
    subprocess.run(["bash", "-n", REPOSITORY / ".ci" / "run"], check=True)
