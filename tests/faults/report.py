"""The head of a results file: what was run, where and when."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def report(title: str, command: str, about: str, table: str) -> str:
    """A Markdown file with a table of results."""
    machine = f"{os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.release()}"
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    return f"# {title}\n\n`{command}`, {when}: {about}.\n\nMachine: {machine}, Python {platform.python_version()}.\n\n{table}\n"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
