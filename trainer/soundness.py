"""Invariant 6: only adapters whose every tensor is finite and fits the base, with finite logits, reach an engine.

An engine that loads NaN answers garbage for *other* versions too, with status 200, and takes wrong shapes without a
word, so this is the only door. The forward pass applies what stands in the file itself, not what a library would make
of it. `main` is the entry of a child process (`trainer.child`), so that the loop never imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from feedback.errors import UnsoundAdapterError
from trainer.base_model import BaseModel, load_base

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ALLOWED = {CONFIG, WEIGHTS, "starloop.json"}
_PREFIX = "base_model.model."
_LARGEST = 65504.0
"""Largest half-precision number: an engine may serve in float16, where anything above is infinite."""

_UNSERVED = {
    "modules_to_save": "whole modules saved beside the adapter",
    "use_dora": "DoRA",
    "lora_bias": "LoRA biases",
    "layer_replication": "layer replication",
    "alora_invocation_tokens": "activated LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
    "rank_pattern": "ranks that differ by module",
    "alpha_pattern": "alphas that differ by module",
    "trainable_token_indices": "trained token embeddings",
    "target_parameters": "LoRA on bare parameters",
    "exclude_modules": "excluded layers",
    "layers_to_transform": "LoRA on some layers only",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "Monte Carlo LoRA",
}
"""Options that change what an adapter means and that engines ignore or refuse."""
_BASE_KEPT = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that leave the base's weights alone; PiSSA and its kin subtract from them."""
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32)

Pair = tuple[Tensor, Tensor]


def main(spec: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Check the adapter that `{"folder", "base_path", "engine_model", "max_rank"}` names."""
    return check_adapter(Path(spec["folder"]), spec["base_path"], spec["max_rank"], spec["engine_model"])


def check_adapter(folder: Path, base_path: str, max_rank: int, engine_model: str) -> dict[str, Any]:
    """Load the base and check the adapter against it; see `check_against`."""
    _read_config(folder, max_rank, engine_model)  # before the seconds that loading a base may take
    return check_against(load_base(base_path), folder, max_rank, engine_model)


def check_against(base: BaseModel, folder: Path, max_rank: int, engine_model: str) -> dict[str, Any]:
    """Facts about a sound adapter: `{"rank", "tensors", "parameters"}`.

    Raises `UnsoundAdapterError` for anything else: files missing, damaged or of another kind, another base, a rank
    above `max_rank`, options that engines do not serve, layers missing or too many, shapes that are not the base's,
    numbers that are not finite.
    """
    config = _read_config(folder, max_rank, engine_model)
    pairs = _pairs(_read_weights(folder), folder)
    for name, pair in pairs.items():
        _check_pair(name, pair, int(config["r"]), base.model, folder)
    _check_complete(set(pairs), config["target_modules"], base.model, folder)
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    _check_logits(base, pairs, alpha / (rank**0.5 if config.get("use_rslora") else rank), folder)
    return {
        "rank": rank,
        "tensors": 2 * len(pairs),
        "parameters": sum(a.numel() + b.numel() for a, b in pairs.values()),
    }


def _read_config(folder: Path, max_rank: int, engine_model: str) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        strangers = sorted({entry.name for entry in folder.iterdir()} - _ALLOWED)
    except (OSError, ValueError) as error:
        raise UnsoundAdapterError(f"{path}: cannot be read as an adapter's configuration: {error}") from error
    if strangers:
        raise UnsoundAdapterError(
            f"{folder}: holds {', '.join(strangers)}; an adapter is {CONFIG} and {WEIGHTS} and nothing else"
        )
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UnsoundAdapterError(f"{path}: is not a LoRA adapter's configuration")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if (
        not isinstance(rank, int)
        or rank < 1
        or not isinstance(alpha, int | float)
        or not 0 < alpha < _LARGEST
    ):
        raise UnsoundAdapterError(
            f"{path}: r and lora_alpha must be positive numbers, not {rank!r} and {alpha!r}"
        )
    if rank > max_rank:
        raise UnsoundAdapterError(
            f"{path}: rank {rank} is above the engine's {max_rank}; raise [[engine]] max_lora_rank or train at a lower rank"
        )
    if config.get("base_model_name_or_path") != engine_model:
        raise UnsoundAdapterError(
            f"{path}: was made for the base {config.get('base_model_name_or_path')!r}, not for {engine_model!r}"
        )
    unserved = [words for key, words in _UNSERVED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        unserved.append("biases")
    if config.get("init_lora_weights") not in _BASE_KEPT:
        unserved.append("an initialisation that changes the base's weights")
    if unserved:
        raise UnsoundAdapterError(f"{path}: uses what engines do not serve: {', '.join(unserved)}")
    targets = config.get("target_modules")
    if not (isinstance(targets, list) and targets and all(isinstance(name, str) for name in targets)):
        raise UnsoundAdapterError(
            f"{path}: target_modules must be the list of the layers' names, not {targets!r}"
        )
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UnsoundAdapterError(
            f"{path}: is missing, truncated or not a safetensors file: {error}"
        ) from error


def _pairs(tensors: dict[str, Tensor], folder: Path) -> dict[str, Pair]:
    """Module name → (A, B). Every tensor must be one half of a pair."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        for half in ("lora_A", "lora_B"):
            ending = f".{half}.weight"
            if key.startswith(_PREFIX) and key.endswith(ending):
                halves.setdefault(key.removeprefix(_PREFIX).removesuffix(ending), {})[half] = tensor
                break
        else:
            raise UnsoundAdapterError(f"{folder / WEIGHTS}: {key!r} is not a LoRA weight of a linear layer")
    lonely = next((name for name, pair in halves.items() if len(pair) != 2), None)
    if lonely is not None:
        raise UnsoundAdapterError(f"{folder / WEIGHTS}: {lonely!r} has only one of lora_A and lora_B")
    if not halves:
        raise UnsoundAdapterError(f"{folder / WEIGHTS}: holds no weights")
    return {name: (pair["lora_A"], pair["lora_B"]) for name, pair in halves.items()}


def _check_pair(name: str, pair: Pair, rank: int, model: nn.Module, folder: Path) -> None:
    where = f"{folder / WEIGHTS}: {name!r}"
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if not isinstance(module, nn.Linear | Conv1D):
        raise UnsoundAdapterError(
            f"{where} is no linear layer of the base; the adapter belongs to another model"
        )
    if isinstance(module, Conv1D):
        inputs, outputs = module.weight.shape
    else:  # not by the weight's shape: in 4 bits it is another
        outputs, inputs = module.out_features, module.in_features
    for half, tensor, shape in (("lora_A", pair[0], (rank, inputs)), ("lora_B", pair[1], (outputs, rank))):
        if tuple(tensor.shape) != shape:
            raise UnsoundAdapterError(
                f"{where} has {half} of shape {tuple(tensor.shape)} where the base needs {shape}"
            )
        if tensor.dtype not in _NUMBERS:
            raise UnsoundAdapterError(
                f"{where} has {half} as {tensor.dtype}; engines serve 16 and 32 bit floats"
            )
        if not torch.isfinite(tensor).all():
            raise UnsoundAdapterError(f"{where} has {half} with values that are not finite numbers")
        if tensor.abs().max() > _LARGEST:
            raise UnsoundAdapterError(f"{where} has {half} with values that overflow half precision")


def _check_complete(present: set[str], targets: list[str], model: nn.Module, folder: Path) -> None:
    """Every layer that the configuration names has its weights, and no other has."""
    endings = tuple(f".{name}" for name in targets)
    wanted = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and f".{name}".endswith(endings)
    }
    for problem, names in (
        ("lacks weights of", wanted - present),
        ("has weights beside its", present - wanted),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise UnsoundAdapterError(
                f"{folder / WEIGHTS}: {problem} target_modules: {shown}; it was cut or put together from others"
            )


@torch.no_grad()
def _check_logits(base: BaseModel, pairs: dict[str, Pair], scaling: float, folder: Path) -> None:
    vocabulary = base.model.get_input_embeddings().num_embeddings
    length = min(32, base.context)
    probe = torch.randint(vocabulary, (4, length), generator=torch.Generator().manual_seed(0))
    with _applied(base, pairs, scaling) as largest:
        logits = base.model(input_ids=probe.to(base.device), use_cache=False).logits
    if not torch.isfinite(logits).all() or logits.abs().max() > _LARGEST:
        raise UnsoundAdapterError(
            f"{folder}: a forward pass with this adapter gives logits that are not finite; train again at a lower rate"
        )
    for name, size in largest.items():
        if not size <= _LARGEST:
            raise UnsoundAdapterError(
                f"{folder}: in a forward pass {name!r} adds {size:.3g}, which overflows half precision; "
                "train again at a lower rate"
            )


@contextmanager
def _applied(base: BaseModel, pairs: dict[str, Pair], scaling: float) -> Iterator[dict[str, float]]:
    """The base with the adapter's changes added to its layers' outputs, and without them again afterwards.

    Gives each layer's largest change, once a forward pass has been made: normalisation hides an overflow inside from
    the logits.
    """
    largest: dict[str, float] = {}

    def adding(name: str, pair: Pair) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        a, b = (half.to(base.device, base.dtype) for half in pair)

        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            change = scaling * (inputs[0] @ a.T @ b.T)
            largest[name] = change.abs().max().item()
            return output + change

        return add

    hooks = [
        base.model.get_submodule(name).register_forward_hook(adding(name, pair))
        for name, pair in pairs.items()
    ]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()
