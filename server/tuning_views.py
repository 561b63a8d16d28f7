"""OpenAI's objects of fine-tuning jobs, as its clients read them. Times are whole Unix seconds, as there."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from feedback.files.stored import PREFIX as FILE
from feedback.storage.tables import TrainingStep, Tuning
from feedback.tuning.events import Event
from feedback.tuning.requests import PREFIX, organisation_of

_AUTO = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}


class TuningJob(Struct, kw_only=True):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    error: dict[str, Any] | None
    estimated_finish: int | None = None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: dict[str, Any]
    integrations: list[Any] = []
    metadata: dict[str, str] | None
    method: dict[str, Any]
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    status: str
    """`paused` too, which OpenAI's type does not list and its service says."""
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    version: str | None
    """Starloop's own: the version that came of it, as in `assistant@1.2`."""


class TuningEvent(Struct, kw_only=True):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class TuningCheckpoint(Struct, kw_only=True):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float | None]
    step_number: int


def tuning_job(row: Tuning, estimated_finish: float | None = None) -> TuningJob:
    auto: dict[str, Any] = _AUTO | ({"beta": "auto"} if row.method == "dpo" else {})
    values = auto | row.hyperparameters
    return TuningJob(
        id=PREFIX + row.id,
        created_at=int(row.created),
        error=row.error,
        estimated_finish=None if estimated_finish is None else int(estimated_finish),
        fine_tuned_model=row.alias,
        finished_at=None if row.finished is None else int(row.finished),
        hyperparameters={name: values[name] for name in _AUTO},
        metadata=row.metadata_,
        method={"type": row.method, row.method: {"hyperparameters": values}},
        model=row.asked,
        organization_id=organisation_of(row),
        result_files=[] if row.result_file is None else [FILE + row.result_file],
        seed=row.seed,
        status=row.state,
        trained_tokens=row.trained_tokens,
        training_file=FILE + row.training_file,
        validation_file=None if row.validation_file is None else FILE + row.validation_file,
        version=None if row.version is None else f"{row.model}@{row.version}",
    )


def tuning_event(event: Event) -> TuningEvent:
    step = event.step
    return TuningEvent(
        id=event.id,
        created_at=int(event.time),
        level=event.level,
        message=event.text,
        type="message" if step is None else "metrics",
        data=None if step is None else {**_figures(step), "total_steps": step.steps},
    )


def tuning_checkpoint(row: Tuning, step: TrainingStep | None) -> TuningCheckpoint:
    """The one that there is: the version itself."""
    assert row.alias is not None and row.finished is not None
    return TuningCheckpoint(
        id=f"ftckpt_{row.id}",
        created_at=int(row.finished),
        fine_tuned_model_checkpoint=row.alias,
        fine_tuning_job_id=PREFIX + row.id,
        metrics={} if step is None else _figures(step),
        step_number=0 if step is None else step.step,
    )


def _figures(step: TrainingStep) -> dict[str, float | None]:
    return {"step": step.step, "train_loss": step.loss, "valid_loss": step.validation_loss}
