"""What a training step costs on a GPU, beside TRL's: tokens a second, model FLOPs utilisation, and the most memory taken.

The base has the shape of an 8-billion-parameter Llama and random weights: speed does not depend on what they are. Each
measurement is a process of its own, in turns with the others. Ours is the trainer's own step (`trainer.finetune`), TRL's is
`SFTTrainer`; both train LoRA of the same rank on every linear layer, in bfloat16, on the same token ids, the loss on the
same half of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Dense bfloat16 FLOP/s of NVIDIA's data sheets, by a part of the device's name."""
LARGE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
"""Only to try the code where there is no GPU."""
WARM_UP, STEPS, BATCH, LENGTH = 3, 10, 8, 1024
PACKS = 3
"""Packed rows that hold about as many tokens as a batch of mixed ones."""
RANK, ALPHA = 16, 32
WHO = ("ours", "trl")


def rows(kind: str, vocabulary: int, length: int, count: int) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels; the second half of each row carries loss. `equal`: all of one length; `mixed`: 1/16 of it to all
    of it, most of them short."""
    rng = random.Random(0)
    made = []
    for _ in range(count):
        long = length if kind == "equal" else max(length // 16, round(length * rng.random() ** 2))
        tokens = [rng.randrange(4, vocabulary) for _ in range(long)]
        made.append((tokens, [-100] * (long // 2) + tokens[long // 2 :]))
    return made


def flops_per_token(shape: dict[str, int], length: float) -> float:
    """FLOPs that a token costs in a step of LoRA: a matrix product forward and one backward, for the frozen weights have no
    gradient of their own (4 per parameter), and causal attention's two products, forward and twice backward.
    """
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    narrow = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    linear = layers * (2 * hidden * hidden + 2 * hidden * narrow + 3 * hidden * shape["intermediate_size"])
    adapter = layers * RANK * (4 * hidden + 2 * (hidden + narrow) + 3 * (hidden + shape["intermediate_size"]))
    head = hidden * shape["vocab_size"]
    return 4 * (linear + head) + 6 * adapter + 6 * layers * hidden * length


def base_of(shape: dict[str, int], length: int) -> Any:
    """A Llama of that shape with random weights, made where it is to run."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    config = LlamaConfig(**shape, max_position_embeddings=length, tie_word_embeddings=False)
    with torch.device("cuda" if on_gpu else "cpu"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if on_gpu else torch.float32)
        try:
            return LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(before)


def one(who: str, kind: str, shape: dict[str, int], length: int, checkpointing: bool) -> dict[str, Any]:
    """One measurement: tokens a second over the steps after the warm-up, and the most memory."""
    import torch

    data = rows(kind, shape["vocab_size"], length, BATCH * (WARM_UP + STEPS) * (1 if kind == "equal" else 4))
    measure = _ours if who == "ours" else _trl
    seconds, tokens, losses = measure(data, base_of(shape, length), length, kind, checkpointing)
    on_gpu = torch.cuda.is_available()
    return {
        "who": who,
        "kind": kind,
        "checkpointing": checkpointing,
        "tokens_per_second": tokens / seconds,
        "mean_length": statistics.fmean(len(ids) for ids, _ in data),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else 0,
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl")),
    }


def _ours(
    data: Sequence[tuple[list[int], list[int]]], model: Any, length: int, kind: str, checkpointing: bool
) -> tuple[float, int, list[float]]:
    import torch

    from trainer.base_model import BaseModel
    from trainer.batches import Order
    from trainer.examples import Encoded
    from trainer.finetune import repeat_exactly
    from trainer.gradient import add_up, backward
    from trainer.lora import new_adapter
    from trainer.machine import ROOM
    from trainer.objectives import Supervised
    from trainer.ranks import ALONE
    from trainer.training_state import TrainingState

    repeat_exactly()
    device = next(model.parameters()).device
    model.requires_grad_(False)
    base = BaseModel(model, None, device, model.dtype)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    adapted, _ = new_adapter(base, RANK, ALPHA)
    objective = Supervised(base, [Encoded(str(n), *row, 1.0, True) for n, row in enumerate(data)])
    state = TrainingState(adapted, 2e-4, 3, ROOM[device.type])
    order = Order(objective.lengths, BATCH, 0)
    adapted.train()
    losses, tokens, started = [], 0, 0.0
    for step in range(order.per_epoch if kind == "mixed" else WARM_UP + STEPS):
        if step == WARM_UP:
            _wait(torch)
            started, tokens = time.perf_counter(), 0
        batch = order.at(step)[1]
        loss, _ = add_up(state, backward(adapted, state, objective, batch), ALONE, base.device)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        losses.append(loss)
        tokens += sum(objective.lengths[index] for index in batch)
    _wait(torch)
    return time.perf_counter() - started, tokens, losses


def _trl(
    data: Sequence[tuple[list[int], list[int]]], model: Any, length: int, kind: str, checkpointing: bool
) -> tuple[float, int, list[float]]:
    import pyarrow
    import torch
    from datasets import Dataset  # type: ignore[import-not-found]  # with TRL, where this is measured
    from peft import LoraConfig, TaskType
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    packing = kind == "mixed"
    marks: list[float] = []
    seen: list[int] = []
    losses: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            _wait(torch)
            marks.append(time.perf_counter())
            seen.append(int(state.num_input_tokens_seen))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    with TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=PACKS if packing else BATCH,
            max_steps=WARM_UP + STEPS if not packing else -1,
            num_train_epochs=1,
            learning_rate=2e-4,
            bf16=torch.cuda.is_available(),
            gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            max_length=length,
            packing=packing,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            include_num_input_tokens_seen="all",
            dataloader_num_workers=0,
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset(
                pyarrow.table(
                    {"input_ids": [ids for ids, _ in data], "labels": [labels for _, labels in data]}
                ),
                fingerprint="rows",
            ),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=_words(), pad_token="p", eos_token="e"),
            peft_config=LoraConfig(
                task_type=TaskType.CAUSAL_LM, r=RANK, lora_alpha=ALPHA, target_modules="all-linear"
            ),
            callbacks=[Clock()],
        )
        trainer.train()
    warm = WARM_UP - 1
    return marks[-1] - marks[warm], seen[-1] - seen[warm], losses


def _words() -> Any:
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"p": 0, "e": 1, "u": 2}, unk_token="u"))


def _wait(torch: Any) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measured(kinds: Sequence[tuple[str, bool]], turns: int, tiny: bool) -> list[dict[str, Any]]:
    """All measurements, in turns; one that fails says why in its place."""
    results: list[dict[str, Any]] = []
    for _ in range(turns):
        for kind, checkpointing in kinds:
            for who in WHO:
                words = [sys.executable, "-m", "tests.bench.train_gpu", "--one", who, "--kind", kind]
                words += ["--checkpointing"] * checkpointing + ["--tiny"] * tiny
                environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
                done = subprocess.run(words, capture_output=True, text=True, env=environment)
                lines = done.stdout.strip().splitlines()
                if done.returncode == 0 and lines:
                    results.append(json.loads(lines[-1]))
                else:
                    why = (done.stderr.strip().splitlines() or ["no output"])[-1]
                    results.append({"who": who, "kind": kind, "checkpointing": checkpointing, "failed": why})
                    print(done.stderr[-3000:], file=sys.stderr)
                print(json.dumps(results[-1]), file=sys.stderr)
    return results


def page(results: Sequence[dict[str, Any]], shape: dict[str, int]) -> list[str]:
    """What is written: the machine, the command and the table."""
    device = next((row["device"] for row in results if "device" in row), "no GPU at hand")
    versions = next((row["versions"] for row in results if "versions" in row), "")
    return [
        "# A training step on a GPU, beside TRL's",
        "",
        f"`make bench-train-gpu` on one {device} ({versions}). A Llama-shaped model of "
        f"8.03 billion random parameters in bfloat16, LoRA of rank {RANK} on every linear layer but the output head, {BATCH} rows a "
        f"step, {WARM_UP} steps to warm up and then {STEPS} timed ones, each measurement a process of its own, in turns; medians.",
        "",
        *table(results, shape),
        "",
        f"`equal`: rows of {LENGTH} tokens. `mixed`: of {LENGTH // 16} to {LENGTH} tokens, most of them short; ours groups like lengths, TRL "
        "packs (without flash-attn, which was not at hand). Tokens are those of the rows, without padding. Utilisation: model FLOPs "
        "(4 per frozen parameter and token: no gradient of frozen weights is made) as a share of the data sheet's dense bfloat16 peak.",
    ]


def table(results: Sequence[dict[str, Any]], shape: dict[str, int] = LARGE) -> list[str]:
    """The results as lines of Markdown; an empty row where nothing was measured."""
    lines = [
        "| rows | checkpointing | who | tokens/s | utilisation | peak memory | against TRL |",
        "|---|---|---|---|---|---|---|",
    ]
    if not results:
        return [*lines, "| | | | | | | |"]
    cases = dict.fromkeys((row["kind"], row["checkpointing"]) for row in results)
    for kind, checkpointing in cases:
        speeds = {who: _median(results, who, kind, checkpointing, "tokens_per_second") for who in WHO}
        for who in WHO:
            speed = speeds[who]
            case = f"| {kind} | {'on' if checkpointing else 'off'} | {who} "
            if speed is None:
                why = next(
                    row["failed"]
                    for row in results
                    if (row["who"], row["kind"], row["checkpointing"]) == (who, kind, checkpointing)
                )
                lines.append(f"{case}| failed: {why[:80]} | | | |")
                continue
            length = _median(results, who, kind, checkpointing, "mean_length") or 0.0
            peak = _median(results, who, kind, checkpointing, "peak_bytes") or 0.0
            device = next(row["device"] for row in results if "device" in row)
            most = next((value for name, value in PEAKS.items() if name in device), None)
            used = f"{speed * flops_per_token(shape, length) / most:.1%}" if most else ""
            beside = speeds["trl"]
            ratio = f"{speed / beside:.2f}×" if beside and who == "ours" else ""
            lines.append(f"{case}| {speed:,.0f} | {used} | {peak / 1e9:.1f} GB | {ratio} |")
    return lines


def _median(
    results: Sequence[dict[str, Any]], who: str, kind: str, checkpointing: bool, name: str
) -> float | None:
    found = [
        row[name]
        for row in results
        if name in row and (row["who"], row["kind"], row["checkpointing"]) == (who, kind, checkpointing)
    ]
    return statistics.median(found) if found else None


def main(arguments: Sequence[str] | None = None, show: Callable[[str], None] = print) -> None:
    """`python -m tests.bench.train_gpu --output FILE.md` measures all, and writes the single results as JSON beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the code")
    parser.add_argument("--one", choices=WHO)
    parser.add_argument("--kind", choices=("equal", "mixed"), default="equal")
    parser.add_argument("--checkpointing", action="store_true")
    chosen = parser.parse_args(arguments)
    shape, length = (TINY, 64) if chosen.tiny else (LARGE, LENGTH)
    if chosen.one:
        show(json.dumps(one(chosen.one, chosen.kind, shape, length, chosen.checkpointing)))
        return
    cases = [("equal", False), ("equal", True), ("mixed", False)]
    results = measured(cases, chosen.turns, chosen.tiny)
    lines = page(results, shape)
    for line in lines:
        show(line)
    if chosen.output:
        chosen.output.write_text("\n".join(lines) + "\n")
        chosen.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
