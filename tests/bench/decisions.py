"""`make bench-decisions`: how often gate, canary and guardrails decide wrongly, and how much they need to decide rightly.

Everything runs through the functions that cycles run through (`trainer.gate.decide`, `trainer.canary.look`,
`trainer.guardrails.guard`); cases, users and answers are drawn, seeded. Every simulated cycle is new.

Cases: each passes with its own chance under either version, so that equal versions still differ on some. Users: a user's
taste is normal around the version's mean (sd 0.8), each rating normal around that (sd 0.9), rounded to 1 to 5 stars; `light`
users rate once to three times, `heavy` ones after a power law, up to 300 times. The canary is looked at after every
twenty ratings, as long as it is open.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
from scipy.special import stdtr

from feedback.settings import Canary, Promotion
from tests.bench.report import machine
from trainer.canary import Arm, Look, look
from trainer.comparison import Outcome
from trainer.findings import Latency
from trainer.gate import Evidence, decide, settle
from trainer.guardrails import WINDOW, Tally, Watched, due_look, guard

CYCLES = 400
GOLDEN, REGRESSION = 626, 872
"""Cases at which five points at 20 % discordance, and three points of loss at 10 %, are told with 80 % power."""
_SAME = Latency(pairs=100, champion=5.0, challenger=5.0, ratio=1.0, interval=(0.98, 1.02), against_base=False)
_EVERY = 20


def gate_section(cycles: int) -> list[str]:
    """What the gate says about challengers whose truth is known."""
    kinds: list[tuple[str, float, float, float, float, str]] = [
        # name, golden: gained, lost; regression suite: gained, lost; asked
        ("equal in truth, few cases differ", 0.03, 0.03, 0.01, 0.01, "≤ 5 %"),
        ("equal in truth, one case in five differs", 0.10, 0.10, 0.05, 0.05, "≤ 5 %"),
        ("fixes failures, breaks as much good", 0.10, 0.10, 0.0, 0.10, "≤ 5 %"),
        ("five points worse", 0.05, 0.10, 0.01, 0.06, "≤ 5 %"),
        ("five points better", 0.125, 0.075, 0.01, 0.01, ""),
        ("ten points better", 0.15, 0.05, 0.01, 0.01, "≥ 80 %"),
    ]
    lines = [
        "## The gate",
        "",
        f"{cycles} cycles of each kind; {GOLDEN} golden cases, {REGRESSION} in the regression suite, all answers in form, as quick. The "
        "cases are evenly of so many kinds of answer (labels), over which what is gained and lost is spread; where one is hurt, the "
        "others are as before; a wrong answer is any other label. *For a kind*: of the cycles, those that the guard for each kind of answer kept from what all else says.",
        "",
        "| challenger | labels | promoted | inconclusive | rejected | for a kind | promoted, asked |",
        "|---|---|---|---|---|---|---|",
    ]
    for labels in (7, 77):
        for name, gained, lost, kept_gained, kept_lost, asked in kinds:
            shares = _judged(name, cycles, labels, (gained, lost), (kept_gained, kept_lost), None)
            lines.append(_row(name, labels, shares, asked))
    for loss in (0.05, 0.10, 0.20):
        name = f"ten points better, one label {100 * loss:.0f} points worse"
        shares = _judged(name, cycles, 7, (0.15, 0.05), (0.01, 0.01), (0.01, 0.01 + loss))
        lines.append(_row(name, 7, shares, ""))
    return [*lines, ""]


def _row(name: str, labels: int, shares: Sequence[str], asked: str) -> str:
    return f"| {name} | {labels} | **{shares[0]}** | {' | '.join(shares[1:])} | {asked} |"


def _judged(
    name: str,
    cycles: int,
    labels: int,
    golden: tuple[float, float],
    regression: tuple[float, float],
    hurt: tuple[float, float] | None,
) -> list[str]:
    """Shares of cycles promoted, inconclusive, rejected, and kept from that by the guard for each kind of answer.

    Pairs are what is gained and lost, `hurt` that of one label in both suites.
    """
    said, kept = [], 0
    for seed in range(cycles):
        decision = decide(
            Evidence(
                golden=_cases(random.Random(f"{name} {seed}"), GOLDEN, golden, labels, hurt),
                regression=_cases(random.Random(f"{name} kept {seed}"), REGRESSION, regression, labels, hurt),
                holdout=[],
                validity=[Outcome(str(n), 1.0, 1.0) for n in range(50)],
                latency=_SAME,
            ),
            Promotion(),
        )
        said.append(decision.decision)
        others = [finding for finding in decision.findings if finding.about != "kinds of answer"]
        kept += settle(others) != decision.decision
    counts = [*(said.count(one) for one in ("promoted", "inconclusive", "rejected")), kept]
    return [f"{count / cycles:.1%}" for count in counts]


def _cases(
    draw: random.Random,
    cases: int,
    changed: tuple[float, float],
    labels: int,
    hurt: tuple[float, float] | None,
) -> list[Outcome]:
    made = []
    for number in range(cases):
        label = number % labels
        gained, lost = hurt if hurt is not None and label == 0 else changed
        both = (1 - gained - lost) * 0.8
        place = draw.random()
        champion = place < lost or place >= 1 - both
        challenger = lost <= place < lost + gained or place >= 1 - both
        wrong = [(label + 1 + int(draw.random() * (labels - 1))) % labels for _ in range(2)]
        said = [label if right else other for right, other in zip((champion, challenger), wrong, strict=True)]
        names = (f"label {said[0]}", f"label {said[1]}")
        made.append(Outcome(str(number), float(champion), float(challenger), f"label {label}", said=names))
    return made


class Crowd:
    """Users of both arms, rating as they come; numbers of one simulated canary."""

    def __init__(self, seed: int, users: int, share: float, means: tuple[float, float], heavy: bool) -> None:
        """`means` are the true stars of challenger and champion."""
        draw = np.random.default_rng(seed)
        self.mine = draw.random(users) < share
        counts = (
            np.minimum(300, np.ceil(draw.pareto(0.9, users) + 0.5)) if heavy else draw.integers(1, 4, users)
        ).astype(int)
        taste = draw.normal(0, 0.8, users) + np.where(self.mine, *means)
        who = np.repeat(np.arange(users), counts)
        draw.shuffle(who)
        self.who = who
        self.stars = np.clip(np.rint(taste[who] + draw.normal(0, 0.9, len(who))), 1, 5)
        self._count, self._sum, self._square = np.zeros(users), np.zeros(users), np.zeros(users)

    def looks(self, every: int) -> Sequence[int]:
        """After how many ratings it is looked at; sparser where there are many."""
        points, at = [], every
        while at <= len(self.who):
            points.append(at)
            at += max(every, at // 50)
        return points

    def rate(self, start: int, end: int) -> None:
        """Let the ratings from `start` to `end` come in."""
        np.add.at(self._count, self.who[start:end], 1)
        np.add.at(self._sum, self.who[start:end], self.stars[start:end])
        np.add.at(self._square, self.who[start:end], self.stars[start:end] ** 2)

    def arm(self, mine: bool) -> Arm:
        """One arm so far, by user."""
        seen = (self._count > 0) & (self.mine == mine)
        means = self._sum[seen] / self._count[seen]
        ratings = int(self._count[seen].sum())
        variance = float(means.var(ddof=1)) if len(means) > 1 else 0.0
        return Arm(len(means), float(means.mean()) if len(means) else 0.0, variance, ratings, 5 * ratings)

    def naive_p(self) -> float:
        """What a t-test over ratings, not users, would say at this moment."""
        parts = []
        for mine in (True, False):
            seen = self.mine == mine
            n = self._count[seen].sum()
            if n < 50:
                return 1.0
            mean = self._sum[seen].sum() / n
            parts.append((mean, (self._square[seen].sum() / n - mean**2) / n))
        error = math.sqrt(parts[0][1] + parts[1][1])
        return 2 * float(stdtr(1e6, -abs(parts[0][0] - parts[1][0]) / error)) if error else 1.0


def _canary(crowd: Crowd, wanted: Canary, stop: Callable[[object], bool]) -> tuple[Look | None, int, bool]:
    """The look whose ruling stopped it, the users who had rated by then, and whether the naive test ever called a difference."""
    done, naive = 0, False
    for point in crowd.looks(_EVERY):
        crowd.rate(done, point)
        done = point
        ours, theirs = crowd.arm(True), crowd.arm(False)
        naive = naive or crowd.naive_p() < 0.05
        seen = look(ours, theirs, [], wanted, over=False, watch=False)
        if stop(seen.ruling):
            return seen, ours.users + theirs.users, naive
    return None, 0, naive


def canary_section(cycles: int) -> list[str]:
    """Equal versions under continuous peeking, then what it takes to see a difference."""
    lines = [
        "## The canary",
        "",
        f"Equal versions, {cycles} canaries of each kind, 4,000 users, looked at after every {_EVERY} ratings and at least every 2 % more. "
        "*Naive* is a t-test over ratings at the same moments (5 % level).",
        "",
        "| raters | share | rolled back | called better than 0 | either, asked | naive calls a difference |",
        "|---|---|---|---|---|---|",
    ]
    for heavy in (False, True):
        for share in (0.5, 0.2):
            back = better = naive = 0
            for seed in range(cycles):
                crowd = Crowd(seed, 4000, share, (3.8, 3.8), heavy)
                wanted = Canary(better=True)
                seen, _, called = _canary(crowd, wanted, {"pass", "roll back"}.__contains__)
                back += seen is not None and seen.ruling == "roll back"
                better += seen is not None and seen.ruling == "pass"
                naive += called
            cells = [f"{one / cycles:.1%}" for one in (back, better)]
            lines.append(
                f"| {'heavy' if heavy else 'light'} | {share:.0%} | **{cells[0]}** | **{cells[1]}** | ≤ 5 % | {naive / cycles:.0%} |"
            )
    lines += [
        "",
        "Users who have to have rated (both arms, median of 60 canaries, light raters; `–`: fewer than half decided by 20,000):",
        "",
        "| truth | share | until | users | decided |",
        "|---|---|---|---|---|",
    ]
    asked: list[tuple[str, float, str]] = [
        ("+0.3 stars", 0.3, "called better than 0"),
        ("−0.3 stars", -0.3, "rolled back"),
        ("no difference", 0.0, "a loss of 0.15 is excluded"),
    ]
    for name, difference, until in asked:
        for share in (0.5, 0.2, 0.1):
            ruling = "roll back" if difference < 0 else "pass"
            users = []
            for seed in range(60):
                crowd = Crowd(10_000 + seed, 20_000, share, (3.6 + difference, 3.6), False)
                wanted = Canary(better=difference > 0)
                found, count, _ = _canary(crowd, wanted, {ruling}.__contains__)
                users.append(count if found is not None else 10**9)
            middle = median(users)
            told = "–" if middle > 20_000 else f"{middle:,.0f}"
            lines.append(
                f"| {name} | {share:.0%} | {until} | {told} | {sum(one < 10**9 for one in users)} of 60 |"
            )
    return [*lines, ""]


def guardrail_section(cycles: int) -> list[str]:
    """Versions that fail alike, and ones that do not."""
    lines = [
        "## Guardrails",
        "",
        f"{cycles} canaries of each kind with a share of 20 %, up to 2,000 answers of the challenger, one for each user, looked at after every "
        "answer. *Until* is the number of its answers after which it was out (median).",
        "",
        "| challenger | champion | rolled back | asked | until |",
        "|---|---|---|---|---|",
    ]
    kinds = [
        ("2 % fail", 0.02, 0.02, "≤ 5 %"),
        ("20 % fail", 0.2, 0.2, "≤ 5 %"),
        ("all fail", 1.0, 0.02, "all"),
        ("half fails", 0.5, 0.02, "all"),
        ("10 % fail", 0.1, 0.02, ""),
    ]
    for name, ours, theirs, asked in kinds:
        until = [_guarded(seed, ours, theirs) for seed in range(cycles)]
        out = [one for one in until if one is not None]
        middle = f"{median(out):.0f}" if len(out) > cycles / 2 else ""
        lines.append(f"| {name} | {theirs:.0%} fail | **{len(out) / cycles:.1%}** | {asked} | {middle} |")
    return [*lines, ""]


def _guarded(seed: int, ours: float, theirs: float) -> int | None:
    """After how many answers of the challenger it was taken back; every answer is looked at."""
    draw = random.Random(f"{seed} {ours} {theirs}")
    mine = [Watched(f"a{n}", draw.random() < ours, False) for n in range(2000)]
    others = [Watched(f"b{n}", draw.random() < theirs, False) for n in range(8000)]
    looks = 0
    for count in range(1, 2001):
        due = due_look(count, looks)
        newest = mine[max(0, count - 50) : count]
        if due == looks and sum(one.failed for one in newest) < 25:
            continue  # neither a look is due nor can the newest fifty be broken
        tallies = (
            Tally.of(reversed(mine[max(0, count - WINDOW) : count])),
            Tally.of(reversed(others[max(0, 4 * count - WINDOW) : 4 * count])),
        )
        said = guard(*tallies, due if due > looks else None, 0.02, None)
        looks = due
        if any(one.verdict == "against" for one in said):
            return count
    return None


SECTIONS = {"gate": gate_section, "canary": canary_section, "guardrails": guardrail_section}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-decisions", description=__doc__)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="sections; without it all")
    parser.add_argument("--cycles", type=int, default=CYCLES)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines: list[str] = []
    for name in options.only or SECTIONS:
        section = SECTIONS[name](options.cycles)
        print("\n".join(section), flush=True)
        lines += section
    head = [
        "# Decisions",
        "",
        f"`make bench-decisions`, {datetime.now(UTC):%Y-%m-%d}; seeds 0 and up. Machine: {machine()}.",
        "",
    ]
    if options.output:
        options.output.write_text("\n".join([*head, *lines]), encoding="utf-8")


if __name__ == "__main__":
    main()
