"""Estimates of a training before it begins: near what was measured, and refused where it cannot fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from transformers import LlamaForCausalLM

from feedback.errors import DataRefusedError
from feedback.settings import Training
from feedback.starter import model_directory
from feedback.storage.tables import ModelVersion
from tests.trainer.tiny import row, write_dataset, write_rows
from trainer import machine as machines
from trainer.machine import Gpu, Machine, find_machine
from trainer.pace import Earlier, Kind, Speed, earlier_of
from trainer.preflight import (
    Rows,
    Shape,
    compared,
    memory_of,
    plan,
    preflight,
    refuse_too_large,
    refuse_unrendered,
    rows_of,
)

LLAMA_8B = Shape(
    layers=32,
    hidden=4096,
    inner=14336,
    key_value=1024,
    vocabulary=128_256,
    parameters=8_030_261_248,
    bytes=16_060_522_496,
)
CPU = Machine(cores=2, memory=16 << 30, free=12 << 30)
ROWS = Rows(count=500, tokens=100_000, longest=400, answered=0.2)


def test_a_step_on_a_gpu_is_estimated_within_a_fifth_of_what_was_measured() -> None:
    """tests/bench/results/train_gpu.md: 8 rows of 1,024 tokens, LoRA of rank 16, a peak of 71.6 GB."""
    rows = Rows(count=100, tokens=102_400, longest=1024, answered=1.0)
    found = memory_of(LLAMA_8B, rows, Training(batch=8, rank=16), "cuda")
    assert found.total == pytest.approx(71.6e9, rel=0.2)
    assert found.weights == pytest.approx(16.06e9, rel=0.01)
    assert found.adapter == pytest.approx(
        41.9e6 * 16, rel=0.05
    )  # parameters, gradients and two moments in float32


def test_the_shape_is_read_from_the_files_whatever_their_names(tmp_path: Path) -> None:
    found = Shape.of(model_directory())
    assert found is not None
    assert (found.layers, found.hidden, found.inner, found.vocabulary) == (2, 256, 512, 2048)
    assert found.parameters == json.loads((model_directory() / "meta.json").read_text())["parameters"]
    assert Shape.of(tmp_path) is None
    (tmp_path / "config.json").write_text('{"n_embd": 64, "n_layer": 2}')
    assert Shape.of(tmp_path) is None


@pytest.mark.parametrize("split", [False, True])
def test_weights_that_stand_there_in_another_form_too_are_counted_once(
    tmp_path: Path, tiny_base: Path, split: bool
) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_base)
    model.save_pretrained(tmp_path, max_shard_size="50KB" if split else "5GB")
    assert (tmp_path / "model.safetensors.index.json").is_file() is split
    alone = Shape.of(tmp_path)
    assert alone is not None and alone.parameters == model.num_parameters()
    (tmp_path / "consolidated.safetensors").write_bytes((tiny_base / "model.safetensors").read_bytes())
    assert Shape.of(tmp_path) == alone


def test_rows_are_counted_by_a_sample(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", [row(number) for number in range(40)], [])
    found = rows_of(dataset, model_directory() / "tokenizer.json")
    assert found.count == 40 and 0 < found.answered < 1
    assert found.tokens >= 40 * 10 and found.longest < 100
    assert rows_of(tmp_path / "none", model_directory() / "tokenizer.json").count == 0


def test_tools_and_calls_are_counted_where_the_template_renders_them_and_left_out_where_not(
    tmp_path: Path,
) -> None:
    tools = [{"type": "function", "function": {"name": "look", "description": "Looks up. " * 40}}]
    plain, tooled = ([row(number, **more) for number in range(20)] for more in ({}, {"tools": tools}))
    base = tmp_path / "base"
    base.mkdir()
    (base / "tokenizer.json").write_bytes((model_directory() / "tokenizer.json").read_bytes())

    def counted(rows: list[dict[str, Any]], template: str) -> Rows:
        (base / "chat_template.jinja").write_text(template)
        return rows_of(write_dataset(tmp_path / "data", rows), base / "tokenizer.json")

    knows, knows_not = "{{ tools }}{{ messages }}", "{{ messages }}"
    without = counted(plain, knows_not)
    assert without == counted(plain, knows) and without.unrendered == 0
    whole = counted(tooled, knows)
    assert whole.count == 20 and whole.tokens > without.tokens + 20 * 80
    mixed = counted([*plain, *tooled], knows_not)
    assert (mixed.count, mixed.tokens, mixed.unrendered) == (20, without.tokens, 20)
    told = preflight(None, 1_800_000, mixed, Training(), "cpu")
    assert "20 more rows have tools and are left out, as the base's chat template does not" in told.told()
    refuse_unrendered(told)
    with pytest.raises(DataRefusedError, match=r"all 20 rows have tools.*take a base whose template does"):
        refuse_unrendered(preflight(None, 1, counted(tooled, knows_not), Training(), "cpu"))


def test_each_method_passes_over_rows_of_its_own(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", map(row, range(10)), [row(100)])
    said: dict[str, Any] = {"messages": row(1)["messages"]}
    both = {"chosen": "red", "rejected": "blue"}
    pairs = [("1", "correction"), ("2", "preference"), ("100", "correction")]  # the last one's prompt watches
    write_rows(data / "pairs.jsonl", ({**said, **both, "group": group, "source": of} for group, of in pairs))
    write_rows(
        data / "rated.jsonl", ({**said, "answer": "red", "good": True, "group": str(n)} for n in range(5))
    )
    tokenizer = model_directory() / "tokenizer.json"
    found = {method: rows_of(data, tokenizer, method) for method in ("sft", "dpo", "kto")}  # type: ignore[arg-type]
    assert {method: rows.count for method, rows in found.items()} == {"sft": 10, "dpo": 13, "kto": 17}
    assert found["sft"].tokens < found["dpo"].tokens < found["kto"].tokens
    hosted = Training(epochs=1, hosted_prices={"elsewhere": 1e6})
    prices = [preflight(None, 1, rows, hosted, "cpu").hosted["elsewhere"] for rows in found.values()]
    assert prices == [rows.tokens for rows in found.values()]


def test_a_limit_on_memory_is_kept_before_a_second_is_spent() -> None:
    wanted = preflight(LLAMA_8B, LLAMA_8B.parameters, ROWS, Training(), "cpu")
    assert wanted.memory is not None
    refuse_too_large(wanted, wanted.memory.total, wanted.memory.total)
    with pytest.raises(
        DataRefusedError, match=r"\[training\] memory_limit is 8\.6 GB; raise it, or take a smaller base"
    ):
        refuse_too_large(wanted, wanted.memory.total, 8 << 30)
    on_gpu = preflight(LLAMA_8B, LLAMA_8B.parameters, ROWS, Training(), "cuda")
    refuse_too_large(on_gpu, 80 << 30, 1 << 30)  # main memory, which a training on a GPU is not bounded in


def test_time_and_money_come_from_what_was_measured_and_from_an_assumption_before(tmp_path: Path) -> None:
    settings = Training(epochs=2, price_per_hour=3.6, hosted_prices={"elsewhere": 5.0})
    first = preflight(None, 1_800_000, ROWS, settings, "cpu")
    assert "the first training will tell" in first.rests_on and first.memory is None
    later = preflight(
        None, 1_800_000, ROWS, settings, "cpu", earlier=Earlier(Speed(1000.0, 4.0, "assistant@1.0"))
    )
    assert later.seconds == pytest.approx(4 + 200)
    assert later.cost == pytest.approx(0.204) and later.hosted == {"elsewhere": 1.0}
    assert "as with assistant@1.0" in later.told() and "elsewhere 1.00" in later.told()


def test_several_devices_share_a_step_and_each_is_paid_for() -> None:
    settings = Training(epochs=2, price_per_hour=3.6, batch=8)
    earlier = Earlier(Speed(1000.0, 0.0, "assistant@1.0"))
    one, two = (
        preflight(LLAMA_8B, 8_030_261_248, ROWS, replace(settings, devices=devices), "cuda", earlier=earlier)
        for devices in ("0", "0,1")
    )
    assert one.memory is not None and two.memory is not None
    assert two.memory.activations == one.memory.activations / 2 and two.memory.weights == one.memory.weights
    assert two.seconds == one.seconds / 2 and two.cost == one.cost
    assert "on each of 2 devices" in two.told() and "on each of" not in one.told()
    facts = {"base_parameters": 7, "device": "cuda", "tokens_per_second": 9.0, "processes": 2}
    version = ModelVersion(
        id="1", model="m", number="1.0", base="b", base_revision="r", adapter_hash="h", note="", facts=facts,
        created=0.0,
    )  # fmt: skip
    assert earlier_of([version], Kind(7, "cuda")).speed == Speed(4.5, 0.0, "m@1.0")


def test_what_cannot_fit_is_refused_with_its_numbers_and_what_to_change() -> None:
    wanted = preflight(LLAMA_8B, LLAMA_8B.parameters, ROWS, Training(), "cpu")
    with pytest.raises(
        DataRefusedError, match=r"needs about .* and the cpu has 17\.2 GB; take a smaller base"
    ):
        refuse_too_large(wanted, CPU.memory)
    rows, plain = Rows(9, 9000, 2000, 0.5), Training()
    thrifty = Training(gradient_checkpointing=True)
    needed, least = (preflight(LLAMA_8B, LLAMA_8B.parameters, rows, how, "cuda") for how in (plain, thrifty))
    assert needed.memory is not None and least.memory is not None
    with pytest.raises(
        DataRefusedError, match=r"gradient_checkpointing = true, with which it needs about 4\d\.\d GB"
    ):
        refuse_too_large(needed, least.memory.total)
    for wanted in (needed, least):
        with pytest.raises(DataRefusedError, match=r"GB; lower \[training\] batch or max_tokens"):
            refuse_too_large(wanted, least.memory.total - 1)
    refuse_too_large(preflight(None, 1, ROWS, Training(), "cpu"), 1)


@given(st.integers(1, 64), st.integers(1, 4000), st.integers(1, 256))
def test_more_of_anything_never_takes_less(batch: int, longest: int, rank: int) -> None:
    def total(batch: int, longest: int, rank: int) -> int:
        return memory_of(LLAMA_8B, Rows(9, 99, longest, 0.3), Training(batch=batch, rank=rank), "cuda").total

    least = total(batch, longest, rank)
    assert least <= min(
        total(batch + 1, longest, rank), total(batch, longest + 1, rank), total(batch, longest, rank + 1)
    )


def test_the_facts_hold_the_estimate_beside_what_was_measured() -> None:
    shape = Shape.of(model_directory())
    wanted = preflight(
        shape, 1_800_000, ROWS, Training(), "cpu", earlier=Earlier(Speed(1000.0, 0.0, "m@1.0"))
    )
    assert wanted.memory is not None
    facts = {"peak_memory_bytes": 2 * wanted.memory.total, "seconds": wanted.seconds / 1.5, "device": "cpu"}
    found = compared(wanted, facts)
    assert (found["memory_error"], found["time_error"]) == (-0.5, 0.5)
    assert "memory_error" not in compared(wanted, facts | {"device": "cuda"})


def test_a_base_that_is_not_at_hand_has_no_estimate(tmp_path: Path) -> None:
    assert plan(tmp_path, tmp_path, Training(), CPU, "sft") is None


def test_gpus_are_those_that_nvidias_tool_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU-a1, NVIDIA L4, 23034, 20000'\necho 'GPU-b2, NVIDIA L4, 23034, 100'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = find_machine()
    assert found.gpus == [
        Gpu("NVIDIA L4", 23034 << 20, 20000 << 20, "GPU-a1"),
        Gpu("NVIDIA L4", 23034 << 20, 100 << 20, "GPU-b2"),
    ]
    assert (found.device, found.device_memory) == ("cuda", 23034 << 20)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_machine().device == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert find_machine().gpus == []
    monkeypatch.setattr(machines, "_container_limit", lambda: 1 << 20)
    assert find_machine().memory == 1 << 20


def test_neither_needs_torch() -> None:
    program = "import trainer.preflight, trainer.doctor, sys; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"


def test_memory_with_checkpointing_is_near_what_an_h200_took() -> None:
    rows = Rows(count=104, tokens=104 * 1024, longest=1024, answered=0.5)
    found = memory_of(LLAMA_8B, rows, Training(batch=8, rank=16, gradient_checkpointing=True), "cuda")
    assert found.total == pytest.approx(25.4e9, rel=0.2)  # tests/bench/results/train_gpu.md


def test_a_base_of_which_a_part_is_missing_has_no_shape(tmp_path: Path, tiny_base: Path) -> None:
    LlamaForCausalLM.from_pretrained(tiny_base).save_pretrained(tmp_path, max_shard_size="50KB")
    next(tmp_path.glob("model-00001-*")).unlink()
    assert Shape.of(tmp_path) is None
