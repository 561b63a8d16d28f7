"""A loop beside a gateway in this process, its training done by a fake that publishes an adapter at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
from sqlmodel import col, select

from feedback.registry.adapters import AdapterStore, adapter_name
from feedback.registry.training_steps import write_steps
from feedback.registry.versions import list_versions, mark_version, reserve_version
from feedback.storage.tables import DatasetVersion, ModelVersion, Tuning
from tests.server.inside import Inside
from trainer.gateway import Gateway
from trainer.lease import LoopLease
from trainer.schedule import Loop
from trainer.training import Progress
from trainer.workshop import Workshop


class Trainer:
    """Runs what waits with `turn`; `during` is called at each step of a training."""

    def __init__(self, gateway: Inside, steps: int = 3) -> None:
        self._gateway = gateway
        self._steps = steps
        self.trainings: list[str] = []
        self.during: Callable[[int], None] = lambda _: None
        self.stopping = threading.Event()

    def turn(self) -> bool:
        """Let the loop do one thing; whether there was one. The gateway knows of it afterwards."""
        parts = self._gateway.gateway
        engine = Gateway("http://x", "sl-loop", transport=httpx.MockTransport(lambda _: httpx.Response(503)))
        workshop = Workshop(
            parts.database, self._gateway.settings, engine, _never, parts.now, make_tuned=self.make_tuned
        )
        lease = LoopLease(parts.database, 15, parts.now)
        found = Loop(workshop, lease, self.stopping).poll()
        lease.release()
        engine.close()
        parts.live.refresh()
        return found

    def make_tuned(self, row: Tuning, on_progress: Callable[[Progress], None]) -> ModelVersion:
        self.trainings.append(row.id)
        parts, directory = self._gateway.gateway, self._gateway.settings.directory
        for step in range(1, self._steps + 1):
            progress = {"step": step, "steps": self._steps, "epoch": 1, "epochs": 1, "loss": 1.0 / step}
            with parts.database.session() as session:
                write_steps(
                    session,
                    row.id,
                    [{**progress, "noticed": [], "validation_loss": 2.0 / step}],
                    parts.now().timestamp(),
                )
                session.commit()
            self.during(step)
            on_progress(Progress(**progress))
        staged = directory / "staged"
        staged.mkdir(exist_ok=True)
        (staged / "adapter_config.json").write_text('{"r": 16}')
        (staged / "adapter_model.safetensors").write_bytes(row.id.encode())
        store = AdapterStore(directory / "adapters")
        facts = {"tokens": 1234, "epochs": 3, "batch": 16, "fine_tuning": f"ftjob-{row.id}"}
        with parts.database.session() as session:
            dataset = session.get_one(DatasetVersion, row.dataset_id)
            version = reserve_version(
                session,
                row.model,
                None,
                row.dataset_id,
                row.base,
                "revision",
                store.hash_of(staged),
                dataset.note,
                facts,
                parts.now(),
            )
            session.commit()
        store.publish(staged, adapter_name(row.model, version.number), {})
        with parts.database.session() as session:
            mark_version(session, row.model, version.number, "registered")
            session.commit()
        return version

    def versions(self, model: str = "assistant") -> list[ModelVersion]:
        with self._gateway.gateway.database.reading() as session:
            return list_versions(session, model)

    def dataset(self, identifier: str) -> DatasetVersion:
        with self._gateway.gateway.database.reading() as session:
            row = session.exec(
                select(Tuning).where(col(Tuning.id) == identifier.removeprefix("ftjob-"))
            ).one()
            return session.get_one(DatasetVersion, row.dataset_id)


def _never(*_: object) -> ModelVersion:
    raise AssertionError("no cycle was asked for")
