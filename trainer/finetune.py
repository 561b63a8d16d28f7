"""Fine-tunes one LoRA adapter, or all weights of a base. Runs as a child process (`trainer.child`) and reads from top to bottom.

Load the base, encode the frozen dataset, check the mask, take up the newest checkpoint if there is one, train on
batches of like lengths, keep the last weights that are not worse than the best beyond chance, save them, and check what
was saved as strictly as an adapter from elsewhere would be.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from feedback.errors import DataRefusedError, UnsoundAdapterError
from trainer import diagnosis
from trainer.base_model import BaseModel, load_base
from trainer.batches import Order
from trainer.checkpoints import Schedule, mark_of, read_checkpoint, write_checkpoint
from trainer.diagnosis import Check, Diagnosis
from trainer.gradient import add_up, backward
from trainer.hyperparameters import chosen_epochs, chosen_rate, rate_at
from trainer.machine import ROOM
from trainer.memory import is_out_of_memory, largest_memory, memory_now, within_memory
from trainer.method import read
from trainer.objectives import Objective, Supervised, losses_each, means_of
from trainer.preference_rows import read_pairs, read_rated
from trainer.preferences import Direct, Unpaired
from trainer.ranks import join
from trainer.tokens import EncodedRows, Encoder
from trainer.trainable import Adapter, Whole
from trainer.training import TrainingSpec
from trainer.training_state import TrainingState

VALIDATION_LIMIT = 1024
"""Most validation examples looked at each time."""
CHECKS_PER_EPOCH = 4
STEPS_BETWEEN_CHECKS = 10
"""On a small set a validation every few steps would cost more than it tells."""
RETOLD = 5.0
"""Seconds of lines that are told again after an interruption; the parent records them every two."""


def main(raw: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train as the `TrainingSpec` says; the result is the facts, the adapter stands in `out/adapter`."""
    spec = msgspec.convert(raw, TrainingSpec)
    started = time.monotonic()
    random.seed(spec.seed)
    torch.manual_seed(spec.seed)
    ranks = join(Path(spec.out))
    torch.set_num_threads(max(1, spec.threads // ranks.count))
    repeat_exactly()

    # The base and the data. Everything that cannot work is found out before the first step.
    base = load_base(spec.base_path, spec.quantisation)
    encoder = Encoder(base.tokenizer, min(spec.max_tokens, base.context), base.end_tokens)
    dataset = Path(spec.dataset)
    out = Path(spec.out)
    beside = out if out.is_dir() else None
    train = encoder.encode_rows(read(dataset / "train.jsonl"), beside)
    validation = encoder.encode_rows(read(dataset / "validation.jsonl"), beside, watching=True)
    _check_mask(train)
    watched = random.Random(spec.seed).sample(
        validation.examples, min(VALIDATION_LIMIT, len(validation.examples))
    )
    objective, used = _objective(spec, base, encoder, train, beside)

    parameters = base.model.num_parameters()
    trained = Whole(base, spec) if spec.full else Adapter(base, spec)
    model = trained.model
    peak = (spec.learning_rate or chosen_rate(parameters, spec.method) * trained.rate) * spec.rate_factor
    epochs = spec.epochs or chosen_epochs(parameters)
    order = Order(objective.lengths, spec.batch, spec.seed)
    steps = order.per_epoch * epochs
    between = max(math.ceil(order.per_epoch / CHECKS_PER_EPOCH), min(order.per_epoch, STEPS_BETWEEN_CHECKS))

    # Where an earlier attempt stood, if there was one.
    state = TrainingState(model, peak, spec.patience, ROOM["cuda" if base.device.type == "cuda" else "cpu"])
    if (found := read_checkpoint(out, spec.digest)) is not None:
        objective.restore(state.unpack(*found))
    if ranks.count > 1:
        ranks.require_in_step(state.step, mark_of(found), base.device)
    del found  # as large as all that it was unpacked into
    glance = 2 * spec.batch * max(objective.lengths)
    """Tokens of a pass without gradients that take no more memory than a step."""
    saving = Schedule(spec.checkpoint_seconds, time.monotonic)
    saved_step = state.step
    loop_started = time.monotonic() - state.seconds

    def look(epoch: int) -> Check | None:
        """Look at the validation examples, and keep the weights if they are those to keep."""
        if not watched:
            return None
        each = within_memory(
            state, told, ranks.mine(range(len(watched))), [len(example.tokens) for example in watched],
            lambda: losses_each(model, base, watched, min(state.room, glance), ranks), ranks, base.device, glance,
        )  # fmt: skip
        each = ranks.sums(each, base.device)
        means = means_of(watched, each)
        if means["validation"] is None or not math.isfinite(means["validation"]):
            return None
        mean = round(sum(state.recent) / len(state.recent), 5) if state.recent else None
        check = msgspec.convert({"step": state.step, "epoch": epoch, "train": mean, **means}, Check)
        state.recent.clear()
        state.checks.append(check)
        old = [loss for loss, example in zip(each, watched, strict=True) if not example.new]
        if check.validation_old is not None:
            state.old.see(check.step, check.validation_old, old)
        if not check.step:
            state.untrained = each
            state.keep()
        elif spec.method == "sft" and state.worse_than_untrained(each) and unstable(1) is not None:
            state.watch.worse = 1  # not kept: the training goes back from there
        elif state.watch.see(check.step, check.validation, each):
            state.keep()
        return check

    told: list[Diagnosis] = []

    def unstable(worse: int) -> Diagnosis | None:
        """What the last check says of steps that do not settle, `worse` in a row."""
        lower = state.rate * diagnosis.LOWERED
        return diagnosis.unstable(state.checks, state.watch.kept_step, worse, lower, state.first_loss or 0.0)

    def line(epoch: int, check: Check | None, **figures: Any) -> dict[str, Any]:
        """One line for the parent: how far it is, and what was noticed since the last line."""
        state.seconds = time.monotonic() - loop_started
        event: dict[str, Any] = {
            "event": "progress",
            "step": state.step,
            "steps": steps,
            "epoch": epoch,
            "epochs": epochs,
            "memory_bytes": memory_now(base.device),
            **figures,
        }
        if check is not None:
            event["validation_loss"] = check.validation
            event["validation_new"], event["validation_old"] = check.validation_new, check.validation_old
        state.diagnoses += told
        event["noticed"] = [one.text + (f" ({one.remedy})" if one.remedy else "") for one in told]
        told.clear()
        state.told = [*(one for one in state.told if one[0] > state.seconds - RETOLD), (state.seconds, event)]
        return event

    if not ranks.first:
        emit = _silent
    for _, event in state.told:
        emit(event)

    # The loop. A step's number is all that decides what it takes from the data and at which rate.
    if state.step == 0 and watched:
        emit(line(0, _damaged_unless(look(0))))
    while state.step < steps and not state.watch.over:
        epoch, batch = order.at(state.step)
        rate, lower = rate_at(state.step, steps, state.rate), state.rate * diagnosis.LOWERED
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        model.train()
        loss = within_memory(
            state, told, objective.passed(batch, ranks), objective.lengths,
            lambda batch=batch: backward(model, state, objective, batch, ranks), ranks, base.device,  # type: ignore[misc]
        )  # fmt: skip
        objective.exchange(batch, ranks)
        loss, norm = add_up(state, loss, ranks, base.device)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite and state.first_loss is None:
            # A step of new examples alone may lose far more than the first one; preferences all begin at one loss.
            state.first_loss = diagnosis.untrained(loss, state.checks[:1]) if spec.method == "sft" else loss
        if not finite and (state.lowered or state.first_loss is None):
            if state.first_loss is None:
                raise _not_begun(objective.ids(batch)) if watched else _DAMAGED
            raise _diverged(state.step, state.rate, objective.ids(batch))
        if not state.lowered and (not finite or diagnosis.burst(loss, state.first_loss or 0.0)):
            at = state.step + 1
            state.go_back(lower)
            named = f"the batch: {_named(objective.ids(batch))}"
            told.append(diagnosis.diverged(finite, at, loss, state.step, lower, named))
            continue
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.recent.append(loss)
        state.tokens += sum(objective.lengths[index] for index in batch)
        check = astray = None
        if watched and (state.step % between == 0 or state.step == steps):
            check = look(epoch)
            if check is None:
                if state.lowered:
                    raise _diverged(state.step - 1, state.rate, objective.ids(batch))
                at = state.step
                state.go_back(lower)
                told.append(
                    diagnosis.diverged(False, at, math.nan, state.step, lower, "on validation examples")
                )
                continue
            if not state.lowered:
                astray = unstable(state.watch.worse)
            if astray is None:
                told += _diagnosed(state, spec, train.trained_share, over=state.step == steps)
        event = line(
            epoch,
            check,
            loss=round(loss, 5),
            learning_rate=rate,
            gradient_norm=round(norm, 5),
            tokens_per_second=round(state.tokens / (time.monotonic() - loop_started), 1),
        )
        if astray is not None:  # told with the next line, as this one is replaced when its step is made again
            emit(event)
            state.go_back(lower)
            told.append(astray)
            continue
        if ranks.first and saving.due and state.step < steps and not state.watch.over:
            saved_step = _save_checkpoint(out, spec, state, objective, saving, told, saved_step)
        emit(event)
    ranks.part()
    if not ranks.first:
        return {}
    loop_seconds = time.monotonic() - loop_started
    if watched:
        with torch.no_grad():
            for name, value in state.weights.items():
                value.copy_(state.best[name])

    # The weights, checked as they stand on the disk before they get their name.
    partial = out / "adapter.partial"
    sound = trained.save(partial)
    shutil.rmtree(out / "adapter", ignore_errors=True)
    partial.replace(out / "adapter")
    watch = state.watch
    return {
        "steps": state.step,
        "best_step": watch.kept_step or state.step,
        "epochs": epochs,
        "stopped": f"validation loss worse than the best in {watch.worse} checks in a row"
        if watch.over
        else "all epochs done",
        "examples": len(train.examples),
        "validation_examples": len(validation.examples),
        **used,
        "left_out": dict(train.left_out + validation.left_out),
        "trained_share": round(train.trained_share, 4),
        "validation_loss": None if math.isinf(watch.kept_loss) else watch.kept_loss,
        "history": msgspec.to_builtins(state.checks),
        "diagnoses": msgspec.to_builtins(state.diagnoses),
        "resumed_at": state.resumed,
        "learning_rate": state.rate,
        "batch": spec.batch,
        "rank": None if spec.full else spec.rank,
        "alpha": None if spec.full else spec.alpha,
        "seed": spec.seed,
        "threads": spec.threads,
        "processes": ranks.count,
        "gradient_checkpointing": spec.gradient_checkpointing,
        "device": base.device.type,
        "dtype": str(base.dtype).removeprefix("torch."),
        "quantisation": spec.quantisation or None,
        "base_parameters": parameters,
        "trained_parameters": sound["parameters"],
        "tokens": state.tokens,
        "tokens_per_epoch": int(sum(objective.lengths)),
        "tokens_per_second": round(state.tokens / loop_seconds, 1),
        "seconds_loading": round(loop_started + (state.seconds if state.resumed else 0.0) - started, 2),
        "seconds_training": round(loop_seconds, 2),
        "peak_memory_bytes": largest_memory(),
    }


def _silent(event: dict[str, Any]) -> None:
    """The first process tells for all."""


def repeat_exactly() -> None:
    """The same numbers from the same seed, where torch has a way that gives them.

    Filling memory before it is written would only show a read of what was never written, and costs 5 % of a step on a GPU.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _objective(
    spec: TrainingSpec, base: BaseModel, encoder: Encoder, train: EncodedRows, beside: Path | None
) -> tuple[Objective, dict[str, Any]]:
    """What the method minimises, and the facts of what it learns from."""
    dataset = Path(spec.dataset)
    if spec.method == "dpo":
        pairs, rows, left_out = read_pairs(dataset, encoder, train, beside)
        return Direct(base, pairs, rows, spec.beta), {"pairs": len(pairs), "pairs_left_out": dict(left_out)}
    if spec.method == "kto":
        examples, good, left_out = read_rated(dataset, encoder, train, beside)
        used = {"good": sum(good), "bad": len(good) - sum(good), "rated_left_out": dict(left_out)}
        return Unpaired(base, examples, good, encoder.limit), used
    return Supervised(base, train.examples), {}


def _diagnosed(state: TrainingState, spec: TrainingSpec, trained_share: float, over: bool) -> list[Diagnosis]:
    """What the checks so far say that was not said before."""
    watch, checks = state.watch, state.checks
    found = [diagnosis.leakage(checks), diagnosis.forgetting(checks, state.old.kept_step, state.old.worse)]
    if watch.over or over:
        found.append(diagnosis.overfitting(checks, watch.kept_step, watch.worse, watch.over))
        if spec.method == "sft":  # what was preferred may be no likelier to be said word for word
            found.append(diagnosis.harmful(checks, watch.kept_step, state.rate))
    if over:
        found.append(diagnosis.flat(checks, state.rate, spec.rank, trained_share))
    known = {one.kind for one in state.diagnoses}
    return [one for one in found if one is not None and one.kind not in known]


def _save_checkpoint(
    out: Path,
    spec: TrainingSpec,
    state: TrainingState,
    objective: Objective,
    saving: Schedule,
    told: list[Diagnosis],
    saved_step: int,
) -> int:
    """Save where the training stands; the step that it would go on from now. A full disk does not end it, nor does memory
    that has no room for a copy of what is saved."""
    begun = time.monotonic()
    try:
        write_checkpoint(out, state.step, spec.digest, *state.pack(objective.tensors()))
        saved_step = state.step
    except (OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, OSError):
            problem = f"({error.strerror or error}); make room on the disk"
        elif is_out_of_memory(error):
            problem = "(no memory is left to make it in); give the training more"
        else:
            raise
        if not any(one.kind == "checkpoint_not_saved" for one in [*state.diagnoses, *told]):
            told.append(diagnosis.checkpoint_not_saved(state.step, problem, saved_step))
    saving.made(time.monotonic() - begun)
    return saved_step


def _check_mask(train: EncodedRows) -> None:
    if not train.examples:
        raise DataRefusedError("the dataset version has no training examples; there is nothing to learn from")
    answer = train.examples[0].answer
    if len(train.examples) > 1 and all(example.answer == answer for example in train.examples):
        raise DataRefusedError(
            f"all {len(train.examples)} training examples have the same answer; a model trained on them would give it to "
            "everything. Add examples with other answers"
        )
    if train.trained_share >= 1.0:
        raise DataRefusedError(
            "every token of every example would carry loss, the prompts too; the base's chat template renders no prompt"
        )


def _named(ids: Sequence[str]) -> str:
    return f"{len(ids)} examples: {', '.join(ids[:3])}, …"


def _damaged_unless(check: Check | None) -> Check:
    if check is None:
        raise _DAMAGED
    return check


_DAMAGED = UnsoundAdapterError(  # a new adapter changes nothing yet
    "the base model itself gives numbers that are not finite, before any training; its weights are damaged"
)


def _not_begun(ids: Sequence[str]) -> UnsoundAdapterError:
    """The base's own loss on the validation examples was finite: it is not damaged throughout."""
    return UnsoundAdapterError(
        "the very first step has a loss or a gradient that is not finite, though the base's own losses on the validation "
        f"examples are (batch of {_named(ids)}). Nothing was kept. Look at those examples, and whether the base's weights "
        "for their tokens are sound"
    )


def _diverged(done: int, rate: float, ids: Sequence[str]) -> UnsoundAdapterError:
    return UnsoundAdapterError(
        f"training diverged: at step {done + 1} the loss was not a finite number (batch of {_named(ids)}), and lowering "
        f"the rate once did not help. Nothing was kept. Lower [training] learning_rate below {rate:g}, or look at those "
        "examples"
    )
