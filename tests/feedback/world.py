"""A small world of users for the tests of curation: what was asked, answered and said, written as the drainer does."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from feedback.ids import new_id
from feedback.registry.models import ensure_models
from feedback.settings import Dataset, Model, Settings
from feedback.storage.database import Database
from feedback.storage.records import FeedbackRecord, InferenceRecord, Record, decode, encode
from feedback.storage.upsert import store

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RIGHT = '{"intent": "refund", "urgency": "low"}'
WRONG = '{"intent": "bug", "urgency": "low"}'
OTHER = '{"intent": "login", "urgency": "low"}'


class World:
    """Collects records; `write` brings them into the database."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self._moment = NOW
        self._waiting: list[Record] = []
        with database.session() as session:
            ensure_models(session, settings, NOW)
            session.commit()

    def ask(
        self, prompt: str | None, output: str | None = WRONG, user: str | None = "ann", **fields: Any
    ) -> str:
        """One answered request; its inference id."""
        now = self._tick()
        request = {"model": "assistant", "messages": [{"role": "user", "content": prompt}]}
        plain: dict[str, Any] = {
            "id": new_id(now),
            "created": now.timestamp(),
            "model": "assistant",
            "version": "base",
            "status": 200,
            "latency_ms": 10.0,
            "finish_reason": "stop",
            "user": user,
            "request": json.dumps(request),
            "prompt": prompt,
            "output": output,
        }
        record = InferenceRecord(**(plain | fields))
        self._waiting.append(record)
        return record.id

    def say(
        self,
        inference_id: str,
        rating: int | None = None,
        correction: str | None = None,
        rater: str = "ann",
        **fields: Any,
    ) -> str:
        """One feedback; its id."""
        now = self._tick()
        record = FeedbackRecord(
            id=new_id(now),
            inference_id=inference_id,
            created=now.timestamp(),
            rater=rater,
            rating=rating,
            correction=correction,
            **fields,
        )
        self._waiting.append(record)
        return record.id

    def correct(self, prompt: str, answer: str = RIGHT, user: str = "ann", output: str = WRONG) -> str:
        """A request whose answer its user rates low and corrects; its inference id."""
        inference_id = self.ask(prompt, output, user)
        self.say(inference_id, 1, answer, user)
        return inference_id

    def praise(self, prompt: str, user: str = "ann", output: str = RIGHT) -> str:
        """A request whose answer its user rates with five stars; its inference id."""
        inference_id = self.ask(prompt, output, user)
        self.say(inference_id, 5, rater=user)
        return inference_id

    def write(self) -> World:
        """Bring what was collected into the database."""
        with self.database.session() as session:
            store(session, [decode(encode(record)) for record in self._waiting], 0)
            session.commit()
        self._waiting.clear()
        return self

    def _tick(self) -> datetime:
        self._moment += timedelta(milliseconds=10)
        return self._moment


def settings_for(directory: Any, examples: str = "", **dataset: Any) -> Settings:
    """Settings of one model without base examples of its own, unless a file is given, and with small sizes."""
    plain: dict[str, Any] = {"minimum_new": 1, "evaluation_share": 0.01, "validation_share": 0.0}
    empty = directory / "no-examples.jsonl"
    empty.touch()
    base = Settings(
        model=[Model(name="assistant", examples=examples or str(empty))], dataset=Dataset(**(plain | dataset))
    )
    return Settings(
        storage=type(base.storage)(directory=str(directory)), model=base.model, dataset=base.dataset
    )
