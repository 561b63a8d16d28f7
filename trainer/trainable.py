"""What of a model a training changes, and how it is saved and checked: a LoRA adapter beside it, or all of its weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from feedback.errors import DataRefusedError, NotFoundError, StorageError, UnsoundAdapterError
from feedback.registry.bases import from_hub
from trainer.base_model import BaseModel, load_base
from trainer.lora import checkpoint_activations, new_adapter, save_adapter
from trainer.soundness import check_against
from trainer.training import TrainingSpec

_WHOLE_RATE = 1 / 10
"""Of LoRA's learning rate: what trains all weights is about ten times smaller ("LoRA Without Regret")."""


class Adapter:
    """A new adapter on the frozen base."""

    rate = 1.0
    """Factor of the learning rate that is chosen for LoRA."""

    def __init__(self, base: BaseModel, spec: TrainingSpec) -> None:
        """Raises `DataRefusedError` where activations are to be made again and the architecture cannot."""
        self._base, self._spec = base, spec
        self.model, self._config = new_adapter(base, spec.rank, spec.alpha)
        if spec.gradient_checkpointing:
            checkpoint_activations(self.model)
        self._config.base_model_name_or_path = spec.engine_model

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the adapter and check what stands on the disk; facts about it. Raises `StorageError`, `UnsoundAdapterError`."""
        save_adapter(self.model, self._config, folder)
        self.model.unload()
        return check_against(self._base, folder, self._spec.max_rank, self._spec.engine_model)


class Whole:
    """All weights of the base, held in float32; on a GPU the work is done in bfloat16 by autocast, as with an adapter."""

    rate = _WHOLE_RATE

    def __init__(self, base: BaseModel, spec: TrainingSpec) -> None:
        """Raises `DataRefusedError` for what only an adapter can be trained by."""
        if spec.method != "sft" or spec.quantisation:
            what = f"method {spec.method}" if spec.method != "sft" else "a base in 4 bits"
            raise DataRefusedError(
                f"all weights are trained on right answers (sft) and on a base that is not quantised; {what} wants an adapter"
            )
        self._tokenizer = base.tokenizer
        name, pinned = from_hub(spec.base_path)
        self._dtype = getattr(AutoConfig.from_pretrained(name, **pinned), "dtype", None) or torch.float32
        self.model: Any = base.model.float()
        self.model.requires_grad_(True)
        if spec.gradient_checkpointing:
            checkpoint_activations(self.model)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write a model of its own, in the base's number format, and check what stands on the disk: `{"parameters"}`.

        Raises `StorageError`, `UnsoundAdapterError`.
        """
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self.model.to(self._dtype).save_pretrained(folder)
            self._tokenizer.save_pretrained(folder)
            for file in folder.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise StorageError(
                f"{folder}: the model could not be saved ({error}); make room on the disk and run again"
            ) from error
        return _checked(folder)


def _checked(folder: Path) -> dict[str, Any]:
    try:
        loaded = load_base(str(folder))
    except NotFoundError as error:
        raise UnsoundAdapterError(f"{folder}: what was saved cannot be loaded: {error}") from error
    for name, tensor in loaded.model.named_parameters():
        if not tensor.isfinite().all():
            raise UnsoundAdapterError(f"{folder}: {name} holds numbers that are not finite")
    tokens = torch.arange(min(8, loaded.model.config.vocab_size), device=loaded.device)[None]
    with torch.no_grad():
        if not loaded.model(input_ids=tokens, use_cache=False).logits.isfinite().all():
            raise UnsoundAdapterError(f"{folder}: gives logits that are not finite")
    return {"parameters": loaded.model.num_parameters()}
