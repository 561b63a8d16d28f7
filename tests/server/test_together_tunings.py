"""Fine-tunings as Together's own client asks for them, run by a loop whose training is a fake; the model then answers it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from sqlmodel import select

from feedback.storage.tables import TrainingStep, Tuning
from tests.server.inside import Inside
from tests.server.openai_client import team
from tests.server.test_access import bearing, make_key
from tests.server.test_audit import log
from tests.server.test_fine_tuning import chats, comparisons
from tests.server.together_client import Client, clients, together
from tests.server.tuned import Trainer

HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]
SENT = ["packing", "n_checkpoints", "lr_scheduler", "warmup_ratio", "early_stopping_enabled"]
"""What the client sends whether it was named or not, and has no effect."""


@pytest.fixture
def theirs(gateway: Inside) -> Iterator[Client]:
    with clients(gateway) as made:
        yield made


@pytest.fixture
def trainer(gateway: Inside) -> Trainer:
    return Trainer(gateway)


def sent(client: Any, folder: Path, rows: bytes | None = None) -> str:
    path = folder / "rows.jsonl"
    path.write_bytes(rows or chats())
    return str(client.files.upload(path).id)


def row_of(gateway: Inside, identifier: str) -> Tuning:
    with gateway.gateway.database.reading() as session:
        return session.get_one(Tuning, identifier.removeprefix("ftjob-"))


def test_a_file_becomes_a_version_that_is_called_downloaded_and_deleted(
    gateway: Inside, theirs: Client, trainer: Trainer, tmp_path: Path
) -> None:
    ours = theirs("none")
    jobs = ours.fine_tuning
    asked = jobs.create(
        model="assistant",
        training_file=sent(ours, tmp_path),
        suffix="mine",
        n_epochs=3,
        learning_rate=2e-3,
        lora=True,
        lora_r=4,
    )
    name = f"ft:starter:local:mine:{asked.id[-12:]}"
    assert (asked.status, asked.model, asked.output_name) == ("pending", "assistant", name)
    assert (asked.n_epochs, asked.learning_rate, asked.training_type.lora_r) == (3, 2e-3, 4)
    assert asked.training_type.lora_alpha == 8 and asked.ignored == SENT
    assert jobs.list_checkpoints(asked.id).data == []
    with pytest.raises(together.ConflictError, match="no version"):
        jobs.content(ft_id=asked.id)
    seen: list[Any] = []
    trainer.during = lambda _: seen.append(jobs.retrieve(asked.id))
    assert trainer.turn()
    assert [one.status for one in seen] == ["running"] * 3
    assert [(one.steps_completed, one.total_steps) for one in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[0].progress.seconds_remaining >= 0
    done = jobs.retrieve(asked.id)
    assert (done.status, done.x_model_output_name, done.token_count) == ("completed", name, 1234)
    assert [one.id for one in jobs.list().data] == [asked.id]

    answer = ours.chat.completions.create(model=name, messages=HELLO)
    assert answer.choices[0].message.content
    pieces = ours.chat.completions.create(model=name, messages=HELLO, stream=True)
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert said == answer.choices[0].message.content

    (checkpoint,) = jobs.list_checkpoints(asked.id).data
    assert (checkpoint.step, checkpoint.checkpoint, checkpoint.path) == (3, "adapter", name)
    told = jobs.list_events(asked.id).data
    assert [event.type for event in told] == [
        "job_pending",
        "warning",
        "training_data_download_complete",
        "job_start",
        "training_start",
        "epoch_complete",
        "job_complete",
    ]
    assert "packing" in told[1].message and "validation loss" in told[5].message

    archive = jobs.content(ft_id=asked.id, checkpoint="adapter").read()
    with tarfile.open(fileobj=io.BytesIO(zstd.decompress(archive))) as tar:
        files = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
    folder = gateway.settings.directory / "adapters" / "assistant@1.0"
    assert files == {file.name: file.read_bytes() for file in folder.iterdir()}

    assert "is deleted" in jobs.delete(asked.id).message
    assert not folder.exists()
    with pytest.raises(together.NotFoundError):
        jobs.retrieve(asked.id)
    with pytest.raises(together.NotFoundError):
        ours.chat.completions.create(model=name, messages=HELLO)
    with gateway.gateway.database.reading() as session:
        assert len(session.exec(select(TrainingStep)).all()) == 3  # what the version came of stays told
    acts = [row["act"] for row in gateway.call("GET", "/v1/audit").json["items"]]
    assert acts[:2] == ["fine_tuning.delete", "version.retire"]


def test_figures_are_read_whole_in_part_and_thinned_out(
    gateway: Inside, theirs: Client, tmp_path: Path
) -> None:
    ours, trainer = theirs("none"), Trainer(gateway, steps=10)
    asked = ours.fine_tuning.create(model="assistant", training_file=sent(ours, tmp_path))
    assert ours.fine_tuning.list_metrics(asked.id).metrics == []
    assert trainer.turn()
    metrics = ours.fine_tuning.list_metrics(asked.id).metrics
    assert [(one["train/global_step"], one["train/loss"]) for one in metrics] == [
        (float(step), 1.0 / step) for step in range(1, 11)
    ]
    assert metrics[3]["eval/loss"] == 0.5
    part = ours.fine_tuning.list_metrics(asked.id, global_step_from=4, global_step_to=5).metrics
    assert [one["train/global_step"] for one in part] == [4.0, 5.0]
    late = datetime.now(UTC) + timedelta(days=1)
    assert ours.fine_tuning.list_metrics(asked.id, logged_at_from=late).metrics == []
    assert len(ours.fine_tuning.list_metrics(asked.id, logged_at_to=late).metrics) == 10
    with gateway.gateway.database.session() as session:
        for step in session.exec(select(TrainingStep)):
            step.validation_loss = None if step.step != 7 else 1.0
        session.commit()
    thin = ours.fine_tuning.list_metrics(asked.id, resolution=3).metrics
    assert [one["train/global_step"] for one in thin] == [1.0, 4.0, 7.0, 8.0]


def test_what_is_asked_for_is_taken_to_the_letter(gateway: Inside, theirs: Client, tmp_path: Path) -> None:
    ours = theirs("none")
    asked = ours.fine_tuning.create(
        model="starter",
        training_file=sent(ours, tmp_path, comparisons()),
        training_method="dpo",
        dpo_beta=0.3,
        batch_size=8,
        learning_rate=1e-4,
        n_epochs=2,
        max_seq_length=512,
        lora=True,
        lora_r=8,
        lora_alpha=12,
        random_seed=7,
    )
    row = row_of(gateway, asked.id)
    assert (row.method, row.model, row.asked, row.seed) == ("dpo", "assistant", "starter", 7)
    assert row.hyperparameters == {
        "n_epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-4,
        "max_tokens": 512,
        "rank": 8,
        "alpha": 12,
        "beta": 0.3,
    }
    assert (asked.training_method.method, asked.training_method.dpo_beta) == ("dpo", 0.3)
    same = gateway.call("GET", f"/v1/fine_tuning/jobs/{asked.id}").json  # the same room, by the other door
    assert same["method"]["dpo"]["hyperparameters"]["beta"] == 0.3 and same["seed"] == 7


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "nothing"}, "model"),
        ({"model": None}, "model"),
        ({"training_file": "file-nothing"}, "training_file"),
        ({"validation_file": "file-nothing"}, "validation_file"),
        ({"training_type": {"type": "Full"}}, "training_type.type"),
        ({"training_type": {"type": "Lora", "lora_r": 999}}, "training_type.lora_r"),
        ({"training_type": {"type": "Lora", "lora_dropout": 0.1}}, "training_type.lora_dropout"),
        (
            {"training_type": {"type": "Lora", "lora_trainable_modules": "q_proj"}},
            "training_type.lora_trainable_modules",
        ),
        ({"training_method": {"method": "ppo"}}, "training_method.method"),
        ({"training_method": {"method": "sft", "train_on_inputs": True}}, "training_method.train_on_inputs"),
        ({"training_method": {"method": "sft", "dpo_beta": 0.1}}, "training_method.dpo_beta"),
        ({"training_method": {"method": "dpo", "simpo_gamma": 1.0}}, "training_method.simpo_gamma"),
        ({"training_method": {"method": "dpo", "rpo_alpha": 0.5}}, "training_method.rpo_alpha"),
        ({"from_checkpoint": "ft-1:3"}, "from_checkpoint"),
        ({"from_hf_model": "a/b"}, "from_hf_model"),
        ({"wandb_key": "x"}, "wandb_key"),
        ({"multimodal_params": {"train_vision": True}}, "multimodal_params.train_vision"),
        ({"max_seq_length": 10**6}, "max_seq_length"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    gateway: Inside, theirs: Client, tmp_path: Path, body: dict[str, Any], param: str
) -> None:
    file = sent(theirs("none"), tmp_path)
    told = gateway.call(
        "POST", "/together/v1/fine-tunes", {"model": "assistant", "training_file": file, "n_epochs": 1} | body
    )
    assert (told.status, told.json["error"]["param"]) == (400, param), told.body
    assert theirs("none").fine_tuning.list().data == []


def test_a_bad_file_fails_the_job_with_the_line(theirs: Client, trainer: Trainer, tmp_path: Path) -> None:
    ours = theirs("none")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(chats(20) + b'{"messages": [{"role": "user", "content": "a"}]}\n')
    file = ours.files.upload(path, check=False).id
    asked = ours.fine_tuning.create(model="assistant", training_file=file)
    trainer.turn()
    failed = ours.fine_tuning.retrieve(asked.id)
    assert (failed.status, failed.x_model_output_name) == ("error", None)
    assert "line 21" in failed.error["message"]
    assert ours.fine_tuning.list_events(asked.id).data[-1].type == "job_error"
    assert "is deleted" in ours.fine_tuning.delete(asked.id).message


def test_jobs_are_cancelled_and_deleted_only_then(
    gateway: Inside, theirs: Client, trainer: Trainer, tmp_path: Path
) -> None:
    ours = theirs("none")
    jobs, file = ours.fine_tuning, sent(ours, tmp_path)
    first, second = (jobs.create(model="assistant", training_file=file).id for _ in range(2))
    with pytest.raises(together.ConflictError, match="cancel it first"):
        jobs.delete(second)
    assert jobs.cancel(second).status == "cancelled"
    seen: list[str] = []
    trainer.during = lambda step: seen.append(jobs.cancel(first).status) if step == 2 else None
    assert trainer.turn()
    assert seen == ["cancel_requested"] and jobs.retrieve(first).status == "cancelled"
    assert trainer.versions() == []
    with pytest.raises(together.ConflictError, match="cancelled"):
        jobs.cancel(first)
    for one in (first, second):
        jobs.delete(one)
    assert jobs.list().data == []
    with gateway.gateway.database.reading() as session:
        assert session.exec(select(TrainingStep)).all() == []


def test_the_champion_is_not_deleted_with_its_job(
    gateway: Inside, theirs: Client, trainer: Trainer, tmp_path: Path
) -> None:
    ours = theirs("none")
    asked = ours.fine_tuning.create(model="assistant", training_file=sent(ours, tmp_path))
    assert trainer.turn()
    promotion = {"version": "1.0", "reason": "better"}
    assert gateway.call("POST", "/v1/models/assistant/promote", promotion).status == 200
    with pytest.raises(together.ConflictError, match="champion"):
        ours.fine_tuning.delete(asked.id)
    assert ours.fine_tuning.retrieve(asked.id).status == "completed"


def test_a_key_sees_its_own_jobs_for_its_models_alone(
    gateway: Inside, theirs: Client, trainer: Trainer, tmp_path: Path
) -> None:
    ann, bob, ada, some = team(gateway, theirs)
    file = sent(ann, tmp_path)
    asked = ann.fine_tuning.create(model="assistant", training_file=file)
    assert asked.user_id == "ann"
    assert [one.id for one in ada.fine_tuning.list().data] == [asked.id]
    with pytest.raises(together.BadRequestError, match="no file"):
        bob.fine_tuning.create(model="assistant", training_file=file)
    with pytest.raises(together.BadRequestError, match="no model"):
        some.fine_tuning.create(model="assistant", training_file=sent(some, tmp_path))
    assert trainer.turn()
    for other in (bob, some):
        jobs = other.fine_tuning
        assert jobs.list().data == []
        calls = (
            jobs.retrieve,
            jobs.cancel,
            jobs.list_events,
            jobs.list_metrics,
            jobs.list_checkpoints,
            jobs.delete,
            lambda identifier, jobs=jobs: jobs.content(ft_id=identifier),
        )
        for call in calls:
            with pytest.raises(together.NotFoundError):
                call(asked.id)
    with pytest.raises(together.PermissionDeniedError):
        theirs(make_key(gateway, "infer")).fine_tuning.list()
    with pytest.raises(together.PermissionDeniedError, match="admin"):
        ann.fine_tuning.delete(asked.id)  # the version is everybody's
    assert "is deleted" in ada.fine_tuning.delete(asked.id).message


def test_creating_and_cancelling_are_audited(gateway: Inside, theirs: Client, tmp_path: Path) -> None:
    secret = make_key(gateway, "admin", owner="ada")
    ours = theirs(secret)
    asked = ours.fine_tuning.create(model="assistant", training_file=sent(ours, tmp_path))
    ours.fine_tuning.cancel(asked.id)
    ours.fine_tuning.delete(asked.id)
    rows = log(gateway, bearing(secret))[1:]
    assert [row["act"] for row in rows] == [f"fine_tuning.{act}" for act in ("create", "cancel", "delete")]


def test_limits_and_prices_are_told(gateway: Inside, theirs: Client, tmp_path: Path) -> None:
    ours = theirs("none")
    limits = ours.fine_tuning.model_limits(model_name="assistant")
    assert (limits.lora_training.max_rank, limits.max_seq_length_sft) == (16, 2048)
    assert not limits.supports_full_training and limits.api_model_name == "assistant"
    with pytest.raises(together.BadRequestError, match="no model"):
        ours.fine_tuning.model_limits(model_name="other")
    file = sent(ours, tmp_path)
    once = ours.fine_tuning.estimate_price(training_file=file, model="assistant", n_epochs=1)
    thrice = ours.fine_tuning.estimate_price(training_file=file, model="assistant", n_epochs=3)
    assert once.estimation_available and once.allowed_to_proceed
    assert once.estimated_train_token_count > 40 * 8
    assert thrice.estimated_train_token_count == 3 * once.estimated_train_token_count
    with pytest.raises(together.BadRequestError, match="no file"):
        ours.fine_tuning.estimate_price(training_file="file-nothing", model="assistant")


def test_a_download_that_broke_off_goes_on(
    gateway: Inside, theirs: Client, trainer: Trainer, tmp_path: Path
) -> None:
    ours = theirs("none")
    asked = ours.fine_tuning.create(model="assistant", training_file=sent(ours, tmp_path))
    assert trainer.turn()
    path = f"/together/v1/finetune/download?ft_id={asked.id}&checkpoint=adapter"
    whole = gateway.call("GET", path)
    size = len(whole.body)
    assert (whole.status, whole.headers["content-length"]) == (200, str(size))
    for header, start, end in (
        ("bytes=0-1", 0, 2),
        ("bytes=10-", 10, size),
        ("bytes=-5", size - 5, size),
        (f"bytes=0-{size * 2}", 0, size),
    ):
        part = gateway.call("GET", path, None, {"range": header})
        assert (part.status, part.body) == (206, whole.body[start:end]), header
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    assert gateway.call("GET", path, None, {"range": f"bytes={size}-"}).status == 416
    for odd in ("bytes=5-2", "lines=1-2", "bytes=-", "bytes=0-1,3-4"):
        assert gateway.call("GET", path, None, {"range": odd}).body == whole.body
    for query, param in (("checkpoint=merged", "checkpoint"), ("checkpoint_step=2", "checkpoint_step")):
        told = gateway.call("GET", f"/together/v1/finetune/download?ft_id={asked.id}&{query}")
        assert (told.status, told.json["error"]["param"]) == (400, param)
    assert not [file for file in gateway.settings.directory.iterdir() if file.name.startswith("tmp")]
    (gateway.settings.directory / "adapters" / "assistant@1.0" / "adapter_model.safetensors").write_bytes(
        b"x"
    )
    assert gateway.call("GET", path).status == 409


def test_models_are_listed_in_pages_read_and_retired(
    gateway: Inside, theirs: Client, trainer: Trainer, tmp_path: Path
) -> None:
    ours = theirs("none")
    asked = ours.fine_tuning.create(model="assistant", training_file=sent(ours, tmp_path))
    assert trainer.turn()
    name = ours.fine_tuning.retrieve(asked.id).x_model_output_name
    assert [one.id for one in ours.models.list()] == ["assistant", name]
    assert [one.id for one in ours.models.list(limit=1)] == ["assistant", name]  # page after page
    found = ours.models.retrieve(name)
    assert (found.name, found.base_model_id, found.weights.type) == (name, "starter", "WEIGHTS_TYPE_ADAPTER")
    with pytest.raises(together.NotFoundError):
        ours.models.retrieve("nothing")
    ours.models.delete(name)
    assert [one.id for one in ours.models.list()] == ["assistant"]
    some = theirs(make_key(gateway, "admin", models=["other"]))
    assert list(some.models.list()) == []


def test_texts_are_continued_and_refusals_are_told(gateway: Inside, theirs: Client) -> None:
    ours = theirs("none")
    assert ours.completions.create(model="assistant", prompt="Hello").choices[0].text
    assert ours.embeddings.create(model="assistant", input="Hello").data[0].embedding
    with pytest.raises(together.NotFoundError, match="registered are: assistant"):
        ours.chat.completions.create(model="other", messages=HELLO)
    with pytest.raises(together.BadRequestError, match="messages"):
        ours.chat.completions.create(model="assistant", messages=[])
    with pytest.raises(together.PermissionDeniedError):
        theirs(make_key(gateway, "feedback")).chat.completions.create(model="assistant", messages=HELLO)
