"""Batches, by the official client's own requests: a file of them is answered beside the users' traffic."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from openai.types import Batch
from sqlmodel import Session

from feedback.batches import kept
from feedback.batches.kept import answered_lines, forget_answers
from feedback.errors import StorageError
from feedback.files.stored import path_of
from feedback.storage.database import Database
from feedback.storage.tables import Inference
from server.batch_turns import Turns, users_under_way
from tests.server.inside import HELLO, Inside
from tests.server.openai_client import Client
from tests.server.served import served
from tests.server.test_access import bearing, make_key
from tests.server.test_audit import log
from tests.server.test_files import left
from tests.server.upstream import FakeEngine

CHAT = "/v1/chat/completions"


def line(number: int, **body: Any) -> dict[str, Any]:
    asked = {**HELLO, "messages": [{"role": "user", "content": str(number)}], **body}
    return {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": asked}


def send(made: openai.OpenAI, lines: Sequence[Any], purpose: Any = "batch") -> str:
    content = "\n".join(json.dumps(one) for one in lines).encode()
    return made.files.create(file=("requests.jsonl", content), purpose=purpose).id


def begin(made: openai.OpenAI, lines: Sequence[Any], **options: Any) -> Batch:
    asked: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h", **options}
    return made.batches.create(input_file_id=send(made, lines), **asked)


def ended(gateway: Inside, made: openai.OpenAI, batch_id: str, seconds: float = 20.0) -> Batch:
    gateway.eventually(lambda: made.batches.retrieve(batch_id).status in kept.ENDED, seconds)
    return made.batches.retrieve(batch_id)


def lines_of(made: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    rows = [json.loads(row) for row in made.files.content(file_id).read().splitlines()]
    return {row["custom_id"]: row for row in rows}


def test_a_batch_is_answered_line_by_line_into_a_file(gateway: Inside, client: Client) -> None:
    secret = make_key(gateway, "infer", "train", owner="shop")
    made = client(secret)
    begun = begin(made, [line(number) for number in range(20)], metadata={"run": "1"})
    assert (begun.object, begun.status, begun.metadata) == ("batch", "validating", {"run": "1"})
    done = ended(gateway, made, begun.id)
    Batch.model_validate(done.model_dump(), strict=True)
    counts = done.request_counts
    assert counts is not None and (counts.total, counts.completed, counts.failed) == (20, 20, 0)
    assert (done.status, done.errors, done.error_file_id) == ("completed", None, None)
    assert done.in_progress_at and done.finalizing_at and done.completed_at
    assert done.expires_at == done.created_at + 86_400
    rows = lines_of(made, done.output_file_id)
    assert list(rows) == [f"r{number}" for number in range(20)]
    row = rows["r7"]
    assert set(row) == {"id", "custom_id", "response", "error"} and row["error"] is None
    assert set(row["response"]) == {"status_code", "request_id", "body"}
    assert row["response"]["status_code"] == 200
    assert row["response"]["body"]["choices"][0]["message"]["content"].endswith("answers")
    usage = sum(one["response"]["body"]["usage"]["total_tokens"] for one in rows.values())
    assert done.usage is not None and done.usage.total_tokens == usage
    assert done.output_file_id is not None
    assert made.files.retrieve(done.output_file_id).purpose == "batch_output"
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    with gateway.gateway.database.reading() as session:
        kept_one = session.get_one(Inference, row["response"]["request_id"])
        assert (kept_one.purpose, kept_one.version, kept_one.prompt) == ("batch", "base", "7")
        assert (
            kept_one.key_id is not None and answered_lines(session, begun.id.removeprefix("batch_")) == set()
        )
    acts = [row["act"] for row in log(gateway, bearing(make_key(gateway, "admin")), "?limit=100")]
    assert acts == ["file.upload", "batch.create", "file.upload"]


def test_completions_are_answered_too_and_a_bad_request_goes_to_the_error_file(
    gateway: Inside, engine: FakeEngine, client: Client
) -> None:
    made = client("none")
    asked = {"model": "assistant", "prompt": "Once"}
    one = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": asked}
    done = ended(gateway, made, begin(made, [one], endpoint="/v1/completions").id)
    assert done.status == "completed"
    assert lines_of(made, done.output_file_id)["a"]["response"]["body"]["choices"][0]["text"]
    engine.status = 400
    failed = ended(gateway, made, begin(made, [line(1)]).id)
    assert (failed.status, failed.output_file_id) == ("completed", None)
    assert failed.request_counts is not None and failed.request_counts.failed == 1
    row = lines_of(made, failed.error_file_id)["r1"]
    assert row["response"]["status_code"] == 400 and row["response"]["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("path", "asked", "said", "tokens"),
    [
        ("/v1/responses", {"input": "Hello"}, "bases/starter answers", 9),
        ("/v1/embeddings", {"input": ["a", "b"]}, "[[0.5, -0.25], [0.5, -0.25]]", 6),
    ],
    ids=["responses", "embeddings"],
)
def test_the_other_apis_are_answered_too_and_give_way_to_users(
    gateway: Inside, engine: FakeEngine, client: Client, path: Any, asked: Any, said: str, tokens: int
) -> None:
    engine.delay = 0.3
    made = client("none")
    body = {"model": "assistant", **asked}
    rows = [{"custom_id": f"r{n}", "method": "POST", "url": path, "body": body} for n in range(4)]
    begun = begin(made, rows, endpoint=path)
    gateway.eventually(lambda: len(engine.seen) > 1)
    assert users_under_way(gateway.gateway.metrics) == 0
    done = ended(gateway, made, begun.id)
    assert done.status == "completed" and done.usage is not None and done.usage.total_tokens == 4 * tokens
    row = lines_of(made, done.output_file_id)["r3"]["response"]
    shown = row["body"]
    text = (
        shown["output"][0]["content"][0]["text"]
        if path == "/v1/responses"
        else str([one["embedding"] for one in shown["data"]])
    )
    assert text == said
    assert gateway.record(row["request_id"])["purpose"] == "batch"
    bad = {"custom_id": "r0", "method": "POST", "url": path, "body": {**body, "stream": True}}
    failed = ended(gateway, made, begin(made, [bad], endpoint=path).id)
    assert failed.errors is not None and failed.errors.data is not None
    assert [(one.line, one.param) for one in failed.errors.data] == [(1, "body.stream")]


def test_every_bad_line_is_named_with_its_number_and_its_field(gateway: Inside, client: Client) -> None:
    made = client("none")
    bad: list[Any] = [
        line(1),
        {**line(2), "method": "GET"},
        {**line(3), "url": "/v1/completions"},
        line(1),
        {**line(5), "body": {"model": "assistant"}},
        line(6, model="nobody"),
        line(7, stream=True),
        {**line(8), "priority": 1},
        {key: value for key, value in line(9).items() if key != "custom_id"},
    ]
    done = ended(gateway, made, begin(made, bad).id)
    assert (done.status, done.output_file_id) == ("failed", None) and done.failed_at
    assert done.errors is not None and done.errors.data is not None
    told = [(one.line, one.param) for one in done.errors.data]
    assert told == [
        (2, "method"),
        (3, "url"),
        (4, "custom_id"),
        (5, "body.messages"),
        (6, "body.model"),
        (7, "body.stream"),
        (8, "priority"),
        (9, "custom_id"),
    ]
    assert all(one.message and one.message.startswith(f"line {one.line}: ") for one in done.errors.data)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/images/generations"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "output_expires_after"),
    ],
    ids=["endpoint", "window", "metadata", "expiry"],
)
def test_what_is_no_batch_is_refused_by_name(client: Client, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        begin(client("none"), [line(1)], **change)
    assert caught.value.param == param


def test_a_file_of_another_purpose_or_another_key_makes_no_batch(gateway: Inside, client: Client) -> None:
    mine, other = (make_key(gateway, "infer", "train") for _ in range(2))
    made = client(mine)
    asked: dict[str, Any] = {"endpoint": CHAT, "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError, match="batch"):
        made.batches.create(input_file_id=send(made, [line(1)], "fine-tune"), **asked)
    file = send(made, [line(1)])
    with pytest.raises(openai.NotFoundError):
        client(other).batches.create(input_file_id=file, **asked)
    begun = made.batches.create(input_file_id=file, **asked)
    for call in (client(other).batches.retrieve, client(other).batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call(begun.id)
    assert client(other).batches.list().data == []
    assert [one.id for one in client(make_key(gateway, "admin")).batches.list()] == [begun.id]


def test_a_batch_whose_file_was_deleted_says_so(gateway: Inside, client: Client) -> None:
    made = client("none")
    file = send(made, [line(1)])
    begun = made.batches.create(input_file_id=file, endpoint=CHAT, completion_window="24h")
    path_of(
        gateway.settings.directory, file.removeprefix("file-")
    ).unlink()  # no gateway looks between requests
    failed = ended(gateway, made, begun.id)
    assert failed.status == "failed" and failed.errors and failed.errors.data
    assert [(one.code, one.message) for one in failed.errors.data] == [
        ("file_gone", "the file was deleted before it was looked at; send it again")
    ]


def test_too_many_lines_and_too_large_files_are_refused(
    gateway: Inside, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = client("none")
    monkeypatch.setattr("server.batch_lines.MOST_LINES", 3)
    done = ended(gateway, made, begin(made, [line(number) for number in range(4)]).id)
    assert done.errors is not None and done.errors.data is not None
    assert done.status == "failed" and "more than 3 requests" in str(done.errors.data[0].message)
    monkeypatch.setattr("feedback.batches.kept.MOST_BYTES", 10)
    with pytest.raises(openai.BadRequestError, match="10 are the most"):
        begin(made, [line(1)])


def test_batches_are_listed_in_pages(client: Client) -> None:
    made = client("none")
    ids = [begin(made, [line(1)]).id for _ in range(3)]
    assert [one.id for one in made.batches.list(limit=2)] == ids[::-1]
    page = made.batches.list(limit=1, after=ids[2])
    assert ([one.id for one in page.data], page.has_more) == ([ids[1]], True)
    with pytest.raises(openai.BadRequestError):
        made.batches.list(after="x")


def test_a_cancelled_batch_keeps_what_was_answered(
    gateway: Inside, engine: FakeEngine, client: Client
) -> None:
    engine.delay = 0.2
    made = client("none")
    begun = begin(made, [line(number) for number in range(200)])
    gateway.eventually(lambda: bool(made.batches.retrieve(begun.id).request_counts.completed))  # type: ignore[union-attr]
    assert made.batches.cancel(begun.id).status == "cancelling"
    done = ended(gateway, made, begun.id)
    assert done.status == "cancelled" and done.cancelling_at and done.cancelled_at
    counts = done.request_counts
    assert counts is not None and 0 < counts.completed < 200 == counts.total
    assert len(lines_of(made, done.output_file_id)) == counts.completed
    with pytest.raises(openai.ConflictError, match="cancelled"):
        made.batches.cancel(begun.id)


def test_what_is_not_asked_in_time_is_told_line_by_line(
    gateway: Inside, engine: FakeEngine, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.delay = 0.2
    monkeypatch.setattr(kept, "WINDOW_SECONDS", 3.0)
    made = client("none")
    done = ended(gateway, made, begin(made, [line(number) for number in range(300)]).id)
    assert done.status == "expired" and done.expired_at
    good, late = lines_of(made, done.output_file_id), lines_of(made, done.error_file_id)
    assert len(good) + len(late) == 300 and good.keys().isdisjoint(late)
    assert {row["error"]["code"] for row in late.values()} == {"batch_expired"}
    assert done.request_counts is not None and done.request_counts.failed == len(late)


def test_a_batch_of_a_key_that_was_revoked_goes_no_further(
    gateway: Inside, engine: FakeEngine, client: Client
) -> None:
    engine.delay = 0.2
    admin, secret = make_key(gateway, "admin"), make_key(gateway, "infer", "train", owner="gone")
    begun = begin(client(secret), [line(number) for number in range(300)])
    keys = gateway.call("GET", "/v1/keys", None, bearing(admin)).json["items"]
    key = next(one["id"] for one in keys if one["owner"] == "gone")
    made = client(admin)
    gateway.eventually(lambda: bool(made.batches.retrieve(begun.id).request_counts.completed))  # type: ignore[union-attr]
    gateway.call("POST", f"/v1/keys/{key}/revoke", None, bearing(admin))
    done = ended(gateway, made, begun.id)
    assert done.status == "failed" and done.errors is not None and done.errors.data is not None
    assert done.errors.data[0].code == "key_closed"
    assert done.request_counts is not None and done.request_counts.completed < 300
    assert len(lines_of(made, done.output_file_id)) == done.request_counts.completed


def test_an_engine_that_is_away_is_waited_for(gateway: Inside, engine: FakeEngine, client: Client) -> None:
    engine.status = 503
    made = client("none")
    begun = begin(made, [line(1)])
    gateway.eventually(lambda: bool(engine.seen))
    engine.status = 200
    done = ended(gateway, made, begun.id)
    assert done.request_counts is not None and done.request_counts.completed == 1


def test_batches_give_way_to_users(gateway: Inside) -> None:
    users, most = 0.0, 0
    under_way = 0
    turns = Turns(4, lambda: users)

    async def one() -> None:
        nonlocal under_way, most
        async with turns.take():
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.05)
            under_way -= 1

    async def all_of(count: int) -> None:
        await asyncio.gather(*(one() for _ in range(count)))

    gateway.run(all_of(8))
    assert most == 4
    users, most = 1.0, 0
    time.sleep(0.15)
    gateway.run(all_of(4))
    assert most == 1


def test_only_requests_of_users_are_given_way_to(gateway: Inside, engine: FakeEngine, client: Client) -> None:
    engine.delay = 0.5
    made = client("none")
    begin(made, [line(number) for number in range(8)])
    gateway.eventually(lambda: len(engine.seen) > 1)
    metrics = gateway.gateway.metrics
    assert users_under_way(metrics) == 0

    async def beside() -> float:
        asked = asyncio.create_task(gateway.send("POST", CHAT, HELLO))
        await gateway.until(lambda: len(engine.seen) and users_under_way(metrics) == 1)
        counted = users_under_way(metrics)
        await asked
        return counted

    assert gateway.run(beside()) == 1
    assert users_under_way(metrics) == 0


def test_an_end_that_fails_leaves_nothing_and_is_made_again(
    gateway: Inside, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.batch_runner._TROUBLE_SECONDS", 0.1)
    tried = []

    def forget(session: Session, batch_id: str) -> None:
        tried.append(batch_id)
        if len(tried) < 3:
            raise StorageError("the disk is full")
        forget_answers(session, batch_id)

    monkeypatch.setattr("feedback.batches.output.forget_answers", forget)
    made = client("none")
    done = ended(gateway, made, begin(made, [line(1), line(2)]).id)
    assert (done.status, len(tried)) == ("completed", 3)
    assert len(lines_of(made, done.output_file_id)) == 2
    assert len(made.files.list().data) == len(left(gateway)) == 2


def test_a_killed_batch_goes_on_with_what_has_no_answer(engine: FakeEngine, tmp_path: Path) -> None:
    engine.delay = 0.3
    count = 60
    with served(tmp_path, [engine.url]) as running:
        made = openai.OpenAI(api_key="none", base_url=f"{running.address}/v1", max_retries=0)
        begun = begin(made, [line(number) for number in range(count)])
        deadline = time.monotonic() + 60
        while (made.batches.retrieve(begun.id).request_counts or begun.request_counts).completed < 10:  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = psutil.Process(running.process.pid).children(recursive=True)
        running.process.kill()
        running.process.wait(20)
        made.close()
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    engine.delay = 0.0
    database = Database(f"sqlite:///{tmp_path / 'data' / 'starloop.sqlite'}")
    with database.reading() as session:
        before = answered_lines(session, begun.id.removeprefix("batch_"))
    database.close()
    assert 10 <= len(before) < count
    with served(tmp_path, [engine.url]) as running:
        made = openai.OpenAI(api_key="none", base_url=f"{running.address}/v1", max_retries=0)
        deadline = time.monotonic() + 120
        while (done := made.batches.retrieve(begun.id)).status not in kept.ENDED:
            assert time.monotonic() < deadline, done
            time.sleep(0.1)
        rows = lines_of(made, done.output_file_id)
        made.close()
    assert (done.status, len(rows)) == ("completed", count)
    asked = Counter(one.body["messages"][0]["content"] for one in engine.seen if "messages" in one.body)
    assert {asked[str(number - 1)] for number in before} == {1}
    assert set(asked) == {str(number) for number in range(count)}
