"""Puts a new LoRA adapter onto a base, ready to train, and saves it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from feedback.errors import DataRefusedError, StorageError
from trainer.base_model import BaseModel
from trainer.memory import packed
from trainer.soundness import WEIGHTS


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
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not inner.supports_gradient_checkpointing:
        raise DataRefusedError(
            f"{type(inner).__name__} cannot make its activations again: set [training] gradient_checkpointing = false, "
            "and a smaller batch or max_tokens where memory is short"
        )
    # The reentrant kind would find no gradient to make: nothing before the first layer is trained.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def save_adapter(model: nn.Module, config: LoraConfig, folder: Path) -> Path:
    """The adapter's two files in `folder`, made anew. Raises `StorageError`, with nothing left there."""
    tensors = {
        name: tensor.detach().to("cpu").contiguous()
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules or ())  # a set's order would differ from run to run
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        config.save_pretrained(str(folder))
        with (folder / WEIGHTS).open("wb") as file:
            file.write(packed(tensors, {"format": "pt"}))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StorageError(
            f"{folder}: the adapter could not be saved ({error.strerror or error}); "
            "make room on the disk and run again"
        ) from error
    return folder
