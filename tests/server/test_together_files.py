"""Files as Together's own client sends, lists, reads and deletes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from feedback.access.keys import hash_secret, revoke_key
from tests.server.inside import Inside
from tests.server.openai_client import team
from tests.server.test_access import bearing, make_key
from tests.server.test_audit import log
from tests.server.test_files import left
from tests.server.test_fine_tuning import chats
from tests.server.together_client import Client, clients, together

FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture
def theirs(gateway: Inside) -> Iterator[Client]:
    with clients(gateway) as made:
        yield made


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(chats(3))
    return path


def announced(gateway: Inside, headers: dict[str, str] | None = None, **more: str) -> Any:
    fields = {"purpose": "fine-tune", "file_name": "a.jsonl", "file_type": "jsonl"} | more
    form = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    return gateway.call("POST", "/together/v1/files", (form + "--x--\r\n").encode(), FORM | (headers or {}))


def path_in(location: str) -> str:
    assert location.startswith("http://127.0.0.1:8000/together/")
    return location.removeprefix("http://127.0.0.1:8000")


def test_a_file_is_sent_listed_read_and_deleted(gateway: Inside, theirs: Client, rows: Path) -> None:
    ours = theirs("none")
    sent = ours.files.upload(rows)
    assert (sent.filename, sent.bytes, sent.purpose, sent.file_type, sent.processing_status) == (
        "rows.jsonl",
        len(chats(3)),
        "fine-tune",
        "jsonl",
        "COMPLETED",
    )
    read = ours.files.retrieve(sent.id)
    assert (read.id, read.bytes, read.created_at) == (sent.id, sent.bytes, sent.created_at)
    assert ours.files.list().data == [read]
    assert ours.files.content(sent.id).read() == chats(3)
    assert left(gateway) == [sent.id.removeprefix("file-")]
    seen = gateway.call("GET", f"/v1/files/{sent.id}").json  # the same room, by the other door
    assert (seen["bytes"], seen["purpose"]) == (sent.bytes, "fine-tune")
    done = ours.files.delete(sent.id)
    assert (done.id, done.deleted) == (sent.id, True)
    assert left(gateway) == []
    for call in (ours.files.retrieve, ours.files.content, ours.files.delete):
        with pytest.raises(together.NotFoundError):
            call(sent.id)


@pytest.mark.parametrize(
    ("purpose", "name", "content", "ours"),
    [
        ("eval", "a.csv", b"question,answer\na,b\n", "evals"),
        ("batch-api", "a.jsonl", b'{"custom_id": "1"}\n', "batch"),
        ("fine-tune", "a.parquet", b"PAR1 and more", "fine-tune"),
    ],
)
def test_purposes_and_types_are_called_as_there(
    gateway: Inside, theirs: Client, tmp_path: Path, purpose: Any, name: str, content: bytes, ours: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    sent = theirs("none").files.upload(path, purpose=purpose, check=False)
    assert (sent.purpose, sent.file_type) == (purpose, name.rpartition(".")[2])
    assert gateway.call("GET", f"/v1/files/{sent.id}").json["purpose"] == ours


def test_a_file_with_bad_lines_is_refused_with_the_line(
    gateway: Inside, theirs: Client, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n[1]\n')
    with pytest.raises(together.APIStatusError, match="line 2: must be a JSON object"):
        theirs("none").files.upload(path, check=False)
    assert left(gateway) == []
    with pytest.raises(Exception, match="Invalid file supplied"):  # the client's own check
        theirs("none").files.upload(path)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "calibration"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({"file_type": "txt"}, "file_type"),
        ({"file_name": "a.csv"}, "file_name"),
        ({"checksum": "abc"}, "checksum"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_announced_wrongly_is_refused_by_name(
    gateway: Inside, fields: dict[str, str], param: str
) -> None:
    told = announced(gateway, **fields)
    assert (told.status, told.json["error"]["param"]) == (400, param)


def test_what_came_is_what_was_announced_and_comes_once(gateway: Inside) -> None:
    content = chats(1)
    other = path_in(announced(gateway, checksum="0" * 64).headers["location"])
    told = gateway.call("PUT", other, content)
    assert (told.status, told.json["error"]["param"]) == (400, "checksum")
    told = announced(gateway, checksum=hashlib.sha256(content).hexdigest())
    assert told.status == 302
    path, identifier = path_in(told.headers["location"]), told.headers["x-together-file-id"]
    empty = gateway.call("PUT", path, b"")
    assert (empty.status, empty.json["error"]["param"]) == (400, "file")
    assert gateway.call("PUT", path, content).json["id"] == identifier
    assert gateway.call("PUT", path, content).status == 409
    assert left(gateway) == [identifier.removeprefix("file-")]
    server = msgspec.structs.replace(gateway.settings.server, upload_limit=10)
    gateway.gateway.settings = msgspec.structs.replace(gateway.settings, server=server)
    assert gateway.call("PUT", path_in(announced(gateway).headers["location"]), content).status == 413


def test_a_ticket_is_good_for_its_own_file_its_own_key_and_an_hour(gateway: Inside) -> None:
    secret = make_key(gateway, "train", owner="ann")
    told = announced(gateway, bearing(secret))
    path, identifier = path_in(told.headers["location"]), told.headers["x-together-file-id"]
    address, ticket = path.split("?ticket=")
    payload, signature = ticket.split(".")
    another = path_in(announced(gateway, bearing(secret)).headers["location"]).partition("?")[0]
    for wrong in (
        f"{address}?ticket=abc",
        f"{address}?ticket={payload}x.{signature}",
        f"{another}?ticket={ticket}",
    ):
        assert gateway.call("PUT", wrong, chats(1)).status == 403
    assert gateway.call("PUT", address, chats(1)).status == 400
    clock, gateway.gateway.now = gateway.gateway.now, lambda: clock().replace(year=clock().year + 1)
    assert "60 minutes" in gateway.call("PUT", path, chats(1)).json["error"]["message"]
    gateway.gateway.now = clock
    assert gateway.call("PUT", path, chats(1)).status == 200
    assert gateway.call("GET", f"/together/v1/files/{identifier}", None, bearing(secret)).status == 200
    late = path_in(announced(gateway, bearing(secret)).headers["location"])
    with gateway.gateway.database.session() as session:
        revoke_key(session, gateway.gateway.live.current.keys[hash_secret(secret)].id, clock())
        session.commit()
    gateway.gateway.live.refresh()
    assert gateway.call("PUT", late, chats(1)).status == 401


def test_the_address_is_the_one_that_the_client_called(gateway: Inside) -> None:
    secret = bearing(make_key(gateway, "train"))
    behind = announced(gateway, secret | {"host": "models.example", "x-forwarded-proto": "https"})
    assert behind.headers["location"].startswith("https://models.example/together/v1/files/file-")


def test_a_key_sees_its_own_files_and_an_admin_all(gateway: Inside, theirs: Client, rows: Path) -> None:
    ann, bob, ada, some = team(gateway, theirs)
    sent = ann.files.upload(rows)
    assert [one.id for one in ann.files.list().data] == [one.id for one in ada.files.list().data] == [sent.id]
    for other in (bob, some):
        assert other.files.list().data == []
        for call in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(together.NotFoundError):
                call(sent.id)
    with pytest.raises(together.PermissionDeniedError):
        theirs(make_key(gateway, "infer")).files.list()
    assert ada.files.delete(sent.id).deleted


def test_files_are_audited_in_the_name_of_who_announced_them(
    gateway: Inside, theirs: Client, rows: Path
) -> None:
    secret = make_key(gateway, "admin", owner="ada")
    sent = theirs(secret).files.upload(rows)
    theirs(secret).files.delete(sent.id)
    done = log(gateway, bearing(secret))
    assert [row["act"] for row in done] == ["file.upload", "file.delete"]
    assert {row["subject"] for row in done} == {sent.id.removeprefix("file-")}
