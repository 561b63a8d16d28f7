"""The demo's figures: computed case by case from ground truth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feedback.starter.grammar import KNOWN
from server.demo.client import Answer
from server.demo.population import held_out
from server.demo.scores import score
from server.demo.tables import write_json


def _answers(texts: list[str]) -> list[Answer]:
    return [Answer(text, "id", "assistant@1.0", 10.0) for text in texts]


def test_topics_weigh_the_same_whatever_their_number_of_cases() -> None:
    messages = held_out(1, 8, 2)
    texts = [message.answer if message.intent in KNOWN else "no idea" for message in messages]
    row = score("base", messages, _answers(texts), None)
    assert row.accuracy == pytest.approx(len(KNOWN) / (len(KNOWN) + 4))
    assert row.accuracy_old == 1.0
    assert row.valid_format == pytest.approx(sum(text != "no idea" for text in texts) / len(texts))


def test_fixes_and_regressions_are_counted_case_by_case() -> None:
    messages = held_out(1, 2, 2)
    before = score(
        "base", messages, _answers([m.answer for m in messages[:10]] + ["x"] * (len(messages) - 10)), None
    )
    after = score("1.0", messages, _answers(["x"] * 3 + [m.answer for m in messages[3:]]), before)
    assert (after.fixes, after.regressions) == (len(messages) - 10, 3)


def test_the_json_file_has_the_contracts_keys(tmp_path: Path) -> None:
    messages = held_out(1, 1, 1)
    row = score("base", messages, _answers([m.answer for m in messages]), None)
    row.mean_stars = 4.25
    file = tmp_path / "demo.json"
    write_json(file, [row], [{"turn": 1, "kind": "drift", "decision": "promoted", "reason": "r"}])
    document = json.loads(file.read_text())
    assert {
        "version",
        "accuracy",
        "accuracy_old",
        "mean_stars",
        "valid_format",
        "ms_per_request",
        "fixes",
        "regressions",
    } <= set(document["versions"][0])
    assert document["versions"][0]["version"] == "base"
    assert document["versions"][0]["mean_stars"] == 4.25
    assert set(document["turns"][0]) == {"turn", "kind", "decision", "reason"}
    assert list(tmp_path.iterdir()) == [file]
