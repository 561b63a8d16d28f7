"""`starloop models import`: an adapter that was trained elsewhere as the next version."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from feedback.commands.options import emit, json_option, person, settings_option
from feedback.registry.adapters import adapter_name
from feedback.registry.models import ensure_models
from feedback.settings import Settings
from feedback.storage.database import opened
from trainer.adapter_import import Foreign, import_adapter


@click.command("import", short_help="an adapter trained elsewhere as the next version")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", required=True, metavar="M", help="Name of a [[model]].")
@click.option("--note", default="", help="What it is; stands with the version.")
@click.option(
    "--same-base", is_flag=True, help="The base that it names is the model's base under another name."
)
@json_option
@settings_option
def import_(folder: Path, model: str, note: str, same_base: bool, settings: Settings, as_json: bool) -> None:
    """Check the LoRA adapter in FOLDER, as peft saves it, against the model's base and publish it as the next version.

    It passes what an adapter trained here passes: every tensor finite, of the base's shapes, a rank that the engine serves, and a
    forward pass. It can be called as MODEL@NUMBER at once, and the champion stays what it is: `starloop evaluate` compares,
    `starloop models promote` moves it. Taken in again, it is the same version.

    \b
    Example: starloop models import ./my-lora --model assistant --note "trained on the GPU box"
    """
    with opened(settings, existing=True) as database:
        now = datetime.now(UTC)
        with database.session() as session:
            ensure_models(session, settings, now)
            session.commit()
        version = import_adapter(database, settings, Foreign(folder, model, note, same_base), person(), now)
    name = adapter_name(version.model, version.number)
    document = {
        "model": version.model,
        "version": version.number,
        "state": version.state,
        "note": version.note,
        "adapter_hash": version.adapter_hash,
        "facts": version.facts,
    }
    emit(
        document,
        as_json,
        lambda: (
            f"{name} is {version.state}: rank {version.facts.get('rank')}. Call it as {name}; `starloop evaluate` compares it."
        ),
    )
