"""`/v1/fine_tuning/jobs…`: fine-tunings on a file, in the form of OpenAI's API. Only rows are written; the loop runs them."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec.structs import asdict
from sqlmodel import Session

from feedback.errors import BadFieldError
from feedback.registry.training_steps import last_step
from feedback.storage.tables import Tuning
from feedback.tuning.events import list_events
from feedback.tuning.progress import estimated_finish
from feedback.tuning.requests import (
    Looker,
    NewTuning,
    cancel_tuning,
    get_tuning,
    list_tunings,
    pause_tuning,
    request_tuning,
    resume_tuning,
)
from server.access import Caller, viewer_of
from server.body import checked_metadata
from server.openai_views import ObjectPage, object_page
from server.request import SCOPES, STRICT, GatewayRequest, Parts, metadata_filter
from server.tuning_views import (
    TuningCheckpoint,
    TuningEvent,
    TuningJob,
    tuning_checkpoint,
    tuning_event,
    tuning_job,
)
from server.wire import NewTuningJob

_FILTERED = {SCOPES: ("train",)}
_TRAIN = _FILTERED | {STRICT: True}
_Page = Annotated[int, QueryParameter(ge=1, le=1000)]
_PAGED = {"after", "limit"}


@post("/v1/fine_tuning/jobs", status_code=200, opt=_TRAIN, sync_to_thread=True)
def create(data: JSONBody[NewTuningJob], request: GatewayRequest, gateway: Parts) -> TuningJob:
    """Ask for a fine-tuning of a registered model, or of the base of one, on a file that was sent before.

    What comes of it is a version of that model, called `ft:…` too; the champion stays until a person promotes another.
    """
    method, values = _method(data)
    asked = NewTuning(
        model=data.model,
        training_file=data.training_file,
        validation_file=data.validation_file,
        method=method,
        hyperparameters=values,
        seed=gateway.settings.training.seed if data.seed is None else data.seed,
        suffix=data.suffix or "",
        metadata=None if data.metadata is None else checked_metadata(data.metadata),
    )
    caller = request.user
    with gateway.database.session() as session:
        row = request_tuning(session, asked, looker(caller), caller.actor, gateway.now())
        session.commit()
        return tuning_job(row)


@get("/v1/fine_tuning/jobs", opt=_FILTERED, sync_to_thread=True)
def jobs(
    request: GatewayRequest, gateway: Parts, limit: _Page = 20, after: FromQuery[str | None] = None
) -> ObjectPage[TuningJob]:
    """The caller's fine-tunings, newest first, an admin everybody's; `metadata[KEY]=VALUE` leaves those that have it."""
    pairs, null = _wanted_metadata(request)
    with gateway.database.reading() as session:
        rows, more = list_tunings(session, looker(request.user), limit, after, pairs, null)
        return object_page([_shown(session, row) for row in rows], more)


@get("/v1/fine_tuning/jobs/{job_id:str}", opt=_TRAIN, sync_to_thread=True)
def job(job_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> TuningJob:
    """One of them."""
    with gateway.database.reading() as session:
        return _shown(session, get_tuning(session, job_id, looker(request.user)))


@post("/v1/fine_tuning/jobs/{job_id:str}/cancel", status_code=200, opt=_TRAIN, sync_to_thread=True)
def cancel(job_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> TuningJob:
    """End it; one that trains is `running` until its process has ended, some seconds later. Nothing of it is kept."""
    return _steered(cancel_tuning, job_id, request, gateway)


@post("/v1/fine_tuning/jobs/{job_id:str}/pause", status_code=200, opt=_TRAIN, sync_to_thread=True)
def pause(job_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> TuningJob:
    """Let it stand still; one that trains is `running` until its process has ended. What it reached is kept."""
    return _steered(pause_tuning, job_id, request, gateway)


@post("/v1/fine_tuning/jobs/{job_id:str}/resume", status_code=200, opt=_TRAIN, sync_to_thread=True)
def resume(job_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> TuningJob:
    """Let a paused one go on, from its newest checkpoint."""
    return _steered(resume_tuning, job_id, request, gateway)


@get("/v1/fine_tuning/jobs/{job_id:str}/events", opt=_TRAIN, sync_to_thread=True)
def events(
    job_id: FromPath[str],
    request: GatewayRequest,
    gateway: Parts,
    limit: _Page = 20,
    after: FromQuery[str | None] = None,
) -> ObjectPage[TuningEvent]:
    """What happened, newest first: messages, and the steps of its training with their figures, also while it runs."""
    with gateway.database.reading() as session:
        row = get_tuning(session, job_id, looker(request.user))
        found, more = list_events(session, row, limit, after)
        return object_page([tuning_event(event) for event in found], more)


@get("/v1/fine_tuning/jobs/{job_id:str}/checkpoints", opt=_TRAIN, sync_to_thread=True)
def checkpoints(
    job_id: FromPath[str],
    request: GatewayRequest,
    gateway: Parts,
    limit: _Page = 10,
    after: FromQuery[str | None] = None,
) -> ObjectPage[TuningCheckpoint]:
    """The version that it made, once it has succeeded: what a training saves on its way cannot be called."""
    with gateway.database.reading() as session:
        row = get_tuning(session, job_id, looker(request.user))
        made = [] if row.alias is None else [tuning_checkpoint(row, last_step(session, row.id))]
        if after is None:
            return object_page(made, False)
        if after not in [one.id for one in made]:
            raise BadFieldError("after", f"{after[:60]!r} is not a checkpoint of this job")
        return object_page([], False)


def _shown(session: Session, row: Tuning) -> TuningJob:
    return tuning_job(row, estimated_finish(session, row))


def looker(caller: Caller) -> Looker:
    """Who asks for fine-tunings."""
    return Looker(viewer_of(caller), caller.models)


def _steered(steer: Any, job_id: str, request: GatewayRequest, gateway: Parts) -> TuningJob:
    caller = request.user
    with gateway.database.session() as session:
        row: Tuning = steer(session, job_id, looker(caller), caller.actor, gateway.now())
        session.commit()
        return tuning_job(row)


def _method(data: NewTuningJob) -> tuple[str, dict[str, Any]]:
    """The method and the hyperparameters that were given. Raises `BadFieldError` for what is not done here."""
    if data.integrations:
        raise BadFieldError(
            "integrations", "are not there; the figures stand in events and in the result file"
        )
    method = data.method
    if method is None:
        return "supervised", _given(data.hyperparameters)
    if data.hyperparameters is not None:
        raise BadFieldError("hyperparameters", "stand in method, where there is one; leave these out")
    if method.type not in ("supervised", "dpo"):
        raise BadFieldError("method.type", f"{method.type[:60]!r} is not done here; use supervised or dpo")
    for name in ("supervised", "dpo", "reinforcement"):
        if name != method.type and getattr(method, name) is not None:
            raise BadFieldError(f"method.{name}", f"does not go with the type {method.type}; leave it out")
    part = method.dpo if method.type == "dpo" else method.supervised
    return method.type, _given(None if part is None else part.hyperparameters)


def _given(values: Any) -> dict[str, Any]:
    if values is None:
        return {}
    return {name: value for name, value in asdict(values).items() if value not in (None, "auto")}


def _wanted_metadata(request: GatewayRequest) -> tuple[dict[str, str], bool]:
    """Pairs that a job's metadata must have, and whether it must have none."""
    pairs = metadata_filter(request, {*_PAGED, "metadata"})
    null = request.query_params.get("metadata")
    if null is not None and (null != "null" or pairs):
        raise BadFieldError(
            "metadata", "is filtered by metadata[KEY]=VALUE, or for none at all by metadata=null"
        )
    return pairs, null is not None


ROUTES = [create, jobs, job, cancel, pause, resume, events, checkpoints]
