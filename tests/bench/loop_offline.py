"""`python -m tests.bench.loop_offline`: what of simulated users' words reaches the dataset, and what its errors cost.

The loop in memory, without server and with a stand-in for training: the product's own grouping, sides, weighing of raters,
curation and replay over simulated users, and a linear SVM over TF-IDF instead of a LoRA. It tells in seconds which rows of
a dataset version are wrong and where they came from. What a language model learns from the same rows it does not tell.

The base knows all intents but those held out. In each cycle users send prompts of the training file that nobody sent
before, one each; the newest version answers. One answer in five is rated, one rating in ten says the opposite of what the
answer deserves, one low rating in three comes with the right answer. Then a version is made, and serves whatever it is worth.

Beside the last version stand models fitted on the base's examples and

    its rows       the rows of the last dataset version with true labels: what wrong labels cost
    same cases     all answers of the training side that were praised or corrected, with true labels: what noise, triage,
                   curation and cycling cost together. The product may not train on the evaluation side either
    all traffic    whatever was asked, rated or not, on either side, with true labels

and with `--whole` one that is fitted on the whole training file alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feedback.datasets.chat import Conversation
from feedback.datasets.contract import TaskContract
from feedback.datasets.curation import choose_corrections
from feedback.datasets.groups import KnownPrompts, normalise, prompt_hash
from feedback.datasets.neighbours import heed_neighbours
from feedback.datasets.raters import judge_raters
from feedback.datasets.replay import choose_replay
from feedback.datasets.said import BaseExample, Example, Said, Signal
from feedback.datasets.splits import example_key, row_side, user_key
from feedback.errors import DataRefusedError
from feedback.settings import Dataset
from tests.bench.linear_svm import LinearSvm

DATA = Path(__file__).parents[3] / "shared" / "data"
RATES, NOISE, CORRECTS = 0.2, 0.1, 1 / 3
USERS, BASE_SHARE = 400, 0.25
"""People who ask, and the share of the known intents' training prompts that the base learned from."""

Row = tuple[str, str]
"""Text and label."""
Classify = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class Task:
    """A public data set, and the labels that the base is not to know."""

    train: list[Row]
    test: list[Row]
    labels: list[str]
    unknown: frozenset[str]

    @classmethod
    def read(cls, name: str, seed: int) -> Task:
        if name == "snips":
            train, test = (_json_rows(DATA / "snips" / f"{side}.jsonl") for side in ("train", "validate"))
        else:
            train, test = (_csv_rows(DATA / "banking77" / f"{side}.csv") for side in ("train", "test"))
        labels = sorted({label for _, label in train})
        unknown = random.Random(f"held out {seed}").sample(labels, {"snips": 2, "banking77": 20}[name])
        return cls(train, test, labels, frozenset(unknown))


@dataclass
class Traffic:
    """What users asked and said so far, with the truth that the loop never sees."""

    rng: random.Random
    rules: Dataset
    said: list[Said] = field(default_factory=list)
    truth: dict[str, str] = field(default_factory=dict)

    def talk(self, rows: Sequence[Row], groups: dict[str, str], answers: Sequence[str]) -> None:
        """Every row is asked by somebody; `answers` are what the newest version said."""
        for (text, right), given in zip(rows, answers, strict=True):
            self.truth[text] = right
            number, user = len(self.truth), f"user-{self.rng.randrange(USERS)}"
            opinion = self._opinion(given == right, right)
            if opinion is None:
                continue
            inference_id, group = f"{number:08}", groups[prompt_hash(text)]
            side = row_side(group, user_key(user, None, inference_id), self.rules.evaluation_share)
            signal = Signal(f"f{inference_id}", user, "user", *opinion, float(number))
            messages = [{"role": "user", "content": text}]
            self.said.append(Said(inference_id, messages, given, group, side, (signal,)))

    def _opinion(self, deserved: bool, right: str) -> tuple[int, str | None] | None:
        if self.rng.random() >= RATES:
            return None
        if deserved != (self.rng.random() < NOISE):
            return self.rng.choice((4, 5, 5)), None
        return self.rng.choice((1, 1, 2)), right if self.rng.random() < CORRECTS else None

    def same_cases(self) -> list[Row]:
        """Praised or corrected answers of the training side, with true labels."""
        texts = {
            _text(one)
            for one in self.said
            if one.side == "train" and any((s.rating or 0) >= 4 or s.correction for s in one.signals)
        }
        return [(text, self.truth[text]) for text in sorted(texts)]


def run(
    name: str, seed: int, cycles: int, prompts: int, rules: Dataset, whole: bool, doubting: bool
) -> list[str]:
    """Some cycles on one data set, as lines of Markdown."""
    task, rng = Task.read(name, seed), random.Random(f"{name} {seed}")
    rows = list({prompt_hash(text): (text, label) for text, label in task.train}.values())
    rng.shuffle(rows)
    known = [row for row in rows if row[1] not in task.unknown]
    base_rows = known[: round(BASE_SHARE * min(len(known), prompts))]
    reserved = {text for text, _ in base_rows}
    live = [row for row in rows if row[0] not in reserved][:prompts]
    placing = KnownPrompts(rules)
    placed = placing.place({prompt_hash(text): normalise(text) for text, _ in [*base_rows, *live]})
    groups = {row.prompt_hash: row.group_key for row in placed}
    base = [_base_example(row, groups, rules) for row in base_rows]
    contract = TaskContract(labels=task.labels)

    def scored(title: str, classify: Classify, dataset: str = "") -> str:
        found = classify([text for text, _ in task.test])
        hits = [
            (label in task.unknown, said == label) for (_, label), said in zip(task.test, found, strict=True)
        ]
        means = [
            _mean(hit for new, hit in hits if new is kind or kind is None) for kind in (None, False, True)
        ]
        return f"| {title} | {' | '.join(f'{mean:.3f}' for mean in means)} | {dataset} |"

    classify = _fitted(base_rows)
    lines = [
        f"### {name}, seed {seed}: {len(live):,} prompts in {cycles} cycles, held out {len(task.unknown)} of "
        f"{len(task.labels)}",
        "",
        "| model | accuracy | known intents | held out | rows of each source (of them wrong) |",
        "|---|--:|--:|--:|---|",
        scored("base", classify),
    ]
    traffic, chosen = Traffic(rng, rules), list[Example]()
    for cycle in range(cycles):
        some = live[cycle * len(live) // cycles : (cycle + 1) * len(live) // cycles]
        traffic.talk(some, groups, classify([text for text, _ in some]))
        try:
            chosen = _curated(traffic.said, base, contract, rules)
            if doubting:
                chosen = _undoubted(chosen, base_rows)
        except DataRefusedError as error:
            lines.append(f"| cycle {cycle + 1} | | | | {error} |")
            continue
        classify = _fitted(
            base_rows + [(_text(one), one.answer) for one in chosen],
            [1.0] * len(base_rows) + [one.weight for one in chosen],
        )
        lines.append(scored(f"cycle {cycle + 1}", classify, _told(chosen, traffic.truth)))
    truth = traffic.truth | dict(base_rows)
    own = [(_text(one), truth[_text(one)]) for one in chosen]
    lines += [
        scored("its rows, true labels", _fitted(base_rows + own), f"{len(own)}"),
        scored(
            "same cases, true labels",
            _fitted(base_rows + traffic.same_cases()),
            f"{len(traffic.same_cases())}",
        ),
        scored("all traffic, true labels", _fitted(base_rows + live), f"{len(live)}"),
    ]
    if whole:
        lines.append(scored("whole file", _fitted(task.train), f"{len(task.train)}"))
    lines.append("")
    corrections = [one for one in traffic.said if any(signal.correction for signal in one.signals)]
    sides = Counter(one.side or "neither" for one in corrections)
    return [
        *lines,
        f"{len(traffic.said)} answers were rated, {len(corrections)} corrected; of the corrections "
        + ", ".join(f"{count} on the side {side}" for side, count in sorted(sides.items()))
        + ".",
        "",
    ]


def _curated(
    said: Sequence[Said], base: Sequence[BaseExample], contract: TaskContract, rules: Dataset
) -> list[Example]:
    trust = heed_neighbours(judge_raters(said, base, contract, rules.low_reliability), said, base, contract)
    corrections = choose_corrections(said, (), (), contract, rules, (), trust).examples
    return corrections + choose_replay(said, base, corrections, (), contract, rules, (), trust)


def _undoubted(chosen: Sequence[Example], base_rows: Sequence[Row]) -> list[Example]:
    """Without replayed answers that a model of base examples and corrections alone would not give.

    No guard of the product: it shows what one that looks at like prompts could bring."""
    written = [(_text(one), one.answer) for one in chosen if one.source != "replay"]
    expected = _fitted([*base_rows, *written])([_text(one) for one in chosen])
    return [
        one
        for one, label in zip(chosen, expected, strict=True)
        if one.source != "replay" or one.answer == label
    ]


def _told(chosen: Sequence[Example], truth: dict[str, str]) -> str:
    """How many rows of each source, and how many of them are wrong. Base examples are right."""
    all_rows = Counter(one.source for one in chosen)
    wrong = Counter(one.source for one in chosen if one.answer != truth.get(_text(one), one.answer))
    return ", ".join(f"{source} {count} ({wrong[source]})" for source, count in sorted(all_rows.items()))


def _fitted(rows: Sequence[Row], weights: Sequence[float] | None = None) -> Classify:
    return LinearSvm([text for text, _ in rows], [label for _, label in rows], weights).predict


def _base_example(row: Row, groups: dict[str, str], rules: Dataset) -> BaseExample:
    conversation = Conversation([{"role": "user", "content": row[0]}], row[1])
    group = groups[prompt_hash(row[0])]
    side = row_side(group, example_key(conversation.content_hash), rules.evaluation_share)
    return BaseExample(conversation, group, side)


def _text(one: Said | Example) -> str:
    return str(one.messages[-1]["content"])


def _mean(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / max(1, len(found))


def _json_rows(path: Path) -> list[Row]:
    return [(one["text"], one["intent"]) for one in map(json.loads, path.open(encoding="utf-8"))]


def _csv_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(one["text"], one["category"]) for one in csv.DictReader(file)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.loop_offline")
    parser.add_argument("--data", choices=("snips", "banking77"), default="snips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=6000, help="how many prompts users send in all")
    parser.add_argument("--evaluation-share", type=float, default=0.1)
    parser.add_argument("--replay", type=float, default=4.0)
    parser.add_argument("--whole", action="store_true", help="fit the whole training file as well")
    parser.add_argument(
        "--doubting", action="store_true", help="leave praise out that corrections speak against"
    )
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.exit(message=f"Not run: {DATA} is not there.\n")
    rules = Dataset(evaluation_share=options.evaluation_share, replay=options.replay)
    print(
        "\n".join(
            run(
                options.data,
                options.seed,
                options.cycles,
                options.prompts,
                rules,
                options.whole,
                options.doubting,
            )
        )
    )


if __name__ == "__main__":
    main()
