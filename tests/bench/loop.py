"""`make bench-loop`: the whole loop on public data, through the real server and real training.

A small base model is made that knows some labels of SNIPS or Banking77 and has only read prompts of the others. As a careful team
has it, it learned from the training side of their examples alone, so that what its versions must not forget is judged by examples
which it does not know by heart. Then users send prompts, most of what it does not know, each of them as often as any other, to
`starloop up` with its real engine; one answer in five is rated, one
rating in ten says the opposite of what the answer deserves, one low rating in three comes with the right answer. A reviewer
confirms golden cases, a cycle in mode `auto` triages, curates, trains, evaluates and decides, and its winner answers next.

What serves in the end is measured on the official test file through the endpoint. Beside it stand, trained by the same
recipe (`starloop data import`, `data build`, `train`) in a data directory of their own and asked without the server:

    same cases     every answer that was praised or corrected and may teach, with true labels: what noise, triage, curation
                   and cycling cost. What stands on the evaluation side, or between the sides, may teach nobody
    all cases      the same without regard to sides: what keeping them apart costs too
    all traffic    whatever was asked, rated or not, with true labels, once each

and a linear SVM over TF-IDF, fitted on the base's examples and the same cases.

With `--liars SHARE` that share of the users lies: one star for whatever they get, and the same wrong label from all of them
where the answer was not that. Then no other training is made: what counts is whether a cycle promotes a version that is
worse on true labels than the one before it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx

from feedback.datasets.chat import Conversation
from feedback.datasets.groups import prompt_hash
from feedback.datasets.splits import example_key, row_side, user_key
from feedback.settings_file import load
from feedback.storage.database import Database
from feedback.storage.tables import PromptGroup
from server.demo.client import MODEL, DemoClient, bounded
from tests.bench.linear_svm import LinearSvm
from tests.bench.loop_offline import CORRECTS, DATA, NOISE, RATES, USERS, Row, Task
from tests.bench.loop_scene import CONFIGURATION, Scene, command_line, write_chats
from tests.bench.report import machine
from tests.server.served import free_port


@dataclass(frozen=True)
class Heard:
    """One prompt of a user, the right label, and what the user said of the answer."""

    text: str
    right: str
    user: str
    inference_id: str
    rating: int | None = None
    corrected: bool = False

    lie: str = ""
    """What a liar says the right answer is."""

    @property
    def teaches(self) -> bool:
        return self.corrected or (self.rating or 0) >= 4


@dataclass
class Bench:
    """One data set and seed from the base to the last row of the table."""

    options: argparse.Namespace
    task: Task
    folder: Path
    rng: random.Random
    base_rows: list[Row] = field(default_factory=list)
    """What the base learns."""
    kept_rows: list[Row] = field(default_factory=list)
    """The base examples: those of the training side, which trainings replay, and those of the evaluation side, by which the
    regression suite judges."""
    pool: list[Row] = field(default_factory=list)
    """What users may ask, each prompt once."""
    live: list[Row] = field(default_factory=list)
    """What they ask."""
    heard: list[Heard] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    """What each promotion brought on true labels."""

    def divide(self) -> None:
        """Prompts that the base learns, those it must not forget, and those that users will send, which are in neither."""
        rows = list({prompt_hash(text): (text, label) for text, label in self.task.train}.values())
        self.rng.shuffle(rows)
        sides: dict[str | None, list[Row]] = {"train": [], "evaluation": [], None: []}
        new: list[Row] = []
        for row in rows:
            (new if row[1] in self.task.unknown else sides[self.side(row)]).append(row)
        self.base_rows = sides["train"][: round(self.options.base_share * len(sides["train"]))]
        self.kept_rows = sides["train"] + sides["evaluation"]
        old = round(self.options.old_share / (1 - self.options.old_share) * len(new))
        self.pool = new + sides[None][:old]
        while len(self.live) < self.options.prompts:
            self.live += self.rng.sample(self.pool, len(self.pool))
        del self.live[self.options.prompts :]

    def side(self, row: Row) -> str | None:
        """On which side the product puts a base example; for the few that are near another it may be another one."""
        identity = Conversation([{"role": "user", "content": row[0]}], row[1]).content_hash
        return row_side(prompt_hash(row[0]), example_key(identity), self.options.evaluation_share)

    @property
    def taught(self) -> list[Row]:
        """The base examples that may teach."""
        return [row for row in self.kept_rows if self.side(row) == "train"]

    def scene(self, name: str, share: float, examples: str = "examples.jsonl") -> Scene:
        folder = self.folder / name
        folder.mkdir(parents=True)
        port = free_port()
        path = folder / "starloop.toml"
        text = CONFIGURATION.format(
            directory=folder / "data",
            port=port,
            engine_port=free_port(),
            base=self.folder / "base",
            rank=self.options.rank,
            labels=json.dumps(self.task.labels),
            constrain=json.dumps(self.options.constrain),
            examples=self.folder / examples,
            share=share,
            replay=self.options.replay,
            threads=max(min(2, os.cpu_count() or 1), (os.cpu_count() or 1) - 1),
        )
        path.write_text(text, encoding="utf-8")
        return Scene(folder, path, port)

    def make_base(self) -> None:
        """A chat model of a few million parameters: answers the known labels, has read prompts of all."""
        import torch

        from trainer import starter

        options = self.options
        scale = replace(
            starter.SCALES["full"], vocabulary=options.vocabulary, steps=options.base_steps, batch=32
        )
        torch.manual_seed(options.seed)
        texts = [text for row in self.task.train for text in row]
        tokenizer = starter.train_tokenizer(texts, scale)
        model = starter.new_model(tokenizer, scale)
        rng = random.Random(f"base {options.seed}")
        starter.pretrain(model, tokenizer, scale, self._conversations(rng), rng)
        starter.round_weights(model, tokenizer)
        starter.save(self.folder / "base", model, tokenizer)
        write_chats(self.folder / "examples.jsonl", self.kept_rows)
        write_chats(self.folder / "taught.jsonl", self.taught)

    def _conversations(self, rng: random.Random) -> Iterator[list[Any]]:
        while True:
            text, label = rng.choice(self.base_rows)
            if rng.random() < 0.3:
                yield [{"role": "user", "content": rng.choice(self.task.train)[0]}]
            else:
                yield [{"role": "user", "content": text}, {"role": "assistant", "content": label}]

    async def talk(self, client: DemoClient, http: httpx.AsyncClient, rows: Sequence[Row]) -> None:
        """Every prompt is asked by somebody, and some of the answers are rated."""
        people = [f"user-{self.rng.randrange(USERS):03d}" for _ in rows]

        async def one(row: Row, user: str) -> tuple[str, str]:
            answer = await client.ask(MODEL, row[0], user)
            return answer.text, answer.inference_id

        answers = await bounded(
            [partial(one, row, user) for row, user in zip(rows, people, strict=True)], _quietly
        )
        said = []
        for (text, right), user, (given, inference_id) in zip(rows, people, answers, strict=True):
            heard = Heard(text, right, user, inference_id)
            if self.lies(user):
                lie = self.task.labels[(self.task.labels.index(right) + 1) % len(self.task.labels)]
                heard = replace(heard, rating=1, lie="" if given == lie else lie)
                said.append(heard)
            elif self.rng.random() < RATES:
                if (given == right) != (self.rng.random() < NOISE):
                    heard = replace(heard, rating=self.rng.choice((4, 5, 5)))
                else:
                    corrected = self.rng.random() < CORRECTS
                    heard = replace(heard, rating=self.rng.choice((1, 1, 2)), corrected=corrected)
                said.append(heard)
            self.heard.append(heard)

        async def rate(one: Heard) -> None:
            body: dict[str, Any] = {
                "inference_id": one.inference_id,
                "rating": one.rating,
                "rater": one.user,
            }
            if one.corrected or one.lie:
                body["correction"] = one.lie or one.right
            (await http.post("/v1/feedback", json=body)).raise_for_status()

        await bounded([partial(rate, one) for one in said], _quietly)

    def lies(self, user: str) -> bool:
        """Users are numbered; the first ones lie."""
        return int(user.removeprefix("user-")) < round(float(self.options.liars) * USERS)

    async def turn(self, scene: Scene) -> str:
        """All cycles; the version that serves in the end."""
        options, client = self.options, DemoClient(scene.address)
        async with httpx.AsyncClient(base_url=scene.address, timeout=120) as http:
            serves = await self.measure(client, "base", "base")
            for cycle in range(options.cycles):
                some = [
                    self.live[place]
                    for place in range(
                        cycle * len(self.live) // options.cycles,
                        (cycle + 1) * len(self.live) // options.cycles,
                    )
                ]
                await self.talk(client, http, some)
                right = {one.text: one.right for one in self.heard}
                await client.review(options.golden // options.cycles, right, _quietly)
                started = time.monotonic()
                ended = await client.cycle((), _quietly)
                word = f"{ended['decision'] or ended['state']} after {time.monotonic() - started:.0f} s: {ended['reason']}"
                if ended["version"]:
                    reached = await self.measure(client, f"cycle {cycle + 1}", ended["version"], word)
                    if ended["decision"] == "promoted":
                        self.gains.append(reached - serves)
                        serves = reached
                else:
                    self.rows.append(f"| cycle {cycle + 1} | | | | {word} |")
            champion = str((await http.get(f"/v1/models/{MODEL}/versions")).json()["champion"])
            await self.measure(client, "**serves in the end**", champion)
        await client.close()
        return champion

    async def measure(self, client: DemoClient, title: str, version: str, word: str = "") -> float:
        """Ask a version every prompt of the test file through the endpoint; the share it answers rightly."""

        async def one(text: str) -> str:
            return (await client.ask(f"{MODEL}@{version}", text, None, evaluation=True)).text

        said = await bounded([partial(one, text) for text, _ in self.task.test], _quietly)
        return self.score(f"{title} ({version})", said, word)

    def score(self, title: str, said: Sequence[str], word: str = "") -> float:
        hits = [
            (label in self.task.unknown, given == label)
            for (_, label), given in zip(self.task.test, said, strict=True)
        ]
        means = [fmean(hit for new, hit in hits if kind in (None, new)) for kind in (None, False, True)]
        self.rows.append(f"| {title} | {' | '.join(f'{mean:.3f}' for mean in means)} | {word} |")
        print(self.rows[-1], flush=True)
        return means[0]

    def same_cases(self, scene: Scene, sides: bool) -> list[Row]:
        """Praised or corrected prompts with true labels; with `sides` only those that may teach."""
        share = self.options.evaluation_share
        settings = load(scene.configuration, {})
        database = Database(settings.database_url)
        teaching: dict[str, list[Heard]] = {}
        for one in self.heard:
            if one.teaches:
                teaching.setdefault(prompt_hash(one.text), []).append(one)
        with database.reading() as session:
            found = {key: session.get(PromptGroup, key) for key in teaching}
        database.close()

        def teaches(key: str, said: Sequence[Heard]) -> bool:
            row = found[key]
            users = [user_key(one.user, None, one.inference_id) for one in said]
            return (
                row is not None
                and not row.unused
                and any(row_side(row.group_key, user, share) == "train" for user in users)
            )

        return [
            (said[0].text, said[0].right)
            for key, said in sorted(teaching.items())
            if not sides or teaches(key, said)
        ]

    def oracle(self, title: str, rows: Sequence[Row]) -> float:
        """Train by the same recipe on rows with true labels, and ask the result without a server; its accuracy.

        NaN where the recipe refuses the rows, too few of them for instance.
        """
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from trainer import starter

        name = title.replace(" ", "-")
        scene = self.scene(name, 0.01, "taught.jsonl")  # next to all that it is given teaches
        file = scene.folder / "rows.jsonl"
        write_chats(file, rows)
        scene.command("data", "import", str(file), "--model", MODEL)
        try:
            dataset = scene.command("data", "build", "--model", MODEL)
        except RuntimeError as refused:
            self.rows.append(f"| {title} | | | | {str(refused).strip().splitlines()[-1]} |")
            return math.nan
        started = time.monotonic()
        version = scene.command("train", "--model", MODEL, "--dataset", str(dataset["id"]))
        seconds = time.monotonic() - started
        adapter = scene.folder / "adapter"
        scene.command("models", "export", f"{MODEL}@{version['version']}", "--output", str(adapter))
        base = AutoModelForCausalLM.from_pretrained(self.folder / "base", dtype=torch.bfloat16)
        model = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "base")
        choices = self.task.labels if self.options.constrain else ()
        said = starter.answers(model, tokenizer, [text for text, _ in self.task.test], choices)
        return self.score(title, said, f"{len(rows):,} cases; trained in {seconds:.0f} s")


def run(options: argparse.Namespace, folder: Path) -> list[str]:
    """One data set and seed, as lines of Markdown."""
    task = Task.read(options.data, options.seed)
    bench = Bench(options, task, folder, random.Random(f"{options.data} {options.seed}"))
    bench.divide()
    started = time.monotonic()
    bench.make_base()
    print(f"base made in {time.monotonic() - started:.0f} s", flush=True)
    scene = bench.scene("loop", options.evaluation_share)
    scene.start()
    try:
        asyncio.run(bench.turn(scene))
    finally:
        scene.stop()
    ending = poisoned(bench) if options.liars else compared(bench, scene)
    rated = [one for one in bench.heard if one.rating is not None]
    words = Counter("corrected" if one.corrected else "praised" if one.teaches else "low" for one in rated)
    return [
        f"## {options.data}, seed {options.seed}" + (f", {options.liars:.0%} liars" if options.liars else ""),
        "",
        f"{len(bench.live):,} requests with {len(set(bench.live)):,} prompts in {options.cycles} cycles, {len(task.unknown)} of {len(task.labels)} labels held out "
        f"from a base that learned {len(bench.base_rows):,} of {len(bench.kept_rows):,} examples of the others; {len(rated):,} answers rated, "
        f"{words['corrected']} of them corrected, {words['praised']} praised; test file of {len(task.test):,}. "
        f"`evaluation_share` {options.evaluation_share}, `replay` {options.replay}. {time.monotonic() - started:.0f} s in all.",
        "",
        "| model | accuracy | known labels | held out | |",
        "|---|--:|--:|--:|---|",
        *bench.rows,
        "",
        ending,
        "",
    ]


def compared(bench: Bench, scene: Scene) -> str:
    """The rows of other trainings, and what serves in the end beside them."""
    same, every = bench.same_cases(scene, sides=True), bench.same_cases(scene, sides=False)
    ours = float(bench.rows[-1].split("|")[2])
    reached = [
        (title, ours / bench.oracle(title, rows))
        for title, rows in (
            ("same cases", same),
            ("all cases", every),
            ("all traffic", sorted(set(bench.live))),
        )
    ]
    svm = LinearSvm(*zip(*bench.taught, *same, strict=True))
    bench.score("linear SVM, same cases", svm.predict([text for text, _ in bench.task.test]))
    ratios = ", ".join(f"**{ratio:.3f}** of *{title}*" for title, ratio in reached)
    return f"What serves in the end reaches {ratios}."


def poisoned(bench: Bench) -> str:
    """What the promotions of a poisoned run brought."""
    liars, lies = round(bench.options.liars * USERS), sum(one.lie != "" for one in bench.heard)
    told = f"{liars} of {USERS} users lied: {lies:,} wrong corrections. "
    if not bench.gains:
        return f"{told}Nothing was promoted."
    gains = ", ".join(f"{100 * gain:+.1f}" for gain in bench.gains)
    return f"{told}Promoted versions against the one before, in points on true labels: **{gains}**."


def _quietly(*_: object) -> None:
    """Nobody watches."""


def main() -> None:
    """The command line."""
    parser = command_line()
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.exit(message=f"Not run: {DATA} is not there.\n")
    options.folder.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by which the server is ended too
    lines = run(options, options.folder.absolute())
    text = "\n".join(lines)
    print(text)
    if options.output is not None:
        head = "" if options.output.exists() else f"# The loop on public data\n\nMachine: {machine()}.\n\n"
        with options.output.open("a", encoding="utf-8") as file:
            file.write(f"{head}{text}\n")


if __name__ == "__main__":
    main()
