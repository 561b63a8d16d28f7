"""Tiny random models of the architectures that people fine-tune: each is trained, saved, checked, and loaded back by peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from tests.trainer.tiny import row, tokenizer, training_spec, write_dataset
from trainer import finetune
from trainer.base_model import load_base
from trainer.objectives import losses_of
from trainer.tokens import Encoder

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
ROWS = [row(number) for number in range(24)]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "mistral": SIZES | {"sliding_window": 64},
    "qwen2": SIZES,
    "qwen3": SIZES | {"head_dim": 8},
    "phi": SIZES | {"num_key_value_heads": 4},
    "phi3": SIZES,
    "gemma": SIZES | {"head_dim": 8},
    "gemma2": SIZES | {"head_dim": 8},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 128},
}


def write_base(folder: Path, architecture: str) -> Path:
    torch.manual_seed(0)
    words = tokenizer()
    ids = {name: getattr(words, name) for name in ("eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(
        architecture, vocab_size=len(words), bos_token_id=None, **ids, **ARCHITECTURES[architecture]
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_an_architecture_is_trained_saved_and_loaded_back(architecture: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", architecture)
    data = write_dataset(tmp_path / "data", ROWS, ROWS)
    facts = finetune.main(
        msgspec.to_builtins(training_spec(base, data, tmp_path / "out", epochs=6)), lambda event: None
    )
    first, last = facts["history"][0]["validation"], facts["history"][-1]["validation"]
    assert last < 0.98 * first
    loaded = load_base(str(base))
    model = PeftModel.from_pretrained(loaded.model, str(tmp_path / "out" / "adapter")).eval()
    encoder = Encoder(loaded.tokenizer, min(2048, loaded.context), loaded.end_tokens)
    examples = encoder.encode_rows(ROWS).examples
    with torch.no_grad():
        total = losses_of(model, loaded, examples)[1].sum().item()
    tolerance = 1e-3 if loaded.device.type == "cpu" else 5e-2
    assert total / sum(example.trained for example in examples) == pytest.approx(last, abs=tolerance)
