"""Real vLLM behind a real gateway, with random adapters that make versions answer differently."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
from safetensors.numpy import save_file

from feedback import starter
from feedback.registry.adapters import AdapterStore, adapter_name
from feedback.registry.bases import resolve_base
from feedback.registry.versions import mark_version, reserve_version
from feedback.storage.database import Database
from tests.server.served import free_port

_CONFIGURATION = """\
[storage]
directory = "{directory}"
[server]
port = {port}
workers = {workers}
[[engine]]
base = "{base}"
port = {engine_port}
max_loras = {max_loras}
max_cpu_loras = {max_cpu_loras}
[[model]]
name = "assistant"
base = "{base}"
"""


@dataclass(frozen=True)
class Stage:
    """A running engine and gateway."""

    address: str
    engine_address: str
    directory: Path
    engine: subprocess.Popen[bytes]
    gateway: subprocess.Popen[bytes]

    def add_version(self, seed: int) -> str:
        """Publish and register a random adapter; its number. Another seed answers differently."""
        database = Database(f"sqlite:///{self.directory / 'starloop.sqlite'}")
        base = resolve_base("starter", self.directory)
        staged = self.directory / f"staged-{seed}"
        _random_adapter(staged, base.engine_model, seed)
        store = AdapterStore(self.directory / "adapters")
        now = datetime.now(UTC)
        with database.session() as session:
            version = reserve_version(
                session, "assistant", None, None, "starter", base.revision, store.hash_of(staged), "", {}, now
            )
            store.publish(staged, adapter_name("assistant", version.number), {})
            mark_version(session, "assistant", version.number, "registered")
            session.commit()
        database.close()
        return version.number

    def move(self, what: str, **body: str) -> None:
        """`promote` or `rollback`, as an operator does it."""
        told = httpx.post(
            f"{self.address}/v1/models/assistant/{what}", json={"reason": "churn", **body}, timeout=120
        )
        assert told.status_code == 200, told.text


@contextmanager
def stage(
    folder: Path,
    *,
    workers: int = 1,
    max_loras: int = 4,
    max_cpu_loras: int = 32,
    base: str = "starter",
    more: str = "",
) -> Iterator[Stage]:
    """`starloop engine` and `starloop serve` on one data directory, ready to answer; about 40 s.

    `more`: lines after the `[[model]]` of the configuration.
    """
    directory = folder / "data"
    port, engine_port = free_port(), free_port()
    configuration = folder / "starloop.toml"
    configuration.write_text(
        _CONFIGURATION.format(
            directory=directory,
            base=base,
            port=port,
            workers=workers,
            engine_port=engine_port,
            max_loras=max_loras,
            max_cpu_loras=max_cpu_loras,
        )
        + more
    )
    engine, gateway = (_start(folder, command, configuration) for command in ("engine", "serve"))
    address = f"http://127.0.0.1:{port}"
    try:
        _until_ready(address, [engine, gateway], folder)
        yield Stage(address, f"http://127.0.0.1:{engine_port}", directory, engine, gateway)
    finally:
        for process in (gateway, engine):
            process.send_signal(signal.SIGTERM)
        for process in (gateway, engine):
            process.wait(60)


def _start(folder: Path, command: str, configuration: Path) -> subprocess.Popen[bytes]:
    with (folder / f"{command}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "server.command", command, "--config", str(configuration)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _until_ready(address: str, processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            if httpx.get(f"{address}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        said = "\n".join(log.read_text(errors="replace") for log in folder.glob("*.log"))
        assert all(process.poll() is None for process in processes) and time.monotonic() < deadline, said
        time.sleep(0.3)


def _random_adapter(folder: Path, engine_model: str, seed: int) -> None:
    config = json.loads((starter.model_directory() / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    inner = config["num_attention_heads"] * config["head_dim"]
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
        tensors[f"{prefix}.lora_A.weight"] = random.normal(size=(4, inner)).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = random.normal(size=(hidden, 4)).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    described = {
        "peft_type": "LORA",
        "base_model_name_or_path": engine_model,
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["o_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(described))
