"""Finding what was asked and answered, over the API."""

from __future__ import annotations

import pytest

from tests.server.inside import Inside
from tests.server.test_access import bearing, make_key


def ask(gateway: Inside, text: str, key: str | None = None, **fields: object) -> str:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    answer = gateway.ask(body, bearing(key) if key else None)
    assert answer.status == 200
    return answer.headers["x-starloop-inference-id"]


def found(gateway: Inside, query: str, headers: dict[str, str] | None = None) -> list[str]:
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    answer = gateway.call("GET", f"/v1/inferences?{query}", None, headers)
    assert answer.status == 200, answer.body
    return [item["id"] for item in answer.json["items"]]


@pytest.mark.alone
def test_an_inference_is_readable_within_a_second_of_its_answer(gateway: Inside) -> None:
    inference = ask(gateway, "Hello?")
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0, seconds=1)
    assert gateway.call("GET", f"/v1/inferences/chatcmpl-{inference}").status == 200


def test_the_list_is_newest_first_and_goes_on_where_it_stopped(gateway: Inside) -> None:
    asked = [ask(gateway, f"question {n}") for n in range(7)]
    seen: list[str] = []
    cursor = ""
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    while True:
        page = gateway.call("GET", f"/v1/inferences?limit=3{cursor}").json
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == sorted(asked, reverse=True)
    assert "request" not in page["items"][0]


def test_filters_narrow_the_list_together(gateway: Inside) -> None:
    one = ask(gateway, "where is my PARCEL", user="ann", metadata={"team": "x", "lang": "en"})
    two = ask(gateway, "what is a parcel", user="bob", metadata={"team": "y"})
    three = ask(gateway, "unrelated", user="ann")
    for inference, rating in ((one, 1), (two, 4)):
        gateway.call("POST", "/v1/feedback", {"inference_id": inference, "rating": rating})
    assert found(gateway, "user=ann") == [three, one]
    assert found(gateway, "q=parcel") == [two, one]
    assert found(gateway, "q=parcel&user=bob") == [two]
    assert found(gateway, "rating_lte=2") == [one]
    assert found(gateway, "metadata.team=x&metadata.lang=en") == [one]
    assert found(gateway, "metadata.team=x&metadata.lang=de") == []
    assert found(gateway, "model=assistant&version=base") == [three, two, one]
    assert found(gateway, "version=1.0") == []
    assert found(gateway, "since=2100-01-01") == []
    assert found(gateway, "until=2100-01-01T00:00:00Z&since=2020-01-01T00:00:00%2B02:00") == [three, two, one]
    lines = gateway.call("GET", "/v1/inferences?q=parcel").json["items"]
    assert [line["rating"] for line in lines] == [4, 1]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("rating_lte=9", "rating_lte"),
        ("since=yesterday", "since"),
        ("until=", "until"),
        ("cursor=x", "cursor"),
        ("modle=assistant", "modle"),
    ],
)
def test_a_query_that_cannot_be_is_refused_by_name(gateway: Inside, query: str, param: str) -> None:
    answer = gateway.call("GET", f"/v1/inferences?{query}")
    assert (answer.status, answer.json["error"]["param"]) == (400, param), answer.body


def test_a_key_for_several_models_must_name_one_to_list(gateway: Inside) -> None:
    several = bearing(make_key(gateway, "review", models=["assistant", "other"]))
    assert gateway.call("GET", "/v1/inferences", None, several).status == 400
    assert found(gateway, "model=assistant", several) == []


@pytest.mark.parametrize("identifier", ["x", "..%2f..", "00000000-0000-4000-8000-000000000000"])
def test_an_address_that_is_no_id_is_refused(gateway: Inside, identifier: str) -> None:
    assert gateway.call("GET", f"/v1/inferences/{identifier}").status == 400


def test_an_unknown_id_is_404(gateway: Inside) -> None:
    assert gateway.call("GET", "/v1/inferences/019b7700-0000-7000-8000-000000000000").status == 404
