"""Versions under churn: is every answer, token by token, the one that its version gives alone, and how long does it take?

Four runs on one engine. *Alone*: each version answers each prompt by itself, one request at a time; that is what all
others are compared with. *Quiet*: users of the champion, nothing else. *Control*: beside them one client asks for
more pinned versions than the engine holds at a time. *Churn*: the same as control, while the champion is promoted and
rolled back. What differs in control already is the engine's arithmetic under load, not the churn.

    python -m tests.faults.churn --answers 3000 --moves 10
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from feedback.starter.grammar import KNOWN, draw
from tests.faults.report import write
from tests.faults.stage import Stage, stage

Alone = dict[tuple[str, str], tuple[str, ...]]
_TOKENS = 24
_MOST_RATIO = 1.3


@dataclass
class Outcome:
    """One run, counted."""

    name: str
    answers: int = 0
    failed: list[str] = field(default_factory=list)
    another: int = 0
    """Answers that are, token by token, those of another version than the one that they name."""
    mistaken: list[str] = field(default_factory=list)
    """Of the answers that are wrong: the version that was named, and those whose answer it is."""
    different: int = 0
    """Answers that are no version's own."""
    wrong_tokens: int = 0
    first_token_ms: list[float] = field(default_factory=list)
    """Of the users of the champion."""
    versions: set[str] = field(default_factory=set)
    moves: int = 0

    def p(self, share: float) -> float:
        ordered = sorted(self.first_token_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Results:
    """All runs; `distinct` is the share of pairs of versions that answer a prompt differently."""

    alone: int
    distinct: float
    quiet: Outcome
    control: Outcome
    churn: Outcome

    @property
    def ratio(self) -> float:
        """p99 time to first token under churn, as a multiple of the quiet one."""
        return self.churn.p(0.99) / self.quiet.p(0.99)


async def run(
    on: Stage, versions: Sequence[str], answers: int, moves: int, clients: int, seed: int, prompts: int = 24
) -> Results:
    """All runs on a stage. `answers` is for each of the three that are compared."""
    rng = random.Random(seed)
    texts = list(dict.fromkeys(draw(rng, KNOWN, "live").text for _ in range(prompts)))
    limits = httpx.Limits(max_connections=clients + 4)
    async with httpx.AsyncClient(base_url=on.address, timeout=120, limits=limits, trust_env=False) as http:
        names = ["assistant@base", *(f"assistant@{version}" for version in versions)]
        alone = {(name, text): (await ask(http, name, text))[1] for name in names for text in texts}
        on.move("promote", version=versions[0])
        load = _Load(on, http, alone, texts, clients)
        await load.run(Outcome("warm-up"), answers // 10, [], 0)
        quiet = await load.run(Outcome("quiet"), answers, [], 0)
        control = await load.run(Outcome("control"), answers, names, 0)
        churn = await load.run(Outcome("churn"), answers, names, moves)
    return Results(len(alone), _distinct(alone, names, texts), quiet, control, churn)


async def ask(http: httpx.AsyncClient, model: str, text: str) -> tuple[str, tuple[str, ...], float]:
    """One stream at temperature 0: the version that it names, its tokens, milliseconds to the first of them.

    Raises `ValueError` for whatever is not a whole, successful stream of one version.
    """
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": _TOKENS,
        "stream": True,
        "logprobs": True,
    }
    started, first, tokens, done = time.perf_counter(), 0.0, [], False
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}: {(await response.aread())[:200]!r}")
        version = response.headers["x-starloop-version"]
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                done = True
                continue
            event: Any = json.loads(line[6:])
            if "error" in event:
                raise ValueError(f"the stream broke: {event['error']}")
            if version != "assistant@base" and event["model"] != version:
                raise ValueError(f"{event['model']} speaks in a stream of {version}")
            for choice in event["choices"]:
                content = (choice.get("logprobs") or {}).get("content") or []
                first = first or time.perf_counter()
                tokens += [token["token"] for token in content]
    if not done or not tokens:
        raise ValueError("the stream ended early")
    return version, tuple(tokens), (first - started) * 1000


class _Load:
    """Clients that ask one question after another until enough answers are there."""

    def __init__(
        self, on: Stage, http: httpx.AsyncClient, alone: Alone, texts: Sequence[str], clients: int
    ) -> None:
        self._on, self._http, self._alone, self._texts, self._clients = on, http, alone, texts, clients

    async def run(self, outcome: Outcome, answers: int, pinned: Sequence[str], moves: int) -> Outcome:
        """`pinned` versions are asked for in turn by one client more, in the place of a user."""
        users = self._clients - bool(pinned)
        work = [self._user(outcome, answers, number) for number in range(users)]
        if pinned:
            work.append(self._visitor(outcome, answers, pinned))
        if moves:
            work.append(self._operator(outcome, answers, moves))
        await asyncio.gather(*work)
        return outcome

    async def _user(self, outcome: Outcome, answers: int, number: int) -> None:
        turn = number
        while outcome.answers < answers:
            turn += 1
            milliseconds = await self._ask(outcome, "assistant", self._texts[turn % len(self._texts)])
            if milliseconds is not None:
                outcome.first_token_ms.append(milliseconds)

    async def _visitor(self, outcome: Outcome, answers: int, pinned: Sequence[str]) -> None:
        turn = 0
        while outcome.answers < answers:
            turn += 1
            await self._ask(outcome, pinned[turn % len(pinned)], self._texts[turn % len(self._texts)])

    async def _operator(self, outcome: Outcome, answers: int, moves: int) -> None:
        """Promotions spread evenly over the answers; every third move is a rollback."""
        versions = sorted({name.partition("@")[2] for name, _ in self._alone} - {"base"})
        for move in range(moves):
            while outcome.answers < answers * (move + 1) / (moves + 1):
                await asyncio.sleep(0.02)
            if move % 3 == 2:
                await asyncio.to_thread(self._on.move, "rollback")
            else:
                await asyncio.to_thread(
                    self._on.move, "promote", version=versions[(move + 1) % len(versions)]
                )
            outcome.moves += 1

    async def _ask(self, outcome: Outcome, model: str, text: str) -> float | None:
        try:
            version, tokens, milliseconds = await ask(self._http, model, text)
        except (ValueError, httpx.HTTPError) as error:
            outcome.failed.append(f"{model}: {error}")
            outcome.answers += 1
            return None
        outcome.answers += 1
        outcome.versions.add(version)
        own = self._alone[version, text]
        if tokens != own:
            outcome.wrong_tokens += sum(a != b for a, b in zip(tokens, own, strict=False)) or abs(
                len(tokens) - len(own)
            )
            owners = [name for (name, of), kept in self._alone.items() if of == text and kept == tokens]
            outcome.mistaken.append(f"{version} answered as {', '.join(owners) or 'nobody'}")
            if owners:
                outcome.another += 1
            else:
                outcome.different += 1
        return milliseconds


def _distinct(alone: Alone, names: Sequence[str], texts: Sequence[str]) -> float:
    pairs = [
        alone[one, text] != alone[other, text]
        for text in texts
        for number, one in enumerate(names)
        for other in names[number + 1 :]
    ]
    return sum(pairs) / len(pairs)


def table(results: Results) -> str:
    """The results as a Markdown table."""
    lines = [
        "| run | answers | versions | moves | failed | another version's answer | other differences | wrong tokens "
        "| TTFT p50 ms | p99 ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in (results.quiet, results.control, results.churn):
        lines.append(
            f"| {one.name} | {one.answers} | {len(one.versions)} | {one.moves} | {len(one.failed)} | {one.another} "
            f"| {one.different} | {one.wrong_tokens} | {one.p(0.5):.1f} | {one.p(0.99):.1f} |"
        )
    lines.append("")
    lines.append(
        f"{results.alone} answers made alone; two versions answer a prompt differently in {results.distinct:.0%} of "
        f"cases. p99 time to first token under churn: {results.ratio:.2f} times the quiet one."
    )
    return "\n".join(lines)


def holds(results: Results) -> bool:
    """No failed request, no token of another version, and users who hardly notice."""
    return (
        not results.churn.failed
        and results.churn.another == 0
        and results.churn.wrong_tokens <= results.control.wrong_tokens
        and results.ratio <= _MOST_RATIO
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.churn", description=__doc__)
    parser.add_argument("--answers", type=int, default=3000, help="answers of each run")
    parser.add_argument("--moves", type=int, default=10, help="promotions and rollbacks")
    parser.add_argument("--versions", type=int, default=8, help="adapters, beside the base")
    parser.add_argument("--max-loras", type=int, default=4, help="adapters that the engine runs at a time")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that engine and gateway end too
    with (
        TemporaryDirectory(prefix="starloop-churn-") as folder,
        stage(Path(folder), workers=chosen.workers, max_loras=chosen.max_loras) as on,
    ):
        versions = [on.add_version(chosen.seed + number) for number in range(chosen.versions)]
        time.sleep(1)  # until every worker has heard of them
        results = asyncio.run(run(on, versions, chosen.answers, chosen.moves, chosen.clients, chosen.seed))
    print(table(results))
    if chosen.output:
        command = f"python -m tests.faults.churn --answers {chosen.answers} --moves {chosen.moves}"
        about = f"real vLLM, {chosen.versions} versions, {chosen.clients} clients, {chosen.workers} gateway worker"
        write(chosen.output, "Versions under churn", command, about, table(results))
    for told in (results.churn.failed + results.control.mistaken + results.churn.mistaken)[:20]:
        print("-", told)
    return 0 if holds(results) else 1


if __name__ == "__main__":
    sys.exit(main())
