"""Files that clients keep here, by the official client's own requests: whole, in parts, and nobody else's."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import openai
import pytest

from feedback.files.parts import sweep_uploads
from feedback.ids import new_id
from feedback.storage.file_table import StoredFile
from tests.server.inside import Inside
from tests.server.openai_client import Client, team
from tests.server.test_access import make_key

ROWS = b'{"messages": []}\n{"prompt": "a"}\n'


def left(gateway: Inside) -> list[str]:
    folder = gateway.settings.directory / "files"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def told(error: openai.APIStatusError) -> dict[str, Any]:
    assert isinstance(error.body, dict) and set(error.body) == {"message", "type", "param", "code"}
    return error.body


def test_a_file_is_sent_listed_read_and_deleted(gateway: Inside, client: Client) -> None:
    openai_client = client("none")
    sent = openai_client.files.create(file=("../rows.jsonl", ROWS), purpose="fine-tune")
    assert (sent.filename, sent.bytes, sent.purpose, sent.status) == (
        "rows.jsonl",
        len(ROWS),
        "fine-tune",
        "processed",
    )
    assert openai_client.files.retrieve(sent.id) == sent
    nameless = openai_client.files.create(file=(".", ROWS), purpose="user_data")
    assert nameless.filename == "file" and openai_client.files.delete(nameless.id).deleted
    assert openai_client.files.list().data == [sent]
    assert openai_client.files.list(purpose="batch").data == []
    assert openai_client.files.content(sent.id).read() == ROWS
    assert left(gateway) == [sent.id.removeprefix("file-")]
    assert openai_client.files.delete(sent.id).deleted
    assert left(gateway) == []
    with pytest.raises(openai.NotFoundError):
        openai_client.files.retrieve(sent.id)
    with pytest.raises(openai.NotFoundError):
        openai_client.files.content("file-abc")


def test_any_bytes_are_taken_as_user_data(client: Client) -> None:
    data = bytes(range(256)) * 10
    sent = client("none").files.create(file=("x.bin", data), purpose="user_data")
    assert client("none").files.content(sent.id).read() == data


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": 1}\n[1]\n', "line 2: must be a JSON object"),
        (b'{"a": 1}\n\n{"b": }\n', "line 3: is not JSON"),
        (b'{"a": 1}\nx\ny\n', "2 of 3 lines"),
        (b"\n\n", "is empty"),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}\nx\n', "line 2: is not JSON"),
    ],
    ids=["list", "broken", "many", "blank", "large"],
)
def test_a_file_with_bad_lines_is_refused_with_the_line(
    gateway: Inside, client: Client, content: bytes, problem: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client("none").files.create(file=("a.jsonl", content), purpose="fine-tune")
    body = told(caught.value)
    assert body["param"] == "file" and problem in body["message"]
    assert left(gateway) == []


def test_what_is_no_such_form_is_refused_by_name(gateway: Inside, client: Client) -> None:
    openai_client = client("none")
    for extra, param in (({"expires_after[anchor]": "created_at"}, "expires_after[anchor]"), ({}, "purpose")):
        with pytest.raises(openai.BadRequestError) as caught:
            openai_client.post(
                "/files",
                cast_to=object,
                body=extra or None,
                files={"file": ("a.jsonl", ROWS)},
                options={"headers": {"content-type": "multipart/form-data"}},
            )
        assert told(caught.value)["param"] == param
    for purpose in ("vision", ""):
        with pytest.raises(openai.BadRequestError) as caught:
            openai_client.files.create(file=("a.jsonl", ROWS), purpose=purpose)  # type: ignore[arg-type]
        assert told(caught.value)["param"] == "purpose"
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.files.list(extra_query={"colour": "red"})
    assert told(caught.value)["param"] == "colour"
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.files.list(after="nothing")
    assert told(caught.value)["param"] == "after"
    assert gateway.call("POST", "/v1/files", {"purpose": "batch"}).status == 400
    cut = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    broken = gateway.call("POST", "/v1/files", cut, {"content-type": "multipart/form-data; boundary=x"})
    assert (broken.status, "cut short" in broken.json["error"]["message"]) == (400, True)
    assert left(gateway) == []


def test_a_file_that_is_too_large_leaves_nothing(gateway: Inside, client: Client) -> None:
    server = msgspec.structs.replace(gateway.settings.server, upload_limit=1000)
    gateway.gateway.settings = msgspec.structs.replace(gateway.settings, server=server)
    with pytest.raises(openai.APIStatusError) as caught:
        client("none").files.create(file=("a.jsonl", ROWS * 40), purpose="user_data")
    assert (caught.value.status_code, "upload_limit" in told(caught.value)["message"]) == (413, True)
    assert left(gateway) == []


def test_a_key_sees_its_own_files_and_an_admin_all(gateway: Inside, client: Client) -> None:
    ann, bob, ada, some = team(gateway, client)
    sent = ann.files.create(file=("a.jsonl", ROWS), purpose="fine-tune")
    begun = ann.uploads.create(bytes=3, filename="a", mime_type="text/plain", purpose="user_data")
    assert begun.ignored == ["mime_type"]  # type: ignore[attr-defined]
    assert [one.id for one in ann.files.list()] == [one.id for one in ada.files.list()] == [sent.id]
    for other in (bob, some):
        assert list(other.files.list()) == []
        for call in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                call(sent.id)
        with pytest.raises(openai.NotFoundError):
            other.uploads.parts.create(begun.id, data=b"abc")
        with pytest.raises(openai.NotFoundError):
            other.uploads.cancel(begun.id)
    with pytest.raises(openai.PermissionDeniedError):
        client(make_key(gateway, "infer")).files.list()
    assert ada.files.delete(sent.id).deleted


def test_a_list_is_paged_both_ways(gateway: Inside, client: Client) -> None:
    now = gateway.gateway.now()
    plain: dict[str, Any] = {"name": "a", "purpose": "batch", "bytes": 1, "hash": "0", "owner": "ann"}
    ids = [new_id(now + timedelta(seconds=number)) for number in range(1000)]
    with gateway.gateway.database.session() as session:
        session.add_all([StoredFile(id=one, created=0.0, **plain) for one in ids])
        session.commit()
    openai_client = client("none")
    newest = openai_client.files.list(limit=400)
    assert (len(newest.data), newest.has_more) == (400, True)
    assert [one.id.removeprefix("file-") for one in newest] == ids[
        ::-1
    ]  # the client asks for page after page
    assert [one.id.removeprefix("file-") for one in openai_client.files.list(order="asc", limit=600)] == ids


# -- in parts


def test_parts_are_put_together_in_the_order_that_is_named(gateway: Inside, client: Client) -> None:
    openai_client = client("none")
    begun = openai_client.uploads.create(
        bytes=len(ROWS), filename="rows.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    assert (begun.status, begun.object, begun.file) == ("pending", "upload", None)
    second, first = (
        openai_client.uploads.parts.create(begun.id, data=data).id for data in (ROWS[10:], ROWS[:10])
    )
    for wrong, param in (([first], "part_ids"), ([first, first], "part_ids[1]"), (["x"], "part_ids[0]")):
        with pytest.raises(openai.BadRequestError) as caught:
            openai_client.uploads.complete(begun.id, part_ids=wrong)
        assert told(caught.value)["param"] == param
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.uploads.complete(begun.id, part_ids=[first, second], md5="0" * 32)
    assert told(caught.value)["param"] == "md5"
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.uploads.complete(begun.id, part_ids=[second, first])
    assert "line 1" in told(caught.value)["message"]
    md5 = hashlib.md5(ROWS).hexdigest()
    done = openai_client.uploads.complete(begun.id, part_ids=[first, second], md5=md5)
    assert done.status == "completed" and done.file is not None
    assert openai_client.files.content(done.file.id).read() == ROWS
    assert left(gateway) == [done.file.id.removeprefix("file-")]
    with pytest.raises(openai.ConflictError):
        openai_client.uploads.cancel(begun.id)


def test_parts_that_are_more_than_was_announced_are_refused(client: Client) -> None:
    openai_client = client("none")
    begun = openai_client.uploads.create(bytes=5, filename="a", mime_type="x/y", purpose="user_data")
    openai_client.uploads.parts.create(begun.id, data=b"abc")
    with pytest.raises(openai.APIStatusError) as caught:
        openai_client.uploads.parts.create(begun.id, data=b"abc")
    assert caught.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as caught:
        openai_client.uploads.create(bytes=10**12, filename="a", mime_type="x/y", purpose="user_data")
    assert caught.value.status_code == 413


def test_what_is_given_up_or_forgotten_leaves_nothing(gateway: Inside, client: Client) -> None:
    openai_client = client("none")
    begun = [
        openai_client.uploads.create(bytes=5, filename="a", mime_type="x/y", purpose="user_data")
        for _ in range(2)
    ]
    for one in begun:
        openai_client.uploads.parts.create(one.id, data=b"abc")
    assert openai_client.uploads.cancel(begun[0].id).status == "cancelled"
    assert len(left(gateway)) == 1
    directory = gateway.settings.directory
    sweep_uploads(gateway.gateway.database, directory, gateway.gateway.now() + timedelta(minutes=59))
    assert len(left(gateway)) == 1
    sweep_uploads(gateway.gateway.database, directory, gateway.gateway.now() + timedelta(minutes=61))
    assert left(gateway) == []
    with pytest.raises(openai.ConflictError, match="expired"):
        openai_client.uploads.parts.create(begun[1].id, data=b"abc")


# -- as it comes


def _sending(gateway: Inside, pieces: Iterator[bytes], ends: bool) -> int:
    """A form that comes in these pieces; without an end, the client goes away. The status."""
    head = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    )

    def form() -> Iterator[dict[str, Any]]:
        yield {"type": "http.request", "body": head, "more_body": True}
        for piece in pieces:
            yield {"type": "http.request", "body": piece, "more_body": True}
        if ends:
            yield {"type": "http.request", "body": b"\r\n--x--\r\n", "more_body": False}
        while True:
            yield {"type": "http.disconnect"}

    coming = form()
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return next(coming)

    async def tell(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"multipart/form-data; boundary=x")]
    scope: Any = {"type": "http", "method": "POST", "path": "/v1/files", "raw_path": b"/v1/files"}
    scope |= {"query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http"}
    scope |= {"server": ("127.0.0.1", 8000), "http_version": "1.1", "root_path": "", "state": {}}
    scope |= {"asgi": {"version": "3.0"}}
    gateway.run(asyncio.wait_for(gateway.app(scope, receive, tell), 25))
    return statuses[0]


def test_a_large_file_is_never_held_whole(gateway: Inside) -> None:
    piece = b"x" * (1 << 16)
    tracemalloc.start()
    status = _sending(gateway, (piece for _ in range(640)), ends=True)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert status == 200
    (name,) = left(gateway)
    assert (gateway.settings.directory / "files" / name).stat().st_size == 640 << 16
    assert most < 16 << 20


def test_a_client_that_goes_away_leaves_nothing(gateway: Inside) -> None:
    assert _sending(gateway, iter([b"abc"] * 3), ends=False) == 400
    assert left(gateway) == []
    assert json.loads(gateway.call("GET", "/v1/files").body)["data"] == []
