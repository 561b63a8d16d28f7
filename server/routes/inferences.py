"""`/v1/inferences…`: what was asked and answered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Annotated

from litestar import get
from litestar.params import FromPath, FromQuery, QueryParameter
from sqlmodel import Session, col, func, select

from feedback.errors import BadFieldError, NotFoundError
from feedback.ids import parse_id
from feedback.storage.inferences import InferenceFilter, feedback_of, get_inference, search
from feedback.storage.tables import Feedback, Inference
from server.access import Caller
from server.request import SCOPES, UNASKABLE, GatewayRequest, Limit, Parts, listed_model
from server.views import InferenceLine, InferenceView, Listed, show_inference, show_inference_line

_READ = {SCOPES: ("infer", "review")}
_METADATA = "metadata."
_KNOWN = {"model", "version", "rating_lte", "reason", "user", "since", "until", "q", "limit", "cursor"}


@get("/v1/inferences", opt=_READ, sync_to_thread=True)
def inferences(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str | None] = None,
    version: FromQuery[str | None] = None,
    rating_lte: Annotated[int | None, QueryParameter(ge=1, le=5)] = None,
    reason: FromQuery[str | None] = None,
    user: FromQuery[str | None] = None,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    q: FromQuery[str | None] = None,
    limit: Limit = 50,
    cursor: FromQuery[str | None] = None,
) -> Listed[InferenceLine]:
    """Inferences that meet all that is asked, newest first; `metadata.KEY=value` asks for OpenAI metadata."""
    with gateway.database.reading() as session:
        wanted = InferenceFilter(
            model=listed_model(request.user, session, model),
            version=version,
            rating_lte=rating_lte,
            reason=reason,
            user=user,
            key_id=None if request.user.may("review") else request.user.key_id,
            metadata=_metadata(request),
            since=moment(since, "since"),
            until=moment(until, "until"),
            q=q,
        )
        page = search(session, wanted, limit, cursor)
        return with_ratings(session, page.items, page.next_cursor)


@get("/v1/inferences/{inference_id:str}", opt=_READ, sync_to_thread=True)
def inference(inference_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> InferenceView:
    """One inference with its bodies and its feedback. Without the review scope, only the key's own."""
    identifier = parse_id(inference_id)
    caller = request.user
    with gateway.database.reading() as session:
        row = get_inference(session, identifier)
        if row is None or not caller.reaches(row.model) or not is_open_to(row, caller):
            raise NotFoundError(f"there is no inference {identifier}")
        return show_inference(row, feedback_of(session, identifier))


def with_ratings(
    session: Session, rows: Sequence[Inference], next_cursor: str | None
) -> Listed[InferenceLine]:
    """Lines of a list, each with the lowest of its current ratings."""
    query = (
        select(Feedback.inference_id, func.min(Feedback.rating))
        .where(col(Feedback.inference_id).in_([row.id for row in rows]), col(Feedback.current))
        .group_by(col(Feedback.inference_id))
    )
    ratings = dict(session.exec(query).all())
    return Listed([show_inference_line(row, ratings.get(row.id)) for row in rows], next_cursor)


def is_open_to(row: Inference, caller: Caller) -> bool:
    """Whether a caller may see an inference: with the review scope any, else those made with the same key."""
    return caller.may("review") or row.key_id == caller.key_id


def _metadata(request: GatewayRequest) -> dict[str, str]:
    """The `metadata.KEY=` parameters. Raises `BadFieldError` for a parameter that there is not."""
    wanted = {}
    for name, value in request.query_params.items():
        if name.startswith(_METADATA):
            key = name.removeprefix(_METADATA)
            if not key or UNASKABLE.intersection(key):
                raise BadFieldError(name[:60], "is no key of metadata that can be asked for")
            wanted[key] = value
        elif name not in _KNOWN:
            raise BadFieldError(
                name[:60], f"is no parameter; there are {', '.join(sorted(_KNOWN))} and metadata.KEY"
            )
    return wanted


def moment(text: str | None, field: str, zone: tzinfo = UTC) -> float | None:
    """A time as Unix seconds: ISO 8601, in the given zone unless it says otherwise. Raises `BadFieldError`."""
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise BadFieldError(field, f"{text[:40]!r} is not a time such as 2026-01-31T12:00:00Z") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=zone)).timestamp()


ROUTES = [inferences, inference]
