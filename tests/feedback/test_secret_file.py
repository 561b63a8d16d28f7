"""A secret is made once, read by its owner alone, and replaced in one step."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from feedback.access.secret_file import read_or_create, read_secret, replace_secret
from feedback.errors import StorageError


def test_where_there_is_no_file_there_is_no_secret(tmp_path: Path) -> None:
    assert read_secret(tmp_path / "secret") is None


def test_the_first_secret_stands_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert read_or_create(path, "first") == "first"
    assert read_or_create(path, "second") == "first" == read_secret(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_of_many_that_make_it_at_once_all_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(lambda n: read_or_create(path, f"secret-{n}"), range(64)))
    assert secrets == {read_secret(path)}
    assert [file.name for file in tmp_path.iterdir()] == ["secret"], "no draft is left"


def test_a_secret_is_replaced_whole_while_others_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    long = {letter * 5000 for letter in "ab"}
    replace_secret(path, "a" * 5000)
    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(lambda: {read_secret(path) for _ in range(200)}) for _ in range(3)]
        for letter in "ba" * 50:
            replace_secret(path, letter * 5000)
        assert set().union(*(reader.result() for reader in readers)) <= long
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_a_file_that_holds_no_secret_is_said_rather_than_taken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"secret: (is empty; delete it|cannot be read)"):
        read_or_create(path, "other")
    assert path.read_bytes() == content


def test_a_place_that_takes_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        read_or_create(tmp_path / "missing" / "secret", "first")
