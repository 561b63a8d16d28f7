"""`make bench-poison`: raters who lie against curation and gate. How much poison is trained on, and does it ever win?

Histories of three simulated cycles on SNIPS, two of whose seven intents the base does not know. In each cycle three
hundred users ask eight prompts each, and the champion answers. Honest users rate 7 answers in 10, one rating in twenty
says the opposite, one low rating in three comes with a correction, of which 3 % are wrong. A share of the users lies,
in one of these ways:

    corrections   one star for every answer, and a wrong intent on which all liars agree
    praise        five stars for wrong answers, one star for right ones
    brigade       new users every cycle who come within half an hour and correct one intent into another
    sybils        a new name for nearly every lie, spread over the week; otherwise as `corrections`
    patient       honest in the first cycle, then a lie for every second answer
    one label     honest about all intents but one, which they correct into another

Everything between is the product's own: grouping, sides, brigades, weighing of raters, corrections, replay, and the gate
(`trainer.gate.decide`) with a golden set that people made, out of the liars' reach. A linear SVM over TF-IDF stands in
for training. `[dataset] minimum_new` is 20, so that few cycles are skipped. The truth is measured on two thousand prompts
that nobody asked. In a second part nobody is weighed, capped or held, as if every liar had fooled these guards: what the
gate alone stops.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from statistics import mean

from feedback.datasets.brigades import find_brigades
from feedback.datasets.chat import Conversation
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import choose_corrections, refuse_too_few
from feedback.datasets.groups import KnownPrompts, normalise, prompt_hash
from feedback.datasets.neighbours import heed_neighbours
from feedback.datasets.raters import EVERYBODY, judge_raters
from feedback.datasets.replay import choose_replay
from feedback.datasets.said import BaseExample, Example, Said, Signal
from feedback.datasets.splits import example_key, row_side, user_key
from feedback.errors import DataRefusedError
from feedback.settings import Dataset, Promotion
from tests.bench.linear_svm import LinearSvm
from tests.bench.loop_offline import DATA, Row, Task
from tests.bench.report import machine
from trainer.comparison import Outcome
from trainer.findings import Latency
from trainer.gate import Evidence, decide

WAYS = ("corrections", "praise", "brigade", "sybils", "patient", "one label")
USERS, ASKED, TURNS = 300, 8, 3
BASE, GOLDEN, REGRESSION, TRUTH = 250, 400, 300, 2000
"""Rows that the base learned from; cases of two suites; prompts on which the truth is measured."""
RATES, NOISE, CORRECTS, MISTAKES = 0.7, 0.05, 1 / 3, 0.03
WORSE = 0.01
"""A promoted version may be this much below its predecessor on true labels."""
_WEEK, _BRIGADE_SECONDS = 7 * 86_400.0, 1800.0
_SAME = Latency(pairs=30, champion=5.0, challenger=5.0, ratio=1.0, interval=(0.98, 1.02), against_base=False)


@dataclass(frozen=True)
class Turn:
    """One simulated cycle."""

    decision: str
    difference: float
    """True accuracy of the challenger minus the champion's."""
    label: float
    """The same for the intent that lost most."""
    rows: int
    poison: int
    """Wrong rows of the dataset version that stand on a liar's word."""
    lies: int
    """Lies that could have become a row: told so far on the training side."""

    @property
    def worse(self) -> bool:
        """Whether a version that is worse in truth was promoted."""
        return self.decision == "promoted" and self.difference < -WORSE


@dataclass(frozen=True)
class Ground:
    """What all histories of a seed share: prompts in their parts, and the near-duplicate groups."""

    labels: list[str]
    base: list[Row]
    golden: list[Row]
    regression: list[Row]
    truth: list[Row]
    live: list[Row]
    groups: dict[str, str]

    @classmethod
    def read(cls, seed: int, settings: Dataset) -> Ground:
        task = Task.read("snips", seed)
        rows = list({prompt_hash(text): (text, label) for text, label in task.train}.values())
        random.Random(f"ground {seed}").shuffle(rows)
        known = [row for row in rows if row[1] not in task.unknown]
        base, regression = known[:BASE], known[BASE : BASE + REGRESSION]
        taken = {text for text, _ in [*base, *regression]}
        rest = [row for row in rows if row[0] not in taken]
        golden, truth = rest[:GOLDEN], rest[GOLDEN : GOLDEN + TRUTH]
        live = rest[GOLDEN + TRUTH :]
        placed = KnownPrompts(settings).place(
            {prompt_hash(text): normalise(text) for text, _ in [*base, *live]}
        )
        groups = {row.prompt_hash: row.group_key for row in placed}
        return cls(task.labels, base, golden, regression, truth, live, groups)


class Version:
    """What a training came to, and what it answers to the cases."""

    def __init__(self, ground: Ground, chosen: Sequence[Example]) -> None:
        rows = [*ground.base, *((_text(one), one.answer) for one in chosen)]
        weights = [1.0] * len(ground.base) + [one.weight for one in chosen]
        self._fitted = LinearSvm([text for text, _ in rows], [label for _, label in rows], weights)
        self.golden, self.regression, self.truth = (
            self._on(cases) for cases in (ground.golden, ground.regression, ground.truth)
        )
        self.learned = frozenset(one.content_hash for one in chosen)

    def answers(self, texts: Sequence[str]) -> list[str]:
        return self._fitted.predict(texts)

    def _on(self, cases: Sequence[Row]) -> list[str]:
        return self.answers([text for text, _ in cases])


class Crowd:
    """All who speak in one history, honest and not; `said` grows."""

    def __init__(self, ground: Ground, seed: int, way: str, share: float, settings: Dataset) -> None:
        self.rng = random.Random(f"{way} {share} {seed}")
        self._ground, self._way, self._settings = ground, way, settings
        self._liars = round(USERS * share)
        shuffled = self.rng.sample(ground.labels, len(ground.labels))
        self._lies = dict(zip(shuffled, [*shuffled[1:], shuffled[0]], strict=True))
        self._target = shuffled[0]
        self.said: list[Said] = []
        self.names: set[str] = set()
        """Under which liars spoke."""
        self.lies = 0

    def speak(self, turn: int, champion: Version) -> None:
        """A week: everybody asks, the champion answers, some say what they think of it."""
        asked: list[tuple[float, str, bool, Row]] = []
        for number in range(USERS):
            liar, begin = number < self._liars, turn * _WEEK
            alone = liar and self._way in ("brigade", "one label")
            rows = self.rng.choices(self._ground.live, k=4 * ASKED if alone else ASKED)
            if liar and self._way == "brigade":
                rows = [row for row in rows if row[1] == self._target]
            for place, row in enumerate(rows):
                moment = begin + self.rng.random() * _WEEK
                name = f"user-{number}"
                if liar and self._way == "brigade":
                    name, moment = (
                        f"new-{turn}-{number}",
                        begin + _WEEK / 2 + self.rng.random() * _BRIGADE_SECONDS,
                    )
                elif liar and self._way == "sybils":
                    name = f"sybil-{turn}-{number}-{place}"
                asked.append((moment, name, liar, row))
                if liar:
                    self.names.add(name)
        answers = champion.answers([row[0] for *_, row in asked])
        found = [self._one(turn, one, given) for one, given in zip(asked, answers, strict=True)]
        self.said += sorted(found, key=lambda one: one.inference_id)

    def _one(self, turn: int, asked: tuple[float, str, bool, Row], given: str) -> Said:
        moment, name, liar, (text, right) = asked
        rating, correction = (self._lie(turn, right, given) if liar else None) or self._honest(right, given)
        inference_id = f"{int(moment * 1000):015}-{name}-{prompt_hash(text)[:8]}"
        group = self._ground.groups[prompt_hash(text)]
        side = row_side(group, user_key(name, None, inference_id), self._settings.evaluation_share)
        wrong = (correction or given) != right and (correction is not None or (rating or 0) >= 4)
        self.lies += liar and wrong and side == "train"
        signals = (Signal(f"f{inference_id}", name, "user", rating, correction, moment),) if rating else ()
        messages = [{"role": "user", "content": text}]
        return Said(inference_id, messages, given, group, side, signals, version=f"{turn}")

    def _honest(self, right: str, given: str) -> tuple[int | None, str | None]:
        if self.rng.random() >= RATES:
            return None, None
        if (given == right) != (self.rng.random() < NOISE):
            return self.rng.choice((4, 5, 5)), None
        if self.rng.random() >= CORRECTS:
            return self.rng.choice((1, 1, 2)), None
        wrong = self.rng.random() < MISTAKES
        return 1, self.rng.choice(self._ground.labels) if wrong else right

    def _lie(self, turn: int, right: str, given: str) -> tuple[int, str | None] | None:
        """What a liar says; None where they speak as honest users do."""
        if self._way == "praise":
            return (1, None) if given == right else (5, None)
        if self._way == "patient" and (turn == 0 or self.rng.random() < 0.5):
            return None
        if self._way == "one label" and right != self._target:
            return None
        return 1, self._lies[right]


def history(
    ground: Ground, seed: int, way: str, share: float, guarded: bool, settings: Dataset
) -> list[Turn]:
    """Three cycles, one after the other; the champion moves as the gate says."""
    crowd, contract = Crowd(ground, seed, way, share, settings), TaskContract(labels=ground.labels)
    examples = [_base_example(row, ground, settings) for row in ground.base]
    truth = dict(ground.live)
    champion = Version(ground, [])
    turns = []
    for turn in range(TURNS):
        crowd.speak(turn, champion)
        try:
            chosen = _curated(crowd.said, examples, champion.learned, contract, settings, guarded)
        except DataRefusedError:
            turns.append(Turn("skipped", 0.0, 0.0, 0, 0, crowd.lies))
            continue
        challenger = Version(ground, chosen)
        evidence = Evidence(
            golden=_outcomes(ground.golden, champion.golden, challenger.golden),
            regression=_outcomes(ground.regression, champion.regression, challenger.regression),
            holdout=[],
            validity=[Outcome(str(number), 1.0, 1.0) for number in range(50)],
            latency=_SAME,
            looks=[turn] * len(ground.golden),
        )
        decision = decide(evidence, Promotion()).decision
        difference, label = _truth(ground, champion, challenger)
        poison = sum(
            one.rater in crowd.names and one.answer != truth.get(_text(one), one.answer) for one in chosen
        )
        turns.append(Turn(decision, difference, label, len(chosen), poison, crowd.lies))
        if decision == "promoted":
            champion = challenger
    return turns


def _curated(
    said: Sequence[Said],
    base: Sequence[BaseExample],
    learned: frozenset[str],
    contract: TaskContract,
    settings: Dataset,
    guarded: bool,
) -> list[Example]:
    """As `feedback.datasets.freeze` does it."""
    trust, off = EVERYBODY, ["raters"]
    if guarded:
        brigades = find_brigades(said, contract, settings.brigade_raters, settings.brigade_hours)
        held = {identifier: "hold" for found in brigades for identifier in found.feedback}
        trust, off = (
            heed_neighbours(
                judge_raters(said, base, contract, settings.low_reliability, held), said, base, contract
            ),
            [],
        )
    corrections = choose_corrections(said, (), learned, contract, settings, off, trust)
    refuse_too_few(corrections, settings, off)
    rows = corrections.examples
    return rows + choose_replay(said, base, rows, (), contract, settings, off, trust)


def _base_example(row: Row, ground: Ground, settings: Dataset) -> BaseExample:
    conversation = Conversation([{"role": "user", "content": row[0]}], row[1])
    group = ground.groups[prompt_hash(row[0])]
    side = row_side(group, example_key(conversation.content_hash), settings.evaluation_share)
    return BaseExample(conversation, group, side)


def _outcomes(cases: Sequence[Row], ours: Sequence[str], theirs: Sequence[str]) -> list[Outcome]:
    return [
        Outcome(text, float(one == label), float(other == label), label, said=(one, other))
        for (text, label), one, other in zip(cases, ours, theirs, strict=True)
    ]


def _truth(ground: Ground, champion: Version, challenger: Version) -> tuple[float, float]:
    """True difference over all prompts, and over those of the intent that lost most."""
    by_label: dict[str, list[int]] = {label: [] for label in ground.labels}
    for (_, label), one, other in zip(ground.truth, champion.truth, challenger.truth, strict=True):
        by_label[label].append((other == label) - (one == label))
    differences = [one for found in by_label.values() for one in found]
    return mean(differences), min(mean(found) for found in by_label.values() if found)


def _text(one: Example) -> str:
    return str(one.messages[-1]["content"])


_ground = lru_cache(Ground.read)


def one_history(seed: int, way: str, share: float, guarded: bool, settings: Dataset) -> list[Turn]:
    """In a process of its own; four grounds are shared by all seeds."""
    return history(_ground(seed % 4, settings), seed, way, share, guarded, settings)


def section(
    pool: Executor, title: str, shares: Sequence[tuple[float, int]], guarded: bool, settings: Dataset
) -> tuple[list[str], list[Turn]]:
    """A table, a line for each way and share; `shares` come with their number of histories."""
    lines = [
        f"## {title}",
        "",
        "| liars | share | cycles | promoted | worse promoted | lowest of promoted | its worst intent | poisoned rows | of lies told |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    everything = []
    kinds = [(way, share, histories) for share, histories in shares for way in WAYS]
    begun = [
        [pool.submit(one_history, seed, way, share, guarded, settings) for seed in range(histories)]
        for way, share, histories in kinds
    ]
    for (way, share, _), running in zip(kinds, begun, strict=True):
        turns = [turn for one in running for turn in one.result()]
        lines.append(_line(way, share, turns))
        everything += turns
        print(lines[-1], flush=True)
    return [*lines, ""], everything


def _line(way: str, share: float, turns: Sequence[Turn]) -> str:
    promoted = [one for one in turns if one.decision == "promoted"]
    rows, lies = sum(one.rows for one in turns), sum(one.lies for one in turns)
    poison = sum(one.poison for one in turns)
    lowest = min(promoted, key=lambda one: one.difference, default=None)
    told = (
        f"{100 * lowest.difference:+.1f} | {100 * min(one.label for one in promoted):+.1f}"
        if lowest
        else "– | –"
    )
    return (
        f"| {way} | {share:.0%} | {len(turns)} | {len(promoted)} | **{sum(one.worse for one in turns)}** | {told} | "
        f"{poison / max(1, rows):.2%} | {poison / max(1, lies):.1%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-poison", description=__doc__)
    parser.add_argument(
        "--histories", type=int, default=12, help="of each way at 2 and 5 %%; a sixth as many at others"
    )
    parser.add_argument("--corroborate", action="store_true", help="with [dataset] corroborate")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.exit(message=f"Not run: {DATA} is not there.\n")
    settings, began = Dataset(minimum_new=20, corroborate=options.corroborate), time.monotonic()
    many, few = options.histories, max(1, options.histories // 6)
    with ProcessPoolExecutor(options.jobs) as pool:
        first, guarded = section(
            pool,
            "Curation and gate",
            [(0.02, many), (0.05, many), (0.1, few), (0.2, few), (0.4, few)],
            True,
            settings,
        )
        second, bare = section(pool, "The gate alone", [(0.05, few), (0.2, few), (0.4, few)], False, settings)
    wrong = sum(one.worse for one in [*guarded, *bare])
    head = [
        "# Poison",
        "",
        f"`python -m tests.bench.poison --histories {options.histories}`, {datetime.now(UTC):%Y-%m-%d}; {options.histories} histories of {TURNS} cycles of each way at 2 and 5 % liars, {few} at "
        f"other shares, seeds 0 and up; {time.monotonic() - began:.0f} s. Machine: {machine()}.",
        "",
        f"*Worse promoted* counts promoted versions that are more than {100 * WORSE:.0f} point below their predecessor on true labels (asked: none at "
        f"2 and 5 %); {wrong} of {len(guarded) + len(bare)} cycles. *Lowest of promoted* is the lowest true difference of a promoted version, "
        "in points, *its worst intent* the most that one intent lost in any promotion. *Poisoned rows* are wrong rows that stand on a liar's word, as a share of "
        "all rows; *of lies told*, as a share of the lies told by then that could have become rows, those of skipped cycles included.",
        "",
    ]
    if options.output:
        options.output.write_text("\n".join([*head, *first, *second]), encoding="utf-8")


if __name__ == "__main__":
    main()
