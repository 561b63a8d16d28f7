"""A turn of the loop as the trainer writes it, with no training behind it: for the pages that show one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec

from feedback.ids import new_id
from feedback.registry.training_steps import write_steps
from feedback.settings import Canary as CanarySettings
from feedback.settings import Promotion
from feedback.storage.database import Database
from feedback.storage.tables import Canary, Cycle
from trainer.canary import arm_of, look
from trainer.comparison import Outcome
from trainer.findings import Latency
from trainer.gate import Evidence, decide


def add_cycle(database: Database, now: datetime, version: str | None, **fields: Any) -> str:
    """A cycle that ended as proposed, with steps, losses, comparison and gate; its id."""
    golden = [Outcome(f"g{n}", float(n % 3 > 0), float(n % 9 > 0), None, n % 10 == 0) for n in range(90)]
    kept = [Outcome(f"r{n}", 1.0, 1.0) for n in range(400)]
    latency = Latency(20, 10.0, 10.5, 1.05, (1.01, 1.09), False)
    decision = decide(Evidence(golden, kept, golden[:5], kept, latency, [2] * 60), Promotion())
    metrics = {"accuracy": 0.7, "valid_format": 1.0, "ms_per_request": 61.0, "ms_per_token": 4.0}
    suites = {"golden": {"n": 90, **metrics}, "regression": {"n": 400, **metrics}, "holdout": {"n": 0}}
    started = now - timedelta(minutes=9)
    steps = [
        {
            "step": name,
            "started": (started + timedelta(minutes=place)).isoformat(),
            "ended": (started + timedelta(minutes=place, seconds=40)).isoformat(),
            "outcome": f"{name} did what it does",
        }
        for place, name in enumerate(("triage", "dataset", "train", "evaluate", "gate", "settle"))
    ]
    plain: dict[str, Any] = {
        "id": new_id(now),
        "model": "assistant",
        "mode": "propose",
        "state": "done",
        "decision": "proposed",
        "reason": f"assistant@{version} waits for a person to promote it: {decision.reason}",
        "requested_by": "ann",
        "version": version,
        "steps": steps,
        "result": {
            "champion": "base",
            "versions": {"base": suites, version or "1.0": suites},
            "gate": msgspec.to_builtins(decision),
        },
        "created": started.timestamp(),
        "updated": now.timestamp(),
    }
    cycle = Cycle(**(plain | fields))
    rows = [
        {
            "step": step,
            "steps": 60,
            "epoch": (step + 19) // 20,
            "epochs": 3,
            "loss": None if step == 0 else 2.0 / (1 + step / 9),
            "validation_loss": 0.4 + 1.6 / (1 + step / 9) if step % 10 == 0 else None,
            "validation_new": 0.3 + 1.9 / (1 + step / 7) if step % 10 == 0 else None,
            "validation_old": 0.5 + 0.1 / (1 + step / 9) if step % 10 == 0 else None,
            "learning_rate": 2e-4,
            "gradient_norm": 0.8,
            "tokens_per_second": 4200.0,
            "memory_bytes": 700 * 2**20,
            "noticed": ["forgetting: the loss on old examples rose; more replay helps"] if step == 40 else [],
        }
        for step in range(61)
    ]
    with database.session() as session:
        session.add(cycle)
        session.flush()
        write_steps(session, cycle.id, rows, now.timestamp())
        session.commit()
    return cycle.id


def add_canary(database: Database, now: datetime, cycle_id: str, version: str) -> str:
    """An open canary of that cycle, with the numbers of a look; its id."""
    arms = (arm_of([4.0, 4.5, 3.0] * 20, 60, 200), arm_of([3.5, 3.0, 4.0] * 20, 60, 210))
    seen = look(*arms, [], CanarySettings(), False, False)
    with database.session() as session:
        row = Canary(
            id=new_id(now),
            model="assistant",
            kind="canary",
            version=version,
            against="base",
            share=0.1,
            salt=cycle_id,
            started_by="gate",
            cycle_id=cycle_id,
            result={"looks": 3, **msgspec.to_builtins(seen)},
            created=now.timestamp(),
            limit=now.timestamp() + 86_400,
        )
        session.add(row)
        session.commit()
        return row.id
