"""Whatever happens to a journal's files: what was acknowledged is read as it was written or reported, nothing is invented."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedback.errors import StorageError
from feedback.storage import segments as writing
from feedback.storage.frames import SEGMENT_HEAD, pack, seed
from feedback.storage.journal import Journal
from feedback.storage.journal_file import segment_path, segments
from feedback.storage.journal_reader import Entry, JournalReader
from feedback.storage.marks import read_marks
from feedback.storage.records import InferenceRecord
from tests.feedback.records import NOW, inference

COUNT = 40
_folders = itertools.count()


def _found(path: Path) -> list[Entry]:
    reader = JournalReader(path)
    try:
        found: list[Entry] = []
        position = reader.start()
        while entries := reader.read(position, 7):
            found += entries
            position = entries[-1].seq
        return found
    finally:
        reader.close()


def _dead(folder: Path, count: int = COUNT, largest: int | None = None) -> tuple[Path, list[InferenceRecord]]:
    """A journal whose owner is gone, with records of several lengths."""
    journal = Journal.open(folder, "os", NOW, limit=8 * largest if largest else 8 << 30)
    written = [inference(n, request="x" * (n * 37 % 700)) for n in range(count)]
    for start in range(0, count, 3):
        journal.append(written[start : start + 3])
    journal.close()
    return journal.path, written


def _account(found: list[Entry], written: list[InferenceRecord]) -> tuple[int, int]:
    """How many came back as they were and how many are told to be damaged; fails where one is wrong or passed over."""
    expected = 1
    sound = damaged = 0
    for entry in found:
        assert entry.first == expected, "a number is passed over"
        expected = entry.seq + 1
        if entry.record is None:
            damaged += entry.seq - entry.first + 1
        else:
            assert entry.record == written[entry.seq - 1]
            sound += 1
    return sound, damaged


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_damage_to_a_file_is_told_and_costs_no_more_than_it_touches(tmp_path: Path, data: Any) -> None:
    path, written = _dead(
        tmp_path / str(next(_folders)), largest=16 * 1024 if data.draw(st.booleans()) else None
    )
    victim = data.draw(st.sampled_from(segments(path))).path
    content = bytearray(victim.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "zero", "random", "delete", "insert", "cut", "twice"]))
    length = data.draw(st.integers(1, 300))
    piece = content[start : start + length]
    if kind == "flip":
        content[start] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "zero":
        content[start : start + length] = bytes(len(piece))
    elif kind == "random":
        content[start : start + length] = data.draw(st.binary(min_size=len(piece), max_size=len(piece)))
    elif kind == "delete":
        del content[start : start + length]
    elif kind == "insert":
        content[start:start] = data.draw(st.binary(min_size=1, max_size=50))
    elif kind == "cut":
        del content[start:]
    else:
        content[start:start] = piece
    victim.write_bytes(bytes(content))

    sound, damaged = _account(_found(path), written)

    assert sound + damaged == COUNT
    if kind != "cut":
        assert damaged <= 8, "a few hundred bytes touch a few records"


@pytest.mark.parametrize("which", range(3))
def test_a_file_that_is_gone_is_told(which: int, tmp_path: Path) -> None:
    path, written = _dead(tmp_path, 100, largest=16 * 1024)
    there = segments(path)
    gone = [there[0], there[len(there) // 2], there[-1]][which]
    gone.path.unlink()
    sound, damaged = _account(_found(path), written)
    assert sound + damaged == 100 and damaged > 5


def test_all_files_gone_but_the_marks_are_told(tmp_path: Path) -> None:
    path, written = _dead(tmp_path)
    for segment in segments(path):
        segment.path.unlink()
    assert _account(_found(path), written) == (0, COUNT)


def test_damaged_marks_cost_nothing_but_doing_it_again(tmp_path: Path) -> None:
    path, written = _dead(tmp_path)
    marks = path.with_suffix(".marks")
    for content in (b"", b"\xff" * 64, os.urandom(64), marks.read_bytes()[:11]):
        marks.write_bytes(content)
        assert _account(_found(path), written) == (COUNT, 0)
    marks.unlink()
    assert _account(_found(path), written) == (COUNT, 0)


def test_a_frame_that_was_never_finished_is_nobodys_loss(tmp_path: Path) -> None:
    path, written = _dead(tmp_path)
    (segment,) = segments(path)
    frame = pack(seed(path.name), COUNT + 1, [b'{"kind":"inference"}'])
    whole = segment.path.read_bytes()
    for cut in range(1, len(frame)):
        segment.path.write_bytes(whole + frame[:cut])
        assert _account(_found(path), written) == (COUNT, 0)


def test_an_acknowledged_record_whose_end_is_cut_off_is_told(tmp_path: Path) -> None:
    path, written = _dead(tmp_path)
    (segment,) = segments(path)
    whole = segment.path.read_bytes()
    for cut in (1, 30, 200):
        segment.path.write_bytes(whole[:-cut])
        assert _account(_found(path), written) == (COUNT - 1, 1)


def test_a_journal_of_a_newer_form_is_left_alone(tmp_path: Path) -> None:
    path, _ = _dead(tmp_path)
    (segment,) = segments(path)
    data = bytearray(segment.path.read_bytes())
    from feedback.storage import frames

    data[:SEGMENT_HEAD] = frames._SEGMENT.pack(frames._MAGIC, 2, path.name.encode()[:36], 1) + b"\0\0\0\0"
    head = bytes(data[: SEGMENT_HEAD - 4])
    data[SEGMENT_HEAD - 4 : SEGMENT_HEAD] = frames._SUM.pack(frames.crc32(head))
    segment.path.write_bytes(bytes(data))
    with pytest.raises(StorageError, match="form 2"):
        _found(path)


def test_a_frame_of_another_journal_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    path, written = _dead(tmp_path)
    (segment,) = segments(path)
    strange = pack(seed("another"), COUNT + 1, [b"{}"])
    segment.path.write_bytes(segment.path.read_bytes() + strange)
    assert _account(_found(path), written) == (COUNT, 0)


@pytest.mark.parametrize("room", [0, 1, 50, 700, 1500])
def test_a_write_that_breaks_off_leaves_nothing_and_the_next_goes_elsewhere(
    room: int, tmp_path: Path
) -> None:
    journal = Journal.open(tmp_path, "os", NOW)
    journal.append([inference(n) for n in range(3)])
    (segment,) = segments(journal.path)
    before = segment.path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + room, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            journal.append([inference(n) for n in range(3, 6)])
        assert segment.path.stat().st_size == before, "nothing of it is left"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (journal.last, read_marks(journal.path).standing) == (3, 3)
    later = [inference(n) for n in range(10, 14)]
    journal.append(later)
    assert [entry.record for entry in journal.read(3, 10)] == later
    assert [one.first for one in segments(journal.path)] == [1, 4]
    journal.close()
    assert [entry.record for entry in _found(journal.path)][3:] == later


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True
    ).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("sync", ["os", "disk"])
def test_a_full_disk_refuses_and_loses_nothing_and_is_written_again_when_there_is_room(
    sync: Literal["os", "disk"], small_disk: Path
) -> None:
    journal = Journal.open(small_disk, sync, NOW)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100 * 1024))
    standing: list[InferenceRecord] = []
    refused = 0
    for n in range(120):
        group = [inference(n, request="x" * 1500) for _ in range(1 + n % 3)]
        try:
            journal.append(group)
            standing += group
        except StorageError:
            refused += 1
        if n == 80:
            assert refused > 5
            ballast.unlink()
            journal.append([late := inference(n)])
            standing.append(late)
    assert [entry.record for entry in journal.read(0, 1000)] == standing
    journal.close()
    assert [entry.record for entry in _found(journal.path)] == standing


def test_a_file_that_somebody_deleted_under_its_writer_is_not_written_any_more(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "os", NOW)
    journal.append([inference(0)])
    segments(journal.path)[0].path.unlink()
    journal.forget(1)  # the drainer's next round
    journal.append([inference(1)])
    assert [entry.seq for entry in _found(journal.path)] == [2]
    journal.close()


def test_a_reader_beside_the_writer_sees_each_record_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LARGEST", 32 * 1024)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from feedback.storage.journal_reader import JournalReader\n"
        "from feedback.storage.marks import read_marks\n"
        "path, count = Path(sys.argv[1]), int(sys.argv[2])\n"
        "reader, position = JournalReader(path), 0\n"
        "while position < count:\n"
        "    goal = read_marks(path).standing\n"
        "    for entry in reader.read(position, 50, goal):\n"
        "        assert entry.record is not None and entry.first == entry.seq == position + 1, entry\n"
        "        assert entry.record.request == 'x' * (entry.seq * 37 % 3000), entry\n"
        "        position = entry.seq\n"
        "print(position)\n"
    )
    journal = Journal.open(tmp_path, "os", NOW)
    reader = subprocess.Popen(
        [sys.executable, "-c", program, str(journal.path), "5000"], stdout=subprocess.PIPE, text=True
    )
    number = 0
    while number < 5000:
        group = [
            inference(request="x" * (n * 37 % 3000)) for n in range(number + 1, number + 1 + number % 9 + 1)
        ]
        journal.append(group[: 5000 - number])
        number = journal.last
    told, _ = reader.communicate(timeout=60)
    assert told.strip() == "5000"
    assert len(segments(journal.path)) > 50
    journal.close()


def test_an_erasure_gets_files_that_are_not_full(tmp_path: Path) -> None:
    from feedback.storage.marks import want_gone

    journal = Journal.open(tmp_path, "os", NOW)
    journal.append([inference(n) for n in range(10)])
    want_gone(journal.path, 10)
    journal.append([inference(10)])
    journal.forget(5)
    assert [one.first for one in segments(journal.path)] == [1, 12], "a new one is begun at once"
    journal.append([inference(11)])
    journal.forget(11)
    assert [one.first for one in segments(journal.path)] == [12]
    assert segment_path(journal.path, 12).is_file()
    assert [entry.seq for entry in journal.read(11, 10)] == [12]
    journal.close()
