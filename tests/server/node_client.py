"""OpenAI's client for Node.js: fetched from npm by the lock file in `node/`, and never kept in the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_SOURCE = Path(__file__).parent / "node"
_INSTALLED = Path(__file__).parents[2] / "build" / "node-openai"
_AWAY = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ENOTCACHED")
"""What npm says where its registry does not answer."""


def installed() -> Path:
    """The folder with the client and the script. Skips the test where there is no Node.js or the registry is away."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"OpenAI's client for Node.js needs {' and '.join(missing)}: apt-get install nodejs npm")
    lock = _SOURCE / "package-lock.json"
    there = _INSTALLED / "package-lock.json"
    if not there.is_file() or there.read_bytes() != lock.read_bytes():
        _install(lock)
    shutil.copy(_SOURCE / "story.mjs", _INSTALLED)
    return _INSTALLED


def _install(lock: Path) -> None:
    """In a folder beside it first, so that a fetch that breaks off is none."""
    draft = _INSTALLED.with_name(f"{_INSTALLED.name}.{os.getpid()}")
    draft.mkdir(parents=True, exist_ok=True)
    try:
        for name in ("package.json", lock.name):
            shutil.copy(_SOURCE / name, draft)
        options = ["--ignore-scripts", "--no-fund", "--no-audit"]
        done = subprocess.run(["npm", "ci", *options], cwd=draft, capture_output=True, text=True, timeout=180)
        if done.returncode and any(code in done.stderr for code in _AWAY):
            pytest.skip(f"the npm registry does not answer: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
        shutil.rmtree(_INSTALLED, ignore_errors=True)
        draft.rename(_INSTALLED)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def begin_story(folder: Path, address: str, rows: Path, question: str) -> subprocess.Popen[str]:
    """The script of the whole story, begun."""
    return subprocess.Popen(
        ["node", str(folder / "story.mjs")],
        cwd=folder,
        env={
            **os.environ,
            "STARLOOP_URL": address,
            "STARLOOP_ROWS": str(rows),
            "STARLOOP_QUESTION": question,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(story: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    """What the script saw, at its end."""
    try:
        output, errors = story.communicate(timeout=seconds)
    finally:
        if story.poll() is None:
            story.kill()
            story.communicate()
    assert story.returncode == 0, errors
    found: dict[str, Any] = json.loads(output)
    return found
