"""An erased user in kept files: their lines go, with what a batch answered to them, and nobody else's."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Callable
from typing import Any

import openai
import pytest

from feedback.files.stored import path_of
from feedback.privacy import kept_lines
from feedback.registry.soundness import changed_files
from feedback.storage.file_table import StoredFile
from tests.server.inside import HELLO, Answer, Inside
from tests.server.openai_client import Client
from tests.server.test_batches import CHAT, begin, ended, lines_of
from tests.server.upstream import FakeEngine

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

USER = "zqx-somebody"


def request(number: int, user: str | None, **body: Any) -> dict[str, Any]:
    asked = {**HELLO, "messages": [{"role": "user", "content": f"about {user} {number}"}], **body}
    if user is not None:
        asked["user"] = user
    return {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": asked}


def erase(gateway: Inside) -> Answer:
    return gateway.call("POST", "/v1/erase", {"user": USER})


def test_a_users_requests_and_the_answers_to_them_go_out_of_a_batches_files(
    gateway: Inside, engine: FakeEngine, client: Client
) -> None:
    engine.answer = lambda body: f"echo {body['messages'][-1]['content']}"
    ours = client("none")
    lines = [request(number, USER if number % 3 == 0 else "ann") for number in range(9)]
    lines[3]["body"]["store"] = False  # of which the record does not know the user
    done = ended(gateway, ours, begin(ours, lines).id)
    assert done.status == "completed" and done.output_file_id is not None
    told = erase(gateway)
    assert told.status == 200, told.body
    assert told.json["counts"]["file_lines"] == 6
    kept = [
        json.loads(line)["custom_id"] for line in ours.files.content(done.input_file_id).read().splitlines()
    ]
    assert kept == ["r1", "r2", "r4", "r5", "r7", "r8"]
    assert list(lines_of(ours, done.output_file_id)) == kept
    folder = gateway.settings.directory / "files"
    assert all(USER.encode() not in path.read_bytes() for path in folder.iterdir())
    listed = ours.files.retrieve(done.output_file_id)
    assert listed.bytes == path_of(gateway.settings.directory, listed.id.removeprefix("file-")).stat().st_size
    assert list(changed_files(gateway.gateway.database, gateway.settings.directory)) == []


def test_a_batch_under_way_with_a_users_requests_is_told_of_and_nothing_is_erased(
    gateway: Inside, engine: FakeEngine, client: Client
) -> None:
    engine.delay = 0.3
    ours = client("none")
    begun = begin(ours, [request(number, USER) for number in range(300)])
    gateway.eventually(lambda: bool(ours.batches.retrieve(begun.id).request_counts.completed))  # type: ignore[union-attr]
    refused = erase(gateway)
    assert refused.status == 409 and begun.id in refused.json["error"]["message"]
    ours.files.delete(begun.input_file_id)  # its answers name the user still
    assert erase(gateway).status == 409
    ours.batches.cancel(begun.id)
    done = ended(gateway, ours, begun.id)
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    assert erase(gateway).status == 200
    for file in (done.output_file_id, done.error_file_id):
        assert file is None or ours.files.content(file).read() == b""


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("packing", list(PACKED))
def test_a_training_file_stays_packed_as_it_was_and_keeps_what_others_said(
    gateway: Inside, client: Client, packing: str
) -> None:
    rows = [
        {"messages": [], "user": USER},
        {"messages": [], "metadata": {"user_id": USER}},
        {"messages": [{"role": "user", "content": f"I am not {USER}"}], "user": "ann"},
        {"messages": [], "user": "zqx-somebody-else"},
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    ours = client("none")
    sent = ours.files.create(file=("rows.jsonl", PACKED[packing](content)), purpose="fine-tune")
    other = ours.files.create(file=("other.bin", USER.encode()), purpose="user_data")
    assert erase(gateway).json["counts"]["file_lines"] == 2
    left = ours.files.content(sent.id).read()
    unpack: Any = {"plain": bytes, "gzip": gzip.decompress, "zstd": zstd.decompress}[packing]
    assert [json.loads(line) for line in unpack(left).splitlines()] == rows[2:]
    assert ours.files.content(other.id).read() == USER.encode()
    with gateway.gateway.database.reading() as session:
        row = session.get_one(StoredFile, sent.id.removeprefix("file-"))
    assert (row.bytes, row.hash) == (len(left), hashlib.sha256(left).hexdigest())
    assert "file_lines" not in erase(gateway).json["counts"]


def test_who_is_killed_over_it_finds_the_rest(
    gateway: Inside, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = client("none")
    done = ended(gateway, ours, begin(ours, [request(1, USER), request(2, "ann")]).id)
    whole, seen = kept_lines._rewrite, []

    def deadly(*values: Any) -> int:
        seen.append(values)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return whole(*values)

    directory, database = gateway.settings.directory, gateway.gateway.database
    with monkeypatch.context() as once:
        once.setattr(kept_lines, "_rewrite", deadly)
        with pytest.raises(KeyboardInterrupt):
            kept_lines.erase_lines(database, directory, USER, ())
    assert kept_lines.erase_lines(database, directory, USER, ()) == 1
    assert list(lines_of(ours, done.output_file_id)) == ["r2"]
    assert USER.encode() not in ours.files.content(done.input_file_id).read()


def test_verify_tells_of_kept_files_that_changed_or_are_gone(gateway: Inside, client: Client) -> None:
    ours: openai.OpenAI = client("none")
    ids = [ours.files.create(file=("a", b"abc"), purpose="user_data").id for _ in range(3)]
    directory, database = gateway.settings.directory, gateway.gateway.database
    paths = [path_of(directory, one.removeprefix("file-")) for one in ids]
    assert list(changed_files(database, directory)) == []
    paths[0].write_bytes(b"abd")
    paths[1].unlink()
    assert list(changed_files(database, directory)) == [
        f"{ids[0]}: its bytes are not those that were sent",
        f"{ids[1]}: its bytes are gone",
    ]
