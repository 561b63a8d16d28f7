"""What ratings and preferences count for, where few right answers are known."""

from __future__ import annotations

import pytest

from feedback.datasets.curation import HeldBack
from feedback.datasets.methods import Wanted
from feedback.datasets.opinions import Opinions, weigh_opinions
from feedback.datasets.rated import cap_rated
from feedback.datasets.said import Example, Pair
from feedback.datasets.splits import validates
from feedback.settings import Dataset


def rated(source: str, count: int, new: bool = True, raters: int = 500) -> list[Example]:
    return [
        Example(
            messages=[{"role": "user", "content": f"{source} {n}"}],
            answer="an answer",
            source=source,
            group_key=f"{source} {n}",
            content_hash=f"{source} {n}",
            new=new,
            feedback_id=f"{source} {n:05}",
            rater=f"rater {n % raters}",
        )
        for n in range(count)
    ]


def preferred(count: int) -> list[Pair]:
    return [
        Pair([{"role": "user", "content": f"q {n}"}], "better", "worse", "preference", f"q {n}")
        for n in range(count)
    ]


def weighed(
    wanted: Wanted = "auto",
    targets: int = 0,
    pairs: int = 0,
    good: int = 0,
    bad: int = 0,
    new: bool = True,
    validation: float = 0.0,
) -> Opinions:
    given = preferred(pairs)
    return weigh_opinions(
        wanted,
        rated("correction", targets),
        given,
        rated("rated+", good, new) + rated("rated-", bad, new),
        set() if new else {pair.content_hash for pair in given},
        validation,
        HeldBack(),
    )


@pytest.mark.parametrize(
    ("worth", "counts"),
    [
        (50, {"good": 200, "bad": 200}),
        (50, {"good": 900, "bad": 203}),
        (0, {"good": 900, "bad": 199}),
        (50, {"good": 200, "bad": 200, "targets": 49}),
        (0, {"good": 200, "bad": 200, "targets": 50}),
        (50, {"pairs": 200}),
        (0, {"pairs": 199}),
        (62, {"pairs": 250, "good": 900, "bad": 900}),
    ],
)
def test_four_count_for_one_where_auto_would_learn_from_them(worth: int, counts: dict[str, int]) -> None:
    assert weighed(**counts).worth == worth  # type: ignore[arg-type]


def test_a_method_that_is_set_counts_what_it_learns_from() -> None:
    assert [weighed(method, pairs=300, good=40, bad=80).worth for method in ("sft", "dpo", "kto")] == [
        0,
        75,
        10,
    ]  # type: ignore[arg-type]


def test_what_the_champions_dataset_held_counts_for_nothing() -> None:
    assert weighed(good=900, bad=900, new=False).worth == 0
    assert weighed(pairs=900, new=False).worth == 0
    assert "900 good, 0 of them new, and 900 bad, 0 of them new" in weighed(good=900, bad=900, new=False).told


def test_prompts_that_watch_the_training_do_not_count() -> None:
    watching = sum(validates(f"rated- {n}", 0.5) for n in range(500))
    assert weighed(good=900, bad=500, validation=0.5).worth == (500 - watching) // 4


def test_nothing_is_told_where_nothing_was_rated() -> None:
    assert weighed(targets=3) == Opinions(0, "")


def test_a_rater_who_rates_a_lot_is_capped_and_a_reviewer_is_not() -> None:
    flood = rated("rated-", 400, raters=4)
    kept, held = cap_rated(flood, Dataset(), ())
    assert (len(kept), held.cap, held.raters, held.corrections) == (20, 5, 4, 380)
    assert [one.feedback_id for one in kept] == [f"rated- {n:05}" for n in range(20)]  # the oldest
    assert len(cap_rated(flood, Dataset(), {one.feedback_id or "" for one in flood})[0]) == 400
    assert len(cap_rated(rated("rated-", 400, raters=80), Dataset(), ())[0]) == 400
    assert len(cap_rated(rated("rated-", 400, new=False, raters=4), Dataset(), ())[0]) == 400
