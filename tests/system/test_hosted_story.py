"""The whole story of a hosted fine-tuning API on real vLLM with real trainings, told by OpenAI's own clients."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.server.node_client import begin_story, installed, told
from tests.server.test_fine_tuning import ANSWERS, chats, question
from tests.server.test_node_client import check
from tests.system.running import Up, up

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

_CONFIGURATION = """\
mode = "report"
[dataset]
evaluation_share = 0.05
[training]
threads = 2
checkpoint_seconds = 0.5
[schedule]
cron = ""
"""
_LONG: Any = {"n_epochs": 24, "batch_size": 2}
"""Some 400 steps: long enough to be met under way on a quick machine."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("hosted"), _CONFIGURATION) as started:
        yield started


@pytest.fixture(scope="module")
def ours(running: Up) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none") as made:
        yield made


@pytest.fixture(scope="module")
def file(ours: openai.OpenAI) -> str:
    return ours.files.create(file=("rows.jsonl", chats(40)), purpose="fine-tune").id


def until(
    ours: openai.OpenAI, job: str, there: Callable[[FineTuningJob], bool], seconds: float = 240
) -> FineTuningJob:
    """The job once it is there. One that has ended will never be."""
    deadline = time.monotonic() + seconds
    while not there(found := ours.fine_tuning.jobs.retrieve(job)):
        assert found.status not in ("succeeded", "failed", "cancelled"), found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def steps(ours: openai.OpenAI, job: str) -> list[int]:
    """The steps that its events tell of, in their order."""
    events = reversed(list(ours.fine_tuning.jobs.list_events(job, limit=100)))
    return [int(event.data["step"]) for event in events if isinstance(event.data, dict)]


def versions(running: Up) -> set[str]:
    """Those that anything is there of: a name, a folder that engines read."""
    listed = httpx.get(f"{running.address}/v1/models/assistant/versions").json()["items"]
    folders = {path.name.partition("@")[2] for path in (running.directory / "adapters").glob("assistant@*")}
    return folders | {str(one["number"]) for one in listed}


def test_a_file_becomes_a_model_that_is_watched_called_promoted_and_deleted(
    running: Up, ours: openai.OpenAI, file: str
) -> None:
    jobs = ours.fine_tuning.jobs
    asked = jobs.create(
        model="assistant",
        training_file=file,
        suffix="mine",
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 12, "batch_size": 2}}},
    )
    watched: list[int] = []
    while (status := jobs.retrieve(asked.id).status) not in ("succeeded", "failed", "cancelled"):
        if status == "running" and (seen := steps(ours, asked.id)):
            watched.append(len(seen))
        time.sleep(0.2)
    done = jobs.retrieve(asked.id)
    assert done.status == "succeeded", done.error
    assert len(set(watched)) > 1, "its steps came while it trained, a few at a time"
    told = steps(ours, asked.id)
    assert told == list(range(1, told[-1] + 1)) and done.trained_tokens
    figures = list(csv.DictReader(ours.files.content(done.result_files[0]).text.splitlines()))
    losses = [float(row["train_loss"]) for row in figures if row["train_loss"]]
    assert len(losses) == told[-1] and losses[-1] < losses[0]

    name = done.fine_tuned_model
    assert name is not None and name.startswith("ft:starter:local:mine:")
    (checkpoint,) = jobs.checkpoints.list(asked.id)
    assert checkpoint.fine_tuned_model_checkpoint == name

    learned = [
        ours.chat.completions.create(
            model=name, messages=[{"role": "user", "content": question(number)}], temperature=0, max_tokens=32
        )
        for number in range(6)
    ]
    assert {one.choices[0].message.content for one in learned} <= set(ANSWERS)
    version = str(jobs.retrieve(asked.id).version)  # type: ignore[attr-defined]
    number = version.partition("@")[2]
    promoted = httpx.post(
        f"{running.address}/v1/models/assistant/promote",
        json={"version": number, "reason": "the story"},
        timeout=120,
    )
    assert promoted.status_code == 200, promoted.text
    answer = ours.chat.completions.with_raw_response.create(
        model="assistant", messages=[{"role": "user", "content": question(1)}], max_tokens=8, stream=True
    )
    assert answer.headers["x-starloop-version"] == version
    assert "".join(chunk.choices[0].delta.content or "" for chunk in answer.parse() if chunk.choices)
    back = httpx.post(f"{running.address}/v1/models/assistant/rollback", json={"reason": "over"}, timeout=120)
    assert back.status_code == 200, back.text
    assert ours.models.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        ours.models.retrieve(name)
    with pytest.raises(openai.NotFoundError):
        ours.chat.completions.create(model=name, messages=[{"role": "user", "content": "Hello?"}])


def test_a_batch_of_responses_is_answered_and_tokens_are_counted_as_they_are_read(
    running: Up, ours: openai.OpenAI
) -> None:
    body = {"model": "assistant", "input": question(1), "max_output_tokens": 8}
    asked = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}
    sent = ours.files.create(file=("b.jsonl", json.dumps(asked).encode()), purpose="batch")
    batch = ours.batches.create(input_file_id=sent.id, endpoint="/v1/responses", completion_window="24h")
    deadline = time.monotonic() + 60
    while (done := ours.batches.retrieve(batch.id)).status not in ("completed", "failed"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert done.status == "completed" and done.output_file_id is not None, done.errors
    row = json.loads(ours.files.content(done.output_file_id).read())
    assert row["response"]["status_code"] == 200
    usage = row["response"]["body"]["usage"]
    assert done.usage is not None and done.usage.output_tokens == usage["output_tokens"] > 0
    counted = httpx.post(
        f"{running.address}/v1/messages/count_tokens",
        json={"model": "assistant", "messages": [{"role": "user", "content": question(1)}]},
    )
    assert counted.status_code == 200, counted.text
    assert counted.json()["input_tokens"] == usage["input_tokens"]


def test_a_bad_file_fails_its_job_with_the_line_named(ours: openai.OpenAI) -> None:
    bad = chats(20) + b'{"messages": [{"role": "user", "content": "a"}]}\n' + chats(5, first=20)
    sent = ours.files.create(file=("bad.jsonl", bad), purpose="fine-tune")
    asked = ours.fine_tuning.jobs.create(model="assistant", training_file=sent.id)
    failed = until(ours, asked.id, lambda one: one.status == "failed", seconds=60)
    assert failed.error is not None and failed.error.code == "invalid_training_file"
    assert "bad.jsonl: line 21: " in str(failed.error.message)


def test_two_jobs_queue_and_a_paused_one_goes_on_where_it_stood(
    running: Up, ours: openai.OpenAI, file: str
) -> None:
    jobs = ours.fine_tuning.jobs
    before = versions(running)
    first = jobs.create(model="assistant", training_file=file, hyperparameters=_LONG).id
    second = jobs.create(
        model="assistant", training_file=file, hyperparameters={"n_epochs": 1, "batch_size": 16}
    ).id
    until(ours, second, lambda one: one.status == "queued", seconds=60)
    until(ours, first, lambda _: len(steps(ours, first)) > 20)
    until(ours, first, lambda one: one.estimated_finish is not None)
    assert jobs.retrieve(second).status == "queued" and len(running.trainings()) == 1
    jobs.pause(first)
    until(ours, first, lambda one: str(one.status) == "paused", seconds=60)
    reached = steps(ours, first)[-1]
    until(ours, second, lambda one: one.status == "succeeded")
    assert str(jobs.retrieve(first).status) == "paused"
    assert running.trainings() == [] and len(versions(running) - before) == 1

    assert jobs.resume(first).status == "queued"
    done = until(ours, first, lambda one: one.status == "succeeded", seconds=400)
    told = steps(ours, first)
    assert told == list(range(1, told[-1] + 1)) and told[-1] > reached
    number = str(done.version).partition("@")[2]  # type: ignore[attr-defined]
    listed = httpx.get(f"{running.address}/v1/models/assistant/versions").json()["items"]
    (facts,) = (one["facts"] for one in listed if one["number"] == number)
    (resumed,) = facts["resumed_at"]
    assert 0 < resumed <= reached, "it went on from a checkpoint, and not from the beginning"
    assert len(versions(running) - before) == 2


def test_a_cancelled_job_leaves_no_process_and_no_half_version(
    running: Up, ours: openai.OpenAI, file: str
) -> None:
    jobs = ours.fine_tuning.jobs
    before = versions(running)
    asked = jobs.create(model="assistant", training_file=file, hyperparameters=_LONG).id
    until(ours, asked, lambda _: len(steps(ours, asked)) > 20)
    (training,) = running.trainings()
    jobs.cancel(asked)
    ended = until(ours, asked, lambda one: one.status == "cancelled", seconds=60)
    assert (ended.fine_tuned_model, ended.result_files) == (None, [])
    assert not training.is_running() and running.trainings() == []
    assert versions(running) == before
    left = running.directory / "runs" / asked.removeprefix("ftjob-")
    assert not list(left.rglob("*.safetensors")) and not list(left.rglob("checkpoint*/*"))


def test_the_client_for_node_tells_the_same_story(running: Up, tmp_path: Path) -> None:
    folder = installed()
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(chats(40))
    seen = told(begin_story(folder, running.address, rows, question(1)), 300)
    check(seen, rows.stat().st_size)
    assert seen["job"]["trained_tokens"] and seen["steps"] == list(range(1, seen["steps"][-1] + 1))
    assert seen["answer"] == seen["streamed"] == seen["stored"] != ""
