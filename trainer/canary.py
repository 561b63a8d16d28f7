"""What users' ratings say about two versions that answer different users at once; `science.md`'s online canary. Pure.

The unit is the user: counting the ratings of heavy raters instead called equal versions different about half of the time.
The interval holds at every moment at once, so it may be looked at as often as one likes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from feedback.settings import Canary
from trainer.findings import Finding, counted

ALPHA = 0.05
PLANNED_USERS = 500
"""At about this many users the interval is narrowest for what it promises."""
GUESSED_VARIANCE = 1.44
"""Of a user's mean stars; a wrong guess makes the interval wider, never less sure."""
_HOPELESS = 10_000_000

Ruling = Literal["go on", "pass", "roll back", "take back", "time is up", "not shown"]


class Arm(Struct, frozen=True):
    """The ratings of one arm; everything is by user, but for `ratings` and `answers`."""

    users: int = 0
    """Who have rated."""
    mean: float = 0.0
    variance: float = 0.0
    """Of the users' means, with n - 1 below."""
    ratings: int = 0
    answers: int = 0
    """All answers of the arm, rated or not."""

    @property
    def rating_rate(self) -> float:
        """Share of its answers that were rated: who rates is not random, so it stands beside each mean."""
        return self.ratings / self.answers if self.answers else 0.0


class Look(Struct, frozen=True):
    """One look at a canary or a watch: numbers, what they mean and what is to be done."""

    ruling: Ruling
    reason: str
    on_trial: Arm
    against: Arm
    difference: float | None
    """Mean stars of the version on trial minus the other's."""
    interval: tuple[float, float] | None
    more_users: int | None
    """Users who would have to rate besides for a decision, if what was seen goes on."""
    findings: list[Finding]


def arm_of(means: Sequence[float], ratings: int, answers: int) -> Arm:
    """An arm from its users' mean stars."""
    n = len(means)
    mean = math.fsum(means) / n if n else 0.0
    variance = math.fsum((one - mean) ** 2 for one in means) / (n - 1) if n > 1 else 0.0
    return Arm(users=n, mean=mean, variance=variance, ratings=ratings, answers=answers)


def always_valid_interval(on_trial: Arm, against: Arm, alpha: float = ALPHA) -> tuple[float, float]:
    """Interval for the difference of mean stars that covers the truth at all times at once with 1 - `alpha`.

    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
    sequences", Annals of Statistics 52 (2024), as a difference of two means. Both arms need a user.
    """
    half = _half_width(on_trial, against, on_trial.users + against.users, alpha)
    difference = on_trial.mean - against.mean
    return difference - half, difference + half


def look(
    on_trial: Arm,
    against: Arm,
    guardrails: Sequence[Finding],
    wanted: Canary,
    over: bool,
    watch: bool,
    sound: bool = True,
    failing: bool = False,
) -> Look:
    """What is to be done now. `over`: its time is up. Rollback wins over everything, guardrails act at once.

    A canary passes where the challenger is shown to lose no more than `margin` stars (or to gain, where `better` asks
    so). A watch only looks for harm, until its time is up. A canary that answered nobody, of whose answers none was `sound`, or beside
    whose failures stands nothing, has shown nothing. `failing`: most of its answers fail, and the other version was asked
    nothing; whosever fault that is, its users get the other one back.
    """
    ratings, interval, more = _by_ratings(on_trial, against, wanted, watch)
    findings = [ratings, *guardrails]
    difference = on_trial.mean - against.mean if on_trial.users and against.users else None

    def ruled(ruling: Ruling, reason: str) -> Look:
        return Look(ruling, reason, on_trial, against, difference, interval, more, findings)

    harm = [finding.text for finding in findings if finding.verdict == "against"]
    if harm:
        return ruled("roll back", "; ".join(harm))
    if failing and not watch:
        told = "; ".join(finding.text for finding in guardrails if finding.about == "errors")
        return ruled("take back", f"{told}, so nobody can tell whether it or the engine is at fault")
    if ratings.verdict == "for" and not watch:
        return ruled("pass", ratings.text)
    untold = [finding.text for finding in guardrails if finding.verdict == "open"]
    if over and not watch and not on_trial.answers:
        return ruled("not shown", "the time is up and no user was answered by it, so nothing was tried")
    if over and not watch and not sound:
        told = f"the time is up and of its {counted(on_trial.answers, 'answer')} to users not one was sound, so nothing was shown"
        return ruled("not shown", told)
    if over and not watch and untold:
        return ruled("not shown", f"the time is up and what was seen cannot be judged: {'; '.join(untold)}")
    if over:
        return ruled("time is up", f"the time is up and nothing speaks against it; {ratings.text}")
    return ruled("go on", ratings.text)


def _by_ratings(
    on_trial: Arm, against: Arm, wanted: Canary, watch: bool
) -> tuple[Finding, tuple[float, float] | None, int | None]:
    about = "ratings"
    fewest = min(on_trial.users, against.users)
    arms = f"ratings: {_told(on_trial)}, beside {_told(against)}"
    if fewest < wanted.minimum_users:
        lacking = [max(0, wanted.minimum_users - arm.users) for arm in (on_trial, against)]
        text = (
            f"{arms}; at least {wanted.minimum_users} users of each have to have rated, {lacking[0]} and {lacking[1]} are "
            "missing"
        )
        return Finding(about, "open", text), None, sum(lacking)
    low, high = always_valid_interval(on_trial, against)
    numbers = f"{arms}: {on_trial.mean - against.mean:+.2f} (always valid at 95 %: {low:+.2f} to {high:+.2f})"
    if high < 0:
        return Finding(about, "against", f"{numbers}; rated worse beyond chance"), (low, high), None
    floor = 0.0 if wanted.better else -wanted.margin
    if low > floor:
        shown = "rated better beyond chance" if low > 0 else f"a loss of {wanted.margin:g} stars is excluded"
        return Finding(about, "for", f"{numbers}; {shown}"), (low, high), None
    more = _more_users(on_trial, against, floor, watch)
    told = (
        "no number of users would decide, if what was seen so far goes on"
        if more is None
        else f"about {counted(more, 'more user')} who rate would decide, if what was seen so far goes on"
    )
    return Finding(about, "open", f"{numbers}; not enough to tell: {told}"), (low, high), more


def _more_users(on_trial: Arm, against: Arm, floor: float, watch: bool) -> int | None:
    """Users of both arms, in their present proportion, until one of the bounds that decide is passed."""
    difference = on_trial.mean - against.mean
    distances = [-difference] if watch else [-difference, difference - floor]
    distance = max(distances)
    now = on_trial.users + against.users
    if distance <= 0 or _half_width(on_trial, against, _HOPELESS, ALPHA) >= distance:
        return None
    low, high = now, _HOPELESS
    while high - low > 1:
        middle = (low + high) // 2
        if _half_width(on_trial, against, middle, ALPHA) < distance:
            high = middle
        else:
            low = middle
    return high - now


def _half_width(on_trial: Arm, against: Arm, users: int, alpha: float) -> float:
    """Half of the interval's width if the arms had `users` users together, in the proportion that they have."""
    now = on_trial.users + against.users
    spread = now * (on_trial.variance / on_trial.users + against.variance / against.users)
    tight = -2 * math.log(alpha)
    rho2 = (tight + math.log(tight) + 1) / (PLANNED_USERS * 4 * GUESSED_VARIANCE)
    inner = users * spread * rho2 + 1
    return math.sqrt(inner / (users * users * rho2) * math.log(inner / (alpha * alpha)))


def _told(arm: Arm) -> str:
    if not arm.users:
        return f"no user of {counted(arm.answers, 'answer')}"
    return f"{arm.mean:.2f} stars by {counted(arm.users, 'user')} ({arm.rating_rate:.0%} of {counted(arm.answers, 'answer')})"


def means_by_user(ratings: Iterable[tuple[str, int]]) -> tuple[list[float], int]:
    """Mean stars of each user, and how many ratings that were; from `(user, stars)`."""
    sums: dict[str, tuple[int, int]] = {}
    total = 0
    for unit, stars in ratings:
        count, so_far = sums.get(unit, (0, 0))
        sums[unit] = (count + 1, so_far + stars)
        total += 1
    return [so_far / count for count, so_far in sums.values()], total
