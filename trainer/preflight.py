"""What a training will take, before a second is spent: memory, time and money. Knows files and figures, not torch.

Memory is counted from the base's shape: weights, adapter with its gradients and Adam's two moments, and what the forward pass
keeps for the backward one. Per token and layer that is about nine numbers of the hidden size and four of the inner one:
inputs of the norms and of the frozen layers, queries, keys and values, the attention's output, both halves of the gated
network and their product. `make bench-train` holds the figures against what was measured.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from math import ceil, prod
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from feedback.checks.cost import TokenCount, chosen_epochs, parameters_of, tensor_shapes, weight_files
from feedback.checks.cost import estimate as estimate_time
from feedback.checks.template import renders_tools
from feedback.datasets.methods import Method
from feedback.datasets.tool_calls import answer_text
from feedback.errors import DataRefusedError
from feedback.settings import Training
from feedback.storage.tables import ModelVersion
from trainer.machine import ROOM, Device, Machine, processes
from trainer.method import rows_for
from trainer.pace import NOTHING_EARLIER, Earlier, Kind, Pace, earlier_of, pace_of

_log = logging.getLogger(__name__)

_PROCESS = 385 << 20
"""Python with torch, transformers and peft, before a model is loaded (measured)."""
_HIDDEN, _INNER = 9, 4
_HEAP, _HOLES = 32 << 20, 2
"""Blocks of main memory below this come from the C library's heap, which keeps about as much again in holes (measured)."""
_SAMPLE = 2000
_BESIDE = 3.5
"""Seconds that the training of a small base takes besides its steps (measured)."""
_BYTES: dict[Device, int] = {"cpu": 4, "cuda": 2}
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in 4 bits: each 64 of them share a scale of 8 bits, and 256 scales one of 32."""
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN_NAMES = ("hidden_size", "n_embd", "d_model")
_INNER_NAMES = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")


class Shape(Struct, frozen=True):
    """A base model by its sizes."""

    layers: int
    hidden: int
    inner: int
    key_value: int
    """Width of keys, and of values."""
    vocabulary: int
    parameters: int
    bytes: int
    """Of its weights on the disk."""
    linear: int = 0
    """Parameters of the linear layers but the output head: those that quantisation makes smaller."""

    @classmethod
    def of(cls, directory: Path) -> Shape | None:
        """Read from a base's folder; None where its configuration does not tell (then only tokens can be counted)."""
        try:
            config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            config = config.get("text_config", config)
            layers, hidden = _first(config, _LAYERS), _first(config, _HIDDEN_NAMES)
            inner = _first(config, _INNER_NAMES) or 4 * hidden
            heads = int(
                config.get("num_attention_heads") or config.get("n_head") or config.get("n_heads") or 1
            )
            grouped = int(config.get("num_key_value_heads") or heads)
            width = int(config.get("head_dim") or hidden // heads)
            vocabulary = int(config["vocab_size"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        tensors = tensor_shapes(directory)
        parameters = sum(map(prod, tensors))
        inside = sum(prod(sides) for sides in tensors if len(sides) == 2 and vocabulary not in sides)
        if not (layers and hidden and parameters):
            return None
        size = sum(file.stat().st_size for file in weight_files(directory))
        return cls(layers, hidden, inner, grouped * width, vocabulary, parameters, size, inside)


class Rows(Struct, frozen=True):
    """What a method passes over of a dataset version, by a sample of it."""

    count: int
    """Answers that can be learned from, of pairs both."""
    tokens: int
    longest: int
    answered: float
    """Share of the tokens that are answers."""
    unrendered: int = 0
    """Rows with tools, where the base's chat template does not render any: a training leaves them out."""


class Memory(Struct, frozen=True):
    """Bytes on the training device at the worst moment."""

    process: int
    weights: int
    adapter: int
    """With gradients and Adam's moments."""
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.process + self.weights + self.adapter + self.activations + self.logits


class Preflight(Struct, frozen=True, kw_only=True):
    """What one training will take."""

    device: Device
    processes: int = 1
    """One on each device."""
    rows: int
    tokens: int
    """Of one pass over the rows."""
    epochs: int
    memory: Memory | None
    """None where the base's configuration does not tell its shape."""
    checkpointed: int | None = None
    """Bytes that it would take with `gradient_checkpointing`; None where that is on, or `memory` is None."""
    quantisation: str = ""
    """Of the base, as `[training]` has it."""
    quantised: int | None = None
    """Bytes that it would take with the base in 4 bits and `gradient_checkpointing`; None where it is, or `memory` is None."""
    seconds: float
    """All epochs, without an early end."""
    beside: float = _BESIDE
    """Seconds of these that it takes besides its steps."""
    cost: float | None
    """In the currency of `[training] price_per_hour`; None without a price."""
    unrendered: int = 0
    """As `Rows.unrendered`."""
    hosted: dict[str, float] = {}
    """What services would take for the same tokens, at the prices of `[training] hosted_prices`."""
    rests_on: str

    def told(self) -> str:
        """In one sentence."""
        parts = [f"{self.rows:,} rows, {self.tokens:,} tokens, {self.epochs} epochs at most"]
        if self.unrendered:
            parts.append(
                f"{self.unrendered:,} more rows have tools and are left out, as the base's chat template does not render tools"
            )
        if self.memory is not None:
            held = f" with the base in 4 bits ({self.quantisation})" if self.quantisation else ""
            each = f" on each of {self.processes} devices" if self.processes > 1 else ""
            parts.append(f"{gigabytes(self.memory.total)} of memory{held}{each}")
        parts.append(f"{_duration(self.seconds)} ({self.rests_on})")
        if self.cost is not None:
            parts.append(f"costs {self.cost:,.2f}")
        parts += [f"{name} {price:,.2f}" for name, price in self.hosted.items()]
        return "; ".join(parts)


def rows_of(dataset: Path, tokenizer: Path, method: Method = "sft") -> Rows:
    """Count a frozen dataset version's rows for the method, some of them token by token. Raises what `TokenCount` raises.

    Tools and calls count as the JSON that they are; a base's template writes them a little longer or shorter.
    """
    rendered = renders_tools(tokenizer.parent)
    offered = 0 if rendered else sum(bool(row.get("tools")) for row in rows_for(dataset, method))
    count = sum(1 for _ in rows_for(dataset, method)) - offered
    every = max(1, count // _SAMPLE)
    whole, answers = TokenCount(tokenizer, 1 << 40), TokenCount(tokenizer, 1 << 40)
    looked = 0
    learned = (row for row in rows_for(dataset, method) if rendered or not row.get("tools"))
    for number, row in enumerate(map(_texts, learned)):
        if number % every == 0:
            looked += 1
            whole.add(" ".join(row))
            answers.add(row[-1])
    all_of_it, answered = whole.result(), answers.result()
    if all_of_it is None or answered is None:
        return Rows(0, 0, 0, 0.0, offered)
    template = 8  # tokens that the chat template adds to a row, about
    tokens = round((all_of_it.total / looked + template) * count)
    share = answered.total / max(all_of_it.total, 1)
    return Rows(count, tokens, all_of_it.longest + template, share, offered)


def preflight(
    shape: Shape | None,
    parameters: int,
    rows: Rows,
    settings: Training,
    device: Device,
    method: Method = "sft",
    earlier: Earlier = NOTHING_EARLIER,
    pace: Pace | None = None,
) -> Preflight:
    """What training on the rows will take, by the speed of earlier ones like it, else by the device's pace. Pure."""
    sides = 2 if method == "dpo" else 1  # answers that a row of a step has
    epochs = settings.epochs or chosen_epochs(parameters)
    shared = processes(settings.devices)
    speed = earlier.speed
    if speed is not None:
        per_second = speed.tokens_per_second * shared
        seconds = speed.seconds_beside + speed.counted * rows.tokens * epochs / per_second
        rests_on = f"{per_second:,.0f} tokens/s as with {speed.version}"
        if speed.trainings > 1:
            rests_on += f", the median of {speed.trainings} trainings"
    else:
        taken = settings if pace is None else replace(settings, teraflops=pace.teraflops)
        planned = estimate_time(rows.tokens, parameters, taken)
        seconds = _BESIDE + planned.hours * 3600 / shared
        rests_on = f"{planned.teraflops:g} teraflop/s assumed" if pace is None else pace.rests_on
        rests_on += "; the first training will tell"
        if earlier.otherwise:
            rests_on += f" ({earlier.otherwise})"
    price = settings.price_per_hour
    again = replace(settings, gradient_checkpointing=True)
    fewer = replace(again, quantisation="nf4")
    return Preflight(
        device=device,
        processes=shared,
        rows=rows.count,
        tokens=rows.tokens,
        epochs=epochs,
        memory=None if shape is None else memory_of(shape, rows, settings, device, sides),
        checkpointed=None
        if shape is None or settings.gradient_checkpointing
        else memory_of(shape, rows, again, device, sides).total,
        quantisation=settings.quantisation,
        quantised=None
        if shape is None or settings.quantisation
        else memory_of(shape, rows, fewer, device, sides).total,
        seconds=seconds,
        beside=_BESIDE if speed is None else speed.seconds_beside,
        cost=round(seconds / 3600 * price * shared, 4) if price else None,
        hosted={
            name: round(rows.tokens * epochs * each / 1e6, 4) for name, each in settings.hosted_prices.items()
        },
        rests_on=rests_on,
        unrendered=rows.unrendered,
    )


def memory_of(shape: Shape, rows: Rows, settings: Training, device: Device, sides: int = 1) -> Memory:
    """The most that a step takes at once, on one device. Pure."""
    size = _BYTES[device]
    longest = min(rows.longest, settings.max_tokens)
    batch = ceil(settings.batch / processes(settings.devices))
    tokens = min(sides * batch * longest, max(ROOM[device], sides * longest))
    linear = 9 * shape.hidden + 2 * shape.key_value + 3 * shape.inner
    adapter = settings.rank * linear * shape.layers
    layer = _HIDDEN * shape.hidden + _INNER * shape.inner
    # With checkpointing every layer keeps its input alone, and one at a time is made again.
    kept = shape.layers * shape.hidden + layer if settings.gradient_checkpointing else shape.layers * layer
    if device == "cpu" and tokens * shape.inner * size < _HEAP:
        kept *= _HOLES
    return Memory(
        process=_PROCESS if device == "cpu" else 0,
        # On a CPU the file's pages stand in memory too while they are widened to float32.
        weights=_held(shape, size, settings.quantisation) + (shape.bytes if device == "cpu" else 0),
        adapter=adapter * 16,
        activations=tokens * size * kept,
        logits=round(tokens * max(rows.answered, 0.0)) * shape.vocabulary * (size + 4),
    )


def _held(shape: Shape, size: int, quantisation: str) -> int:
    """Bytes of the base's weights at `size` each, and quantised of the one layer that is widened to be multiplied."""
    if not quantisation:
        return shape.parameters * size
    widened = shape.hidden * max(shape.hidden, shape.inner)
    return round(shape.linear * _NF4) + (shape.parameters - shape.linear + widened) * size


def plan(
    base: Path,
    dataset: Path,
    settings: Training,
    machine: Machine,
    method: Method,
    versions: Iterable[ModelVersion] = (),
) -> Preflight | None:
    """As `preflight`, by the model's versions, newest first; None where the base is not on this disk, or cannot be read."""
    tokenizer = base / "tokenizer.json"
    if not tokenizer.is_file() or not (dataset / "train.jsonl").is_file() or not parameters_of(base):
        return None
    try:
        rows = rows_of(dataset, tokenizer, method)
    except Exception as error:  # `tokenizers` raises nothing narrower; the training will say what is wrong
        _log.info("no estimate of the training: %s", error)
        return None
    return planned(base, rows, settings, machine, method, versions)


def planned(
    base: Path,
    rows: Rows,
    settings: Training,
    machine: Machine,
    method: Method,
    versions: Iterable[ModelVersion] = (),
) -> Preflight:
    """As `plan`, for rows that are counted already, or assumed."""
    parameters = parameters_of(base)
    earlier = earlier_of(versions, Kind.of(parameters, machine, settings, method))
    pace = pace_of(machine, settings) if earlier.speed is None else None
    return preflight(Shape.of(base), parameters, rows, settings, machine.device, method, earlier, pace)


def refuse_unrendered(wanted: Preflight) -> None:
    """Raise `DataRefusedError` where all rows have tools, and the base's chat template renders none."""
    if wanted.unrendered and not wanted.rows:
        raise DataRefusedError(
            f"all {wanted.unrendered:,} rows have tools, and the base's chat template does not render tools, so nothing is left to "
            "learn; take a base whose template does, or rows without tools"
        )


def refuse_too_large(wanted: Preflight, there: int, limit: int = 0) -> None:
    """Raise `DataRefusedError`, with the numbers and what to change, where a training cannot fit into `there` bytes, or on a CPU into
    `limit` ([training] memory_limit; 0 for none)."""
    limited = bool(limit) and wanted.device == "cpu" and limit < there
    there = limit if limited else there
    memory = wanted.memory
    if memory is None or not there or memory.total <= there:
        return
    fixed = memory.process + memory.weights + memory.adapter
    if fixed > there:
        advice = "take a smaller base or a device with more memory"
        if wanted.quantised is not None and wanted.quantised <= there:
            advice = (
                'set [training] quantisation = "nf4" and gradient_checkpointing = true, with which it needs about '
                f"{gigabytes(wanted.quantised)}, or {advice}"
            )
    elif wanted.checkpointed is not None and wanted.checkpointed <= there:
        advice = (
            f"set [training] gradient_checkpointing = true, with which it needs about {gigabytes(wanted.checkpointed)}, "
            "or lower [training] batch or max_tokens"
        )
    else:
        advice = "lower [training] batch or max_tokens"
    held = (
        f"[training] memory_limit is {gigabytes(there)}"
        if limited
        else f"the {wanted.device} has {gigabytes(there)}"
    )
    if limited:
        advice = f"raise it, or {advice}"
    raise DataRefusedError(
        f"the training needs about {gigabytes(memory.total)} of memory ({gigabytes(memory.weights)} weights, "
        f"{gigabytes(memory.adapter)} adapter with its optimiser, {gigabytes(memory.activations + memory.logits)} for a step) and "
        f"{held}; {advice}"
    )


def compared(wanted: Preflight, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate beside what was measured, for the version's facts; errors as shares of what was measured."""
    found: dict[str, Any] = {
        "memory_bytes": None if wanted.memory is None else wanted.memory.total,
        "seconds": round(wanted.seconds, 1),
        "tokens": wanted.tokens,
        "cost": wanted.cost,
        "rests_on": wanted.rests_on,
    }
    peak = facts.get("peak_memory_bytes")
    if (
        peak and wanted.memory is not None and facts.get("device") == wanted.device == "cpu"
    ):  # of a GPU the peak is not kept
        found["memory_error"] = round(wanted.memory.total / peak - 1, 3)
    seconds = facts.get("seconds")
    if seconds:
        found["time_error"] = round(wanted.seconds / seconds - 1, 3)
    return found


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((int(config[name]) for name in names if config.get(name)), 0)


def _texts(row: Mapping[str, Any]) -> list[str]:
    """What a row says, its answer last."""
    tools = [json.dumps(row["tools"], ensure_ascii=False)] if row.get("tools") else []
    return [*tools, *map(answer_text, row["messages"]), str(row.get("answer", ""))]
