"""Every administrative route leaves a row in the audit log, and only when the act came about."""

from __future__ import annotations

import json
from typing import Any

import pytest
from litestar.routes import HTTPRoute

from feedback.ids import new_id
from feedback.storage.file_table import StoredFile
from feedback.storage.tables import Candidate, Case, Failure, RaterHold
from server.request import SCOPES
from tests.server.inside import Inside
from tests.server.test_access import bearing, make_key
from tests.server.versions import add_version

# They keep a case for a few minutes, announce a file or ask for a price, and decide nothing.
NOTHING_DECIDED = {
    ("POST", "/v1/failures/claim"),
    ("POST", "/v1/failures/{failure_id}/release"),
    ("POST", "/together/v1/files"),
    ("POST", "/together/v1/files/{file_id}/preprocess"),
    ("POST", "/together/v1/fine-tunes/estimate-price"),
}
# What the tests of files, of stored completions, of fine-tunings and of deleting a version call.
APART = {
    ("DELETE", "/v1/models/{name}"),
    ("DELETE", "/v1/chat/completions/{completion_id}"),
    ("POST", "/v1/files"),
    ("DELETE", "/v1/files/{file_id}"),
    ("DELETE", "/together/v1/files/{file_id}"),
    ("POST", "/together/v1/fine-tunes"),
    ("POST", "/together/v1/fine-tunes/{job_id}/cancel"),
    ("DELETE", "/together/v1/fine-tunes/{job_id}"),
    ("DELETE", "/together/v2/projects/{project_id}/models/{name}"),
    ("POST", "/v1/uploads"),
    ("POST", "/v1/uploads/{upload_id}/parts"),
    ("POST", "/v1/uploads/{upload_id}/complete"),
    ("POST", "/v1/uploads/{upload_id}/cancel"),
    ("POST", "/v1/fine_tuning/jobs"),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/pause"),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/resume"),
}
ANSWER = json.dumps({"intent": "refund", "urgency": "low"})


@pytest.fixture
def admin(gateway: Inside) -> dict[str, str]:
    return bearing(make_key(gateway, "admin", owner="ada"))


def log(gateway: Inside, admin: dict[str, str], query: str = "") -> list[dict[str, Any]]:
    """What the key's owner did, oldest first."""
    found = gateway.call("GET", f"/v1/audit{query}", None, admin)
    assert found.status == 200, found.body
    return [item for item in reversed(found.json["items"]) if item["actor"] != "gateway"]


def waiting(gateway: Inside) -> tuple[str, str, str]:
    """A failure case and two evaluation cases that wait for a person; their ids."""
    now = gateway.gateway.now()
    failure, first, second = new_id(now), new_id(now), new_id(now)
    message = [{"role": "user", "content": "Hello?"}]
    reasons = [{"reason": "low_rating", "confidence": 1.0, "evidence": "1 of 5"}]
    rows: list[Any] = [
        Failure(id=failure, inference_id=failure, model="assistant", created=0.0, reasons=reasons),
        *(
            Case(
                id=case,
                model="assistant",
                suite="golden",
                prompt_hash=case,
                group_key=case,
                messages=message,
                created=0.0,
            )
            for case in (first, second)
        ),
    ]
    with gateway.gateway.database.session() as session:
        session.add_all(rows)
        session.commit()
    return failure, first, second


def proposed(gateway: Inside) -> tuple[str, str]:
    """A candidate and a hold that wait for a reviewer; their ids."""
    now = gateway.gateway.now()
    candidate, hold = new_id(now), new_id(now)
    rows: list[Any] = [
        Candidate(
            id=candidate,
            inference_id=candidate,
            model="assistant",
            source="teacher",
            origin="teacher",
            request_hash=candidate,
            answer=ANSWER,
            checks=[],
            state="checked",
            created=0.0,
        ),
        RaterHold(
            id=hold,
            model="assistant",
            created=0.0,
            kind="version",
            target="1.0",
            feedback=[],
            reason="many at once",
        ),
    ]
    with gateway.gateway.database.session() as session:
        session.add_all(rows)
        session.commit()
    return candidate, hold


def test_every_administrative_route_is_audited(gateway: Inside, admin: dict[str, str]) -> None:
    number, spare = (add_version(gateway.gateway.database, gateway.settings.directory) for _ in range(2))
    failure, first, second = waiting(gateway)
    candidate, hold = proposed(gateway)
    row = {"prompt": "Where is it?", "completion": ANSWER}
    done: list[tuple[str, str, Any, str]] = [
        ("/v1/models/{name}/promote", "assistant", {"version": number, "reason": "why"}, "champion.promote"),
        ("/v1/models/{name}/rollback", "assistant", {"reason": "why"}, "champion.rollback"),
        ("/v1/models/{name}/canary", "assistant", {"version": number, "reason": "why"}, "canary.begin"),
        ("/v1/models/{name}/canary/end", "assistant", {"reason": "why"}, "canary.end"),
        ("/v1/models/{name}/reject", "assistant", {"version": spare, "reason": "why"}, "version.reject"),
        ("/v1/models/{name}/retire", "assistant", {"version": spare, "reason": "why"}, "version.retire"),
        ("/v1/failures/{failure_id}/resolve", failure, {"action": "dismiss"}, "failure.resolve"),
        ("/v1/failures/{failure_id}/reopen", failure, None, "failure.reopen"),
        ("/v1/cases/draw", "", {"model": "assistant", "count": 1}, "case.draw"),
        ("/v1/cases/{case_id}/confirm", first, {"answer": ANSWER}, "case.confirm"),
        ("/v1/cases/{case_id}/drop", second, None, "case.drop"),
        ("/v1/candidates/{candidate_id}/decide", candidate, {"action": "reject"}, "candidate.reject"),
        ("/v1/holds/{hold_id}/decide", hold, {"action": "release"}, "hold.release"),
        ("/v1/imports", "", row, "data.import"),
        ("/v1/cycles", "", {"model": "assistant"}, "cycle.start"),
        ("/v1/cycles/{cycle_id}/cancel", "", None, "cycle.cancel"),
        ("/v1/erase", "", {"user": "somebody"}, "record.erase"),
        ("/v1/keys", "", {"scopes": ["infer"], "owner": "shop"}, "key.create"),
        ("/v1/keys/{key_id}/revoke", "", None, "key.revoke"),
    ]
    changing = {
        (method, route.path_format)
        for route in gateway.app.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if method not in ("GET", "HEAD", "OPTIONS") and handler.opt.get(SCOPES) not in ("open", ("infer",))
    }
    assert {("POST", path) for path, *_ in done} == changing - NOTHING_DECIDED - APART
    cycle = key = ""
    for path, subject, body, _ in done:
        for name in ("name", "failure_id", "case_id", "candidate_id", "hold_id"):
            path = path.replace(f"{{{name}}}", subject)
        path = path.replace("{cycle_id}", cycle).replace("{key_id}", key)
        answer = gateway.call(
            "POST", f"{path}?model=assistant" if path == "/v1/imports" else path, body, admin
        )
        assert answer.status < 300, answer.body
        cycle = answer.json.get("id", "") if path == "/v1/cycles" else cycle
        key = answer.json["key"]["id"] if path == "/v1/keys" else key
    rows = log(gateway, admin, "?limit=100")
    print([row["act"] for row in rows])
    assert [row["act"] for row in rows] == [act for *_, act in done]
    assert {row["actor"] for row in rows} == {"ada"} and len({row["key_id"] for row in rows}) == 1
    by_act = {row["act"]: row for row in rows}
    moved = by_act["champion.promote"]
    assert (moved["subject"], moved["details"]["to"], moved["details"]["reason"]) == (
        "assistant",
        number,
        "why",
    )
    assert by_act["cycle.cancel"]["subject"] == by_act["cycle.start"]["subject"] == cycle
    assert by_act["case.confirm"]["subject"] == first
    assert ANSWER not in repr(rows)
    assert [row["act"] for row in log(gateway, admin, "?act=case.drop")] == ["case.drop"]


def test_deleting_a_version_is_audited_as_its_retirement(gateway: Inside, admin: dict[str, str]) -> None:
    number = add_version(gateway.gateway.database, gateway.settings.directory)
    gateway.gateway.live.refresh()
    name = f"assistant@{number}"
    shown = gateway.call("GET", f"/v1/models/{name}", None, admin).json
    assert (shown["id"], shown["object"], shown["version"]) == (name, "model", number)
    told = gateway.call("DELETE", f"/v1/models/{name}", None, admin)
    assert told.status in (200, 202)
    assert told.json == {"id": name, "object": "model", "deleted": True}
    assert [row["act"] for row in log(gateway, admin)] == ["version.retire"]
    assert gateway.call("GET", f"/v1/models/{name}", None, admin).status == 404


def test_fine_tunings_are_audited(gateway: Inside, admin: dict[str, str]) -> None:
    file = StoredFile(
        id=new_id(gateway.gateway.now()),
        name="a",
        purpose="fine-tune",
        bytes=1,
        hash="0",
        created=0.0,
        owner="ada",
    )
    with gateway.gateway.database.session() as session:
        session.add(file)
        session.commit()
    path = "/v1/fine_tuning/jobs"
    wanted = {"model": "assistant", "training_file": f"file-{file.id}"}
    asked = gateway.call("POST", path, wanted, admin).json["id"]
    for act in ("pause", "resume", "cancel"):
        assert gateway.call("POST", f"{path}/{asked}/{act}", None, admin).status == 200
    rows = log(gateway, admin)
    acts = ["create", "pause", "resume", "cancel"]
    assert [row["act"] for row in rows] == [f"fine_tuning.{act}" for act in acts]
    assert {f"ftjob-{row['subject']}" for row in rows} == {asked}
    assert rows[0]["details"]["training_file"] == f"file-{file.id}"


def test_files_are_audited(gateway: Inside, admin: dict[str, str]) -> None:
    form = admin | {"content-type": "multipart/form-data; boundary=x"}

    def sent(path: str, *fields: tuple[str, bytes]) -> str:
        parts = (
            b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
            for name, value in fields
        )
        return str(gateway.call("POST", path, b"".join(parts) + b"--x--\r\n", form).json["id"])

    whole = sent("/v1/files", ("purpose", b"user_data"), ("file", b"abc"))
    begun = {"filename": "a", "purpose": "user_data", "bytes": 3, "mime_type": "x"}
    first, second = (gateway.call("POST", "/v1/uploads", begun, admin).json["id"] for _ in range(2))
    part = sent(f"/v1/uploads/{first}/parts", ("data", b"abc"))
    gateway.call("POST", f"/v1/uploads/{first}/complete", {"part_ids": [part]}, admin)
    gateway.call("POST", f"/v1/uploads/{second}/cancel", None, admin)
    gateway.call("DELETE", f"/v1/files/{whole}", None, admin)
    rows = log(gateway, admin, "?limit=100")
    acts = [
        "file.upload",
        "upload.begin",
        "upload.begin",
        "upload.part",
        "file.upload",
        "upload.cancel",
        "file.delete",
    ]
    assert [row["act"] for row in rows] == acts
    assert rows[0]["subject"] == rows[-1]["subject"] == whole.removeprefix("file-")


def test_what_did_not_come_about_is_not_audited(gateway: Inside, admin: dict[str, str]) -> None:
    failure, case, _ = waiting(gateway)
    for path, body, status in (
        ("/v1/models/assistant/promote", {"version": "base", "reason": "is it already"}, 409),
        ("/v1/models/assistant/rollback", {"reason": "never moved"}, 409),
        ("/v1/models/assistant/reject", {"version": "9.9", "reason": "there is none"}, 404),
        ("/v1/models/assistant/retire", {"version": "9.9", "reason": "there is none"}, 404),
        (f"/v1/failures/{failure}/resolve", {"action": "correct"}, 400),
        (f"/v1/cases/{case}/confirm", {"answer": "no JSON"}, 400),
        ("/v1/cycles", {"model": "nobody"}, 404),
    ):
        assert gateway.call("POST", path, body, admin).status == status
    other = bearing(make_key(gateway, "admin", models=["other"]))
    assert gateway.call("POST", f"/v1/cases/{case}/drop", None, other).status == 403
    assert log(gateway, admin) == []


def test_a_key_for_some_models_does_not_see_the_log(gateway: Inside) -> None:
    some = bearing(make_key(gateway, "admin", models=["assistant"]))
    assert gateway.call("GET", "/v1/audit", None, some).status == 403


def test_the_log_is_paged(gateway: Inside, admin: dict[str, str]) -> None:
    _, first, second = waiting(gateway)
    for case in (first, second):
        gateway.call("POST", f"/v1/cases/{case}/drop", None, admin)
    newest = gateway.call("GET", "/v1/audit?limit=1", None, admin).json
    assert [item["subject"] for item in newest["items"]] == [second]
    older = gateway.call("GET", f"/v1/audit?limit=1&cursor={newest['next_cursor']}", None, admin).json
    assert [item["subject"] for item in older["items"]] == [first]
    assert gateway.call("GET", "/v1/audit?act=nothing", None, admin).status == 400
