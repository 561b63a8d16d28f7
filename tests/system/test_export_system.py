"""A version that was exported with its adapter in the weights is a model of its own to real vLLM, and answers as the version did."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.faults.stage import Stage, stage

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
ASKED = [f"Where is parcel {number}, and what does it cost?" for number in range(12)]


def answers(on: Stage, model: str) -> list[str]:
    """Six tokens to each question, the likeliest each time."""
    found = []
    for question in ASKED:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 6,
            "temperature": 0,
        }
        answer = httpx.post(f"{on.address}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["choices"][0]["message"]["content"])
    return found


def test_merged_weights_answer_in_vllm_as_base_and_adapter_do(tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    (tmp_path / "before").mkdir()
    with stage(tmp_path / "before") as on:
        number = on.add_version(5)
        for _ in range(200):  # until the gateway has heard of it
            body = {"model": f"assistant@{number}", "messages": [{"role": "user", "content": "?"}]}
            if httpx.post(f"{on.address}/v1/chat/completions", json=body, timeout=60).status_code == 200:
                break
        adapted, plain = answers(on, f"assistant@{number}"), answers(on, "assistant@base")
        command = ["models", "export", f"assistant@{number}", "--merged", "--output", str(merged)]
        configuration = str(tmp_path / "before" / "starloop.toml")
        subprocess.run(
            [sys.executable, "-P", "-m", "server.command", *command, "--config", configuration], check=True
        )
    (tmp_path / "after").mkdir()
    with stage(tmp_path / "after", base=str(merged)) as on:
        alone = answers(on, "assistant@base")
    same = sum(one == other for one, other in zip(adapted, alone, strict=True))
    unlike = sum(one != other for one, other in zip(plain, alone, strict=True))
    # Merged weights are rounded to what the base's are stored in, which may tip a likeliest token here and there.
    assert same >= 10 and unlike >= 10, (adapted, alone, plain)
