"""The end of a batch: what came of its lines becomes kept files, one of answers and one of errors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from feedback.access.audit import Actor
from feedback.batches.kept import forget_answers, move
from feedback.files.stored import FOLDER, drop_bytes, keep_file
from feedback.imports.uploads import Upload
from feedback.storage.batch_table import BatchAnswer, RequestBatch
from feedback.storage.database import Database

PURPOSE = "batch_output"
_MOST = 1 << 50
_READ = 200


def end_batch(
    database: Database,
    directory: Path,
    row: RequestBatch,
    to: str,
    errors: list[dict[str, Any]],
    confirm: Callable[[Session], None],
    now: datetime,
) -> None:
    """Write the files, and bring the batch from its status to `to`, in one transaction; a file without a line is not made.

    Raises `StorageError`, and what `confirm` raises; nothing is left behind then, and it may be tried again.
    """
    kept: list[str] = []
    try:
        with (
            Upload(directory, _MOST, now, FOLDER) as output,
            Upload(directory, _MOST, now, FOLDER) as failed,
        ):
            with database.reading() as session:
                query = (
                    select(BatchAnswer).where(BatchAnswer.batch_id == row.id).order_by(col(BatchAnswer.line))
                )
                for one in session.exec(query, execution_options={"yield_per": _READ}):
                    (output if one.answered else failed).write(one.content.encode() + b"\n")
            output.end()
            failed.end()
            files: dict[str, str] = {}
            with database.session() as session:
                confirm(session)
                for upload, field, kind in (
                    (output, "output_file_id", "output"),
                    (failed, "error_file_id", "error"),
                ):
                    if upload.size:
                        name, actor = f"batch_{row.id}_{kind}.jsonl", Actor(row.owner, row.key_id)
                        file = keep_file(session, directory, upload, name, PURPOSE, actor, now)
                        kept.append(file.id)
                        files[field] = file.id
                if move(session, row, row.status, to, now, errors=errors, **files):
                    forget_answers(session, row.id)
                    session.commit()
                    kept.clear()
    finally:
        for file_id in kept:
            drop_bytes(directory, file_id)
