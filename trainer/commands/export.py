"""`starloop models export`: a version's adapter or merged weights, for use elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from feedback.commands.options import emit, json_option, settings_option
from feedback.errors import BadInputError
from feedback.settings import Settings
from feedback.storage.database import opened
from trainer.export import Exported, export_version


@click.command(short_help="a version's adapter or merged weights, as a folder")
@click.argument("version", metavar="MODEL@VERSION")
@click.option(
    "--merged", is_flag=True, help="The base with the adapter in its weights, instead of the adapter alone."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to make; without it, MODEL-VERSION (and -merged) in this directory.",
)
@json_option
@settings_option
def export(version: str, merged: bool, output: Path | None, settings: Settings, as_json: bool) -> None:
    """Write a version into a new folder; `MODEL@base --merged` writes the base itself.

    An adapter is what peft and vLLM load beside its base, as it was published. Merged weights are a model of their own, with
    tokenizer and chat template, that `transformers.pipeline` and vLLM load; sums are rounded to the type of the base's weights.

    \b
    Example: starloop models export assistant@1.2 --merged --output assistant-1.2
    """
    name, _, number = version.partition("@")
    if not name or not number:
        raise BadInputError(f"{version[:80]!r} names no version; write MODEL@VERSION, such as assistant@1.2")
    target = output or Path(f"{name}-{number}{'-merged' if merged else ''}")
    with opened(settings, existing=True) as database:
        written = export_version(database, settings, name, number, target, merged, datetime.now(UTC))
    document = {**msgspec.to_builtins(written), "path": str(target.absolute())}
    emit(document, as_json, lambda: _told(written, target))


def _told(written: Exported, target: Path) -> str:
    what = "base with the adapter in its weights" if written.merged else "adapter"
    if not written.adapter_hash:
        what = "base"
    return f"{written.model}@{written.version}: the {what} stands in {target}, {len(written.files)} files with checksums"
