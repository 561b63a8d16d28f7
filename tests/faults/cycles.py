"""kill -9 of the whole loop at any moment of a cycle: does it end as if nothing had happened, once and with nothing left over?

A first cycle runs undisturbed and tells how it ends and how long each step takes. Then the same cycle runs again from the
same beginning while its loop is killed, and started again as a process manager would: at the beginning of each step, and at
random moments spread evenly over the time that an undisturbed loop takes, its start included. Each must end in the same
decision with the same dataset and the same weights, one version, one promotion, one look at the golden set, every step once in its
record, the same files and no process.

    python -m tests.faults.cycles --kills 20
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlmodel import col, func, select

from feedback.registry.cycles import OPEN, get_cycle
from feedback.registry.models import get_model
from feedback.registry.versions import list_versions
from feedback.storage.database import Database
from feedback.storage.tables import (
    Case,
    Cycle,
    DatasetVersion,
    EvaluationResult,
    Failure,
    Move,
    TrainingStep,
)
from feedback.storage.verify import verify
from tests.faults.cycle_scene import CycleScene, cycle_scene
from tests.faults.report import write
from tests.trainer.world import MODEL
from trainer.steps import STEPS

BEFORE = "start"
"""Stands for the time from the loop's start to the cycle's first step."""
_LONGEST = 300.0
_LOOK = 0.01


@dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds into a step, or where the step is over already, at once."""

    step: str
    seconds: float


@dataclass
class Course:
    """How one cycle went."""

    kills: list[str] = field(default_factory=list)
    """The step that each kill hit."""
    seconds: float = 0.0
    starts: list[tuple[str, float]] = field(default_factory=list)
    """Every step with the seconds after the loop's first start at which it began."""
    trainings: int = 0
    """Most at one moment."""
    strays: list[str] = field(default_factory=list)
    asked: int = 0
    """Answers that the engine was asked for."""


@dataclass(frozen=True)
class Left:
    """What stands in the record and on the disk when a cycle has ended."""

    facts: dict[str, object]
    """What has to be the same however often the loop was killed."""
    problems: list[str]
    """What must not be in any case."""


@dataclass
class Results:
    """Everything that was run, against the undisturbed cycle."""

    reference: Left
    quiet: Course
    courses: list[Course] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def hit(self) -> Counter[str]:
        return Counter(step for course in self.courses for step in course.kills)

    def hold(self, kills: int) -> bool:
        """Whether all went as it has to, and nothing was left out."""
        return not self.wrong and self.hit.total() == kills


def run(on: CycleScene, kills: int, each: int, rng: random.Random, boundaries: bool) -> Results:
    """The undisturbed cycle, then the killed ones: `each` of the random `kills` in one cycle, and one killed at every
    step's beginning where `boundaries` are wanted."""
    quiet, reference = one_cycle(on, [])
    results = Results(reference, quiet, wrong=[f"without a kill: {one}" for one in reference.problems])
    print(f"undisturbed: {quiet.seconds:.1f} s, {reference.facts['decision']}", flush=True)
    counts = [each] * (kills // each) + [kills % each] * (kills % each > 0)
    plans = [[Moment(step, 0.0) for step in STEPS]] if boundaries else []
    for moments in [*plans, *(at_random(quiet, count, rng) for count in counts)]:
        course, left = one_cycle(on, moments)
        wrong = left.problems + [
            f"{name} is {left.facts[name]!r}, and {expected!r} without kills"
            for name, expected in reference.facts.items()
            if left.facts[name] != expected
        ]
        results.courses.append(course)
        told = f"cycle {len(results.courses)}, killed in {', '.join(course.kills)}"
        results.wrong += [f"{told}: {one}" for one in wrong]
        print(f"{told}: {course.seconds:.1f} s, {str(wrong)[:600] if wrong else 'well'}", flush=True)
    return results


def at_random(quiet: Course, kills: int, rng: random.Random) -> list[Moment]:
    """Moments spread evenly over the time of an undisturbed cycle, in their order."""
    starts = [(BEFORE, 0.0), *quiet.starts]
    moments = []
    for at in sorted(rng.uniform(0.0, quiet.seconds) for _ in range(kills)):
        step, begun = max((one for one in starts if one[1] <= at), key=lambda one: one[1])
        moments.append(Moment(step, at - begun))
    return moments


def one_cycle(on: CycleScene, moments: Sequence[Moment]) -> tuple[Course, Left]:
    """A cycle from the same beginning, killed at these moments: how it went, and what is left."""
    cycle_id = on.begin()
    course, database = Course(), on.open_database()
    try:
        _drive(on, database, cycle_id, list(moments), course)
        on.stop()
        course.strays = on.strays()
        course.asked = on.answered()
        return course, what_is_left(on, database, cycle_id, course)
    finally:
        database.close()


def _drive(on: CycleScene, database: Database, cycle_id: str, moments: list[Moment], course: Course) -> None:
    """Run the loop until the cycle has ended, killing it at the moments; each comes after the one before it."""
    on.start_loop()
    began = last_look = time.monotonic()
    reached, since = BEFORE, began
    order = [BEFORE, *STEPS]
    while True:
        cycle = _row(database, cycle_id)
        now = time.monotonic()
        step = (cycle.step if cycle.state == "running" else None) or reached
        if step != reached:
            reached, since = step, now
            course.starts.append((step, now - began))
        if cycle.state not in OPEN:
            break
        assert now - began < _LONGEST, f"the cycle does not end; {on.told()}"
        if moments and is_due(moments[0], order.index(reached), now - since, order):
            moments.pop(0)
            on.kill_loop()
            # At once, as a process manager does: what a killed loop left behind may still be there.
            on.start_loop()
            course.kills.append(reached)
            since = time.monotonic()
        assert on.loop_runs(), f"the loop ended by itself; {on.told()}"
        if now - last_look > 0.2:
            course.trainings, last_look = max(course.trainings, len(on.children())), now
        time.sleep(_LOOK)
    course.seconds = time.monotonic() - began


def is_due(moment: Moment, at: int, seconds: float, order: Sequence[str]) -> bool:
    wanted = order.index(moment.step)
    return at > wanted or (at == wanted and seconds >= moment.seconds)


def _row(database: Database, cycle_id: str) -> Cycle:
    with database.reading() as session:
        return get_cycle(session, cycle_id)


def what_is_left(on: CycleScene, database: Database, cycle_id: str, course: Course) -> Left:
    with database.reading() as session:
        cycle = get_cycle(session, cycle_id)
        dataset = session.get(DatasetVersion, cycle.dataset_id) if cycle.dataset_id else None
        versions = list_versions(session, MODEL)
        counts = {
            table.__name__: session.exec(select(func.count()).select_from(table)).one()
            for table in (Case, DatasetVersion, Failure, Move, TrainingStep, EvaluationResult)
        }
        champion = get_model(session, MODEL).champion
        moves = session.exec(select(Move.kind, Move.to_version).order_by(col(Move.position))).all()
    gate = (cycle.result or {}).get("gate", {})
    weights = on.directory / "adapters" / f"{MODEL}@{cycle.version}" / "adapter_model.safetensors"
    folder = on.directory / "datasets" / (cycle.dataset_id or "-")
    facts: dict[str, object] = {
        "state": cycle.state,
        "decision": cycle.decision,
        "numbers": {
            name: (one["n"], one["fixes"], one["regressions"]) for name, one in gate.get("suites", {}).items()
        },
        "dataset": dataset and dataset.content_hash,
        "rows": {file.name: len(file.read_bytes().splitlines()) for file in sorted(folder.glob("*.jsonl"))},
        "versions": [(one.number, one.state) for one in versions],
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None,
        "champion": champion,
        "moves": [tuple(move) for move in moves],
        "counts": counts,
        "steps": [entry["step"] for entry in cycle.steps],
        "files": sorted(on.files(cycle)),
    }
    problems = [f"step {entry['step']} has no end" for entry in cycle.steps if not entry["ended"]]
    problems += [f"a process is left: {one}" for one in course.strays]
    if course.trainings > 1:
        problems.append(f"{course.trainings} trainings at one time")
    record = verify(database, on.directory)
    if not record.sound:
        problems.append(f"the record does not verify: {record.corrupt} corrupt, {record.problems[:3]}")
    resumed = sum(entry.get("resumed", 0) for entry in cycle.steps)
    if resumed > len(course.kills):
        problems.append(f"the record tells of {resumed} resumptions after {len(course.kills)} kills")
    return Left(facts, problems)


def table(results: Results) -> str:
    """The results as Markdown."""
    facts, courses = results.reference.facts, results.courses
    hit = ", ".join(f"{results.hit[step]} × {step}" for step in (BEFORE, *STEPS) if results.hit[step])
    extra = max((one.asked - results.quiet.asked for one in courses), default=0)
    rows = [
        ("cycles", f"{len(courses)}, and one without a kill, which took {results.quiet.seconds:.1f} s"),
        ("kills, by the step that they hit", f"{results.hit.total()}: {hit}"),
        ("seconds, all cycles", f"{sum(one.seconds for one in courses):.0f}"),
        ("ended as without kills", f"{facts['state']}, {facts['decision']}; {facts['moves']}"),
        ("same dataset, weights, versions, counts of rows, files", "yes" if not results.wrong else "no"),
        ("most trainings at one time", f"{max((one.trainings for one in courses), default=0)}"),
        ("processes left", f"{sum(len(one.strays) for one in courses)}"),
        ("answers asked for, without kills", f"{results.quiet.asked:,}"),
        ("most answers asked for again in one cycle", f"{max(0, extra)}"),
    ]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join([*lines, *(["", *(f"- {one}" for one in results.wrong)] if results.wrong else [])])


def main(arguments: Sequence[str] | None = None) -> int:
    from tests.trainer.tiny import write_base  # loads torch

    parser = argparse.ArgumentParser(prog="python -m tests.faults.cycles", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=20, help="at random moments; one at each step's beginning besides"
    )
    parser.add_argument("--each", type=int, default=5, help="of them in one cycle")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all parts end too
    with TemporaryDirectory(prefix="starloop-cycles-") as folder, cycle_scene(Path(folder), write_base) as on:
        results = run(on, chosen.kills, chosen.each, random.Random(chosen.seed), boundaries=True)
    shown = table(results)
    print(shown)
    if chosen.output:
        command = f"python -m tests.faults.cycles --kills {chosen.kills} --seed {chosen.seed}"
        about = "a real gateway, real training of a tiny base, a stand-in for vLLM"
        write(chosen.output, "A cycle whose loop is killed", command, about, shown)
    return 0 if results.hold(chosen.kills + len(STEPS)) else 1


if __name__ == "__main__":
    sys.exit(main())
