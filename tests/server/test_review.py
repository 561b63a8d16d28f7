"""Failure cases, evaluation cases, datasets and cycles over the API: thin doors to the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from feedback.ids import new_id
from feedback.registry.training_steps import write_steps
from feedback.storage.tables import Case, Cycle, DatasetVersion, Failure
from tests.server.inside import Answer, Inside
from tests.server.test_access import bearing, make_key


def add(gateway: Inside, *rows: Any) -> None:
    with gateway.gateway.database.session() as session:
        session.add_all(rows)
        session.commit()


def fresh(gateway: Inside) -> tuple[str, float]:
    """An id and its time."""
    now = gateway.gateway.now()
    return new_id(now), now.timestamp()


def items(answer: Answer) -> list[Any]:
    assert answer.status == 200, answer.body
    found: list[Any] = answer.json["items"]
    return found


# -- failure cases


@pytest.fixture
def failure(gateway: Inside) -> str:
    identifier, created = fresh(gateway)
    reasons = [{"reason": "low_rating", "confidence": 1.0, "evidence": "1 of 5"}]
    row = Failure(id=identifier, inference_id=identifier, model="assistant", created=created, reasons=reasons)
    add(gateway, row)
    return identifier


def test_failures_are_listed_by_model_and_state(gateway: Inside, failure: str) -> None:
    (shown,) = items(gateway.call("GET", "/v1/failures?model=assistant&state=quarantine"))
    assert (shown["id"], shown["reasons"][0]["reason"]) == (failure, "low_rating")
    assert items(gateway.call("GET", "/v1/failures?state=corrected")) == []


LISTS = ("inferences", "failures", "cases", "candidates", "holds", "datasets", "imports", "cycles")


@pytest.mark.parametrize("of", LISTS)
def test_a_list_of_a_model_that_there_is_not_is_no_empty_list(gateway: Inside, of: str) -> None:
    assert items(gateway.call("GET", f"/v1/{of}?model=assistant")) == []
    told = gateway.call("GET", f"/v1/{of}?model=asistant")
    assert told.status == 404
    assert "there is no model 'asistant'" in told.json["error"]["message"]


def test_failures_are_listed_by_reason(gateway: Inside, failure: str) -> None:
    assert [shown["id"] for shown in items(gateway.call("GET", "/v1/failures?reason=low_rating"))] == [
        failure
    ]
    assert items(gateway.call("GET", "/v1/failures?reason=refusal&state=operations")) == []
    assert gateway.call("GET", "/v1/failures?reason=nonsense").status == 400


def test_failing_kinds_are_told_to_reviewers_of_the_model(gateway: Inside) -> None:
    told = gateway.call("GET", "/v1/failures/kinds?model=assistant&since=2026-01-01")
    assert told.status == 200, told.body
    assert (told.json["items"], told.json["groups"], told.json["complete"]) == ([], [], True)
    assert gateway.call("GET", "/v1/failures/kinds").status == 400
    assert gateway.call("GET", "/v1/failures/kinds?model=other").status == 404
    assert (
        gateway.call("GET", "/v1/failures/kinds?model=assistant&until=soon").json["error"]["param"] == "until"
    )
    other = bearing(make_key(gateway, "review", models=["other"]))
    assert gateway.call("GET", "/v1/failures/kinds?model=assistant", None, other).status == 403
    user = bearing(make_key(gateway, "infer"))
    assert gateway.call("GET", "/v1/failures/kinds?model=assistant", None, user).status == 403


def test_a_reviewer_corrects_a_failure_in_their_own_name(gateway: Inside, failure: str) -> None:
    rita = bearing(make_key(gateway, "review", owner="rita"))
    body = {
        "action": "correct",
        "correction": {"role": "assistant", "content": '{"intent": "refund", "urgency": "low"}'},
    }
    told = gateway.call("POST", f"/v1/failures/{failure}/resolve", body, rita)
    assert told.status == 200
    assert {name: told.json[name] for name in ("state", "correction", "resolved_by")} == {
        "state": "corrected",
        "correction": '{"intent": "refund", "urgency": "low"}',
        "resolved_by": "rita",
    }


def test_a_key_for_another_model_resolves_nothing(gateway: Inside, failure: str) -> None:
    other = bearing(make_key(gateway, "review", models=["other"]))
    told = gateway.call("POST", f"/v1/failures/{failure}/resolve", {"action": "dismiss"}, other)
    assert told.status == 403
    reviewer = bearing(make_key(gateway, "review"))
    (shown,) = items(gateway.call("GET", "/v1/failures", None, reviewer))
    assert shown["state"] == "quarantine"


# -- evaluation cases


def test_a_case_is_drawn_from_live_prompts_and_confirmed_by_a_person(gateway: Inside) -> None:
    for number in range(60):
        text = f"question {number} about {'abcdefghij'[number % 10] * 9} and {number * 7919}"
        gateway.ask({"messages": [{"role": "user", "content": text}], "user": f"user {number}"})
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    drawn = gateway.call("POST", "/v1/cases/draw", {"model": "assistant", "count": 3})
    assert drawn.status == 201
    assert drawn.json["items"], "with one in ten users and prompts on the evaluation side"
    case = drawn.json["items"][0]
    assert (case["suite"], case["state"], case["answer"]) == ("golden", "drawn", None)
    answer = json.dumps({"intent": "refund", "urgency": "low"})
    told = gateway.call("POST", f"/v1/cases/{case['id']}/confirm", {"answer": answer})
    assert (told.status, told.json["state"], told.json["answer"]) == (200, "confirmed", answer)
    assert told.json["confirmed_by"] == "local"
    confirmed = items(gateway.call("GET", "/v1/cases?model=assistant&suite=golden&state=confirmed"))
    assert [one["id"] for one in confirmed] == [case["id"]]


def test_a_confirmed_case_is_marked_as_critical_without_its_answer(gateway: Inside) -> None:
    identifier, created = fresh(gateway)
    row = Case(
        id=identifier,
        model="assistant",
        suite="golden",
        state="confirmed",
        prompt_hash="0",
        group_key="0",
        messages=[{"role": "user", "content": "Hello?"}],
        answer=json.dumps({"intent": "refund", "urgency": "low"}),
        created=created,
    )
    add(gateway, row)
    for critical in (True, False):
        told = gateway.call("POST", f"/v1/cases/{identifier}/confirm", {"critical": critical})
        assert (told.status, told.json["critical"], told.json["answer"]) == (200, critical, row.answer)
        assert [one["critical"] for one in items(gateway.call("GET", "/v1/cases"))] == [critical]
    refused = gateway.call("POST", f"/v1/cases/{identifier}/confirm", {"critical": "yes"})
    assert (refused.status, refused.json["error"]["param"]) == (400, "critical")


def test_a_praised_case_says_whose_answer_it_is_and_is_found_by_its_state(gateway: Inside) -> None:
    for version, state in (("1.0", "confirmed"), ("base", "lapsed"), (None, "confirmed")):
        identifier, created = fresh(gateway)
        row = Case(
            id=identifier,
            model="assistant",
            suite="regression",
            state=state,
            prompt_hash=identifier,
            group_key=identifier,
            messages=[{"role": "user", "content": "Hello?"}],
            answer="{}",
            version=version,
            created=created,
        )
        add(gateway, row)
    shown = items(gateway.call("GET", "/v1/cases?suite=regression&state=confirmed"))
    assert [one["version"] for one in shown] == [None, "1.0"]
    assert [one["version"] for one in items(gateway.call("GET", "/v1/cases?state=lapsed"))] == ["base"]


def test_a_case_can_be_dropped_and_an_answer_that_breaks_the_contract_is_refused(gateway: Inside) -> None:
    identifier, created = fresh(gateway)
    messages = [{"role": "user", "content": "Hello?"}]
    row = Case(
        id=identifier,
        model="assistant",
        suite="golden",
        prompt_hash="0",
        group_key="0",
        messages=messages,
        created=created,
    )
    add(gateway, row)
    refused = gateway.call("POST", f"/v1/cases/{identifier}/confirm", {"answer": "no JSON"})
    assert (refused.status, refused.json["error"]["param"]) == (400, "answer")
    assert gateway.call("POST", f"/v1/cases/{identifier}/drop").json["state"] == "dropped"


# -- datasets


@pytest.fixture
def dataset(gateway: Inside) -> str:
    identifier, created = fresh(gateway)
    folder = gateway.settings.directory / "datasets" / identifier
    folder.mkdir(parents=True)
    for split, count in (("train", 3), ("validation", 1)):
        rows = [
            {
                "id": f"{split}-{number}",
                "messages": [{"role": "user", "content": f"question {number}"}],
                "answer": f"answer {number}",
                "weight": 1.0,
                "new": True,
                "source": "correction",
                "group": "g",
            }
            for number in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text)
    manifest = {"rows": {"train": 3, "validation": 1}}
    row = DatasetVersion(
        id=identifier, model="assistant", content_hash="0", created=created, note="3 new", manifest=manifest
    )
    add(gateway, row)
    return identifier


def lines(answer: Answer) -> list[Any]:
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/jsonl"
    return [json.loads(line) for line in answer.body.splitlines()]


def test_a_dataset_is_listed_shown_and_exported(gateway: Inside, dataset: str) -> None:
    (shown,) = items(gateway.call("GET", "/v1/datasets?model=assistant"))
    assert shown == gateway.call("GET", f"/v1/datasets/{dataset}").json
    assert shown["manifest"]["rows"] == {"train": 3, "validation": 1}
    export = f"/v1/datasets/{dataset}/export"
    assert lines(gateway.call("GET", export))[0] == {
        "messages": [
            {"role": "user", "content": "question 0"},
            {"role": "assistant", "content": "answer 0"},
        ]
    }
    assert len(lines(gateway.call("GET", export))) == 4
    assert len(lines(gateway.call("GET", f"{export}?split=validation"))) == 1
    assert lines(gateway.call("GET", f"{export}?format=rows"))[0]["source"] == "correction"


def test_an_export_whose_files_are_gone_is_an_error_and_not_an_empty_file(
    gateway: Inside, dataset: str
) -> None:
    for file in Path(gateway.settings.directory / "datasets" / dataset).iterdir():
        file.unlink()
    assert gateway.call("GET", f"/v1/datasets/{dataset}/export").status >= 400


def test_datasets_of_other_models_are_not_there(gateway: Inside, dataset: str) -> None:
    other = bearing(make_key(gateway, "review", models=["other"]))
    assert gateway.call("GET", f"/v1/datasets/{dataset}", None, other).status == 404
    assert items(gateway.call("GET", "/v1/datasets", None, other)) == []


# -- cycles


def test_a_cycle_is_asked_for_shown_and_cancelled(gateway: Inside) -> None:
    begun = gateway.call("POST", "/v1/cycles", {"model": "assistant", "guards_off": ["raters"]})
    assert begun.status == 202
    cycle = begun.json
    assert (cycle["state"], cycle["mode"], cycle["guards_off"]) == ("queued", "propose", ["raters"])
    assert cycle["requested_by"] == "local"
    assert gateway.call("GET", f"/v1/cycles/{cycle['id']}").json == cycle
    again = gateway.call("POST", "/v1/cycles", {"model": "assistant"})
    assert again.status == 409
    assert [one["id"] for one in items(gateway.call("GET", "/v1/cycles?model=assistant"))] == [cycle["id"]]
    assert gateway.call("POST", f"/v1/cycles/{cycle['id']}/cancel").json["state"] == "cancelled"
    assert gateway.call("POST", "/v1/cycles", {"model": "assistant", "mode": "auto"}).json["mode"] == "auto"


def test_a_cycle_needs_a_model_that_is_registered(gateway: Inside) -> None:
    assert gateway.call("POST", "/v1/cycles", {"model": "nobody"}).status == 404


def test_a_cycle_shows_what_its_steps_did(gateway: Inside) -> None:
    identifier, created = fresh(gateway)
    steps = [{"step": "triage", "started": created, "ended": created, "outcome": "3 new failure cases"}]
    row = Cycle(
        id=identifier,
        model="assistant",
        mode="auto",
        state="done",
        decision="rejected",
        reason="the golden set is not better",
        requested_by="schedule",
        steps=steps,
        result={"n": 200},
        created=created,
        updated=created,
    )
    add(gateway, row)
    shown = gateway.call("GET", f"/v1/cycles/{identifier}").json
    assert (shown["decision"], shown["steps"], shown["result"]) == ("rejected", steps, {"n": 200})
    assert shown["created"].endswith("Z")


def test_a_cycles_training_is_read_step_by_step(gateway: Inside) -> None:
    cycle = gateway.call("POST", "/v1/cycles", {"model": "assistant"}).json["id"]
    assert gateway.call("GET", f"/v1/cycles/{cycle}/metrics").json == {"items": [], "next_cursor": None}
    rows = [
        {"step": step, "steps": 3, "epoch": 1, "epochs": 1, "loss": 2.0, "noticed": []} for step in (1, 2)
    ]
    with gateway.gateway.database.session() as session:
        write_steps(session, cycle, rows, 0.0)
        session.commit()
    told = gateway.call("GET", f"/v1/cycles/{cycle}/metrics?limit=1").json
    assert (told["items"][0]["step"], told["items"][0]["loss"], told["next_cursor"]) == (1, 2.0, "1")
    rest = gateway.call("GET", f"/v1/cycles/{cycle}/metrics?cursor=1").json
    assert [one["step"] for one in rest["items"]] == [2]
    assert gateway.call("GET", f"/v1/cycles/{cycle}/metrics?cursor=nonsense").status == 400
