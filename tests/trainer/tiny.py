"""A tiny Llama with random weights, its tokenizer and frozen datasets to train it on: real parts that load in no time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer.training import TrainingSpec

MARKED = (
    "{% for message in messages %}{% if message.role == 'assistant' %}<|assistant|>"
    "{% generation %}{{ message.content }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PLAIN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
MUTE = "{% for message in messages %}{% if message.role == 'user' %}<|user|>{{ message.content }}<|end|>{% endif %}{% endfor %}"
ENDLESS = PLAIN.replace("{{ message.content }}<|end|>{% else %}", "{{ message.content }}{% else %}")
SHIFTING = (
    "{% for message in messages %}{% if loop.last %}!{% endif %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

COLOURS = ("red", "green", "blue", "amber")
FRUITS = ("apple", "pear", "plum", "fig", "grape", "lemon")


def tokenizer(template: str | None = MARKED) -> PreTrainedTokenizerFast:
    """Byte-level BPE over a few words, with the given chat template."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet)
    inner.train_from_iterator([f"the {fruit} is {colour}" for fruit in FRUITS for colour in COLOURS], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
    made.chat_template = template
    return made


def write_base(folder: Path, template: str | None = MARKED, *, hidden: int = 32, seed: int = 0) -> Path:
    """A base model directory as a user would have one."""
    torch.manual_seed(seed)
    words = tokenizer(template)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,  # random weights that are large enough for logits to be moved
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
        pad_token_id=words.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def row(number: int, **changes: Any) -> dict[str, Any]:
    """One example: a fruit asked about, its colour answered. What fruit has what colour is what there is to learn."""
    fruit = FRUITS[number % len(FRUITS)]
    asked = f"what colour is {fruit} number {number}?"
    return {
        "id": f"example-{number}",
        "messages": [{"role": "user", "content": asked}],
        "answer": COLOURS[number % len(FRUITS) % len(COLOURS)],
        "weight": 1.0,
        "new": number % 3 == 0,
        "source": "correction",
        "group": str(number),
        **changes,
    }


def training_spec(base: Path, dataset: Path, out: Path, **changes: Any) -> TrainingSpec:
    """A training of a tiny base that takes about a second."""
    plain: dict[str, Any] = {
        "base_path": str(base),
        "base_revision": "r1",
        "engine_model": "acme/tiny",
        "dataset": str(dataset),
        "out": str(out),
        "max_rank": 16,
        "learning_rate": 1e-2,
        "batch": 8,
    }
    return TrainingSpec(**(plain | changes))


def write_dataset(
    folder: Path, train: Iterable[Mapping[str, Any]], validation: Iterable[Mapping[str, Any]] = ()
) -> Path:
    """A frozen dataset version's two files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("validation", validation)):
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One of a dataset version's files."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
