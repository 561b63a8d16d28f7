"""`/v1/feedback`: what users say about an answer, from an application with a key or from a browser with a token."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import msgspec
from litestar import Response, post, route
from litestar.params import JSONBody

from feedback.errors import BadFieldError, BadInputError, NotAllowedError, NotFoundError, UnavailableError
from feedback.ids import new_id, parse_id, time_of
from feedback.storage.inferences import get_inference
from feedback.storage.records import FeedbackRecord
from server.access import Caller
from server.capture import Recent
from server.errors import ANYWHERE, BY_TOKEN
from server.gateway import Gateway
from server.request import OPEN, SCOPES, GatewayRequest, Parts, caller_of, count
from server.telemetry.families import NONE
from server.views import FeedbackView, show_new_feedback
from server.wire import AssistantMessage, NewFeedback

_EARLY = timedelta(minutes=10)
# An inference is in the database within a second of its answer; who asks sooner is let wait for it.
_ON_ITS_WAY = timedelta(seconds=5)
_LOOKS, _LOOK_SECONDS = 4, 0.15
# Clocks of gateways that share a database may differ by this much.
_AHEAD = timedelta(minutes=1)
_PREFLIGHT = {
    **ANYWHERE,
    "access-control-allow-methods": "POST",
    "access-control-allow-headers": "content-type",  # and no authorization: from a foreign page, only a token counts
    "access-control-max-age": "600",
}


@post("/v1/feedback", opt={SCOPES: OPEN}, status_code=201)
async def give_feedback(
    data: JSONBody[NewFeedback], request: GatewayRequest, gateway: Parts
) -> Response[FeedbackView]:
    """Rate, comment or correct an answer. 201 with the feedback, or 202 when its inference is not here yet."""
    now = gateway.now()
    request.state[BY_TOKEN] = data.feedback_token is not None
    inference_id = parse_id(data.inference_id)
    caller: Caller | None = None
    named: str | None = None
    if data.feedback_token is not None:
        named = gateway.tokens.check(data.feedback_token, inference_id, now)
    else:
        caller = caller_of(request)
        caller.need("feedback")
        count(request, caller)
    correction, worse = _checked(data), _worse(data, inference_id)
    known, complete = await _find(gateway, inference_id, now, patient=caller is not None)
    if known is None and complete:
        _may_be_early(inference_id, now)
    if known is not None and caller is not None:
        caller.need_model(known.model)
    record = FeedbackRecord(
        id=new_id(now),
        inference_id=inference_id,
        created=now.timestamp(),
        rater=_rater(data.rater, named, caller, known),
        assumed=known is None and caller is not None and not data.rater,
        source="reviewer" if caller is not None and _reviews(caller) else "user",
        rating=data.rating,
        comment=data.comment or None,
        correction=correction,
        choice=data.choice,
        tags=data.tags or None,
        preferred_over=worse,
    )
    await gateway.capture.feedback(record)
    if record.rating is not None:
        model, version = (known.model, known.version) if known is not None else (NONE, NONE)
        gateway.metrics.rated(model, version, record.rating)
    return Response(
        show_new_feedback(record),
        status_code=201 if known is not None else 202,
        headers=ANYWHERE if caller is None else {},
    )


@route("/v1/feedback", http_method=["OPTIONS"], opt={SCOPES: OPEN}, include_in_schema=False)
async def preflight() -> Response[None]:
    """Let pages of any site send feedback, by token only."""
    return Response(None, status_code=204, headers=_PREFLIGHT)


def _checked(data: NewFeedback) -> str | None:
    """The correction as it is kept. Raises `BadInputError` when nothing is said, or nothing with sense."""
    if (
        data.rating is None
        and not data.comment
        and data.correction is None
        and not data.tags
        and data.preferred_over is None
    ):
        raise BadInputError(
            "nothing is said: send at least one of rating, comment, correction, tags and preferred_over"
        )
    correction = correction_text(data.correction)
    if correction is not None and not correction.strip():
        raise BadFieldError("correction", "is empty; write what the answer should have been")
    return correction


def _worse(data: NewFeedback, inference_id: str) -> str | None:
    """The inference that this one was preferred to. Raises `BadFieldError` for what cannot be one, or is this one.

    Whether it answers the same prompt is seen where preferences are read: it may still be on its way.
    """
    if data.preferred_over is None:
        return None
    try:
        worse = parse_id(data.preferred_over)
    except BadFieldError:
        raise BadFieldError("preferred_over", "is no inference id; send another answer's") from None
    if worse == inference_id:
        raise BadFieldError("preferred_over", "is the same inference; send another answer's id")
    return worse


def correction_text(correction: str | AssistantMessage | None) -> str | None:
    """A correction as text: the message's own when it holds nothing else, otherwise the message as JSON."""
    if not isinstance(correction, AssistantMessage):
        return correction
    if correction.tool_calls is None and correction.name is None and correction.refusal is None:
        return correction.content or ""
    fields: dict[str, Any] = msgspec.structs.asdict(correction)
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None}).decode()


async def _find(
    gateway: Gateway, inference_id: str, now: datetime, patient: bool
) -> tuple[Recent | None, bool]:
    """The inference, and whether it was looked for everywhere: with the database away, nobody can say it is unknown.

    Who is `patient` waits for one that another worker has just answered and is bringing to the database: it says who
    the user is, and whether the key may speak of its model.
    """
    recent = gateway.capture.recent(inference_id)
    if recent is not None:
        return recent, True
    looks = _LOOKS if patient and -_AHEAD <= now - time_of(inference_id) <= _ON_ITS_WAY else 1
    while True:
        known, complete = await asyncio.to_thread(_look_up, gateway, inference_id)
        looks -= 1
        if known is not None or not complete or not looks:
            return known, complete
        await asyncio.sleep(_LOOK_SECONDS)


def _look_up(gateway: Gateway, inference_id: str) -> tuple[Recent | None, bool]:
    try:
        with gateway.database.reading() as session:
            row = get_inference(session, inference_id)
    except UnavailableError:
        return None, False
    return (None if row is None else Recent(row.model, row.version, row.user, row.key_id)), True


def _may_be_early(inference_id: str, now: datetime) -> None:
    """Raises `NotFoundError` unless the id is so young that its inference may still be on its way."""
    age = now - time_of(inference_id)
    if not -_AHEAD <= age <= _EARLY:
        raise NotFoundError(
            f"there is no inference {inference_id}; send the value of x-starloop-inference-id"
        )


def _rater(given: str | None, named: str | None, caller: Caller | None, known: Recent | None) -> str:
    """Who says it: with a token the inference's own user, with a key whoever the application says."""
    if caller is None:
        rater = named or "anonymous"
        if given is not None and given != rater:
            raise NotAllowedError("a feedback token speaks for its inference's own user; leave rater out")
        return rater
    return given or (known.user if known is not None else None) or caller.owner


def _reviews(caller: Caller) -> bool:
    """A key made for review. Standing at the machine without keys opens every door, but makes nobody a reviewer."""
    return caller.key_id is not None and "review" in caller.scopes


# The preflight comes first: Litestar adds an OPTIONS of its own to a path that has none yet.
ROUTES = [preflight, give_feedback]
