"""kill -9 at random under load: is everything that was acknowledged there afterwards, once and as it was?

Clients ask and rate without pause; what they were told was captured (`x-starloop-captured: true`, and `[DONE]` at the end
of a stream) or taken (201 or 202) they remember. Meanwhile gateway workers, whole gateways, drainers, the engine and the
database are killed in random order, each after the one before is back. Afterwards the database must hold what the clients
remember: prompt, answer and rating.

    python -m tests.faults.kills --kills 50
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from sqlmodel import Session, select

from feedback.starter.grammar import KNOWN, draw
from feedback.storage.tables import Feedback, Inference
from feedback.storage.verify import Verification, verify
from tests.faults.report import write
from tests.faults.scene import Scene, scene

TARGETS = ("worker", "drainer", "gateway", "engine", "database")
_TOKENS = 16


@dataclass
class Remembered:
    """What the clients were promised, and what they were not."""

    answers: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Prompt and answer by inference id."""
    ratings: dict[tuple[str, str], int] = field(default_factory=dict)
    """Stars by inference id and rater."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests without an acknowledged answer, by how they ended."""


@dataclass(frozen=True)
class Results:
    """One run, counted."""

    kills: Counter[str]
    seconds: float
    asked: Remembered
    lost_answers: list[str]
    lost_ratings: list[tuple[str, str]]
    changed: list[str]
    record: Verification

    @property
    def hold(self) -> bool:
        return not (self.lost_answers or self.lost_ratings or self.changed) and self.record.sound


async def run(on: Scene, kills: int, targets: Sequence[str], clients: int, seed: int) -> Results:
    """Load and kills, then the reckoning; stops the scene's gateway."""
    rng = random.Random(seed)
    asked, began = Remembered(), time.monotonic()
    # Each target in equal parts, in random order.
    order = [targets[number % len(targets)] for number in range(kills)]
    rng.shuffle(order)
    over = asyncio.Event()
    users = [asyncio.create_task(_use(on, asked, over, seed * 1000 + number)) for number in range(clients)]
    try:
        for target in order:
            await asyncio.sleep(rng.uniform(0.3, 2.0))
            await asyncio.to_thread(getattr(on, f"kill_{target}"), rng)
            await asyncio.to_thread(on.until_ready)
        await asyncio.sleep(1)
    finally:
        over.set()
        await asyncio.gather(*users)
    seconds = time.monotonic() - began
    await asyncio.to_thread(on.stop)
    return await asyncio.to_thread(_reckon, on, Counter(order), seconds, asked)


async def _use(on: Scene, asked: Remembered, over: asyncio.Event, seed: int) -> None:
    """One client: asks, and rates every second answer."""
    rng = random.Random(seed)
    async with httpx.AsyncClient(base_url=on.address, timeout=60, trust_env=False) as http:
        number = 0
        while not over.is_set():
            number += 1
            text = f"{draw(rng, KNOWN, 'live').text} ({seed}-{number})"
            try:
                answered = await _ask(http, text, streamed=rng.random() < 0.5)
            except (httpx.HTTPError, ValueError) as error:
                asked.refused[type(error).__name__ if isinstance(error, httpx.HTTPError) else str(error)] += 1
                await asyncio.sleep(0.1)
                continue
            identifier, output = answered
            asked.answers[identifier] = (text, output)
            if rng.random() < 0.5:
                rater, stars = f"user {seed}", rng.randint(1, 5)
                body = {"inference_id": identifier, "rating": stars, "rater": rater}
                with suppress(httpx.HTTPError):
                    told = await http.post("/v1/feedback", json=body)
                    if told.status_code in (201, 202):
                        asked.ratings[identifier, rater] = stars


async def _ask(http: httpx.AsyncClient, text: str, streamed: bool) -> tuple[str, str]:
    """Id and text of an acknowledged answer. Raises `ValueError` for one that was not given or not acknowledged."""
    body = {
        "model": "assistant",
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": _TOKENS,
        "stream": streamed,
    }
    parts, done = [], not streamed
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise ValueError(f"status {response.status_code}")
        if response.headers["x-starloop-captured"] != "true":
            raise ValueError("not captured")
        if streamed:
            async for line in response.aiter_lines():
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    done = True
                elif data:
                    event = json.loads(data)
                    if "error" in event:
                        raise ValueError("the stream ended with an error event")
                    parts += [choice["delta"].get("content") or "" for choice in event["choices"]]
        else:
            parts.append(json.loads(await response.aread())["choices"][0]["message"]["content"])
        if not done:
            raise ValueError("the stream ended without [DONE]")
        return response.headers["x-starloop-inference-id"], "".join(parts)


def _reckon(on: Scene, kills: Counter[str], seconds: float, asked: Remembered) -> Results:
    database = on.open_database()
    try:
        record = verify(database, on.directory)
        with database.reading() as session:
            answers = _answers(session)
            ratings = {
                (inference_id, rater): rating
                for inference_id, rater, rating in session.exec(
                    select(Feedback.inference_id, Feedback.rater, Feedback.rating)
                )
            }
    finally:
        database.close()
    return Results(
        kills,
        seconds,
        asked,
        [identifier for identifier in asked.answers if identifier not in answers],
        [key for key in asked.ratings if key not in ratings],
        [identifier for identifier, told in asked.answers.items() if answers.get(identifier, told) != told]
        + [key[0] for key, stars in asked.ratings.items() if ratings.get(key, stars) != stars],
        record,
    )


def _answers(session: Session) -> dict[str, tuple[str | None, str | None]]:
    query = select(Inference.id, Inference.prompt, Inference.output)
    return {identifier: (prompt, output) for identifier, prompt, output in session.exec(query)}


def table(results: Results) -> str:
    """The results as Markdown."""
    kills = ", ".join(f"{count} × {target}" for target, count in sorted(results.kills.items()))
    refused = ", ".join(f"{count} × {how}" for how, count in results.asked.refused.most_common()) or "none"
    rows = [
        ("kills", f"{results.kills.total()}: {kills}"),
        ("seconds", f"{results.seconds:.0f}"),
        ("acknowledged inferences", f"{len(results.asked.answers):,}"),
        ("acknowledged feedback", f"{len(results.asked.ratings):,}"),
        ("of these inferences lost", f"{len(results.lost_answers)}"),
        ("of this feedback lost", f"{len(results.lost_ratings)}"),
        ("stored with another prompt, answer or rating", f"{len(results.changed)}"),
        ("duplicated rows (`db verify`)", f"{results.record.duplicated}"),
        ("missing, corrupt rows (`db verify`)", f"{results.record.missing}, {results.record.corrupt}"),
        (
            "inferences and feedback in the database",
            f"{results.record.inferences:,}, {results.record.feedback:,}",
        ),
        ("requests that got no acknowledged answer", refused),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--targets", type=lambda text: text.split(","), default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all parts end too
    with TemporaryDirectory(prefix="starloop-kills-") as folder, scene(Path(folder)) as on:
        results = asyncio.run(run(on, chosen.kills, chosen.targets, chosen.clients, chosen.seed))
    shown = table(results)
    print(shown)
    if chosen.output:
        command = f"python -m tests.faults.kills --kills {chosen.kills} --seed {chosen.seed}"
        about = f"real vLLM, two gateway workers, PostgreSQL, {chosen.clients} clients"
        write(chosen.output, "kill -9 under load", command, about, shown)
    return 0 if results.hold else 1


if __name__ == "__main__":
    sys.exit(main())
