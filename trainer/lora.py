"""Puts a new LoRA adapter onto a base, ready to train."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from feedback.errors import DataRefusedError
from trainer.base_model import BaseModel


def new_adapter(base: BaseModel, rank: int, alpha: int) -> tuple[Any, LoraConfig]:
    """The base with LoRA on every linear layer but the output head, and the adapter's configuration.

    On a GPU the adapter's weights are float32 and the work is done in bfloat16 by autocast. PEFT would besides bring each
    layer's input to float32 and keep that until the gradient is made: more memory and a slower step for the same numbers.
    """
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=rank, lora_alpha=alpha, target_modules="all-linear")
    model = get_peft_model(base.model, config)
    if base.device.type == "cuda":
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                module.cast_input_dtype_enabled = False  # type: ignore[assignment]
    return model, config


def checkpoint_activations(model: Any) -> None:
    """Have each layer's activations made again for the backward pass instead of kept: the same gradient, in less memory.

    Raises `DataRefusedError` where the architecture cannot.
    """
    inner = model.get_base_model()
    if not inner.supports_gradient_checkpointing:
        raise DataRefusedError(
            f"{type(inner).__name__} cannot make its activations again: set [training] gradient_checkpointing = false, "
            "and a smaller batch or max_tokens where memory is short"
        )
    # The reentrant kind would find no gradient to make: nothing before the first layer is trained.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
