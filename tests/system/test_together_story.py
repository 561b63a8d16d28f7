"""A fine-tuning by Together's own client over the network: real training, real vLLM, the adapter downloaded."""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from tests.server.test_fine_tuning import ANSWERS, chats, question
from tests.server.together_client import together
from tests.system.running import Up, up

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

_CONFIGURATION = """\
mode = "report"
[dataset]
evaluation_share = 0.05
[training]
threads = 2
[schedule]
cron = ""
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("together"), _CONFIGURATION) as started:
        yield started


def test_a_file_becomes_a_model_that_is_called_downloaded_and_deleted(running: Up, tmp_path: Path) -> None:
    from together.lib.resources.files import DownloadManager

    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(chats(40))
    with together.Together(base_url=f"{running.address}/together", api_key="none", project_id="any") as ours:
        jobs = ours.fine_tuning
        asked = jobs.create(
            model="assistant",
            training_file=ours.files.upload(rows).id,
            suffix="mine",
            n_epochs=8,
            batch_size=2,
            learning_rate=3e-3,
            lora=True,
            lora_r=8,
            random_seed=3,
        )
        watched: set[int] = set()
        while (job := jobs.retrieve(asked.id)).status not in ("completed", "error", "cancelled"):
            watched.add(len(jobs.list_metrics(asked.id).metrics or []))
            time.sleep(0.2)
        assert job.status == "completed", jobs.list_events(asked.id).data[-1].message
        assert len(watched) > 2, "its figures came while it trained, a few at a time"
        metrics: Any = jobs.list_metrics(asked.id).metrics
        losses = [one["train/loss"] for one in metrics if "train/loss" in one]
        assert losses[-1] < losses[0]
        assert max(one.get("train/learning_rate", 0) for one in metrics) == pytest.approx(3e-3)
        assert job.training_type.lora_r == 8 and job.token_count

        said = {
            ours.chat.completions.create(
                model=asked.output_name,
                messages=[{"role": "user", "content": question(number)}],
                temperature=0,
                max_tokens=32,
            )
            .choices[0]
            .message.content
            for number in range(6)
        }
        assert said <= set(ANSWERS)

        address = f"/v1/finetune/download?ft_id={asked.id}&checkpoint=adapter"
        archive, size = DownloadManager(ours).download(
            address, remote_name="mine", output=tmp_path / "mine.tar.zst", fetch_metadata=True
        )
        assert Path(archive).stat().st_size == size
        (published,) = (running.directory / "adapters").glob("assistant@*")
        with (
            Path(archive).open("rb") as packed,
            zstd.ZstdFile(packed) as pressed,
            tarfile.open(fileobj=pressed, mode="r|") as tar,
        ):
            tar.extractall(tmp_path / "mine", filter="data")
        there = {file.name: file.read_bytes() for file in (tmp_path / "mine").iterdir()}
        assert there == {file.name: file.read_bytes() for file in published.iterdir()}
        assert b'"r": 8' in there["adapter_config.json"]

        jobs.delete(asked.id)
        assert not published.exists()
        with pytest.raises(together.NotFoundError):
            ours.models.retrieve(str(asked.output_name))
