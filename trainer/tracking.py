"""Passes a training's steps on to TensorBoard or MLflow, through their own libraries: beside the record, never in its place.

A thread of its own does it, so that nothing waits for a server. What cannot be passed on waits for the next time; that it
could not is a notice of the training, said once, and no reason to end it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

from msgspec.structs import replace

from feedback.errors import BadInputError
from feedback.settings import Training
from trainer.training import Progress

_log = logging.getLogger(__name__)
_SECONDS = 2.0
"""Between two times that steps are passed on, and between two looks whether the training is over."""
_AGAIN = 30.0
"""Until a place that could not be reached is tried again."""
_LAST = 10.0
"""Longest wait for what remains when a training is over."""
_MOST = 100_000
"""Steps that wait at most."""
_LIBRARIES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
_NAMES = {
    "loss": "loss/train",
    "validation_loss": "loss/validation",
    "validation_new": "loss/validation_new",
    "validation_old": "loss/validation_old",
    "learning_rate": "learning_rate",
    "gradient_norm": "gradient_norm",
    "tokens_per_second": "tokens_per_second",
    "memory_bytes": "memory_bytes",
    "epoch": "epoch",
}


class Place(Protocol):
    """Where experiments are looked at. Each may raise whatever its library does."""

    def write(self, steps: Sequence[tuple[float, Progress]]) -> None:
        """Steps with their Unix times."""

    def end(self, version: str | None) -> None:
        """The training is over, as that version; None: it failed."""


def require_libraries(settings: Training) -> None:
    """Raise `BadInputError` where `[training] log_to` cannot work as it is set."""
    for name in settings.log_to:
        if find_spec(_LIBRARIES[name]) is None:
            raise BadInputError(
                f"[training] log_to names {name!r}, and its library is not installed: pip install 'starloop[{name}]', or "
                "take it out of log_to"
            )
    if "mlflow" in settings.log_to and not settings.mlflow_url:
        raise BadInputError(
            "[training] log_to names 'mlflow': say where its tracking server is, [training] mlflow_url = "
            '"http://host:5000"'
        )


def values_of(progress: Progress) -> dict[str, float]:
    """A step's figures by the names under which they are shown."""
    found = ((shown, getattr(progress, name)) for name, shown in _NAMES.items())
    return {shown: float(value) for shown, value in found if value is not None}


class Tracking:
    """Takes each progress in; leaving its block ends it, as `version` or, without one, as failed."""

    def __init__(
        self, places: Mapping[str, Callable[[], Place]], wall: Callable[[], float] = time.time
    ) -> None:
        """`places` by name; each is opened on the thread, as opening may wait for a server too."""
        self._waiting: dict[str, list[tuple[float, Progress]]] = {name: [] for name in places}
        self._places = dict(places)
        self._wall = wall
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.version: str | None = None
        self._trouble: dict[str, str] = {}
        self._told: set[str] = set()
        self._seen: Progress | None = None
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        if places:
            self._thread.start()

    def __call__(self, progress: Progress) -> Progress:
        """Note a step; gives it back, with what could not be passed on among what was noticed."""
        with self._lock:
            if progress is not self._seen and progress.steps:
                for waiting in self._waiting.values():
                    waiting.append((self._wall(), progress))
                    del waiting[:-_MOST]
            self._seen = progress
            new = [text for name, text in self._trouble.items() if name not in self._told]
            if not new or not progress.step:
                return progress
            self._told |= set(self._trouble)
        return replace(progress, noticed=[*progress.noticed, *new])

    def untold(self) -> list[str]:
        """What could not be passed on, as far as no step told of it."""
        with self._lock:
            return [text for name, text in self._trouble.items() if name not in self._told]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ten seconds at most are given to what remains."""
        self._over.set()
        if self._places:
            self._thread.join(_LAST)

    def _run(self) -> None:
        opened: dict[str, Place] = {}
        until = dict.fromkeys(self._places, 0.0)
        while True:
            over = self._over.wait(_SECONDS)
            for name, opening in self._places.items():
                if not over and time.monotonic() < until[name]:
                    continue
                if name not in opened and not self._waiting[name]:
                    continue  # a training that was found again has no steps to show
                try:
                    if name not in opened:
                        opened[name] = opening()
                    self._pass_on(name, opened[name], over)
                except (
                    Exception
                ) as error:  # a library's, or a server's: whatever it is must not reach the training
                    until[name] = time.monotonic() + _AGAIN
                    self._note(name, error)
            if over:
                return

    def _pass_on(self, name: str, place: Place, over: bool) -> None:
        with self._lock:
            steps = list(self._waiting[name])
        if steps:
            place.write(steps)
            with self._lock:
                del self._waiting[name][: len(steps)]
        if over:
            place.end(self.version)

    def _note(self, name: str, error: Exception) -> None:
        said = (str(error).strip().splitlines() or [""])[0][:200]
        _log.warning("%s takes no steps: %s", name, said)
        with self._lock:
            self._trouble.setdefault(
                name,
                f"{name} takes no steps ({type(error).__name__}: {said}); the training goes on, its record is whole",
            )


def tracking_of(
    settings: Training, directory: Path, model: str, run: str, parameters: Mapping[str, Any]
) -> Tracking:
    """What `[training] log_to` asks for. Raises what `require_libraries` raises."""
    require_libraries(settings)
    places: dict[str, Callable[[], Place]] = {}
    plain = {
        name: value if isinstance(value, int | float) else str(value) for name, value in parameters.items()
    }
    if "tensorboard" in settings.log_to:
        places["tensorboard"] = lambda: TensorBoard(directory / "tensorboard", model, run, plain)
    if "mlflow" in settings.log_to:
        places["mlflow"] = lambda: MLflow(settings.mlflow_url, model, run, plain)
    return Tracking(places)


class TensorBoard:
    """Event files in a folder for each training, called like its version once it has one."""

    def __init__(self, folder: Path, model: str, run: str, parameters: Mapping[str, Any]) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._folder, self._name = folder, f"{model}-{run}"
        self._writer = EventFileWriter(str(folder / self._name))
        self._add(hparams_pb(dict(parameters), trial_id=run), 0, time.time())

    def write(self, steps: Sequence[tuple[float, Progress]]) -> None:
        """See `Place`."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for when, progress in steps:
            values = values_of(progress).items()
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values])
            self._add(summary, progress.step, when)
        self._writer.flush()

    def end(self, version: str | None) -> None:
        """See `Place`."""
        self._writer.close()
        if version is not None and not (self._folder / version).exists():
            (self._folder / self._name).rename(self._folder / version)

    def _add(self, summary: Any, step: int, when: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=when, step=step, summary=summary))


class MLflow:
    """A run of the experiment that is called like the model, found again by a tag when a training goes on."""

    _TAG = "starloop.run"
    _TOGETHER = 100
    """Steps in one request: a server takes a thousand figures at once."""

    def __init__(self, url: str, model: str, run: str, parameters: Mapping[str, Any]) -> None:
        # Its own patience is minutes for each request; what fails here is tried again all the same.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=url)
        experiment = self._client.get_experiment_by_name(model)
        number = experiment.experiment_id if experiment else self._client.create_experiment(model)
        known = self._client.search_runs([number], f"tags.`{self._TAG}` = '{run}'", max_results=1)
        if known:
            self._run = known[0].info.run_id
            return
        made = self._client.create_run(number, tags={self._TAG: run}, run_name=f"{model}-{run}")
        self._run = made.info.run_id
        self._client.log_batch(
            self._run, params=[Param(name, str(value)) for name, value in parameters.items()]
        )

    def write(self, steps: Sequence[tuple[float, Progress]]) -> None:
        """See `Place`."""
        from mlflow.entities import Metric

        for first in range(0, len(steps), self._TOGETHER):
            metrics = [
                Metric(name, value, round(when * 1000), progress.step)
                for when, progress in steps[first : first + self._TOGETHER]
                for name, value in values_of(progress).items()
            ]
            self._client.log_batch(self._run, metrics=metrics)

    def end(self, version: str | None) -> None:
        """See `Place`."""
        if version is not None:
            self._client.update_run(self._run, name=version)
        self._client.set_terminated(self._run, "FAILED" if version is None else "FINISHED")
