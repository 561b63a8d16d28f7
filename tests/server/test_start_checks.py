"""Nothing starts on a configuration that could not work: one sentence, and exit status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", ["up", "serve", "loop"])
def test_a_file_of_a_model_that_cannot_be_used_is_told_before_anything_starts(
    tmp_path: Path, command: str
) -> None:
    examples = tmp_path / "examples.jsonl"
    examples.write_text("not JSON\n", encoding="utf-8")
    config = tmp_path / "starloop.toml"
    config.write_text(
        f'[storage]\ndirectory = "{tmp_path}/data"\n'
        f'[[model]]\nname = "assistant"\nschema = "{tmp_path}/none.json"\nexamples = "{examples}"\n',
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "server.command", command, "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"[[model]] 'assistant': schema = '{tmp_path}/none.json': cannot be read" in done.stderr
    assert f"[[model]] 'assistant': examples = '{examples}': {examples}: line 1: is not JSON" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()
