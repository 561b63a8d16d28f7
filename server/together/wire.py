"""What Together's clients send. A field that is not known is an error; one that is known and not done is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta

from feedback.errors import BadFieldError
from server.wire import Name, Wire

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0, le=10**9)]
Secret = Annotated[str, Meta(max_length=1000)]


class SchedulerArguments(Wire):
    min_lr_ratio: Share | None = None
    num_cycles: Annotated[float, Meta(gt=0.0)] | None = None


class Scheduler(Wire):
    lr_scheduler_type: Literal["linear", "cosine"]
    lr_scheduler_args: SchedulerArguments | None = None


class TrainingType(Wire):
    type: Annotated[str, Meta(max_length=64)]
    lora_r: Annotated[int, Meta(ge=1, le=1024)] | None = None
    lora_alpha: Annotated[int, Meta(ge=1, le=4096)] | None = None
    lora_dropout: Share = 0.0
    lora_trainable_modules: Annotated[str, Meta(max_length=1000)] = "all-linear"


class TrainingMethod(Wire):
    method: Annotated[str, Meta(max_length=64)] = "sft"
    train_on_inputs: bool | Literal["auto"] = "auto"
    dpo_beta: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    dpo_normalize_logratios_by_length: bool = False
    dpo_reference_free: bool = False
    rpo_alpha: Annotated[float, Meta(ge=0.0)] | None = None
    simpo_gamma: Annotated[float, Meta(ge=0.0)] | None = None


class MultimodalParameters(Wire):
    train_vision: bool = False


class Estimated(Wire):
    """What a price is asked for: the part of a fine-tuning that it depends on."""

    training_file: Name
    validation_file: Annotated[str, Meta(max_length=256)] | None = None
    model: Annotated[str, Meta(max_length=256)] | None = None
    from_checkpoint: Annotated[str, Meta(max_length=256)] | None = None
    n_epochs: Annotated[int, Meta(ge=1, le=50)] | None = None
    n_evals: Count | None = None
    training_type: TrainingType | None = None
    training_method: TrainingMethod | None = None


class NewFineTune(Estimated):
    """A fine-tuning on a file, with all that the client sends whether it was named or not."""

    batch_size: Literal["max"] | Annotated[int, Meta(ge=1, le=256)] | None = None
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    max_seq_length: Annotated[int, Meta(ge=1, le=10**7)] | None = None
    suffix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{0,64}$(?!\n)")] | None = None
    random_seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    early_stopping_patience: Annotated[int, Meta(ge=1, le=1000)] | None = None
    # taken and without effect
    packing: bool | None = None
    n_checkpoints: Count | None = None
    gradient_accumulation_steps: Count | None = None
    lr_scheduler: Scheduler | None = None
    warmup_ratio: Share | None = None
    max_grad_norm: Annotated[float, Meta(ge=0.0)] | None = None
    weight_decay: Annotated[float, Meta(ge=0.0)] | None = None
    early_stopping_enabled: bool | None = None
    early_stopping_min_delta: Annotated[float, Meta(ge=0.0)] | None = None
    early_stopping_warmup_evals: Count | None = None
    # refused
    multimodal_params: MultimodalParameters | None = None
    wandb_key: Secret | None = None
    wandb_base_url: Secret | None = None
    wandb_project_name: Secret | None = None
    wandb_name: Secret | None = None
    wandb_entity: Secret | None = None
    from_hf_model: Secret | None = None
    hf_model_revision: Secret | None = None
    hf_api_token: Secret | None = None
    hf_output_repo_name: Secret | None = None


_DONE_ANYWAY: dict[str, Any] = {
    "packing": None,
    "n_evals": 0,
    "n_checkpoints": None,
    "gradient_accumulation_steps": None,
    "lr_scheduler": None,
    "warmup_ratio": None,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "early_stopping_enabled": None,
    "early_stopping_min_delta": None,
    "early_stopping_warmup_evals": None,
}
"""Fields without effect, and the value that asks for nothing else than what is done."""
_UNDONE = {
    "from_checkpoint": "a training begins at the base; leave it out and name a model",
    "from_hf_model": "a training begins at a registered model's base; leave it out",
    "hf_model_revision": "a training begins at a registered model's base; leave it out",
    "hf_api_token": "nothing is sent to the Hub; leave it out",
    "hf_output_repo_name": "nothing is sent to the Hub; download the adapter and send it yourself",
    "wandb_key": "no figures are sent elsewhere; list_metrics has them",
    "wandb_base_url": "no figures are sent elsewhere; list_metrics has them",
    "wandb_project_name": "no figures are sent elsewhere; list_metrics has them",
    "wandb_name": "no figures are sent elsewhere; list_metrics has them",
    "wandb_entity": "no figures are sent elsewhere; list_metrics has them",
}


def method_of(data: Estimated) -> str:
    """`supervised` or `dpo`. Raises `BadFieldError` for another."""
    method = "sft" if data.training_method is None else data.training_method.method
    if method not in ("sft", "dpo"):
        raise BadFieldError("training_method.method", f"{method[:60]!r} is not done here; use sft or dpo")
    return "dpo" if method == "dpo" else "supervised"


def hyperparameters_of(data: NewFineTune) -> dict[str, Any]:
    """Those that a training goes by, as the record names them. Raises `BadFieldError` for what is not done here."""
    for name, problem in _undone(data):
        raise BadFieldError(name, problem)
    lora, method = data.training_type or TrainingType(type="Lora"), data.training_method or TrainingMethod()
    found = {
        "n_epochs": data.n_epochs,
        "batch_size": None if data.batch_size == "max" else data.batch_size,
        "learning_rate": data.learning_rate,
        "max_tokens": data.max_seq_length,
        "patience": data.early_stopping_patience,
        "rank": lora.lora_r,
        "alpha": lora.lora_alpha,
        "beta": method.dpo_beta or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def without_effect(data: NewFineTune) -> list[str]:
    """Fields that were given, and change nothing."""
    return [
        name
        for name, done in _DONE_ANYWAY.items()
        if (value := getattr(data, name)) is not None and value != done
    ]


def _undone(data: NewFineTune) -> Iterator[tuple[str, str]]:
    """What is asked for and would be another training than the one that is done: each field, and why not."""
    for name, problem in _UNDONE.items():
        if getattr(data, name):
            yield name, problem
    if data.multimodal_params is not None and data.multimodal_params.train_vision:
        yield "multimodal_params.train_vision", "images are not learned from; leave it out"
    lora, method = data.training_type, data.training_method
    if lora is not None:
        if lora.type != "Lora":
            yield (
                "training_type.type",
                f"{lora.type[:60]!r} is not done: adapters are what is served; use Lora",
            )
        if lora.lora_dropout:
            yield "training_type.lora_dropout", "is not done; leave it out, or 0"
        if lora.lora_trainable_modules != "all-linear":
            yield "training_type.lora_trainable_modules", "is always all-linear; leave it out"
    if method is None:
        return
    paired = method.method == "dpo"
    if method.train_on_inputs is True:
        yield "training_method.train_on_inputs", "is not done: answers alone are learned; use auto or false"
    if method.dpo_beta and not paired:
        yield "training_method.dpo_beta", "belongs to the method dpo; leave it out"
    for name in ("dpo_normalize_logratios_by_length", "dpo_reference_free", "simpo_gamma"):
        if getattr(method, name):
            yield f"training_method.{name}", "is not done; leave it out"
    if method.rpo_alpha is not None:
        yield (
            "training_method.rpo_alpha",
            "is not for clients to choose: preferred answers are imitated at a weight of 0.2",
        )
