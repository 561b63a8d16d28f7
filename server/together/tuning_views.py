"""Together's objects of fine-tunings, as its client reads them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import Struct

from feedback.files.stored import PREFIX as FILE
from feedback.registry.training_steps import epochs_of
from feedback.settings import Settings
from feedback.storage.tables import RegisteredModel, TrainingStep, Tuning
from feedback.tuning.requests import PREFIX, alias_of

_STATUS = {
    "validating_files": "pending",
    "queued": "queued",
    "running": "running",
    "paused": "paused",
    "succeeded": "completed",
    "failed": "error",
    "cancelled": "cancelled",
}
_EVENTS = {
    "asked": "job_pending",
    "validated": "training_data_download_complete",
    "begun": "job_start",
    "restarted": "job_restarted",
    "waits": "job_pending",
    "frozen": "training_start",
    "leaving": "cancel_requested",
    "left": "job_stopped",
    "failed": "job_error",
    "succeeded": "job_complete",
}
"""What the messages of a fine-tuning are about, and what that is called there."""


class Remaining(Struct, kw_only=True):
    estimate_available: bool
    seconds_remaining: int


class FineTune(Struct, kw_only=True):
    id: str
    object: Literal["fine-tune"] = "fine-tune"
    status: str
    """`paused` too, which the client's type does not list: OpenAI's routes can pause."""
    user_id: str
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    model: str
    model_output_name: str | None
    adapter_output_name: str | None
    suffix: str
    training_file: str
    validation_file: str | None
    n_epochs: int | None
    """Null where it was left open and is not known yet."""
    batch_size: int | None
    learning_rate: float | None
    max_seq_length: int | None
    random_seed: int
    training_type: dict[str, Any]
    training_method: dict[str, Any]
    token_count: int | None
    total_steps: int | None = None
    steps_completed: int | None = None
    epochs_completed: int | None = None
    progress: Remaining | None = None
    error: dict[str, Any] | None
    """Starloop's own: why it failed."""
    version: str | None
    """Starloop's own: the version that came of it, as in `assistant@1.2`."""
    ignored: list[str] = []
    """Starloop's own, when it is asked for: fields that were given and have no effect."""


class FineTuneEvent(Struct, kw_only=True):
    object: Literal["fine-tune-event"] = "fine-tune-event"
    created_at: datetime
    level: str
    message: str
    type: str
    step: int | None = None
    total_steps: int | None = None


class FineTuneCheckpoint(Struct, kw_only=True):
    checkpoint_type: str
    checkpoint: Literal["adapter"] = "adapter"
    created_at: datetime
    path: str
    object_name: str
    step: int


class Events(Struct, kw_only=True):
    data: list[FineTuneEvent]


class Checkpoints(Struct, kw_only=True):
    data: list[FineTuneCheckpoint]


class FineTunes(Struct, kw_only=True):
    data: list[FineTune]


class Metrics(Struct, kw_only=True):
    metrics: list[dict[str, float]]


class DeletedFineTune(Struct, kw_only=True):
    message: str


class Price(Struct, kw_only=True):
    estimation_available: bool
    allowed_to_proceed: bool = True
    estimated_total_price: float | None = None
    estimated_train_token_count: int | None = None
    estimated_eval_token_count: int | None = None
    unavailable_reason: str | None = None


class LoraLimits(Struct, kw_only=True):
    default_rank: int
    max_rank: int
    min_batch_size: int = 1
    max_batch_size: int = 256
    max_batch_size_dpo: int = 256
    target_modules: tuple[str, ...] = ("all-linear",)


class ModelLimits(Struct, kw_only=True):
    model_name: str
    lora_training: LoraLimits
    full_training: None = None
    default_gradient_accumulation_steps: int = 1
    max_num_epochs: int = 50
    max_num_evals: int = 1000
    max_num_checkpoints: int = 1
    min_learning_rate: float = 1e-9
    max_learning_rate: float = 1.0
    min_max_seq_length: int = 1
    max_seq_length_sft: int
    max_seq_length_dpo: int
    merge_output_lora: bool = False
    supports_full_training: bool = False
    supports_reasoning: bool = False
    supports_tools: bool
    supports_vision: bool = False


def limits_of(model: RegisteredModel, asked: str, settings: Settings, tools: bool) -> ModelLimits:
    """What a fine-tuning of a model may ask for; `tools` is whether its base's template shows them."""
    engine = next(engine for engine in settings.engine if engine.base == model.base)
    longest, rank = settings.training.max_tokens, settings.training.rank
    return ModelLimits(
        model_name=asked,
        lora_training=LoraLimits(default_rank=min(rank, engine.max_lora_rank), max_rank=engine.max_lora_rank),
        max_seq_length_sft=longest,
        max_seq_length_dpo=longest,
        supports_tools=tools,
    )


def fine_tune(
    row: Tuning,
    settings: Settings,
    last: TrainingStep | None = None,
    seconds: float | None = None,
    ignored: Sequence[str] = (),
) -> FineTune:
    """A fine-tuning; `last` is the step that its training came to, `seconds` how long it will still take."""
    values = row.hyperparameters
    name = row.alias or (None if row.state in ("failed", "cancelled") else alias_of(row))
    dpo = {"method": "dpo", "dpo_beta": values.get("beta")}
    times = [one["time"] for one in row.messages]
    begun = next((one["time"] for one in row.messages if one.get("kind") == "begun"), None)
    status = "cancel_requested" if row.wanted == "cancel" else _STATUS[row.state]
    return FineTune(
        id=PREFIX + row.id,
        status=status,
        user_id=row.owner,
        created_at=_moment(row.created),
        updated_at=_moment(max([row.created, *times])),
        started_at=None if begun is None else _moment(begun),
        model=row.asked,
        model_output_name=name,
        adapter_output_name=name,
        suffix=row.suffix,
        training_file=FILE + row.training_file,
        validation_file=None if row.validation_file is None else FILE + row.validation_file,
        n_epochs=values.get("n_epochs"),
        batch_size=values.get("batch_size"),
        learning_rate=values.get("learning_rate"),
        max_seq_length=values.get("max_tokens"),
        random_seed=row.seed,
        training_type={
            "type": "Lora",
            "lora_r": values.get("rank", settings.training.rank),
            "lora_alpha": values.get("alpha", settings.training.alpha),
            "lora_dropout": 0.0,
            "lora_trainable_modules": "all-linear",
        },
        training_method=dpo if row.method == "dpo" else {"method": "sft", "train_on_inputs": False},
        token_count=row.trained_tokens,
        total_steps=None if last is None else last.steps,
        steps_completed=None if last is None else last.step,
        epochs_completed=None if last is None else last.epoch - (last.step < last.steps),
        progress=Remaining(
            estimate_available=seconds is not None, seconds_remaining=max(0, round(seconds or 0))
        ),
        error=row.error,
        version=None if row.version is None else f"{row.model}@{row.version}",
        ignored=list(ignored),
    )


def events_of(row: Tuning, steps: Sequence[TrainingStep]) -> Events:
    """What happened in its order: the messages, each epoch's end, and what was noticed at a step."""
    told = [
        (
            one["time"],
            FineTuneEvent(
                created_at=_moment(one["time"]),
                level={"warn": "warning"}.get(one["level"], one["level"]),
                message=one["text"],
                type=_EVENTS.get(one.get("kind", ""), "warning" if one["level"] == "warn" else "job_start"),
            ),
        )
        for one in row.messages
    ]
    trained = [step for step in steps if step.step > 0]
    ends = {step.epoch: step for step in trained}
    for epoch in epochs_of(trained):
        end = ends[epoch.epoch]
        figures = [("training loss", epoch.train), ("validation loss", epoch.validation)]
        text = ", ".join(f"{name} {value:.4f}" for name, value in figures if value is not None)
        told.append((end.created, _at(end, "epoch_complete", f"Epoch {epoch.epoch}/{end.epochs}: {text}")))
    told += [(step.created, _at(step, "warning", notice)) for step in trained for notice in step.noticed]
    return Events(data=[event for _, event in sorted(told, key=lambda one: one[0])])


def checkpoints_of(row: Tuning, last: TrainingStep | None) -> Checkpoints:
    """The version that it made, once it has succeeded: what a training saves on its way cannot be called."""
    if row.alias is None or row.finished is None:
        return Checkpoints(data=[])
    made = FineTuneCheckpoint(
        checkpoint_type="final",
        created_at=_moment(row.finished),
        path=row.alias,
        object_name=row.alias,
        step=0 if last is None else last.step,
    )
    return Checkpoints(data=[made])


def metrics_of(steps: Sequence[TrainingStep], most: int | None) -> Metrics:
    """The figures of the steps; at most so many of those that hold no validation, evenly spread over the training."""
    looked = {step.step for step in steps if step.validation_loss is not None}
    others = [step.step for step in steps if step.step not in looked]
    if most is not None and len(others) > most:
        others = [others[place * len(others) // most] for place in range(most)]
    kept = looked.union(others)
    return Metrics(metrics=[_figures(step) for step in steps if step.step in kept])


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _figures(step: TrainingStep) -> dict[str, float]:
    found = {
        "train/global_step": step.step,
        "train/epoch": step.epoch,
        "timestamp": step.created,
        "train/loss": step.loss,
        "train/learning_rate": step.learning_rate,
        "train/grad_norm": step.gradient_norm,
        "eval/loss": step.validation_loss,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _at(step: TrainingStep, kind: str, text: str) -> FineTuneEvent:
    return FineTuneEvent(
        created_at=_moment(step.created),
        level="warning" if kind == "warning" else "info",
        message=text,
        type=kind,
        step=step.step,
        total_steps=step.steps,
    )
