"""Erasing a user beside a running gateway: unmistakable texts are planted in every place, and afterwards stand in none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import inspect, text
from sqlmodel import func, select

from feedback.access.audit import Actor
from feedback.datasets.failures import triage_model
from feedback.datasets.files import check_files
from feedback.datasets.freeze import build_dataset, read_rows
from feedback.datasets.groups import prompt_hash
from feedback.ids import new_id
from feedback.privacy.erasure import Erased, erase_user
from feedback.registry.models import ensure_models, move_champion
from feedback.registry.versions import mark_version, reserve_version
from feedback.settings import Settings
from feedback.storage.aside import set_aside
from feedback.storage.database import Database
from feedback.storage.figures_table import KeptFigures
from feedback.storage.records import encode
from feedback.storage.removal_tables import Erasure, Tombstone
from feedback.storage.tables import (
    Audit,
    Candidate,
    Case,
    Cycle,
    DatasetVersion,
    EvaluationResult,
    Example,
    Feedback,
    Inference,
    PromptGroup,
    RaterHold,
)
from feedback.storage.undrained import await_drainers
from feedback.storage.verify import verify
from tests.feedback.records import inference
from tests.feedback.world import RIGHT, World, settings_for
from tests.server.served import Served, served
from tests.server.upstream import FakeEngine

USER = "zqx-somebody"
SEED = "zqxplanted"
"""Every text of the user holds it, also in lower case and in answers."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Scene:
    gateway: Served
    database: Database
    settings: Settings
    dataset: str
    mine: str
    theirs: str

    def erase(self, **options: Any) -> Erased:
        return erase_user(self.database, self.settings, USER, Actor("tester"), _now, **options)

    def places(self) -> list[str]:
        """Where a planted text or the user's name still stands: files of the data directory, and tables."""
        found = []
        for path in sorted(self.settings.directory.rglob("*")):
            if path.is_file():
                body = path.read_bytes().lower()
                found += [str(path)] * (SEED.encode() in body or USER.encode() in body)
        with self.database.reading() as session:
            for table in inspect(session.connection()).get_table_names():
                rows = session.connection().execute(text(f'SELECT * FROM "{table}"')).all()
                dump = repr([tuple(row) for row in rows]).lower()
                found += [table] * (SEED in dump or USER in dump)
        return found


@pytest.fixture(params=["sqlite", "postgresql"])
def scene(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path, engine: FakeEngine
) -> Iterator[Scene]:
    engine.answer = lambda body: json.dumps({"echo": body["messages"][-1]["content"]})
    data = tmp_path / "data"
    data.mkdir()
    if request.param == "sqlite":
        shutil.copy(sqlite_template, data / "starloop.sqlite")
        database = Database(f"sqlite:///{data / 'starloop.sqlite'}")
        url = ""
    else:
        database = request.getfixturevalue("postgresql_database")
        url = database.engine.url.render_as_string(hide_password=False)
    anything = tmp_path / "anything.json"
    anything.write_text("{}")  # any JSON is a right answer
    settings = settings_for(data)
    model = msgspec.structs.replace(settings.model[0], schema=str(anything))
    settings = msgspec.structs.replace(settings, model=[model])
    with served(tmp_path, [engine.url], database=url) as gateway:
        yield _planted(gateway, database, settings)
    if request.param == "sqlite":
        database.close()


def _ask(gateway: Served, prompt: str, user: str, **fields: Any) -> str:
    body = {"model": "assistant", "messages": [{"role": "user", "content": prompt}], "user": user, **fields}
    answer = httpx.post(f"{gateway.address}/v1/chat/completions", json=body, timeout=60)
    assert answer.headers["x-starloop-captured"] == "true"
    return answer.headers["x-starloop-inference-id"]


def _answer(text: str) -> str:
    return json.dumps({"answer": text})


def _say(gateway: Served, inference_id: str, rater: str, **fields: Any) -> None:
    said = {"inference_id": inference_id, "rater": rater, **fields}
    assert httpx.post(f"{gateway.address}/v1/feedback", json=said, timeout=60).status_code in (201, 202)


def _planted(gateway: Served, database: Database, settings: Settings) -> Scene:
    """Inferences of two users with feedback, a failure, a case, an evaluation, a dataset and a version made of them."""
    metadata = {"metadata": {"note": f"{SEED} note"}}
    mine = _ask(gateway, f"{SEED} refund, where does it stay", USER, **metadata)
    _say(
        gateway,
        mine,
        USER,
        rating=1,
        comment=f"no! {SEED}",
        correction=_answer(f"{SEED} correction"),
        tags=[SEED],
    )
    _say(gateway, mine, "vera", comment=f"quoting {SEED}")
    for number in range(12):  # enough for pages of their own
        _ask(gateway, f"{SEED} {number} " + "long text " * 200, USER, stream=number % 2 == 0)
    theirs = _ask(gateway, "my login fails since monday", "vera")
    _say(gateway, theirs, "vera", rating=1, correction=RIGHT)
    other = _ask(gateway, "another question that vera asks", "vera")
    _say(gateway, other, USER, rating=1, correction=_answer(f"{SEED} in an answer to vera"))
    shared = _ask(gateway, "a question that both have asked", USER)
    _say(gateway, shared, USER, rating=1, correction=_answer(f"shared {SEED}"))
    _ask(gateway, "A question that both have  asked", "vera")
    assert await_drainers(database, settings.directory, 60.0) == 0
    with database.session() as session:
        ensure_models(session, settings, _now())
        triage_model(session, "assistant", settings, _now())
        session.commit()
    dataset = build_dataset(
        database, settings, "assistant", new_id(_now()), ("replay", "size", "raters"), _now()
    )
    prompt = f"{SEED} refund, where does it stay"
    with database.session() as session:
        session.add(
            Case(
                id=new_id(_now()),
                model="assistant",
                suite="golden",
                state="confirmed",
                inference_id=mine,
                prompt_hash=prompt_hash(prompt),
                group_key=prompt_hash(prompt),
                answer=f"{SEED} answer",
                messages=[{"role": "user", "content": prompt}],
                slice=SEED,
                created=_now().timestamp(),
            )
        )
        session.add(
            EvaluationResult(
                model="assistant",
                version="base",
                case_hash="0" * 64,
                prompt_hash=prompt_hash(prompt),
                output=f"{SEED} output",
                latency_ms=1.0,
                created=0.0,
            )
        )
        session.add(
            Candidate(
                id=new_id(_now()),
                inference_id=mine,
                model="assistant",
                source="teacher",
                origin="a teacher",
                request_hash="1" * 64,
                answer=f"{SEED} proposed",
                checks=[{"check": "contract", "passed": False, "told": f"{SEED} is not right"}],
                state="failed",
                tokens=7,
                created=_now().timestamp(),
            )
        )
        about = select(Feedback.id).where(Feedback.inference_id == other)
        session.add(
            RaterHold(
                id=new_id(_now()),
                model="assistant",
                created=_now().timestamp(),
                kind="correction",
                target=_answer(f"{SEED} in an answer to vera"),
                feedback=[*session.exec(about), "another"],
                reason=f"one and the same correction ({SEED})",
            )
        )
        session.add(
            KeptFigures(
                kind="overviews",
                key='["assistant",30]',
                id=new_id(_now()),
                begun=_now().timestamp(),
                value=json.dumps({"examples": [f"{SEED} in an overview"]}),
            )
        )
        version = reserve_version(session, "assistant", None, dataset.id, "starter", "r", "h", "", {}, _now())
        mark_version(session, "assistant", version.number, "registered")
        move_champion(session, "assistant", version.number, "promotion", "won", "gate", None, _now())
        session.commit()
    refused = inference(user=USER, prompt=f"{SEED} refused")
    set_aside(settings.directory, "journal", 7, encode(refused), "refused")
    set_aside(settings.directory, "journal", 8, encode(refused)[:-40] + b"?", "damaged")
    return Scene(gateway, database, settings, dataset.id, mine, theirs)


def test_nothing_of_the_user_is_left_anywhere_and_everything_of_others_stands(scene: Scene) -> None:
    before = scene.places()
    tables = {"inference", "feedback", "failure", "evaluation_case", "evaluation_result", "prompt_group"}
    tables |= {"candidate", "rater_hold", "kept_figures"}
    assert tables < set(before)
    assert all(any(name in place for place in before) for name in ("train.jsonl", "pairs.jsonl"))
    assert any(".refused" in place for place in before) and any(".damaged" in place for place in before)

    done = scene.erase()

    assert scene.places() == []
    assert (done.counts["candidates"], done.counts["holds"]) == (1, 1)
    assert done.counts["inferences"] == 14 and done.counts["feedback"] == 4
    # Three rows, and each beside the failed answer as a pair.
    assert done.counts["examples"] == 6 and done.counts["cases"] == 1 and done.counts["journal_files"] == 2
    found = verify(scene.database, scene.settings.directory)
    assert found.sound and found.erased == 18
    with scene.database.reading() as session:
        left = session.exec(select(Inference)).all()
        assert {row.user for row in left} == {"vera"} and len(left) == 3
        assert [row.correction for row in session.exec(select(Feedback))] == [RIGHT]
        texts = set(session.exec(select(PromptGroup.text)))
        assert {"my login fails since monday", "a question that both have asked", ""} <= texts
        assert SEED not in " ".join(texts)


def test_dataset_versions_are_marked_and_those_trained_on_them_named_with_a_retrain(scene: Scene) -> None:
    done = scene.erase()

    assert done.datasets == [scene.dataset]
    assert [(one.model, one.version, one.champion) for one in done.versions] == [("assistant", "1.0", True)]
    directory = scene.settings.directory
    with scene.database.reading() as session:
        version = session.get_one(DatasetVersion, scene.dataset)
        assert version.manifest["erased_rows"] == 6
        assert check_files(directory, version.id, version.content_hash)
        rows = [row for split in ("train", "validation") for row in read_rows(directory, version.id, split)]
        assert [row["answer"] for row in rows] == [RIGHT]
        examples = session.exec(select(Example)).all()
        stays = [(row.inference_id, row.split) for row in examples if row.erased is None]
        assert stays == [(scene.theirs, "train"), (scene.theirs, "pairs")]
        (cycle,) = session.exec(select(Cycle)).all()
        assert (cycle.state, [cycle.id]) == ("queued", done.cycles)
        (audited,) = session.exec(select(Audit).where(Audit.act == "record.erase")).all()
        assert audited.subject == done.id and audited.actor == "tester"
    again = build_dataset(scene.database, scene.settings, "assistant", new_id(_now()), ("replay",), _now())
    assert again.manifest["counts"]["rows"] == 1


@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
def test_erasing_again_finds_nothing_and_a_user_who_comes_back_is_kept(scene: Scene) -> None:
    scene.erase()
    again = scene.erase()
    assert (again.counts, again.datasets, again.versions) == ({}, [], [])
    back = _ask(scene.gateway, "I am back", USER)
    assert await_drainers(scene.database, scene.settings.directory, 60.0) == 0
    with scene.database.reading() as session:
        assert session.get_one(Inference, back).user == USER
    assert verify(scene.database, scene.settings.directory).sound


@pytest.mark.parametrize("scene", ["sqlite"], indirect=True)
def test_the_running_gateway_goes_on_capturing(scene: Scene) -> None:
    scene.erase()
    ids = [_ask(scene.gateway, f"afterwards {number}", "vera") for number in range(5)]
    assert await_drainers(scene.database, scene.settings.directory, 60.0) == 0
    with scene.database.reading() as session:
        assert all(session.get(Inference, one) for one in ids)


def test_under_load_nothing_of_others_is_lost_and_nobody_is_told_otherwise(
    tmp_path: Path, engine: FakeEngine
) -> None:
    """Requests come all the time, a few at once, so the journal is never quiet while it is written anew."""
    (tmp_path / "data").mkdir()
    settings = settings_for(tmp_path / "data")
    stopping = threading.Event()
    ids: list[str] = []

    def ask(gateway: Served, name: str) -> None:
        while not stopping.is_set():
            ids.append(_ask(gateway, f"{name} asks {len(ids)}", name))  # `_ask` wants it captured
            time.sleep(0.02)

    with served(tmp_path, [engine.url]) as gateway:
        for number in range(20):
            _ask(gateway, f"{SEED} {number}", USER)
        database = Database(settings.database_url)
        with ThreadPoolExecutor(3) as pool:
            running = [pool.submit(ask, gateway, f"user{number}") for number in range(3)]
            try:
                while len(ids) < 6 and not any(one.done() for one in running):
                    time.sleep(0.01)
                before = len(ids)
                done = erase_user(database, settings, USER, Actor("tester"), _now)
                during = len(ids) - before
            finally:
                stopping.set()
            for one in running:
                one.result()
        scene = Scene(gateway, database, settings, "", "", "")
        assert await_drainers(database, settings.directory, 60.0) == 0
        assert done.counts["inferences"] == 20 and scene.places() == []
        with database.reading() as session:
            assert set(ids) <= set(session.exec(select(Inference.id)))
        assert during > 0 and verify(database, settings.directory).sound
        database.close()


def test_the_command_killed_at_any_moment_goes_on_when_it_is_run_again(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, settings_for(tmp_path))
    for number in range(700):
        world.ask(f"{SEED} {number} " + "long text " * 20, user=USER)
    kept = world.ask("vera asks", user="vera")
    world.write()
    configuration = tmp_path.parent / f"{tmp_path.name}.toml"
    configuration.write_text(f'[storage]\ndirectory = "{tmp_path}"\n')
    command = [
        sys.executable,
        "-m",
        "server.command",
        "erase",
        "--user",
        USER,
        "--json",
        "--config",
        str(configuration),
    ]
    left = []
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        before = _count(sqlite_database)
        while process.poll() is None and time.monotonic() < deadline:
            if 0 < _count(sqlite_database) <= before - 200:
                break
        process.kill()
        process.communicate()
        left.append(_count(sqlite_database))
        if process.returncode == 0:
            break
    assert process.returncode == 0 and len(left) > 1, left
    with sqlite_database.reading() as session:
        assert session.exec(select(Inference.id)).all() == [kept]
        assert (
            session.exec(select(Tombstone.erasure_id).distinct()).all()
            == session.exec(select(Erasure.id)).all()
        )
    assert verify(sqlite_database, tmp_path).sound
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(SEED.encode() in body for body in files)


def _count(database: Database) -> int:
    with database.reading() as session:
        return session.exec(select(func.count()).select_from(Inference)).one()
