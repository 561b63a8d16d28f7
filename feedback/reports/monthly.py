"""Which kinds of input failed in a month: found once after its end, kept, and shown by the report of that month.

What is kept holds phrases that several prompts share. It goes with the first inference of the month that an erasure or
age takes (`privacy.removal`), and is found again without it while the month is the newest one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import NAMESPACE_OID, uuid5

import msgspec
from sqlmodel import Session, col, select

from feedback.datasets.failing_kinds import (
    SHOWN,
    FailingKind,
    FailingKinds,
    Question,
    kinds_apart,
)
from feedback.datasets.failures import triage_in_steps
from feedback.errors import BadFieldError
from feedback.ids import first_id_at
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import Inference, MonthlyFinding

SETTLES = timedelta(days=1)
"""After a month's end: ratings and corrections come later than the answers that they are about."""
_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")
_NAMED, _PHRASES = 5, 2


class Kept(NamedTuple):
    """A month's finding."""

    found: FailingKinds
    made: datetime


def month_of(text: str) -> tuple[float, float]:
    """The first moment of a month and of the one after it, Unix seconds. Raises `BadFieldError` for `month`."""
    found = _MONTH.fullmatch(text)
    if found is None or int(found[1]) < 1970:
        raise BadFieldError("month", f"{text[:40]!r} is no month; write YYYY-MM, such as 2026-01")
    year, month = int(found[1]), int(found[2])
    after = (year + 1, 1) if month == 12 else (year, month + 1)
    try:
        return datetime(year, month, 1, tzinfo=UTC).timestamp(), datetime(*after, 1, tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        raise BadFieldError("month", f"{text[:40]!r} is beyond the calendar") from None


def month_to_find(now: datetime) -> str:
    """The newest month (UTC) that has ended and settled."""
    return f"{(now.astimezone(UTC) - SETTLES).replace(day=1) - timedelta(days=1):%Y-%m}"


def find_month(
    database: Database,
    settings: Settings,
    model: str,
    now: datetime,
    confirm: Callable[[Session], None] = lambda _: None,
) -> MonthlyFinding | None:
    """Find and keep which kinds of a model's input failed in `month_to_find`; None where that was done, or nothing was asked.

    Triage looks first at what it has not seen yet. `confirm` is called in the transaction that keeps it, and may raise.
    Raises what `kinds_apart` raises.
    """
    month = month_to_find(now)
    since, until = month_of(month)
    with database.reading() as session:
        if session.get(MonthlyFinding, (model, month)) or not _asked(session, model, since, until):
            return None
    triage_in_steps(database, model, settings, now)
    found = kinds_apart(Question(settings, model, since, until))
    for example in [one for kind in found.kinds for one in kind.examples]:
        example.prompt = ""  # it stays with its inference, and goes with it
    row = MonthlyFinding(
        model=model,
        month=month,
        id=str(uuid5(NAMESPACE_OID, f"{model}/{month}")),
        created=now.timestamp(),
        told=told(found, month),
        found=msgspec.to_builtins(found),
    )
    with database.session() as session:
        confirm(session)
        if session.get(MonthlyFinding, (model, month)) is not None:
            return None
        session.add(row)
        session.commit()
    return row


def kept_month(session: Session, model: str, month: str) -> Kept | None:
    """What was found of a month, with the texts of its examples as they stand; None where nothing is kept."""
    row = session.get(MonthlyFinding, (model, month))
    if row is None:
        return None
    found = msgspec.convert(row.found, FailingKinds)
    texts = _texts(session, {one.inference_id for kind in found.kinds for one in kind.examples})
    for kind in found.kinds:
        kind.examples = [one for one in kind.examples if one.inference_id in texts]
        for one in kind.examples:
            one.prompt = texts[one.inference_id]
    return Kept(found, datetime.fromtimestamp(row.created, UTC))


def told(found: FailingKinds, month: str) -> str:
    """A month's finding in a few sentences."""
    part = "" if found.complete else "the newest "
    said = f"In {month}, {found.failures:,} of {part}{found.prompts:,} prompts failed."
    if not found.items:
        return f"{said} No kind of input fails more often than the rest."
    count = len(found.items)
    named = "; ".join(map(_named, found.items[:_NAMED]))
    more = f"; and {count - _NAMED} more" if count > _NAMED else ""
    kinds = "1 kind of input fails" if count == 1 else f"{count} kinds of input fail"
    return f"{said} {kinds} more often than the rest: {named}{more}."


def _named(kind: FailingKind) -> str:
    names = ", ".join([*(f'"{phrase}"' for phrase in kind.phrases[:_PHRASES]), *kind.metadata[:_PHRASES]])
    return f"{names} ({kind.failures:,} of {kind.prompts:,} failed, {kind.share:.0%}; elsewhere {kind.elsewhere:.0%})"


def _asked(session: Session, model: str, since: float, until: float) -> bool:
    query = select(Inference.id).where(
        Inference.model == model,
        Inference.purpose == "production",
        col(Inference.id) >= first_id_at(since),
        col(Inference.id) < first_id_at(until),
        col(Inference.prompt).is_not(None),
    )
    return session.exec(query.limit(1)).first() is not None


def _texts(session: Session, identifiers: Collection[str]) -> dict[str, str]:
    query = select(Inference.id, Inference.prompt).where(col(Inference.id).in_(identifiers))
    return {identifier: prompt[:SHOWN] for identifier, prompt in session.exec(query) if prompt}
