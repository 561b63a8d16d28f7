"""Tiny random models of the architectures that people fine-tune: each is trained, saved, checked, and loaded back by peft."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from peft import PeftModel

from tests.trainer.architectures import ARCHITECTURES, write_architecture
from tests.trainer.tiny import row, tokenizer, training_spec, write_dataset
from trainer import finetune
from trainer.base_model import load_base
from trainer.objectives import losses_of
from trainer.tokens import Encoder

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
ROWS = [row(number) for number in range(24)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_is_trained_saved_and_loaded_back(architecture: str, tmp_path: Path) -> None:
    base = write_architecture(tmp_path / "base", architecture, tokenizer())
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
