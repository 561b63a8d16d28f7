"""What works of Together's own client stands in a table in the README, and each row is what a call really comes to."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.server.inside import Inside
from tests.server.test_client_table import HELLO, README, methods
from tests.server.test_fine_tuning import chats
from tests.server.together_client import clients, together
from tests.server.tuned import Trainer

RESOURCES = ("batches", "chat", "completions", "embeddings", "files", "fine_tuning", "models")


def table() -> dict[str, str]:
    """The table's rows: what is said of each method."""
    rows = re.findall(r"^\| (`together\..+?) \| (.+) \|$", README.read_text(), re.M)
    return {name: said for names, said in rows for name in re.findall(r"`together\.([a-z_.]+)`", names)}


def calls(ours: Any, trainer: Trainer, folder: Path) -> dict[str, Callable[[], Any]]:
    """A call of each method that would work, were it there."""
    path = folder / "rows.jsonl"
    path.write_bytes(chats())
    file = ours.files.upload(path).id
    jobs, models, batches = ours.fine_tuning, ours.models, ours.batches
    first, second = (jobs.create(model="assistant", training_file=file).id for _ in range(2))
    assert trainer.turn()
    tuned = jobs.retrieve(first).x_model_output_name
    uploads, configs = models.remote_uploads, models.configs
    return {
        "batches.create": lambda: batches.create(endpoint="/v1/chat/completions", input_file_id=file),
        "batches.list": batches.list,
        "batches.retrieve": lambda: batches.retrieve("x"),
        "batches.cancel": lambda: batches.cancel("x"),
        "chat.completions.create": lambda: ours.chat.completions.create(model=tuned, messages=HELLO),
        "completions.create": lambda: ours.completions.create(model=tuned, prompt="Hello"),
        "embeddings.create": lambda: ours.embeddings.create(model="assistant", input="Hello"),
        "files.upload": lambda: ours.files.upload(path),
        "files.list": ours.files.list,
        "files.retrieve": lambda: ours.files.retrieve(file),
        "files.content": lambda: ours.files.content(file),
        "files.delete": lambda: ours.files.delete(file),
        "fine_tuning.create": lambda: jobs.create(model="assistant", training_file=file),
        "fine_tuning.list": jobs.list,
        "fine_tuning.retrieve": lambda: jobs.retrieve(first),
        "fine_tuning.cancel": lambda: jobs.cancel(second),
        "fine_tuning.list_events": lambda: jobs.list_events(first),
        "fine_tuning.list_metrics": lambda: jobs.list_metrics(first),
        "fine_tuning.list_checkpoints": lambda: jobs.list_checkpoints(first),
        "fine_tuning.content": lambda: jobs.content(ft_id=first),
        "fine_tuning.delete": lambda: jobs.delete(second),
        "fine_tuning.model_limits": lambda: jobs.model_limits(model_name="assistant"),
        "fine_tuning.estimate_price": lambda: jobs.estimate_price(training_file=file, model="assistant"),
        "fine_tuning.preview": lambda: jobs.preview(model="assistant", training_file=file),
        "fine_tuning.retrieve_tokenized_dataset": lambda: jobs.retrieve_tokenized_dataset(first),
        "models.list": lambda: models.list(),
        "models.retrieve": lambda: models.retrieve(tuned),
        "models.delete": lambda: models.delete(tuned),
        "models.create": lambda: models.create(base_model_id="x", name="x", type="adapter"),
        "models.update": lambda: models.update("assistant", description="x"),
        "models.list_files": lambda: models.list_files("assistant"),
        "models.list_org_scoped": lambda: models.list_org_scoped("x"),
        "models.list_revisions": lambda: models.list_revisions("assistant"),
        "models.list_supported": lambda: models.list_supported(),
        "models.retrieve_supported": lambda: models.retrieve_supported("assistant"),
        "models.configs.list": lambda: configs.list(),
        "models.configs.retrieve": lambda: configs.retrieve("x"),
        "models.remote_uploads.create": lambda: uploads.create(model_id="x", remote_url="x"),
        "models.remote_uploads.events": lambda: uploads.events("x"),
        "models.remote_uploads.list": lambda: uploads.list(),
        "models.remote_uploads.retrieve": lambda: uploads.retrieve("x"),
    }


def test_the_table_of_the_client_says_what_its_calls_come_to(gateway: Inside, tmp_path: Path) -> None:
    said = table()
    with clients(gateway) as as_key:
        ours = as_key("none")
        there = {one for name in RESOURCES for one in methods(getattr(ours, name), name)}
        tried = calls(ours, Trainer(gateway), tmp_path)
        assert set(said) == set(tried) == there
        wrong = {}
        for name in sorted(tried, key=lambda name: name.endswith(".delete")):
            try:
                tried[name]()
                works = True
            except together.APIStatusError as error:
                assert error.status_code in (404, 405), (name, error)
                works = False
            if said[name].split()[0].strip(":;,") != ("yes" if works else "no"):
                wrong[name] = (works, said[name])
        assert not wrong
