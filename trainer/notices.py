"""Tells people that a cycle, or what users compared, has ended, and what a month's failures have in common: by a webhook, by
e-mail, or both.

What is to be told stands in the record before it is sent, so a kill loses none; one may then be told twice, and `id` says
so. A receiver that hangs or refuses is tried again with growing pauses for a day, in a thread that holds nothing else up.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import smtplib
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
from sqlmodel import Session, col, func, or_, select

from feedback.errors import StarloopError
from feedback.registry.canaries import canary_of
from feedback.settings import Schedule, Settings
from feedback.storage.database import Database
from feedback.storage.notice_table import Notice
from feedback.storage.tables import Canary, Cycle, MonthlyFinding
from feedback.threads import name_this_thread
from trainer.mail import send_letter

SECRET_VARIABLE, PASSWORD_VARIABLE = "STARLOOP_WEBHOOK_SECRET", "STARLOOP_SMTP_PASSWORD"
SIGNATURE = "x-starloop-signature"
ENDED = ("done", "cancelled", "failed")
KINDS = "kinds"
PAUSES = (5.0, 30.0, 120.0, 600.0, 3600.0, 3600.0, 7200.0, 14400.0, 28800.0)
"""Seconds until the next attempt; after the last one it is given up."""

_SECONDS = 10.0
_REACH = 86_400.0
"""How long ago a cycle may have ended to be told of: who switches notices on hears nothing of last year."""
_MOST = 200
"""Ends of one kind that are looked at together; what all channels were told of, or have given up, is not among them."""
_log = logging.getLogger(__name__)


class News(NamedTuple):
    """One end, as it is told."""

    id: str
    kind: str
    """`cycle`, `watch`, `canary` for one that a person began, or `kinds` for those of a month's input that fail."""
    model: str
    outcome: str
    version: str | None
    reason: str
    ended: float
    month: str | None = None
    """Of `kinds`."""
    compared: str | None = None
    """The champion beside which the version was judged."""
    asks: bool = False
    """Whether a person is to decide."""


class Notifier:
    """Looks for what ended and tells of it; one for each loop that leads."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        clock: Callable[[], datetime],
        secrets: Mapping[str, str],
    ) -> None:
        self._database = database
        self._wanted = settings.schedule
        self._clock = clock
        self._secrets = secrets
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, leads: Callable[[], bool]) -> None:
        """Tell in the background while `leads` says so; does nothing where no channel is set."""
        if channels(self._wanted):
            self._thread = threading.Thread(target=self._run, args=(leads,), name="notices", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End after the attempt that is under way; what is not told yet is for the next start."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * _SECONDS)

    def tell_once(self) -> int:
        """Try all that is due once; how many attempts were made."""
        attempts = 0
        for news, channel in self._due():
            attempts += 1
            try:
                told, arrived = self._send(news, channel), True
            except (httpx.HTTPError, OSError, smtplib.SMTPException, ValueError) as error:
                told, arrived = f"{type(error).__name__}: {error}"[:500], False
            self._note(news.id, channel, arrived, told)
        return attempts

    def _run(self, leads: Callable[[], bool]) -> None:
        name_this_thread("notices")
        while not self._stopping.wait(self._wanted.poll_seconds):
            if not leads():
                continue
            try:
                self.tell_once()
            except StarloopError as error:  # the database, most often: it is all tried again
                _log.info("notices wait: %s", error)
            except Exception:  # the thread's boundary
                _log.exception("a notice could not be made")

    def _due(self) -> list[tuple[News, str]]:
        now = self._clock().timestamp()
        with self._database.session() as session:
            due = [
                (news, channel)
                for news in _ended(session, now - _REACH, len(channels(self._wanted)))
                for channel in channels(self._wanted)
                if _is_due(session, news.id, channel, now)
            ]
            session.commit()
        return due

    def _send(self, news: News, channel: str) -> str:
        if channel == "webhook":
            return self._post(news)
        return self._mail(news)

    def _post(self, news: News) -> str:
        body = json.dumps(document(news)).encode()
        headers = {"content-type": "application/json"}
        secret = self._secrets.get(SECRET_VARIABLE)
        if secret:
            headers[SIGNATURE] = signature(secret, body)
        status = asyncio.run(self._status(body, headers))
        if status >= 300:
            raise ValueError(f"it answered {status}")
        return f"it answered {status}"

    async def _status(self, body: bytes, headers: Mapping[str, str]) -> int:
        """What the webhook answers. All of it has one time: a read's own timeout starts anew with each byte."""
        try:
            # Its body is not read: one that never ends would hold up all other news.
            async with (
                asyncio.timeout(_SECONDS),
                httpx.AsyncClient(timeout=_SECONDS, follow_redirects=False) as client,
                client.stream("POST", self._wanted.webhook, content=body, headers=headers) as answer,
            ):
                return answer.status_code
        except TimeoutError:
            raise TimeoutError(f"it did not answer within {_SECONDS:g} s") from None

    def _mail(self, news: News) -> str:
        message = EmailMessage()
        message["Subject"] = f"{news.model}: {_outcome(news)}"
        message["From"] = self._wanted.email_from or self._wanted.email
        message["To"] = self._wanted.email
        message["Date"] = self._clock()
        message["Message-ID"] = f"<{news.id}@starloop>"
        message.set_content(_letter(news))
        send_letter(self._wanted.smtp, message, self._secrets.get(PASSWORD_VARIABLE), _SECONDS)
        return f"{urlsplit(self._wanted.smtp).hostname} took it"

    def _note(self, cycle_id: str, channel: str, arrived: bool, told: str) -> None:
        now = self._clock().timestamp()
        with self._database.session() as session:
            row = session.get(Notice, (cycle_id, channel))
            assert row is not None
            row.attempts += 1
            row.told, row.updated = told, now
            given_up = row.attempts > len(PAUSES)
            row.state = "sent" if arrived else "failed" if given_up else "sending"
            if not arrived and not given_up:
                row.next_attempt = now + PAUSES[row.attempts - 1]
            session.add(row)
            session.commit()
            state = row.state
        if not arrived:
            _log.warning("news of %s were not told by %s (%s): %s", cycle_id, channel, state, told)


def channels(wanted: Schedule) -> list[str]:
    """Over which channels the settings want to be told."""
    return [
        name for name, set_ in (("webhook", wanted.webhook), ("email", wanted.email and wanted.smtp)) if set_
    ]


def document(news: News) -> dict[str, Any]:
    """What the webhook gets. `id` is the same for the same end, so that one which comes twice is known."""
    if news.kind == KINDS:
        return {
            "event": "kinds.found",
            "id": news.id,
            "model": news.model,
            "month": news.month,
            "outcome": news.outcome,
            "reason": news.reason,
            "needs_a_person": False,
            "found": datetime.fromtimestamp(news.ended, UTC).isoformat(timespec="seconds"),
        }
    return {
        "event": f"{news.kind}.ended",
        "id": news.id,
        "model": news.model,
        "outcome": news.outcome,
        "version": news.version,
        "reason": news.reason,
        "needs_a_person": news.asks,
        "ended": datetime.fromtimestamp(news.ended, UTC).isoformat(timespec="seconds"),
    }


def signature(secret: str, body: bytes) -> str:
    """`sha256=` and the HMAC-SHA-256 (hex) of the body under the secret, to be compared by the receiver."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def _is_due(session: Session, cycle_id: str, channel: str, now: float) -> bool:
    row = session.get(Notice, (cycle_id, channel))
    if row is None:
        session.add(Notice(cycle_id=cycle_id, channel=channel, state="sending", updated=now))
        return True
    waits = 0 < row.next_attempt - now <= max(PAUSES)  # longer only where the clock was set back
    return row.state == "sending" and not waits


def _ended(session: Session, since: float, ways: int) -> list[News]:
    """What ended or was found since then and is not done with on so many channels, oldest first."""
    done = select(Notice.cycle_id).where(Notice.state != "sending")
    done = done.group_by(col(Notice.cycle_id)).having(func.count() >= ways)
    cycles = session.exec(
        select(Cycle)
        .where(col(Cycle.state).in_(ENDED), col(Cycle.updated) > since, col(Cycle.id).not_in(done))
        .order_by(col(Cycle.id).desc())
        .limit(_MOST)
    ).all()
    # the canary of a cycle is told with that
    canaries = session.exec(
        select(Canary)
        .where(
            col(Canary.ended) > since,
            or_(Canary.kind == "watch", col(Canary.cycle_id).is_(None)),
            col(Canary.id).not_in(done),
        )
        .order_by(col(Canary.id).desc())
        .limit(_MOST)
    ).all()
    news = [
        News(
            row.id,
            "cycle",
            row.model,
            row.decision or row.state,
            row.version,
            row.reason or "",
            row.updated,
            compared=(row.result or {}).get("champion"),
            asks=row.decision == "proposed"
            or (row.decision == "inconclusive" and _left_open(canary_of(session, row.id, "canary"))),
        )
        for row in reversed(cycles)
    ]
    news += [
        News(
            row.id,
            row.kind,
            row.model,
            row.state,
            row.version,
            row.reason or "",
            row.ended or 0.0,
            compared=row.against,
            asks=_left_open(row),
        )
        for row in reversed(canaries)
    ]
    found = session.exec(select(MonthlyFinding).where(col(MonthlyFinding.created) > since))
    news += [
        News(row.id, KINDS, row.model, _kinds(row), None, row.told, row.created, row.month) for row in found
    ]
    return sorted(news, key=lambda one: one.ended)


def _kinds(row: MonthlyFinding) -> str:
    count = len(row.found["items"])
    return (
        f"{count or 'no'} kind{'' if count == 1 else 's'} of input failed more than the rest in {row.month}"
    )


def _outcome(news: News) -> str:
    outcome = news.outcome.replace("_", " ")
    return f"{outcome}, waits for a decision" if news.asks else outcome


def _left_open(canary: Canary | None) -> bool:
    """Whether the loop ended it and left the decision to a person; one that a person or another move ended was still going on."""
    return (
        canary is not None and canary.state == "withdrawn" and canary.result.get("ruling", "go on") != "go on"
    )


def _letter(news: News) -> str:
    if news.kind == KINDS:
        told = f"To read on: starloop report --model {news.model} --month {news.month}"
        return f"{news.reason}\n\n{told}\n"
    version = f"{news.model}@{news.version}" if news.version else "no new version"
    lines = [
        f"The {news.kind} {news.id} of {news.model} has ended: {_outcome(news)}.",
        f"Version: {version}.",
        "",
        news.reason,
    ]
    if news.asks and news.kind != "watch":
        beside = f" --instead-of {news.compared}" if news.compared else ""
        lines += ["", f"To promote it: starloop models promote {version}{beside} --reason '…'"]
    return "\n".join(lines) + "\n"
