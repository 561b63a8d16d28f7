"""The task contract judges the form of answers."""

from __future__ import annotations

import json
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from feedback.datasets.answer_check import AnswerCheck
from feedback.datasets.contract import TaskContract, answer_key, constraint_of, same_answer
from feedback.errors import SettingsError
from feedback.settings import Model
from feedback.settings_file import load
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


def test_labels_are_met_to_the_letter_and_are_the_slices() -> None:
    contract = TaskContract.from_settings(Model(name="m", labels=["refund", "card lost"]))
    assert contract.valid("refund") and contract.valid(" card lost\n")
    assert contract.problem("Refund") == "is none of the labels: refund, card lost"
    assert (contract.slice_of("refund\n"), contract.slice_of("other")) == ("refund", None)
    many = TaskContract(labels=[f"label {n}" for n in range(30)])
    assert (many.problem("x") or "").endswith("label 9 and 20 more")


def test_a_pattern_must_match_the_whole_answer() -> None:
    contract = TaskContract.from_settings(Model(name="m", pattern=r"[A-ZÄ]{2}-\d{4}"))
    assert contract.valid("AB-1234") and contract.valid("ÄB-1234\n")
    assert contract.problem("AB-12345") == r"does not match the pattern [A-ZÄ]{2}-\d{4}"
    assert not contract.valid("see AB-1234") and not contract.valid("\ud800")


def test_no_pattern_and_no_answer_can_stop_the_gateway() -> None:
    started = process_time()
    assert not TaskContract(pattern=r"(a+)+b").valid("a" * 100_000)
    assert not TaskContract(pattern=r"(\w+\s?)*!").valid("word " * 20_000 + "?")
    assert process_time() - started < 10  # measured: 0.4 s; a pattern that goes back and forth takes years
    assert "is longer than" in (TaskContract(pattern="a+").problem("a" * 100_001) or "")


def check(directory: Path, body: str, monkeypatch: pytest.MonkeyPatch, name: str = "judge") -> str:
    """A module with a function of its own; the entry that names it."""
    module = f"own_check_{directory.name.replace('-', '_')}"
    (directory / f"{module}.py").write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(str(directory))
    return f"{module}:{name}"


def test_a_check_says_what_the_form_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = check(tmp_path, "def judge(answer): return 'is odd' if len(answer) % 2 else None", monkeypatch)
    contract = TaskContract.from_settings(Model(name="m", labels=["yes", "no"], check=entry))
    assert contract.valid("no") and contract.restricts and not contract.needs_messages
    assert contract.problem("yes") == "is odd"
    assert contract.problem("maybe") == "is none of the labels: yes, no"
    assert contract.problem("") == "is empty"


def test_a_check_may_look_at_the_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "def judge(answer, messages): return messages and messages[0]['content'] + ' was asked'"
    contract = TaskContract(check=AnswerCheck(check(tmp_path, body, monkeypatch)))
    assert contract.needs_messages and contract.valid("x")
    assert contract.problem("x", [{"role": "user", "content": "one"}]) == "one was asked"
    assert contract.problem("x", [{"role": "user", "content": "two"}]) == "two was asked"


def test_a_check_that_breaks_fails_the_answer_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    body = "def judge(answer): return {'zero': lambda: 1 / 0, 'bool': lambda: False}[answer]()"
    contract = TaskContract(check=AnswerCheck(check(tmp_path, body, monkeypatch)))
    assert "judge raised ZeroDivisionError: division by zero" in (contract.problem("zero") or "")
    assert "judge returned bool, not None or a text" in (contract.problem("bool") or "")
    assert "raised KeyError" in (contract.problem("other") or "")
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("body", "name", "told"),
    [
        ("x = 1", "judge", "judge is not there in own_check"),
        ("judge = 1", "judge", "judge is no function"),
        (
            "raise RuntimeError('no licence')",
            "judge",
            r"cannot be imported \(RuntimeError: no licence\); install it",
        ),
        ("def judge(): ...", "judge", r"its parameters are \(\)"),
        ("def judge(a, b, c): ...", "judge", "must take the answer"),
    ],
)
def test_a_check_that_cannot_be_called_is_a_settings_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, name: str, told: str
) -> None:
    entry = check(tmp_path, body, monkeypatch, name)
    with pytest.raises(SettingsError, match=f"model.* 'm': check = .*{told}"):
        TaskContract.from_settings(Model(name="m", base="acme/chat", check=entry))


def test_a_check_of_a_module_that_there_is_not_says_what_to_do() -> None:
    with pytest.raises(SettingsError, match="PYTHONPATH"):
        TaskContract.from_settings(Model(name="m", check="nowhere.to_be:found"))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("labels = ['a']\npattern = 'b'", "labels and pattern are set; keep one of them"),
        ("schema = 's.json'\nlabels = ['a']", "schema and labels are set"),
        (
            "labels = ['a', 'a', ' b']",
            "model.0..labels: ' b' is empty or has blanks around it; 'a' stands twice",
        ),
        ("pattern = '(?=x)y'", "model.0..pattern: .*RE2.*look-around"),
        ("pattern = '('", "model.0..pattern: .*missing"),
        (r"pattern = '\A[a-z]+\z'" + "\nconstrain = true", "grammars take for something else"),
        (r"pattern = 'a\\\\[[:alpha:]]'" + "\nconstrain = true", "grammars take for something else"),
        ("base = 'acme/chat'\nconstrain = true", "constrain is set, and there is no form"),
        ("check = 'module.function'", 'model.0..check: .* write "package.module:function"'),
    ],
)
def test_a_contract_that_cannot_be_is_told_with_its_key(tmp_path: Path, lines: str, told: str) -> None:
    file = tmp_path / "starloop.toml"
    file.write_text(f"[[model]]\nname = 'm'\n{lines}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=told):
        load(file, {})


def test_order_of_keys_and_spacing_do_not_make_another_answer() -> None:
    assert same_answer('{"a": 1, "b": 2}', '{"b":2,"a":1}')
    assert same_answer(" yes\n", "yes")
    assert not same_answer('"yes"', "yes") and not same_answer('{"a": 1}', '{"a": true}')
    assert answer_key("[" * 100_000) == "[" * 100_000


def test_what_an_engine_is_told_of_the_form_is_the_form() -> None:
    def told(**model: Any) -> dict[str, Any] | None:
        return constraint_of(Model(name="m", constrain=True, **model))

    assert told(labels=["b", "a"]) == {"choice": ["b", "a"]}
    assert told(base="acme/chat", pattern="[a-z]+") == {"regex": "[a-z]+"}
    assert told() == {"json": SCHEMA}
    assert told(base="acme/chat") is None
    assert constraint_of(Model(name="m", labels=["a"])) is None
