"""`/review` and its routes: one case for one reviewer, decided, taken back, and nothing of it markup."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import pytest

from feedback.datasets.believed import Belief
from feedback.ids import new_id
from feedback.storage.tables import Candidate, Failure
from tests.server.inside import Answer, Inside, found_by
from tests.server.test_access import bearing, make_key
from tests.server.test_session import carried, guarded, sign_in

RIGHT = '{"intent": "refund", "urgency": "low"}'
EVIL = "<img src=x onerror=alert(1)>"


def waiting(
    gateway: Inside, prompt: str = "Where is it?", correction: str | None = None, proposed: str = ""
) -> str:
    """A failure case of a real inference; its id."""
    asked = gateway.ask({"messages": [{"role": "user", "content": prompt}], "user": "ann"})
    inference_id = asked.headers["x-starloop-inference-id"]
    said = {"inference_id": inference_id, "rating": 1, "correction": correction, "comment": "no"}
    gateway.call("POST", "/v1/feedback", said)
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    now = gateway.gateway.now()
    reasons = [{"reason": "low_rating", "confidence": 1.0, "evidence": "rated 1 of 5"}]
    row = Failure(id=new_id(now), inference_id=inference_id, model="assistant", created=0.0, reasons=reasons)
    rows: list[Any] = [row]
    if proposed:
        checks = [{"check": "task contract", "passed": True, "told": "it meets it"}]
        rows.append(
            Candidate(
                id=new_id(now),
                inference_id=inference_id,
                model="assistant",
                source="teacher",
                origin="big",
                request_hash="0",
                answer=proposed,
                checks=checks,
                state="checked",
                created=0.0,
            )
        )
    with gateway.gateway.database.session() as session:
        session.add_all(rows)
        session.commit()
    return row.id


def claim(
    gateway: Inside, holder: str = "page-one", headers: dict[str, str] | None = None, **more: Any
) -> Any:
    body = {"model": "assistant", "holder": holder, **more}
    answer = gateway.call("POST", "/v1/failures/claim", body, headers)
    assert answer.status == 200, answer.body
    return answer.json


@pytest.fixture(autouse=True)
def all_raters_alike(gateway: Inside) -> None:
    """Weighing raters in a process beside it has a test of its own."""
    found_by(gateway.gateway.beliefs, lambda model, now: Belief())


def test_a_case_comes_with_all_that_a_reviewer_needs(gateway: Inside) -> None:
    case = waiting(gateway, proposed=RIGHT)
    told = claim(gateway)
    found = told["case"]
    assert (found["id"], found["answer"], found["version"]) == (case, "bases/starter answers", "base")
    assert found["messages"] == [{"role": "user", "content": "Where is it?"}]
    assert (found["feedback"][0]["rater"], found["feedback"][0]["comment"]) == ("ann", "no")
    (proposal,) = found["proposals"]
    assert (proposal["source"], proposal["answer"], proposal["passed"]) == ("teacher", RIGHT, True)
    assert ["gone", "bases"] in [[kind, text.split("/")[0]] for kind, text in proposal["difference"]]
    assert (told["waiting"], told["held"], told["decided"]) == (1, 0, 0)


def test_two_reviewers_never_hold_one_case_and_skipped_ones_do_not_come(gateway: Inside) -> None:
    first, second = waiting(gateway, "about cats"), waiting(gateway, "about the roof")
    one, other = claim(gateway, "page-one"), claim(gateway, "page-two")
    assert {one["case"]["id"], other["case"]["id"]} == {first, second}
    assert (other["waiting"], other["held"]) == (2, 1)
    assert claim(gateway, "page-three")["case"] is None
    skipping = claim(gateway, "page-one", skip=[one["case"]["id"]])
    assert skipping["case"] is None
    assert claim(gateway, "page-three")["case"]["id"] == one["case"]["id"]
    path = f"/v1/failures/{other['case']['id']}/release"
    assert gateway.call("POST", path, {"holder": "page-two"}).status == 204
    assert claim(gateway, "page-one")["case"]["id"] == other["case"]["id"]


def test_one_reviewer_cannot_let_go_of_anothers_case(gateway: Inside) -> None:
    case = waiting(gateway)
    ann, bob = (bearing(make_key(gateway, "review", owner=name)) for name in ("ann", "bob"))
    assert claim(gateway, "same-page", ann)["case"]["id"] == case
    path = f"/v1/failures/{case}/release"
    assert gateway.call("POST", path, {"holder": "same-page"}, bob).status == 204
    assert claim(gateway, "same-page", bob)["case"] is None


def test_what_was_decided_is_counted_and_taken_back(gateway: Inside) -> None:
    case = waiting(gateway)
    rita = bearing(make_key(gateway, "review", owner="rita"))
    claim(gateway, headers=rita)
    path = f"/v1/failures/{case}"
    assert gateway.call("POST", f"{path}/resolve", {"action": "dismiss"}, rita).status == 200
    told = claim(gateway, headers=rita)
    assert (told["case"], told["waiting"], told["decided"]) == (None, 0, 1)
    back = gateway.call("POST", f"{path}/reopen", None, rita)
    assert (back.status, back.json["state"], back.json["resolved"]) == (200, "quarantine", None)
    assert claim(gateway, headers=rita, first=case)["case"]["id"] == case
    assert gateway.call("POST", f"{path}/reopen", None, rita).status == 409


def test_an_accepted_candidate_ends_the_wait_and_undo_brings_it_back(gateway: Inside) -> None:
    case = waiting(gateway, proposed=RIGHT)
    candidate = claim(gateway)["case"]["proposals"][0]["candidate_id"]
    assert gateway.call("POST", f"/v1/candidates/{candidate}/decide", {"action": "accept"}).status == 200
    assert claim(gateway)["case"] is None
    assert gateway.call("POST", f"/v1/failures/{case}/reopen").status == 200
    assert claim(gateway)["case"]["proposals"][0]["candidate_id"] == candidate


@pytest.mark.parametrize("holder", ["", "short", "x" * 200, "no blanks here", "<script>"])
def test_a_holder_that_is_none_is_told(gateway: Inside, holder: str) -> None:
    answer = gateway.call("POST", "/v1/failures/claim", {"model": "assistant", "holder": holder})
    assert (
        answer.status == 400 and "holder" in answer.json["error"]["message"] + answer.json["error"]["param"]
    )


def test_a_model_that_is_not_there_is_told(gateway: Inside) -> None:
    answer = gateway.call("POST", "/v1/failures/claim", {"model": "nobody", "holder": "page-one"})
    assert answer.status == 404


# -- the page


def page(gateway: Inside, headers: dict[str, str] | None = None, query: str = "", status: int = 200) -> str:
    answer = gateway.call("GET", f"/review{query}", None, headers)
    assert answer.status == status
    text: str = answer.body.decode()
    assert " style=" not in text and not re.search(r" on[a-z]+=", text)
    names = ("every", "live", "review", "signin")
    scripts = {f'<script type="module" src="/static/{name}.js">' for name in names}
    assert set(re.findall(r"<script[^>]*>", text)) <= scripts
    return text


def test_the_page_counts_and_leaves_the_texts_to_its_script(gateway: Inside) -> None:
    waiting(gateway, EVIL, proposed=EVIL)
    text = page(gateway)
    assert (
        re.search('<strong id="waiting"[^>]*>1</strong>', text)
        and 'data-model="assistant"' in text
        and EVIL not in text
    )
    found = claim(gateway)["case"]
    assert found["messages"][0]["content"] == EVIL, "as it is: the script sets it as text"
    for name in ("review.js", "page.js"):
        script = files("server").joinpath(f"pages/static/{name}").read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
    assert "there is no model" in page(gateway, query="?model=%3Cb%3E", status=404)


def test_only_reviewers_see_the_page(gateway: Inside) -> None:
    waiting(gateway)
    trainer = carried(sign_in(gateway, make_key(gateway, "train", "infer")))
    assert "Sign in first" in page(gateway, trainer) and "Sign in first" in page(gateway)
    other = carried(sign_in(gateway, make_key(gateway, "review", models=["other"])))
    assert "is not for the model" in page(gateway, other, "?model=assistant", 403)


def test_a_page_of_another_site_neither_claims_nor_takes_back(gateway: Inside) -> None:
    case = waiting(gateway)
    begun = sign_in(gateway, make_key(gateway, "review"))
    body = {"model": "assistant", "holder": "page-one"}

    def claimed(headers: dict[str, str]) -> Answer:
        return gateway.call("POST", "/v1/failures/claim", body, headers)

    assert claimed(carried(begun)).status == 403
    assert claimed({**guarded(begun), "origin": "http://evil.example"}).status == 403
    assert gateway.call("POST", f"/v1/failures/{case}/reopen", None, carried(begun)).status == 403
    assert claimed(guarded(begun)).json["case"]["id"] == case
