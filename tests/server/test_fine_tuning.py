"""Fine-tunings as OpenAI's own client asks for them, run by a loop whose training is a fake."""

from __future__ import annotations

import csv
import json
from datetime import timedelta
from typing import Any

import openai
import pytest

from feedback.datasets.freeze import read_rows
from feedback.datasets.tool_calls import turn_of
from feedback.ids import new_id
from feedback.storage.tables import Inference, Tuning
from tests.server.inside import Inside
from tests.server.openai_client import Client, team
from tests.server.test_access import bearing, make_key
from tests.server.test_files import told
from tests.server.tuned import Trainer
from tests.trainer.world import WORDS

ANSWERS = ('{"intent": "refund", "urgency": "low"}', '{"intent": "cancel", "urgency": "high"}')


@pytest.fixture
def trainer(gateway: Inside) -> Trainer:
    return Trainer(gateway)


def question(number: int) -> str:
    return " ".join(f"{WORDS[(number * (place + 3)) % 16]}{number * 37 + place * 101}" for place in range(8))


def chats(count: int = 40, first: int = 0) -> bytes:
    """Rows that the starter's contract takes, none near another."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": question(number)},
                {"role": "assistant", "content": ANSWERS[number % 2]},
            ]
        }
        for number in range(first, first + count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def comparisons(count: int = 40) -> bytes:
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": question(number)}]},
            "preferred_output": [{"role": "assistant", "content": ANSWERS[number % 2]}],
            "non_preferred_output": [{"role": "assistant", "content": ANSWERS[1 - number % 2]}],
        }
        for number in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def sent(openai_client: openai.OpenAI, rows: bytes | None = None, name: str = "rows.jsonl") -> str:
    return openai_client.files.create(file=(name, rows or chats()), purpose="fine-tune").id


def test_a_file_becomes_a_version_that_is_called_promoted_and_deleted(
    gateway: Inside, client: Client, trainer: Trainer
) -> None:
    ours = client("none")
    jobs = ours.fine_tuning.jobs
    asked = jobs.create(model="assistant", training_file=sent(ours), suffix="mine", metadata={"team": "a"})
    assert (asked.status, asked.model, asked.fine_tuned_model) == ("validating_files", "assistant", None)
    assert asked.hyperparameters.n_epochs == "auto" and asked.result_files == []
    seen: list[str] = []
    trainer.during = lambda _: seen.append(jobs.retrieve(asked.id).status)
    assert trainer.turn()
    assert seen == ["running"] * 3
    done = jobs.retrieve(asked.id)
    assert (done.status, done.error, done.trained_tokens) == ("succeeded", None, 1234)
    assert done.hyperparameters.n_epochs == 3 and done.metadata == {"team": "a"}
    name = done.fine_tuned_model
    assert name == f"ft:starter:local:mine:{asked.id[-12:]}"

    answer = ours.chat.completions.with_raw_response.create(
        model=name, messages=[{"role": "user", "content": "Hello?"}]
    )
    assert answer.headers["x-starloop-version"] == "assistant@1.0"
    gateway.record(answer.headers["x-starloop-inference-id"])
    with gateway.gateway.database.reading() as session:
        assert session.get_one(Inference, answer.headers["x-starloop-inference-id"]).pinned
    assert name in [one.id for one in ours.models.list()] and ours.models.retrieve(name).id == name
    (version,) = trainer.versions()
    assert version.facts["fine_tuning"] == asked.id and asked.id in version.note
    assert version.state == "registered" and ours.models.retrieve("assistant").version == "base"  # type: ignore[attr-defined]

    (checkpoint,) = jobs.checkpoints.list(asked.id)
    assert (checkpoint.fine_tuned_model_checkpoint, checkpoint.step_number) == (name, 3)
    assert jobs.checkpoints.list(asked.id, after=checkpoint.id).data == []
    with pytest.raises(openai.BadRequestError, match="not a checkpoint of this job"):
        jobs.checkpoints.list(asked.id, after=asked.id)
    figures = list(csv.DictReader(ours.files.content(done.result_files[0]).text.splitlines()))
    assert [(row["step"], row["train_loss"][:4]) for row in figures] == [
        ("1", "1.0"),
        ("2", "0.5"),
        ("3", "0.33"),
    ]
    texts = [event.message for event in reversed(list(jobs.list_events(asked.id, limit=2)))]
    assert [text[:8] for text in texts] == [
        *("Asked fo", "Files va", "Training", "Dataset "),
        *("Step 1/3", "Step 2/3", "Step 3/3", "Succeede"),
    ]

    promotion = {"version": "1.0", "reason": "better"}
    assert gateway.call("POST", "/v1/models/assistant/promote", promotion).status == 200
    assert ours.models.retrieve("assistant").version == "1.0"  # type: ignore[attr-defined]
    with pytest.raises(openai.ConflictError, match="champion"):
        ours.models.delete(name)
    assert gateway.call("POST", "/v1/models/assistant/rollback", {"reason": "worse"}).status == 200
    assert ours.models.delete(name).deleted
    assert name not in [one.id for one in ours.models.list()]
    for call in (ours.models.retrieve, ours.models.delete):
        with pytest.raises(openai.NotFoundError):
            call(name)
    with pytest.raises(openai.NotFoundError):
        ours.chat.completions.create(model=name, messages=[{"role": "user", "content": "Hello?"}])


def test_rows_to_be_judged_by_are_left_out_and_counted(client: Client, trainer: Trainer) -> None:
    ours = client("none")
    asked = ours.fine_tuning.jobs.create(model="starter", training_file=sent(ours, chats(200)))
    assert trainer.turn()
    manifest = trainer.dataset(asked.id).manifest
    left = manifest["left_out"]["imported, kept apart for evaluation"]
    assert left > 0 and manifest["counts"]["rows"] == 200 - left and manifest["origin"] == asked.id
    assert any(f"{left} left out" in one.message for one in ours.fine_tuning.jobs.list_events(asked.id))


@pytest.mark.parametrize(
    ("rows", "method", "problem"),
    [
        (chats(20) + b'{"messages": [{"role": "user", "content": "a"}]}\n', "supervised", "line 21"),
        (chats(9), "supervised", "10 are the fewest"),
        (chats(20), "dpo", "no comparisons"),
        (comparisons(20), "supervised", "dpo"),
    ],
    ids=["bad line", "too few", "no pairs", "pairs alone"],
)
def test_a_file_that_is_no_good_fails_the_job_and_says_why(
    client: Client, trainer: Trainer, rows: bytes, method: Any, problem: str
) -> None:
    ours = client("none")
    asked = ours.fine_tuning.jobs.create(
        model="assistant", training_file=sent(ours, rows), method={"type": method}
    )
    trainer.turn()
    failed = ours.fine_tuning.jobs.retrieve(asked.id)
    assert failed.status == "failed" and failed.finished_at and failed.error is not None
    assert (failed.error.code, failed.error.param) == ("invalid_training_file", "training_file")
    assert problem in failed.error.message
    assert trainer.trainings == [] and trainer.versions() == []
    newest = next(iter(ours.fine_tuning.jobs.list_events(asked.id)))
    assert newest.level == "error" and problem in newest.message


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find",
            "parameters": {
                "type": "object",
                "properties": {"order": {"type": "integer"}},
                "required": ["order"],
            },
        },
    }
]


def with_tools(order: Any = 7, count: int = 40) -> bytes:
    """Conversations in which a tool is called and its return answered."""

    def row(number: int) -> dict[str, Any]:
        call = {"name": "find", "arguments": json.dumps({"order": order})}
        return {
            "messages": [
                {"role": "user", "content": question(number)},
                {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": call}]},
                {"role": "tool", "tool_call_id": "c", "content": "in Bonn"},
                {"role": "assistant", "content": ANSWERS[number % 2]},
            ],
            "tools": TOOLS,
            "parallel_tool_calls": False,
        }

    return "".join(json.dumps(row(number)) + "\n" for number in range(count)).encode()


def test_a_file_with_tools_is_learned_with_them_calls_and_answers_alike(
    gateway: Inside, client: Client, trainer: Trainer
) -> None:
    ours = client("none")
    asked = ours.fine_tuning.jobs.create(model="assistant", training_file=sent(ours, with_tools()))
    assert trainer.turn()
    assert ours.fine_tuning.jobs.retrieve(asked.id).status == "succeeded"
    dataset = trainer.dataset(asked.id)
    rows = list(read_rows(gateway.settings.directory, dataset.id, "train"))
    calls = [row for row in rows if "tool_calls" in turn_of(row["answer"], row["tools"])]
    assert all(row["tools"] == TOOLS for row in rows)
    assert len(calls) == len(rows) - len(calls) > 10, "of each conversation the call and the answer"


def test_a_call_that_its_tool_does_not_take_fails_the_job_and_is_named(
    client: Client, trainer: Trainer
) -> None:
    ours = client("none")
    asked = ours.fine_tuning.jobs.create(model="assistant", training_file=sent(ours, with_tools("seven")))
    trainer.turn()
    failed = ours.fine_tuning.jobs.retrieve(asked.id)
    assert failed.status == "failed" and failed.error is not None
    assert "line 1: messages.1.tool_calls.0.function.arguments: does not fit the schema of find" in (
        failed.error.message
    )
    assert trainer.trainings == []


def test_what_is_asked_for_is_taken_to_the_letter_or_refused_by_name(client: Client) -> None:
    ours = client("none")
    create, file = ours.fine_tuning.jobs.create, sent(ours)
    values: dict[str, Any] = {
        "n_epochs": 2,
        "batch_size": 4,
        "learning_rate_multiplier": 0.5,
        "beta": 0.3,
    }
    asked = create(
        model="assistant",
        training_file=sent(ours, comparisons()),
        seed=7,
        method={"type": "dpo", "dpo": {"hyperparameters": values}},
    )
    assert asked.method and asked.method.dpo and asked.method.dpo.hyperparameters
    assert asked.method.dpo.hyperparameters.to_dict() == values and asked.seed == 7
    batch = ours.files.create(file=("a.jsonl", chats()), purpose="batch").id
    integration: Any = [{"type": "wandb", "wandb": {"project": "x"}}]
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("model", {"model": "nothing"}),
        ("model", {"model": "assistant@1.0"}),
        ("training_file", {"training_file": "file-nothing"}),
        ("training_file", {"training_file": batch}),
        ("validation_file", {"validation_file": batch}),
        ("integrations", {"integrations": integration}),
        ("method.type", {"method": {"type": "reinforcement"}}),
        ("method.dpo", {"method": {"type": "supervised", "dpo": {}}}),
        ("hyperparameters", {"method": {"type": "dpo"}, "hyperparameters": {"n_epochs": 1}}),
        ("hyperparameters.n_epochs", {"hyperparameters": {"n_epochs": 0}}),
        ("hyperparameters.n_epochs", {"hyperparameters": {"n_epochs": "many"}}),
        (
            "method.supervised.hyperparameters.beta",
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 0.1}}}},
        ),
        ("suffix", {"suffix": "two words"}),
        ("suffix", {"suffix": "one\n"}),
        ("metadata.a", {"metadata": {"a": "\0"}}),
        ("metadata.a", {"metadata": {"a": "x" * 513}}),
        ("metadata", {"metadata": {str(number): "x" for number in range(17)}}),
        ("seed", {"seed": -1}),
        ("colour", {"extra_body": {"colour": "red"}}),
    ]
    for param, body in wrong:
        with pytest.raises(openai.BadRequestError) as caught:
            create(**({"model": "assistant", "training_file": file} | body))
        assert told(caught.value)["param"] == param, told(caught.value)
    assert [one.id for one in ours.fine_tuning.jobs.list()] == [asked.id]


def test_jobs_queue_are_paused_resumed_and_cancelled(client: Client, trainer: Trainer) -> None:
    ours = client("none")
    jobs, file = ours.fine_tuning.jobs, sent(ours)
    first, second, third = (jobs.create(model="assistant", training_file=file) for _ in range(3))
    assert jobs.pause(first.id).status == "paused"  # type: ignore[comparison-overlap]
    assert jobs.cancel(third.id).status == "cancelled"
    trainer.during = lambda step: jobs.pause(second.id) and None if step == 2 else None
    assert trainer.turn()
    assert jobs.retrieve(second.id).status == "paused"  # type: ignore[comparison-overlap]
    assert not trainer.turn()
    assert [jobs.resume(one.id).status for one in (first, second)] == ["validating_files", "queued"]
    with pytest.raises(openai.ConflictError, match="not paused"):
        jobs.resume(first.id)
    trainer.during = lambda _: jobs.cancel(first.id) and None
    assert trainer.turn()
    ended = jobs.retrieve(first.id)
    assert (ended.status, ended.fine_tuned_model, ended.result_files) == ("cancelled", None, [])
    assert trainer.versions() == []
    trainer.during = lambda _: None
    assert trainer.turn() and not trainer.turn()
    assert jobs.retrieve(second.id).status == "succeeded"
    assert [one.removeprefix("ftjob-") for one in (second.id, first.id, second.id)] == trainer.trainings
    for steer in (jobs.cancel, jobs.pause):
        with pytest.raises(openai.ConflictError, match="succeeded"):
            steer(second.id)


def test_a_key_sees_its_own_jobs_for_its_models_alone(
    gateway: Inside, client: Client, trainer: Trainer
) -> None:
    ann, bob, ada, some = team(gateway, client)
    file = sent(ann)
    asked = ann.fine_tuning.jobs.create(model="assistant", training_file=file, suffix="x")
    assert asked.organization_id == "ann"
    assert [one.id for one in ada.fine_tuning.jobs.list()] == [asked.id]
    with pytest.raises(openai.BadRequestError, match="no file"):
        bob.fine_tuning.jobs.create(model="assistant", training_file=file)
    with pytest.raises(openai.BadRequestError, match="no model"):
        some.fine_tuning.jobs.create(model="assistant", training_file=sent(some))
    for other in (bob, some):
        jobs = other.fine_tuning.jobs
        assert list(jobs.list()) == []
        for call in (
            jobs.retrieve,
            jobs.cancel,
            jobs.pause,
            jobs.resume,
            jobs.list_events,
            jobs.checkpoints.list,
        ):
            with pytest.raises(openai.NotFoundError):
                call(asked.id)
    with pytest.raises(openai.PermissionDeniedError):
        client(make_key(gateway, "infer")).fine_tuning.jobs.list()
    assert trainer.turn()
    name = ann.fine_tuning.jobs.retrieve(asked.id).fine_tuned_model
    assert name is not None and name.startswith("ft:starter:ann:x:")
    with pytest.raises(openai.NotFoundError):
        some.models.retrieve(name)
    with pytest.raises(openai.PermissionDeniedError):
        ann.models.delete(name)
    with pytest.raises(openai.PermissionDeniedError):
        ann.chat.completions.create(model=name, messages=[{"role": "user", "content": "Hello?"}])
    assert name not in [one.id for one in some.models.list()]


def test_a_version_is_its_owners_to_name_until_it_serves_users(
    gateway: Inside, client: Client, trainer: Trainer
) -> None:
    ann, *_ = team(gateway, client)
    job = ann.fine_tuning.jobs.create(model="assistant", training_file=sent(ann)).id
    assert trainer.turn()
    gateway.gateway.live.refresh()
    name = ann.fine_tuning.jobs.retrieve(job).fine_tuned_model
    assert name is not None
    keys = {owner: make_key(gateway, "infer", "train", owner=owner) for owner in ("ann", "bob")}
    admin = make_key(gateway, "admin", owner="ada")

    def seen(key: str) -> list[int]:
        """Statuses of all that names it."""
        hello = {"messages": [{"role": "user", "content": "Hello?"}]}
        asked: list[tuple[str, str, Any]] = [
            ("GET", f"/v1/models/{name}", None),
            ("GET", "/v1/models/assistant@1.0", None),
            ("GET", "/v1/models/assistant/versions/1.0/card", None),
            ("POST", "/v1/chat/completions", {"model": name, **hello}),
            ("POST", "/v1/chat/completions", {"model": "assistant@1.0", **hello}),
            ("POST", "/v1/messages", {"model": "assistant@1.0", "max_tokens": 9, **hello}),
        ]
        return [gateway.call(*one, bearing(key)).status for one in asked]

    def listed(key: str) -> tuple[list[str], list[str]]:
        models = gateway.call("GET", "/v1/models", None, bearing(key)).json["data"]
        versions = gateway.call("GET", "/v1/models/assistant/versions", None, bearing(key)).json["items"]
        return [one["id"] for one in models], [one["number"] for one in versions]

    assert set(seen(keys["ann"])) == set(seen(admin)) == {200} and set(seen(keys["bob"])) == {404}
    assert listed(keys["ann"]) == listed(admin) == (["assistant", name], ["1.0"])
    assert listed(keys["bob"]) == (["assistant"], [])
    page = gateway.call("GET", "/versions?model=assistant", None, bearing(keys["bob"]))
    assert page.status == 200 and job.removeprefix("ftjob-") not in page.body.decode()
    promotion = {"version": "1.0", "reason": "better"}
    assert gateway.call("POST", "/v1/models/assistant/promote", promotion, bearing(admin)).status == 200
    assert set(seen(keys["bob"])) == {200} and listed(keys["bob"])[1] == ["1.0"]


def test_a_thousand_jobs_are_paged_and_filtered(gateway: Inside, client: Client) -> None:
    now = gateway.gateway.now()
    ids = [new_id(now + timedelta(seconds=number)) for number in range(1000)]
    plain: dict[str, Any] = {"model": "assistant", "base": "starter", "asked": "assistant", "owner": "ann"}
    plain |= {
        "training_file": ids[0],
        "method": "supervised",
        "seed": 0,
        "state": "cancelled",
        "created": 0.0,
    }
    with gateway.gateway.database.session() as session:
        for number, one in enumerate(ids):
            pairs = None if number % 2 else {"team": "ab"[number % 4 // 2], "empty": ""}
            session.add(Tuning(id=one, metadata_=pairs, **plain))
        session.commit()
    jobs = client("none").fine_tuning.jobs
    newest = jobs.list(limit=400)
    assert (len(newest.data), newest.has_more) == (400, True)
    assert [one.id.removeprefix("ftjob-") for one in newest] == ids[::-1]
    found = list(jobs.list(limit=100, metadata={"team": "b", "empty": ""}))
    assert [one.id.removeprefix("ftjob-") for one in found] == ids[2::4][::-1]
    assert len(list(jobs.list(limit=1000, extra_query={"metadata": "null"}))) == 500
    for query, param in (
        ({"after": "nothing"}, "after"),
        ({"colour": "red"}, "colour"),
        ({"limit": 0}, "limit"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            jobs.list(extra_query=query)
        assert told(caught.value)["param"] == param
