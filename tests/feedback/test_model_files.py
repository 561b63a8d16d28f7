"""Files of `[[model]]` are looked at before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from feedback.datasets.model_files import check_model_files
from feedback.errors import SettingsError
from feedback.settings import Model, Settings

GOOD = json.dumps(
    {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]}
)


def test_right_files_and_none_are_taken(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object"}', encoding="utf-8")
    (tmp_path / "examples.jsonl").write_text(f"{GOOD}\n\n{GOOD}\n", encoding="utf-8")
    named = Model(name="a", schema=f"{tmp_path}/schema.json", examples=f"{tmp_path}/examples.jsonl")
    check_model_files(Settings(model=[named, Model(name="b"), Model(name="c", base="acme/large")]))


def test_all_that_is_wrong_is_said_at_once_by_model_and_key(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"type": 3}', encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text(f"{GOOD}\n{{}}\n", encoding="utf-8")
    models = [
        Model(name="a", schema=f"{tmp_path}/none.json", examples=f"{tmp_path}/bad.jsonl"),
        Model(name="b", schema=f"{tmp_path}/bad.json", examples=f"{tmp_path}/none.jsonl"),
    ]
    with pytest.raises(SettingsError) as caught:
        check_model_files(Settings(model=models))
    parts = [
        ("[[model]] 'a': schema = ", "cannot be read"),
        ("[[model]] 'a': examples = ", f"{tmp_path}/bad.jsonl: line 2: messages"),
        ("[[model]] 'b': schema = ", "is not a JSON schema"),
        ("[[model]] 'b': examples = ", "none.jsonl: the base examples cannot be read"),
    ]
    assert len(caught.value.problems) == len(parts)
    for problem, (start, said) in zip(caught.value.problems, parts, strict=True):
        assert problem.startswith(start) and said in problem


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_schema_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "schema.json").write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match="JSON"):
        check_model_files(Settings(model=[Model(name="a", schema=f"{tmp_path}/schema.json")]))
