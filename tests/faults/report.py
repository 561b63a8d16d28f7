"""A results file: what was run, where and when, and what came of it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def write(path: Path, title: str, command: str, about: str, table: str) -> None:
    """Write a Markdown file with a table of results."""
    machine = f"{os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.release()}"
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    head = f"# {title}\n\n`{command}`, {when}: {about}.\n\nMachine: {machine}, Python {platform.python_version()}."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}\n\n{table}\n", encoding="utf-8")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
