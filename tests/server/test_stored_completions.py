"""OpenAI's stored chat completions, by the official client's own requests, over what is captured anyway."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion
from sqlalchemy import event
from sqlmodel import select

from feedback.ids import new_id
from feedback.storage.completion_table import CompletionMetadata
from feedback.storage.completions import Reader, Wanted, list_completions
from feedback.storage.removal_tables import Tombstone
from feedback.storage.tables import Cycle, Failure, Feedback, Inference, Lease
from feedback.storage.verify import verify
from tests.server.inside import Inside
from tests.server.openai_client import Client
from tests.server.test_access import bearing, make_key
from tests.server.test_audit import log


def ask(made: openai.OpenAI, text: str = "Hello?", **options: Any) -> ChatCompletion:
    asked: dict[str, Any] = {"model": "assistant", "messages": [{"role": "user", "content": text}]}
    done = made.chat.completions.create(**{**asked, "store": True, **options})
    assert isinstance(done, ChatCompletion)
    return done


def bare(identifier: str) -> str:
    return identifier.removeprefix("chatcmpl-")


def drained(gateway: Inside) -> None:
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)


def test_what_was_asked_with_store_is_found_at_once_as_it_was_answered(client: Client) -> None:
    made = client("none")
    first = ask(made, metadata={"topic": "refund"})
    found = made.chat.completions.retrieve(first.id)  # at once: it is waited for
    ChatCompletion.model_validate(found.model_dump(), strict=True)
    assert (found.id, found.choices, found.usage) == (first.id, first.choices, first.usage)
    assert found.model_dump()["metadata"] == {"topic": "refund"}
    assert [one.id for one in made.chat.completions.list()] == [first.id]


@pytest.mark.parametrize(
    "options",
    [{}, {"store": False}, {"store": None}],
    ids=["unsaid", "false", "null"],
)
def test_what_was_not_asked_with_store_is_kept_and_not_listed(
    gateway: Inside, client: Client, options: dict[str, Any]
) -> None:
    asked = gateway.ask(options).json["id"]
    drained(gateway)
    assert client("none").chat.completions.list().data == []
    for call in (client("none").chat.completions.retrieve, client("none").chat.completions.delete):
        with pytest.raises(openai.NotFoundError, match="store: true"):
            call(asked)
    with gateway.gateway.database.reading() as session:
        assert session.get(Inference, bare(asked)) is not None


def test_what_failed_and_what_is_no_chat_is_not_listed(gateway: Inside, engine: Any, client: Client) -> None:
    gateway.call("POST", "/v1/completions", {"model": "assistant", "prompt": "x", "store": True})
    engine.status = 400
    gateway.ask({"store": True})
    drained(gateway)
    assert client("none").chat.completions.list().data == []


def test_a_stream_is_stored_as_the_whole_that_it_came_to(client: Client) -> None:
    made = client("none")
    pieces = list(
        made.chat.completions.create(
            model="assistant",
            messages=[{"role": "user", "content": "Hello?"}],
            store=True,
            stream=True,
        )
    )
    found = made.chat.completions.retrieve(pieces[0].id)
    ChatCompletion.model_validate(found.model_dump(), strict=True)
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert said and found.choices[0].message.content == said


def test_the_list_is_paged_both_ways_and_filtered(gateway: Inside, client: Client) -> None:
    made = client("none")
    ids = [ask(made, str(number), metadata={"half": str(number // 3)}).id for number in range(5)]
    pinned = ask(made, model="assistant@base").id
    drained(gateway)
    listed = made.chat.completions.list
    assert [one.id for one in listed(limit=2)] == [*ids, pinned]  # the client turns the pages itself
    assert [one.id for one in listed(limit=4, order="desc")] == [pinned, *reversed(ids)]
    page = listed(limit=2, after=ids[1])
    assert ([one.id for one in page.data], page.has_more) == (ids[2:4], True)
    assert [one.id for one in listed(metadata={"half": "1"})] == ids[3:]
    assert [one.id for one in listed(model="assistant", limit=100)] == [*ids, pinned]
    assert [one.id for one in listed(model="assistant@base")] == [*ids, pinned]
    assert listed(model="assistant@9.9").data == listed(model="other").data == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("after=x", "after"),
        ("limit=0", "limit"),
        ("order=up", "order"),
        ("metadata=1", "metadata"),
        ('metadata["]=1', 'metadata["]'),
        ("store=true", "store"),
    ],
    ids=["after", "limit", "order", "metadata", "key", "unknown"],
)
def test_a_list_is_refused_by_the_parameter(gateway: Inside, query: str, param: str) -> None:
    answer = gateway.call("GET", f"/v1/chat/completions?{query}")
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_metadata_is_changed_and_the_record_is_not(gateway: Inside, client: Client) -> None:
    made = client("none")
    asked = ask(made, metadata={"a": "1"}).id
    changed = made.chat.completions.update(asked, metadata={"b": "2"})
    assert (changed.id, changed.model_dump()["metadata"]) == (asked, {"b": "2"})
    listed = made.chat.completions.list
    assert [one.id for one in listed(metadata={"b": "2"})] == [asked]
    assert listed(metadata={"a": "1"}).data == []
    assert made.chat.completions.update(asked, metadata=None).model_dump()["metadata"] == {}
    assert gateway.record(bare(asked))["metadata"] == {"a": "1"}
    found = verify(gateway.gateway.database, gateway.settings.directory, patience=1.0)
    assert not found.corrupt
    with pytest.raises(openai.BadRequestError, match="16 are the most"):
        made.chat.completions.update(asked, metadata={str(number): "x" for number in range(17)})


def test_its_messages_are_listed_in_pages(client: Client) -> None:
    made = client("none")
    parts = [{"type": "text", "text": "And"}, {"type": "text", "text": "this?"}]
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": parts}]
    asked = ask(made, messages=messages).id
    listed = made.chat.completions.messages.list
    found = list(listed(asked, limit=1))
    assert [one.id for one in found] == [f"{asked}-0", f"{asked}-1"]
    assert [str(one.role) for one in found] == ["system", "user"]
    assert (found[0].content, found[1].content) == ("Be short.", "And\nthis?")
    assert found[1].model_dump(exclude_unset=True)["content_parts"] == parts
    assert [one.id for one in listed(asked, order="desc")] == [f"{asked}-1", f"{asked}-0"]
    with pytest.raises(openai.BadRequestError, match="after"):
        listed(asked, after="x")


def test_a_key_finds_what_was_asked_with_it_and_an_admin_all(gateway: Inside, client: Client) -> None:
    mine, other = make_key(gateway, "infer"), make_key(gateway, "infer")
    elsewhere, admin = make_key(gateway, "admin", models=["other"]), make_key(gateway, "admin")
    asked = ask(client(mine)).id
    drained(gateway)
    assert [one.id for one in client(mine).chat.completions.list()] == [asked]
    assert [one.id for one in client(admin).chat.completions.list()] == [asked]
    for secret in (other, elsewhere):
        made = client(secret).chat.completions
        assert made.list().data == []
        for call in (made.retrieve, made.messages.list, lambda one: made.update(one, metadata={})):  # noqa: B023
            with pytest.raises(openai.NotFoundError):
                call(asked)
    reviews = client(make_key(gateway, "infer", "review")).chat.completions
    assert reviews.retrieve(asked).id == asked
    with pytest.raises(openai.NotFoundError):
        reviews.update(asked, metadata={"of": "another"})
    assert client(admin).chat.completions.update(asked, metadata={"a": "b"}).id == asked
    with pytest.raises(openai.PermissionDeniedError, match="admin"):
        client(mine).chat.completions.delete(asked)
    with pytest.raises(openai.NotFoundError):
        client(elsewhere).chat.completions.delete(asked)


def test_deleting_takes_all_that_was_made_of_it_and_leaves_a_tombstone(
    gateway: Inside, client: Client
) -> None:
    secret = make_key(gateway, "admin", owner="ada")
    made = client(secret)
    gone, stays = ask(made, "zqx?").id, ask(made, "other").id
    for identifier in (gone, stays):
        rating = {"inference_id": bare(identifier), "rating": 1}
        gateway.call("POST", "/v1/feedback", rating, bearing(secret))
    made.chat.completions.update(gone, metadata={"a": "1"})
    drained(gateway)
    with gateway.gateway.database.session() as session:
        session.add(
            Failure(
                id=new_id(gateway.gateway.now()),
                inference_id=bare(gone),
                model="assistant",
                created=0.0,
                reasons=[],
            )
        )
        session.commit()
    deleted = made.chat.completions.delete(gone)
    assert (deleted.id, deleted.object, deleted.deleted) == (gone, "chat.completion.deleted", True)
    with pytest.raises(openai.NotFoundError):
        made.chat.completions.retrieve(gone)
    assert [one.id for one in made.chat.completions.list()] == [stays]
    with gateway.gateway.database.reading() as session:
        assert session.exec(select(Failure)).all() == session.exec(select(CompletionMetadata)).all() == []
        assert [row.inference_id for row in session.exec(select(Feedback))] == [bare(stays)]
        assert session.get(Tombstone, bare(gone)) is not None
    found = verify(gateway.gateway.database, gateway.settings.directory, patience=1.0)
    assert not (found.missing or found.duplicated or found.corrupt)
    written = [path for path in gateway.settings.directory.rglob("*") if path.is_file()]
    assert not [path for path in written if b"zqx?" in path.read_bytes()]
    rows = log(gateway, bearing(secret), "?act=completion.delete")
    assert [(row["actor"], row["subject"]) for row in rows] == [("ada", bare(gone))]


def test_deleting_waits_for_a_cycle_that_may_hold_it(gateway: Inside, client: Client) -> None:
    made = client("none")
    asked = ask(made).id
    drained(gateway)
    now = gateway.gateway.now()
    running = Cycle(id=new_id(now), model="assistant", mode="report", state="running", requested_by="ann")
    running.created = running.updated = 0.0
    with gateway.gateway.database.session() as session:
        session.add(running)
        session.add(Lease(name="loop", holder="x", expires=now.timestamp() + 60))
        session.commit()
    with pytest.raises(openai.ConflictError, match="is running"):
        made.chat.completions.delete(asked)
    assert made.chat.completions.retrieve(asked).id == asked


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_the_list_reads_along_its_own_index(gateway: Inside, order: Any) -> None:
    database, asked = gateway.gateway.database, list[Any]()

    def note(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
        if "completion_metadata" in statement:
            asked.append((statement, values))

    with database.reading() as session:
        event.listen(database.engine, "before_cursor_execute", note)
        list_completions(session, Reader("key", {"assistant"}, False), Wanted(model="assistant", order=order))
        event.remove(database.engine, "before_cursor_execute", note)
        statement, values = asked[-1]
        plan = str(session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all())
    assert "inference_listed" in plan and "TEMP B-TREE" not in plan
