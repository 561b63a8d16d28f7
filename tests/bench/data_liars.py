"""`python -m tests.bench.data_liars`: raters who lie, on SNIPS. How many of their lies reach a dataset version?

A thousand users ask prompts of SNIPS' training file, each a dozen or so, at random times of two weeks; a prompt is asked
three times on average, or once, for there are products in which nobody asks the same. The model knows five of the seven
intents. Honest users are those of `starloop demo`: 7 answers in 10 are rated, 5 % of ratings say the opposite, one low
rating in three comes with a correction, 3 % of corrections are wrong. One user in twenty lies, in one of these ways:

    random        one star for every answer, and a wrong intent drawn anew
    agreed        the same with a wrong intent on which all liars agree, for each right one
    quiet         as `agreed`, but they speak as rarely as honest users do
    camouflaged   as `agreed` for one answer in two, honest about the others
    brigade       new users who all come within half an hour, with one wrong intent for one right one

Counted are all rows of the dataset version, replay and all, whose answer is wrong; the guards also have to pay for honest
mistakes. Without guards nobody is weighed, capped or held; the vote of the majority in a group stays.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.datasets.brigades import find_brigades
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import choose_corrections
from feedback.datasets.groups import KnownPrompts, normalise, prompt_hash
from feedback.datasets.neighbours import heed_neighbours
from feedback.datasets.raters import EVERYBODY, Trust, judge_raters
from feedback.datasets.replay import choose_replay
from feedback.datasets.said import Example, Said, Signal
from feedback.datasets.splits import row_side, user_key
from feedback.settings import Dataset

SNIPS = Path(__file__).parents[3] / "shared" / "data" / "snips" / "train.jsonl"
USERS, LIARS, ASKED = 1000, 0.05, 12
RATES, NOISE, CORRECTS, MISTAKES, KNOWN = 0.7, 0.05, 1 / 3, 0.03, 0.97
DAY = 86_400.0
WAYS = ("random", "agreed", "quiet", "camouflaged", "brigade")
ALLOWED = 0.2


@dataclass(frozen=True)
class Snips:
    """Prompts with their intents and near-duplicate groups."""

    rows: list[tuple[str, str]]
    groups: dict[str, str]
    intents: list[str]

    @classmethod
    def read(cls, path: Path, settings: Dataset) -> Snips:
        rows = [(one["text"], one["intent"]) for one in map(json.loads, path.open(encoding="utf-8"))]
        known = KnownPrompts(settings)
        placed = known.place({prompt_hash(text): normalise(text) for text, _ in rows})
        groups = {row.prompt_hash: row.group_key for row in placed}
        return cls(rows, groups, sorted({intent for _, intent in rows}))


class World:
    """One simulated fortnight."""

    def __init__(self, snips: Snips, seed: int, way: str, repeats: float) -> None:
        self.snips, self.way, self.rng = snips, way, random.Random(f"{seed} {way} {repeats}")
        self.unknown = set(self.rng.sample(snips.intents, 2))
        shuffled = self.rng.sample(snips.intents, len(snips.intents))
        self.lies = dict(zip(shuffled, [*shuffled[1:], shuffled[0]], strict=True))
        pool = min(len(snips.rows), int(USERS * ASKED / repeats))
        self.pool = self.rng.sample(snips.rows, pool)
        self.target = next(intent for intent in shuffled if intent not in self.unknown)
        self.truth: dict[str, str] = {}
        self.numbers = iter(range(10**9))

    def said(self, settings: Dataset) -> list[Said]:
        """All that was said, oldest first."""
        found = []
        for user in range(USERS):
            liar = user < USERS * LIARS
            begin = self.rng.random() * 7 * DAY
            for _ in range(max(1, round(self.rng.expovariate(1 / ASKED)))):
                moment = begin + self.rng.random() * 7 * DAY
                if liar and self.way == "brigade":
                    moment = 10 * DAY + self.rng.random() * 1800
                found.append((moment, self._one(f"user-{user}", liar, moment, settings)))
        return [one for _, one in sorted(found, key=lambda pair: pair[0])]

    def _one(self, user: str, liar: bool, moment: float, settings: Dataset) -> Said:
        text, right = self.rng.choice(self.pool)
        while liar and self.way == "brigade" and right != self.target:
            text, right = self.rng.choice(self.pool)
        known = right not in self.unknown and self.rng.random() < KNOWN
        given = right if known else self.rng.choice([one for one in self.snips.intents if one != right])
        rating, correction = (self._lie if liar else self._honest)(right, given)
        number = next(self.numbers)
        inference_id = f"{int(moment * 1000):012}-{number}"
        group = self.snips.groups[prompt_hash(text)]
        self.truth[text] = right
        signals = (Signal(f"f{inference_id}", user, "user", rating, correction, moment),) if rating else ()
        return Said(
            inference_id=inference_id,
            messages=[{"role": "user", "content": text}],
            output=_answer(given),
            group_key=group,
            side=row_side(group, user_key(user, None, inference_id), settings.evaluation_share),
            signals=signals,
            version="base",
        )

    def _honest(self, right: str, given: str) -> tuple[int | None, str | None]:
        if self.rng.random() >= RATES:
            return None, None
        if (given == right) != (self.rng.random() < NOISE):
            return self.rng.choice((4, 5, 5)), None
        rating = self.rng.choice((1, 1, 2))
        if self.rng.random() >= CORRECTS:
            return rating, None
        wrong = self.rng.random() < MISTAKES
        return rating, _answer(self.rng.choice(self.snips.intents) if wrong else right)

    def _lie(self, right: str, given: str) -> tuple[int | None, str | None]:
        if self.way == "camouflaged" and self.rng.random() < 0.5:
            return self._honest(right, given)
        if self.way == "quiet":
            if self.rng.random() >= RATES:
                return None, None
            if self.rng.random() >= CORRECTS:
                return 1, None
        wrong = self.lies[right]
        if self.way == "random":
            wrong = self.rng.choice([one for one in self.snips.intents if one != right])
        return 1, _answer(wrong)


def measure(snips: Snips, seed: int, way: str, repeats: float, settings: Dataset) -> dict[str, Any]:
    """Shares of wrong rows, with guards and without."""
    world = World(snips, seed, way, repeats)
    said = world.said(settings)
    contract = TaskContract(
        {"type": "object", "properties": {"intent": {"enum": snips.intents}}, "required": ["intent"]}
    )
    started = time.process_time()
    brigades = find_brigades(said, contract, settings.brigade_raters, settings.brigade_hours)
    held = {identifier: "hold" for found in brigades for identifier in found.feedback}
    trust = heed_neighbours(
        judge_raters(said, (), contract, settings.low_reliability, held), said, (), contract
    )
    guarded = _rows(said, contract, settings, trust, ("replay",))
    seconds = time.process_time() - started
    bare = _rows(said, contract, settings, EVERYBODY, ("replay", "raters"))
    liars = {f"user-{number}" for number in range(int(USERS * LIARS))}
    honest_low = [f for f in trust.figures.values() if f.low and f.rater not in liars]
    return {
        "with": _wrong(guarded, world.truth),
        "without": _wrong(bare, world.truth),
        "rows": len(guarded),
        "rows_without": len(bare),
        "new": sum(row.new for row in guarded),
        "lies_with": sum(row.rater in liars and _is_wrong(row, world.truth) for row in guarded),
        "lies_without": sum(row.rater in liars and _is_wrong(row, world.truth) for row in bare),
        "liars_low": sum(f.low for f in trust.figures.values() if f.rater in liars) / len(liars),
        "honest_low": len(honest_low) / (USERS - len(liars)),
        "brigades": len(brigades),
        "seconds": seconds,
    }


def _rows(
    said: Sequence[Said], contract: TaskContract, settings: Dataset, trust: Trust, off: Sequence[str]
) -> list[Example]:
    chosen = choose_corrections(said, (), (), contract, settings, off, trust)
    return chosen.examples + choose_replay(said, (), chosen.examples, (), contract, settings, off, trust)


def _is_wrong(row: Example, truth: dict[str, str]) -> bool:
    return bool(row.answer != _answer(truth[row.messages[-1]["content"]]))


def _wrong(rows: Sequence[Example], truth: dict[str, str]) -> float:
    return sum(_is_wrong(row, truth) for row in rows) / max(1, len(rows))


def _answer(intent: str) -> str:
    return json.dumps({"intent": intent})


def run(seeds: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """A line for each way to lie and number of repeats: medians over seeds, and the worst ratio."""
    settings = Dataset()
    snips = Snips.read(SNIPS, settings)
    lines = []
    for repeats in (3.0, 1.0):
        for way in WAYS:
            found = [measure(snips, seed, way, repeats, settings) for seed in range(seeds)]
            ratios = [one["with"] / one["without"] for one in found]
            line = {"way": way, "repeats": repeats, "seeds": seeds}
            line |= {key: round(statistics.median(one[key] for one in found), 4) for key in found[0]}
            lies = statistics.mean(one["lies_with"] / max(1, one["lies_without"]) for one in found)
            line |= {
                "lies_ratio": round(lies, 3),
                "ratio": round(statistics.median(ratios), 3),
                "worst": round(max(ratios), 3),
            }
            lines.append(line)
            tell(
                f"{way:12} asked {repeats:g}x: {line['without']:6.1%} wrong without guards, {line['with']:5.1%} with "
                f"(ratio {line['ratio']:.2f}, worst {line['worst']:.2f}); lies {line['lies_without']:g} → {line['lies_with']:g} "
                f"({line['lies_ratio']:.2f}); "
                f"liars found {line['liars_low']:.0%}, honest suspected {line['honest_low']:.1%}; {line['rows']:g} rows "
                f"({line['rows_without']:g} without), {line['seconds']:.1f} s"
            )
    return lines


def section(seeds: int) -> list[str]:
    """Lines of `make bench-data`."""
    title = ["## Raters who lie", ""]
    if not SNIPS.is_file():
        return [*title, f"Not run: {SNIPS} is not there.", ""]
    lines = [
        *title,
        f"SNIPS, {USERS:,} users of whom {LIARS:.0%} lie; medians of {seeds} seeds. *Wrong* is the share of all rows of the dataset "
        "version, honest mistakes and replay included; *lies* how many of the liars' wrong rows got through, as a share of those "
        "without the guards.",
        "",
        "| liars | a prompt is asked | wrong without guards | with | ratio | worst | lies that got through |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for line in run(max(seeds, 1), lambda text: print(text, flush=True)):
        lines.append(
            f"| {line['way']} | {line['repeats']:g} times | {line['without']:.1%} | {line['with']:.1%} | {line['ratio']:.2f} | "
            f"{line['worst']:.2f} | {line['lies_ratio']:.2f} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.data_liars", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    options = parser.parse_args()
    lines = run(options.seeds, print)
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1), encoding="utf-8")
    for what, key in (("wrong rows of all", "ratio"), ("lies that got through", "lies_ratio")):
        kept = [f"{line['way']} {line['repeats']:g}x" for line in lines if line[key] <= ALLOWED]
        print(f"{what}: at most {ALLOWED:g} of what it is without guards for {', '.join(kept)}")


if __name__ == "__main__":
    main()
