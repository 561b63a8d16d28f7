"""Who may do what: every route of the application against everyone who may call it, in one table.

A route that is missing in the table fails the test, and so does one that is no longer there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from litestar.routes import HTTPRoute

from feedback.access.keys import SCOPES, create_key, revoke_key
from feedback.ids import new_id
from feedback.storage.batch_table import RequestBatch
from feedback.storage.file_table import PartedUpload, StoredFile
from feedback.storage.tables import (
    Candidate,
    Case,
    Cycle,
    DataImport,
    DatasetVersion,
    Example,
    Failure,
    RaterHold,
    Tuning,
)
from server.request import OPEN
from tests.server.inside import HELLO, Inside, inside, settings_for
from tests.server.test_access import bearing
from tests.server.test_session import carried, guarded, sign_in
from tests.server.upstream import fake_engine

# Once there are keys: none, a key of each scope alone, one of all scopes for another model, one of all scopes that expired
# (old) or was revoked (shut), an admin's session (page), and such a session without what our own pages add to a request
# (bare). While there are none: a program at this machine (local), the same through a proxy, by a foreign Host, from a page of
# a foreign Origin, and from elsewhere (far).
# `in` is whatever comes once one is let in; a number is that status.
TABLE = """
route                                  none infer feedback review train admin other old shut page bare local proxy host origin far
POST /v1/chat/completions              401  in    403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/completions                   401  in    403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/responses                     401  in    403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/messages                      401  in    403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/messages/count_tokens         401  in    403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/embeddings                    401  in    403      403    403   in    403   401 401  in   403  in    401   401  401    401
GET /v1/chat/completions               401  in    403      in     403   in    in    401 401  in   in   in    401   401  401    401
GET /v1/chat/completions/{completion_id} 401 404  403      in     403   in    404   401 401  in   in   in    401   401  401    401
GET /v1/chat/completions/{completion_id}/messages 401 404 403 in  403   in    404   401 401  in   in   in    401   401  401    401
POST /v1/chat/completions/{completion_id} 401 404 403      403    403   in    404   401 401  in   403  in    401   401  401    401
DELETE /v1/chat/completions/{completion_id} 401 403 403    403    403   in    404   401 401  in   403  in    401   401  401    401
GET /v1/models                         401  in    403      in     in    in    in    401 401  in   in   in    401   401  401    401
GET /v1/models/{name}                  401  in    403      in     in    in    404   401 401  in   in   in    401   401  401    401
DELETE /v1/models/{name}               401  403   403      403    403   in    403   401 401  in   403  in    401   401  401    401
GET /v1/models/{name}/versions         401  in    403      in     in    in    403   401 401  in   in   in    401   401  401    401
GET /v1/models/{name}/versions/{number}/card 401  in    403      in     in    in    403   401 401  in   in   in    401   401  401    401
POST /v1/models/{name}/promote         401  403   403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/models/{name}/rollback        401  403   403      403    403   in    403   401 401  in   403  in    401   401  401    401
GET /v1/models/{name}/canaries         401  403   403      in     in    in    403   401 401  in   in   in    401   401  401    401
POST /v1/models/{name}/canary          401  403   403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/models/{name}/canary/end      401  403   403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/models/{name}/reject          401  403   403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/models/{name}/retire          401  403   403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/feedback                      401  403   in       403    403   in    403   401 401  in   403  in    401   401  401    401
OPTIONS /v1/feedback                   in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /v1/inferences                     401  in    403      in     403   in    in    401 401  in   in   in    401   401  401    401
GET /v1/inferences/{inference_id}      401  404   403      in     403   in    404   401 401  in   in   in    401   401  401    401
GET /v1/failures                       401  403   403      in     403   in    in    401 401  in   in   in    401   401  401    401
GET /v1/failures/kinds                 401  403   403      in     403   in    in    401 401  in   in   in    401   401  401    401
POST /v1/failures/{failure_id}/resolve 401  403   403      in     403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/failures/claim                401  403   403      in     403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/failures/{failure_id}/release 401  403   403      in     403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/failures/{failure_id}/reopen  401  403   403      in     403   in    403   401 401  in   403  in    401   401  401    401
GET /v1/cases                          401  403   403      in     403   in    in    401 401  in   in   in    401   401  401    401
POST /v1/cases/draw                    401  403   403      in     403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/cases/{case_id}/confirm       401  403   403      in     403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/cases/{case_id}/drop          401  403   403      in     403   in    403   401 401  in   403  in    401   401  401    401
GET /v1/candidates                     401  403   403      in     403   in    in    401 401  in   in   in    401   401  401    401
POST /v1/candidates/{candidate_id}/decide 401 403 403      in     403   in    404   401 401  in   403  in    401   401  401    401
GET /v1/holds                          401  403   403      in     403   in    in    401 401  in   in   in    401   401  401    401
GET /v1/holds/{hold_id}                401  403   403      in     403   in    404   401 401  in   in   in    401   401  401    401
POST /v1/holds/{hold_id}/decide        401  403   403      in     403   in    404   401 401  in   403  in    401   401  401    401
GET /v1/imports                        401  403   403      in     in    in    in    401 401  in   in   in    401   401  401    401
GET /v1/imports/{import_id}            401  403   403      in     in    in    404   401 401  in   in   in    401   401  401    401
POST /v1/imports                       401  403   403      403    in    in    403   401 401  in   403  in    401   401  401    401
GET /v1/files                          401  403   403      403    in    in    in    401 401  in   in   in    401   401  401    401
POST /v1/files                         401  403   403      403    in    in    in    401 401  in   403  in    401   401  401    401
GET /v1/files/{file_id}                401  403   403      403    404   in    404   401 401  in   in   in    401   401  401    401
GET /v1/files/{file_id}/content        401  403   403      403    404   in    404   401 401  in   in   in    401   401  401    401
DELETE /v1/files/{file_id}             401  403   403      403    404   in    404   401 401  in   403  in    401   401  401    401
POST /v1/uploads                       401  403   403      403    in    in    in    401 401  in   403  in    401   401  401    401
POST /v1/uploads/{upload_id}/parts     401  403   403      403    404   in    404   401 401  in   403  in    401   401  401    401
POST /v1/uploads/{upload_id}/complete  401  403   403      403    404   in    404   401 401  in   403  in    401   401  401    401
POST /v1/uploads/{upload_id}/cancel    401  403   403      403    404   in    404   401 401  in   403  in    401   401  401    401
POST /v1/batches                       401  in    403      403    403   in    in    401 401  in   403  in    401   401  401    401
GET /v1/batches                        401  in    403      403    403   in    in    401 401  in   in   in    401   401  401    401
GET /v1/batches/{batch_id}             401  404   403      403    403   in    404   401 401  in   in   in    401   401  401    401
POST /v1/batches/{batch_id}/cancel     401  404   403      403    403   in    404   401 401  in   403  in    401   401  401    401
GET /v1/fine_tuning/jobs               401  403   403      403    in    in    in    401 401  in   in   in    401   401  401    401
POST /v1/fine_tuning/jobs              401  403   403      403    in    in    in    401 401  in   403  in    401   401  401    401
GET /v1/fine_tuning/jobs/{job_id}      401  403   403      403    404   in    404   401 401  in   in   in    401   401  401    401
GET /v1/fine_tuning/jobs/{job_id}/events 401 403  403      403    404   in    404   401 401  in   in   in    401   401  401    401
GET /v1/fine_tuning/jobs/{job_id}/checkpoints 401 403 403  403    404   in    404   401 401  in   in   in    401   401  401    401
POST /v1/fine_tuning/jobs/{job_id}/cancel 401 403 403      403    404   in    404   401 401  in   403  in    401   401  401    401
POST /v1/fine_tuning/jobs/{job_id}/pause 401 403  403      403    404   in    404   401 401  in   403  in    401   401  401    401
POST /v1/fine_tuning/jobs/{job_id}/resume 401 403 403      403    404   in    404   401 401  in   403  in    401   401  401    401
GET /together/v1/files                 401  403   403      403    in    in    in    401 401  in   in   in    401   401  401    401
POST /together/v1/files                401  403   403      403    in    in    in    401 401  in   403  in    401   401  401    401
PUT /together/v1/files/{file_id}/bytes in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
POST /together/v1/files/{file_id}/preprocess 401 403 403   403    404   in    404   401 401  in   403  in    401   401  401    401
GET /together/v1/files/{file_id}       401  403   403      403    404   in    404   401 401  in   in   in    401   401  401    401
GET /together/v1/files/{file_id}/content 401 403 403       403    404   in    404   401 401  in   in   in    401   401  401    401
DELETE /together/v1/files/{file_id}    401  403   403      403    404   in    404   401 401  in   403  in    401   401  401    401
GET /together/v1/fine-tunes            401  403   403      403    in    in    in    401 401  in   in   in    401   401  401    401
POST /together/v1/fine-tunes           401  403   403      403    in    in    in    401 401  in   403  in    401   401  401    401
POST /together/v1/fine-tunes/estimate-price 401 403 403    403    in    in    in    401 401  in   403  in    401   401  401    401
GET /together/v1/fine-tunes/models/limits 401 403 403      403    in    in    in    401 401  in   in   in    401   401  401    401
GET /together/v1/fine-tunes/{job_id}   401  403   403      403    404   in    404   401 401  in   in   in    401   401  401    401
GET /together/v1/fine-tunes/{job_id}/events 401 403 403    403    404   in    404   401 401  in   in   in    401   401  401    401
GET /together/v1/fine-tunes/{job_id}/metrics 401 403 403   403    404   in    404   401 401  in   in   in    401   401  401    401
GET /together/v1/fine-tunes/{job_id}/checkpoints 401 403 403 403  404   in    404   401 401  in   in   in    401   401  401    401
POST /together/v1/fine-tunes/{job_id}/cancel 401 403 403   403    404   in    404   401 401  in   403  in    401   401  401    401
DELETE /together/v1/fine-tunes/{job_id} 401 403  403       403    404   in    404   401 401  in   403  in    401   401  401    401
GET /together/v1/finetune/download     401  403   403      403    404   in    404   401 401  in   in   in    401   401  401    401
POST /together/v1/chat/completions     401  in    403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /together/v1/completions          401  in    403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /together/v1/embeddings           401  in    403      403    403   in    403   401 401  in   403  in    401   401  401    401
GET /together/v2/projects/{project_id}/models 401 in 403   in     in    in    in    401 401  in   in   in    401   401  401    401
GET /together/v2/projects/{project_id}/models/{name} 401 in 403 in in   in    404   401 401  in   in   in    401   401  401    401
DELETE /together/v2/projects/{project_id}/models/{name} 401 403 403 403 403 in 403  401 401  in   403  in    401   401  401    401
GET /v1/reports                        401  403   403      in     in    in    403   401 401  in   in   in    401   401  401    401
GET /v1/datasets                       401  403   403      in     in    in    in    401 401  in   in   in    401   401  401    401
GET /v1/datasets/{dataset_id}          401  403   403      in     in    in    404   401 401  in   in   in    401   401  401    401
GET /v1/datasets/{dataset_id}/export   401  403   403      in     in    in    404   401 401  in   in   in    401   401  401    401
GET /v1/datasets/{dataset_id}/examples/{example_id}/why 401 403 403 in 403   in    404   401 401  in   in   in    401   401  401    401
GET /v1/cycles                         401  403   403      403    in    in    in    401 401  in   in   in    401   401  401    401
POST /v1/cycles                        401  403   403      403    in    in    403   401 401  in   403  in    401   401  401    401
GET /v1/cycles/{cycle_id}              401  403   403      403    in    in    403   401 401  in   in   in    401   401  401    401
GET /v1/cycles/{cycle_id}/metrics      401  403   403      403    in    in    403   401 401  in   in   in    401   401  401    401
POST /v1/cycles/{cycle_id}/cancel      401  403   403      403    in    in    403   401 401  in   403  in    401   401  401    401
POST /v1/erase                         401  403   403      403    403   in    403   401 401  in   403  in    401   401  401    401
GET /v1/audit                          401  403   403      403    403   in    403   401 401  in   in   in    401   401  401    401
GET /v1/keys                           401  403   403      403    403   in    403   401 401  in   in   in    401   401  401    401
POST /v1/keys                          401  403   403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /v1/keys/{key_id}/revoke          401  403   403      403    403   in    403   401 401  in   403  in    401   401  401    401
POST /session                          in   in    in       in     in    in    in    in  in   in   in   in    in    in   403    in
DELETE /session                        in   in    in       in     in    in    in    in  in   in   403  in    in    in   in     in
GET /health/live                       in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
HEAD /health/live                      in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /health/ready                      in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
HEAD /health/ready                     in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /                                  in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /pages/events                      401  403   403      in     in    in    in    401 401  in   in   in    401   401  401    401
GET /overview                          in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /review                            in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /inferences                        in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /inferences/{inference_id}         in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /cycles                            in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /cycles/{cycle_id}                 in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /datasets                          in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /datasets/{dataset_id}             in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /versions                          in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /settings                          in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /report                            in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /widget                            in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /widget.js                         in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /static/{name}                     in   in    in       in     in    in    in    in  in   in   in   in    in    in   in     in
GET /metrics                           401  in    in       in     in    in    in    401 401  in   in   in    401   401  401    401
GET /schema                            401  in    in       in     in    in    in    401 401  in   in   in    401   401  401    401
GET /schema/openapi.json               401  in    in       in     in    in    in    401 401  in   in   in    401   401  401    401
GET /schema/{path}                     401  in    in       in     in    in    in    401 401  in   in   in    401   401  401    401
"""
MANIFEST = {"rules": 3, "guards_off": [], "settings": {"evaluation_share": 0.1}}
ALONE = ("local", "proxy", "host", "origin", "far")
HEADERS = {
    "proxy": {"x-forwarded-for": "127.0.0.1"},
    "host": {"host": "starloop.example"},
    "origin": {"origin": "http://evil.example"},
}


@dataclass
class House:
    """A gateway with something behind every address, and everyone who calls."""

    gateway: Inside
    ids: dict[str, str] = field(default_factory=dict)
    callers: dict[str, dict[str, str]] = field(default_factory=dict)
    """What each sends along."""

    def furnish(self) -> None:
        now = self.gateway.gateway.now()
        name = "assistant"
        asked = self.gateway.ask().headers["x-starloop-inference-id"]
        stored = self.gateway.ask({"store": True}).headers["x-starloop-inference-id"]
        self.gateway.wait_for(lambda: self.gateway.gateway.journal.backlog() == 0)
        dataset = new_id(now)
        folder = self.gateway.settings.directory / "datasets" / dataset
        folder.mkdir(parents=True)
        for split in ("train", "validation"):
            (folder / f"{split}.jsonl").touch()
        line = {
            "id": "e",
            "messages": [],
            "answer": "x",
            "weight": 1.0,
            "source": "base",
            "group": "g",
            "new": False,
        }
        (folder / "train.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        plain: dict[str, Any] = {"model": name, "created": 0.0}
        messages = [{"role": "user", "content": "Hello?"}]
        case = {"suite": "golden", "prompt_hash": "0", "group_key": "0", "messages": messages}
        proposed: dict[str, Any] = {"origin": "t", "request_hash": "0", "answer": "x", "checks": []}
        taken: dict[str, Any] = {"name": "a.jsonl", "format": "chat", "rows": 1, "examples": 1, "bad": 0}
        taken |= {"original_hash": "0", "original_bytes": 1, "content_hash": "0", "created_by": "ann"}
        kept: dict[str, Any] = {"name": "a", "purpose": "batch", "bytes": 1, "created": 0.0, "owner": "ann"}
        made: dict[str, Any] = {"created": 0.0, "owner": "ann"}
        tuned: dict[str, Any] = {"base": "starter", "asked": name, "owner": "ann", "seed": 0}
        tuned |= {"training_file": "0", "method": "supervised", "state": "queued"}
        rows: dict[str, Any] = {
            "failure": Failure(id=new_id(now), inference_id=asked, reasons=[], **plain),
            "case": Case(id=new_id(now), **plain, **case),
            "dataset": DatasetVersion(id=dataset, content_hash="0", note="", manifest=MANIFEST, **plain),
            "candidate": Candidate(
                id=new_id(now), inference_id=asked, source="teacher", state="checked", **plain, **proposed
            ),
            "hold": RaterHold(id=new_id(now), kind="group", target="g", feedback=[], reason="new", **plain),
            "import": DataImport(id=new_id(now), **plain, **taken),
            "file": StoredFile(id=new_id(now), **kept, hash="0"),
            "batch": RequestBatch(
                id=new_id(now), endpoint="", input_file_id="", status="failed", expires=0.0, **made
            ),
            "upload": PartedUpload(id=new_id(now), **kept, expires=2e10),
            "job": Tuning(id=new_id(now), **plain, **tuned),
            "cycle": Cycle(id=new_id(now), mode="report", requested_by="ann", updated=0.0, **plain),
        }
        self.ids = {
            "key": new_id(now),
            "inference": asked,
            "completion": stored,
            "example": "0",
            **{kind: row.id for kind, row in rows.items()},
        }
        example = {"content_hash": "e", "split": "train", "source": "base", "new": False, "group_key": "g"}
        rows["example"] = Example(dataset_id=dataset, position=0, **example)
        (self.gateway.settings.directory / "files").mkdir()
        (self.gateway.settings.directory / "files" / self.ids["file"]).touch()
        with self.gateway.gateway.database.session() as session:
            session.add_all(rows.values())
            session.commit()

    def let_in(self) -> None:
        """Make the keys, and with that close the door to everybody else."""
        now = self.gateway.gateway.now()
        with self.gateway.gateway.database.session() as session:
            secrets = {scope: create_key(session, [scope], scope, None, now)[1] for scope in SCOPES}
            secrets["other"] = create_key(session, SCOPES, "other", ["other"], now)[1]
            past = now - timedelta(seconds=1)
            secrets["old"] = create_key(session, SCOPES, "expired", None, now, expires=past)[1]
            key, secrets["shut"] = create_key(session, SCOPES, "revoked", None, now)
            session.flush()
            revoke_key(session, key.id, now)
            session.commit()
        self.gateway.gateway.live.refresh()
        self.callers = {name: bearing(secret) for name, secret in secrets.items()} | {"none": {}}
        begun = sign_in(self.gateway, secrets["admin"])
        self.callers |= {"page": guarded(begun), "bare": carried(begun)}

    def status(self, method: str, path: str, who: str) -> int:
        body = None if method in ("GET", "HEAD", "OPTIONS") else self.bodies().get(path)
        address = path.replace("{name}", "chat.js" if path.startswith("/static") else "assistant")
        address = address.replace("{path}", "openapi.json")
        if (method, path) in (("POST", "/v1/imports"), ("GET", "/v1/reports")):
            address += "?model=assistant"
        if path == "/together/v1/finetune/download":
            address += f"?ft_id={self.ids['job']}"
        for kind, identifier in self.ids.items():
            address = address.replace(f"{{{kind}_id}}", identifier)
        headers = self.callers[who] if who in self.callers else HEADERS.get(who, {})
        return self.gateway.call(
            method, address, body, headers, "10.0.0.9" if who == "far" else "127.0.0.1"
        ).status

    def bodies(self) -> dict[str, Any]:
        return {
            "/v1/chat/completions": HELLO,
            "/v1/completions": {"model": "assistant", "prompt": "x"},
            "/v1/responses": {"model": "assistant", "input": "x"},
            "/v1/messages": {**HELLO, "max_tokens": 1},
            "/v1/messages/count_tokens": HELLO,
            "/v1/embeddings": {"model": "assistant", "input": "x"},
            "/v1/chat/completions/{completion_id}": {"metadata": {}},
            "/v1/models/{name}/promote": {"version": "base", "reason": "test"},
            "/v1/models/{name}/rollback": {"reason": "test"},
            "/v1/models/{name}/canary": {"version": "9.9", "reason": "test"},
            "/v1/models/{name}/canary/end": {"reason": "test"},
            "/v1/models/{name}/reject": {"version": "9.9", "reason": "test"},
            "/v1/models/{name}/retire": {"version": "9.9", "reason": "test"},
            "/v1/feedback": {"inference_id": self.ids["inference"], "rating": 1},
            "/v1/failures/{failure_id}/resolve": {"action": "dismiss"},
            "/v1/failures/claim": {"model": "assistant", "holder": "matrix-page"},
            "/v1/failures/{failure_id}/release": {"holder": "matrix-page"},
            "/v1/cases/draw": {"model": "assistant", "count": 1},
            "/v1/cases/{case_id}/confirm": {"answer": "x"},
            "/v1/candidates/{candidate_id}/decide": {"action": "reject"},
            "/v1/holds/{hold_id}/decide": {"action": "uphold"},
            "/v1/imports": {"prompt": "a", "completion": "b"},
            "/v1/files": b"no form",
            "/together/v1/files": b"no form",
            "/together/v1/fine-tunes": {"model": "assistant", "training_file": "file-none"},
            "/together/v1/fine-tunes/estimate-price": {"model": "assistant", "training_file": "file-none"},
            "/together/v1/chat/completions": HELLO,
            "/together/v1/completions": {"model": "assistant", "prompt": "x"},
            "/together/v1/embeddings": {"model": "assistant", "input": "x"},
            "/v1/batches": {"input_file_id": "x", "endpoint": "/v1/completions", "completion_window": "24h"},
            "/v1/uploads": {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "x"},
            "/v1/uploads/{upload_id}/complete": {"part_ids": ["x"]},
            "/v1/fine_tuning/jobs": {"model": "assistant", "training_file": "file-none"},
            "/v1/cycles": {"model": "assistant"},
            "/v1/erase": {"user": "nobody"},
            "/v1/keys": {"scopes": ["infer"], "models": ["nobody"]},  # a key would shut out who has none
            "/session": {"key": "sl-unknown"},
        }


def expected() -> dict[tuple[str, str], dict[str, str]]:
    """The table: by route, what everyone gets."""
    head, *lines = TABLE.strip().splitlines()
    names = head.split()[1:]
    cells = [line.split() for line in lines]
    return {(one[0], one[1]): dict(zip(names, one[2:], strict=True)) for one in cells}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with fake_engine() as engine:
        settings = settings_for(tmp_path_factory.mktemp("matrix") / "data", [engine.url])
        with inside(settings) as gateway:
            made = House(gateway)
            made.furnish()
            yield made


def test_every_route_stands_in_the_table_and_no_other(house: House) -> None:
    routes = {
        (method, route.path_format)
        for route in house.gateway.app.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if method != "OPTIONS" or handler.opt.get("scopes") == OPEN
    }
    assert routes == set(expected())


def test_everyone_gets_in_where_the_table_says_and_nowhere_else(house: House) -> None:
    wrong = _differences(house, set(ALONE))
    house.let_in()
    wrong += _differences(house, set(house.callers))
    assert not wrong, "\n".join(wrong)


def _differences(house: House, callers: set[str]) -> list[str]:
    """`who method path: status instead of …`; those who are refused come first, as the others change things."""
    cells = [
        (told, method, path, who)
        for (method, path), row in expected().items()
        for who, told in row.items()
        if who in callers
    ]
    assert len(cells) == len(callers) * len(expected())
    found = []
    for told, method, path, who in sorted(cells, key=lambda cell: cell[0] == "in"):
        status = house.status(method, path, who)
        right = status < 500 and status not in (403, 429) if told == "in" else status == int(told)
        if told == "in" and status == 401:
            right = path == "/session"  # open, and the key in its body is none
        if not right:
            found.append(f"{who} {method} {path}: {status} instead of {told}")
    return found
