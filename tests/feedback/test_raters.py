"""How far raters are believed, and what becomes of their words."""

from __future__ import annotations

import re

from feedback.datasets.chat import Conversation
from feedback.datasets.contract import TaskContract
from feedback.datasets.raters import Trust, judge_raters
from feedback.datasets.said import BaseExample, Said
from feedback.starter.grammar import SCHEMA
from tests.feedback.test_curation import choose, refused, said, signal
from tests.feedback.world import OTHER, RIGHT, WRONG

CONTRACT = TaskContract(SCHEMA)


def judged(*all_said: Said, base: tuple[BaseExample, ...] = ()) -> Trust:
    return judge_raters(all_said, base, CONTRACT, 0.7)


def crowd(count: int = 20) -> list[Said]:
    """Raters with all kinds of stars, each alone with their prompts."""
    return [
        said(f"crowd {n} {stars}", signal(f"crowd {n}", None, stars), output=RIGHT)
        for n in range(count)
        for stars in (5, 4, 1)
    ]


def test_of_a_rater_alone_nothing_is_known_so_they_stand_where_the_crowd_does() -> None:
    trust = judged(said("x", signal("ann", RIGHT)))
    assert trust.of("ann") == trust.crowd == trust.of("somebody")
    assert not trust.low("ann") and "nobody else spoke" in trust.figures["ann"].why


def test_who_says_what_others_say_is_believed_more_and_who_contradicts_them_less() -> None:
    rows = [
        said(f"p{n}", signal(rater, answer), group=f"g{n}")
        for n in range(6)
        for rater, answer in (("ann", RIGHT), ("bob", RIGHT), ("eve", OTHER))
    ]
    trust = judged(*rows)
    assert trust.of("ann") >= trust.crowd > 0.8 * trust.crowd > 2 * trust.of("eve")
    assert trust.low("eve") and not trust.low("ann")
    assert trust.figures["eve"].agreement is not None and trust.figures["eve"].agreement < 0.2
    assert "(low)" in trust.figures["eve"].why


def test_one_disagreement_is_not_enough_to_be_doubted() -> None:
    assert not judged(
        said("x", signal("ann", RIGHT), group="g"), said("y", signal("eve", OTHER), group="g")
    ).low("eve")


def test_one_star_for_everybody_weighs_down_where_the_crowd_gives_other_stars() -> None:
    always = [said(f"e{n}", signal("eve", None, 1), output=RIGHT) for n in range(20)]
    trust = judged(*crowd(), *always)
    assert trust.low("eve") and trust.figures["eve"].spread < 0.5
    few = judged(*crowd(), *always[:3])
    assert not few.low("eve")


def test_five_stars_for_everybody_are_no_sign_where_most_give_five() -> None:
    always = [said(f"e{n}", signal("eve", None, 5), output=RIGHT) for n in range(30)]
    happy = [said(f"h{n}", signal(f"h{n}", None, 5), output=RIGHT) for n in range(30)]
    assert judged(*happy, *crowd(3), *always).figures["eve"].spread == 1.0


def test_who_only_complains_is_believed_again_once_others_agree() -> None:
    alone = [said(f"e{n}", signal("eve", RIGHT), group=f"g{n}") for n in range(12)]
    assert judged(*crowd(), *alone).low("eve")
    agreeing = [said(f"a{n}", signal(f"ann{n}", RIGHT), group=f"g{n}") for n in range(6)]
    assert not judged(*crowd(), *alone, *agreeing).low("eve")


def test_raters_who_agree_to_lie_cannot_outvote_a_reviewer() -> None:
    lies = [said(f"p{n} {liar}", signal(liar, OTHER), group=f"g{n}") for n in range(5) for liar in "abc"]
    words = [said(f"r{n}", signal("rob", RIGHT, source="reviewer"), group=f"g{n}") for n in range(5)]
    trust = judged(*lies, *words)
    assert all(trust.low(liar) for liar in "abc")


def test_base_examples_are_known_to_be_right() -> None:
    lies = [said(f"p{n}", signal("eve", OTHER), group=f"g{n}") for n in range(5)]
    base = tuple(
        BaseExample(Conversation([{"role": "user", "content": "b"}], RIGHT), f"g{n}", "train")
        for n in range(5)
    )
    assert judged(*lies, base=base).low("eve") and not judged(*lies).low("eve")


def doubted_eve() -> list[Said]:
    """Eve has contradicted two others often."""
    return [
        said(f"p{n}", signal(rater, answer), group=f"g{n}")
        for n in range(8)
        for rater, answer in (("ann", RIGHT), ("bob", RIGHT), ("eve", OTHER))
    ]


def test_a_correction_of_low_reliability_waits_until_somebody_agrees() -> None:
    alone = said("alone", signal("eve", OTHER))
    chosen = choose(*doubted_eve(), alone)
    assert "alone" not in {example.group_key for example in chosen.examples}
    assert chosen.waits[alone.inference_id].startswith("the reliability of its rater is low")
    joined = choose(*doubted_eve(), alone, said("alone!", signal("kim", OTHER), group="alone"))
    (example,) = [example for example in joined.examples if example.group_key == "alone"]
    assert example.answer == OTHER and alone.inference_id not in joined.waits


def test_a_reviewer_lets_a_correction_of_low_reliability_in() -> None:
    one = said(
        "alone", signal("eve", OTHER), resolution="corrected", reviewed_answer=OTHER, reviewed_by="rob"
    )
    assert "alone" in {example.group_key for example in choose(*doubted_eve(), one).examples}


def test_a_correction_against_praise_of_others_is_not_believed() -> None:
    praise = [said(f"p{n}", signal(f"user {n}", None, 5), output=RIGHT, group="g") for n in range(3)]
    told = refused(*praise, said("lie", signal("eve", OTHER), output=RIGHT, group="g"))
    assert "1 against an answer that others rated well" in told


def test_corroborate_asks_for_a_second_rater() -> None:
    one = said("x", signal("ann", RIGHT), group="g")
    assert "1 of one rater alone" in refused(one, corroborate=True)
    assert choose(one, said("y", signal("bob", RIGHT), group="g"), corroborate=True).examples
    reviewer = said("z", signal("rob", RIGHT, source="reviewer"))
    assert choose(reviewer, corroborate=True).examples


def test_the_weight_of_a_row_is_that_of_those_who_stand_for_it() -> None:
    rows = [
        *doubted_eve(),
        said("mixed", signal("dan", RIGHT), group="m1"),
        said("m2", signal("dan", OTHER), group="g1"),
    ]
    weights = {example.group_key: example.weight for example in choose(*rows).examples}
    assert weights["g0"] == 1.0 and 0.1 <= weights["m1"] < 1.0


def test_the_figures_of_a_row_name_nobody() -> None:
    (example,) = [one for one in choose(*doubted_eve()).examples if one.group_key == "g0"]
    assert example.why["rung"] == "demonstration" and example.why["votes"]["raters"] == 2
    assert not {"eve", "ann", "bob"} & set(re.findall(r"\w+", str(example.why)))
    assert example.why["rater"]["reliability"] > 0.7


def test_a_better_rated_answer_to_a_like_prompt_is_a_target() -> None:
    bad = said("where is my refund", signal("ann", None, 1), output=WRONG, group="g")
    good = said("where is my refund?", signal("bob", None, 5), output=RIGHT, group="g")
    (example,) = choose(bad, good).examples
    assert (example.source, example.answer, example.messages) == ("sibling", RIGHT, bad.messages)
    assert (example.inference_id, example.rater) == (bad.inference_id, "bob")
    assert choose(bad, good).pairs[0].rejected == WRONG


def test_an_answer_that_is_hardly_better_or_praised_by_nobody_believed_is_no_target() -> None:
    bad = said("x", signal("ann", None, 3), output=WRONG, group="g")
    good = said("y", signal("bob", None, 4), output=RIGHT, group="g")
    assert refused(bad, good).startswith("0 new examples")
    praised = said("y", signal("eve", None, 5), output=OTHER, group="h")
    complaint = said("x", signal("kim", None, 1), output=WRONG, group="h")
    assert "h" not in {one.group_key for one in choose(*doubted_eve(), praised, complaint).examples}


def test_what_passes_no_rung_says_why_it_waits() -> None:
    bare, torn = said("x", signal("ann", None, 1)), said("y", signal("ann", "no json"))
    rivals = [said("z", signal("ann", RIGHT), group="g"), said("z!", signal("bob", OTHER), group="g")]
    waits = choose(bare, torn, *rivals, said("ok", signal("kim", RIGHT))).waits
    assert waits[bare.inference_id].startswith("a low rating and nothing else")
    assert waits[torn.inference_id].startswith("its correction breaks the task contract: it is not JSON")
    assert "raters disagree" in waits[rivals[0].inference_id]
