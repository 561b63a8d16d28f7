"""`starloop train`: one fine-tuning by hand, published but not promoted."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from feedback.commands.options import emit, json_option, settings_option
from feedback.datasets.methods import Wanted
from feedback.errors import BadInputError
from feedback.registry.models import ensure_models
from feedback.registry.training_steps import all_steps, epochs_of, run_of
from feedback.registry.versions import get_version
from feedback.settings import Settings
from feedback.storage.database import opened
from feedback.storage.tables import ModelVersion
from trainer.publication import train_version
from trainer.training import BESIDE_WEIGHTS, WATCHING, Progress
from trainer.training_lines import TrainingLines, words
from trainer.training_table import training_text
from trainer.whole import WholeModel, train_whole


@click.group(
    short_help="fine-tune a model on a dataset version, without promoting the result",
    invoke_without_command=True,
    subcommand_metavar="[show VERSION]",
)
@click.option("--model", metavar="M", help="Name of a [[model]].")
@click.option("--dataset", metavar="ID", help="A dataset version; `starloop data list` shows them.")
@click.option(
    "--method",
    type=click.Choice(["auto", "sft", "dpo", "kto"]),
    help="Imitate right answers, learn from pairs, or from good and bad answers; without it, [training] method.",
)
@click.option(
    "--full",
    is_flag=True,
    help="All weights of the base instead of an adapter: a model of its own in --output.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="New folder for what --full makes."
)
@json_option
@settings_option
@click.pass_context
def train(
    context: click.Context,
    model: str | None,
    dataset: str | None,
    method: Wanted | None,
    full: bool,
    output: Path | None,
    settings: Settings,
    as_json: bool,
) -> None:
    """Fine-tune MODEL on a frozen dataset version, check the adapter and publish it as the next version.

    The version can be called as MODEL@NUMBER at once. The champion stays what it is: `starloop evaluate` compares,
    `starloop models promote` moves it. Interrupted and asked for again, it goes on from its newest checkpoint.

    With --full all weights of the base are trained on right answers, and no version comes of it: the folder --output is a model of
    its own, which may be the next `[[engine]]` and `[[model]]` base. It takes some 20 bytes of memory a weight.

    \b
    Example: starloop train --model assistant --dataset 0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f
             starloop train show assistant@1.0
    """
    if context.invoked_subcommand is not None:
        return
    for name, value in (("--model", model), ("--dataset", dataset)):
        if value is None:
            raise click.UsageError(f"Missing option '{name}'.")
    assert model is not None and dataset is not None
    if full != (output is not None):
        raise click.UsageError(
            "--full and --output go together: a fully trained model needs a folder of its own."
        )
    if full and method not in (None, "auto", "sft"):
        raise click.UsageError(f"--full imitates right answers; --method {method} trains an adapter.")

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

        if output is not None:
            work = settings.directory / "runs" / _run(settings, model, dataset, "full")
            made = train_whole(database, settings, model, dataset, work, output, show)
            emit(msgspec.to_builtins(made), as_json, lambda: _whole_text(made, output))
            return
        version = train_version(
            database,
            settings,
            lambda: datetime.now(UTC),
            model,
            dataset,
            settings.directory / "runs" / _run(settings, model, dataset, method),
            show,
            method=method,
        )
    emit(_shown(version), as_json, lambda: _text(version))


@train.command(short_help="how a version's training went")
@click.argument("version", metavar="MODEL@NUMBER")
@json_option
@settings_option
def show(version: str, as_json: bool, settings: Settings) -> None:
    """Show a version's training: losses by epoch, the last step's figures, and what was noticed.

    A cycle that trains just now, or whose training failed, is shown by `starloop cycle show`.

    Example: starloop train show assistant@1.0
    """
    model, _, number = version.partition("@")
    if not number:
        raise BadInputError(f"{version!r} names no version; write MODEL@NUMBER, such as assistant@1.0")
    with opened(settings, existing=True) as database, database.reading() as session:
        found = get_version(session, model, number)
        steps = all_steps(session, run_of(session, model, number))
    document = {
        **_shown(found),
        "epochs": msgspec.to_builtins(epochs_of(steps)),
        "noticed": [{"step": step.step, "text": text} for step in steps for text in step.noticed],
    }
    emit(document, as_json, lambda: "\n".join(training_text(steps) or ["the record holds none of its steps"]))


def _run(settings: Settings, model: str, dataset: str, method: str | None) -> str:
    """The run's name: the same for the same training, so that one that was interrupted goes on when it is asked again, also where it
    is watched over otherwise now."""
    apart = {*BESIDE_WEIGHTS, *WATCHING}
    chosen = {
        name: value for name, value in msgspec.structs.asdict(settings.training).items() if name not in apart
    }
    wanted = msgspec.json.encode([model, dataset, chosen, method or settings.training.method])
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


def _whole_text(made: WholeModel, output: Path) -> str:
    lines = [f"{output} is a model of its own, trained on all weights of {made.base} and checked."]
    lines += _went(made.facts)
    lines.append(
        f'Next: base = "{output.absolute()}" in [[engine]] and [[model]], and a restart; or look at it by any vLLM first.'
    )
    return "\n".join(lines)


def _went(facts: dict[str, Any]) -> list[str]:
    validation = facts["validation_loss"]
    return [
        f"{facts['examples']} examples, {facts['steps']} steps in {facts['seconds']:.0f} s ({facts['stopped']}); "
        f"validation loss {'not measured' if validation is None else f'{validation:.4f}'}"
    ]


def _text(version: ModelVersion) -> str:
    facts = version.facts
    lines = [
        f"{version.model}@{version.number} is trained, checked and published; it is not promoted.",
        *_went(facts),
    ]
    if "method_reason" in facts:
        lines.append(f"method {facts['method']}: {facts['method_reason']}")
    lines += [f"{count} examples left out: {reason}" for reason, count in facts["left_out"].items()]
    lines += [one["text"] for one in facts.get("diagnoses", ())]
    lines.append(f"Next: starloop models promote {version.model}@{version.number} --reason …")
    return "\n".join(lines)
