"""kill -9 of the loop while users decide: is a version promoted or rolled back once, whenever it dies?

A cycle trains, its gate says promoted, and its canary begins; all that is kept once. From there three stories are told, each
first without a kill, then with kills as soon as each phase begins and at random moments: users like the challenger and the watch
goes well; users dislike it in the canary; users like it there, and no more once it was promoted. Users ask and rate all the
while, and no request of theirs may fail. Each story must end as without kills: the same moves, each once, the same canary and
watch, version, dataset and files, and no process.

    python -m tests.faults.trials --kills 8
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from sqlmodel import col, select

from feedback.registry.cycles import OPEN, get_cycle
from feedback.storage.database import Database
from feedback.storage.tables import Audit, Canary
from tests.faults.cycle_scene import CycleScene, cycle_scene
from tests.faults.cycles import BEFORE, Course, Left, Moment, at_random, is_due, what_is_left
from tests.faults.report import write
from tests.trainer.world import MODEL, prompt

PHASES = ("canary", "decided", "watch", "over")
"""`decided`: the canary has ended and its cycle does not know yet."""
CANARY = """\
share = 0.5
holdback = 0.5
watch_hours = 0.003
minimum_users = 10
margin = 4.0
look_seconds = 0.1
guardrail = 0.5"""
"""Twenty users decide, so that many trials can be told; `tests.bench.decisions` measures how well users decide."""
_TRIAL = f"{MODEL}@1.0"
_LONGEST = 120.0
_LOOK = 0.01
_AFTER = 1.0
"""Seconds that the loop is left to run after the end, in which it must do nothing more."""


@dataclass(frozen=True)
class Story:
    """What users think of the version on trial, in stars."""

    name: str
    in_canary: int
    in_watch: int
    moves: tuple[tuple[str, str | None], ...]
    """How it has to end."""


STORIES = (
    Story("liked", 5, 5, (("promotion", "1.0"),)),
    Story("disliked in the canary", 1, 1, ()),
    Story("disliked once promoted", 5, 1, (("promotion", "1.0"), ("rollback", None))),
)
_OTHER = {1: 5, 5: 3}
"""Stars of the other version beside those of the one on trial: twenty users tell a difference of four stars."""


@dataclass
class Told:
    """One story, without kills and with them."""

    story: Story
    reference: Left
    quiet: Course
    courses: list[Course] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Users:
    """People who ask and rate, one after the other, until they are let go."""

    def __init__(self, address: str, story: Story) -> None:
        self.promoted = False
        self.rated = 0
        self.troubles: list[str] = []
        self._address = address
        self._story = story
        self._over = threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Ask and rate while the block runs."""
        thread = threading.Thread(target=self._run, name="users")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._address, timeout=30, trust_env=False) as client:
            while not self._over.wait(0.02):
                try:
                    self._ask_and_rate(client, f"user-{self.rated}")
                except httpx.HTTPError as error:
                    self.troubles.append(f"{type(error).__name__}: {error}")
                self.rated += 1

    def _ask_and_rate(self, client: httpx.Client, user: str) -> None:
        asked = {
            "model": MODEL,
            "user": user,
            "messages": [{"role": "user", "content": prompt("old", self.rated)}],
        }
        answer = client.post("/v1/chat/completions", json=asked).raise_for_status()
        stars = self._story.in_watch if self.promoted else self._story.in_canary
        if answer.headers["x-starloop-version"] != _TRIAL:
            stars = _OTHER[stars]
        rating = {"inference_id": answer.headers["x-starloop-inference-id"], "rating": stars, "rater": user}
        client.post("/v1/feedback", json=rating).raise_for_status()


def prepare(on: CycleScene) -> str:
    """Run a cycle until its canary begins and keep that; the cycle's id."""
    cycle_id = on.begin()
    database = on.open_database()
    try:
        on.start_loop()
        deadline = time.monotonic() + _LONGEST
        while (state := _phase(database, cycle_id)) == BEFORE:
            assert on.loop_runs() and time.monotonic() < deadline, on.told()
            time.sleep(0.1)
        assert state == "canary", on.told()
        on.stop()
    finally:
        database.close()
    on.keep()
    return cycle_id


def tell(on: CycleScene, cycle_id: str, story: Story, plans: int, each: int, rng: random.Random) -> Told:
    """The story without kills, with one as soon as each phase begins, and `plans` times with `each` at random moments."""
    quiet, reference = one_trial(on, cycle_id, story, [])
    told = Told(story, reference, quiet, wrong=[f"without a kill: {one}" for one in reference.problems])
    if reference.facts["moves"] != list(story.moves):
        told.wrong.append(f"without a kill it moved {reference.facts['moves']}")
    print(f"{story.name}, undisturbed: {quiet.seconds:.1f} s, {reference.facts['moves']}", flush=True)
    phases = [phase for phase, _ in quiet.starts]
    every = [[Moment(phase, 0.0) for phase in phases], *(at_random(quiet, each, rng) for _ in range(plans))]
    for moments in every:
        course, left = one_trial(on, cycle_id, story, moments)
        wrong = left.problems + [
            f"{name} is {left.facts[name]!r}, and {expected!r} without kills"
            for name, expected in reference.facts.items()
            if left.facts[name] != expected
        ]
        if len(course.kills) != len(moments):
            wrong.append(f"{len(course.kills)} kills of {len(moments)}")
        told.courses.append(course)
        about = f"{story.name}, killed in {', '.join(course.kills)}"
        told.wrong += [f"{about}: {one}" for one in wrong]
        print(f"{about}: {course.seconds:.1f} s, {str(wrong)[:600] if wrong else 'well'}", flush=True)
    return told


def one_trial(on: CycleScene, cycle_id: str, story: Story, moments: Sequence[Moment]) -> tuple[Course, Left]:
    """One story from the canary's beginning, killed at these moments: how it went, and what is left."""
    on.put_back()
    course, database, users = Course(), on.open_database(), Users(on.address, story)
    try:
        with users.at_work():
            _drive(on, database, cycle_id, users, list(moments), course)
        on.stop()
        course.strays, course.asked = on.strays(), users.rated
        left = what_is_left(on, database, cycle_id, course)
        left.facts.update(_decided(database))
        left.problems.extend(f"a user's request failed: {one}" for one in users.troubles)
        return course, left
    finally:
        database.close()


def _drive(
    on: CycleScene, database: Database, cycle_id: str, users: Users, moments: list[Moment], course: Course
) -> None:
    on.start_loop()
    began = time.monotonic()
    reached, since = BEFORE, began
    order = [BEFORE, *PHASES]
    while reached != "over" or moments:
        now = time.monotonic()
        phase = _phase(database, cycle_id)
        if phase != reached:
            reached, since = phase, now
            course.starts.append((phase, now - began))
            users.promoted = phase == "watch"
        assert now - began < _LONGEST, f"it does not end; {on.told()}"
        if moments and (reached == "over" or is_due(moments[0], order.index(reached), now - since, order)):
            moments.pop(0)
            on.kill_loop()
            on.start_loop()
            course.kills.append(reached)
            since = time.monotonic()
        assert on.loop_runs(), f"the loop ended by itself; {on.told()}"
        time.sleep(_LOOK)
    course.seconds = time.monotonic() - began
    time.sleep(_AFTER)


def _phase(database: Database, cycle_id: str) -> str:
    with database.reading() as session:
        cycle = get_cycle(session, cycle_id)
        rows = {row.kind: row for row in session.exec(select(Canary).where(Canary.cycle_id == cycle_id))}
    canary, watch = rows.get("canary"), rows.get("watch")
    if canary is None:
        assert cycle.state in OPEN, f"the cycle ended without a canary: {cycle.reason}"
        return BEFORE
    if canary.state == "open":
        return "canary"
    if cycle.state in OPEN:
        return "decided"
    return "watch" if watch is not None and watch.state == "open" else "over"


def _decided(database: Database) -> dict[str, object]:
    """What users decided, and what the audit log tells of it, each as often as it is there."""
    with database.reading() as session:
        rows = session.exec(select(Canary).order_by(col(Canary.id))).all()
        acts = session.exec(select(Audit.act)).all()
    wanted = ("canary.begin", "canary.end", "champion.promote", "champion.rollback", "cycle.start")
    return {
        "canaries": [(row.kind, row.version, row.state) for row in rows],
        "acts": {act: acts.count(act) for act in wanted},
    }


def table(all_told: Sequence[Told]) -> str:
    """The results as Markdown."""
    lines = [
        "| users | ended | kills, by the phase that they hit | trials | seconds, without kills | as without kills | processes left | users' requests |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for told in all_told:
        kills = [phase for course in told.courses for phase in course.kills]
        hit = ", ".join(f"{kills.count(phase)} × {phase}" for phase in (BEFORE, *PHASES) if phase in kills)
        moves = ", ".join(f"{kind} to {to or 'the base'}" for kind, to in told.story.moves) or "no move"
        strays = sum(len(course.strays) for course in told.courses)
        lines.append(
            f"| {told.story.name} | {told.reference.facts['decision']}; {moves} | {len(kills)}: {hit} | {len(told.courses)} | "
            f"{told.quiet.seconds:.1f} | {'no' if told.wrong else 'yes'} | {strays} | "
            f"{sum(course.asked for course in told.courses):,} |"
        )
    wrong = [f"- {one}" for told in all_told for one in told.wrong]
    return "\n".join([*lines, *(["", *wrong] if wrong else [])])


def main(arguments: Sequence[str] | None = None) -> int:
    from tests.trainer.tiny import write_base  # loads torch

    parser = argparse.ArgumentParser(prog="python -m tests.faults.trials", description=__doc__)
    parser.add_argument(
        "--kills",
        type=int,
        default=8,
        help="at random moments of each story; one at each phase's beginning besides",
    )
    parser.add_argument("--each", type=int, default=4, help="of them in one trial")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all parts end too
    rng = random.Random(chosen.seed)
    with (
        TemporaryDirectory(prefix="starloop-trials-") as folder,
        cycle_scene(Path(folder), write_base, CANARY) as on,
    ):
        cycle_id = prepare(on)
        plans = chosen.kills // chosen.each
        all_told = [tell(on, cycle_id, story, plans, chosen.each, rng) for story in STORIES]
    shown = table(all_told)
    print(shown)
    if chosen.output:
        command = f"python -m tests.faults.trials --kills {chosen.kills} --seed {chosen.seed}"
        about = (
            "a real gateway, a version that was really trained, a stand-in for vLLM, users who ask and rate"
        )
        write(chosen.output, "A loop that is killed while users decide", command, about, shown)
    return 1 if any(told.wrong for told in all_told) else 0


if __name__ == "__main__":
    sys.exit(main())
