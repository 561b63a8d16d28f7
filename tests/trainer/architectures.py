"""Models with random weights of the architectures that people fine-tune, by their configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_APART: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 64},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "phi": {"num_key_value_heads": 4},
    "phi3": {},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "mpt": {},
}
ARCHITECTURES = sorted(_APART)


def write_architecture(
    folder: Path, architecture: str, words: PreTrainedTokenizerBase, sizes: dict[str, Any] = SIZES
) -> Path:
    """A base of that architecture with random weights, of tiny or the given sizes, as a user would have one."""
    torch.manual_seed(0)
    apart = dict(_APART[architecture])
    if "head_dim" in apart:
        apart["head_dim"] = sizes["hidden_size"] // sizes["num_attention_heads"]
    if "num_key_value_heads" in apart:
        apart["num_key_value_heads"] = sizes["num_attention_heads"]
    if architecture == "mpt":
        given = {
            "d_model": sizes["hidden_size"],
            "n_heads": sizes["num_attention_heads"],
            "n_layers": sizes["num_hidden_layers"],
            "expansion_ratio": sizes["intermediate_size"] // sizes["hidden_size"],
            "max_seq_len": sizes["max_position_embeddings"],
        }
    else:
        given = sizes | apart
    ids = {name: getattr(words, name) for name in ("eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(architecture, vocab_size=len(words), bos_token_id=None, **ids, **given)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
