"""Activations made again instead of kept: the same training in less memory."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from feedback.errors import DataRefusedError
from tests.trainer.tiny import row, training_spec, write_dataset
from trainer import finetune
from trainer.base_model import load_base
from trainer.lora import checkpoint_activations, new_adapter

pytestmark = pytest.mark.usefixtures("torch_as_it_was")


def test_the_weights_are_those_of_a_training_that_keeps_them(tiny_base: Path, tmp_path: Path) -> None:
    rows = [row(number) for number in range(24)]
    dataset = write_dataset(tmp_path / "version", rows, rows)
    made = []
    for again in (False, True):
        out = tmp_path / str(again)
        asked = training_spec(tiny_base, dataset, out, epochs=3, gradient_checkpointing=again)
        facts = finetune.main(msgspec.to_builtins(asked), lambda event: None)
        assert facts["gradient_checkpointing"] is again
        made.append(load_file(out / "adapter" / "adapter_model.safetensors"))
    kept, remade = made
    assert kept.keys() == remade.keys()
    for name, value in kept.items():
        torch.testing.assert_close(remade[name], value, rtol=1e-4, atol=1e-5)


def test_fewer_bytes_are_kept_for_the_backward_pass(tiny_base: Path) -> None:
    kept = {}
    for again in (False, True):
        model, _ = new_adapter(load_base(str(tiny_base)), 4, 8)
        if again:
            checkpoint_activations(model)
        model.train()
        seen: list[int] = []

        def pack(tensor: torch.Tensor, seen: list[int] = seen) -> torch.Tensor:
            seen.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(input_ids=torch.zeros(4, 64, dtype=torch.long)).logits.sum()
        kept[again] = sum(seen)
    assert kept[True] < kept[False] / 2


def test_an_architecture_that_cannot_is_refused_with_what_to_set(tiny_base: Path) -> None:
    model, _ = new_adapter(load_base(str(tiny_base)), 4, 8)
    model.get_base_model().supports_gradient_checkpointing = False
    with pytest.raises(DataRefusedError, match=r"LlamaForCausalLM .* gradient_checkpointing = false"):
        checkpoint_activations(model)
