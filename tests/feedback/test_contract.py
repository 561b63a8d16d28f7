"""The task contract judges the form of answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feedback.datasets.contract import TaskContract, answer_key, same_answer
from feedback.errors import SettingsError
from feedback.settings import Model
from feedback.starter.grammar import SCHEMA

STARTER = TaskContract(SCHEMA)


def test_an_answer_in_form_has_no_problem() -> None:
    assert STARTER.problem('{"urgency": "low", "intent": "refund"}') is None
    assert STARTER.valid('{"intent": "refund", "urgency": "low"}')


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("sorry, I cannot", "is not JSON"),
        ('{"intent": "refund"', "is not JSON"),
        ('{"intent": NaN}', "NaN is not a JSON number"),
        ('{"intent": "refund"}', "'urgency' is a required property"),
        ('{"intent": "pizza", "urgency": "low"}', "intent: 'pizza' is not one of"),
        ('{"intent": "refund", "urgency": "low", "x": 1}', "breaks the schema"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_an_answer_out_of_form_is_told_why(answer: str, problem: str) -> None:
    assert problem in (STARTER.problem(answer) or "")


def test_without_a_schema_any_text_will_do() -> None:
    free = TaskContract.from_settings(Model(name="chat", base="acme/chat"))
    assert free.valid("hello") and not free.valid(" ")
    assert free.slice_of("hello") is None


def test_the_starter_brings_its_own_schema() -> None:
    assert TaskContract.from_settings(Model(name="assistant")).schema == SCHEMA


def test_a_schema_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps({"type": "object", "required": ["label"]}), encoding="utf-8")
    contract = TaskContract.from_settings(Model(name="m", schema=str(file)))
    assert contract.valid('{"label": 1}') and not contract.valid("{}")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"type": 3}', "not a JSON schema"),
    ],
)
def test_a_bad_schema_file_is_a_settings_error(tmp_path: Path, content: str | None, told: str) -> None:
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=told):
        TaskContract.from_settings(Model(name="m", schema=str(file)))


def test_the_slice_is_the_first_property_with_a_list_of_words() -> None:
    assert STARTER.slice_of('{"intent": "refund", "urgency": "low"}') == "refund"
    assert STARTER.slice_of("not JSON") is None
    assert STARTER.slice_of('["refund"]') is None


def test_order_of_keys_and_spacing_do_not_make_another_answer() -> None:
    assert same_answer('{"a": 1, "b": 2}', '{"b":2,"a":1}')
    assert same_answer(" yes\n", "yes")
    assert not same_answer('"yes"', "yes") and not same_answer('{"a": 1}', '{"a": true}')
    assert answer_key("[" * 100_000) == "[" * 100_000
