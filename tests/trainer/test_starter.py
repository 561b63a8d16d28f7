import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from feedback.starter import model_directory
from feedback.starter.grammar import INTENTS, KNOWN, URGENCIES, Message
from trainer.starter import SCALES, accuracy, answers, make_starter, measure, valid


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("starter")
    make_starter(out, SCALES["small"], seed=1)
    return out


def test_the_recipe_leaves_a_model_that_loads_and_writes(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made / "model")
    model = AutoModelForCausalLM.from_pretrained(made / "model")
    said = answers(model, tokenizer, ["Where is my parcel?"])
    assert len(said) == 1
    assert "<|" not in said[0]
    assert model.dtype == torch.bfloat16


def test_an_answer_can_be_held_to_choices_it_would_not_make(made: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made / "model")
    model = AutoModelForCausalLM.from_pretrained(made / "model")
    choices = ["card_lost", "card", "fee?"]
    said = answers(model, tokenizer, ["Where is my parcel?", "I want my money back, now."], choices)
    assert len(said) == 2 and set(said) <= set(choices)


def test_the_small_recipe_already_learns_the_form_of_an_answer(made: Path) -> None:
    meta = json.loads((made / "model" / "meta.json").read_text())
    assert meta["measured"]["valid_answers"] > 0.9
    assert meta["measured"]["accuracy_new"] == 0.0
    assert meta["seed"] == 1


def test_the_recipe_is_repeatable(made: Path, tmp_path: Path) -> None:
    short = replace(SCALES["small"], steps=3, cases=4)
    for name in ("one", "two"):
        make_starter(tmp_path / name, short, seed=1)
    for name in ("model/tokenizer.json", "examples.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (made / name).read_bytes()
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_the_examples_are_chats_of_known_intents(made: Path) -> None:
    rows = [json.loads(line)["messages"] for line in (made / "examples.jsonl").read_text().splitlines()]
    assert len(rows) == SCALES["small"].examples
    assert {json.loads(row[1]["content"])["intent"] for row in rows} <= set(KNOWN)


def test_the_chat_template_marks_the_assistants_tokens() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_directory())
    answer = Message("", "refund", "high").answer
    encoded = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "Sort."},
            {"role": "user", "content": "Money back!"},
            {"role": "assistant", "content": answer},
        ],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    marked = [
        token for token, own in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if own
    ]
    assert tokenizer.decode(marked) == answer + tokenizer.eos_token


def test_an_answer_takes_few_tokens_and_survives_decoding() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_directory())
    for intent in INTENTS:
        for urgency in URGENCIES:
            answer = Message("", intent, urgency).answer
            ids = tokenizer(answer)["input_ids"]
            assert len(ids) <= 7
            assert tokenizer.decode(ids) == answer


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_directory())
    text = 'Ünïcode 漢字 🙂\n\ttabs, "quotes" {braces} 1234567  spaces'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_shipped_model_does_what_its_meta_says() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_directory())
    model = AutoModelForCausalLM.from_pretrained(model_directory())
    meta = json.loads((model_directory() / "meta.json").read_text())
    measured = measure(model, tokenizer, SCALES["small"], seed=meta["seed"] + 1)
    assert meta["measured"]["accuracy_known"] >= 0.95
    assert measured["accuracy_known"] >= 0.9
    assert measured["accuracy_new"] <= 0.02
    assert measured["valid_answers"] >= 0.97


def test_accuracy_counts_answers_that_are_right_to_the_letter() -> None:
    messages = [Message("a", "bug", "low"), Message("b", "bug", "low")]
    assert (
        accuracy(['{"intent": "bug", "urgency": "low"}', '{"intent":"bug","urgency":"low"}'], messages) == 0.5
    )


@pytest.mark.parametrize("text", ["", "{", '{"intent": "bug"}', '{"intent": "x", "urgency": "low"}'])
def test_what_is_no_answer_is_not_valid(text: str) -> None:
    assert not valid(text)
