"""Dataset versions: built from the record, frozen, complete or not there, and traceable (invariants 2, 3, 4)."""

from __future__ import annotations

import json
import random
import time
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlmodel import select

from feedback.datasets.cases import draw_cases, import_base_examples
from feedback.datasets.freeze import build_dataset, read_rows
from feedback.datasets.groups import prompt_hash
from feedback.datasets.splits import group_side
from feedback.errors import ConflictError, DataRefusedError, NotFoundError, StorageError
from feedback.ids import new_id
from feedback.registry.lineage import lineage, versions_from_inference
from feedback.registry.models import move_champion
from feedback.registry.versions import mark_version, reserve_version
from feedback.settings import Settings
from feedback.starter.grammar import DRIFT, KNOWN, draw
from feedback.storage.database import Database
from feedback.storage.tables import DatasetVersion, Example, Feedback, Inference
from tests.feedback.world import NOW, OTHER, RIGHT, WRONG, World, settings_for

NO_REPLAY = ("replay",)


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return World(database, settings_for(tmp_path))


@pytest.fixture
def quick(sqlite_database: Database, tmp_path: Path) -> World:
    """A world for tests whose subject is not the database."""
    return World(sqlite_database, settings_for(tmp_path))


def build(world: World, dataset_id: str = "", guards_off: tuple[str, ...] = NO_REPLAY) -> DatasetVersion:
    identifier = dataset_id or new_id(NOW)
    return build_dataset(
        world.database, world.settings, "assistant", identifier, guards_off, NOW + timedelta(hours=1)
    )


def rows_of(world: World, dataset: DatasetVersion) -> list[dict[str, Any]]:
    directory = world.settings.directory
    return [row for split in ("train", "validation") for row in read_rows(directory, dataset.id, split)]


def promote(world: World, dataset: DatasetVersion, cycle: str) -> str:
    """A version trained on the dataset becomes champion; its number."""
    with world.database.session() as session:
        version = reserve_version(session, "assistant", cycle, dataset.id, "starter", "r", cycle, "", {}, NOW)
        mark_version(session, "assistant", version.number, "registered")
        move_champion(session, "assistant", version.number, "promotion", "won", "gate", cycle, NOW)
        session.commit()
        return version.number


def topics(count: int, seed: int = 1) -> list[str]:
    """Prompts of the training side, also at the smallest share for evaluation."""
    rng = random.Random(seed)
    drawn = iter(lambda: draw(rng, KNOWN, "live").text, None)
    return list(islice((text for text in drawn if group_side(prompt_hash(text), 0.01) == "train"), count))


def test_corrections_and_praised_answers_become_rows(world: World) -> None:
    one, two, three, four = topics(4)
    world.correct(one, user="ann")
    world.praise(two, user="bob")
    world.say(world.ask(three, user="eve"), 1, rater="eve")  # a complaint without a correction
    world.ask(four)
    dataset = build(world.write(), guards_off=())
    rows = {row["messages"][-1]["content"]: row for row in rows_of(world, dataset)}
    assert set(rows) == {one, two}
    assert (rows[one]["answer"], rows[one]["source"], rows[one]["new"]) == (RIGHT, "correction", True)
    assert (rows[two]["answer"], rows[two]["source"], rows[two]["new"]) == (RIGHT, "replay", False)
    assert WRONG not in [row["answer"] for row in rows.values()]
    assert dataset.note == "added 1 example: 1 refund; replayed 1"
    assert dataset.manifest["counts"]["sources"] == {"correction": 1, "replay": 1}


def test_only_what_stands_counts(world: World) -> None:
    """A later feedback of the same rater replaces the earlier one."""
    inference_id = world.correct(topics(1)[0], OTHER)
    world.say(inference_id, 1, RIGHT)
    dataset = build(world.write())
    assert [row["answer"] for row in rows_of(world, dataset)] == [RIGHT]


def test_evaluation_traffic_and_other_models_teach_nothing(world: World) -> None:
    one, two, three, four = topics(4)
    for prompt, fields in ((one, {"purpose": "evaluation"}), (two, {"model": "x"}), (three, {"status": 500})):
        world.say(world.ask(prompt, **fields), 1, RIGHT)
    world.correct(four)
    assert len(rows_of(world, build(world.write()))) == 1


def test_a_refusal_leaves_nothing(world: World) -> None:
    world.say(world.ask("x"), 1)
    with pytest.raises(DataRefusedError):
        build(world.write())
    with world.database.reading() as session:
        assert session.exec(select(DatasetVersion)).all() == []
    assert not (world.settings.directory / "datasets").exists()


def test_asked_again_the_same_version_is_returned_though_data_has_grown(world: World) -> None:
    world.correct(topics(1)[0])
    first = build(world.write(), "one")
    world.correct(topics(2)[1])
    again = build(world.write(), "one")
    assert (again.content_hash, again.created) == (first.content_hash, first.created)
    assert len(rows_of(world, again)) == 1


def test_the_same_record_gives_the_same_content(world: World) -> None:
    for prompt in topics(30):
        world.correct(prompt, user=f"user of {prompt}")
    world.write()
    assert build(world, "one").content_hash == build(world, "two").content_hash


def test_a_crash_before_the_row_is_written_leaves_no_version_and_the_next_attempt_succeeds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.correct(topics(1)[0])
    world.write()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("feedback.datasets.freeze._lineage", crash)
        with pytest.raises(KeyboardInterrupt):
            build(world, "one")
    assert (world.settings.directory / "datasets" / "one").exists()  # written before the row, as it must be
    with world.database.reading() as session:
        assert session.get(DatasetVersion, "one") is None
        assert session.exec(select(Example)).all() == []
    world.correct(topics(2)[1])
    assert len(rows_of(world, build(world.write(), "one"))) == 2


def test_a_disk_that_fills_up_leaves_no_half_of_a_version(
    quick: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick.correct(topics(1)[0])
    quick.write()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("feedback.datasets.files.os.fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            build(quick, "one")
    assert list((quick.settings.directory / "datasets").iterdir()) == []
    build(quick, "one")


@pytest.mark.parametrize("file", ["train.jsonl", "validation.jsonl"])
def test_one_flipped_byte_is_seen(quick: World, file: str) -> None:
    for prompt in topics(10):
        quick.correct(prompt, user=prompt)
    quick.settings = settings_for(quick.settings.directory, validation_share=0.5)
    build(quick.write(), "one")
    path = quick.settings.directory / "datasets" / "one" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match="not those that were frozen"):
        build(quick, "one")


def test_what_the_champion_learned_is_carried_on_and_only_the_rest_is_new(world: World) -> None:
    prompts = topics(6)
    for prompt in prompts[:4]:
        world.correct(prompt, user=f"user of {prompt}")
    first = build(world.write())
    assert first.parent_id is None and first.manifest["counts"]["new"] == 4
    promote(world, first, "c1")
    for prompt in prompts[4:]:
        world.correct(prompt, user=f"user of {prompt}")
    second = build(world.write())
    assert second.parent_id == first.id
    assert second.manifest["counts"]["new"] == 2 and len(rows_of(world, second)) == 6
    assert second.note.endswith("kept 4 and replayed 0")
    with pytest.raises(DataRefusedError, match="0 new examples"):
        promote(world, second, "c2")
        build(world)


def test_a_withdrawn_correction_is_not_carried_on(world: World) -> None:
    one, two = topics(2)
    inference_id = world.correct(one, user="ann")
    promote(world, build(world.write()), "c1")
    world.say(inference_id, 5, rater="ann")
    world.correct(two, user="bob")
    dataset = build(world.write())
    rows = {row["source"]: (row["messages"][-1]["content"], row["answer"]) for row in rows_of(world, dataset)}
    assert rows == {
        "correction": (two, RIGHT),
        "replay": (one, WRONG),
    }  # now it is an answer that its user praised


def test_lineage_leads_from_a_version_to_what_was_said_and_back(world: World) -> None:
    inference_id = world.correct(topics(1)[0])
    dataset = build(world.write())
    number = promote(world, dataset, "c1")
    with world.database.reading() as session:
        document = lineage(session, "assistant", number)
        example, pair = document["examples"]
        assert (pair["split"], pair["inference_id"]) == ("pairs", inference_id)
        feedback = session.get_one(Feedback, example["feedback_id"])
        inference = session.get_one(Inference, example["inference_id"])
        assert (feedback.correction, inference.id) == (RIGHT, inference_id)
        assert example["feedback_hash"] == feedback.content_hash != ""
        assert example["inference_hash"] == inference.content_hash != ""
        assert document["dataset"]["content_hash"] == dataset.content_hash
        assert [move["reason"] for move in document["moves"]] == ["won"]
        assert [one.number for one in versions_from_inference(session, inference_id)] == [number]
        assert versions_from_inference(session, "another") == []
    assert [row["id"] for row in rows_of(world, dataset)] == [example["content_hash"]]


def test_lineage_names_all_datasets_that_one_grew_from(quick: World) -> None:
    ids = []
    for n, prompt in enumerate(topics(3)):
        quick.correct(prompt, user=f"user {n + 2}")
        dataset = build(quick.write())
        ids.append(dataset.id)
        number = promote(quick, dataset, f"c{n}")
    with quick.database.reading() as session:
        assert lineage(session, "assistant", number)["dataset"]["parents"] == [ids[1], ids[0]]


def test_every_row_has_its_lineage(quick: World) -> None:
    for prompt in topics(40):
        quick.correct(prompt, user=prompt)
    dataset = build(quick.write())
    with quick.database.reading() as session:
        kept = {row.content_hash: row for row in session.exec(select(Example))}
        rows = rows_of(quick, dataset)
        rows += [
            row
            for name in ("pairs", "holdout", "rated")
            for row in read_rows(quick.settings.directory, dataset.id, name)
        ]
        assert {row["id"] for row in rows} == set(kept)
        assert all(kept[row["id"]].group_key == row["group"] for row in rows)


def test_the_split_share_cannot_change_once_data_exists(quick: World) -> None:
    quick.correct(topics(1)[0])
    build(quick.write())
    quick.settings = settings_for(quick.settings.directory, evaluation_share=0.2)
    with pytest.raises(ConflictError, match=r"is 0\.2, but the data of 'assistant' was split at 0\.01"):
        build(quick)


def test_an_unknown_model_is_refused(quick: World) -> None:
    with pytest.raises(NotFoundError):
        build_dataset(quick.database, quick.settings, "nobody", "one", (), NOW)


def test_rows_that_are_not_there_are_told(quick: World) -> None:
    with pytest.raises(NotFoundError, match="restore them"):
        list(read_rows(quick.settings.directory, "nothing", "train"))


def demo_settings(directory: Path) -> Settings:
    """As `starloop demo` has them: the starter's own base examples, a third of all for evaluation."""
    plain = settings_for(directory, minimum_new=50, evaluation_share=0.35, validation_share=0.1)
    return msgspec.structs.replace(plain, model=[msgspec.structs.replace(plain.model[0], examples="")])


def honest(world: World, rng: random.Random, count: int) -> None:
    """400 users; the base knows the old topics, and one in three complaints comes with the right answer."""
    for _ in range(count):
        known = rng.random() < 0.65
        message = draw(rng, KNOWN if known else DRIFT[0], "live")
        user = f"user-{rng.randrange(400)}"
        inference_id = world.ask(message.text, message.answer if known else WRONG, user)
        if rng.random() < 0.7:
            correction = message.answer if not known and rng.random() < 1 / 3 else None
            world.say(inference_id, 5 if known else 1, correction, user)


def test_a_turn_with_drift_trains_then_a_flood_of_lies_does_not_until_the_guard_is_off(
    sqlite_database: Database, tmp_path: Path
) -> None:
    """The demo's story, as far as data goes."""
    world = World(sqlite_database, demo_settings(tmp_path))
    rng = random.Random(3)
    honest(world, rng, 2200)
    world.write()
    started = time.process_time()
    with sqlite_database.session() as session:
        assert import_base_examples(session, world.settings, "assistant", NOW) > 200
        golden = draw_cases(session, "assistant", 200, world.settings, 7, NOW)
        session.commit()
    first = build(world, guards_off=())
    assert time.process_time() - started < 20  # measured: 4 s for 5,200 prompts on a busy machine
    assert first.manifest["counts"]["new"] >= 50
    assert set(first.manifest["counts"]["slices"]) >= {*DRIFT[0], *KNOWN}
    judged = {prompt_hash(case.messages[-1]["content"]) for case in golden}
    taught = {prompt_hash(row["messages"][-1]["content"]) for row in rows_of(world, first)}
    assert len(golden) == 200 and not judged & taught
    promote(world, first, "c1")

    for n in range(100):
        for liar in range(3):
            world.correct(draw(rng, KNOWN, "live").text, OTHER, f"liar-{liar}", output=RIGHT)
        message = draw(rng, KNOWN, "live")
        world.praise(message.text, f"user-{n}", message.answer)
    world.write()
    with pytest.raises(DataRefusedError, match=r"\d+ of raters whose reliability is low") as caught:
        build(world, guards_off=())
    assert "so nothing was trained" in str(caught.value)
    poisoned = build(world, guards_off=("raters",))
    lies = [row for row in rows_of(world, poisoned) if row["new"]]
    assert len(lies) >= 50 and poisoned.manifest["guards_off"] == ["raters"]


def test_the_manifest_beside_the_rows_is_the_one_in_the_record(quick: World) -> None:
    quick.correct(topics(1)[0])
    dataset = build(quick.write())
    file = quick.settings.directory / "datasets" / dataset.id / "manifest.json"
    assert json.loads(file.read_text(encoding="utf-8")) == dataset.manifest
    assert dataset.manifest["settings"]["minimum_new"] == 1 and dataset.manifest["rules"] == 7
