"""A training becomes one version, whatever interrupts it: one number, one directory, nothing half-written (invariant 6)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlmodel import Session

from feedback.errors import BadInputError, ConflictError, NotFoundError, UnsoundAdapterError
from feedback.registry import adapters
from feedback.registry.adapters import AdapterStore
from feedback.registry.bases import resolve_base
from feedback.registry.cycles import request_cycle
from feedback.registry.models import ensure_models
from feedback.registry.versions import list_versions
from feedback.settings import Engine, Model, Settings, Storage, Training
from feedback.storage.database import Database
from feedback.storage.tables import Cycle, DatasetVersion, ModelVersion
from tests.trainer.tiny import row, write_dataset
from trainer import publication
from trainer.publication import check_adapter, make_version, train_version, what_to_train
from trainer.training import Place, Progress, Trained, TrainingSpec

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Killed(BaseException):
    """Ends a process's work where it stands; nothing on the way may catch it."""


class FakeTraining:
    """Trains in no time: the same spec gives the same files, another dataset others."""

    def __init__(self) -> None:
        self.asked: list[TrainingSpec] = []

    def __call__(self, spec: TrainingSpec, on_progress: Callable[[Progress], None], place: Place) -> Trained:
        self.asked.append(spec)
        on_progress(Progress(step=1, steps=1))
        adapter = Path(spec.out) / "adapter"
        adapter.mkdir(parents=True, exist_ok=True)
        (adapter / "adapter_config.json").write_text("{}")
        (adapter / "adapter_model.safetensors").write_text(f"weights of {spec.dataset}")
        return Trained(adapter, {}, {"steps": 1})


class Desk:
    """A data directory with two dataset versions, from which versions are made."""

    def __init__(self, database: Database, directory: Path, base: Path) -> None:
        self.database = database
        self.settings = Settings(
            storage=Storage(directory=str(directory)),
            engine=[Engine(base=str(base))],
            model=[Model(name="assistant", base=str(base)), Model(name="other", base=str(base))],
            training=Training(epochs=2, rank=4),
        )
        self.adapters = directory / "adapters"
        with database.session() as session:
            ensure_models(session, self.settings, NOW)
            for name in ("data-1", "data-2"):
                session.add(
                    DatasetVersion(
                        id=name,
                        model="assistant",
                        content_hash=name,
                        created=0.0,
                        note=f"added {name}",
                        manifest={},
                    )
                )
            session.commit()

    def cycle(self, dataset: str | None = "data-1") -> Cycle:
        with self.database.session() as session:
            cycle = request_cycle(session, "assistant", "auto", [], "test", NOW)
            cycle.dataset_id = dataset
            session.add(cycle)
            session.commit()
        return cycle

    def make(self, cycle: Cycle) -> ModelVersion:
        return make_version(self.database, self.settings, self.clock, cycle, lambda progress: None)

    def train(self, dataset: str = "data-1", model: str = "assistant") -> ModelVersion:
        work = self.settings.directory / "runs" / "by hand"
        return train_version(
            self.database, self.settings, self.clock, model, dataset, work, lambda progress: None
        )

    def clock(self) -> datetime:
        return NOW

    def versions(self) -> list[tuple[str, str]]:
        with self.database.reading() as session:
            return [(version.number, version.state) for version in list_versions(session, "assistant")]

    def published(self) -> list[str]:
        """Everything in the engine's directory, hidden things too."""
        return sorted(entry.name for entry in self.adapters.iterdir()) if self.adapters.is_dir() else []


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining()
    monkeypatch.setattr(publication, "train", fake)
    return fake


@pytest.fixture
def desk(sqlite_database: Database, tmp_path: Path, tiny_base: Path) -> Desk:
    return Desk(sqlite_database, tmp_path, tiny_base)


def test_a_cycles_dataset_becomes_a_registered_version_with_its_note_and_facts(
    desk: Desk, training: FakeTraining, tmp_path: Path
) -> None:
    cycle = desk.cycle()
    version = desk.make(cycle)
    assert (version.number, version.state, version.note) == ("1.0", "registered", "added data-1")
    assert (version.cycle_id, version.dataset_id, version.facts["steps"]) == (cycle.id, "data-1", 1)
    asked = what_to_train(desk.database, desk.settings, "assistant", "data-1", tmp_path)
    assert version.facts["lessons"] == asked.spec.lessons()
    assert (version.facts["run"], version.facts["method"]) == (cycle.id, "sft")
    assert version.facts["method_reason"].endswith("right answers are known, and imitating them says most")
    assert AdapterStore(desk.adapters).check("assistant@1.0") == version.adapter_hash
    asked = training.asked[0]
    base = resolve_base(desk.settings.model[0].base, desk.settings.directory)
    assert (asked.engine_model, asked.base_revision) == (base.engine_model, base.revision)
    assert (asked.rank, asked.epochs, asked.max_rank) == (4, 2, desk.settings.engine[0].max_lora_rank)


def test_asked_again_it_is_the_same_version(desk: Desk, training: FakeTraining) -> None:
    cycle = desk.cycle()
    assert desk.make(cycle).id == desk.make(cycle).id
    assert (desk.versions(), desk.published()) == ([("1.0", "registered")], ["assistant@1.0"])


def test_with_another_chat_template_it_is_another_training(
    sqlite_database: Database, tmp_path: Path, tiny_base: Path, training: FakeTraining
) -> None:
    """As where somebody marks the assistant's turn in it because rows could not be masked, and trains again."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    desk = Desk(sqlite_database, tmp_path / "data", base)
    desk.train()
    (base / "README.md").write_text("about it")
    desk.train()
    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + "{# marked #}")
    desk.train()
    first, same, other = (asked.digest for asked in training.asked)
    assert first == same != other


def raising(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: str) -> None:
    """Let a step end the process before or after its work."""
    real = getattr(owner, name)

    def step(*given: Any, **named: Any) -> Any:
        if when == "after":
            real(*given, **named)
        raise Killed(f"{when} {name}")

    monkeypatch.setattr(owner, name, step)


STEPS = [
    (publication, "train"),
    (publication, "reserve_version"),
    (AdapterStore, "publish"),
    (adapters, "_fill"),
    (Path, "rename"),
    (publication, "mark_version"),
]


@pytest.mark.parametrize("by_hand", [False, True], ids=["cycle", "by hand"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_interrupted_anywhere_and_asked_again_it_is_one_version_one_number_one_directory(
    desk: Desk,
    training: FakeTraining,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    when: str,
    by_hand: bool,
) -> None:
    cycle = desk.cycle()

    def ask() -> ModelVersion:
        return desk.train() if by_hand else desk.make(cycle)

    with monkeypatch.context() as patched:
        raising(patched, owner, name, when)
        with pytest.raises(Killed, match=f"{when} {name}"):
            ask()
    assert set(desk.versions()) <= {("1.0", "staged")}, "nothing routes to it yet"
    for entry in desk.published():
        assert entry == "assistant@1.0" and AdapterStore(desk.adapters).check(entry)
    version = ask()
    assert (version.number, version.state) == ("1.0", "registered")
    assert (desk.versions(), desk.published()) == ([("1.0", "registered")], ["assistant@1.0"])
    assert AdapterStore(desk.adapters).check("assistant@1.0") == version.adapter_hash


@pytest.mark.parametrize("commit", [1, 2])
def test_interrupted_at_a_commit_and_asked_again_it_is_one_version(
    desk: Desk, training: FakeTraining, monkeypatch: pytest.MonkeyPatch, commit: int
) -> None:
    cycle = desk.cycle()

    real, calls = Session.commit, 0

    def killed_after(session: Session) -> None:
        nonlocal calls
        calls += 1
        real(session)
        if calls == commit:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Session, "commit", killed_after)
        with suppress(Killed):
            desk.make(cycle)
    assert calls == commit
    assert desk.make(cycle).number == "1.0"
    assert (desk.versions(), desk.published()) == ([("1.0", "registered")], ["assistant@1.0"])


def test_what_a_killed_process_left_half_written_is_cleared_away(desk: Desk, training: FakeTraining) -> None:
    half = desk.adapters / ".assistant@1.0.xyz"
    half.mkdir(parents=True)
    (half / "adapter_model.safetensors").write_text("half")
    desk.make(desk.cycle())
    assert desk.published() == ["assistant@1.0"]


def test_a_cycle_that_comes_back_with_other_weights_is_refused_and_nothing_is_overwritten(
    desk: Desk, training: FakeTraining
) -> None:
    cycle = desk.cycle()
    version = desk.make(cycle)
    cycle.dataset_id = "data-2"
    with pytest.raises(ConflictError, match=r"reserved by cycle .* for other weights"):
        desk.make(cycle)
    assert AdapterStore(desk.adapters).check("assistant@1.0") == version.adapter_hash
    assert desk.versions() == [("1.0", "registered")]


def test_two_publications_at_once_get_two_numbers(
    database: Database, tmp_path: Path, tiny_base: Path, training: FakeTraining
) -> None:
    desk = Desk(database, tmp_path, tiny_base)
    cycle = desk.cycle("data-1")
    with ThreadPoolExecutor(2) as pool:  # models' cycles take turns, but a person may train beside one
        made = [
            asked.result() for asked in (pool.submit(desk.make, cycle), pool.submit(desk.train, "data-2"))
        ]
    assert sorted(version.number for version in made) == ["1.0", "1.1"]
    assert desk.published() == ["assistant@1.0", "assistant@1.1"]
    for version in made:
        assert AdapterStore(desk.adapters).check(f"assistant@{version.number}") == version.adapter_hash
    assert made[0].adapter_hash != made[1].adapter_hash


def test_a_training_that_fails_takes_no_number(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(spec: TrainingSpec, on_progress: Callable[[Progress], None], place: Place) -> Trained:
        raise UnsoundAdapterError("training diverged")

    monkeypatch.setattr(publication, "train", diverge)
    with pytest.raises(UnsoundAdapterError):
        desk.make(desk.cycle())
    assert (desk.versions(), desk.published()) == ([], [])


def test_what_cannot_be_trained_is_said_before_anything_starts(desk: Desk, training: FakeTraining) -> None:
    with pytest.raises(ConflictError, match="has no dataset version yet"):
        desk.make(desk.cycle(None))
    with pytest.raises(NotFoundError, match="there is no dataset version 'data-9'"):
        desk.train("data-9")
    with pytest.raises(NotFoundError, match=r"no \[\[model\]\] named 'nobody'; it has 'assistant', 'other'"):
        desk.train(model="nobody")
    with pytest.raises(ConflictError, match="belongs to the model 'assistant', not to 'other'"):
        desk.train(model="other")
    assert training.asked == []


def test_a_real_training_is_published_as_it_was_checked_and_passes_the_check_again(
    desk: Desk, tiny_base: Path, tmp_path: Path
) -> None:
    """All parts real: child process, weights, store; then the child that checks what came from elsewhere."""
    rows = [row(number) for number in range(24)]
    write_dataset(tmp_path / "datasets" / "data-1", rows, rows)
    version = desk.train()
    assert desk.versions() == [("1.0", "registered")] and version.facts["steps"] == 4
    assert abs(version.facts["estimate"]["memory_error"]) < 0.2
    base = resolve_base(str(tiny_base), desk.settings.directory)
    folder = desk.adapters / "assistant@1.0"
    facts = check_adapter(folder, base.path, base.engine_model, 16, tmp_path / "check")
    assert facts["parameters"] == version.facts["trained_parameters"]
    weights = shutil.copytree(folder, tmp_path / "spoiled") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(UnsoundAdapterError, match="truncated"):
        check_adapter(weights.parent, base.path, base.engine_model, 16, tmp_path / "check")


@pytest.mark.filterwarnings("ignore")  # of TensorBoard
def test_steps_are_shown_elsewhere_under_the_versions_name_and_once(
    desk: Desk, training: FakeTraining, tmp_path: Path
) -> None:
    asked = replace(desk.settings.training, log_to=["tensorboard"])
    desk.settings = replace(desk.settings, training=asked)
    desk.train()
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["assistant@1.0"]
    asked = replace(asked, log_to=["mlflow"])
    desk.settings = replace(desk.settings, training=asked)
    with pytest.raises(BadInputError, match="mlflow_url"):
        desk.train("data-2")
    assert len(training.asked) == 1, "said before anything was trained"


def test_another_method_makes_a_new_major_number(desk: Desk, training: FakeTraining) -> None:
    first = desk.train()
    row = {"messages": [], "chosen": "a", "rejected": "b", "source": "sibling", "group": "1"}
    folder = desk.settings.directory / "datasets" / "data-2"
    folder.mkdir(parents=True)
    (folder / "pairs.jsonl").write_bytes(msgspec.json.encode(row) + b"\n")
    desk.settings = msgspec.structs.replace(
        desk.settings, training=msgspec.structs.replace(desk.settings.training, method="dpo")
    )
    second = desk.make(desk.cycle("data-2"))
    assert (first.number, second.number) == ("1.0", "2.0")
    assert (training.asked[-1].method, second.facts["method"]) == ("dpo", "dpo")
    assert "dpo was asked for" in second.facts["method_reason"]
