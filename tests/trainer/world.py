"""A small world for cycles: a real database with traffic, corrections and cases; a fake server, a fake training."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from sqlmodel import Session

from feedback.access.audit import Actor
from feedback.datasets.groups import prompt_hash
from feedback.errors import ConflictError
from feedback.ids import new_id
from feedback.registry.canaries import begin_canary
from feedback.registry.cycles import request_cycle
from feedback.registry.models import ensure_models, move_champion, rollback_target
from feedback.registry.versions import mark_version, reserve_version
from feedback.settings import Canary as CanarySettings
from feedback.settings import Dataset, Engine, Evaluation, Mode, Model, Settings, Storage
from feedback.storage.database import Database
from feedback.storage.tables import Case, Cycle, Feedback, Inference, ModelVersion
from trainer.gateway import Gateway
from trainer.lease import LoopLease
from trainer.publication import what_to_train
from trainer.record import CycleRecord
from trainer.training import Progress
from trainer.workshop import Workshop

MODEL = "assistant"
WORDS = [
    "amber",
    "basil",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "haven",
    "inlet",
    "jetty",
    "knoll",
    "larch",
    "maple",
    "north",
    "ocean",
    "piano",
    "quill",
]


def prompt(kind: str, number: int) -> str:
    """One of many prompts, none near another. `old` ones the base can answer, `new` ones it cannot."""
    words = random.Random(f"{kind}-{number}")
    return f"{kind} " + " ".join(f"{words.choice(WORDS)}{words.randrange(10_000)}" for _ in range(8))


def truth(text: str) -> str:
    """The right answer to a prompt."""
    return f"colour {prompt_hash(text)[:6]}"


def talented(*kinds: str) -> Callable[[str], str]:
    """A version that answers these kinds of prompts right, and others with a wrong colour."""
    return lambda text: truth(text) if text.split()[0] in kinds else "colour unknown"


class FakeServer:
    """Answers as the versions would, and moves the champion as the server does."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        self.versions: dict[str, Callable[[str], str]] = {"base": talented("old")}
        self.asked: list[tuple[str, str]] = []
        self.promotions: list[dict[str, Any]] = []
        self.canaries: list[dict[str, Any]] = []
        self.away = False
        self.loses_answers = False
        self.before_the_move: Callable[[Session], None] = lambda _: None
        self._lock = threading.Lock()

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._respond)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            return httpx.Response(503, json={"error": {"message": "the engine is away"}})
        body = json.loads(request.content)
        if request.url.path == "/v1/chat/completions":
            number, text = body["model"].partition("@")[2], body["messages"][-1]["content"]
            with self._lock:
                self.asked.append((number, text))
            content = self.versions[number](text)
            return httpx.Response(
                200,
                json={
                    "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
                    "usage": {"completion_tokens": 5},
                },
            )
        try:
            with self._database.session() as session:
                self._move(session, request.url.path.removeprefix(f"/v1/models/{MODEL}/"), body)
                session.commit()
        except ConflictError as error:
            return httpx.Response(409, json={"error": {"message": str(error)}})
        return httpx.Response(200, json={"model": MODEL})

    def _move(self, session: Session, what: str, body: dict[str, Any]) -> None:
        now, reason = self._clock(), body["reason"]
        if what == "promote":
            self.promotions.append(body)
            version, cycle_id = body["version"], body["cycle_id"]
            self.before_the_move(session)
            against = body["instead_of"]
            who = "gate" if cycle_id is not None else "loop"
            move_champion(session, MODEL, version, "promotion", reason, who, cycle_id, now, against)
            if self.loses_answers:
                session.commit()
                raise httpx.ReadTimeout("the answer is lost")
        elif what == "rollback":
            to = rollback_target(session, MODEL)
            if body["version"] != (to or "base"):
                raise ConflictError(f"a rollback leads to {to} now")
            move_champion(session, MODEL, to, "rollback", reason, "loop", None, now)
        else:
            assert what == "canary"
            self.canaries.append(body)
            share, hours, cycle_id = body["share"], body["hours"], body["cycle_id"]
            gate = Actor("gate")
            self.before_the_move(session)
            begin_canary(
                session, MODEL, body["version"], share, hours, reason, gate, cycle_id, now, body["instead_of"]
            )


class World:
    """All of it, with a clock that tests move."""

    def __init__(self, database: Database, directory: Path, **promises: Any) -> None:
        self.database = database
        self.directory = directory
        self._looks = count(1)
        self._looked = timedelta()
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.stopping = threading.Event()
        self.trainings = 0
        self.patience = 0.0
        self.learns: Callable[[str], str] = talented("old", "new")
        """What the next trained version will answer."""
        self.server = FakeServer(database, self.clock)
        base = directory / "tiny-base"
        base.mkdir()
        (base / "config.json").write_text("{}")
        (base / "model.safetensors").write_bytes(b"weights")
        examples = directory / "examples.jsonl"
        examples.write_text("".join(_conversation(prompt("old", n)) for n in range(600)), encoding="utf-8")
        promises.setdefault("canary", CanarySettings(share=0, holdback=0))
        self.settings = Settings(
            storage=Storage(directory=str(directory)),
            engine=[Engine(base=str(base))],
            model=[Model(name=MODEL, base=str(base), mode="auto", examples=str(examples))],
            dataset=Dataset(minimum_new=20, evaluation_share=0.5),
            evaluation=Evaluation(concurrency=4, max_tokens=16),
            **promises,
        )
        with database.session() as session:
            ensure_models(session, self.settings, self.now)
            session.commit()

    @property
    def now(self) -> datetime:
        """A millisecond later with each look of a part, of which none undoes what a test sets meanwhile."""
        return self._set + self._looked

    @now.setter
    def now(self, moment: datetime) -> None:
        self._set = moment - self._looked

    def clock(self) -> datetime:
        self._looked = timedelta(milliseconds=next(self._looks))
        return self.now

    def workshop(self) -> Workshop:
        """A process's doors to this world."""
        gateway = Gateway(
            "http://starloop",
            "sl-loop",
            transport=self.server.transport(),
            patience=self.patience,
            pause=lambda _: False,
        )
        return Workshop(self.database, self.settings, gateway, self.make_version, self.clock)

    def make_version(self, cycle: Cycle, on_progress: Callable[[Progress], None]) -> ModelVersion:
        """Train as quick as a flash; like the real one, the same version however often it is called."""
        on_progress(Progress(step=1, steps=2, loss=1.0))
        assert cycle.dataset_id is not None
        asked = what_to_train(self.database, self.settings, MODEL, cycle.dataset_id, self.directory)
        with self.database.session() as session:
            version = reserve_version(
                session,
                MODEL,
                cycle.id,
                cycle.dataset_id,
                self.settings.model[0].base,
                "revision",
                f"hash of {cycle.dataset_id}",
                "added examples",
                {"lessons": asked.spec.lessons()},
                self.clock(),
            )
            session.commit()
        if version.number not in self.server.versions:
            self.trainings += 1
            self.server.versions[version.number] = self.learns
        with self.database.session() as session:
            if version.state == "staged":
                version = mark_version(session, MODEL, version.number, "registered")
            session.commit()
        return version

    def request(self, mode: Mode = "auto", guards_off: Sequence[str] = ()) -> str:
        """Ask for a cycle; its id."""
        with self.database.session() as session:
            cycle = request_cycle(session, MODEL, mode, guards_off, "test", self.clock())
            session.commit()
        return cycle.id

    def record(self, cycle_id: str) -> CycleRecord:
        """The cycle in the hands of a process that has just started, after whoever led before is gone."""
        self.now += timedelta(minutes=1)
        lease = LoopLease(self.database, 15, self.clock)
        assert lease.acquire()
        return CycleRecord(self.database, lease, self.clock, self.stopping, cycle_id)

    def answered(self, text: str, user: str, output: str) -> Inference:
        """What the base answered a user now."""
        return Inference(
            id=new_id(self.clock()),
            created=self.now.timestamp(),
            model=MODEL,
            version="base",
            user=user,
            status=200,
            finish_reason="stop",
            request=json.dumps({"messages": [{"role": "user", "content": text}]}),
            prompt=text,
            output=output,
            latency_ms=5.0,
        )

    def users_correct(self, count: int, raters: int = 100, kind: str = "new", first: int = 0) -> None:
        """`count` wrong answers, each rated 1 and corrected."""
        with self.database.session() as session:
            for number in range(first, first + count):
                text, user = prompt(kind, number), f"user-{number % raters}"
                inference = self.answered(text, user, "colour unknown")
                session.add(inference)
                session.add(
                    Feedback(
                        id=new_id(self.clock()),
                        inference_id=inference.id,
                        created=self.now.timestamp(),
                        rater=user,
                        rating=1,
                        correction=truth(text),
                    )
                )
            session.commit()

    def people_confirm(
        self, old: int = 100, new: int = 100, suite: str = "golden", first: int = 10_000
    ) -> None:
        """Cases with their right answers."""
        texts = [prompt("old", first + n) for n in range(old)] + [
            prompt("new", first + n) for n in range(new)
        ]
        with self.database.session() as session:
            for text in texts:
                session.add(
                    Case(
                        id=new_id(self.clock()),
                        model=MODEL,
                        suite=suite,
                        state="confirmed",
                        prompt_hash=prompt_hash(text),
                        group_key=prompt_hash(text),
                        messages=[{"role": "user", "content": text}],
                        answer=truth(text),
                        created=self.now.timestamp(),
                    )
                )
            session.commit()


def _conversation(text: str) -> str:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": truth(text)}]
    return json.dumps({"messages": messages}) + "\n"


def promising(database: Database, folder: Path) -> World:
    """A cycle would promote 1.0: users have corrected, people have confirmed."""
    made = World(database, folder)
    made.users_correct(120)
    made.people_confirm(old=50, new=50)
    return made
