"""Cycles in which answers that users praised protect: those of the champion itself, and those of versions before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from feedback.ids import new_id
from feedback.storage.database import Database
from feedback.storage.tables import Feedback, Inference
from tests.trainer.test_cycle import champion, run
from tests.trainer.world import MODEL, World, prompt, talented


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> World:
    """Users have corrected, people have confirmed, and the base answers rightly with yes what it is asked so."""
    made = World(sqlite_database, tmp_path)
    made.users_correct(200)
    made.people_confirm(old=50, new=50)
    made.server.versions["base"] = lambda text: "yes" if text.startswith("whether") else talented("old")(text)
    return made


def users_praise(world: World, version: str = "base", count: int = 600) -> None:
    """`count` questions answered with yes, each rated 5 by its user."""
    with world.database.session() as session:
        for number in range(count):
            text, user = prompt("whether", number), f"asker-{number}"
            inference = Inference(
                id=new_id(world.clock()),
                created=world.now.timestamp(),
                model=MODEL,
                version=version,
                user=user,
                status=200,
                finish_reason="stop",
                request=json.dumps({"messages": [{"role": "user", "content": text}]}),
                prompt=text,
                output="yes",
                latency_ms=5.0,
            )
            session.add(inference)
            said = {
                "inference_id": inference.id,
                "created": world.now.timestamp(),
                "rater": user,
                "rating": 5,
            }
            session.add(Feedback(id=new_id(world.clock()), **said))
        session.commit()


def knowing(answer: str) -> Callable[[str], str]:
    """A version that learned what it was to learn, and says this whether it was asked so or so."""
    others = talented("old", "new")
    return lambda text: answer if text.startswith("whether") else others(text)


def test_without_base_examples_praised_answers_protect(world: World) -> None:
    (world.directory / "examples.jsonl").write_text("", encoding="utf-8")
    users_praise(world)
    world.learns = knowing("yes")
    cycle = run(world, world.request())
    assert cycle.decision == "promoted", cycle.reason
    assert cycle.result is not None and cycle.result["gate"]["suites"]["regression"]["n"] > 125
    assert "regression suite: 0 fixes and 0 regressions in" in (cycle.reason or "")


def test_a_version_that_loses_what_the_champion_is_praised_for_is_held_up(world: World) -> None:
    users_praise(world)
    world.learns = knowing("no")
    cycle = run(world, world.request())
    assert cycle.decision == "inconclusive" and champion(world) is None
    assert "praised answers: of" in (cycle.reason or "")
    assert cycle.result is not None
    praised = cycle.result["gate"]["suites"]["praised"]
    assert praised["n"] == praised["regressions"] > 100 and praised["fixes"] == 0


def test_a_version_that_loses_what_an_earlier_one_was_praised_for_is_rejected(world: World) -> None:
    users_praise(world)
    world.learns = knowing("yes")
    assert run(world, world.request()).decision == "promoted"
    world.users_correct(200, first=1000)
    world.learns = knowing("no")
    cycle = run(world, world.request())
    assert cycle.decision == "rejected" and champion(world) == "1.0"
    assert "regression suite" in (cycle.reason or "") and "lost more than 3 points" in (cycle.reason or "")
