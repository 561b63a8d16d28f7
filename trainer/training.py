"""Trains one adapter: what to train on and how, and what came of it. The work is done by a child process.

Nothing here imports torch. The child is `trainer.finetune`; it dies with this process, and this process outlives
whatever happens to it: a child that is killed is started again and goes on from its newest checkpoint.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from feedback.datasets.methods import Method
from feedback.errors import (
    ConflictError,
    DataRefusedError,
    NotFoundError,
    StorageError,
    UnsoundAdapterError,
)
from feedback.settings import Training
from trainer.checkpoints import digests_of, discard_checkpoints, reached
from trainer.method import hash_of_learned
from trainer.process import ChildDiedError, default_threads, run_child

BETA = 0.1
"""How strongly the base holds the model: the scale of both losses (DPO, arXiv 2305.18290; KTO, arXiv 2402.01306)."""
STARTS = 3
"""How often a child that dies before it comes to a new checkpoint is started in a row."""
ORDER = "job.json"
"""File in a training's folder while a job on Ray is at work there (`trainer.on_ray`)."""
JOB_LOCK = "job.lock"
"""File in it that whoever writes there holds a lock on: the node of a job, or this machine where it trains itself."""
PATIENCE = 30.0
"""Longest wait for another to leave the folder: shared directories are late."""
BESIDE_WEIGHTS = (
    "method",
    "teraflops",
    "price_per_hour",
    "hosted_prices",
    "devices",
    "ray",
    "memory_limit",
    "window",
    "engine_asleep",
    "log_to",
    "mlflow_url",
)
"""Settings of `[training]` that decide no weights: the dataset's to say; estimates alone; where and when it runs; who is told."""
WATCHING = ("timeout_seconds", "checkpoint_seconds")
"""Those that decide how it is watched over."""
_HOPELESS = (DataRefusedError, NotFoundError, UnsoundAdapterError)
"""Ends that a later attempt would come to again: their checkpoints are of no use."""


class TrainingSpec(Struct, frozen=True, kw_only=True):
    """Everything that decides the weights. The same spec on the same machine gives the same adapter."""

    base_path: str
    """Directory or hub id that the weights are loaded from."""
    base_revision: str
    """What stood at `base_path` when this was asked for; other weights are another training."""
    engine_model: str
    """What the engine calls the base; it goes into the adapter to the letter, or the engine will not load it."""
    dataset: str
    """Folder of a frozen dataset version: `train.jsonl` and `validation.jsonl`."""
    out: str
    """Folder of this training: the spec, the log, and at the end `adapter/`, which with `full` is the whole model."""
    max_rank: int
    """Highest rank that the engine serves."""
    full: bool = False
    """Train all weights of the base: what comes of it is a model of its own, and no adapter."""
    method: Method = "sft"
    rank: int = 16
    alpha: int = 32
    learning_rate: float = 0.0
    epochs: int = 0
    batch: int = 16
    max_tokens: int = 2048
    seed: int = 0
    patience: int = 3
    threads: int = 1
    gradient_checkpointing: bool = False
    quantisation: Literal["", "nf4"] = ""
    """Of the base while it trains; the adapter serves on the base as it is."""
    rendering: str = ""
    """Hash of what makes tokens of the rows: with another chat template it is another training."""
    content: str = ""
    """Hash of the dataset version's rows: without those that an erasure took it is another training."""
    timeout_seconds: float = 86_400.0
    checkpoint_seconds: float = 60.0
    rate_factor: float = 1.0
    """Of the learning rate, given or chosen."""
    beta: float = BETA
    """Of DPO."""

    @property
    def digest(self) -> str:
        """Which training this is: of all that decides the weights, not of where and how it is watched over."""
        apart = msgspec.structs.replace(self, out="", **dict.fromkeys(WATCHING, 0.0))
        return hashlib.sha256(msgspec.json.encode(apart)).hexdigest()

    def lessons(self) -> str:
        """What is learned, and how, wherever it stands and whoever trains it: the same come to like weights. Raises `StorageError`."""
        places = {"out": "", "dataset": "", "threads": 0, **dict.fromkeys(WATCHING, 0.0)}
        learned = hash_of_learned(Path(self.dataset), self.method)
        apart = msgspec.structs.replace(self, content=learned, **places)
        return hashlib.sha256(msgspec.json.encode(apart)).hexdigest()

    @classmethod
    def of(cls, settings: Training, **where: Any) -> TrainingSpec:
        """The spec that `[training]` asks for, with the places, the engine's rank and the method given by name."""
        values = {
            name: value
            for name, value in msgspec.structs.asdict(settings).items()
            if name not in BESIDE_WEIGHTS
        }
        values["threads"] = settings.threads or (1 if settings.ray else default_threads())
        return cls(**values, **where)


class Progress(Struct, frozen=True, kw_only=True):
    """How far a training is. Losses are means per answer token, in nats."""

    step: int = 0
    steps: int = 0
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    validation_loss: float | None = None
    validation_new: float | None = None
    validation_old: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    """Before it was clipped."""
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    noticed: list[str] = []
    """What was noticed at this step, in sentences."""


class Trained(Struct, frozen=True):
    """A finished adapter, checked, and the facts of its training."""

    adapter: Path
    files: dict[str, str]
    """SHA-256 of each of its files."""
    facts: dict[str, Any]


class Place(Struct, frozen=True):
    """Where a training runs. It does not decide the weights."""

    devices: str = ""
    """The GPUs that train, a process on each; empty: the first that there is, `cpu`: none."""
    memory: int = 0
    """Bytes of main memory that it may take; 0 is no limit."""
    ray: str = ""
    """Address of the Ray cluster that it is handed to; empty: this machine trains."""


HERE = Place()
"""This machine, with nothing held back."""


def train(spec: TrainingSpec, on_progress: Callable[[Progress], None], place: Place = HERE) -> Trained:
    """Train in a child process, or as a job on the place's Ray cluster; a training that ended well before is found again rather than repeated, one that was
    interrupted goes on from its newest checkpoint.

    `on_progress` is called at every event and at least once a second; what it raises ends the child. Raises
    `DataRefusedError` (nothing to learn from), `NotFoundError` (no such base), `UnsoundAdapterError` (it diverged),
    `StorageError` (disk full), `ConflictError` (it is under way already), `UnavailableError` (a job of before may still be
    at work in the folder), or a plain `StarloopError` (killed again and again, out of time, a defect). None of them
    leaves an adapter behind.
    """
    from trainer.on_ray import leave_only

    out = Path(spec.out)
    finished = out / "trained.json"
    wanted = msgspec.to_builtins(spec)
    if (known := _finished(finished, spec)) is not None:
        return known
    if spec.rank > spec.max_rank and not spec.full:
        raise UnsoundAdapterError(
            f"[training] rank {spec.rank} is above the engine's {spec.max_rank}; raise [[engine]] max_lora_rank or train at "
            "a lower rank"
        )
    if not (Path(spec.dataset) / "train.jsonl").is_file():
        raise DataRefusedError(f"{spec.dataset}: there is no train.jsonl; build the dataset version again")
    started = time.monotonic()
    to_first_step: float | None = None
    last = Progress()

    def on_event(event: dict[str, Any] | None) -> None:
        nonlocal last, to_first_step
        if event is not None and event["event"] == "progress":
            last = msgspec.convert({key: value for key, value in event.items() if key != "event"}, Progress)
            if to_first_step is None and last.step:
                to_first_step = round(time.monotonic() - started, 2)
        on_progress(last)

    with alone_in(out), ExitStack() as held, ExitStack() as unfinished:
        leave_only(out, place.ray, wanted)
        if not place.ray:
            held.enter_context(alone_in(out, JOB_LOCK, PATIENCE))
        _clear(out)
        unfinished.callback(_clear, out)
        try:
            result, deaths = _to_the_end(spec, place, on_event)
        except _HOPELESS:
            discard_checkpoints(out)
            raise
        facts = {
            **result,
            "deaths": deaths,
            "seconds": round(time.monotonic() - started, 2),
            "seconds_to_first_step": to_first_step,
        }
        trained = Trained(out / "adapter", digests_of(out / "adapter"), facts)
        record = {"spec": wanted, "files": trained.files, "facts": facts}
        partial = finished.with_suffix(".partial")
        try:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
            partial.replace(finished)
        except OSError as error:
            raise StorageError(
                f"{finished}: could not be written ({error.strerror}); make room on the disk"
            ) from error
        unfinished.pop_all()
        discard_checkpoints(out)
    return trained


def _to_the_end(
    spec: TrainingSpec, place: Place, on_event: Callable[[dict[str, Any] | None], None]
) -> tuple[dict[str, Any], int]:
    """The child's result, and how often it died on the way. Each new child goes on from the newest checkpoint.

    On Ray a job stands for the child.
    """
    out, deaths, vain = Path(spec.out), 0, 0
    deadline = time.monotonic() + spec.timeout_seconds
    stood_at = reached(out)
    while True:
        try:
            left = max(1.0, deadline - time.monotonic()) if deaths else spec.timeout_seconds
            result = _once(spec, place, left, on_event)
        except ChildDiedError as error:
            deaths += 1
            vain = (
                vain + 1 if reached(out) == stood_at else 0
            )  # lower is further too: it went back to its best weights
            if vain >= STARTS:
                raise ChildDiedError(f"{error}. It was started {STARTS} times and came no further") from None
            stood_at = reached(out)
        else:
            return result, deaths


def _once(
    spec: TrainingSpec, place: Place, seconds: float, on_event: Callable[[dict[str, Any] | None], None]
) -> dict[str, Any]:
    wanted, out = msgspec.to_builtins(spec), Path(spec.out)
    if place.ray:
        from trainer.on_ray import run_job

        return run_job(
            place.ray,
            wanted,
            out,
            threads=spec.threads,
            timeout_seconds=seconds,
            on_event=on_event,
            devices=place.devices,
            memory=place.memory,
        )
    return run_child(
        "trainer.finetune",
        wanted,
        out,
        threads=spec.threads,
        timeout_seconds=seconds,
        on_event=on_event,
        devices=place.devices.split(","),
        memory=place.memory,
    )


@contextmanager
def alone_in(out: Path, name: str = "lock", patience: float = 0.0) -> Iterator[None]:
    """Keep a second process from training in the same folder at the same time, by a lock on the file `name` in it.

    Raises `ConflictError` where there is one that does not leave it within `patience` seconds, and `StorageError`.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / name).open("w")
    except OSError as error:
        raise StorageError(
            f"{out}: no training can work there ({error.strerror}); make it writable"
        ) from error
    with lock:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    raise ConflictError(
                        f"this very training is under way in another process (its folder is {out}); wait for its end"
                    ) from None
            time.sleep(0.2)
        yield


def _clear(out: Path) -> None:
    """Remove the adapter that stands there, whole or not: it belongs to no finished training. A job's that is at work stays."""
    if (out / ORDER).exists():
        return
    for name in ("adapter", "adapter.partial"):
        shutil.rmtree(out / name, ignore_errors=True)


def _finished(path: Path, spec: TrainingSpec) -> Trained | None:
    """The training that ended here before, if it was this one and its adapter is still what was checked."""
    try:
        record = msgspec.json.decode(path.read_bytes())
        files = digests_of(path.parent / "adapter")
        made = msgspec.convert(record["spec"], TrainingSpec).digest
    except (OSError, msgspec.MsgspecError):
        return None
    if made != spec.digest or record["files"] != files:
        return None
    return Trained(path.parent / "adapter", files, record["facts"])
