"""Datasets as folders, in the layouts that the `datasets` library writes and the Hub has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feedback.datasets.imported import intact
from feedback.errors import BadFieldError, BadInputError
from feedback.imports.reading import Reader, Reading
from feedback.imports.rows import BadRow, Row
from feedback.storage.database import Database
from tests.feedback.test_imports import take
from tests.feedback.world import World, settings_for


def table(first: int, count: int) -> Any:
    chats = [
        [{"role": "user", "content": f"q {number}"}, {"role": "assistant", "content": f"a {number}"}]
        for number in range(first, first + count)
    ]
    return pa.table({"messages": chats})


def saved(folder: Path, *shards: Any) -> Path:
    """As `Dataset.save_to_disk` leaves it: Arrow streams, and a state that names them."""
    folder.mkdir(parents=True)
    names = [f"data-{place:05d}-of-{len(shards):05d}.arrow" for place in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, shard.schema) as writer:
            writer.write_table(shard)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text('{"features": {}}')
    return folder


def both(folder: Path, *splits: str) -> Path:
    """As `DatasetDict.save_to_disk` leaves it."""
    for place, split in enumerate(splits):
        saved(folder / split, table(place * 10, place + 1))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    return folder


def asked(folder: Path, split: str = "") -> list[str]:
    rows = list(Reader(folder, folder.name, Reading(split=split)))
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.messages[0]["content"] for row in rows if isinstance(row, Row)]


def test_a_saved_dataset_is_read_through_all_its_shards(tmp_path: Path) -> None:
    assert asked(saved(tmp_path / "rows", table(0, 2), table(2, 2))) == ["q 0", "q 1", "q 2", "q 3"]


def test_of_several_splits_train_is_read_or_the_one_that_is_named(tmp_path: Path) -> None:
    folder = both(tmp_path / "rows", "test", "train")
    assert asked(folder) == ["q 10", "q 11"] and asked(folder, "test") == ["q 0"]
    with pytest.raises(BadFieldError, match="no split 'other'; there are: test, train"):
        asked(folder, "other")
    with pytest.raises(BadFieldError, match="name one with --split: sft_a, sft_b"):
        asked(both(tmp_path / "odd", "sft_a", "sft_b"))


def test_the_hubs_layout_and_files_by_hand_say_their_split_in_their_names(tmp_path: Path) -> None:
    hub, hand = tmp_path / "hub" / "data", tmp_path / "hand"
    hub.mkdir(parents=True)
    hand.mkdir()
    pairs = pa.table({"prompt": ["p"], "chosen": ["x"], "rejected": ["y"]})
    for name in ("train_prefs-00000-of-00002", "train_prefs-00001-of-00002", "test_prefs-00000-of-00001"):
        pq.write_table(pairs, hub / f"{name}.parquet")
    assert asked(hub.parent, "train_prefs") == ["p", "p"] and asked(hub.parent, "test_prefs") == ["p"]
    (hub.parent / "README.md").write_text("what it is")
    (hand / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (hand / "dev.jsonl").write_text('{"prompt": "c", "completion": "d"}\n')
    assert asked(hand) == ["a"] and asked(hand, "validation") == ["c"]
    (hand / "train.csv").write_text("prompt,completion\na,b\n")
    with pytest.raises(BadInputError, match=r"\.csv and \.jsonl files"):
        asked(hand)


def test_a_bad_row_is_counted_through_the_files_before_it(tmp_path: Path) -> None:
    folder = saved(tmp_path / "rows", table(0, 3), pa.table({"messages": [None]}))
    bad = [row for row in Reader(folder, "rows", Reading()) if isinstance(row, BadRow)]
    assert [row.line for row in bad] == [4]


def test_a_folder_without_rows_or_with_a_shard_missing_or_broken_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no files of rows"):
        asked(tmp_path)
    folder = saved(tmp_path / "rows", table(0, 1), table(1, 1))
    shard = folder / "data-00001-of-00002.arrow"
    shard.write_bytes(shard.read_bytes()[:300])
    with pytest.raises(BadInputError, match=r"data-00001-of-00002\.arrow: row 1: cannot be read as Arrow"):
        asked(folder)
    shard.unlink()
    with pytest.raises(BadInputError, match=r"data-00001-of-00002\.arrow of it is missing"):
        asked(folder)


def test_the_files_of_a_split_are_kept_and_proved_as_a_single_file_is(
    sqlite_database: Database, tmp_path: Path
) -> None:
    world = World(sqlite_database, settings_for(tmp_path))
    folder = both(tmp_path / "rows", "test", "train")
    entry = take(world, folder, reading=Reading(split="test")).entry
    assert entry is not None and (entry.rows, entry.name, entry.format) == (1, "rows", "chat in arrow")
    assert take(world, folder).rows == 2
    kept = world.settings.directory / "imports" / entry.id / "original"
    assert [file.name for file in kept.iterdir()] == ["00000.arrow"]
    assert intact(world.settings.directory, entry)
    (kept / "00000.arrow").write_bytes(b"other")
    assert not intact(world.settings.directory, entry)
