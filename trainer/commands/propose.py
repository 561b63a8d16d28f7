"""`starloop failures propose`: corrections from a teacher or from the model itself, for cases that nobody corrected."""

from __future__ import annotations

from dataclasses import asdict

import click

from feedback.commands.options import emit, json_option, settings_option
from feedback.errors import BadInputError
from feedback.settings import Settings

_BEST_OF = 8


@click.command(short_help="propose corrections: a teacher's, or the model's own best")
@click.option("--model", required=True, help="Whose failure cases.")
@click.option("--source", type=click.Choice(["teacher", "best-of-n"]), default="teacher", show_default=True)
@click.option("--limit", type=click.IntRange(1, 100_000), help="Most cases; without it, [teacher] limit.")
@json_option
@settings_option
def propose(settings: Settings, model: str, source: str, limit: int | None, as_json: bool) -> None:
    """Propose corrections for failure cases in quarantine, newest first. A teacher sees their prompts and nothing else.

    What passes all checks is trained on where [teacher] accept is "checked", and waits for `failures decide` otherwise.

    Example: starloop failures propose --model assistant --source teacher --limit 50
    """
    from trainer.opening import open_workshop
    from trainer.proposals import ask_teacher, best_of_n

    most = limit or settings.teacher.limit
    with open_workshop(settings, existing=True) as workshop:
        configured = workshop.model(model)
        if source == "best-of-n":
            n = settings.teacher.best_of or _BEST_OF
            done = best_of_n(workshop, configured, workshop.gateway, n, most)
        elif workshop.teacher is None:
            raise BadInputError(
                "there is no teacher: set [teacher] url and model, and its key in STARLOOP_TEACHER_KEY"
            )
        else:
            done = ask_teacher(workshop, configured, workshop.teacher, most)
    emit(asdict(done), as_json, done.told)
