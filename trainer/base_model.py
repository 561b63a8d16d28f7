"""Loads a base model for training or checking: its weights, its tokenizer and where it runs.

A GPU gets bfloat16, a CPU float32 (bfloat16 is slower there, and tiny models lose by it). Quantised, its linear layers
but the output head are held in 4 bits, and multiplied in those types. Code that a base brings along is never run.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils.logging import disable_progress_bar

from feedback.errors import DataRefusedError, NotFoundError
from feedback.registry.bases import from_hub


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base with frozen weights, ready for a forward pass."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    some_logits: bool = True
    """Whether it can make logits at chosen places alone; older architectures make all."""

    @property
    def context(self) -> int:
        """Most tokens that the model can take; a model that names no limit has none."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 1 << 30)

    @property
    def end_tokens(self) -> set[int]:
        """Tokens at which the engine stops."""
        named = self.model.generation_config.eos_token_id
        ends = set(named if isinstance(named, list) else [named])
        return (ends | {self.tokenizer.eos_token_id}) - {None}


def load_base(path: str, quantisation: str = "") -> BaseModel:
    """The base at a directory or hub id, as it is or quantised (`nf4`). Raises `NotFoundError` where it cannot be loaded, and
    `DataRefusedError` where it cannot be quantised."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    local = Path(path).is_dir()  # read without asking the hub whether it knows more
    disable_progress_bar()
    try:
        name, pinned = from_hub(path)
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local, **pinned)
        model = AutoModelForCausalLM.from_pretrained(
            name,
            local_files_only=local,
            dtype=dtype,
            **pinned,
            **(_four_bits(device, dtype) if quantisation else {}),
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise NotFoundError(
            f"the base model {path} could not be loaded ({str(error).strip().splitlines()[0]}); "
            "it must be a causal language model with its tokenizer, in a directory or on the hub"
        ) from error
    model.requires_grad_(False)
    some_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
    if quantisation and device.type == "cpu":
        _keep_right(model)
    return BaseModel(model.to(device).eval(), tokenizer, device, dtype, some_logits)


def _four_bits(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """QLoRA's own choice (arXiv 2305.14314): NF4, its scales quantised too. Weights go to the device as they are read, so that
    the base never stands there whole.

    peft's `prepare_model_for_kbit_training` is left out: weights are frozen here, activations are made again without its
    help, and it would widen embeddings, head and with them all activations to float32.
    """
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _keep_right(model: Any) -> None:
    """Mind two habits of bitsandbytes on a CPU.

    At the first forward pass of an evaluation it packs the weights into a form for answering alone (with AVX-512 BF16):
    later steps would find no gradient through it. And where a layer's inputs are no multiple of 64, it widens weights by
    other blocks' scales (0.50.2: an error of 17 to 30 % instead of 9 %). Raises `DataRefusedError` for such a base.
    """
    for name, module in model.named_modules():
        if not hasattr(module, "support_avx512bf16_for_cpu"):
            continue
        module.support_avx512bf16_for_cpu = False
        if module.in_features % 64:
            raise DataRefusedError(
                f"{name} has {module.in_features} inputs, and in 4 bits a CPU takes multiples of 64 alone: set [training] "
                'quantisation = "", or train on a GPU'
            )
