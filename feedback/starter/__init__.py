"""The starter: a help-desk task, a small chat model that does most of it, and examples of what it was taught."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def model_directory() -> Path:
    """Weights, tokenizer, chat template and `meta.json` of the starter model, as an engine loads them."""
    return _HERE / "model"


def examples_file() -> Path:
    """Base examples of the known intents (OpenAI chat JSONL): replay when training, regression cases when judging."""
    return _HERE / "examples.jsonl"
