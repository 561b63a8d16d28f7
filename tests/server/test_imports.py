"""Files of training rows, sent to the gateway: taken in as the command does it, or not at all."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import msgspec
import pytest

from feedback.storage.tables import Feedback, RaterHold
from tests.server.inside import Answer, Inside
from tests.server.test_access import bearing, make_key
from tests.server.test_review import add, fresh, items

ROWS = [{"prompt": f"Where is parcel {n}?", "completion": f"At depot {n}."} for n in range(5)]


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def send(gateway: Inside, body: bytes, query: str = "", headers: dict[str, str] | None = None) -> Answer:
    return gateway.call("POST", f"/v1/imports?model=assistant{query}", body, headers)


def left(gateway: Inside) -> list[str]:
    folder = gateway.settings.directory / "imports"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_file_is_taken_in_and_listed_and_kept_as_it_was_sent(gateway: Inside) -> None:
    told = send(gateway, lines(ROWS), "&name=../../etc/parcels.jsonl&use=replay")
    assert told.status == 201, told.body
    entry = told.json["imported"]
    assert (entry["name"], entry["rows"], entry["use"]) == ("parcels.jsonl", 5, "replay")
    assert items(gateway.call("GET", "/v1/imports?model=assistant")) == [entry]
    assert gateway.call("GET", f"/v1/imports/{entry['id']}").json == entry
    kept = gateway.settings.directory / "imports" / entry["id"] / "original"
    assert kept.read_bytes() == lines(ROWS)
    assert left(gateway) == [entry["id"]]


def test_the_same_rows_are_taken_in_once(gateway: Inside) -> None:
    first = send(gateway, lines(ROWS))
    again = send(gateway, gzip.compress(lines(ROWS)))
    assert (again.status, again.json["known"]) == (200, True)
    assert again.json["imported"]["id"] == first.json["imported"]["id"]


def test_a_bad_row_is_named_and_nothing_is_taken_in(gateway: Inside) -> None:
    told = send(gateway, lines([*ROWS, {"prompt": "x", "completion": ""}]), "&name=a.jsonl")
    assert told.status == 400
    assert (told.json["bad_rows"], told.json["rows"]) == (1, 5)
    assert told.json["bad"][0]["line"] == 6
    assert "line 6" in told.json["error"]["message"] and "skip_bad" in told.json["error"]["message"]
    assert left(gateway) == [] and items(gateway.call("GET", "/v1/imports")) == []


def test_the_good_rows_are_taken_where_that_is_asked_for(gateway: Inside) -> None:
    told = send(gateway, lines([*ROWS, {"prompt": "x", "completion": ""}]), "&skip_bad=true")
    assert (told.status, told.json["imported"]["bad"]) == (201, 1)
    assert told.json["bad"][0]["line"] == 6


def test_columns_are_mapped(gateway: Inside) -> None:
    told = send(gateway, b"q,a\nWhere?,There.\n", "&name=t.csv&map=prompt%3Dq,answer%3Da")
    assert (told.status, told.json["imported"]["columns"]) == (201, {"prompt": "q", "answer": "a"})
    wrong = send(gateway, b"q,a\nWhere?,There.\n", "&name=t.csv&map=question%3Dq")
    assert (wrong.status, wrong.json["error"]["param"]) == (400, "map")


@pytest.mark.parametrize(
    ("body", "query", "status", "told"),
    [
        (b"", "", 400, "is empty"),
        (b"\xff\xfe\x00not text\n", "", 400, "UTF-8"),
        (gzip.compress(lines(ROWS))[:-9], "", 400, "cut short"),
        (lines(ROWS), "&format=xml", 400, "none of"),
        (lines(ROWS), "&use=fun", 400, "use"),
        (lines(ROWS), "&model=other", 404, "no [[model]]"),
    ],
    ids=["empty", "no text", "cut", "format", "use", "model"],
)
def test_what_cannot_be_taken_is_told_and_leaves_nothing(
    body: bytes, query: str, status: int, told: str, gateway: Inside
) -> None:
    address = "/v1/imports?" + (query.lstrip("&") if "model=" in query else "model=assistant" + query)
    answer = gateway.call("POST", address, body)
    assert (answer.status, told in answer.body.decode()) == (status, True), answer.body
    assert left(gateway) == []


def test_a_file_above_the_limit_is_refused_and_leaves_nothing(gateway: Inside) -> None:
    server = msgspec.structs.replace(gateway.settings.server, upload_limit=1000)
    gateway.gateway.settings = msgspec.structs.replace(gateway.settings, server=server)
    told = send(gateway, lines(ROWS * 20))
    assert (told.status, "upload_limit" in told.json["error"]["message"]) == (413, True)
    assert left(gateway) == []


def test_a_file_larger_than_other_bodies_may_be_is_taken(gateway: Inside) -> None:
    rows = [{"prompt": f"{n} " + "x" * 5000, "completion": str(n)} for n in range(1000)]
    assert len(lines(rows)) > gateway.settings.server.body_limit
    assert send(gateway, lines(rows)).json["imported"]["rows"] == 1000


def test_a_client_that_goes_away_leaves_nothing(gateway: Inside) -> None:
    async def leave() -> None:
        pieces = [b'{"prompt": "a', b'b", "completion"']

        async def receive() -> dict[str, Any]:
            if pieces:
                return {"type": "http.request", "body": pieces.pop(0), "more_body": True}
            return {"type": "http.disconnect"}

        async def tell(_message: dict[str, Any]) -> None:
            pass

        scope: Any = {
            "type": "http",
            "method": "POST",
            "path": "/v1/imports",
            "raw_path": b"/v1/imports",
            "query_string": b"model=assistant",
            "headers": [(b"host", b"127.0.0.1:8000"), (b"transfer-encoding", b"chunked")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "scheme": "http",
            "http_version": "1.1",
            "root_path": "",
            "asgi": {"version": "3.0"},
            "state": {},
        }
        await asyncio.wait_for(gateway.app(scope, receive, tell), 20)

    gateway.run(leave())
    assert left(gateway) == []


def test_who_may_not_train_a_model_cannot_send_rows_for_it(gateway: Inside) -> None:
    reviewer = bearing(make_key(gateway, "review"))
    assert send(gateway, lines(ROWS), headers=reviewer).status == 403
    elsewhere = bearing(make_key(gateway, "train", models=["other"]))
    assert send(gateway, lines(ROWS), headers=elsewhere).status == 403
    trainer = bearing(make_key(gateway, "train", owner="tess"))
    entry = send(gateway, lines(ROWS), headers=trainer).json["imported"]
    assert entry["created_by"] == "tess"
    assert gateway.call("GET", f"/v1/imports/{entry['id']}", None, elsewhere).status == 404


# -- what is held


def test_a_reviewer_reads_a_hold_and_decides_in_their_own_name(gateway: Inside) -> None:
    said_id, created = fresh(gateway)
    hold_id, _ = fresh(gateway)
    said = Feedback(
        id=said_id,
        inference_id=said_id,
        created=created,
        rater="new",
        rating=1,
        current=True,
        content_hash="0",
    )
    hold = RaterHold(
        id=hold_id,
        model="assistant",
        created=created,
        kind="group",
        target="g",
        feedback=[said_id],
        reason="many",
    )
    add(gateway, said, hold)
    rita = bearing(make_key(gateway, "review", owner="rita"))
    (shown,) = items(gateway.call("GET", "/v1/holds?state=held", None, rita))
    assert (shown["id"], shown["reason"]) == (hold_id, "many")
    told = gateway.call("GET", f"/v1/holds/{hold_id}", None, rita).json
    assert [one["rater"] for one in told["said"]] == ["new"]
    done = gateway.call("POST", f"/v1/holds/{hold_id}/decide", {"action": "release"}, rita)
    assert (done.json["state"], done.json["decided_by"]) == ("released", "rita")
    other = gateway.call("POST", f"/v1/holds/{hold_id}/decide", {"action": "uphold"}, rita)
    assert other.status == 409
    assert items(gateway.call("GET", "/v1/holds?state=held", None, rita)) == []
