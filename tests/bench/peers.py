"""What gateway and trainer are compared with, and the load generator: installed into `.bench/`, pinned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".bench"
WRK, NGINX = "4.1.0", "1.22.1"
LITELLM, TENSORZERO, PORTKEY = "1.108.7", "2026.6.0", "1.15.2"
_DEBIAN = ("wrk", "nginx", "libluajit-5.1-2")
_INSTALL_SECONDS = 300


class NotInstalledError(Exception):
    """A program is not to be had here; the reason is what its installer said."""


def debian(program: str) -> list[str]:
    """The command line of `wrk` or `nginx`: the system's, else out of Debian's packages, unpacked and not installed."""
    if found := shutil.which(program) or shutil.which(program, path="/usr/sbin"):
        return [found]
    root = FOLDER / "debian"
    path = root / {"wrk": "usr/bin/wrk", "nginx": "usr/sbin/nginx"}[program]
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        _run(["apt-get", "download", *_DEBIAN], root)
        for package in root.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(package), str(root)], root)
    libraries = os.pathsep.join(str(folder) for folder in (root / "usr/lib").glob("*-linux-gnu"))
    return ["env", f"LD_LIBRARY_PATH={libraries}", str(path)]


def python(name: str, requirement: str) -> Path:
    """The interpreter of an environment that holds one package from PyPI and what that needs."""
    folder = FOLDER / name
    done = folder / requirement.replace("[", "-").replace("]", "")
    if not done.exists():
        uv = str(ROOT / ".venv/bin/uv")
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], ROOT)
        _run([uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), requirement], ROOT)
        done.touch()
    return folder / "bin/python"


def packages(name: str, requirements: Sequence[str]) -> Path:
    """A folder of packages from PyPI, these and no others, to be put before those of `.venv`."""
    folder = FOLDER / name
    done = folder / f"{requirements[0]}.done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        command = [str(ROOT / ".venv/bin/uv"), "pip", "install", "--quiet", "--no-deps"]
        _run([*command, "--python", sys.executable, "--target", str(folder), *requirements], ROOT)
        done.touch()
    return folder


def node(package: str, version: str, entry: str) -> list[str]:
    """The command line of a program from the npm registry."""
    folder = FOLDER / package.rpartition("/")[2]
    path = folder / "node_modules" / package / entry
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run(
            ["npm", "install", "--no-fund", "--no-audit", "--ignore-scripts", f"{package}@{version}"], folder
        )
    return ["node", str(path)]


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(str(error)) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalledError(said[-1] if said else f"{command[0]} ended with {done.returncode}")
