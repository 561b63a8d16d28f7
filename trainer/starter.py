"""The recipe of the starter model: tokenizer, pre-training, measurement, files; `make starter` runs it.

What comes out is a chat model of two million parameters that sorts help-desk messages (`feedback.starter.grammar`).
It learns to *answer* messages of the known intents only, but reads messages of every intent (next-token loss, no
answers), as a large base model has read about things that it was never taught to do. That is what lets a small LoRA
teach it an intent from a few dozen corrections. Everything follows from one seed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import jsonschema
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from feedback.starter.grammar import DRIFT, INTENTS, KNOWN, SCHEMA, Message, draw

NEW = tuple(intent for step in DRIFT for intent in step)

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Pieces within which byte pairs may merge. The answer's scaffold comes first, so that it ends up as three tokens and
# a whole answer as six: serving time is mostly tokens.
PIECES = r"""\{"intent": "|", "urgency": "|"\}| ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"""

SYSTEM_PROMPTS = (
    "You sort help-desk messages. Answer with JSON.",
    "Classify the message: intent and urgency.",
    "You are a support assistant that answers in JSON only.",
    "Return the intent and the urgency of the message as JSON.",
)


@dataclass(frozen=True)
class Scale:
    """How much of everything; `full` makes the model in the package, `small` shows in seconds that it is made."""

    vocabulary: int = 2048
    hidden: int = 256
    inner: int = 512
    layers: int = 2
    heads: int = 4
    steps: int = 2000
    batch: int = 64
    rate: float = 2e-3
    reading: float = 0.1
    read: float = 0.25
    noise: float = 0.0
    tokenizer_messages: int = 20_000
    examples: int = 3_000
    cases: int = 2_000


SCALES = {
    "full": Scale(),
    "small": Scale(
        vocabulary=768, hidden=64, inner=128, steps=150, tokenizer_messages=2_000, examples=120, cases=120
    ),
}


class Chat(TypedDict):
    role: str
    content: str


def helpdesk_texts(scale: Scale, seed: int) -> Iterator[str]:
    """Messages and answers of every intent, for the tokenizer."""
    rng = random.Random(f"tokenizer {seed}")
    for message in [draw(rng, INTENTS, "train") for _ in range(scale.tokenizer_messages)]:
        yield message.text
        yield message.answer


def train_tokenizer(texts: Iterable[str], scale: Scale) -> PreTrainedTokenizerFast:
    """Byte-level BPE over some texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=scale.vocabulary,
            special_tokens=[PAD, BEGIN, END, *ROLES],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, scale: Scale) -> LlamaForCausalLM:
    """Random weights, from torch's seed."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=scale.hidden,
            intermediate_size=scale.inner,
            num_hidden_layers=scale.layers,
            num_attention_heads=scale.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def chats(rng: random.Random) -> Iterator[list[Chat]]:
    """Conversations to learn from, without end: most with one message, some with a system prompt or an earlier turn.

    One in four is a message of an intent that the model is not to know, and has no answer.
    """
    while True:
        chat: list[Chat] = []
        if rng.random() < 0.1:
            chat.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
        if rng.random() < 0.25:
            yield [*chat, {"role": "user", "content": draw(rng, NEW, "train").text}]
            continue
        for _ in range(2 if rng.random() < 0.1 else 1):
            message = draw(rng, KNOWN, "train")
            chat.append({"role": "user", "content": message.text})
            chat.append({"role": "assistant", "content": message.answer})
        yield chat


def batches(
    tokenizer: PreTrainedTokenizerFast, scale: Scale, source: Iterator[list[Chat]], rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and the mask of the assistant's tokens, each `[batch, longest]`, of conversations alike in length."""
    while True:
        pool = [next(source) for _ in range(scale.batch * 16)]
        encoded = tokenizer.apply_chat_template(pool, return_dict=True, return_assistant_tokens_mask=True)
        rows = sorted(
            zip(encoded["input_ids"], encoded["assistant_masks"], strict=True), key=lambda row: len(row[0])
        )
        groups = [rows[start : start + scale.batch] for start in range(0, len(rows), scale.batch)]
        rng.shuffle(groups)
        for group in groups:
            longest = len(group[-1][0])
            ids = torch.full((len(group), longest), tokenizer.pad_token_id)
            answered = torch.zeros((len(group), longest))
            for row, (tokens, mask) in enumerate(group):
                ids[row, : len(tokens)] = torch.tensor(tokens)
                answered[row, : len(tokens)] = torch.tensor(mask)
            yield ids, answered


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    scale: Scale,
    conversations: Iterator[list[Chat]],
    rng: random.Random,
) -> float:
    """Train in place on conversations without end; returns the last loss on the assistant's tokens.

    The loss is that of the answers plus `reading` times that of all other tokens.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=scale.rate, weight_decay=0.05, betas=(0.9, 0.98), fused=True
    )
    source = batches(tokenizer, scale, conversations, rng)
    warm_up = max(1, scale.steps // 20)
    model.train()
    answer_loss = torch.tensor(math.nan)
    for step in range(scale.steps):
        rate = min(1.0, (step + 1) / warm_up) * 0.5 * (1.02 + 0.98 * math.cos(math.pi * step / scale.steps))
        for group in optimizer.param_groups:
            group["lr"] = scale.rate * rate
        ids, answered = next(source)
        ordinary = (ids > tokenizer.convert_tokens_to_ids(ROLES[-1])) & (answered == 0)
        noisy = ordinary & (torch.rand(ids.shape) < scale.noise)
        seen = torch.where(noisy, torch.randint(len(ROLES) + 3, len(tokenizer), ids.shape), ids)
        answer = answered[:, 1:] == 1
        read = ordinary[:, 1:] & (torch.rand(answer.shape) < scale.read)
        with torch.autocast("cpu", torch.bfloat16):
            states = model.model(seen, use_cache=False).last_hidden_state[:, :-1]
            logits = model.lm_head(torch.cat((states[answer], states[read])))
        targets = torch.cat((ids[:, 1:][answer], ids[:, 1:][read]))
        losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        answer_loss = losses[: answer.sum()].sum() / answer.sum().clamp(min=1)
        loss = answer_loss + scale.reading * losses[answer.sum() :].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == scale.steps - 1:
            print(f"step {step:5d}  answers {answer_loss.item():.4f}  all {loss.item():.4f}", flush=True)
    model.eval()
    return answer_loss.item()


def round_weights(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """To bfloat16, as they are served, and greedy unless somebody asks for more."""
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def save(directory: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a model as engines and trainers load it."""
    tokenizer.padding_side = "right"
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@torch.inference_mode()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[str],
    choices: Sequence[str] = (),
) -> list[str]:
    """What the model says to each message, greedily; where there are `choices`, one of them."""
    tokenizer.padding_side = "left"
    texts: list[str] = []
    follows = _followers(tokenizer, choices)
    for start in range(0, len(messages), 250):
        prompts = tokenizer.apply_chat_template(
            [[{"role": "user", "content": message}] for message in messages[start : start + 250]],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        )
        width = prompts["input_ids"].shape[1]
        written = model.generate(
            input_ids=prompts["input_ids"],
            attention_mask=prompts["attention_mask"],
            max_new_tokens=24 if follows is None else max(map(len, follows)) + 1,
            do_sample=False,
            prefix_allowed_tokens_fn=None
            if follows is None
            else lambda _, ids, width=width: follows.get(
                tuple(ids[width:].tolist()), [tokenizer.eos_token_id]
            ),
        )
        texts += tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
    return texts


def _followers(
    tokenizer: PreTrainedTokenizerFast, choices: Sequence[str]
) -> dict[tuple[int, ...], list[int]] | None:
    """By the beginning of a choice, as token ids, those that may come next; None without choices."""
    if not choices:
        return None
    follows: dict[tuple[int, ...], set[int]] = {}
    for choice in choices:
        ids = [*tokenizer(choice, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for place, token in enumerate(ids):
            follows.setdefault(tuple(ids[:place]), set()).add(token)
    return {beginning: sorted(tokens) for beginning, tokens in follows.items()}


def accuracy(said: Sequence[str], messages: Sequence[Message]) -> float:
    """Share of messages answered to the letter."""
    return sum(text == message.answer for text, message in zip(said, messages, strict=True)) / len(messages)


def valid(text: str) -> bool:
    """Whether an answer is JSON that meets the task's schema."""
    try:
        jsonschema.validate(json.loads(text), SCHEMA)
    except (json.JSONDecodeError, jsonschema.ValidationError):
        return False
    return True


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, scale: Scale, seed: int
) -> dict[str, float]:
    """Accuracy on live wording of known and of new intents, and the share of valid answers."""
    rng = random.Random(f"measure {seed}")
    known = [draw(rng, KNOWN, "live") for _ in range(scale.cases)]
    new = [draw(rng, NEW, "live") for _ in range(scale.cases)]
    said_known = answers(model, tokenizer, [message.text for message in known])
    said_new = answers(model, tokenizer, [message.text for message in new])
    said = said_known + said_new
    return {
        "accuracy_known": round(accuracy(said_known, known), 4),
        "accuracy_new": round(accuracy(said_new, new), 4),
        "valid_answers": round(sum(valid(text) for text in said) / len(said), 4),
    }


def write_examples(path: Path, scale: Scale, seed: int) -> None:
    """Base examples of the known intents, for replay and as regression cases, as OpenAI chat JSONL."""
    rng = random.Random(f"examples {seed}")
    lines = []
    for _ in range(scale.examples):
        message = draw(rng, KNOWN, "train")
        chat: list[Chat] = [
            {"role": "user", "content": message.text},
            {"role": "assistant", "content": message.answer},
        ]
        lines.append(json.dumps({"messages": chat}, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def make_starter(out: Path, scale: Scale, seed: int) -> dict[str, object]:
    """Run the recipe into `out/model` and `out/examples.jsonl`; returns what `meta.json` says."""
    started = time.monotonic()
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(helpdesk_texts(scale, seed), scale)
    model = new_model(tokenizer, scale)
    rng = random.Random(f"pretrain {seed}")
    loss = pretrain(model, tokenizer, scale, chats(rng), rng)
    round_weights(model, tokenizer)
    measured = measure(model, tokenizer, scale, seed)
    directory = out / "model"
    save(directory, model, tokenizer)
    write_examples(out / "examples.jsonl", scale, seed)
    meta: dict[str, object] = {
        "command": f"python -m trainer.starter --out {out} --seed {seed}",
        "seed": seed,
        "parameters": model.num_parameters(),
        "scale": asdict(scale),
        "conversations": scale.steps * scale.batch,
        "known": KNOWN,
        "unknown": NEW,
        "answer_loss": round(loss, 4),
        "measured": measured,
        "seconds": round(time.monotonic() - started),
    }
    (directory / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return meta


def main() -> None:
    """The command line of `python -m trainer.starter`."""
    parser = argparse.ArgumentParser(prog="python -m trainer.starter", description="Make the starter model.")
    parser.add_argument("--out", type=Path, required=True, help="directory for model/ and examples.jsonl")
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    meta = make_starter(arguments.out, SCALES[arguments.scale], arguments.seed)
    print(json.dumps(meta, indent=2))


if __name__ == "__main__":
    main()
