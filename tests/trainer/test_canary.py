"""What ratings of two versions say, and what guardrails do: the rules alone, on made numbers and simulated users."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from feedback.settings import Canary
from trainer.canary import Arm, always_valid_interval, arm_of, look, means_by_user
from trainer.findings import Finding
from trainer.guardrails import Tally, Watched, due_look, guard

WANTED = Canary()
QUIET: list[Finding] = []


def arm(users: int, mean: float, sd: float = 1.2) -> Arm:
    return Arm(users=users, mean=mean, variance=sd * sd, ratings=users, answers=5 * users)


def test_the_interval_is_the_published_formula() -> None:
    ours, theirs = arm(100, 4.1, 1.0), arm(400, 3.9, 1.2)
    n, rho2 = 500, (-2 * math.log(0.05) + math.log(-2 * math.log(0.05)) + 1) / (500 * 4 * 1.44)
    spread = n * (1.0 / 100 + 1.44 / 400)
    half = math.sqrt((n * spread * rho2 + 1) / (n * n * rho2) * math.log((n * spread * rho2 + 1) / 0.05**2))
    assert always_valid_interval(ours, theirs) == pytest.approx((0.2 - half, 0.2 + half))


def test_a_user_counts_once_however_often_they_rate() -> None:
    heavy = [("heavy", 1)] * 200
    means, ratings = means_by_user([*heavy, ("light", 5), ("other", 4)])
    assert (sorted(means), ratings) == ([1.0, 4.0, 5.0], 202)
    assert arm_of(means, ratings, 300).mean == pytest.approx(10 / 3)


@pytest.mark.parametrize(
    ("ours", "theirs", "over", "ruling", "said"),
    [
        (arm(2000, 4.0), arm(2000, 4.0), False, "pass", "a loss of 0.15 stars is excluded"),
        (arm(2000, 4.3), arm(2000, 4.0), False, "pass", "rated better beyond chance"),
        (arm(2000, 3.7), arm(2000, 4.0), False, "roll back", "rated worse beyond chance"),
        (arm(49, 1.0), arm(2000, 4.0), False, "go on", "1 and 0 are missing"),
        (arm(200, 4.0), arm(800, 4.0), False, "go on", "more users who rate would decide"),
        (arm(200, 4.0), arm(800, 4.0), True, "time is up", "nothing speaks against it"),
        (arm(0, 0.0), arm(0, 0.0), True, "not shown", "no user was answered by it"),
    ],
    ids=["equal", "better", "worse", "few", "open", "open-late", "nobody"],
)
def test_ratings_decide_where_they_can(ours: Arm, theirs: Arm, over: bool, ruling: str, said: str) -> None:
    seen = look(ours, theirs, QUIET, WANTED, over, watch=False)
    assert seen.ruling == ruling
    assert said in seen.reason


def test_rollback_wins_where_a_small_loss_is_both_proven_and_allowed() -> None:
    ours, theirs = arm(100_000, 3.93), arm(100_000, 4.0)
    low, high = always_valid_interval(ours, theirs)
    assert low > -WANTED.margin and high < 0
    assert look(ours, theirs, QUIET, WANTED, False, watch=False).ruling == "roll back"


def test_a_gain_can_be_asked_for() -> None:
    equal = look(arm(2000, 4.0), arm(2000, 4.0), QUIET, Canary(better=True), False, watch=False)
    gain = look(arm(2000, 4.3), arm(2000, 4.0), QUIET, Canary(better=True), False, watch=False)
    assert (equal.ruling, gain.ruling) == ("go on", "pass")


def test_a_watch_goes_on_to_its_end_unless_there_is_harm() -> None:
    better = look(arm(2000, 4.3), arm(100, 4.0), QUIET, WANTED, False, watch=True)
    worse = look(arm(20_000, 3.6), arm(1000, 4.0), QUIET, WANTED, False, watch=True)
    late = look(arm(2000, 4.3), arm(100, 4.0), QUIET, WANTED, True, watch=True)
    assert (better.ruling, worse.ruling, late.ruling) == ("go on", "roll back", "time is up")


def test_the_users_still_missing_do_decide_once_they_have_come() -> None:
    ours, theirs = arm(200, 4.05), arm(800, 4.0)
    more = look(ours, theirs, QUIET, WANTED, False, watch=False).more_users
    assert more is not None
    grown = 1 + more / 1000
    later = [arm(math.ceil(one.users * grown), one.mean) for one in (ours, theirs)]
    short = [arm(int(one.users * grown * 0.97), one.mean) for one in (ours, theirs)]
    assert look(*later, QUIET, WANTED, False, watch=False).ruling == "pass"
    assert look(*short, QUIET, WANTED, False, watch=False).ruling == "go on"


def answers(
    bad: int, good: int, each_user: int = 1, malformed: bool = False, pace: float | None = None
) -> Tally:
    """Newest first: `bad` ones among `good`, evenly."""
    kinds = [True] * bad + [False] * good
    random.Random(0).shuffle(kinds)
    return Tally.of(
        Watched(f"u{number // each_user}", one and not malformed, one and malformed, pace)
        for number, one in enumerate(kinds)
    )


@pytest.mark.parametrize("malformed", [False, True], ids=["errors", "format"])
def test_a_version_that_always_fails_is_out_after_ten_answers(malformed: bool) -> None:
    due = due_look(10, 0)
    said = guard(answers(10, 0, malformed=malformed), answers(0, 40), due, 0.02, 0.5)
    against = [one for one in said if one.verdict == "against"]
    assert [one.about for one in against] == ["format" if malformed else "errors"]
    assert "10 of 10 answers" in against[0].text
    assert look(arm(0, 0), arm(0, 0), said, WANTED, False, watch=False).ruling == "roll back"


def test_an_engine_that_fails_both_alike_rolls_nobody_back() -> None:
    said = guard(answers(60, 40), answers(240, 160), due_look(100, 0), 0.02, 0.5)
    assert not [one for one in said if one.verdict == "against"]


@pytest.mark.parametrize(
    ("failed", "of", "verdict"),
    [(0, 10, "note"), (3, 10, "open"), (10, 10, "open")],
    ids=["none", "some", "all"],
)
def test_failures_beside_which_nothing_stands_are_no_pass_and_no_fault(
    failed: int, of: int, verdict: str
) -> None:
    said = guard(answers(failed, of - failed), Tally(), due_look(of, 0), 0.02, None)[0]
    assert said.verdict == verdict
    late = look(arm(20, 4.0), arm(0, 0), [said], WANTED, True, watch=False)
    assert late.ruling == ("time is up" if verdict == "note" else "not shown")
    watched = look(arm(20, 4.0), arm(0, 0), [said], WANTED, False, watch=True, failing=True)
    assert watched.ruling == "go on"


def test_one_users_failures_count_ten_times_at_most() -> None:
    tally = answers(500, 0, each_user=500)
    assert len(tally.failed) == 10


def test_between_two_looks_only_a_breakdown_counts() -> None:
    some, broken = answers(30, 170), Tally(failed=[True] * 30 + [False] * 900)
    fine = answers(0, 900)
    assert not [one for one in guard(some, fine, None, 0.02, 0.5) if one.verdict == "against"]
    assert [one for one in guard(some, fine, due_look(200, 0), 0.02, 0.5) if one.verdict == "against"]
    told = [one.text for one in guard(broken, fine, None, 0.02, 0.5) if one.verdict == "against"]
    assert len(told) == 1 and "30 of the newest 50, beside 0" in told[0]


def test_a_slower_version_is_out_and_noise_is_not() -> None:
    draw = random.Random(1)

    def paced(factor: float) -> Tally:
        return Tally.of(
            Watched(f"u{n}", False, False, math.log(factor) + draw.gauss(0, 0.4)) for n in range(200)
        )

    base = paced(10.0)
    slow, alike = (guard(paced(10.0 * f), base, due_look(200, 0), 0.02, 0.5)[2] for f in (2.0, 1.3))
    assert (slow.verdict, alike.verdict) == ("against", "note")
    assert (
        len(guard(paced(20.0), base, due_look(200, 0), 0.02, None)) == 2
    )  # beside the bare base nothing is compared


def test_looks_are_due_as_answers_grow_by_a_quarter() -> None:
    counts = [count for count in range(1, 200) if due_look(count, 0) > due_look(count - 1, 0)]
    assert counts[:6] == [8, 10, 13, 16, 20, 25]
    assert all(later / earlier < 1.34 for earlier, later in pairwise(counts))
    assert due_look(7, 0) == 0 and due_look(100, 30) == 30


def test_guardrails_do_not_fire_by_chance_however_often_they_look() -> None:
    """Of both, 10 % fail and 20 % are malformed; looked at whenever a look is due."""
    fired = 0
    for seed in range(40):
        draw = random.Random(seed)
        ours, theirs = (
            [Watched(f"{n}", draw.random() < 0.1, draw.random() < 0.2) for n in range(many)]
            for many in (300, 1200)
        )
        counts = [count for count in range(1, 300) if due_look(count, 0) > due_look(count - 1, 0)]
        fired += any(
            one.verdict == "against"
            for count in counts
            for one in guard(
                Tally.of(ours[:count]), Tally.of(theirs[: 4 * count]), due_look(count, 0), 0.0, None
            )
        )
    assert fired <= 2  # 1 % of 40, and luck
