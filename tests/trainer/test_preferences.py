"""DPO and KTO: their losses are those of their papers, they shift what the model prefers, and they resume exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from feedback.errors import DataRefusedError
from tests.trainer.tiny import COLOURS, row, training_spec, write_dataset, write_rows
from trainer import finetune
from trainer.base_model import BaseModel, load_base
from trainer.examples import IGNORED, Encoded
from trainer.objectives import Objective, losses_of
from trainer.preference_rows import Answers
from trainer.preferences import Direct, Unpaired, crossed
from trainer.tokens import Encoder

pytestmark = pytest.mark.usefixtures("torch_as_it_was")
ROWS = [row(number) for number in range(24)]
CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="compared in single precision")


def wrong(one: dict[str, Any]) -> str:
    return COLOURS[(COLOURS.index(one["answer"]) + 1) % len(COLOURS)]


def pair(one: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "messages": one["messages"],
        "chosen": one["answer"],
        "rejected": wrong(one),
        "source": "correction",
        "group": one["group"],
        **changes,
    }


class Loaded:
    """A tiny base with an adapter that has learned something, and its encoder."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(3)
        self.base: BaseModel = load_base(str(folder))
        self.encoder = Encoder(self.base.tokenizer, 128, self.base.end_tokens)
        self.model: Any = get_peft_model(self.base.model, LoraConfig(r=4, target_modules="all-linear"))
        for name, value in self.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(value, std=0.05)

    def encoded(self, one: dict[str, Any], answer: str | None = None) -> Encoded:
        return self.encoder.encode({**one, "answer": answer or one["answer"]})

    def likelihood(self, example: Encoded, of_the_base: bool = False) -> float:
        """Log likelihood of an answer, token by token, from one sequence alone."""
        with torch.no_grad():
            tokens = torch.tensor([example.tokens])
            if of_the_base:
                with self.model.disable_adapter():
                    logits = self.model(input_ids=tokens).logits[0]
            else:
                logits = self.model(input_ids=tokens).logits[0]
        chances = torch.log_softmax(logits.double(), -1)
        labels = enumerate(example.labels)
        return sum(chances[place - 1, label].item() for place, label in labels if label != IGNORED)

    def gain(self, example: Encoded) -> float:
        return self.likelihood(example) - self.likelihood(example, of_the_base=True)


@pytest.fixture
def loaded(tiny_base: Path) -> Loaded:
    return Loaded(tiny_base)


def loss_of(model: Any, objective: Objective, batch: Sequence[int], room: int = 8192) -> float:
    return sum(share.item() for share in objective.shares(model, batch, room))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@CPU_ONLY
def test_dpo_is_the_papers_loss_and_a_fifth_of_the_cross_entropy_on_what_is_chosen(loaded: Loaded) -> None:
    pairs = [Answers(loaded.encoded(one), loaded.encoded(one, wrong(one))) for one in ROWS[:5]]
    rows = [loaded.encoded(one) for one in ROWS[5:8]]
    deltas = [loaded.gain(two.chosen) - loaded.gain(two.rejected) for two in pairs]
    preferring = sum(-math.log(sigmoid(0.1 * delta)) for delta in deltas) / len(pairs)
    imitated = [two.chosen for two in pairs] + rows
    entropy = -sum(map(loaded.likelihood, imitated)) / sum(one.trained for one in imitated)
    objective = Direct(loaded.base, pairs, rows)
    assert max(map(abs, deltas)) > 0.1
    assert loss_of(loaded.model, objective, range(8)) == pytest.approx(preferring + 0.2 * entropy, rel=1e-4)
    for room in (16, 100):
        again = loss_of(loaded.model, Direct(loaded.base, pairs, rows), range(8), room)
        assert again == pytest.approx(preferring + 0.2 * entropy, rel=1e-4)


@CPU_ONLY
def test_kto_is_the_papers_loss_with_the_rarer_kind_weighed_up(loaded: Loaded) -> None:
    examples = [loaded.encoded(one, None if place < 4 else wrong(one)) for place, one in enumerate(ROWS[:6])]
    good = [True] * 4 + [False] * 2
    mixed = [crossed(examples[here], examples[here - 1]) for here in range(6)]
    drift = max(0.0, sum(map(loaded.gain, mixed)) / 6)
    gains = list(map(loaded.gain, examples))
    losses = [1 - sigmoid(0.1 * (gain - drift)) for gain in gains[:4]]
    losses += [2.0 * (1 - sigmoid(0.1 * (drift - gain))) for gain in gains[4:]]
    objective = Unpaired(loaded.base, examples, good, 128)
    assert loss_of(loaded.model, objective, range(6)) == pytest.approx(sum(losses) / 6, rel=1e-4)


def test_a_crossed_example_has_one_prompt_and_the_others_answer(loaded: Loaded) -> None:
    one, other = loaded.encoded(ROWS[0]), loaded.encoded(ROWS[5])
    mixed = crossed(one, other)
    text = loaded.base.tokenizer.decode(mixed.tokens)
    assert "apple number 0" in text and ROWS[5]["answer"] in text and "number 5" not in text
    assert mixed.answer == other.answer and len(mixed.labels) == len(mixed.tokens)


def test_a_pairs_weight_scales_both_of_its_terms(loaded: Loaded) -> None:
    one, other = (Answers(loaded.encoded(one), loaded.encoded(one, wrong(one))) for one in ROWS[:2])
    light = Answers(replace(other.chosen, weight=1e-9), other.rejected)
    alone = loss_of(loaded.model, Direct(loaded.base, [one], []), [0])
    assert loss_of(loaded.model, Direct(loaded.base, [one, light], []), [0, 1]) == pytest.approx(
        alone, rel=1e-4
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write_dataset(tmp_path_factory.mktemp("data") / "version", ROWS, ROWS[:6])
    held_out = [one["group"] for one in ROWS[:6]]
    write_rows(data / "pairs.jsonl", [pair(one) for one in ROWS if one["group"] not in held_out])
    with (data / "pairs.jsonl").open("a") as file:
        file.write(msgspec.json.encode(pair(ROWS[0])).decode() + "\n")
    return data


def train(
    base: Path, data: Path, out: Path, emit: Any = lambda event: None, **changes: Any
) -> dict[str, Any]:
    asked = {"epochs": 20, "learning_rate": 3e-3, "checkpoint_seconds": 0.0} | changes
    return finetune.main(msgspec.to_builtins(training_spec(base, data, out, **asked)), emit)


def preferring(base: Path, adapter: Path | None) -> float:
    """Mean of how much more likely right answers are than wrong ones, in nats."""
    loaded = load_base(str(base))
    encoder = Encoder(loaded.tokenizer, 128, loaded.end_tokens)
    model = loaded.model if adapter is None else PeftModel.from_pretrained(loaded.model, str(adapter))
    with torch.no_grad():
        right = losses_of(model, loaded, [encoder.encode(one) for one in ROWS[6:]])[1]
        failed = losses_of(
            model, loaded, [encoder.encode({**one, "answer": wrong(one)}) for one in ROWS[6:]]
        )[1]
    return (failed - right).mean().item()


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_method_makes_right_answers_more_likely_than_failed_ones(
    tiny_base: Path, dataset: Path, tmp_path: Path, method: str
) -> None:
    facts = train(tiny_base, dataset, tmp_path, method=method)
    before, after = preferring(tiny_base, None), preferring(tiny_base, tmp_path / "adapter")
    assert after > before + 1.0
    if method == "dpo":
        assert (facts["pairs"], facts["pairs_left_out"]) == (18, {"of a prompt that watches the training": 1})
    else:
        assert (facts["good"], facts["bad"]) == (24, 18)


class KilledError(BaseException):
    """What `kill -9` looks like from inside."""


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_method_that_is_killed_ends_with_the_same_weights(
    tiny_base: Path, dataset: Path, tmp_path: Path, method: str
) -> None:
    def kill(event: dict[str, Any]) -> None:
        if event["step"] == 4:
            raise KilledError

    train(tiny_base, dataset, tmp_path / "whole", method=method, epochs=3)
    with pytest.raises(KilledError):
        train(tiny_base, dataset, tmp_path / "killed", kill, method=method, epochs=3)
    facts = train(tiny_base, dataset, tmp_path / "killed", method=method, epochs=3)
    assert facts["resumed_at"] == [4]
    whole, killed = (
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes()
        for name in ("whole", "killed")
    )
    assert whole == killed


def test_nothing_to_prefer_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", ROWS)
    with pytest.raises(DataRefusedError, match="no pair that can be trained on"):
        train(tiny_base, data, tmp_path / "out", method="dpo")
    with pytest.raises(DataRefusedError, match="all 24 answers that can be trained on are good"):
        train(tiny_base, data, tmp_path / "out", method="kto")
