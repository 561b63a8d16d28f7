"""Loads a base model for training or checking: its weights, its tokenizer and where it runs.

A GPU gets bfloat16, a CPU float32 (bfloat16 is slower there, and tiny models lose by it). Code that a base brings
along is never run.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from feedback.errors import NotFoundError


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


def load_base(path: str) -> BaseModel:
    """The base at a directory or hub id. Raises `NotFoundError` where it cannot be loaded."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    local = Path(path).is_dir()  # read without asking the hub whether it knows more
    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=local)
        model = AutoModelForCausalLM.from_pretrained(path, local_files_only=local, dtype=dtype)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise NotFoundError(
            f"the base model {path} could not be loaded ({str(error).strip().splitlines()[0]}); "
            "it must be a causal language model with its tokenizer, in a directory or on the hub"
        ) from error
    model.requires_grad_(False)
    some_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
    return BaseModel(model.to(device).eval(), tokenizer, device, dtype, some_logits)
