"""The configuration as people are shown it: where each value comes from, and never a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from feedback.settings import Engine, Schedule, Settings, Storage, Teacher
from feedback.settings_file import load, origins
from feedback.settings_shown import DEFAULT, effective


def test_each_value_says_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "[server]\nport = 9000\nworkers = 2\n[[model]]\nname = 'a'\nbase = 'starter'\n", encoding="utf-8"
    )
    environment = {"STARLOOP_SERVER__PORT": "9100", "STARLOOP_MODEL__MODE": "auto", "HOME": "/nowhere"}

    found = {one.name: one for one in effective(load(file, environment), origins(file, environment))}

    assert (found["server.port"].text, found["server.port"].origin) == ("9100", "STARLOOP_SERVER__PORT")
    assert (found["server.workers"].text, found["server.workers"].origin) == ("2", "mine.toml")
    assert (found["model[0].mode"].text, found["model[0].mode"].origin) == ('"auto"', "STARLOOP_MODEL__MODE")
    assert found["model[0].name"].origin == "mine.toml"
    assert found["server.host"].origin == found["engine[0].base"].origin == DEFAULT


SECRET = "hunter2"
KEEPING = Settings(
    storage=Storage(database=f"postgresql://ann:{SECRET}@db:5432/starloop?password={SECRET}"),
    engine=[
        Engine(
            urls=[f"http://user:{SECRET}@gpu:8100"],
            arguments=["--api-key", SECRET, f"--hf-token={SECRET}", "--dtype", "float16"],
            environment={"HF_TOKEN": SECRET},
        )
    ],
    schedule=Schedule(
        webhook=f"https://hooks.example/services/{SECRET}", smtp=f"smtp://ann:{SECRET}@mail:587"
    ),
    teacher=Teacher(url=f"https://{SECRET}@teacher.example/v1"),
)


def test_no_secret_is_shown() -> None:
    shown = {one.name: one.text for one in effective(KEEPING, {})}

    assert SECRET not in repr(shown)
    assert shown["storage.database"] == '"postgresql://ann:•••@db:5432/starloop?password=•••"'
    assert shown["engine[0].arguments"] == '["--api-key", "•••", "--hf-token=•••", "--dtype", "float16"]'
    assert "HF_TOKEN" in shown["engine[0].environment"] and "mail:587" in shown["schedule.smtp"]


@pytest.mark.parametrize("url", ["sqlite:////data/starloop.sqlite", "http://127.0.0.1:8100"])
def test_an_address_without_a_secret_is_shown_as_it_is(url: str) -> None:
    shown = {one.name: one.text for one in effective(Settings(storage=Storage(database=url)), {})}

    assert shown["storage.database"] == f'"{url}"'
