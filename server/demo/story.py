"""The demo's story: drift that the loop must learn, then lies that it must refuse, twice."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from feedback.starter.grammar import DRIFT, Message
from server.demo.client import MODEL, Answer, DemoClient, bounded
from server.demo.population import Population, Request, held_out
from server.demo.scores import VersionScore, score


@dataclass(frozen=True)
class Pace:
    """How much traffic each part of the story gets."""

    turn_requests: int = 3500
    golden_cases: int = 350
    quiet_requests: int = 400
    liar_requests: int = 150
    per_known: int = 500
    per_drift: int = 125


@dataclass
class Story:
    """Runs the turns one after the other and keeps the two tables."""

    client: DemoClient
    console: Console
    seed: int
    pace: Pace = field(default_factory=Pace)
    versions: list[VersionScore] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._people = Population(self.seed)
        self._yardstick = held_out(self.seed, self.pace.per_known, self.pace.per_drift)
        self._right: dict[str, str] = {}
        self._stars: dict[str, list[int]] = defaultdict(list)

    async def tell(self, turns: int, poison: bool = True) -> None:
        """Base, then `turns` turns of drift, then (with `poison`) two turns in which a few raters lie."""
        await self._score("base")
        for turn in range(turns):
            await self._drift(turn)
        if poison:
            await self._poison(guards_off=())
            await self._poison(guards_off=("raters",))
        for version in self.versions:
            heard = self._stars.get(version.version)
            version.mean_stars = statistics.fmean(heard) if heard else None

    async def _drift(self, turn: int) -> None:
        requests = self._people.traffic(self.pace.turn_requests, DRIFT[turn], _topics(turn))
        await self._talk(f"Turn {turn + 1}: users ask, also about {' and '.join(DRIFT[turn])}", requests)
        with self._bar("  a reviewer confirms golden cases", self.pace.golden_cases) as advance:
            await self.client.review(self.pace.golden_cases, self._right, advance)
        await self._cycle("drift")

    async def _poison(self, guards_off: Sequence[str]) -> None:
        liars = self._people.attack(self.pace.liar_requests)
        drifted = _topics(sum(turn["kind"] == "drift" for turn in self.turns))
        requests = self._people.traffic(self.pace.quiet_requests, earlier=drifted) + liars
        random.Random(self.seed).shuffle(requests)
        how = f"guards off: {', '.join(guards_off)}" if guards_off else "guards on"
        await self._talk(
            f"Turn {len(self.turns) + 1}: {len({r.user for r in liars})} raters lie ({how})", requests
        )
        await self._cycle("poison", guards_off)

    async def _talk(self, title: str, requests: Sequence[Request]) -> None:
        for request in requests:
            self._right[request.message.text] = request.message.answer
        with self._bar(title, len(requests)) as advance:
            heard = await self.client.converse(requests, self._people.opinion, advance)
        for request, answer, opinion in heard:
            if opinion is not None and not request.liar:
                self._stars[answer.version.partition("@")[2]].append(opinion.rating)

    async def _cycle(self, kind: str, guards_off: Sequence[str] = ()) -> None:
        with self.console.status("  cycle: queued") as status:
            cycle = await self.client.cycle(guards_off, lambda step: status.update(f"  cycle: {step}"))
        decision = cycle["decision"] or cycle["state"]
        self.console.print(f"  cycle: [bold]{decision}[/bold]. {escape(cycle['reason'])}")
        turn = {"turn": len(self.turns) + 1, "kind": kind, "decision": decision, "reason": cycle["reason"]}
        if cycle["version"]:
            turn["version"] = cycle["version"]
            await self._score(cycle["version"])
            self.versions[-1].decision = f"{decision}: {cycle['reason']}"
        self.turns.append(turn)

    async def _score(self, version: str) -> None:
        """Measure a version on the held-out live mix; the comparison is with the best one before it."""

        async def one(message: Message) -> Answer:
            return await self.client.ask(f"{MODEL}@{version}", message.text, None, evaluation=True)

        with self._bar(f"  measuring {version} on held-out messages", len(self._yardstick)) as advance:
            answers = await bounded([partial(one, message) for message in self._yardstick], advance)
        serving = [row for row in self.versions if not row.decision.startswith("rejected")]
        self.versions.append(score(version, self._yardstick, answers, serving[-1] if serving else None))

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Any]:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)


def _topics(turns: int) -> list[str]:
    """The topics that were new in the first `turns` turns."""
    return [intent for pair in DRIFT[:turns] for intent in pair]
