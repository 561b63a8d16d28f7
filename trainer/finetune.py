"""Fine-tunes one LoRA adapter. Runs as a child process (`trainer.child`) and reads from top to bottom.

Load the base, encode the frozen dataset, check the mask, train on batches of like lengths, keep the last
weights that are not worse than the best beyond chance, save them, and check what was saved as strictly as an adapter
from elsewhere would be.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import LoraConfig, TaskType, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor, nn

from feedback.errors import DataRefusedError, StorageError, UnsoundAdapterError
from trainer.base_model import BaseModel, load_base
from trainer.batches import fitting, length_grouped
from trainer.hyperparameters import chosen_epochs, chosen_rate, rate_at
from trainer.soundness import WEIGHTS, check_against
from trainer.stopping import Watch
from trainer.tokens import IGNORED, Encoded, EncodedRows, Encoder
from trainer.training import TrainingSpec

CLIP = 1.0
"""Largest norm of a step's gradient."""
ROOM = {"cpu": 8192, "cuda": 32768}
"""Padded tokens in one forward pass; a batch above it is accumulated from several."""
VALIDATION_LIMIT = 1024
"""Most validation examples looked at each time."""
CHECKS_PER_EPOCH = 4
STEPS_BETWEEN_CHECKS = 10
"""On a small set a validation every few steps would cost more than it tells."""
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main(raw: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train as the `TrainingSpec` says; the result is the facts, the adapter stands in `out/adapter`."""
    spec = msgspec.convert(raw, TrainingSpec)
    started = time.monotonic()
    random.seed(spec.seed)
    torch.manual_seed(spec.seed)
    torch.set_num_threads(spec.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)

    # The base and the data. Everything that cannot work is found out before the first step.
    base = load_base(spec.base_path)
    encoder = Encoder(base.tokenizer, min(spec.max_tokens, base.context), base.end_tokens)
    train = encoder.encode_rows(_rows(Path(spec.dataset) / "train.jsonl"))
    validation = encoder.encode_rows(_rows(Path(spec.dataset) / "validation.jsonl"))
    _check_mask(train)
    watched = random.Random(spec.seed).sample(
        validation.examples, min(VALIDATION_LIMIT, len(validation.examples))
    )

    # The adapter: LoRA on every linear layer but the output head.
    parameters = sum(parameter.numel() for parameter in base.model.parameters())
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=spec.rank,
        lora_alpha=spec.alpha,
        target_modules="all-linear",
    )
    model = get_peft_model(base.model, config)
    config.base_model_name_or_path = spec.engine_model
    weights = {name: value for name, value in model.named_parameters() if value.requires_grad}
    peak = spec.learning_rate or chosen_rate(parameters)
    epochs = spec.epochs or chosen_epochs(parameters)
    optimizer = torch.optim.AdamW(weights.values(), lr=peak, betas=(0.9, 0.99), weight_decay=0.0, fused=True)

    # The loop.
    lengths = [len(example.tokens) for example in train.examples]
    per_epoch = math.ceil(len(lengths) / spec.batch)
    steps = per_epoch * epochs
    between = max(math.ceil(per_epoch / CHECKS_PER_EPOCH), min(per_epoch, STEPS_BETWEEN_CHECKS))
    order = random.Random(spec.seed)
    best = {name: value.detach().clone() for name, value in weights.items()}
    watch = Watch(spec.patience)
    history: list[dict[str, Any]] = []
    step = tokens_seen = 0
    recent: list[float] = []
    stopped = "all epochs done"
    loop_started = time.monotonic()
    for epoch in range(1, epochs + 1):
        for batch in length_grouped(lengths, spec.batch, order):
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, steps, peak)
            examples = [train.examples[index] for index in batch]
            total = sum(example.weight * example.trained for example in examples)
            loss = 0.0
            for part in fitting(batch, lengths, ROOM[base.device.type]):
                losses, _ = _losses(model, base, [train.examples[index] for index in part])
                share = losses.sum() / total
                share.backward()
                loss += share.item()
            norm = nn.utils.clip_grad_norm_(weights.values(), CLIP).item()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise _diverged(step, peak, examples)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            recent.append(loss)
            tokens_seen += sum(len(example.tokens) for example in examples)
            progress = {
                "event": "progress",
                "step": step,
                "steps": steps,
                "epoch": epoch,
                "epochs": epochs,
                "loss": round(loss, 5),
                "tokens_per_second": round(tokens_seen / (time.monotonic() - loop_started), 1),
            }
            if watched and (step % between == 0 or step == steps):
                found, each = _validate(model, base, watched)
                if not math.isfinite(found["validation"]):
                    raise _diverged(step - 1, peak, examples)
                history.append(
                    {"step": step, "epoch": epoch, "train": round(sum(recent) / len(recent), 5), **found}
                )
                recent.clear()
                progress["validation_loss"] = found["validation"]
                if watch.see(step, found["validation"], each):
                    for name, value in weights.items():
                        best[name].copy_(value.detach())
            emit(progress)
            if watch.over:
                break
        if watch.over:
            stopped = f"validation loss worse than the best in {watch.worse} checks in a row"
            break
    loop_seconds = time.monotonic() - loop_started
    if watched:
        with torch.no_grad():
            for name, value in weights.items():
                value.copy_(best[name])

    # The weights, checked as they stand on the disk before they get their name.
    out = Path(spec.out)
    partial = _save(model, config, out / "adapter.partial")
    model.unload()
    sound = check_against(base, partial, spec.max_rank, spec.engine_model)
    shutil.rmtree(out / "adapter", ignore_errors=True)
    partial.replace(out / "adapter")
    return {
        "steps": step,
        "best_step": watch.kept_step or step,
        "epochs": epochs,
        "stopped": stopped,
        "examples": len(train.examples),
        "validation_examples": len(validation.examples),
        "left_out": dict(train.left_out + validation.left_out),
        "trained_share": round(train.trained_share, 4),
        "validation_loss": None if math.isinf(watch.kept_loss) else watch.kept_loss,
        "history": history,
        "learning_rate": peak,
        "batch": spec.batch,
        "rank": spec.rank,
        "alpha": spec.alpha,
        "seed": spec.seed,
        "threads": spec.threads,
        "device": base.device.type,
        "dtype": str(base.dtype).removeprefix("torch."),
        "base_parameters": parameters,
        "trained_parameters": sound["parameters"],
        "tokens": tokens_seen,
        "tokens_per_second": round(tokens_seen / loop_seconds, 1),
        "seconds_loading": round(loop_started - started, 2),
        "seconds_training": round(loop_seconds, 2),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT,
    }


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataRefusedError(
                    f"{path}:{number}: is not a JSON row ({error}); the file was changed or cut after it was frozen"
                ) from error


def _check_mask(train: EncodedRows) -> None:
    if not train.examples:
        raise DataRefusedError("the dataset version has no training examples; there is nothing to learn from")
    if train.trained_share >= 1.0:
        raise DataRefusedError(
            "every token of every example would carry loss, the prompts too; the base's chat template renders no prompt"
        )


def _losses(model: nn.Module, base: BaseModel, examples: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Each example's weighted loss summed over its answer, and the same unweighted.

    Rows are padded on the right: under causal attention no real token sees the padding, so no mask is needed and
    attention takes its fastest path. Logits are made only where some row has a label.
    """
    longest = max(len(example.tokens) for example in examples)
    tokens = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full((len(examples), longest), IGNORED)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    after = labels[:, 1:]
    keep = (after != IGNORED).any(0).nonzero().squeeze(1)
    targets = after[:, keep].to(base.device)
    weights = torch.tensor([example.weight for example in examples], device=base.device)
    with torch.autocast(base.device.type, dtype=base.dtype, enabled=base.device.type == "cuda"):
        logits = model(
            input_ids=tokens.to(base.device), logits_to_keep=keep.to(base.device), use_cache=False
        ).logits
    each = nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    summed = each.view(targets.shape).sum(1)
    return summed * weights, summed.detach()


@torch.no_grad()
def _validate(
    model: nn.Module, base: BaseModel, examples: Sequence[Encoded]
) -> tuple[dict[str, Any], list[float]]:
    """Mean loss per answer token over all, and over new and old examples apart, so that forgetting shows; and each
    example's own loss."""
    model.eval()
    each = [0.0] * len(examples)
    lengths = [len(example.tokens) for example in examples]
    sums = {True: 0.0, False: 0.0}
    counts = {True: 0, False: 0}
    for part in fitting(range(len(examples)), lengths, ROOM[base.device.type]):
        losses = _losses(model, base, [examples[index] for index in part])[1].tolist()
        for index, loss in zip(part, losses, strict=True):
            each[index] = loss
            sums[examples[index].new] += loss
            counts[examples[index].new] += examples[index].trained

    def mean(*slices: bool) -> float | None:
        count = sum(counts[one] for one in slices)
        return round(sum(sums[one] for one in slices) / count, 5) if count else None

    means = {"validation": mean(True, False), "validation_new": mean(True), "validation_old": mean(False)}
    return means, each


def _diverged(done: int, rate: float, examples: Sequence[Encoded]) -> UnsoundAdapterError:
    if not done:  # a new adapter changes nothing yet
        return UnsoundAdapterError(
            "the base model itself gives numbers that are not finite, before any training; its weights are damaged"
        )
    names = ", ".join(example.id for example in examples[:3])
    return UnsoundAdapterError(
        f"training diverged: at step {done + 1} the loss was not a finite number (batch of {len(examples)} examples: "
        f"{names}, …). Nothing was kept. Lower [training] learning_rate below {rate:g}, or look at those examples"
    )


def _save(model: nn.Module, config: LoraConfig, folder: Path) -> Path:
    """The adapter's two files in `folder`, made anew."""
    tensors = {
        name: tensor.detach().to("cpu").contiguous()
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules or ())  # a set's order would differ from run to run
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        config.save_pretrained(str(folder))
        with (folder / WEIGHTS).open("wb") as file:
            file.write(save(tensors, metadata={"format": "pt"}))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StorageError(
            f"{folder}: the adapter could not be saved ({error.strerror or error}); "
            "make room on the disk and run again"
        ) from error
    return folder
