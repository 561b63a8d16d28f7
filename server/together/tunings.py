"""`/together/v1/fine-tunes…`: fine-tunings on a file, in the form of Together's API. They are those of OpenAI's routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import Stream
from msgspec.structs import replace
from sqlmodel import Session

from feedback.checks.cost import base_directory, estimate, parameters_of
from feedback.checks.sampled import estimated_tokens
from feedback.checks.template import renders_tools
from feedback.errors import BadFieldError, ConflictError, NotFoundError, UnsoundAdapterError
from feedback.files.stored import get_file, path_of
from feedback.registry.adapters import adapter_name
from feedback.registry.training_steps import all_steps, last_step
from feedback.registry.versions import get_version
from feedback.settings import Settings
from feedback.storage.tables import RegisteredModel
from feedback.tuning.progress import estimated_finish
from feedback.tuning.requests import (
    ENDED,
    NewTuning,
    cancel_tuning,
    delete_tuning,
    get_tuning,
    list_tunings,
    registered_model,
    request_tuning,
    tell,
)
from server.access import viewer_of
from server.request import SCOPES, STRICT, GatewayRequest, Parts
from server.routes.fine_tuning import looker
from server.together.archive import asked_range, packed, ranged
from server.together.tuning_views import (
    Checkpoints,
    DeletedFineTune,
    Events,
    FineTune,
    FineTunes,
    Metrics,
    ModelLimits,
    Price,
    checkpoints_of,
    events_of,
    fine_tune,
    limits_of,
    metrics_of,
)
from server.together.wire import Estimated, NewFineTune, hyperparameters_of, method_of, without_effect

_TRAIN = {SCOPES: ("train",), STRICT: True}
_MOST = 10_000
_Step = Annotated[int | None, QueryParameter(ge=0)]
_Points = Annotated[int | None, QueryParameter(ge=1, le=100_000)]


@post("/together/v1/fine-tunes", status_code=200, opt=_TRAIN, sync_to_thread=True)
def create(data: JSONBody[NewFineTune], request: GatewayRequest, gateway: Parts) -> FineTune:
    """Ask for a fine-tuning of a registered model, or of the base of one, on a file that was sent before.

    `ignored` lists fields that were given and have no effect; what would be another training is refused by name.
    """
    values, ignored, now = hyperparameters_of(data), without_effect(data), gateway.now()
    method = method_of(data)
    caller, settings = request.user, gateway.settings
    with gateway.database.session() as session:
        model = _model(session, data, request)
        _within(values, limits_of(model, model.name, settings, tools=True))
        asked = NewTuning(
            model=data.model or "",
            training_file=data.training_file,
            validation_file=data.validation_file or None,
            method=method,
            hyperparameters=values,
            seed=settings.training.seed if data.random_seed is None else data.random_seed,
            suffix=data.suffix or "",
            metadata=None,
        )
        row = request_tuning(session, asked, looker(caller), caller.actor, now)
        if ignored:
            tell(row, f"Taken, and without effect here: {', '.join(ignored)}", now, "warn")
        session.commit()
        return fine_tune(row, settings, ignored=ignored)


@get("/together/v1/fine-tunes", opt=_TRAIN, sync_to_thread=True)
def fine_tunes(request: GatewayRequest, gateway: Parts) -> FineTunes:
    """The caller's newest 10,000 fine-tunings, newest first; an admin's are everybody's."""
    with gateway.database.reading() as session:
        rows, _ = list_tunings(session, looker(request.user), _MOST)
        return FineTunes(data=[fine_tune(row, gateway.settings) for row in rows])


@get("/together/v1/fine-tunes/{job_id:str}", opt=_TRAIN, sync_to_thread=True)
def one(job_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> FineTune:
    """One of them, and how far its training is."""
    with gateway.database.reading() as session:
        row = get_tuning(session, job_id, looker(request.user))
        finish = estimated_finish(session, row)
        seconds = None if finish is None else finish - gateway.now().timestamp()
        return fine_tune(row, gateway.settings, last_step(session, row.id), seconds)


@post("/together/v1/fine-tunes/{job_id:str}/cancel", status_code=200, opt=_TRAIN, sync_to_thread=True)
def cancel(job_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> FineTune:
    """End it; one that trains is `cancel_requested` until its process has ended, some seconds later. Nothing of it is kept."""
    caller = request.user
    with gateway.database.session() as session:
        row = cancel_tuning(session, job_id, looker(caller), caller.actor, gateway.now())
        session.commit()
        return fine_tune(row, gateway.settings)


@delete("/together/v1/fine-tunes/{job_id:str}", status_code=200, opt=_TRAIN)
async def remove(
    job_id: FromPath[str], request: GatewayRequest, gateway: Parts, force: FromQuery[bool] = False
) -> DeletedFineTune:
    """Delete one that has ended, and with it the version that it made, which wants `admin`: the version is retired.

    `force` is taken, as clients send it, and without effect.
    """
    caller = request.user
    with gateway.database.reading() as session:
        row = get_tuning(session, job_id, looker(caller))
        if row.state not in ENDED:
            raise ConflictError(f"the fine-tuning job {job_id[:60]} is {row.state}; cancel it first")
        serves = row.version is not None and get_version(session, row.model, row.version).state != "retired"
    if serves and row.version is not None:
        caller.need("admin")
        await gateway.retirements.retire(
            row.model, row.version, f"its fine-tuning {job_id[:60]} was deleted", caller.actor
        )
    with gateway.database.session() as session:
        delete_tuning(session, job_id, looker(caller), caller.actor, gateway.now())
        session.commit()
    gone = "" if row.version is None else f", and {row.model}@{row.version} is retired"
    return DeletedFineTune(message=f"the fine-tuning job {job_id} is deleted{gone}")


@get("/together/v1/fine-tunes/{job_id:str}/events", opt=_TRAIN, sync_to_thread=True)
def events(job_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> Events:
    """What happened, in its order, also while it runs: messages, each epoch with its losses, what was noticed."""
    with gateway.database.reading() as session:
        row = get_tuning(session, job_id, looker(request.user))
        return events_of(row, all_steps(session, row.id))


@get("/together/v1/fine-tunes/{job_id:str}/checkpoints", opt=_TRAIN, sync_to_thread=True)
def checkpoints(job_id: FromPath[str], request: GatewayRequest, gateway: Parts) -> Checkpoints:
    """The version that it made, once it has succeeded: what a training saves on its way cannot be called."""
    with gateway.database.reading() as session:
        row = get_tuning(session, job_id, looker(request.user))
        return checkpoints_of(row, last_step(session, row.id))


@get("/together/v1/fine-tunes/{job_id:str}/metrics", opt=_TRAIN, sync_to_thread=True)
def metrics(
    job_id: FromPath[str],
    request: GatewayRequest,
    gateway: Parts,
    global_step_from: _Step = None,
    global_step_to: _Step = None,
    logged_at_from: FromQuery[datetime | None] = None,
    logged_at_to: FromQuery[datetime | None] = None,
    resolution: _Points = None,
) -> Metrics:
    """The figures of its steps in their order; `resolution` is the most steps without a validation."""
    first, last = _seconds(logged_at_from, 0.0), _seconds(logged_at_to, float("inf"))
    with gateway.database.reading() as session:
        row = get_tuning(session, job_id, looker(request.user))
        steps = [
            step
            for step in all_steps(session, row.id)
            if step.step >= (global_step_from or 0)
            and (global_step_to is None or step.step <= global_step_to)
            and first <= step.created <= last
        ]
    return metrics_of(steps, resolution)


@get("/together/v1/fine-tunes/models/limits", opt=_TRAIN, sync_to_thread=True)
def limits(model_name: FromQuery[str], request: GatewayRequest, gateway: Parts) -> ModelLimits:
    """What a fine-tuning of a model may ask for."""
    with gateway.database.reading() as session:
        model = registered_model(session, model_name, request.user.models, "model_name")
    return limits_of(model, model_name, gateway.settings, _shows_tools(gateway.settings, model))


@post("/together/v1/fine-tunes/estimate-price", status_code=200, opt=_TRAIN, sync_to_thread=True)
def price(data: JSONBody[Estimated], request: GatewayRequest, gateway: Parts) -> Price:
    """What a fine-tuning would come to: tokens from a sample of its file, the price by `[training] price_per_hour`."""
    method_of(data)
    settings, viewer = gateway.settings, viewer_of(request.user)
    with gateway.database.reading() as session:
        model = _model(session, data, request)
        names = {"training_file": data.training_file, "validation_file": data.validation_file}
        files = {}
        for field, name in names.items():
            if name:
                try:
                    files[field] = get_file(session, name, viewer)
                except NotFoundError as error:
                    raise BadFieldError(field, str(error)) from None
    configured = settings.model_named(model.name)
    directory = None if configured is None else base_directory(configured)
    if directory is None:
        return Price(estimation_available=False, unavailable_reason="train_file_not_validated")
    tokens = {
        field: estimated_tokens(path_of(settings.directory, row.id), row.name, directory)
        for field, row in files.items()
    }
    trained = tokens["training_file"]
    if trained is None:
        return Price(estimation_available=False, unavailable_reason="train_file_invalid")
    training = (
        settings.training if data.n_epochs is None else replace(settings.training, epochs=data.n_epochs)
    )
    found = estimate(trained, parameters_of(directory), training)
    return Price(
        estimation_available=True,
        estimated_total_price=found.cost,
        estimated_train_token_count=trained * found.epochs,
        estimated_eval_token_count=tokens.get("validation_file"),
    )


@get("/together/v1/finetune/download", opt=_TRAIN, sync_to_thread=True)
def download(
    ft_id: FromQuery[str],
    request: GatewayRequest,
    gateway: Parts,
    checkpoint: FromQuery[str | None] = None,
    checkpoint_step: _Step = None,
) -> Stream:
    """The adapter of the version that it made, as a tar archive packed by zstd; `Range` is answered."""
    if checkpoint == "merged":
        raise BadFieldError(
            "checkpoint",
            "'merged' is not made over the API; `starloop models export NAME --merged` makes it, or ask for adapter",
        )
    if checkpoint not in (None, "adapter", "model_output_path"):
        raise BadFieldError("checkpoint", f"{checkpoint[:60]!r} is none of adapter, model_output_path")
    with gateway.database.reading() as session:
        row = get_tuning(session, ft_id, looker(request.user))
        last = last_step(session, row.id)
        if row.version is None:
            raise ConflictError(f"the fine-tuning job {ft_id[:60]} is {row.state}; there is no version of it")
        version = get_version(session, row.model, row.version)
    if checkpoint_step and (last is None or checkpoint_step != last.step):
        raise BadFieldError(
            "checkpoint_step", f"{checkpoint_step} is not kept; list_checkpoints shows what is"
        )
    name = adapter_name(version.model, version.number)
    if version.state == "retired":
        raise ConflictError(f"{name} is retired and its adapter removed")
    if gateway.adapters.check(name) != version.adapter_hash:
        raise UnsoundAdapterError(
            f"the folder of {name} holds other weights than it was published with; restore it"
        )
    archive = packed(gateway.adapters.path(name), gateway.settings.directory)
    return ranged(archive, asked_range(request.headers.get("range")), f"{name}.tar.zst")


def _model(session: Session, data: Estimated, request: GatewayRequest) -> RegisteredModel:
    if data.from_checkpoint:
        raise BadFieldError("from_checkpoint", "a training begins at the base; leave it out and name a model")
    if not data.model:
        raise BadFieldError("model", "is required")
    return registered_model(session, data.model, request.user.models)


def _within(values: dict[str, int], limits: ModelLimits) -> None:
    """Raises `BadFieldError` for what the model's engine could not serve or its training not hold."""
    for name, field, most in (
        ("rank", "training_type.lora_r", limits.lora_training.max_rank),
        ("max_tokens", "max_seq_length", limits.max_seq_length_sft),
    ):
        if values.get(name, 0) > most:
            raise BadFieldError(field, f"{values[name]} is above {most}, the most for this model")


def _shows_tools(settings: Settings, model: RegisteredModel) -> bool:
    configured = settings.model_named(model.name)
    directory = None if configured is None else base_directory(configured)
    return directory is None or renders_tools(directory)


def _seconds(moment: datetime | None, otherwise: float) -> float:
    return otherwise if moment is None else moment.timestamp()


ROUTES = [
    create,
    fine_tunes,
    limits,
    price,
    one,
    cancel,
    remove,
    events,
    checkpoints,
    metrics,
    download,
]
