"""A fine-tuning on a file in the loop: killed anywhere it goes on, and what comes of it is real."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlmodel import select

from feedback.access.audit import Actor
from feedback.datasets import filed
from feedback.files.stored import FOLDER, Viewer, add_file, path_of
from feedback.imports.uploads import Upload
from feedback.registry.adapters import AdapterStore
from feedback.registry.models import ensure_models, move_champion
from feedback.registry.versions import list_versions
from feedback.settings import Dataset, Engine, Model, Training
from feedback.storage.database import Database
from feedback.storage.file_table import StoredFile
from feedback.storage.tables import DataImport, DatasetVersion, ModelVersion, Tuning
from feedback.tuning.requests import Looker, NewTuning, request_tuning
from tests.trainer.test_publication import FakeTraining, Killed
from tests.trainer.world import MODEL, World, prompt, truth
from trainer import publication, tuning
from trainer.lease import LoopLease
from trainer.schedule import Loop
from trainer.training import Progress
from trainer.tuning import TuningRecord, run_tuning
from trainer.workshop import Workshop

ANN = Actor("ann", "key-of-ann")
EVERYBODY = Looker(Viewer(None, everything=True))


class Bench:
    """A world in which fine-tunings are asked for and turned by loops that may be killed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.database, self.directory = world.database, world.directory

    def sent(self, rows: list[dict[str, Any]]) -> str:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with Upload(self.directory, len(content), self.world.clock(), FOLDER) as upload:
            upload.write(content)
            upload.end()
            row = add_file(
                self.database, self.directory, upload, "rows.jsonl", "fine-tune", ANN, self.world.clock()
            )
        return f"file-{row.id}"

    def ask(self, file: str, method: str = "supervised", validation: str | None = None, **values: Any) -> str:
        asked = NewTuning(
            model=MODEL,
            training_file=file,
            validation_file=validation,
            method=method,
            hyperparameters=values,
            seed=5,
            suffix="",
            metadata=None,
        )
        with self.database.session() as session:
            row = request_tuning(session, asked, EVERYBODY, ANN, self.world.clock())
            session.commit()
        return row.id

    def loop(self) -> Loop:
        """A loop in a process that has just started, after whoever led before is gone."""
        self.world.now = self.world.now.replace(minute=(self.world.now.minute + 1) % 60)
        workshop = self.world.workshop()
        tune = partial(publication.make_tuned, self.database, self.world.settings, self.world.clock)
        workshop = Workshop(
            self.database,
            self.world.settings,
            workshop.gateway,
            self.world.make_version,
            self.world.clock,
            make_tuned=tune,
        )
        return Loop(workshop, LoopLease(self.database, 15, self.world.clock), self.world.stopping)

    def row(self, identifier: str) -> Tuning:
        with self.database.reading() as session:
            return session.get_one(Tuning, identifier)

    def versions(self) -> list[ModelVersion]:
        with self.database.reading() as session:
            return list_versions(session, MODEL)

    def all(self, table: Any) -> list[Any]:
        with self.database.reading() as session:
            return list(session.exec(select(table)))


@pytest.fixture
def bench(sqlite_database: Database, tmp_path: Path) -> Bench:
    return Bench(World(sqlite_database, tmp_path))


def chats(count: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": prompt("new", number)},
                {"role": "assistant", "content": truth(prompt("new", number))},
            ]
        }
        for number in range(count)
    ]


def comparisons(count: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "input": {"messages": row["messages"][:1]},
            "preferred_output": row["messages"][1:],
            "non_preferred_output": [{"role": "assistant", "content": "colour unknown"}],
        }
        for row in chats(count)
    ]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    training = FakeTraining()
    monkeypatch.setattr(publication, "train", training)
    monkeypatch.setattr(publication, "planned_for", lambda *_: None)
    return training


DEATHS: dict[str, tuple[Any, str, bool]] = {
    "while the file is taken in": (tuning, "import_file", False),
    "after the file was taken in": (tuning, "import_file", True),
    "before the files are frozen": (filed, "freeze_files", False),
    "before the dataset's row": (filed, "keep_version", False),
    "after the dataset's row": (filed, "keep_version", True),
    "before the training": (publication, "train", False),
    "after the training": (publication, "train", True),
    "after the number": (publication, "reserve_version", True),
    "before the publication": (AdapterStore, "publish", False),
    "after the publication": (AdapterStore, "publish", True),
    "before the registration": (publication, "mark_version", False),
    "before the figures": (tuning, "metrics_csv", False),
    "before the file of figures": (tuning, "keep_file", False),
    "after the file of figures": (tuning, "keep_file", True),
}


@pytest.mark.parametrize("moment", list(DEATHS))
def test_whoever_is_killed_leaves_work_that_is_gone_on_with_once(
    bench: Bench, fake: FakeTraining, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    place, name, after = DEATHS[moment]
    asked = bench.ask(bench.sent(chats()))
    whole = getattr(place, name)

    def deadly(*values: Any, **named: Any) -> Any:
        if after:
            whole(*values, **named)
        raise Killed(moment)

    with monkeypatch.context() as once:
        once.setattr(place, name, deadly)
        with pytest.raises(Killed):
            bench.loop().poll()
    assert bench.row(asked).state in ("validating_files", "running")
    assert bench.row(asked).alias is None
    assert bench.loop().poll() and not bench.loop().poll()
    done = bench.row(asked)
    assert (done.state, done.error, done.version) == ("succeeded", None, "1.0")
    assert [(one.number, one.state) for one in bench.versions()] == [("1.0", "registered")]
    assert len(bench.all(DatasetVersion)) == 1 and len(bench.all(DataImport)) == 1
    kept = [one for one in bench.all(StoredFile) if one.purpose == tuning.RESULTS]
    assert [one.id for one in kept] == [done.result_file]
    assert path_of(bench.directory, kept[0].id).is_file()
    assert (kept[0].owner, kept[0].key_id) == (ANN.name, ANN.key_id)


def test_a_loop_that_is_told_to_stop_leaves_it_running_for_the_next(bench: Bench, fake: FakeTraining) -> None:
    asked = bench.ask(bench.sent(chats()))
    loop = bench.loop()

    def stop(_: Progress) -> None:
        bench.world.stopping.set()

    whole = fake.__class__.__call__

    def training(self: FakeTraining, spec: Any, on_progress: Any, place: Any) -> Any:
        stop(Progress())
        return whole(self, spec, on_progress, place)

    with pytest.MonkeyPatch.context() as once:
        once.setattr(FakeTraining, "__call__", training)
        assert not loop.poll()
    assert bench.row(asked).state == "running"
    bench.world.stopping.clear()
    assert bench.loop().poll()
    assert bench.row(asked).state == "succeeded"


def test_what_was_given_decides_the_training_and_the_rest_is_as_configured(
    bench: Bench, fake: FakeTraining
) -> None:
    bench.ask(
        bench.sent(comparisons()), "dpo", n_epochs=2, batch_size=4, learning_rate_multiplier=0.5, beta=0.3
    )
    bench.ask(bench.sent(chats(50)))
    given = {"learning_rate": 0.01, "rank": 4, "alpha": 6, "max_tokens": 100, "patience": 9}
    bench.ask(bench.sent(chats(40)), **given)
    assert all(bench.loop().poll() for _ in range(3))
    paired, plain, exact = fake.asked
    assert {name: getattr(exact, name) for name in given} == given
    assert (paired.method, paired.epochs, paired.batch) == ("dpo", 2, 4)
    assert (paired.rate_factor, paired.beta, paired.seed) == (0.5, 0.3, 5)
    configured = bench.world.settings.training
    assert (plain.method, plain.epochs, plain.batch) == ("sft", configured.epochs, configured.batch)
    assert (plain.rate_factor, plain.rank) == (1.0, configured.rank)


def test_cycles_and_fine_tunings_take_turns_by_age(bench: Bench, fake: FakeTraining) -> None:
    bench.world.users_correct(60)
    first = bench.ask(bench.sent(chats(50)))
    cycle = bench.world.request(mode="report")
    second = bench.ask(bench.sent(chats(60)))
    loop = bench.loop()
    assert loop.poll() and bench.row(first).state == "succeeded" and bench.row(second).state == "queued"
    assert loop.poll() and bench.world.record(cycle).row.state != "queued"
    assert bench.row(second).state == "queued"
    assert bench.loop().poll() and bench.row(second).state == "succeeded"


def test_a_validation_file_is_watched_and_shares_nothing_with_the_other(
    bench: Bench, fake: FakeTraining
) -> None:
    asked = bench.ask(bench.sent(chats(60)), validation=bench.sent(chats(120)))
    assert bench.loop().poll()
    row = bench.row(asked)
    folder = bench.directory / "datasets" / str(row.dataset_id)
    train, watched = (
        {json.loads(line)["group"] for line in (folder / f"{split}.jsonl").read_text().splitlines()}
        for split in ("train", "validation")
    )
    assert train and watched and not train & watched
    (dataset,) = bench.all(DatasetVersion)
    assert dataset.manifest["left_out"]["imported, in the training file too"] == len(train)


def test_what_a_fine_tuning_taught_a_champion_its_successors_learn_too(
    bench: Bench, fake: FakeTraining
) -> None:
    bench.ask(bench.sent(chats(60)))
    bench.world.users_correct(60, first=1000)
    assert bench.loop().poll()
    (imported,) = bench.all(DataImport)

    def learned() -> bool:
        cycle = bench.world.request(mode="report")
        assert bench.loop().poll()
        dataset_id = bench.world.record(cycle).row.dataset_id
        with bench.database.reading() as session:
            manifest = session.get_one(DatasetVersion, dataset_id).manifest
        return (
            imported.id in [one["id"] for one in manifest["imports"]]
            and "import" in manifest["counts"]["sources"]
        )

    assert not learned()
    with bench.database.session() as session:
        move_champion(session, MODEL, "1.0", "promotion", "better", "ann", None, bench.world.clock())
        session.commit()
    bench.world.server.versions["1.0"] = bench.world.learns
    assert learned()


def test_a_file_becomes_a_real_adapter(sqlite_database: Database, tmp_path: Path, tiny_base: Path) -> None:
    bench = Bench(World(sqlite_database, tmp_path))
    bench.world.settings = msgspec.structs.replace(
        bench.world.settings,
        engine=[Engine(base=str(tiny_base))],
        model=[Model(name=MODEL, base=str(tiny_base))],
        training=Training(rank=4, batch=8, max_tokens=96, threads=1),
        dataset=Dataset(evaluation_share=0.1),
    )
    with sqlite_database.session() as session:
        ensure_models(session, bench.world.settings, bench.world.clock())
        session.commit()
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{number * 7919} {prompt('new', number)[:30]}"},
                {"role": "assistant", "content": ("red", "green")[number % 2]},
            ]
        }
        for number in range(40)
    ]
    asked = bench.ask(bench.sent(rows), n_epochs=2, learning_rate_multiplier=0.5)
    assert bench.loop().poll()
    done = bench.row(asked)
    assert (done.state, done.error) == ("succeeded", None)
    assert done.trained_tokens and done.hyperparameters["n_epochs"] == 2
    (version,) = bench.versions()
    assert version.facts["fine_tuning"] == f"ftjob-{asked}" and version.facts["epochs"] == 2
    assert AdapterStore(bench.directory / "adapters").check(f"{MODEL}@1.0") == version.adapter_hash
    figures = path_of(bench.directory, str(done.result_file)).read_text().splitlines()
    assert figures[0].startswith("step,train_loss,valid_loss") and len(figures) > version.facts["steps"]


def test_rows_with_tools_are_refused_before_the_training_where_the_base_knows_none(
    sqlite_database: Database, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(World(sqlite_database, tmp_path))
    bench.world.settings = msgspec.structs.replace(
        bench.world.settings,
        engine=[Engine(base=str(tiny_base))],
        model=[Model(name=MODEL, base=str(tiny_base))],
        dataset=Dataset(evaluation_share=0.1),
    )
    with sqlite_database.session() as session:
        ensure_models(session, bench.world.settings, bench.world.clock())
        session.commit()
    begun: list[Any] = []
    monkeypatch.setattr(publication, "train", lambda *given: begun.append(given))
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    asked = bench.ask(bench.sent([row | {"tools": tools} for row in chats()]))
    assert bench.loop().poll()
    failed = bench.row(asked)
    assert failed.state == "failed" and failed.error is not None and begun == []
    assert failed.error["code"] == "invalid_training_file"
    assert "rows have tools, and the base's chat template does not render tools" in failed.error["message"]


def test_a_file_with_tools_becomes_a_real_adapter(sqlite_database: Database, tmp_path: Path) -> None:
    from tests.trainer.test_tokens import TOOLED  # with torch
    from tests.trainer.tiny import write_base

    bench = Bench(World(sqlite_database, tmp_path))
    base = write_base(tmp_path / "knows-tools", TOOLED)
    bench.world.settings = msgspec.structs.replace(
        bench.world.settings,
        engine=[Engine(base=str(base))],
        model=[Model(name=MODEL, base=str(base))],
        training=Training(rank=4, batch=8, max_tokens=128, threads=1, epochs=1),
        dataset=Dataset(evaluation_share=0.1),
    )
    with sqlite_database.session() as session:
        ensure_models(session, bench.world.settings, bench.world.clock())
        session.commit()
    tools = [{"type": "function", "function": {"name": "plum"}}]

    def row(number: int) -> dict[str, Any]:
        call = {"id": "c", "type": "function", "function": {"name": "plum", "arguments": '{"is": "red"}'}}
        return {
            "messages": [
                {"role": "user", "content": f"{number * 7919} {prompt('new', number)[4:20]}"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "green"},
                {"role": "assistant", "content": ("red", "green")[number % 2]},
            ],
            "tools": tools,
        }

    asked = bench.ask(bench.sent([row(number) for number in range(30)]))
    assert bench.loop().poll()
    done = bench.row(asked)
    assert (done.state, done.error) == ("succeeded", None)
    (version,) = bench.versions()
    assert not version.facts["left_out"], "the call and the answer of each conversation are learned"
    assert AdapterStore(bench.directory / "adapters").check(f"{MODEL}@1.0") == version.adapter_hash


def test_outside_the_training_window_a_fine_tuning_waits_in_its_queue_and_says_so_once(
    bench: Bench, fake: FakeTraining
) -> None:
    bench.world.settings = replace(bench.world.settings, training=Training(window="02:00-05:00"))
    asked = bench.ask(bench.sent(chats()))
    loop = bench.loop()
    assert not loop.poll()
    assert not loop.poll()
    row = bench.row(asked)
    told = [one["text"] for one in row.messages if one["kind"] == "waits"]
    assert row.state == "queued"
    assert len(told) == 1
    assert told[0].startswith("Waits for the training window (02:00-05:00 UTC, opens 01 Mar 02:00)")
    record = TuningRecord(loop._workshop, loop._lease, bench.world.stopping, asked)
    row = run_tuning(loop._workshop, record)  # as of one whose file took until the window closed
    assert (row.state, len(bench.versions())) == ("queued", 0)
    assert row.messages[-1]["text"].startswith("Left at what was reached; waits for the training window")
    bench.world.now = bench.world.now.replace(day=2, hour=2)
    assert bench.loop().poll()
    assert (bench.row(asked).state, len(bench.versions())) == ("succeeded", 1)
