"""The container files, checked as text: a schema, references that resolve, variables that are documented."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::?[-?][^}]*)?\}")

# The part of the Compose specification that this file uses; anything outside it is a typing mistake.
TEXT = {"type": "string"}
COMMAND = {"type": "array", "items": TEXT, "minItems": 1}
SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image", "restart"],
    "properties": {
        "build": TEXT,
        "image": TEXT,
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "init": {"type": "boolean"},
        "read_only": {"type": "boolean"},
        "tmpfs": {"type": "array", "items": TEXT},
        "cap_drop": {"type": "array", "items": TEXT},
        "security_opt": {"type": "array", "items": TEXT},
        "volumes": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+:/"}},
        "environment": {"type": "object", "additionalProperties": TEXT},
        "command": COMMAND,
        "ports": {"type": "array", "items": TEXT},
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "condition": {
                        "enum": ["service_started", "service_healthy", "service_completed_successfully"]
                    }
                },
            },
        },
        "healthcheck": {
            "type": "object",
            "additionalProperties": False,
            "required": ["test"],
            "properties": {
                "test": COMMAND,
                "interval": TEXT,
                "timeout": TEXT,
                "start_period": TEXT,
                "retries": {"type": "integer"},
            },
        },
    },
}
SCHEMA = {
    "type": "object",
    "additionalProperties": {},
    "required": ["name", "services", "volumes"],
    "properties": {
        "services": {"type": "object", "additionalProperties": SERVICE},
        "volumes": {"type": "object"},
    },
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


def test_the_compose_file_is_valid_and_names_every_role(compose: dict[str, Any]) -> None:
    jsonschema.validate(compose, SCHEMA)
    assert {"web", "worker", "trainer", "sweeper", "db", "redis"} <= set(compose["services"])


def test_every_long_running_service_has_a_health_check_and_only_known_volumes_and_neighbours(
    compose: dict[str, Any],
) -> None:
    for name, service in compose["services"].items():
        assert ("healthcheck" in service) == (service["restart"] != "no"), name
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in compose["volumes"], (name, volume)
        assert set(service.get("depends_on", {})) <= set(compose["services"]), name


def test_every_role_of_ours_runs_the_same_image_without_privileges(compose: dict[str, Any]) -> None:
    ours = [service for service in compose["services"].values() if "build" in service]
    assert len(ours) == 5
    assert {service["image"] for service in ours} == {"perennial:${PERENNIAL_TAG:-latest}"}
    assert all(service["cap_drop"] == ["ALL"] and service["read_only"] for service in ours)
    user = re.search(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert user is not None
    assert user.group(1) not in {"root", "0"}


def test_every_variable_is_documented_in_the_sample_environment() -> None:
    documented = set(
        re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
    )
    used = set(VARIABLE.findall((ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    for path in (ROOT / "searchapp" / "settings").glob("*.py"):
        used |= set(re.findall(r"""read_\w+\(\s*"([A-Z_]+)\"""", path.read_text(encoding="utf-8")))
    assert used - documented == set()
