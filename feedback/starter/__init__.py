"""The starter: a small model for one task, with the grammar that its messages come from and its base examples."""

from __future__ import annotations

from pathlib import Path


def model_directory() -> Path:
    """Weights, tokenizer and `meta.json` of the starter model."""
    return Path(__file__).parent / "model"


def examples_file() -> Path:
    """The starter's base examples, OpenAI chat JSONL."""
    return Path(__file__).parent / "examples.jsonl"
