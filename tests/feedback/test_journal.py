"""The journal: what it has acknowledged stands in its file, and damage to it never passes in silence."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest

from feedback.errors import StorageError
from feedback.storage import journal_file
from feedback.storage.journal import Journal
from feedback.storage.journal_file import segments
from feedback.storage.journal_reader import Entry, JournalReader
from feedback.storage.records import InferenceRecord, Record, decode, encode
from tests.feedback.records import NOW, feedback, inference


@pytest.fixture(params=["os", "disk"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path, request.param, NOW)
    yield opened
    opened.close()


def _found(path: Path) -> list[Entry]:
    """All that another process finds in a journal."""
    reader = JournalReader(path)
    try:
        return reader.read(0, 10_000)
    finally:
        reader.close()


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


def test_files_go_whole_once_all_in_them_is_safe_elsewhere(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "os", NOW, limit=8 * 64 * 1024)
    journal.append([inference(n) for n in range(100)])
    journal.append([inference(n) for n in range(100)])
    before = [one.first for one in segments(journal.path)]
    assert len(before) == 2
    journal.forget(99)
    assert [one.first for one in segments(journal.path)] == before, "one record of the first is not safe yet"
    journal.forget(100)
    assert [one.first for one in segments(journal.path)] == before[1:]
    assert [entry.seq for entry in journal.read(100, 1000)] == list(range(101, 201))
    journal.close()


def test_writing_nothing_does_nothing(journal: Journal) -> None:
    journal.append([])
    assert (journal.last, journal.read(0, 10)) == (0, [])


def _writes(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each write from now on holds."""
    sizes: list[int] = []
    write = journal._segments.write

    def counted(bodies: Sequence[bytes]) -> None:
        sizes.append(len(bodies))
        write(bodies)

    monkeypatch.setattr(journal._segments, "write", counted)
    return sizes


def test_many_records_of_one_turn_stand_together_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "os", NOW, limit=128 * 1024)
    with pytest.raises(StorageError, match="full"):
        journal.append([inference(n, request="x" * 2000) for n in range(200)])
    assert journal.read(0, 10) == [] and journal.last == 0
    journal.append([inference(n) for n in range(100)])
    assert [entry.seq for entry in journal.read(0, 1000)] == list(range(1, 101))
    journal.close()


async def _turns(journal: Journal) -> list[int]:
    """Records that another reader sees after each of three turns."""
    seen = []
    for size in (1, 40, 7):
        await asyncio.gather(*(journal.write(inference(n)) for n in range(size)))
        outside = JournalReader(journal.path)
        seen.append(len(outside.read(0, 1000)))
        outside.close()
    return seen


def test_a_record_stands_when_its_write_resolves(journal: Journal) -> None:
    assert asyncio.run(_turns(journal)) == [1, 41, 48]


def test_records_of_one_turn_share_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path, "os", NOW)
    sizes = _writes(journal, monkeypatch)
    asyncio.run(_turns(journal))
    assert sizes == [1, 40, 7]
    journal.close()


def test_records_that_come_while_the_disk_is_busy_share_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tmp_path, "disk", NOW)
    sizes = _writes(journal, monkeypatch)

    async def arrive(n: int) -> None:
        for _ in range(n % 7):
            await asyncio.sleep(0)
        await journal.write(inference(n))

    async def main() -> None:
        await asyncio.gather(*(arrive(n) for n in range(200)))

    asyncio.run(main())
    assert journal.last == sum(sizes) == 200
    assert 1 < len(sizes) < 7
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
    assert len(_found(journal.path)) == 1
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
    assert len(_found(journal.path)) == 1


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


def test_text_that_a_database_cannot_hold_is_replaced_before_it_is_acknowledged() -> None:
    written = encode(inference(output="a\0b\ud800c", metadata={"k\0": ["\0", 3]}))
    record = decode(written)
    assert isinstance(record, InferenceRecord)
    assert record.output == "a\ufffdb\ufffdc"
    assert record.metadata == {"k\ufffd": ["\ufffd", 3]}


def test_json_that_only_mentions_nul_is_kept_as_it_came() -> None:
    request = '{"messages":[{"role":"user","content":"\\u0000"}]}'
    assert decode(encode(inference(request=request))).request == request  # type: ignore[union-attr]


def test_what_comes_after_its_end_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "os", NOW)
    journal.close()
    with pytest.raises(StorageError, match="closed"):
        journal.append([inference(1)])
    assert list(journal.path.parent.iterdir()) == []
