import json
import random
import re
from collections import Counter, defaultdict
from typing import Literal

import jsonschema
import pytest
from datasketch import MinHash, MinHashLSH

from feedback.starter import examples_file, model_directory
from feedback.starter.grammar import DRIFT, INTENTS, KNOWN, SCHEMA, URGENCIES, Message, draw
from feedback.starter.pattern import expand
from feedback.starter.topics import TOPICS


def drawn(count: int, wording: Literal["train", "live"], seed: int = 1) -> list[Message]:
    rng = random.Random(seed)
    return [draw(rng, INTENTS, wording) for _ in range(count)]


def words(message: Message) -> list[str]:
    return re.findall(r"[a-z]+", message.text.lower())


def test_an_answer_has_one_canonical_form() -> None:
    message = Message("I want my money back", "refund", "high")
    assert message.answer == '{"intent": "refund", "urgency": "high"}'


def test_every_answer_meets_the_schema() -> None:
    for message in drawn(200, "live"):
        jsonschema.validate(json.loads(message.answer), SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"intent": "weather", "urgency": "low"},
        {"intent": "refund", "urgency": "soon"},
        {"intent": "refund"},
        {"intent": "refund", "urgency": "low", "note": ""},
    ],
)
def test_the_schema_refuses_anything_else(wrong: dict[str, str]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def test_eight_intents_are_known_and_four_drift_in_by_two_steps() -> None:
    assert len(KNOWN) == 8
    assert [len(step) for step in DRIFT] == [2, 2]
    assert sorted((*KNOWN, *DRIFT[0], *DRIFT[1])) == sorted(INTENTS) == sorted(TOPICS)
    assert len(set(INTENTS)) == 12


def test_the_same_seed_draws_the_same_messages() -> None:
    assert drawn(50, "live", seed=3) == drawn(50, "live", seed=3)
    assert drawn(50, "live", seed=3) != drawn(50, "live", seed=4)


def test_only_the_intents_asked_for_are_drawn() -> None:
    rng = random.Random(2)
    assert {draw(rng, ["bug", "cancel"], "train").intent for _ in range(60)} == {"bug", "cancel"}


def test_every_urgency_is_common() -> None:
    counts = Counter(message.urgency for message in drawn(1_000, "live"))
    assert set(counts) == set(URGENCIES)
    assert min(counts.values()) > 200


def test_messages_are_short() -> None:
    for message in drawn(500, "live") + drawn(500, "train"):
        assert 6 <= len(message.text.split()) <= 25
        assert "{" not in message.text
        assert "|" not in message.text
        assert "*" not in message.text


def test_live_messages_use_words_that_training_never_shows() -> None:
    seen = {word for message in drawn(20_000, "train") for word in words(message)}
    live = [word for message in drawn(2_000, "live") for word in words(message)]
    assert 0.005 < sum(word not in seen for word in live) / len(live) < 0.15


def test_live_only_alternatives_are_never_taken_in_training() -> None:
    rng = random.Random(0)
    patterns = ["a (b|*c)", "*d"]
    assert {expand(patterns, {}, rng, "train") for _ in range(50)} == {"a b"}
    assert {expand(patterns, {}, rng, "live") for _ in range(200)} == {"a b", "a c", "d"}


def test_slots_and_nested_alternatives_expand() -> None:
    rng = random.Random(0)
    slots = {"fruit": ("(apple|pear)",), "size": lambda rng: "7"}
    assert {expand(["({fruit}|({size} |)nuts)"], slots, rng, "train") for _ in range(100)} == {
        "apple",
        "pear",
        "nuts",
        "7 nuts",
    }


def test_a_pattern_without_its_closing_parenthesis_is_refused() -> None:
    with pytest.raises(ValueError, match="no closing parenthesis"):
        expand(["a (b|c"], {}, random.Random(0), "train")


def test_few_live_messages_are_near_duplicates() -> None:
    index = MinHashLSH(threshold=0.8, num_perm=64)
    signatures = []
    for place, message in enumerate(drawn(1_000, "live")):
        text = message.text.lower()
        signature = MinHash(num_perm=64)
        signature.update_batch([text[at : at + 4].encode() for at in range(len(text) - 3)])
        index.insert(place, signature)
        signatures.append(signature)
    grouped = sum(len(index.query(signature)) > 1 for signature in signatures)
    assert grouped / len(signatures) < 0.05


def test_words_tell_the_intent() -> None:
    """A naive Bayes over words, trained on training wording, must nearly always name the intent of live wording."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for message in drawn(6_000, "train"):
        counts[message.intent].update(set(words(message)))
    vocabulary = {word for seen in counts.values() for word in seen}

    def likely(message: Message) -> str:
        import math

        present = set(words(message)) & vocabulary
        return max(INTENTS, key=lambda intent: sum(math.log(counts[intent][word] + 0.1) for word in present))

    live = drawn(600, "live", seed=9)
    assert sum(likely(message) == message.intent for message in live) / len(live) > 0.93


def test_the_shipped_examples_are_chats_of_known_intents() -> None:
    lines = examples_file().read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3_000
    intents = set()
    for line in lines:
        user, assistant = json.loads(line)["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        answer = json.loads(assistant["content"])
        jsonschema.validate(answer, SCHEMA)
        assert assistant["content"] == Message("", answer["intent"], answer["urgency"]).answer
        intents.add(answer["intent"])
    assert intents == set(KNOWN)


def test_the_shipped_model_is_complete_and_small() -> None:
    files = {path.name: path.stat().st_size for path in model_directory().iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "meta.json",
        "model.safetensors",
        "tokenizer.json",
    } <= set(files)
    assert sum(files.values()) < 8_000_000
