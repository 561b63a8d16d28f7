"""One measurement of `tests.bench.train`, in a process of its own: a training's speed, or the memory of its examples.

    speed ROWS.json WHO SEED      ours, or TRL's `SFTTrainer` plain, grouped by length, or packing
    memory DATASET METHOD         encodes a frozen dataset version as the trainer does before its first step

Ours is the trainer's own step (`trainer.finetune`). All train the same adapter on the same base and the same token ids, with
the same optimiser at the same rate, and are judged by one function on the same held-out rows. The last line is the result.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

Row = tuple[list[int], list[int]]
WARM_UP = 3
"""Steps that are not timed."""
BATCH, PACKED = 16, 512
"""Rows of a step, and tokens of a packed one."""
RANK, ALPHA, RATE, CLIP = 16, 32, 1e-3, 1.0
BETAS = (0.9, 0.99)


class Clock:
    """When each step ended: wall and CPU seconds, and the answer to what it cost from the last warm-up step on."""

    def __init__(self) -> None:
        self._born = _birth()
        self.first: tuple[float, float] | None = None
        """From the process's start to the end of its first step: wall and CPU seconds."""
        self._marks: list[tuple[float, float, int]] = []

    def step(self, tokens: int) -> None:
        """A step ended; so many tokens were trained on since the beginning."""
        if self.first is None:
            self.first = time.time() - self._born, time.process_time()
        self._marks.append((time.perf_counter(), time.process_time(), tokens))

    def cost(self) -> dict[str, float]:
        begun, ended = self._marks[WARM_UP - 1], self._marks[-1]
        wall, cpu, tokens = (late - early for early, late in zip(begun, ended, strict=True))
        return {"wall": wall, "cpu": cpu, "tokens": tokens, "steps": len(self._marks)}


def speed(file: Path, who: str, seed: int) -> dict[str, Any]:
    """Tokens a second by wall and by CPU time, and the loss on held-out rows before and after one pass."""
    given = json.loads(file.read_text())
    clock = Clock()
    train = _ours if who == "ours" else _trl
    model, before = train(given["base"], given["train"], given["validation"], who, seed, clock)
    assert clock.first is not None
    return {
        "who": who,
        "rows": given["kind"],
        "seed": seed,
        **clock.cost(),
        "first_step_wall": clock.first[0],
        "first_step_cpu": clock.first[1],
        "before": before,
        "after": _validated(model, given["validation"]),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _ours(
    base_path: str, rows: Sequence[Row], held_out: Sequence[Row], who: str, seed: int, clock: Clock
) -> tuple[Any, float]:
    import torch

    from trainer.base_model import load_base
    from trainer.batches import Order
    from trainer.finetune import repeat_exactly
    from trainer.gradient import add_up, backward
    from trainer.lora import new_adapter
    from trainer.machine import ROOM
    from trainer.objectives import Supervised
    from trainer.ranks import ALONE
    from trainer.training_state import TrainingState

    repeat_exactly()
    torch.manual_seed(seed)
    base = load_base(base_path)
    model, _ = new_adapter(base, RANK, ALPHA)
    before = _validated(model, held_out) if who == "ours" else 0.0
    objective = Supervised(base, _examples(rows))
    state = TrainingState(model, RATE, 3, ROOM["cpu"])
    order = Order(objective.lengths, BATCH, seed)
    tokens = 0
    model.train()
    for step in range(order.per_epoch):
        batch = order.at(step)[1]
        add_up(state, backward(model, state, objective, batch), ALONE, base.device)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        tokens += sum(objective.lengths[index] for index in batch)
        clock.step(tokens)
    return model, before


def _trl(
    base_path: str, rows: Sequence[Row], held_out: Sequence[Row], who: str, seed: int, clock: Clock
) -> tuple[Any, float]:
    import pyarrow
    import torch
    from datasets import Dataset  # type: ignore[import-not-found]  # with TRL, where this is measured
    from peft import LoraConfig, TaskType
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    torch.manual_seed(seed)
    packing = who == "trl, packing"
    longest = max(len(ids) for ids, _ in rows)
    mean = statistics.fmean(len(ids) for ids, _ in rows)
    model = AutoModelForCausalLM.from_pretrained(base_path, local_files_only=True, dtype=torch.float32)

    class Marks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            clock.step(int(state.num_input_tokens_seen))

    with TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=max(1, round(BATCH * mean / PACKED)) if packing else BATCH,
            num_train_epochs=1,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=0.0,
            max_grad_norm=CLIP,
            seed=seed,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            max_length=PACKED if packing else longest,
            packing=packing,
            train_sampling_strategy="group_by_length" if who == "trl, grouped" else "random",
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            include_num_input_tokens_seen="non_padding",
            dataloader_num_workers=0,
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset(
                pyarrow.table(
                    {"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]}
                ),
                fingerprint="rows",
            ),
            processing_class=AutoTokenizer.from_pretrained(base_path, local_files_only=True),
            peft_config=LoraConfig(
                task_type=TaskType.CAUSAL_LM, r=RANK, lora_alpha=ALPHA, target_modules="all-linear"
            ),
            callbacks=[Marks()],
        )
        trainer.train()
    with torch.no_grad(), trainer.model.disable_adapter():
        before = _validated(trainer.model, held_out)
    return trainer.model, before


def _examples(rows: Sequence[Row]) -> list[Any]:
    from trainer.examples import Encoded

    return [Encoded(str(number), ids, labels, 1.0, True) for number, (ids, labels) in enumerate(rows)]


def _validated(model: Any, rows: Sequence[Row]) -> float:
    """Mean loss per answer token in nats, by one function for all."""
    import torch

    from trainer.base_model import BaseModel
    from trainer.machine import ROOM
    from trainer.objectives import losses_each, means_of

    base = BaseModel(model, None, torch.device("cpu"), torch.float32)
    examples = _examples(rows)
    mean = means_of(examples, losses_each(model, base, examples, ROOM["cpu"]))["validation"]
    assert mean is not None
    return mean


def memory(dataset: Path, method: str) -> dict[str, Any]:
    """The most memory that reading and encoding a dataset version took beyond the process and its base, and the most that
    the process had in all after the first steps on it."""
    from feedback import starter
    from trainer.base_model import load_base
    from trainer.batches import Order
    from trainer.finetune import _objective
    from trainer.gradient import add_up, backward
    from trainer.lora import new_adapter
    from trainer.machine import ROOM
    from trainer.memory import largest_memory, memory_now
    from trainer.method import read
    from trainer.ranks import ALONE
    from trainer.tokens import Encoder
    from trainer.training import TrainingSpec
    from trainer.training_state import TrainingState

    where = str(starter.model_directory())
    base = load_base(where)
    encoder = Encoder(base.tokenizer, base.context, base.end_tokens)
    encoder.encode_rows(_first(dataset, 100))  # what is made once
    before, started = memory_now(base.device), time.process_time()
    train = encoder.encode_rows(read(dataset / "train.jsonl"), dataset)
    spec = TrainingSpec(
        base_path=where, base_revision="", engine_model="", dataset=str(dataset), out="", max_rank=RANK,
        method=method,  # type: ignore[arg-type]
    )  # fmt: skip
    objective, _ = _objective(spec, base, encoder, train, dataset)
    seconds = time.process_time() - started
    order = Order(objective.lengths, BATCH, 0)
    order.at(order.per_epoch)
    taken = max(largest_memory() - before, 0)
    model, _ = new_adapter(base, RANK, ALPHA)
    state = TrainingState(model, RATE, 3, ROOM["cpu"])
    model.train()
    for step in range(WARM_UP):
        add_up(state, backward(model, state, objective, order.at(step)[1]), ALONE, base.device)
        state.optimizer.step()
    return {
        "method": method,
        "examples": len(train.examples),
        "bytes": taken,
        "peak_bytes": largest_memory(),
        "cpu": seconds,
    }


def _first(dataset: Path, count: int) -> list[Mapping[str, Any]]:
    from trainer.method import read

    return [row for row, _ in zip(read(dataset / "train.jsonl"), range(count), strict=False)]


def _birth() -> float:
    """When this process began, as `time.time` has it."""
    import psutil

    return float(psutil.Process(os.getpid()).create_time())


def main(arguments: Sequence[str], show: Callable[[str], None] = print) -> None:
    what, file, *rest = arguments
    measured = speed(Path(file), rest[0], int(rest[1])) if what == "speed" else memory(Path(file), rest[0])
    show(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1:])
