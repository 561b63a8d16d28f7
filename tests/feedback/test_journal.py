"""The journal: what it has acknowledged stands in its file, and damage to it never passes in silence."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from feedback.errors import StorageError
from feedback.storage import journal_file
from feedback.storage.journal import Journal
from feedback.storage.journal_file import JournalReader, UnreadableJournalError
from feedback.storage.records import InferenceRecord, Record, decode, encode
from tests.feedback.records import NOW, feedback, inference


@pytest.fixture(params=["os", "disk"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path, request.param, NOW)
    yield opened
    opened.close()


def _records(journal: Journal) -> list[Record]:
    return [entry.record for entry in journal.read(0, 10_000) if entry.record is not None]


def test_records_come_back_as_they_were_written_and_in_order(journal: Journal) -> None:
    written = [
        inference(0),
        feedback(inference(0).id, tags=["tone"]),
        inference(1, metadata=None, stored=False),
    ]
    journal.append(written[:2])
    journal.append(written[2:])
    entries = journal.read(0, 10)
    assert [entry.record for entry in entries] == written
    assert [entry.seq for entry in entries] == [1, 2, 3]
    assert [entry.record for entry in journal.read(2, 10)] == written[2:]
    assert [entry.record for entry in journal.read(0, 2)] == written[:2]


def test_the_backlog_counts_what_is_not_safe_elsewhere_yet(journal: Journal) -> None:
    journal.append([inference(n) for n in range(5)])
    assert journal.backlog() == 5
    journal.forget(3)
    assert journal.backlog() == 2
    journal.forget(5)
    journal.append([inference(6)])
    assert journal.backlog() == 1
    assert [entry.seq for entry in journal.read(5, 10)] == [6]


def test_what_may_be_forgotten_goes_beside_later_writes_and_numbers_go_on(journal: Journal) -> None:
    journal.append([inference(n) for n in range(300)])
    journal.forget(300)
    for n in range(3):
        journal.append([inference(300 + n)])
    (first,) = journal.read(0, 1)
    assert first.seq > 200, "most of what was forgotten is deleted"
    assert [entry.seq for entry in journal.read(300, 10)] == [301, 302, 303]
    assert journal.backlog() == 3


def test_writing_nothing_does_nothing(journal: Journal) -> None:
    journal.append([])
    assert (journal.last, journal.read(0, 10)) == (0, [])


def _transactions(journal: Journal) -> list[str]:
    """What begins each transaction from now on: a BEGIN, or a statement outside of any."""
    begun: list[str] = []
    connection = journal._connection
    connection.set_trace_callback(lambda sql: None if connection.in_transaction else begun.append(sql))
    return begun


def test_many_records_of_one_turn_stand_together_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "os", NOW, limit=128 * 1024)
    begun = _transactions(journal)
    with pytest.raises(StorageError, match="full"):
        journal.append([inference(n, request="x" * 2000) for n in range(200)])
    assert journal.read(0, 10) == [] and journal.last == 0
    journal.append([inference(n) for n in range(100)])
    assert [entry.seq for entry in journal.read(0, 1000)] == list(range(1, 101))
    assert begun.count("BEGIN IMMEDIATE") == 2
    journal.close()


async def _turns(journal: Journal, path: Path) -> list[int]:
    """Rows that another connection sees after each of three turns."""
    seen = []
    outside = sqlite3.connect(path)
    for size in (1, 40, 7):
        await asyncio.gather(*(journal.write(inference(n)) for n in range(size)))
        seen.append(outside.execute("SELECT count(*) FROM entry").fetchone()[0])
    outside.close()
    return seen


def test_a_record_stands_when_its_write_resolves(journal: Journal) -> None:
    assert asyncio.run(_turns(journal, journal.path)) == [1, 41, 48]


def test_records_of_one_turn_share_a_transaction(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "os", NOW)
    begun = _transactions(journal)
    asyncio.run(_turns(journal, journal.path))
    assert len(begun) == 3
    journal.close()


def test_records_that_come_while_the_disk_is_busy_share_the_next_transaction(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "disk", NOW)
    begun = _transactions(journal)

    async def arrive(n: int) -> None:
        for _ in range(n % 7):
            await asyncio.sleep(0)
        await journal.write(inference(n))

    async def main() -> None:
        await asyncio.gather(*(arrive(n) for n in range(200)))

    asyncio.run(main())
    assert journal.last == 200
    assert 1 < len(begun) < 7
    journal.close()


def test_cancelling_the_wait_does_not_take_the_record_back(journal: Journal) -> None:
    async def main() -> None:
        gone = asyncio.ensure_future(journal.write(inference(1)))
        stays = asyncio.ensure_future(journal.write(inference(2)))
        await asyncio.sleep(0)
        gone.cancel()
        await stays
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(main())
    assert len(_records(journal)) == 2


def test_what_may_be_forgotten_is_deleted_soon_when_nothing_is_written(journal: Journal) -> None:
    async def main() -> None:
        await asyncio.gather(*(journal.write(inference(n)) for n in range(600)))
        await asyncio.to_thread(journal.forget, 600)
        deadline = time.monotonic() + 10
        while journal.read(0, 1) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    asyncio.run(main())
    assert journal.read(0, 1) == []


@pytest.mark.parametrize("sync", ["os", "disk"])
def test_a_full_journal_says_so_and_writes_again_once_it_is_drained(
    sync: Literal["os", "disk"], tmp_path: Path
) -> None:
    journal = Journal.open(tmp_path, sync, NOW, limit=256 * 1024)
    large = "x" * 20_000
    written = 0
    with pytest.raises(StorageError, match="full"):
        for n in range(100):
            journal.append([inference(n, request=large)])
            written += 1
    assert 5 < written < 14
    assert len(_records(journal)) == written, "a refused record must not stand"
    assert journal.backlog() == written
    journal.forget(written)
    journal.append([inference(200, request=large)])
    assert journal.backlog() == 1
    journal.close()


def test_every_write_of_a_turn_that_failed_is_told(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "os", NOW, limit=64 * 1024)

    async def main() -> list[BaseException | None]:
        return await asyncio.gather(
            *(journal.write(inference(n, request="x" * 30_000)) for n in range(4)), return_exceptions=True
        )

    assert [type(outcome) for outcome in asyncio.run(main())] == [StorageError] * 4
    assert journal.backlog() == 0
    journal.close()


def test_a_journal_with_nothing_left_deletes_itself(journal: Journal) -> None:
    journal.append([inference(0)])
    journal.forget(1)
    journal.close()
    assert list(journal.path.parent.iterdir()) == []


def test_a_journal_with_records_left_stays_for_the_next_start(journal: Journal) -> None:
    journal.append([inference(0)])
    journal.close()
    reader = JournalReader(journal.path)
    assert len(reader.read(0, 10)) == 1
    reader.close()
    descriptor = journal_file.lock(journal.path)
    assert descriptor is not None
    journal_file.release(descriptor)


def test_closing_writes_what_still_waits(journal: Journal) -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(journal.write(inference(0)))
        await asyncio.sleep(0)
        journal.close()
        await waiting

    asyncio.run(main())
    reader = JournalReader(journal.path)
    assert len(reader.read(0, 10)) == 1
    reader.close()


def test_a_journal_in_use_cannot_be_taken_by_another_process(journal: Journal) -> None:
    program = (
        "import sys; from pathlib import Path; from feedback.storage import journal_file; "
        "print(journal_file.lock(Path(sys.argv[1])))"
    )
    taken = subprocess.run(
        [sys.executable, "-c", program, str(journal.path)], capture_output=True, text=True, check=True
    )
    assert taken.stdout.strip() == "None"


def test_a_directory_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("in the way")
    with pytest.raises(StorageError, match="no journal can be written there"):
        Journal.open(tmp_path, "os", NOW)


def test_any_flipped_byte_of_a_row_is_noticed(journal: Journal) -> None:
    journal.append([inference(n) for n in range(3)])
    outside = sqlite3.connect(journal.path)
    body = outside.execute("SELECT body FROM entry WHERE seq = 2").fetchone()[0]
    for place in range(0, len(body), 37):
        flipped = bytearray(body)
        flipped[place] ^= 1
        with outside:
            outside.execute("UPDATE entry SET body = ? WHERE seq = 2", (bytes(flipped),))
        entries = journal.read(0, 10)
        assert [entry.record is None for entry in entries] == [False, True, False]
        assert entries[1].body == bytes(flipped)
    outside.close()


def test_a_row_under_another_number_is_noticed(journal: Journal) -> None:
    journal.append([inference(n) for n in range(2)])
    outside = sqlite3.connect(journal.path)
    with outside:
        outside.execute("DELETE FROM entry WHERE seq = 2")
        outside.execute("UPDATE entry SET seq = 2")
    outside.close()
    assert [entry.record for entry in journal.read(0, 10)] == [None]


def test_rows_gone_from_the_middle_are_noticed(journal: Journal) -> None:
    journal.append([inference(n) for n in range(5)])
    outside = sqlite3.connect(journal.path)
    with outside:
        outside.execute("DELETE FROM entry WHERE seq = 3")
    outside.close()
    with pytest.raises(UnreadableJournalError, match="gone"):
        journal.read(0, 10)


def test_what_can_be_read_of_a_damaged_file_is_salvaged(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "os", NOW)
    journal.append([inference(n) for n in range(200)])
    path = journal.path
    journal.close()  # the last connection moves the log into the file
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(bytes(data))
    reader = JournalReader(path)
    with pytest.raises(UnreadableJournalError):
        reader.read(0, 1000)
    saved = [entry for entry in reader.salvage() if entry.record is not None]
    assert 180 < len(saved) < 200
    reader.close()


def test_text_that_a_database_cannot_hold_is_replaced_before_it_is_acknowledged() -> None:
    written = encode(inference(output="a\0b\ud800c", metadata={"k\0": ["\0", 3]}))
    record = decode(written)
    assert isinstance(record, InferenceRecord)
    assert record.output == "a\ufffdb\ufffdc"
    assert record.metadata == {"k\ufffd": ["\ufffd", 3]}


def test_json_that_only_mentions_nul_is_kept_as_it_came() -> None:
    request = '{"messages":[{"role":"user","content":"\\u0000"}]}'
    assert decode(encode(inference(request=request))).request == request  # type: ignore[union-attr]
