"""Invariant 6: what is not sound is refused with a sentence, what is sound means what peft makes of it."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from feedback.errors import UnsoundAdapterError
from trainer import soundness
from trainer.base_model import BaseModel, load_base
from trainer.soundness import CONFIG, WEIGHTS, check_adapter, check_against

ENGINE = "acme/tiny"
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseModel:
    return load_base(str(tiny_base))


def made(base_path: Path, folder: Path, **options: Any) -> Path:
    """An adapter as peft saves it, its weights moved off zero so that it changes something."""
    torch.manual_seed(3)
    model = get_peft_model(
        load_base(str(base_path)).model,
        LoraConfig(
            task_type="CAUSAL_LM", **({"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | options)
        ),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.peft_config["default"].base_model_name_or_path = ENGINE
    model.save_pretrained(folder, save_embedding_layers=False)  # else the hub is asked for the base
    (folder / "README.md").unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="module")
def sound(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tiny_base, tmp_path_factory.mktemp("sound") / "adapter")


@pytest.fixture
def adapter(sound: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "adapter"))


def rewrite(adapter: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(adapter / WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / WEIGHTS)


def configure(adapter: Path, **changes: Any) -> None:
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps(config | changes))


def refused(base: BaseModel, adapter: Path, words: str, max_rank: int = 16) -> None:
    with pytest.raises(UnsoundAdapterError, match=words) as raised:
        check_against(base, adapter, max_rank, ENGINE)
    assert str(adapter) in str(raised.value)


def test_a_sound_adapter_passes_with_its_facts(base: BaseModel, sound: Path) -> None:
    tensors = load_file(sound / WEIGHTS)
    assert check_against(base, sound, 4, ENGINE) == {
        "rank": 4,
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
    }


def test_the_childs_entry_loads_the_base_itself(tiny_base: Path, sound: Path) -> None:
    asked = {"folder": str(sound), "base_path": str(tiny_base), "engine_model": ENGINE, "max_rank": 16}
    assert soundness.main(asked, lambda event: None)["rank"] == 4


def test_a_wrong_configuration_is_told_before_a_base_is_loaded(sound: Path) -> None:
    with pytest.raises(UnsoundAdapterError, match="not for 'another/base'"):
        check_adapter(sound, "/no/such/base", 16, "another/base")


@pytest.mark.parametrize("rslora", [False, True])
def test_the_check_runs_the_adapter_as_peft_does(
    tiny_base: Path, base: BaseModel, tmp_path: Path, rslora: bool
) -> None:
    adapter = made(tiny_base, tmp_path / "adapter", use_rslora=rslora)
    check_against(base, adapter, 16, ENGINE)
    tokens = torch.arange(3, 43).reshape(2, 20).to(base.device)
    pairs = soundness._pairs(load_file(adapter / WEIGHTS), adapter)
    with torch.no_grad():
        plain = base.model(input_ids=tokens).logits
        with soundness._applied(base, pairs, 8 / (2 if rslora else 4)):
            ours = base.model(input_ids=tokens).logits
        again = base.model(input_ids=tokens).logits
        peft = PeftModel.from_pretrained(load_base(str(tiny_base)).model, str(adapter)).eval()
        theirs = peft(input_ids=tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, plain, rtol=0, atol=0)
    assert (ours - plain).abs().max() > 0.1, "the adapter changes something"


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_refuses(
    base: BaseModel, adapter: Path, half: str, value: float
) -> None:
    rewrite(adapter, lambda tensors: tensors[f"{Q}.{half}.weight"][1].fill_(value))
    refused(base, adapter, f"q_proj' has {half} with values that are not finite")


def test_a_number_that_half_precision_cannot_hold_refuses(base: BaseModel, adapter: Path) -> None:
    rewrite(adapter, lambda tensors: tensors[f"{Q}.lora_A.weight"][0].fill_(70_000.0))
    refused(base, adapter, "overflow half precision")


def test_numbers_that_are_fine_alone_and_overflow_together_refuse(base: BaseModel, adapter: Path) -> None:
    """Normalisation hides such an overflow from the logits; a half-precision engine would compute infinity inside."""

    def swell(tensors: dict[str, Tensor]) -> None:
        tensors[f"{Q}.lora_A.weight"].fill_(900.0)
        tensors[f"{Q}.lora_B.weight"].fill_(900.0)

    rewrite(adapter, swell)
    refused(base, adapter, "q_proj' adds .* overflows half precision")


def test_numbers_that_make_the_logits_infinite_refuse(base: BaseModel, adapter: Path) -> None:
    def swell(tensors: dict[str, Tensor]) -> None:
        for tensor in tensors.values():
            tensor.fill_(60_000.0)

    rewrite(adapter, swell)
    configure(adapter, lora_alpha=60_000)
    refused(base, adapter, "not finite|overflows half precision")


@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_shapes_that_are_not_the_bases_refuse(base: BaseModel, adapter: Path, half: str) -> None:
    def widen(tensors: dict[str, Tensor]) -> None:
        old = tensors[f"{Q}.{half}.weight"]
        tensors[f"{Q}.{half}.weight"] = torch.zeros(old.shape[0] + 1, old.shape[1] + 1)

    rewrite(adapter, widen)
    refused(base, adapter, f"q_proj' has {half} of shape .* where the base needs")


def test_weights_of_another_rank_than_the_configuration_says_refuse(base: BaseModel, adapter: Path) -> None:
    configure(adapter, r=8)
    refused(base, adapter, "of shape .* where the base needs")


def test_half_a_pair_refuses(base: BaseModel, adapter: Path) -> None:
    rewrite(adapter, lambda tensors: tensors.pop(f"{Q}.lora_B.weight"))  # type: ignore[arg-type, return-value]
    refused(base, adapter, "only one of lora_A and lora_B")


def test_a_layer_that_is_missing_altogether_refuses(base: BaseModel, adapter: Path) -> None:
    def drop(tensors: dict[str, Tensor]) -> None:
        del tensors[f"{Q}.lora_A.weight"], tensors[f"{Q}.lora_B.weight"]

    rewrite(adapter, drop)
    refused(base, adapter, r"lacks weights of target_modules: model\.layers\.0\.self_attn\.q_proj")


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("base_model.model.lm_head.weight", (320, 32), "is not a LoRA weight of a linear layer"),
        ("stray", (1,), "is not a LoRA weight"),
        ("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", (4, 32), "only one of"),
    ],
)
def test_a_tensor_too_many_refuses(
    base: BaseModel, adapter: Path, key: str, shape: tuple[int, ...], words: str
) -> None:
    rewrite(adapter, lambda tensors: tensors.update({key: torch.zeros(shape)}))
    refused(base, adapter, words)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("model.layers.9.self_attn.q_proj", "is no linear layer of the base"),
        ("model.embed_tokens", "is no linear layer of the base"),
        ("lm_head", "has weights beside its target_modules: lm_head"),
    ],
)
def test_a_layer_too_many_refuses(base: BaseModel, adapter: Path, layer: str, words: str) -> None:
    outputs = base.model.lm_head.weight.shape[0]

    def add(tensors: dict[str, Tensor]) -> None:
        tensors[f"base_model.model.{layer}.lora_A.weight"] = torch.zeros(4, 32)
        tensors[f"base_model.model.{layer}.lora_B.weight"] = torch.zeros(outputs, 4)

    rewrite(adapter, add)
    refused(base, adapter, words)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.float8_e4m3fn])
def test_numbers_of_a_kind_that_engines_do_not_serve_refuse(
    base: BaseModel, adapter: Path, dtype: torch.dtype
) -> None:
    def turn(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(dtype)

    rewrite(adapter, turn)
    refused(base, adapter, "engines serve 16 and 32 bit floats")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_weights_are_sound(base: BaseModel, adapter: Path, dtype: torch.dtype) -> None:
    def turn(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(dtype)

    rewrite(adapter, turn)
    assert check_against(base, adapter, 16, ENGINE)["rank"] == 4


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_a_file_that_was_cut_refuses(base: BaseModel, adapter: Path, kept: int) -> None:
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[:kept])
    refused(base, adapter, "missing, truncated or not a safetensors file")


def test_files_that_are_missing_or_that_nobody_asked_for_refuse(base: BaseModel, adapter: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    refused(base, adapter, "holds adapter_model.bin; an adapter is")
    (adapter / "adapter_model.bin").unlink()
    (adapter / WEIGHTS).unlink()
    refused(base, adapter, "missing, truncated")
    (adapter / CONFIG).unlink()
    refused(base, adapter, "cannot be read as an adapter's configuration")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model_name_or_path": "acme/other"}, "made for the base 'acme/other', not for 'acme/tiny'"),
        ({"base_model_name_or_path": None}, "made for the base None"),
        ({"peft_type": "IA3"}, "is not a LoRA adapter's configuration"),
        ({"r": 0}, "must be positive numbers"),
        ({"r": "4"}, "must be positive numbers"),
        ({"lora_alpha": -1}, "must be positive numbers"),
        ({"lora_alpha": math.nan}, "must be positive numbers"),
        ({"lora_alpha": 1e30}, "must be positive numbers"),
        ({"target_modules": ".*proj"}, "must be the list of the layers' names"),
        ({"target_modules": []}, "must be the list of the layers' names"),
        ({"use_dora": True}, "do not serve: DoRA"),
        ({"modules_to_save": ["lm_head"]}, "do not serve: whole modules"),
        ({"bias": "all"}, "do not serve: biases"),
        ({"lora_bias": True}, "do not serve: LoRA biases"),
        ({"rank_pattern": {"q_proj": 8}}, "ranks that differ"),
        ({"alpha_pattern": {"q_proj": 8}}, "alphas that differ"),
        ({"init_lora_weights": "pissa_niter_4"}, "an initialisation that changes the base's weights"),
        ({"trainable_token_indices": [1]}, "trained token embeddings"),
        ({"layers_to_transform": [0]}, "some layers only"),
    ],
)
def test_a_configuration_that_engines_do_not_serve_refuses(
    base: BaseModel, adapter: Path, changes: dict[str, Any], words: str
) -> None:
    configure(adapter, **changes)
    refused(base, adapter, words)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"r"'])
def test_a_configuration_that_is_none_refuses(base: BaseModel, adapter: Path, text: str) -> None:
    (adapter / CONFIG).write_text(text)
    refused(base, adapter, "configuration")


def test_a_rank_above_the_engines_refuses_and_says_which_setting(base: BaseModel, adapter: Path) -> None:
    refused(base, adapter, "rank 4 is above the engine's 2; raise .*max_lora_rank", max_rank=2)


def test_peft_has_no_option_that_nobody_thought_of() -> None:
    """A new version of peft with a new option fails here, until someone says whether engines serve it."""
    harmless = {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "revision", "inference_mode"),
        *(
            "base_model_name_or_path",
            "r",
            "lora_alpha",
            "target_modules",
            "bias",
            "use_rslora",
            "init_lora_weights",
        ),
        *("lora_dropout", "fan_in_fan_out", "ensure_weight_tying", "layers_pattern", "runtime_config"),
        *("megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        *("velora_config", "qalora_group_size"),
    }
    known = harmless | soundness._UNSERVED.keys()
    assert {field.name for field in dataclasses.fields(LoraConfig)} <= known
