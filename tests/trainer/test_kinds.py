"""What the gate says of single kinds of answer, and how often it does so of equal challengers."""

from __future__ import annotations

import random

import pytest

from feedback.settings import Promotion
from trainer.comparison import Outcome
from trainer.gate import Decision, Evidence, decide
from trainer.kinds import compared_kinds, kinds_finding


def of_kind(
    name: str | None, fixes: int, regressions: int, n: int, **other: tuple[str, ...]
) -> list[Outcome]:
    pairs = [(0, 1)] * fixes + [(1, 0)] * regressions + [(1, 1)] * (n - fixes - regressions)
    return [Outcome(f"{name}-{i}", *pair, slice=name, **other) for i, pair in enumerate(pairs)]


def judge(golden: list[Outcome], regression: list[Outcome] | None = None) -> Decision:
    kept = of_kind("refund", 2, 2, 500) if regression is None else regression
    return decide(Evidence(golden, kept, (), of_kind(None, 0, 0, 50), None), Promotion())


def test_a_label_that_is_lost_in_a_better_whole_rejects_and_is_named_with_its_numbers() -> None:
    decision = judge([*of_kind("refund", 60, 4, 200), *of_kind("parcel", 1, 14, 100)])
    assert decision.decision == "rejected"
    assert decision.reason == (
        "kinds of answer: 'parcel': 1 fix and 14 regressions in 100 cases, -13.0 points (p = 0.00098 among 2); worse "
        "beyond chance"
    )


def test_both_suites_count_together_for_a_label() -> None:
    golden = [*of_kind("refund", 60, 4, 200), *of_kind("parcel", 0, 4, 50)]
    alone = judge(golden)
    both = judge(golden, [*of_kind("refund", 6, 0, 1500), *of_kind("parcel", 0, 6, 60)])
    assert "kinds of answer" not in alone.reason and "0 fixes and 10 regressions" in both.reason


def test_a_label_under_suspicion_leaves_it_open() -> None:
    found = kinds_finding([*of_kind("refund", 60, 4, 200), *of_kind("parcel", 2, 9, 100)])
    assert [one.verdict for one in found] == ["open"]
    assert "'parcel'" in found[0].text
    told = "about 111 more confirmed cases of that kind would decide, if what was seen so far goes on"
    assert found[0].text.endswith(told)
    grown = kinds_finding([*of_kind("refund", 60, 4, 200), *of_kind("parcel", 4, 19, 211)])
    assert [one.verdict for one in grown] == ["against"]


def told_apart(name: str, taken: int, still: int, lost: int, n: int) -> list[Outcome]:
    """Cases of a kind of which `lost` are lost, and `taken` of another that were taken for it, all but `still` no more."""
    other = [
        Outcome(
            f"{name}-taken-{i}",
            0,
            float(i >= still),
            slice="other",
            said=(name, name if i < still else "other"),
        )
        for i in range(taken)
    ]
    own = [
        Outcome(
            f"{name}-own-{i}", 1, float(i >= lost), slice=name, said=(name, "other" if i < lost else name)
        )
        for i in range(n)
    ]
    return other + own


def test_a_label_that_stood_for_all_that_was_unknown_may_lose_what_its_being_told_apart_costs() -> None:
    golden = [*of_kind("refund", 30, 2, 200), *told_apart("parcel", 40, 4, 9, 60)]
    decision = judge(golden)
    assert {finding.about for finding in decision.findings if finding.verdict in ("open", "against")} == {
        "latency"
    }
    found = [finding.text for finding in decision.findings if finding.about == "kinds of answer"]
    assert found == [
        "kinds of answer: 'parcel': 0 fixes and 9 regressions in 60 cases, -15.0 points (p = 0.0059 among 3); but on 36 golden "
        "cases the challenger alone tells rightly whether they are of it, on 9 the champion alone: told apart better beyond chance"
    ]


def test_a_label_that_loses_as_much_as_it_is_told_apart_better_is_not_forgiven() -> None:
    golden = [*of_kind("refund", 30, 2, 200), *told_apart("parcel", 40, 20, 12, 60)]
    assert judge(golden).decision == "rejected"


def test_a_label_that_is_hardly_given_any_more_is_not_forgiven_by_a_golden_set_that_holds_little_of_it() -> (
    None
):
    golden = [*of_kind("refund", 30, 2, 200), *told_apart("parcel", 9, 0, 1, 3)]
    decision = judge(golden, [*of_kind("refund", 6, 0, 1900), *of_kind("parcel", 0, 40, 60)])
    assert (
        decision.decision == "rejected"
        and "'parcel': 0 fixes and 41 regressions in 63 cases" in decision.reason
    )


def test_only_the_golden_set_forgives_as_its_cases_were_drawn_blindly() -> None:
    regression = [*of_kind("refund", 6, 0, 1500), *told_apart("parcel", 40, 4, 9, 60)]
    assert "'parcel'" in judge(of_kind("refund", 60, 4, 200), regression).reason


def test_labels_exchanged_by_a_lie_are_not_forgiven() -> None:
    """Half of one label now goes to another: neither is told apart better."""
    moved = [
        Outcome(
            f"m{i}", 1, float(i >= 10), slice="parcel", said=("parcel", "parcel" if i >= 10 else "refund")
        )
        for i in range(40)
    ]
    found = kinds_finding([*of_kind("refund", 60, 4, 200), *moved])
    assert [one.verdict for one in found] == ["against"] and "'parcel'" in found[0].text


def test_labels_as_good_as_before_are_told_to_be() -> None:
    found = kinds_finding([*of_kind("refund", 6, 4, 200), *of_kind("parcel", 5, 4, 100)])
    assert [one.verdict for one in found] == ["for"]
    assert "none of 2" in found[0].text


@pytest.mark.parametrize(
    "cases",
    [
        of_kind("parcel", 0, 9, 9),
        of_kind("parcel", 0, 5, 100),
        of_kind(None, 0, 50, 100),
        [case for number in range(200) for case in of_kind(f"text {number}", 0, 1, 1)],
    ],
    ids=["few cases", "few that differ", "no label", "free text"],
)
def test_what_is_too_small_to_be_told_says_nothing(cases: list[Outcome]) -> None:
    assert kinds_finding(cases) == []


def test_many_labels_need_a_smaller_p_than_one() -> None:
    hurt = of_kind("parcel", 1, 9, 100)
    others = [case for number in range(40) for case in of_kind(f"label {number}", 4, 4, 100)]
    assert kinds_finding(hurt)[0].verdict == "against"
    assert kinds_finding([*hurt, *others])[0].verdict == "for"


def test_requests_by_their_metadata_are_told_and_decide_nothing() -> None:
    golden = [
        *of_kind(None, 60, 4, 200, facets=("channel=web",)),
        *of_kind(None, 1, 14, 100, facets=("channel=app", "tier=1")),
    ]
    told = [finding for finding in judge(golden).findings if finding.about == "metadata"]
    assert [finding.verdict for finding in told] == ["note"]
    assert "'channel=app': 1 fix and 14 regressions" in told[0].text
    assert "'tier=1'" in told[0].text and "web" not in told[0].text


@pytest.mark.parametrize("labels", [2, 7, 77])
def test_of_equal_challengers_few_are_refused_for_a_kind_however_many_there_are(labels: int) -> None:
    """One-sided 2.5 % by design; over 1,000 challengers three standard errors are 1.5 points."""
    draw = random.Random(labels)
    refused = 0
    for _ in range(1000):
        places = [(number % labels, draw.random()) for number in range(1498)]
        cases = [
            Outcome("", float(place < 0.05), float(0.05 <= place < 0.10), f"label {label}")
            for label, place in places
            if place < 0.10
        ] + [Outcome("", 1.0, 1.0, f"label {label}") for label, place in places if place >= 0.10]
        refused += any(finding.verdict == "against" for finding in kinds_finding(cases))
    assert refused / 1000 <= 0.025 + 0.015


def test_the_worst_kind_stands_first() -> None:
    cases = [*of_kind("b", 2, 10, 50), *of_kind("a", 5, 5, 50), *of_kind("c", 0, 12, 50)]
    kinds = compared_kinds(cases, lambda case: (case.slice,) if case.slice else ())
    assert [kind.name for kind in kinds] == ["c", "b", "a"]
    assert kinds[0].p == pytest.approx(3 * 0.5**12)
