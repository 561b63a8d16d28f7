"""What works of OpenAI's own client stands in a table in the README, and each row is what a call really comes to."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.inside import Inside
from tests.server.openai_client import clients
from tests.server.test_fine_tuning import chats
from tests.server.tuned import Trainer

README = Path(__file__).parents[2] / "server" / "README.md"
RESOURCES = ("batches", "chat", "files", "fine_tuning", "models", "uploads")
CHAT: Any = "/v1/chat/completions"
HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]
GRADER: Any = {"type": "string_check", "name": "x", "input": "a", "reference": "a", "operation": "eq"}


def methods(resource: Any, path: str) -> Iterator[str]:
    """Every method of a resource and of those below it."""
    for name in dir(type(resource)):
        if name.startswith(("_", "with_")):
            continue
        found = inspect.getattr_static(type(resource), name)
        if isinstance(found, functools.cached_property):
            yield from methods(getattr(resource, name), f"{path}.{name}")
        elif inspect.isfunction(found):
            yield f"{path}.{name}"


def table() -> dict[str, str]:
    """The table's rows: what is said of each method."""
    rows = re.findall(
        r"^\| (`(?:batches|chat|files|fine_tuning|models|uploads)\..+?) \| (.+) \|$", README.read_text(), re.M
    )
    return {name: said for names, said in rows for name in re.findall(r"`([a-z_.]+)`", names)}


def calls(ours: openai.OpenAI, trainer: Trainer) -> dict[str, Callable[[], Any]]:
    """A call of each method that would work, were it there."""
    jobs, tuning = ours.fine_tuning.jobs, ours.fine_tuning
    file = ours.files.create(file=("a.jsonl", chats()), purpose="fine-tune").id
    first, second, third = (jobs.create(model="assistant", training_file=file).id for _ in range(3))
    assert trainer.turn()
    tuned = jobs.retrieve(first).fine_tuned_model
    assert tuned is not None
    whole, broken = (
        ours.uploads.create(bytes=3, filename="a", mime_type="x/y", purpose="user_data").id for _ in range(2)
    )
    part = ours.uploads.parts.create(whole, data=b"abc").id
    jobs.pause(third)
    asked = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": tuned, "messages": HELLO}}
    lines = ours.files.create(file=("b.jsonl", json.dumps(asked).encode()), purpose="batch").id
    batch = partial(ours.batches.create, input_file_id=lines, endpoint=CHAT, completion_window="24h")
    begun = batch().id
    stored = ours.chat.completions.create(model=tuned, messages=HELLO, store=True).id

    def stream() -> None:
        with ours.chat.completions.stream(model=tuned, messages=HELLO) as events:
            assert events.get_final_completion().choices

    return {
        "batches.create": batch,
        "batches.retrieve": lambda: ours.batches.retrieve(begun),
        "batches.list": lambda: ours.batches.list(),
        "batches.cancel": lambda: ours.batches.cancel(begun),
        "chat.completions.create": lambda: ours.chat.completions.create(model=tuned, messages=HELLO),
        "chat.completions.parse": lambda: ours.chat.completions.parse(model=tuned, messages=HELLO),
        "chat.completions.stream": stream,
        "chat.completions.list": lambda: ours.chat.completions.list(),
        "chat.completions.retrieve": lambda: ours.chat.completions.retrieve(stored),
        "chat.completions.update": lambda: ours.chat.completions.update(stored, metadata={}),
        "chat.completions.delete": lambda: ours.chat.completions.delete(stored),
        "chat.completions.messages.list": lambda: ours.chat.completions.messages.list(stored),
        "files.create": lambda: ours.files.create(file=("b", b"abc"), purpose="user_data"),
        "files.list": lambda: ours.files.list(),
        "files.retrieve": lambda: ours.files.retrieve(file),
        "files.content": lambda: ours.files.content(file),
        "files.retrieve_content": lambda: ours.files.retrieve_content(file),
        "files.wait_for_processing": lambda: ours.files.wait_for_processing(file),
        "files.delete": lambda: ours.files.delete(file),
        "uploads.create": lambda: ours.uploads.create(
            bytes=3, filename="a", mime_type="x/y", purpose="user_data"
        ),
        "uploads.parts.create": lambda: ours.uploads.parts.create(broken, data=b"abc"),
        "uploads.complete": lambda: ours.uploads.complete(whole, part_ids=[part]),
        "uploads.cancel": lambda: ours.uploads.cancel(broken),
        "uploads.upload_file_chunked": lambda: ours.uploads.upload_file_chunked(
            file=b"abc", filename="a", bytes=3, mime_type="x/y", purpose="user_data"
        ),
        "fine_tuning.jobs.create": lambda: jobs.create(model="assistant", training_file=file),
        "fine_tuning.jobs.list": lambda: jobs.list(),
        "fine_tuning.jobs.retrieve": lambda: jobs.retrieve(first),
        "fine_tuning.jobs.list_events": lambda: jobs.list_events(first),
        "fine_tuning.jobs.checkpoints.list": lambda: jobs.checkpoints.list(first),
        "fine_tuning.jobs.pause": lambda: jobs.pause(second),
        "fine_tuning.jobs.resume": lambda: jobs.resume(third),
        "fine_tuning.jobs.cancel": lambda: jobs.cancel(second),
        "fine_tuning.checkpoints.permissions.create": lambda: list(
            tuning.checkpoints.permissions.create(tuned, project_ids=["x"])
        ),
        "fine_tuning.checkpoints.permissions.list": lambda: tuning.checkpoints.permissions.list(tuned),
        "fine_tuning.checkpoints.permissions.retrieve": lambda: tuning.checkpoints.permissions.retrieve(
            tuned
        ),
        "fine_tuning.checkpoints.permissions.delete": lambda: tuning.checkpoints.permissions.delete(
            "x", fine_tuned_model_checkpoint=tuned
        ),
        "fine_tuning.alpha.graders.run": lambda: tuning.alpha.graders.run(grader=GRADER, model_sample="a"),
        "fine_tuning.alpha.graders.validate": lambda: tuning.alpha.graders.validate(grader=GRADER),
        "models.list": lambda: ours.models.list(),
        "models.retrieve": lambda: ours.models.retrieve(tuned),
        "models.delete": lambda: ours.models.delete(tuned),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_table_of_the_client_says_what_its_calls_come_to(gateway: Inside) -> None:
    said = table()
    with clients(gateway) as as_key:
        ours = as_key("none")
        there = {one for name in RESOURCES for one in methods(getattr(ours, name), name)}
        tried = calls(ours, Trainer(gateway))
        assert set(said) == set(tried) == there
        wrong = {}
        order = sorted(tried, key=lambda name: name.endswith(".delete"))
        for name in order:
            try:
                tried[name]()
                works = True
            except openai.APIStatusError as error:
                assert error.status_code in (404, 405), (name, error)
                works = False
            if said[name].split()[0].strip(":;,") != ("yes" if works else "no"):
                wrong[name] = (works, said[name])
        assert not wrong
