"""`starloop failures`: what triage found, and what a person makes of it."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import entry_points
from typing import Any, cast, get_args

import click

from feedback.access.audit import note
from feedback.commands.options import emit, json_option, person, settings_option
from feedback.commands.text import conversation, harmless, part, shortened
from feedback.datasets.asked import asked_of
from feedback.datasets.candidates import candidates_of, list_candidates, review_candidate
from feedback.datasets.failing_kinds import FailingKinds, find_failing_kinds
from feedback.datasets.failures import (
    FailureContext,
    exchanges,
    list_failures,
    read_failure,
    resolve_failure,
    triage_in_steps,
)
from feedback.registry.models import check_known, get_model
from feedback.settings import ReasonName, Settings
from feedback.storage.database import opened
from feedback.storage.tables import Candidate, Failure, Feedback

_STATES = click.Choice(["quarantine", "corrected", "accepted", "dismissed", "operations"])
_MOMENT = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])
_REASONS = click.Choice(get_args(ReasonName))
_FOUND_BY = "`starloop failures triage` finds them, as every cycle does"


_GROUP = "starloop.failures"


class _Failures(click.Group):
    """Besides its own commands, those of other packages, found by entry point: this one may not import them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *entry_points(group=_GROUP).names])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry in entry_points(group=_GROUP, name=cmd_name):
            return cast(click.Command, entry.load())
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Failures, short_help="failure cases: list, show and resolve; which kinds fail")
def failures() -> None:
    """Failure cases that triage selected, with their reasons: `list` finds them, `show` tells all of one, `resolve` decides, `kinds` says what they have in common."""


@failures.command("list", short_help="failure cases, newest first")
@click.option("--model", help="Only this model's.")
@click.option("--state", type=_STATES, help="Only those in this state.")
@click.option("--reason", type=_REASONS, help="Only those with this reason among theirs.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", help="next_cursor of the page before.")
@json_option
@settings_option
def list_(
    settings: Settings,
    model: str | None,
    state: str | None,
    reason: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """Failure cases, newest first.

    Example: starloop failures list --model assistant --state quarantine --reason refusal
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        check_known(session, settings, model)
        page = list_failures(session, model, state, limit, cursor, reason)
        asked = exchanges(session, page.items)
    items = [row.model_dump() for row in page.items]
    emit({"items": items, "next_cursor": page.next_cursor}, as_json, lambda: _lines(page.items, asked))


@failures.command(short_help="all of one: prompt, answer, feedback, reasons")
@click.argument("failure_id", metavar="ID")
@json_option
@settings_option
def show(settings: Settings, failure_id: str, as_json: bool) -> None:
    """One failure case: what was asked and answered, what was said about it, and why it counts as a failure.

    Example: starloop failures show ID
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        found = read_failure(session, failure_id)
        proposed = candidates_of(session, found.failure.inference_id)
    document = _document(found) | {"candidates": [row.model_dump() for row in proposed]}
    lines = [_story(found), *(line for row in proposed for line in ("  candidate", *_candidate(row)))]
    emit(document, as_json, lambda: "\n".join(lines))


@failures.command(short_help="look for failure cases now, as a cycle does")
@click.option("--model", required=True)
@json_option
@settings_option
def triage(settings: Settings, model: str, as_json: bool) -> None:
    """Look at what came since the last time, and at earlier answers that something was said about since.

    Example: starloop failures triage --model assistant
    """
    with opened(settings, existing=True) as database:
        with database.reading() as session:
            get_model(session, model)
        changed = triage_in_steps(database, model, settings, datetime.now(UTC))
    emit({"changed": changed}, as_json, lambda: f"{changed} failure cases are new or have changed.")


@failures.command(short_help="which kinds of input fail more often than the rest")
@click.option("--model", required=True)
@click.option(
    "--since", type=_MOMENT, help="From this moment on (UTC), such as 2026-01-31 or 2026-01-31T12:00."
)
@click.option("--until", type=_MOMENT, help="Before this moment.")
@json_option
@settings_option
def kinds(
    settings: Settings, model: str, since: datetime | None, until: datetime | None, as_json: bool
) -> None:
    """Test which phrases and metadata go with failures, and group the failures for reading.

    Fisher's exact test for each, all together under Benjamini and Hochberg's bound of 5 % false discoveries.

    Example: starloop failures kinds --model assistant --since 2026-01-01
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        get_model(session, model)
        found = find_failing_kinds(session, model, _seconds(since), _seconds(until))
    emit(found, as_json, lambda: _kinds(found))


@failures.command(short_help="correct, accept or dismiss one")
@click.argument("failure_id", metavar="ID")
@click.option("--action", type=click.Choice(["correct", "accept", "dismiss"]), required=True)
@click.option("--correction", help="The right answer, with the action correct.")
@click.option("--by", default=getpass.getuser, show_default="you", help="Who decides.")
@json_option
@settings_option
def resolve(
    settings: Settings, failure_id: str, action: str, correction: str | None, by: str, as_json: bool
) -> None:
    """Say what is to become of a failure case.

    Example: starloop failures resolve ID --action correct --correction '{"intent": "refund", "urgency": "low"}'
    """
    with opened(settings, existing=True) as database, database.session() as session:
        now = datetime.now(UTC)
        row = resolve_failure(session, failure_id, action, correction, by, settings, now)  # type: ignore[arg-type]
        note(session, person(), "failure.resolve", row.id, now, model=row.model, action=action, by=by)
        session.commit()
    emit(row.model_dump(), as_json, lambda: f"Failure case {row.id} {_became(row)}.")


def _became(row: Failure) -> str:
    return f"is {row.state}" if row.resolved is not None else f"waits: {row.waits}"


@failures.command(short_help="corrections that models proposed, newest first")
@click.option("--model", help="Only this model's.")
@click.option("--state", type=click.Choice(["checked", "failed", "accepted", "rejected"]))
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--cursor", help="next_cursor of the page before.")
@json_option
@settings_option
def candidates(
    settings: Settings, model: str | None, state: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """Candidates: what a teacher or the model itself proposed, with what it passed. `decide` accepts or rejects one.

    Example: starloop failures candidates --model assistant --state checked
    """
    with opened(settings, existing=True) as database, database.reading() as session:
        check_known(session, settings, model)
        page = list_candidates(session, model, state, limit, cursor)
    items = [row.model_dump() for row in page.items]
    lines = [line for row in page.items for line in _candidate(row)]
    text = "\n".join(lines) or "there are no such candidates"
    emit({"items": items, "next_cursor": page.next_cursor}, as_json, lambda: text)


@failures.command(short_help="accept or reject a candidate")
@click.argument("candidate_id", metavar="ID")
@click.option("--action", type=click.Choice(["accept", "reject"]), required=True)
@click.option("--by", default=getpass.getuser, show_default="you", help="Who decides.")
@json_option
@settings_option
def decide(settings: Settings, candidate_id: str, action: str, by: str, as_json: bool) -> None:
    """Accepted, it is trained on from the next dataset version on, where nobody's own correction stands.

    Example: starloop failures decide ID --action accept
    """
    with opened(settings, existing=True) as database, database.session() as session:
        row = review_candidate(session, candidate_id, action, by, person(), settings, datetime.now(UTC))  # type: ignore[arg-type]
        session.commit()
    waits = action == "accept" and row.state == "checked"
    told = "is one reviewer's word now; another's decides" if waits else f"is {row.state}"
    emit(row.model_dump(), as_json, lambda: f"Candidate {row.id} {told}.")


def _candidate(row: Candidate) -> list[str]:
    passed = ", ".join(f"{one['check']}{'' if one['passed'] else ' NOT'}" for one in row.checks)
    return [
        f"{row.id}  {row.state}  {row.source} ({row.origin}); passed: {passed}",
        *part("answer", shortened(row.answer)),
    ]


def _lines(rows: Sequence[Failure], asked: Mapping[str, tuple[str | None, str | None]]) -> str:
    """One line a case, prompt and answer below: ids and sentences are too long for the cells of a table."""
    lines = []
    for row in rows:
        prompt, answer = asked.get(row.inference_id, (None, None))
        lines.append(f"{row.id}  {row.state}  {row.model}  {' '.join(one['reason'] for one in row.reasons)}")
        lines += [f"    prompt: {shortened(prompt)}", f"    answer: {shortened(answer)}"]
        lines += [f"    waits: {row.waits}"] if row.waits else []
    return "\n".join(lines) or f"there are no such failure cases; {_FOUND_BY}"


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.replace(tzinfo=UTC).timestamp()


def _kinds(found: FailingKinds) -> str:
    part_of = "" if found.complete else "the newest "
    lines = [
        f"{found.failures:,} of {part_of}{found.prompts:,} prompts failed; {found.tested:,} properties were tested"
    ]
    if not found.failures:
        return (
            f"{lines[0]}\n\nNo failure case stands for them, so nothing can be said about kinds; {_FOUND_BY}."
        )
    lines += [
        "",
        "Fail more often than the rest:"
        if found.items
        else "No kind of input fails more often than the rest.",
    ]
    for kind in found.items:
        names = ", ".join(
            [*(f'"{harmless(phrase)}"' for phrase in kind.phrases), *map(harmless, kind.metadata)]
        )
        lines.append(
            f"  {names}: {kind.failures} of {kind.prompts} failed ({kind.share:.0%}; elsewhere {kind.elsewhere:.0%}; "
            f"q = {kind.q_value:.2g})"
        )
        lines += [f"    {one.inference_id}  {shortened(one.prompt)}" for one in kind.examples]
    if found.groups:
        lines += ["", "Failures that are alike, for reading (no test stands behind these):"]
    for group in found.groups:
        lines.append(f"  {', '.join(map(harmless, group.words))}: {group.failures}")
        lines += [f"    {one.inference_id}  {shortened(one.prompt)}" for one in group.examples]
    return "\n".join(lines)


def _document(found: FailureContext) -> dict[str, Any]:
    inference = found.inference
    asked = asked_of(inference.request) if inference else None
    return found.failure.model_dump() | {
        "version": inference and inference.version,
        "messages": asked and asked.messages,
        "tools": asked and asked.tools,
        "prompt": inference and inference.prompt,
        "answer": inference and inference.output,
        "finish_reason": inference and inference.finish_reason,
        "feedback": [row.model_dump(exclude={"content_hash", "current"}) for row in found.feedback],
    }


def _story(found: FailureContext) -> str:
    row, inference = found.failure, found.inference
    version = f"{row.model}@{inference.version}" if inference else row.model
    lines = [f"failure case {row.id} of {version}: {row.state}", f"  inference {row.inference_id}"]
    asked = asked_of(inference.request) if inference else None
    lines += (
        conversation(asked.messages) if asked else part("prompt", inference.prompt if inference else None)
    )
    lines += part("answer", inference.output if inference else None)
    lines += ["  why:", *(f"    {one['reason']}: {one['evidence']}" for one in row.reasons)]
    lines += ["  said about it:" if found.feedback else "  nothing was said about it"]
    for said in found.feedback:
        lines += _said(said)
    if row.waits:
        lines.append(f"  waits: {row.waits}")
    if row.correction is not None:
        what = "proposed" if row.state == "quarantine" else "right answer"
        lines += [f"  {what}, by {row.resolved_by}:", *part("answer", row.correction)]
    elif row.resolved_by is not None:
        lines.append(f"  {row.state} by {row.resolved_by}")
    return "\n".join(lines)


def _said(row: Feedback) -> list[str]:
    stars = "" if row.rating is None else f", {row.rating} of 5"
    lines = [f"    {row.rater} ({row.source}){stars}"]
    for name, text in (("comment", row.comment), ("correction", row.correction)):
        lines += [f"  {line}" for line in part(name, text)] if text is not None else []
    return lines
