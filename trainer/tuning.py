"""Runs the fine-tunings that clients ask for with a file: the file looked at, frozen, trained on, published, named.

Every step is idempotent, as a cycle's are: whoever leads after this process goes on where it stood. The gate is not
asked: what comes of it is registered beside the champion, and a person promotes it or does not.
"""

from __future__ import annotations

import csv
import io
import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from feedback.access.audit import Actor
from feedback.datasets.filed import freeze_file
from feedback.errors import (
    BadInputError,
    ConflictError,
    DataRefusedError,
    NotFoundError,
    StarloopError,
)
from feedback.files.stored import FOLDER, drop_bytes, keep_file, path_of
from feedback.ids import new_id
from feedback.imports.storing import Intake, import_file
from feedback.imports.uploads import Upload
from feedback.registry.training_steps import all_steps
from feedback.storage.file_table import StoredFile
from feedback.storage.tables import DataImport, ModelVersion, TrainingStep, Tuning
from feedback.tuning.requests import ENDED, PREFIX, alias_of, tell
from trainer.asleep import engines_asleep
from trainer.attempts import PAUSES, attempt, wait
from trainer.lease import LeaseLostError, LoopLease
from trainer.leftovers import leave, run_folder
from trainer.nights import counted
from trainer.record import LoopStoppedError
from trainer.suites import collect, refuse_overlap
from trainer.training import BETA, Progress
from trainer.training_lines import TrainingLines
from trainer.turns import Hours, WindowClosedError
from trainer.workshop import Workshop

_log = logging.getLogger(__name__)
RESULTS = "fine-tune-results"
"""Purpose of the file with the figures of a training, as OpenAI's API names it."""
COLUMNS = ("step", "train_loss", "valid_loss", "epoch", "learning_rate", "gradient_norm", "tokens_per_second")
_PAIRED = ("preference", "comparison")


class TuningLeftError(StarloopError):
    """Somebody asked for this fine-tuning to be cancelled or paused."""


class TuningRecord:
    """Reads and writes one fine-tuning under the lease; `row` is how it stands."""

    def __init__(
        self, workshop: Workshop, lease: LoopLease, stopping: threading.Event, identifier: str
    ) -> None:
        self._workshop = workshop
        self._lease = lease
        self._stopping = stopping
        with workshop.database.reading() as session:
            row = session.get(Tuning, identifier)
        if row is None:
            raise NotFoundError(f"there is no fine-tuning {identifier!r}")
        self.row = row

    def change(
        self, text: str = "", kind: str = "", level: str = "info", unless: Sequence[str] = (), **fields: Any
    ) -> bool:
        """Write fields and tell what happened; whether it was done, which it is not in a state of `unless`.

        Raises `LeaseLostError`, with nothing written, where another loop leads.
        """
        with self._workshop.database.session() as session:
            self._lease.confirm(session)
            row = session.get_one(Tuning, self.row.id, with_for_update=True, populate_existing=True)
            self.row = row
            if row.state in unless:
                return False
            write(row, text, self._workshop.clock(), fields, level, kind)
            session.add(row)
            session.commit()
        return True

    def check(self) -> None:
        """Raise if it is to be left, or this process is to end; called often enough to be quick about it."""
        if self._stopping.is_set():
            raise LoopStoppedError("the loop is stopping; the fine-tuning goes on at its next start")
        with self._workshop.database.reading() as session:
            wanted = session.get_one(Tuning, self.row.id).wanted
        if wanted is not None:
            raise TuningLeftError(wanted)

    def confirm(self, session: Session) -> None:
        """Raise `LeaseLostError` unless this loop leads; the session's transaction holds it to that."""
        self._lease.confirm(session)

    def fail(self, text: str, error: dict[str, Any]) -> None:
        """It failed, unless it was ended or left meanwhile."""
        ended = self._workshop.clock().timestamp()
        self.change(
            text,
            "failed",
            "error",
            ("cancelled", "paused"),
            state="failed",
            wanted=None,
            error=error,
            finished=ended,
        )

    def pause(self, seconds: float) -> None:
        """Wait, unless it is to be left or this process is to end."""
        wait(seconds, self._stopping, self.check)


def write(
    row: Tuning, text: str, now: datetime, fields: dict[str, Any], level: str = "info", kind: str = ""
) -> None:
    """Change a row that the session holds."""
    for name, value in fields.items():
        setattr(row, name, value)
    if text:
        tell(row, text, now, level, kind)


def look_at_files(workshop: Workshop, lease: LoopLease, stopping: threading.Event) -> None:
    """Take in the files of those that were just asked for; those whose files are no good have failed with that."""
    with workshop.database.reading() as session:
        new = session.exec(
            select(Tuning.id).where(Tuning.state == "validating_files").order_by(col(Tuning.id))
        )
        waiting = list(new)
    for identifier in waiting:
        if stopping.is_set():
            return
        record = TuningRecord(workshop, lease, stopping, identifier)
        _log.info("fine-tuning %s of %s: looking at its files", identifier, record.row.model)
        _look(workshop, record)


def _look(workshop: Workshop, record: TuningRecord) -> None:
    row = record.row
    found: dict[str, Any] = {}
    for field in ("training_file", "validation_file"):
        if (file_id := getattr(row, field)) is None:
            continue
        try:
            entry = _taken_in(workshop, row, file_id)
        except (BadInputError, NotFoundError, ConflictError, DataRefusedError) as error:
            _fail(record, f"invalid_{field}", str(error), field)
            return
        found[field.replace("file", "import")] = entry.id
    record.change(
        "Files validated; waiting for its turn", "validated", unless=_LEFT_OR_ENDED, state="queued", **found
    )


_LEFT_OR_ENDED = ("paused", "cancelled", "failed", "succeeded", "queued", "running")


def _taken_in(workshop: Workshop, row: Tuning, file_id: str) -> DataImport:
    """The file as an import. Raises `BadInputError` naming its first bad line."""
    with workshop.database.reading() as session:
        file = session.get(StoredFile, file_id)
    if file is None:
        raise NotFoundError("the file was deleted before it was looked at; send it again")
    path = path_of(workshop.settings.directory, file_id)
    intake = Intake(path, row.model, use="tuning", name=file.name)
    outcome = import_file(
        workshop.database, workshop.settings, intake, Actor(row.owner, row.key_id), workshop.clock()
    )
    if outcome.entry is None:
        first = outcome.bad[0]
        place = "" if first.field == "line" else f"{first.field}: "
        many = f" ({outcome.bad_rows} of {outcome.bad_rows + outcome.rows} lines are bad)"
        raise BadInputError(
            f"{file.name}: line {first.line}: {place}{first.problem}" + (many if outcome.bad_rows > 1 else "")
        )
    paired = outcome.entry.format.split()[0] in _PAIRED
    if paired and row.method == "supervised":
        raise DataRefusedError(f"{file.name}: holds comparisons, which the method dpo learns from")
    if not paired and row.method == "dpo":
        raise DataRefusedError(
            f"{file.name}: holds no comparisons (input, preferred_output, non_preferred_output), which the method dpo "
            "learns from"
        )
    return outcome.entry


def run_tuning(workshop: Workshop, record: TuningRecord, pauses: Sequence[float] = PAUSES) -> Tuning:
    """Run what is left of it and return its row as it ended, or as it was left.

    Raises `LoopStoppedError` or `LeaseLostError`, or what the database raises, with the row left to be resumed.
    """
    resumed = record.row.state == "running"
    begun = "Training goes on after an interruption" if resumed else "Training begins"
    if not record.change(
        begun, "restarted" if resumed else "begun", unless=("paused", "cancelled"), state="running"
    ):
        return record.row
    try:
        about = f"fine-tuning {record.row.id}"
        attempt(lambda: _make(workshop, record), pauses, record.pause, about)
    except (LoopStoppedError, LeaseLostError):
        raise
    except WindowClosedError as error:
        told = f"Left at what was reached; {error}"
        record.change(told, "waits", unless=("paused", "cancelled"), state="queued")
    except TuningLeftError as error:
        _leave(workshop, record, str(error))
    except DataRefusedError as error:
        _fail(record, "invalid_training_file", str(error), "training_file")
    except StarloopError as error:
        _fail(record, "training_failed", str(error))
    except Exception as error:  # the loop's own boundary: one fine-tuning's defect must not end the loop
        _log.exception("fine-tuning %s failed", record.row.id)
        _fail(record, "internal_error", f"unexpected {type(error).__name__}; the loop's log says where")
    leave(run_folder(workshop, record.row.id), record.row.state in ENDED)
    _log.info("fine-tuning %s: %s", record.row.id, record.row.state)
    return record.row


def _make(workshop: Workshop, record: TuningRecord) -> None:
    row = record.row
    model = workshop.model(row.model)
    if model.base != row.base:
        raise ConflictError(
            f"{row.model} has another base now, {model.base!r}; ask for the fine-tuning again"
        )
    made = _made(workshop, row)
    if not made:
        record.check()
    if row.dataset_id is None:
        record.change(dataset_id=new_id(workshop.clock()))
    row = record.row
    assert row.dataset_id is not None
    with workshop.database.reading() as session:
        training, validation = (
            session.get_one(DataImport, one) if one else None
            for one in (row.training_import, row.validation_import)
        )
    assert training is not None
    dataset = freeze_file(
        workshop.database,
        workshop.settings,
        row.model,
        row.dataset_id,
        training,
        validation,
        PREFIX + row.id,
        workshop.clock(),
    )
    if not any(dataset.note in message["text"] for message in row.messages):
        record.change(f"Dataset {dataset.id}: {dataset.note}", "frozen")
    with workshop.database.reading() as session:
        refuse_overlap(session, collect(session, row.model, workshop.settings), row.dataset_id)
    hours = Hours.of(workshop.settings.training)
    if not made:
        hours.check_begin(workshop.clock())
    lines = TrainingLines(_log.info)

    def on_progress(progress: Progress) -> None:
        record.check()
        hours.check_going_on(workshop.clock())
        lines(progress)

    assert workshop.make_tuned is not None
    sleep = (
        nullcontext()
        if made
        else engines_asleep(workshop.settings, f"a version of {row.model}", record.pause)
    )
    with counted(run_folder(workshop, row.id), workshop.settings.training), sleep:
        version = workshop.make_tuned(record.row, on_progress)
        _finish(workshop, record, version)


def _made(workshop: Workshop, row: Tuning) -> bool:
    """Whether a version came of it already, though the row does not say so yet: it is too late to leave it then."""
    if row.dataset_id is None:
        return False
    query = select(ModelVersion.id).where(ModelVersion.dataset_id == row.dataset_id)
    with workshop.database.reading() as session:
        return session.exec(query).first() is not None


def _finish(workshop: Workshop, record: TuningRecord, version: ModelVersion) -> None:
    """Keep the figures as a file, give the version its second name: one transaction, so that it happens once."""
    database, directory = workshop.database, workshop.settings.directory
    with database.reading() as session:
        content = metrics_csv(all_steps(session, record.row.id))
    now, kept = workshop.clock(), None
    with Upload(directory, len(content), now, FOLDER) as upload:
        upload.write(content)
        upload.end()
        try:
            with database.session() as session:
                record.confirm(session)
                row = session.get_one(Tuning, record.row.id, with_for_update=True, populate_existing=True)
                kept = keep_file(
                    session, directory, upload, "step_metrics.csv", RESULTS, Actor(row.owner, row.key_id), now
                )
                fields = {
                    "state": "succeeded",
                    "wanted": None,
                    "version": version.number,
                    "alias": alias_of(row),
                    "result_file": kept.id,
                    "trained_tokens": int(version.facts.get("tokens", 0)),
                    "hyperparameters": _used(row, version.facts),
                    "finished": now.timestamp(),
                }
                text = f"Succeeded: {alias_of(row)} is {row.model}@{version.number}"
                write(row, text, now, fields, kind="succeeded")
                session.add(row)
                session.commit()
        except BaseException:
            if kept is not None:
                drop_bytes(directory, kept.id)
            raise
    record.row = row


def metrics_csv(steps: Sequence[TrainingStep]) -> bytes:
    """The figures of a training, a line a step; the first three columns are called as in OpenAI's."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for one in steps:
        lines.writerow(
            (
                one.step,
                one.loss,
                one.validation_loss,
                one.epoch,
                one.learning_rate,
                one.gradient_norm,
                one.tokens_per_second,
            )
        )
    return text.getvalue().encode()


def _used(row: Tuning, facts: dict[str, Any]) -> dict[str, Any]:
    used = {
        "n_epochs": facts.get("epochs"),
        "batch_size": facts.get("batch"),
        "learning_rate_multiplier": 1.0,
        "learning_rate": facts.get("learning_rate"),
        "rank": facts.get("rank"),
        "alpha": facts.get("alpha"),
    }
    if row.method == "dpo":
        used["beta"] = BETA
    return {name: value for name, value in used.items() if value is not None} | row.hyperparameters


def _leave(workshop: Workshop, record: TuningRecord, wanted: str) -> None:
    if wanted == "pause":
        record.change("Paused; what was reached is kept", "left", state="paused", wanted=None)
        return
    ended = workshop.clock().timestamp()
    record.change("Cancelled; nothing was kept", "left", state="cancelled", wanted=None, finished=ended)


def _fail(record: TuningRecord, code: str, message: str, param: str | None = None) -> None:
    record.fail(f"Failed: {message}", {"code": code, "message": message, "param": param})
