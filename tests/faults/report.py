"""A results file: what was run, where and when, and what came of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tests.bench.report import machine


def write(path: Path, title: str, command: str, about: str, table: str) -> None:
    """Write a Markdown file with a table of results."""
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    head = f"# {title}\n\n`{command}`, {when}: {about}.\n\nMachine: {machine()}."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}\n\n{table}\n", encoding="utf-8")
