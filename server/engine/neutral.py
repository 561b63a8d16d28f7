"""The neutral adapter: all zeros, so that requests to a base need not run beside adapters without one.

vLLM's CPU kernels (0.32) mark "no adapter" with the index -1 and then look weights up with it, which is the last slot:
a request to the base that shares a batch with requests to adapters is answered with whatever adapter stands there.
Asked for by the name of an adapter that adds zero, the base is what it is. GPU kernels leave such rows out, so only CPU
engines get one.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

from feedback.errors import StarloopError
from feedback.registry.adapters import AdapterStore
from feedback.registry.bases import Base

_LAYER = "base_model.model.model.layers.0.self_attn.o_proj"


def neutral_name(engine_model: str) -> str:
    """The neutral adapter's name; no version can have it, as their numbers begin at 1.0."""
    return f"neutral-{engine_model.rpartition('/')[2]}@0.0"


def publish_neutral(base: Base, directory: Path) -> str | None:
    """Put the neutral adapter of a base where its engine finds it; its name.

    None for a base whose configuration is not on this disk, or whose layers are not named as Llama's and Qwen's are.
    """
    config = Path(base.path) / "config.json"
    try:
        shape = _shape(json.loads(config.read_bytes()))
    except (OSError, ValueError):
        return None  # the engine itself says what is wrong with it
    if shape is None:
        return None
    name = neutral_name(base.engine_model)
    store = AdapterStore(directory / "adapters")
    with TemporaryDirectory() as folder:
        staged = Path(folder)
        (staged / "adapter_model.safetensors").write_bytes(_zeros(*shape))
        (staged / "adapter_config.json").write_text(json.dumps(_config(base.engine_model)), encoding="utf-8")
        try:
            store.publish(staged, name, {})
        except StarloopError:  # somebody changed what is there: it is ours to put right
            shutil.rmtree(store.path(name), ignore_errors=True)
            store.publish(staged, name, {})
    return name


def _shape(config: object) -> tuple[int, int] | None:
    """Inputs and outputs of the attention's last projection."""
    if not isinstance(config, dict):
        return None
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if not isinstance(hidden, int) or not isinstance(heads, int) or heads < 1:
        return None
    width = config.get("head_dim") or hidden // heads
    return (heads * width, hidden) if isinstance(width, int) else None


def _config(engine_model: str) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": engine_model,
        "r": 1,
        "lora_alpha": 1,
        "target_modules": ["o_proj"],
        "bias": "none",
    }


def _zeros(inputs: int, outputs: int) -> bytes:
    """Both matrices in the form of safetensors: the header's length, the header, the numbers."""
    split, end = 4 * inputs, 4 * (inputs + outputs)
    header = json.dumps(
        {
            f"{_LAYER}.lora_A.weight": {"dtype": "F32", "shape": [1, inputs], "data_offsets": [0, split]},
            f"{_LAYER}.lora_B.weight": {"dtype": "F32", "shape": [outputs, 1], "data_offsets": [split, end]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + bytes(end)
