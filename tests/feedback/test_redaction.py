"""Redaction before storage and before training: what goes, what stays as it came, and who may still be told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feedback.access.audit import Actor
from feedback.datasets.freeze import build_dataset, read_rows
from feedback.errors import DataRefusedError
from feedback.ids import new_id
from feedback.imports.storing import Intake, import_file
from feedback.privacy.redaction import without_pii
from feedback.settings import Settings
from feedback.storage.database import Database
from feedback.storage.tables import DatasetVersion
from tests.feedback.records import feedback, inference
from tests.feedback.world import NOW, RIGHT, World, settings_for

ANN = "ann.lee@example.com"


def test_a_record_without_personal_data_stays_the_same_object() -> None:
    record = inference()
    assert without_pii(record) is record


def test_every_text_of_an_inference_is_redacted_with_one_numbering() -> None:
    record = inference(
        request=json.dumps({"messages": [{"role": "user", "content": f"I am {ANN}, not bob@example.com"}]}),
        prompt=f"I am {ANN}, not bob@example.com",
        response='{"choices":[{"message":{"content":"Hello bob@example.com"}}]}',
        output="Hello bob@example.com",
        error=f"no such customer: {ANN}",
        metadata={"contact": ANN, "channel": "mail"},
    )
    clean = without_pii(record)
    assert "example.com" not in msgspec.json.encode(clean).decode()
    assert clean.prompt == "I am [email], not [email 2]"
    assert json.loads(clean.request or "")["messages"][0]["content"] == clean.prompt
    assert (clean.output, clean.error) == ("Hello [email 2]", "no such customer: [email]")
    assert clean.metadata == {"contact": "[email]", "channel": "mail"}


@pytest.mark.parametrize(
    "request_text",
    [
        '{"messages":[{"role":"user","content":"ann.lee\\u0040example.com"}]}',
        '{"x": "ann.lee@example.com", "x": "nothing"}',
        '{"x": "ann.lee\\u0040example.com", "x": "nothing"}',
        '{"ann.lee@example.com": 1}',
        '{"broken": "ann.lee@example.com"',
    ],
)
def test_an_address_hides_behind_no_escape_and_no_repeated_key(request_text: str) -> None:
    clean = without_pii(inference(request=request_text, prompt=None))
    assert "ann.lee" not in json.dumps(clean.request)
    assert "ann.lee" not in str(clean.request)


def test_the_arguments_of_calls_are_read_as_they_are_meant() -> None:
    arguments = {
        "note": "call\n+49 30 1234567",
        "to": "jörg@example.com",
        "card": 4111111111111111,
        "when": 1700000000000,
    }
    call = {"id": "c1", "type": "function", "function": {"name": "note", "arguments": json.dumps(arguments)}}
    answer = json.dumps([call])
    clean = without_pii(inference(request=None, prompt=None, response=None, output=answer))
    (kept,) = json.loads(clean.output or "")
    assert json.loads(kept["function"]["arguments"]) == {
        "note": "call\n[phone]",
        "to": "[email]",
        "card": "[card]",
        "when": 1700000000000,
    }


def test_a_secret_is_known_by_the_name_of_its_field() -> None:
    content = json.dumps({"password": "hunter22x", "user": "ann", "api_key": 7, "pass": "hunter22x"})
    clean = without_pii(inference(request=None, prompt=None, response=None, output=content))
    told = {"password": "[secret]", "user": "ann", "api_key": 7, "pass": "hunter22x"}
    assert json.loads(clean.output or "") == told


def test_a_document_in_which_nothing_is_found_stays_the_text_that_came() -> None:
    text = '{ "messages" : [ {"role":"user", "content":"1e400 \\u00e9"} ], "temperature": 0.10 }'
    assert without_pii(inference(request=text, prompt=ANN)).request == text


def test_comments_and_corrections_are_redacted_and_the_rater_is_not() -> None:
    clean = without_pii(
        feedback(
            "x", rater=ANN, comment=f"mail {ANN}", correction='{"to": "ann.lee@example.com"}', tags=[ANN]
        )
    )
    assert (clean.rater, clean.comment, clean.correction) == (ANN, "mail [email]", '{"to": "[email]"}')
    assert clean.tags == ["[email]"]


# -- before training


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, settings_for(tmp_path))


def _build(world: World, pii: str) -> tuple[DatasetVersion, list[dict[str, Any]]]:
    rules = msgspec.structs.replace(world.settings.dataset, pii=pii)
    settings: Settings = msgspec.structs.replace(world.settings, dataset=rules)
    made = build_dataset(world.database, settings, "assistant", new_id(NOW), ("replay", "size"), NOW)
    rows = [row for split in ("train", "validation") for row in read_rows(settings.directory, made.id, split)]
    return made, rows


def _two(world: World) -> World:
    world.correct("please send my parcel to the new street", RIGHT, "ann")
    world.correct(f"change my address, I am {ANN} since today", RIGHT, "cleo")
    return world.write()


def test_examples_keep_personal_data_unless_told_otherwise(world: World) -> None:
    made, rows = _build(_two(world), "keep")
    assert any(ANN in json.dumps(row) for row in rows)
    assert made.manifest["pii"] == {"setting": "keep"}


def test_redacted_examples_are_known_by_what_is_trained_on(world: World) -> None:
    from feedback.datasets.chat import content_hash

    made, rows = _build(_two(world), "redact")
    assert len(rows) == 2 and not any(ANN in json.dumps(row) for row in rows)
    assert all(row["id"] == content_hash(row["messages"], row["answer"]) for row in rows)
    assert made.manifest["pii"] == {
        "setting": "redact",
        "answers": 1,
        "base_examples": 0,
        "imported": 0,
        "values": {"email": 1},
    }


def test_the_worse_answer_of_an_imported_preference_is_redacted_too(world: World, tmp_path: Path) -> None:
    row = {"prompt": "which address is mine?", "chosen": RIGHT, "rejected": f"it is {ANN}"}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row), encoding="utf-8")
    import_file(world.database, world.settings, Intake(file, "assistant"), Actor("ann"), NOW)
    made, _ = _build(world, "redact")
    (pair,) = read_rows(world.settings.directory, made.id, "pairs")
    assert pair["rejected"] == "it is [email]"


def test_an_answer_with_personal_data_is_left_out_whole(world: World) -> None:
    made, rows = _build(_two(world), "drop")
    assert [row["messages"][0]["content"] for row in rows] == ["please send my parcel to the new street"]
    assert made.manifest["pii"]["answers"] == 1


def test_too_few_are_left_is_a_refusal_like_any_other(world: World) -> None:
    world.correct(f"change my address, I am {ANN} since today", RIGHT, "cleo")
    world.write()
    rules = msgspec.structs.replace(world.settings.dataset, pii="drop")
    settings = msgspec.structs.replace(world.settings, dataset=rules)
    with pytest.raises(DataRefusedError):
        build_dataset(world.database, settings, "assistant", new_id(NOW), (), NOW)
