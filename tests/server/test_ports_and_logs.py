"""Ports, logs and the data directory: what is looked at before anything starts, and what is kept of what ran."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback.errors import StorageError, UnavailableError
from server.processes.claim import Claim, prepare
from server.processes.logfile import KEPT, last_words, open_log, trim_log
from server.processes.ports import Listener, check_free, reachable_host, url_of
from tests.server.served import free_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield int(listener.getsockname()[1])


def test_a_port_in_use_is_named_with_its_key_and_what_to_do(taken: int) -> None:
    with pytest.raises(UnavailableError) as raised:
        check_free(Listener("127.0.0.1", taken, "[server] port", "set another one, or give --port"))
    assert str(raised.value) == (
        f"[server] port = {taken}: port {taken} on 127.0.0.1 is in use; set another one, or give --port"
    )


def test_a_port_on_all_addresses_is_in_use_when_one_address_has_it(taken: int) -> None:
    with pytest.raises(UnavailableError, match="in use"):
        check_free(Listener("0.0.0.0", taken, "[server] port"))


def test_a_port_shared_by_its_listener_counts_as_taken() -> None:
    """Workers share their port; without this a second server would silently take half of the first one's requests."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with pytest.raises(UnavailableError, match="in use"):
            check_free(Listener("127.0.0.1", listener.getsockname()[1], "[server] port"))


def test_a_free_port_is_free_again_after_the_look() -> None:
    port = free_port()
    check_free(Listener("127.0.0.1", port, "[server] port"))
    check_free(Listener("127.0.0.1", port, "[server] port"))


def test_a_host_that_is_not_this_machines_is_said_to_be_so() -> None:
    with pytest.raises(UnavailableError, match=r"has no address 192\.0\.2\.1"):
        check_free(Listener("192.0.2.1", 18000, "[server] port"))
    with pytest.raises(UnavailableError, match=r"'no\.such\.host\.invalid' is not known"):
        check_free(Listener("no.such.host.invalid", 18000, "[server] port"))


def test_an_address_for_everyone_is_reached_by_loopback() -> None:
    assert reachable_host("0.0.0.0") == "127.0.0.1"
    assert url_of("::", 8000) == "http://[::1]:8000"
    assert url_of("10.0.0.7", 8000) == "http://10.0.0.7:8000"


def test_logs_of_former_starts_are_kept_up_to_a_few(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    for number in range(KEPT + 3):
        with open_log(path) as log:
            log.write(b"start %d" % number)
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {"engine.log": "start 7"} | {
        f"engine.log.{n}": f"start {7 - n}" for n in range(1, KEPT + 1)
    }


def test_a_log_that_grew_too_large_is_set_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    with open_log(path) as log:
        log.write(b"x" * 100 + b"the end")
        log.flush()
        trim_log(path, limit=50)
        log.write(b"after")
    assert path.read_bytes() == b"after"
    assert (tmp_path / "engine.log.1").read_bytes() == b"x" * 43 + b"the end"


def test_the_last_words_of_a_child_are_its_last_words(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_bytes(b"one\ntwo  \n\n\xff three\n\n")
    assert last_words(path, 2) == ["two", "\ufffd three"]
    assert last_words(tmp_path / "none") == []


def test_lines_that_tell_of_an_error_go_before_the_noise_after_it(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_text("loading\nValueError: not enough memory\nleaked function\nsee the documentation\n")
    assert last_words(path) == ["ValueError: not enough memory"]
    path.write_text("usage: api_server\napi_server.py: error: unrecognized arguments: --nonsense\n")
    assert last_words(path) == ["api_server.py: error: unrecognized arguments: --nonsense"]


def test_a_data_directory_that_cannot_be_made_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        StorageError, match=r"file/data: the data directory cannot be written to .*--data-dir"
    ):
        prepare(tmp_path / "file" / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_data_directory_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written to"):
        prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_released_claim_can_be_taken_again(tmp_path: Path) -> None:
    Claim(tmp_path, "up").release()
    Claim(tmp_path, "up").release()
