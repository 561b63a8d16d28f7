"""The demo's result, for a person and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from feedback.commands.options import compact_table
from server.demo.scores import VersionScore


def versions_table(versions: Sequence[VersionScore]) -> Table:
    """One row a version, in the order in which they were made."""
    table = compact_table("Versions")
    for heading in (
        "version",
        "accuracy",
        "old\ntopics",
        "stars",
        "valid",
        "ms per\nrequest",
        "fixes",
        "regres-\nsions",
    ):
        table.add_column(heading, justify="left" if heading == "version" else "right", no_wrap=True)
    table.add_column("decision", min_width=len("inconclusive"), overflow="fold")
    for row in versions:
        table.add_row(
            row.version,
            f"{row.accuracy:.1%}",
            f"{row.accuracy_old:.1%}",
            "–" if row.mean_stars is None else f"{row.mean_stars:.2f}",
            f"{row.valid_format:.1%}",
            f"{row.ms_per_request:.0f}",
            str(row.fixes),
            str(row.regressions),
            row.decision.partition(":")[0],
        )
    return table


def turns_table(turns: Sequence[dict[str, Any]]) -> Table:
    """One row a turn: what the loop decided and why."""
    table = Table(title="Turns", title_justify="left")
    for heading in ("turn", "kind", "decision", "version", "reason"):
        table.add_column(heading, no_wrap=heading != "reason")
    for turn in turns:
        table.add_row(
            str(turn["turn"]),
            turn["kind"],
            turn["decision"],
            turn.get("version", "–"),
            Text(turn["reason"]),  # names sections such as [dataset], which are no markup
        )
    return table


def write_json(path: Path, versions: Sequence[VersionScore], turns: Sequence[dict[str, Any]]) -> None:
    """Write both tables to a file, whole or not at all."""
    document = {"versions": [row.shown() for row in versions], "turns": list(turns)}
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    scratch.replace(path)
