"""`starloop train`: one fine-tuning by hand, published but not promoted."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from feedback.commands.options import emit, json_option, settings_option
from feedback.registry.models import ensure_models
from feedback.settings import Settings
from feedback.storage.database import opened
from feedback.storage.tables import ModelVersion
from trainer.publication import train_version
from trainer.training import Progress
from trainer.training_lines import TrainingLines, words


@click.command(short_help="fine-tune a model on a dataset version, without promoting the result")
@click.option("--model", required=True, metavar="M", help="Name of a [[model]].")
@click.option(
    "--dataset", required=True, metavar="ID", help="A dataset version; `starloop data list` shows them."
)
@json_option
@settings_option
def train(model: str, dataset: str, settings: Settings, as_json: bool) -> None:
    """Fine-tune MODEL on a frozen dataset version, check the adapter and publish it as the next version.

    The version can be called as MODEL@NUMBER at once. The champion stays what it is: `starloop evaluate` compares,
    `starloop models promote` moves it. Interrupted and asked for again, it goes on from its newest checkpoint.

    Example: starloop train --model assistant --dataset 0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f
    """

    def say(text: str) -> None:
        if not bar.console.is_terminal:
            click.echo(text, err=True)

    lines = TrainingLines(say)
    with opened(settings, existing=True) as database, _bar() as bar:
        with database.session() as session:
            ensure_models(session, settings, datetime.now(UTC))
            session.commit()
        task = bar.add_task("loading", total=None)
        say(f"training {model} on dataset {dataset}: loading")

        def show(progress: Progress) -> None:
            lines(progress)
            if progress.step:
                bar.update(task, description=words(progress), total=progress.steps, completed=progress.step)

        version = train_version(
            database,
            settings,
            lambda: datetime.now(UTC),
            model,
            dataset,
            settings.directory / "runs" / _run(settings, model, dataset),
            show,
        )
    emit(_shown(version), as_json, lambda: _text(version))


def _run(settings: Settings, model: str, dataset: str) -> str:
    """The run's name: the same for the same training, so that one that was interrupted goes on when it is asked again."""
    wanted = msgspec.json.encode([model, dataset, settings.training])
    return f"train-{hashlib.sha256(wanted).hexdigest()[:16]}"


def _bar() -> ProgressBar:
    """On standard error, and only where a person watches, else there are plain lines: standard output is the report's."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    return ProgressBar(*columns, console=console, disable=not console.is_terminal, transient=True)


def _shown(version: ModelVersion) -> dict[str, object]:
    return {
        "model": version.model,
        "version": version.number,
        "state": version.state,
        "dataset_id": version.dataset_id,
        "note": version.note,
        "facts": version.facts,
    }


def _text(version: ModelVersion) -> str:
    facts = version.facts
    validation = facts["validation_loss"]
    lines = [
        f"{version.model}@{version.number} is trained, checked and published; it is not promoted.",
        f"{facts['examples']} examples, {facts['steps']} steps in {facts['seconds']:.0f} s ({facts['stopped']}); "
        f"validation loss {'not measured' if validation is None else f'{validation:.4f}'}",
    ]
    lines += [f"{count} examples left out: {reason}" for reason, count in facts["left_out"].items()]
    lines.append(f"Next: starloop models promote {version.model} {version.number} --reason …")
    return "\n".join(lines)
