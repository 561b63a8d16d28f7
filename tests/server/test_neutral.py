"""The base beside adapters on a CPU: asked for by the name of an adapter that adds nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from feedback import starter
from feedback.registry.adapters import AdapterStore
from feedback.registry.bases import Base, resolve_base
from server.engine.neutral import neutral_name, publish_neutral
from tests.server.inside import Inside, inside, settings_for
from tests.server.upstream import FakeEngine

NAME = "neutral-starter@0.0"  # of the stand-in's base


def test_it_is_zero_in_the_shapes_of_the_base(tmp_path: Path) -> None:
    base = resolve_base("starter", tmp_path)
    name = publish_neutral(base, tmp_path)
    assert name == neutral_name(base.engine_model)
    folder = tmp_path / "adapters" / name
    tensors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((starter.model_directory() / "config.json").read_text())
    shapes = {tensor.shape for tensor in tensors.values()}
    assert shapes == {(1, config["num_attention_heads"] * config["head_dim"]), (config["hidden_size"], 1)}
    assert all(not np.any(tensor) for tensor in tensors.values())
    described = json.loads((folder / "adapter_config.json").read_text())
    assert (described["base_model_name_or_path"], described["r"]) == (base.engine_model, 1)


def test_it_is_made_once_and_put_right_when_somebody_changed_it(tmp_path: Path) -> None:
    base = resolve_base("starter", tmp_path)
    name = publish_neutral(base, tmp_path)
    assert name is not None
    store = AdapterStore(tmp_path / "adapters")
    first = store.fingerprint(name)
    publish_neutral(base, tmp_path)
    assert store.fingerprint(name) == first
    (store.path(name) / "adapter_model.safetensors").write_bytes(b"poison")
    publish_neutral(base, tmp_path)
    store.check(name)


@pytest.mark.parametrize(
    "config",
    [
        None,
        "{}",
        '{"hidden_size": 8}',
        '{"n_embd": 8, "n_head": 2}',
        '{"hidden_size": 8, "num_attention_heads": 0}',
        "[]",
        '{"hidden_size": 8, "num_at',
    ],
)
def test_a_base_that_cannot_have_one_gets_none(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert publish_neutral(Base("x", "bases/x", str(tmp_path), "r"), tmp_path) is None


def publish(data: Path, engine: FakeEngine) -> None:
    path = str(starter.model_directory())
    publish_neutral(Base("starter", engine.base, path, "r"), data)


def models_asked(gateway: Inside, engine: FakeEngine) -> list[str]:
    engine.seen.clear()
    answer = gateway.ask()
    assert (answer.status, answer.headers["x-starloop-version"]) == (200, "assistant@base")
    assert gateway.ask({"model": "assistant@base", "stream": True}).status == 200
    return [request.body["model"] for request in engine.completions()]


def test_where_it_stands_the_base_is_asked_for_by_its_name(engine: FakeEngine, data: Path) -> None:
    publish(data, engine)
    with inside(settings_for(data, [engine.url])) as gateway:
        assert models_asked(gateway, engine) == [NAME, NAME]


def test_where_it_was_changed_or_does_not_load_the_base_is_asked_for_by_its_own_name(
    engine: FakeEngine, data: Path
) -> None:
    publish(data, engine)
    engine.adapters = set()
    with inside(settings_for(data, [engine.url])) as gateway:
        assert models_asked(gateway, engine) == [engine.base] * 2
    engine.adapters = None
    (data / "adapters" / NAME / "adapter_model.safetensors").write_bytes(b"poison")
    with inside(settings_for(data, [engine.url])) as gateway:
        assert models_asked(gateway, engine) == [engine.base] * 2
        assert engine.loaded == set()


def test_where_there_is_none_the_base_is_asked_for_by_its_own_name(
    gateway: Inside, engine: FakeEngine
) -> None:
    assert models_asked(gateway, engine) == [engine.base] * 2
