"""Reads what triage needs out of the record, a window of ids at a time: answers, what was said, what was asked next.

Every query here goes by an index and over a bounded stretch of ids, so a triage costs what is new, not what there is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, null
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from feedback.datasets.chat import messages_of
from feedback.datasets.follow_ups import Sign, Turn, signs_in
from feedback.datasets.slowness import Pace, pace_of, usual_pace
from feedback.datasets.triage import Answered
from feedback.ids import first_id_at, time_of
from feedback.settings import Triage
from feedback.storage.arrivals import Span
from feedback.storage.inferences import of_model
from feedback.storage.tables import Feedback, Inference

_ROWS = 5000
_CHUNK = 500
_PACED = 2000
"""Newest answers of a version from which its usual pace is read."""
# What was asked before a window is looked at again if its answer took no longer than this.
_LONGEST_ANSWER = 600.0

T = TypeVar("T")


class Heard(NamedTuple):
    """One rater's current word on an inference."""

    rater: str
    source: str
    rating: int | None
    answer: str
    """The correction; empty where there is none."""
    created: float
    """Unix seconds."""


class Seen(NamedTuple):
    """One production inference of the model."""

    id: str
    version: str
    answered: Answered
    turn: Turn | None
    """None where nobody knows who asked, or what."""


@dataclass(frozen=True)
class Window:
    """Some inferences with all that bears on them."""

    rows: list[Seen]
    heard: dict[str, list[Heard]] = field(default_factory=dict)
    signs: dict[str, list[Sign]] = field(default_factory=dict)
    """Also about inferences that stand before the window."""
    paces: dict[str, Pace] = field(default_factory=dict)
    whole: bool = False
    """Every later request that could bear on the rows was looked at, so what is not among the signs is not so."""
    next: str | None = None
    """Where the next window begins; None after the last."""

    def pieces(self, column: Any, query: SelectOfScalar[T]) -> Iterator[SelectOfScalar[T]]:
        """The query for what belongs to the rows: in one piece where they lie side by side, else a few hundred ids each."""
        if not self.rows:
            return
        if self.whole:
            yield query.where(column >= self.rows[0].id, column <= self.rows[-1].id)
            return
        for start in range(0, len(self.rows), _CHUNK):
            yield query.where(column.in_([row.id for row in self.rows[start : start + _CHUNK]]))


class Traffic:
    """One model's production traffic."""

    def __init__(self, model: str, settings: Triage, with_messages: bool) -> None:
        self._model = model
        self._with_messages = with_messages
        self._settings = settings
        self._within = settings.within_minutes * 60
        self._paces: dict[str, Pace | None] = {}

    def window(self, session: Session, span: Span, after: str) -> Window:
        """The next inferences of a span, behind the id `after`."""
        query = self._rows().where(col(Inference.id) >= span.first, col(Inference.id) <= span.last)
        found = self._seen(
            session, query.where(col(Inference.id) > after).order_by(col(Inference.id)).limit(_ROWS)
        )
        signs: dict[str, list[Sign]] = defaultdict(list)
        if found:
            for sign in signs_in(self._turns(session, found), self._settings):
                signs[sign.inference_id].append(sign)
        return self._window(session, found, signs, True, found[-1].id if len(found) == _ROWS else None)

    def earlier(self, session: Session, window: Window) -> Window:
        """The inferences before a window that it holds signs about."""
        first = window.rows[0].id if window.rows else ""
        return self._some(session, [one for one in window.signs if one < first], window.signs)

    def spoken_of(self, session: Session, span: Span, after: str, seen: Sequence[Span]) -> Window:
        """The inferences that the next feedback of a span is about, behind the feedback's id `after`; none of `seen`."""
        said = session.exec(
            select(Feedback.id, Feedback.inference_id)
            .where(col(Feedback.id) >= span.first, col(Feedback.id) <= span.last, col(Feedback.id) > after)
            .order_by(col(Feedback.id))
            .limit(_ROWS)
        ).all()
        return self._some(session, {one for _, one in said}, {}, said[-1][0] if len(said) == _ROWS else None)

    def one(self, session: Session, inference_id: str) -> Window:
        """A single inference. What its user asked next is not looked at again."""
        return self._some(session, [inference_id], {})

    def _some(
        self,
        session: Session,
        identifiers: Collection[str],
        signs: dict[str, list[Sign]],
        next_: str | None = None,
    ) -> Window:
        found: list[Seen] = []
        ordered = sorted(identifiers)
        for start in range(0, len(ordered), _CHUNK):
            query = self._rows().where(col(Inference.id).in_(ordered[start : start + _CHUNK]))
            found += self._seen(session, query)
        return self._window(session, found, signs, False, next_)

    def _window(
        self, session: Session, rows: list[Seen], signs: dict[str, list[Sign]], whole: bool, next_: str | None
    ) -> Window:
        window = Window(rows, defaultdict(list), signs, self._usual(session, rows), whole, next_)
        columns: Any = select(  # type: ignore[call-overload]
            Feedback.inference_id,
            Feedback.rater,
            Feedback.source,
            Feedback.rating,
            Feedback.correction,
            Feedback.choice,
            Feedback.created,
        )
        said = columns.where(col(Feedback.current)).order_by(col(Feedback.id))
        for piece in window.pieces(col(Feedback.inference_id), said):
            for inference_id, rater, source, rating, correction, choice, created in session.exec(piece):
                # The output that is kept is the first choice's, so stars for another say nothing about it.
                stars = rating if choice == 0 else None
                window.heard[inference_id].append(Heard(rater, source, stars, correction or "", created))
        return window

    def _production(self) -> tuple[ColumnElement[bool], ...]:
        return of_model(self._model), col(Inference.purpose) == "production"

    def _rows(self) -> Any:
        return select(  # type: ignore[call-overload, misc]
            Inference.id,
            Inference.version,
            Inference.created,
            Inference.user,
            Inference.conversation,
            Inference.status,
            Inference.error,
            Inference.finish_reason,
            Inference.prompt,
            Inference.output,
            Inference.completion_tokens,
            Inference.latency_ms,
            Inference.stored,
            Inference.request if self._with_messages else null(),
        ).where(*self._production())

    def _seen(self, session: Session, query: Any) -> list[Seen]:
        found = []
        for (
            identifier,
            version,
            created,
            user,
            conversation,
            status,
            error,
            finish_reason,
            prompt,
            output,
            tokens,
            latency_ms,
            stored,
            request,
        ) in session.exec(query):
            text = (output or "") if stored else None
            messages = messages_of(request)
            answered = Answered(text, finish_reason, status, error, latency_ms, tokens, messages)
            turn = None
            if status == 200:
                turn = _turn(identifier, user, conversation, created, latency_ms, prompt, output)
            found.append(Seen(identifier, version, answered, turn))
        return found

    def _turns(self, session: Session, rows: Sequence[Seen]) -> Iterator[Turn]:
        """The window's turns, and those of the same people shortly before and after it."""
        own = [row.turn for row in rows if row.turn is not None]
        yield from own
        first, last = rows[0].id, rows[-1].id
        longest = max((turn.answered - turn.created for turn in own), default=0.0)
        start = time_of(first).timestamp() - self._within - _LONGEST_ANSWER
        end = time_of(last).timestamp() + self._within + longest + 1
        columns: Any = select(  # type: ignore[call-overload]
            Inference.id,
            Inference.user,
            Inference.conversation,
            Inference.created,
            Inference.latency_ms,
            Inference.prompt,
            Inference.output,
        ).where(*self._production(), Inference.status == 200)
        identifier = col(Inference.id)
        before = identifier >= first_id_at(start), identifier < first
        after = identifier > last, identifier < first_id_at(end)
        users = sorted({turn.asker[1:] for turn in own if turn.asker[0] == _USER})
        threads = sorted({turn.asker[1:] for turn in own if turn.asker[0] == _THREAD})
        for names, mine in (
            (users, lambda some: (col(Inference.user).in_(some),)),
            (threads, lambda some: (col(Inference.user).is_(None), col(Inference.conversation).in_(some))),
        ):
            for place in range(0, len(names), _CHUNK):
                for stretch in (before, after):
                    query = columns.where(*mine(names[place : place + _CHUNK]), *stretch)
                    for row in session.exec(query):
                        turn = _turn(*row)
                        if turn is not None:
                            yield turn

    def _usual(self, session: Session, rows: Sequence[Seen]) -> dict[str, Pace]:
        """The usual pace of each version among the rows, read once."""
        for version in {row.version for row in rows} - self._paces.keys():
            query = (
                select(Inference.latency_ms, Inference.completion_tokens)
                .where(
                    Inference.model == self._model,
                    Inference.version == version,
                    Inference.purpose == "production",
                    Inference.status == 200,
                )
                .order_by(col(Inference.id).desc())
                .limit(_PACED)
            )
            paces = (pace_of(latency, tokens) for latency, tokens in session.exec(query))
            self._paces[version] = usual_pace([pace for pace in paces if pace is not None])
        return {version: pace for version, pace in self._paces.items() if pace is not None}


_USER, _THREAD = "u", "c"


def _turn(
    identifier: str,
    user: str | None,
    conversation: str | None,
    created: float,
    latency_ms: float,
    prompt: str | None,
    output: str | None,
) -> Turn | None:
    if prompt is None or (user is None and conversation is None):
        return None
    asker = f"{_USER}{user}" if user is not None else f"{_THREAD}{conversation}"
    return Turn(identifier, asker, conversation, created, created + latency_ms / 1000, prompt, output)
