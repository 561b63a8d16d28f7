"""A base held in 4 bits while it trains: an adapter for the base as it is, made in less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from feedback.errors import BadInputError, DataRefusedError
from feedback.settings import Training
from tests.trainer import test_preflight as shapes
from tests.trainer.tiny import row, training_spec, write_base, write_dataset
from trainer import finetune, placement
from trainer.base_model import load_base
from trainer.placement import require_quantiser
from trainer.preflight import Shape, memory_of, preflight, refuse_too_large
from trainer.soundness import check_adapter
from trainer.training import train

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
pytestmark = pytest.mark.usefixtures("torch_as_it_was")


class KilledError(BaseException):
    """What `kill -9` looks like from inside."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("wider") / "base", hidden=128)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [row(number) for number in range(24)]
    return write_dataset(tmp_path_factory.mktemp("data") / "version", rows, rows * 5)


def run(asked: Any, emit: Any = lambda event: None) -> dict[str, Any]:
    return finetune.main(msgspec.to_builtins(asked), emit)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def test_the_bases_linear_layers_are_held_in_four_bits_and_are_near_what_they_were(base: Path) -> None:
    whole, quantised = load_base(str(base)), load_base(str(base), "nf4")
    assert quantised.model.num_parameters() == whole.model.num_parameters()
    packed = [value for value in quantised.model.parameters() if value.dtype == torch.uint8]
    inside = Shape.of(base).linear  # type: ignore[union-attr]
    assert 2 * sum(value.numel() for value in packed) == inside > 0.6 * whole.model.num_parameters()
    for name, layer in quantised.model.named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            weight = whole.model.get_submodule(name).weight
            with torch.no_grad():
                error = (layer(torch.eye(layer.in_features)).T - weight).std() / weight.std()
            assert 0.07 < error < 0.11, "NF4 of normal weights is off by 9 % of their spread"


def test_looking_between_steps_leaves_the_base_trainable(base: Path) -> None:
    """bitsandbytes repacks weights for answering where the CPU has AVX-512 BF16; a gradient finds no way through that."""
    model = load_base(str(base), "nf4").model
    tokens = torch.zeros(1, 8, dtype=torch.long)
    with torch.no_grad():
        model.eval()(input_ids=tokens)
    inputs = model.get_input_embeddings()(tokens).requires_grad_()
    model.train()(inputs_embeds=inputs).logits.sum().backward()
    assert inputs.grad is not None and inputs.grad.abs().sum() > 0


def test_a_base_that_the_cpu_would_widen_wrongly_is_refused(tiny_base: Path) -> None:
    with pytest.raises(DataRefusedError, match=r"q_proj has 32 inputs, .* multiples of 64"):
        load_base(str(tiny_base), "nf4")


@pytest.mark.parametrize("again", [False, True])
def test_a_training_learns_and_its_adapter_is_one_of_the_base_as_it_is(
    base: Path, dataset: Path, tmp_path: Path, again: bool
) -> None:
    asked = training_spec(base, dataset, tmp_path, epochs=6, quantisation="nf4", gradient_checkpointing=again)
    facts = run(asked)
    history = facts["history"]
    assert history[-1]["validation"] < 0.5 * history[0]["validation"]
    assert facts["quantisation"] == "nf4" and facts["base_parameters"] == Shape.of(base).parameters  # type: ignore[union-attr]
    sound = check_adapter(tmp_path / "adapter", str(base), 16, "acme/tiny")
    assert sound["parameters"] == facts["trained_parameters"]
    assert run(training_spec(base, dataset, tmp_path / "whole", epochs=1))["quantisation"] is None


def test_the_adapter_has_learned_for_the_base_as_it_is(base: Path, dataset: Path, tmp_path: Path) -> None:
    """What is served is the base in full: there the loss has to have fallen too."""
    from peft import PeftModel

    run(training_spec(base, dataset, tmp_path, epochs=6, quantisation="nf4"))
    whole = load_base(str(base))
    encoder = finetune.Encoder(whole.tokenizer, 128, whole.end_tokens)
    examples = [encoder.encode(row(number)) for number in range(24)]
    adapted: Any = PeftModel.from_pretrained(whole.model, str(tmp_path / "adapter"))
    with adapted.disable_adapter():
        before = finetune.means_of(examples, finetune.losses_each(adapted, whole, examples, 8192))[
            "validation"
        ]
    after = finetune.means_of(examples, finetune.losses_each(adapted, whole, examples, 8192))["validation"]
    assert before is not None and after is not None and after < 0.5 * before


def test_killed_and_gone_on_it_ends_with_the_same_weights(base: Path, dataset: Path, tmp_path: Path) -> None:
    def spec(out: Path) -> Any:
        return training_spec(base, dataset, out, epochs=4, quantisation="nf4", checkpoint_seconds=0.0)

    def kill(event: dict[str, Any]) -> None:
        if event["step"] == 7:
            raise KilledError

    run(spec(tmp_path / "whole"))
    with pytest.raises(KilledError):
        run(spec(tmp_path / "killed"), kill)
    assert run(spec(tmp_path / "killed"))["resumed_at"] == [7]
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


def test_the_child_process_trains_so_too(base: Path, dataset: Path, tmp_path: Path) -> None:
    """There the library is hidden from every training that needs none of it."""
    trained = train(training_spec(base, dataset, tmp_path, epochs=1, quantisation="nf4"), lambda _: None)
    assert trained.facts["quantisation"] == "nf4"


def test_a_missing_library_is_said_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require_quantiser(Training(quantisation="nf4"))
    monkeypatch.setattr(placement, "find_spec", lambda name: None)
    require_quantiser(Training())
    with pytest.raises(BadInputError, match=r"pip install 'starloop\[bitsandbytes\]'"):
        require_quantiser(Training(quantisation="nf4"))


LLAMA_8B = msgspec.structs.replace(shapes.LLAMA_8B, linear=6_979_321_856)
ROWS = shapes.ROWS


def test_an_estimate_reckons_with_it_and_says_so() -> None:
    """The 4-bit weights of an 8-billion Llama take 5.7 GB: 3.6 of linear layers, 2.1 of embeddings and head in 16 bits."""
    found = memory_of(LLAMA_8B, ROWS, Training(quantisation="nf4"), "cuda")
    assert found.weights == pytest.approx(5.8e9, rel=0.03)
    told = preflight(LLAMA_8B, 8_030_261_248, ROWS, Training(quantisation="nf4"), "cuda").told()
    assert "of memory with the base in 4 bits (nf4)" in told
    assert "4 bits" not in preflight(LLAMA_8B, 8_030_261_248, ROWS, Training(), "cuda").told()


def test_a_base_that_does_not_fit_is_refused_with_four_bits_where_they_would() -> None:
    wanted = preflight(LLAMA_8B, 8_030_261_248, ROWS, Training(batch=4), "cuda")
    with pytest.raises(DataRefusedError, match=r'quantisation = "nf4" and gradient_checkpointing = true'):
        refuse_too_large(wanted, 12 << 30)
    with pytest.raises(DataRefusedError, match=r"GB; take a smaller base"):
        refuse_too_large(wanted, 4 << 30)
