"""`db verify`, whole: one byte anywhere between an inference and the weights made of it, and it is seen."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from sqlalchemy import text
from sqlmodel import select

from feedback.access.audit import Actor
from feedback.commands.db import db
from feedback.datasets.cases import confirm_case, draw_cases, drop_case
from feedback.datasets.contract import TaskContract
from feedback.datasets.failures import triage_model
from feedback.datasets.freeze import build_dataset
from feedback.datasets.praised import keep_praised
from feedback.datasets.weighing import gather
from feedback.ids import new_id
from feedback.privacy.erasure import erase_user
from feedback.registry.adapters import AdapterStore
from feedback.registry.lineage import lineage, lineage_of_inference, lineage_of_user
from feedback.registry.soundness import prove
from feedback.registry.versions import mark_version, reserve_version
from feedback.starter.grammar import SCHEMA
from feedback.storage.database import Database
from feedback.storage.removal_tables import Tombstone
from feedback.storage.tables import Case, DatasetVersion, Failure, Feedback, Inference
from tests.feedback.test_freeze import topics
from tests.feedback.world import NOW, RIGHT, World, settings_for

LATER = NOW + timedelta(hours=1)


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    """Two users' corrections in a dataset version, and a version with a published adapter trained on it."""
    world = World(sqlite_database, settings_for(tmp_path))
    world.correct("please give me my money back", RIGHT, "ann")
    world.correct("the lamp arrived in two pieces, é", RIGHT, "bob")
    world.write()
    dataset = build_dataset(
        world.database, world.settings, "assistant", new_id(NOW), ("replay", "size", "raters"), NOW
    )
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    (staged / "adapter_config.json").write_text('{"r": 4}')
    store = AdapterStore(tmp_path / "adapters")
    facts = {"seconds": 1.5, "steps": 3}
    with world.database.session() as session:
        version = reserve_version(
            session, "assistant", None, dataset.id, "starter", "r", store.hash_of(staged), "", facts, NOW
        )
        mark_version(session, "assistant", version.number, "registered")
        session.commit()
    store.publish(staged, "assistant@1.0", facts)
    return world


def _corrupt(world: World) -> int:
    return prove(world.database, world.settings.directory).corrupt


def test_an_untouched_world_is_sound(world: World) -> None:
    assert prove(world.database, world.settings.directory).sound


@pytest.mark.parametrize(
    "file",
    [
        "datasets/*/train.jsonl",
        "datasets/*/manifest.json",
        "adapters/assistant@1.0/adapter_model.safetensors",
        "adapters/assistant@1.0/adapter_config.json",
        "adapters/assistant@1.0/starloop.json",
    ],
)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.8, 0.999])
def test_one_bit_in_a_file_is_seen(file: str, place: float, world: World) -> None:
    (path,) = world.settings.directory.glob(file)
    body = bytearray(path.read_bytes())
    body[int(place * len(body))] ^= 1
    path.write_bytes(bytes(body))
    assert _corrupt(world) >= 1


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE inference SET output = replace(output, 'bug', 'buh')",
        "UPDATE feedback SET correction = replace(correction, 'low', 'lov') WHERE rater = 'ann'",
        "UPDATE example SET content_hash = replace(content_hash, 'a', 'b') WHERE position = 0",
        "UPDATE example SET split = 'validation' WHERE position = 0",
        "UPDATE example SET erased = 1 WHERE position = 0",
        "DELETE FROM example WHERE position = 0",
        "UPDATE dataset_version SET content_hash = 'x'",
        "UPDATE dataset_version SET manifest = replace(manifest, 'assistant', 'assistent')",
        "UPDATE model_version SET adapter_hash = 'x'",
        "UPDATE model_version SET facts = replace(facts, '3', '4')",
    ],
)
def test_one_change_of_a_row_is_seen(change: str, world: World) -> None:
    with world.database.session() as session:
        assert session.connection().execute(text(change)).rowcount > 0
        session.commit()
    assert _corrupt(world) >= 1


@pytest.fixture
def judging(world: World) -> World:
    return with_cases(world)


def with_cases(world: World) -> World:
    """Besides, a golden case that a person answered, a regression case that was praised, and failure cases as curation left them."""
    rules = msgspec.structs.replace(world.settings.dataset, evaluation_share=0.9)
    world.settings = msgspec.structs.replace(world.settings, dataset=rules)
    for n, prompt in enumerate(topics(8)):
        world.praise(prompt, f"user {n}")
    world.write()
    contract = TaskContract(SCHEMA)
    with world.database.session() as session:
        triage_model(session, "assistant", world.settings, NOW)
        (case,) = draw_cases(session, "assistant", 1, world.settings, 1, NOW)
        confirm_case(session, case.id, RIGHT, "rob", NOW, contract)
        session.commit()
    gathered = gather(world.database, world.settings, world.settings.model[0], contract, NOW)
    with world.database.session() as session:
        keep_praised(session, "assistant", gathered, contract, world.settings, NOW)
        session.commit()
    return world


def test_cases_are_sound_as_they_are_written_confirmed_dropped_and_erased(judging: World) -> None:
    with judging.database.session() as session:
        suites = [case.suite for case in session.exec(select(Case))]
        assert suites.count("golden") == 1 and suites.count("regression") > 1
        assert session.exec(select(Failure).where(Failure.state == "corrected")).all()
        regression = session.exec(select(Case).where(Case.suite == "regression")).first()
        assert regression is not None
        drop_case(session, regression.id)
        session.commit()
    assert prove(judging.database, judging.settings.directory).sound
    for user in ("ann", "user 0", "user 1", "user 2", "user 3"):
        erase_user(judging.database, judging.settings, user, Actor("tester"), lambda: LATER, 1.0)
    assert prove(judging.database, judging.settings.directory).sound


def test_cases_are_sound_and_a_changed_one_is_named_on_either_database(
    database: Database, tmp_path: Path
) -> None:
    world = with_cases(World(database, settings_for(tmp_path)))
    assert prove(database, tmp_path).sound
    with database.session() as session:
        change = (
            "UPDATE evaluation_case SET answer = replace(answer, 'low', 'lov') WHERE suite = 'regression'"
        )
        assert session.connection().execute(text(change)).rowcount == len(
            session.exec(select(Case).where(Case.suite == "regression")).all()
        )
        session.commit()
    assert all(one.startswith("case ") for one in prove(world.database, tmp_path).problems)
    assert prove(world.database, tmp_path).corrupt > 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE evaluation_case SET answer = replace(answer, 'low', 'lov') WHERE suite = 'golden'", "case"),
        (
            "UPDATE evaluation_case SET answer = replace(answer, 'low', 'lov') WHERE suite = 'regression'",
            "case",
        ),
        ("UPDATE evaluation_case SET messages = replace(messages, 'user', 'usar')", "case"),
        ("UPDATE evaluation_case SET messages = replace(messages, '[', '(')", "case"),
        ("UPDATE evaluation_case SET answer = CAST(X'7B22FF' AS TEXT) WHERE suite = 'golden'", "case"),
        ("UPDATE evaluation_case SET group_key = replace(group_key, 'a', 'b')", "case"),
        ("UPDATE evaluation_case SET version = '1.0' WHERE suite = 'regression'", "case"),
        ("UPDATE evaluation_case SET state = 'drawn' WHERE suite = 'golden'", "case"),
        ("UPDATE failure SET correction = replace(correction, 'low', 'lov')", "failure case"),
        ("UPDATE failure SET inference_id = replace(inference_id, '-7', '-8')", "failure case"),
    ],
)
def test_one_change_of_a_case_is_seen_and_named(change: str, told: str, judging: World) -> None:
    with judging.database.session() as session:
        assert session.connection().execute(text(change)).rowcount > 0
        session.commit()
    found = prove(judging.database, judging.settings.directory)
    assert found.corrupt >= 1 and any(one.startswith(f"{told} ") for one in found.problems)


def test_a_case_whose_inference_went_without_a_trace_is_told(judging: World) -> None:
    with judging.database.session() as session:
        case = session.exec(select(Case).where(Case.suite == "golden")).one()
        case.inference_id = new_id(LATER)
        session.add(case)
        session.commit()
    (problem,) = prove(judging.database, judging.settings.directory).problems
    assert problem.endswith(f"its inference {case.inference_id} is neither on record nor erased")


@pytest.mark.parametrize(
    "gone", ["datasets/*/validation.jsonl", "adapters/assistant@1.0/adapter_config.json"]
)
def test_a_file_that_is_gone_is_seen(gone: str, world: World) -> None:
    (path,) = world.settings.directory.glob(gone)
    path.unlink()
    assert _corrupt(world) >= 1


def test_an_erased_dataset_is_proved_by_its_tombstones_and_its_signed_manifest(world: World) -> None:
    erase_user(world.database, world.settings, "ann", Actor("tester"), lambda: LATER, 1.0)
    assert prove(world.database, world.settings.directory).sound
    with world.database.session() as session:
        stone = session.exec(select(Tombstone).where(Tombstone.kind == "example")).first()
        session.delete(stone)
        session.commit()
    assert _corrupt(world) == 1


def test_who_rewrites_a_dataset_and_its_hashes_cannot_sign_for_it(world: World) -> None:
    erase_user(world.database, world.settings, "ann", Actor("tester"), lambda: LATER, 1.0)
    with world.database.session() as session:
        version = session.exec(select(DatasetVersion)).one()
        entry = version.manifest["erasures"][0] | {"rows": 1}
        version.manifest = version.manifest | {"erasures": [entry]}
        session.add(version)
        session.commit()
    assert _corrupt(world) >= 1


def test_the_command_says_so_and_fails(world: World, tmp_path: Path) -> None:
    configuration = tmp_path / "starloop.toml"
    configuration.write_text(f'[storage]\ndirectory = "{tmp_path}"\n')
    arguments = ["verify", "--json", "--config", str(configuration)]
    fine = CliRunner().invoke(db, arguments)
    assert (fine.exit_code, json.loads(fine.stdout)["corrupt"]) == (0, 0)
    (path,) = tmp_path.glob("datasets/*/train.jsonl")
    path.write_bytes(path.read_bytes() + b" ")
    damaged = CliRunner().invoke(db, arguments)
    assert (damaged.exit_code, json.loads(damaged.stdout)["corrupt"]) == (1, 1)


def test_lineage_leads_from_an_inference_and_from_a_user_to_the_versions(world: World) -> None:
    with world.database.reading() as session:
        asked = session.exec(select(Inference).where(Inference.user == "ann")).one()
        said = session.exec(select(Feedback).where(Feedback.rater == "ann")).one()
        found = lineage_of_inference(session, asked.id)
        assert found["inference"] == {"id": asked.id, "content_hash": asked.content_hash, "erased": None}
        assert [one["content_hash"] for one in found["feedback"]] == [said.content_hash]
        assert [one["name"] for one in found["versions"]] == ["assistant@1.0"]
        assert lineage_of_user(session, "ann")["examples"] == found["examples"]
        assert lineage_of_user(session, "nobody")["versions"] == []


def test_lineage_holds_after_an_erasure_with_the_hashes_of_the_tombstones(world: World) -> None:
    with world.database.reading() as session:
        asked = session.exec(select(Inference).where(Inference.user == "ann")).one()
        before = lineage(session, "assistant", "1.0")["examples"]
    erase_user(world.database, world.settings, "ann", Actor("tester"), lambda: LATER, 1.0)
    with world.database.reading() as session:
        after = lineage(session, "assistant", "1.0")["examples"]
        hashes = ("content_hash", "inference_hash", "feedback_hash")
        assert [[one[name] for name in hashes] for one in after] == [
            [one[name] for name in hashes] for one in before
        ]
        assert [one["erased"] for one in after if one["split"] != "pairs"].count(True) == 1
        back = lineage_of_inference(session, asked.id)
        assert back["inference"]["content_hash"] == asked.content_hash
        assert back["inference"]["erased"] is not None
        assert [one["name"] for one in back["versions"]] == ["assistant@1.0"]
