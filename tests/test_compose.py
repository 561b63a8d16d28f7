"""The files for containers say what the program understands. Docker itself is not needed, and not run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from feedback.settings import Settings
from feedback.settings_file import load
from server.command import main

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
OURS = ("engine", "gateway", "loop")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return found


def settings_of(service: dict[str, Any]) -> Settings:
    """As the service reads them, from the file that the instructions copy."""
    variables = {
        name: re.sub(r"\$\{(\w+):\?[^}]*\}", "secret", re.sub(r"\$\{(\w+):-([^}]*)\}", r"\2", str(value)))
        for name, value in service["environment"].items()
    }
    assert "${" not in "".join(variables.values())
    return load(DEPLOY / "starloop.toml", variables)


@pytest.mark.parametrize("name", OURS)
def test_each_service_runs_a_command_that_there_is(services: dict[str, Any], name: str) -> None:
    program, command = services[name]["command"]
    assert program == "starloop"
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0


@pytest.mark.parametrize("name", OURS)
def test_all_share_one_database_and_one_data_directory(services: dict[str, Any], name: str) -> None:
    settings = settings_of(services[name])
    assert settings.database_url == "postgresql+psycopg://starloop:secret@database/starloop"
    assert str(settings.directory) == "/data"
    assert "data:/data" in services[name]["volumes"]
    assert settings.capture.sync == "disk"


def test_each_finds_the_others_where_they_listen(services: dict[str, Any]) -> None:
    engine, gateway, loop = (settings_of(services[name]) for name in OURS)
    assert engine.engine[0].urls == [] and engine.engine[0].host == "0.0.0.0"
    for other in (gateway, loop):
        assert other.engine[0].urls == [f"http://engine:{engine.engine[0].port}"]
    assert gateway.server.host == "0.0.0.0"
    assert loop.server.host == "gateway" and loop.server.port == gateway.server.port
    assert services["gateway"]["ports"] == [f"127.0.0.1:{gateway.server.port}:{gateway.server.port}"]
    assert not any("ports" in services[name] for name in ("database", "engine", "loop"))


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_longer_to_end_than_it_takes(services: dict[str, Any], name: str) -> None:
    seconds = int(services[name]["stop_grace_period"].removesuffix("s"))
    assert seconds > settings_of(services[name]).server.drain_seconds + 5


def test_the_image_copies_what_there_is_and_what_docker_is_let_see() -> None:
    seen = {
        line[1:] for line in (DEPLOY.parent / ".dockerignore").read_text().split() if line.startswith("!")
    }
    copied = {
        source
        for line in (DEPLOY / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    }
    assert copied == seen
    assert all((DEPLOY.parent / source).exists() for source in copied)
