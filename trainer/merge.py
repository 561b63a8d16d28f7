"""Puts an adapter into its base's weights, for programs that know no adapters. Runs as a child process (`trainer.child`).

Each layer's sum is made in float32 and rounded once, to the type that the base's weights have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from feedback.errors import NotFoundError, StorageError, UnsoundAdapterError
from feedback.registry.bases import from_hub


def main(spec: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Write base and adapter as one model: `{"base_path", "adapter", "out"}`; an empty adapter leaves the base as it is.

    Raises `NotFoundError` where the base cannot be loaded, `UnsoundAdapterError` where a sum is not finite, `StorageError`
    where the folder cannot be written.
    """
    disable_progress_bar()
    try:
        name, pinned = from_hub(spec["base_path"])
        tokenizer = AutoTokenizer.from_pretrained(name, **pinned)
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype="auto", **pinned)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise NotFoundError(f"the base model {spec['base_path']} could not be loaded ({error})") from error
    if spec["adapter"]:
        model = _merged(model, spec["adapter"])
    try:
        model.save_pretrained(spec["out"])
        tokenizer.save_pretrained(spec["out"])
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{spec['out']}: the weights cannot be written there ({error}); make room"
        ) from error
    return {"parameters": model.num_parameters(), "dtype": str(model.dtype).removeprefix("torch.")}


@torch.no_grad()
def _merged(model: Any, adapter: str) -> Any:
    try:
        adapted: Any = PeftModel.from_pretrained(model, adapter)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UnsoundAdapterError(f"{adapter}: the adapter cannot be read ({error})") from error
    layers: dict[str, Any] = {
        name: layer for name, layer in adapted.named_modules() if isinstance(layer, LoraLayer)
    }
    for name, layer in layers.items():
        weight = layer.get_base_layer().weight
        delta = layer.get_delta_weight("default")
        together = (weight.float() + delta.float()).to(weight.dtype)
        if not together.isfinite().all():
            raise UnsoundAdapterError(f"{adapter}: {name} is not finite in {weight.dtype} once merged")
        weight.copy_(together)
    return adapted.unload()
