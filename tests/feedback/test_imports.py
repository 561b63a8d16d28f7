"""Imports: taken in whole or not at all, kept as given, and what dataset versions make of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlmodel import select

from feedback.access.audit import Actor
from feedback.commands.data import data
from feedback.datasets.cases import import_base_examples
from feedback.datasets.exports import exported
from feedback.datasets.freeze import build_dataset, read_rows
from feedback.datasets.imported import intact
from feedback.errors import ConflictError, DataRefusedError, NotFoundError, StorageError
from feedback.ids import new_id
from feedback.imports.reading import Reading
from feedback.imports.storing import Intake, Outcome, import_file, list_imports
from feedback.registry.lineage import lineage
from feedback.storage.database import Database
from feedback.storage.tables import Audit, DataImport, DatasetVersion, Example
from tests.feedback.test_freeze import promote, topics
from tests.feedback.world import NOW, OTHER, RIGHT, World, settings_for

ME = Actor("ann")


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    return World(sqlite_database, settings_for(tmp_path))


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(prompts: list[str], answer: str = RIGHT) -> list[dict[str, str]]:
    return [{"prompt": prompt, "completion": answer} for prompt in prompts]


def take(world: World, file: Path, **how: Any) -> Outcome:
    return import_file(world.database, world.settings, Intake(file, "assistant", **how), ME, NOW)


def build(world: World, guards_off: tuple[str, ...] = ("replay",)) -> DatasetVersion:
    return build_dataset(world.database, world.settings, "assistant", new_id(NOW), guards_off, NOW)


def folders(world: World) -> list[str]:
    folder = world.settings.directory / "imports"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_is_kept_as_given_beside_its_canonical_rows_and_told_in_the_record(
    world: World, tmp_path: Path
) -> None:
    file = write(tmp_path / "rows.jsonl", pairs(["one", "two"]))
    outcome = take(world, file)
    assert outcome.entry is not None and (outcome.rows, outcome.bad_rows) == (2, 0)
    folder = world.settings.directory / "imports" / outcome.entry.id
    assert (folder / "original").read_bytes() == file.read_bytes()
    first = json.loads((folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["messages"] == [{"role": "user", "content": "one"}, {"role": "assistant", "content": RIGHT}]
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "original", "rows.jsonl"]
    with world.database.reading() as session:
        (entry,) = list_imports(session, "assistant")
        assert (entry.name, entry.format, entry.examples, entry.created_by) == (
            "rows.jsonl",
            "completion",
            2,
            "ann",
        )
        (audit,) = session.exec(select(Audit).where(Audit.act == "data.import"))
        assert audit.details["import"] == entry.id
    assert intact(world.settings.directory, entry)


def test_a_manifest_of_which_one_byte_was_changed_is_seen(world: World, tmp_path: Path) -> None:
    entry = take(world, write(tmp_path / "rows.jsonl", pairs(["one"]))).entry
    assert entry is not None
    file = world.settings.directory / "imports" / entry.id / "manifest.json"
    whole = file.read_bytes()
    for place in (0, whole.index(b"rows.jsonl"), whole.index(entry.content_hash.encode()), len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not intact(world.settings.directory, entry), place
    file.write_bytes(whole)
    assert intact(world.settings.directory, entry)


def test_the_same_rows_again_are_not_doubled(world: World, tmp_path: Path) -> None:
    first = take(world, write(tmp_path / "rows.jsonl", pairs(["one"])))
    again = take(world, write(tmp_path / "copy.jsonl", pairs(["one"])))
    assert again.known and again.entry is not None and first.entry is not None
    assert again.entry.id == first.entry.id and folders(world) == [first.entry.id]


def test_one_bad_row_keeps_all_out_unless_bad_rows_are_skipped(world: World, tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl", [*pairs(["one"]), {"prompt": "two", "completion": ""}, *pairs(["three"])]
    )
    refused = take(world, file)
    assert refused.entry is None and folders(world) == []
    assert [(bad.line, bad.field) for bad in refused.bad] == [(2, "completion")]
    taken = take(world, file, skip_bad=True)
    assert taken.entry is not None and (taken.entry.rows, taken.entry.bad) == (2, 1)


def test_an_unknown_model_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no \\[\\[model\\]\\] named 'nobody'"):
        import_file(world.database, world.settings, Intake(tmp_path / "x", "nobody"), ME, NOW)


def test_the_next_dataset_version_learns_imported_rows_and_says_where_they_come_from(
    world: World, tmp_path: Path
) -> None:
    prompts = topics(6)
    entry = take(world, write(tmp_path / "rows.jsonl", pairs(prompts[:4]))).entry
    assert entry is not None
    world.correct(prompts[5])
    dataset = build(world.write())
    rows = list(read_rows(world.settings.directory, dataset.id, "train"))
    assert sorted(row["source"] for row in rows) == ["correction", *["import"] * 4]
    assert dataset.manifest["counts"]["new"] == 5
    assert [one["id"] for one in dataset.manifest["imports"]] == [entry.id]
    number = promote(world, dataset, "c1")
    with world.database.reading() as session:
        made = session.exec(select(Example).where(Example.source == "import")).all()
        assert {example.import_id for example in made} == {entry.id}
        told = [one for one in lineage(session, "assistant", number)["examples"] if one["source"] == "import"]
    assert {(one["import_id"], one["import_hash"]) for one in told} == {(entry.id, entry.content_hash)}
    with pytest.raises(DataRefusedError, match="0 new examples"):
        build(world)  # all of it is learned


def test_preferences_come_as_pairs_too_and_leave_again_in_openais_form(world: World, tmp_path: Path) -> None:
    prompts = topics(4)
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
    right, wrong = ([{"role": "assistant", "content": text}] for text in (RIGHT, OTHER))
    rows = [
        {"input": {"messages": one}, "preferred_output": right, "non_preferred_output": wrong}
        for one in asked[:3]
    ]
    entry = take(world, write(tmp_path / "rows.jsonl", rows)).entry
    assert entry is not None
    world.correct(
        prompts[2]
    )  # who is right about this one is told by a user, with the answer that failed beside it
    world.correct(prompts[3])
    dataset = build(world.write())
    found = list(read_rows(world.settings.directory, dataset.id, "pairs"))
    assert sorted(row["source"] for row in found) == ["correction", "correction", "import", "import"]
    left = list(exported(world.settings.directory, dataset.id, "openai-preference", None))
    assert all(row in left for row in rows[:2]) and rows[2] not in left and len(left) == 4
    with world.database.reading() as session:
        kept = session.exec(select(Example).where(Example.split == "pairs", Example.source == "import")).all()
        assert {example.import_id for example in kept} == {entry.id}


def test_rows_to_replay_are_old_examples_beside_corrections_and_regression_cases(
    world: World, tmp_path: Path
) -> None:
    prompts = topics(12)
    take(world, write(tmp_path / "rows.jsonl", pairs(prompts[:11])), use="replay")
    world.correct(prompts[11])
    world.settings = settings_for(world.settings.directory, replay=4.0)
    dataset = build(world.write(), guards_off=())
    rows = list(read_rows(world.settings.directory, dataset.id, "train"))
    assert [row["new"] for row in rows if row["source"] == "import"] == [False] * 4
    world.settings = settings_for(world.settings.directory, evaluation_share=0.9)
    with world.database.session() as session:
        assert import_base_examples(session, world.settings, "assistant", NOW) > 0


def test_a_correction_goes_before_an_imported_answer_to_the_same_prompt(world: World, tmp_path: Path) -> None:
    prompt = topics(1)[0]
    take(world, write(tmp_path / "rows.jsonl", pairs([prompt], OTHER)))
    world.correct(prompt, RIGHT)
    dataset = build(world.write())
    (row,) = read_rows(world.settings.directory, dataset.id, "train")
    assert (row["source"], row["answer"]) == ("correction", RIGHT)
    assert dataset.manifest["left_out"] == {"imported, where a correction stands": 1}


def test_different_answers_to_one_prompt_and_answers_out_of_form_are_not_learned(
    world: World, tmp_path: Path
) -> None:
    one, two, three = topics(3)
    rows = [*pairs([one]), *pairs([one], OTHER), *pairs([two], "no JSON"), *pairs([three])]
    take(world, write(tmp_path / "rows.jsonl", rows))
    dataset = build(world)
    (row,) = read_rows(world.settings.directory, dataset.id, "train")
    assert row["messages"][-1]["content"] == three
    assert dataset.manifest["left_out"] == {
        "imported, with different answers to one prompt": 2,
        "imported, against the task contract": 1,
    }


def test_of_a_large_import_the_same_part_is_looked_at_each_time(world: World, tmp_path: Path) -> None:
    take(world, write(tmp_path / "rows.jsonl", pairs(topics(30))))
    world.settings = settings_for(world.settings.directory, imported=10)
    assert build(world).manifest["counts"]["rows"] == build(world).manifest["counts"]["rows"] == 10


def test_one_flipped_byte_is_seen(world: World, tmp_path: Path) -> None:
    entry = take(world, write(tmp_path / "rows.jsonl", pairs(topics(3)))).entry
    assert entry is not None
    path = world.settings.directory / "imports" / entry.id / "rows.jsonl"
    path.write_bytes(path.read_bytes().replace(b"refund", b"refuse", 1))
    assert not intact(world.settings.directory, entry)
    with pytest.raises(StorageError, match="not those that were imported"):
        build(world)


def test_a_file_that_changes_while_it_is_read_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "rows.jsonl", pairs(["one"]))

    def grow(_: int) -> None:
        with file.open("a", encoding="utf-8") as more:
            more.write('{"prompt": "late", "completion": "x"}\n')

    with monkeypatch.context() as patched, pytest.raises(ConflictError, match="changed while it was read"):
        patched.setattr("feedback.imports.original.os.fsync", grow)
        take(world, file)
    assert folders(world) == []


def test_a_disk_that_fills_up_leaves_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "rows.jsonl", pairs(["one"]))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(StorageError, match="No space left on device"):
        patched.setattr("feedback.imports.storing.os.fsync", full)
        take(world, file)
    assert folders(world) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from datetime import UTC, datetime
from feedback.access.audit import Actor
from feedback.imports import storing
from feedback.storage.database import Database
from tests.feedback.world import settings_for

def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(storing, sys.argv[2], dies)
folder = Path(sys.argv[1])
settings = settings_for(folder)
database = Database(f"sqlite:///{folder / 'starloop.sqlite'}")
intake = storing.Intake(folder / "rows.jsonl", "assistant")
storing.import_file(database, settings, intake, Actor("ann"), datetime.now(UTC))
"""


@pytest.mark.parametrize("moment", ["copy_original", "_write_rows", "_write_manifest", "_flush_folder"])
def test_an_import_killed_at_any_moment_counts_for_nothing_and_can_be_repeated(
    world: World, tmp_path: Path, moment: str
) -> None:
    file = write(tmp_path / "rows.jsonl", pairs(topics(2)))
    command = [sys.executable, "-c", KILLED, str(tmp_path), moment]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -9
    with world.database.reading() as session:
        assert list_imports(session) == []
    assert len(folders(world)) == 1  # what was being written
    with pytest.raises(DataRefusedError):
        build(world)
    entry = take(world, file).entry
    assert entry is not None
    assert not any(name.endswith(".partial") for name in folders(world))
    assert build(world).manifest["counts"]["sources"] == {"import": 2}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "starloop.toml"
    path.write_text(f'[storage]\ndirectory = "{tmp_path / "data"}"\n', encoding="utf-8")
    return path


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(data, [*arguments, "--config", str(config)], catch_exceptions=False)


def test_the_command_takes_a_table_in_and_lists_it(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('q,a\n"one, or two",yes\n', encoding="utf-8")
    done = run(config, "import", str(file), "--model", "assistant", "--map", "prompt=q,answer=a", "--json")
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert (document["rows"], document["known"], document["import"]["format"]) == (
        1,
        False,
        "completion in csv",
    )
    (item,) = json.loads(run(config, "imports", "--json").stdout)["items"]
    assert item["id"] == document["import"]["id"] and item["files_intact"] is True
    told = run(config, "import", str(file), "--model", "assistant", "--map", "prompt=q,answer=a")
    assert told.exit_code == 0 and "nothing was imported again" in told.stdout


def test_the_command_names_file_line_field_and_problem_and_ends_with_1(config: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [*pairs(["one"]), {"prompt": "two", "completion": ""}])
    done = run(config, "import", str(file), "--model", "assistant")
    assert done.exit_code == 1
    assert "rows.jsonl: line 2: completion: is empty; write the right answer" in done.stdout
    assert "nothing was imported" in done.stdout and "--skip-bad" in done.stdout
    assert json.loads(run(config, "imports", "--json").stdout)["items"] == []


def test_a_wrong_column_in_the_mapping_ends_with_1_and_one_sentence(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("q,a\n" + "one,yes\n" * 300, encoding="utf-8")
    done = run(config, "import", str(file), "--model", "assistant", "--map", "prompt=question,answer=a")
    assert done.exit_code == 1 and done.output.count("question") == 1
    assert "rows.csv: has no column 'question'" in done.output and "'q', 'a'" in done.output


def test_a_mapping_that_is_none_is_wrong_usage(config: Path, tmp_path: Path) -> None:
    for wrong in ("prompt", "nonsense=a", "prompt=q"):
        assert run(config, "import", str(tmp_path), "--model", "assistant", "--map", wrong).exit_code == 2


def test_an_import_that_was_changed_makes_the_list_end_with_1(config: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", pairs(["one"]))
    run(config, "import", str(file), "--model", "assistant")
    (original,) = (tmp_path / "data" / "imports").glob("*/original")
    original.write_bytes(b"")
    listed = run(config, "imports")
    assert listed.exit_code == 1 and "NO" in listed.stdout
    database = Database(f"sqlite:///{tmp_path / 'data' / 'starloop.sqlite'}")
    with database.reading() as session:
        assert session.exec(select(DataImport)).one().name == "rows.jsonl"
    database.close()


def test_how_a_file_is_read_can_be_said(world: World, tmp_path: Path) -> None:
    rows = [{"prompt": "one", "completion": "x", "chosen": RIGHT, "rejected": OTHER}]
    file = write(tmp_path / "rows.jsonl", rows)
    assert take(world, file, reading=Reading("preference")).entry is not None
    assert take(world, file, reading=Reading("chat")).bad[0].field == "messages"


def test_a_bad_line_and_a_broken_file_are_named_once(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "one"\n')
    done = run(config, "import", str(file), "--model", "assistant")
    assert "rows.jsonl: line 1: is not JSON" in done.stdout
    file.write_text("")
    done = run(config, "check", str(file))
    assert "rows.jsonl: is empty; there is no row in it" in done.stdout and "line 0" not in done.stdout
