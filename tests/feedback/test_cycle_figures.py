"""A cycle's comparison: metric, base, champion, challenger, improvement, interval; nothing that was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.paired import tango_interval
from feedback.reports.cycle_figures import figure_records, figure_table


def suite(right: float, similarity: float, **fields: Any) -> dict[str, Any]:
    wording = {"similarity": similarity, "token_f1": 0.5, "rouge_l": 0.25, "bleu": 0.125, "chrf": 0.375}
    return {
        "n": 200,
        "accuracy": right,
        "valid_format": 0.9,
        "wording": wording,
        "ms_per_request": 61.0,
    } | fields


def against(difference: float, low: float, high: float) -> dict[str, Any]:
    return {"n": 200, "difference": difference, "interval": [low, high]}


RESULT: dict[str, Any] = {
    "champion": "1.0",
    "versions": {
        "base": {"golden": suite(0.5, 0.6), "holdout": {"n": 0}},
        "1.0": {"golden": suite(0.7, 0.75, slices={"refund": {"n": 40, "accuracy": 0.5}})},
        "1.1": {
            "golden": suite(0.8, 0.875, ms_per_request=55.0, slices={"refund": {"n": 40, "accuracy": 0.75}})
        },
    },
    "improvements": {
        "golden": {
            "valid_format": against(0.0, -0.02, 0.02),
            "similarity": against(0.125, 0.1, 0.15),
            "consistency": against(0.05, -0.01, 0.11),
        }
    },
    "consistency": {"1.0": 0.8, "1.1": 0.85},
    "latency": {"champion": 10.0, "challenger": 10.5, "ratio": 1.05, "interval": [1.01, 1.09]},
    "gate": {"suites": {"golden": against(0.1, 0.04, 0.16), "holdout": {"n": 0, "difference": 0.0}}},
}


def rows(result: dict[str, Any], challenger: str = "1.1") -> dict[str, list[str]]:
    return {first: cells for first, *cells in figure_table(result, challenger).rows}


def test_every_figure_stands_with_base_champion_challenger_improvement_and_interval() -> None:
    assert figure_table(RESULT, "1.1").heads == [
        "figure",
        "base",
        "1.0 (champion)",
        "1.1 (new)",
        "improvement",
        "95 %",
    ]
    assert rows(RESULT) == {
        "golden: right, of 200": ["50.0 %", "70.0 %", "80.0 %", "+10.0 points", "+4.0 to +16.0"],
        "golden: in valid form": ["90.0 %", "90.0 %", "90.0 %", "+0.0 points", "-2.0 to +2.0"],
        "golden: similarity": ["60.0 %", "75.0 %", "87.5 %", "+12.5 points", "+10.0 to +15.0"],
        "golden: token F1": ["50.0 %", "50.0 %", "50.0 %", "+0.0 points", "–"],
        "golden: ROUGE-L": ["25.0 %", "25.0 %", "25.0 %", "+0.0 points", "–"],
        "golden: BLEU": ["12.5 %", "12.5 %", "12.5 %", "+0.0 points", "–"],
        "golden: chrF": ["37.5 %", "37.5 %", "37.5 %", "+0.0 points", "–"],
        "golden: consistency": ["–", "80.0 %", "85.0 %", "+5.0 points", "-1.0 to +11.0"],
        "golden, refund: right, of 40": ["–", "50.0 %", "75.0 %", "+25.0 points", "–"],
        "a request, median": ["61 ms", "61 ms", "55 ms", "-6 ms", "–"],
        "a token, measured in turns": ["–", "10.00 ms", "10.50 ms", "1.05 times", "1.01 to 1.09"],
    }


def test_the_records_name_base_champion_and_challenger_whichever_versions_they_are() -> None:
    first = figure_records(RESULT, "1.1")[0]
    assert first == {
        "suite": "golden",
        "metric": "right",
        "cases": 200,
        "unit": "share",
        "base": 0.5,
        "champion": 0.7,
        "challenger": 0.8,
        "improvement": 0.1,
        "interval": (0.04, 0.16),
    }
    from_base = RESULT | {"champion": "base", "versions": {"base": RESULT["versions"]["base"]}}
    assert {one["champion"] for one in figure_records(from_base, "1.1") if one["metric"] == "right"} == {0.5}
    assert figure_table(from_base, "1.1").heads[1:3] == ["base (champion)", "improvement"]


def test_a_judges_word_has_its_interval_and_how_far_it_is_believed() -> None:
    judge = {"cases": 90, "wins": 27, "losses": 9, "agreement": 0.875, "known": 24, "counts": False}
    found = {one["metric"]: one for one in figure_records(RESULT | {"judge": judge}, "1.1")}
    said = found["preferred by the judge"]
    assert (said["champion"], said["challenger"], said["improvement"]) == (0.1, 0.3, pytest.approx(0.2))
    assert said["interval"] == tango_interval(27, 9, 90) and said["base"] is None
    shown = rows(RESULT | {"judge": judge})
    assert (
        "golden: preferred by the judge, of 90 (agreement with people 87.5 % of 24; does not count)" in shown
    )


def test_without_its_parts_the_table_names_no_slice_and_nobodys_metadata() -> None:
    golden = RESULT["versions"]["1.0"]["golden"] | {"facets": {"customer=ACME": {"n": 9, "accuracy": 1.0}}}
    result = RESULT | {"versions": RESULT["versions"] | {"1.0": {"golden": golden}}}
    whole, apart = (figure_table(result, "1.1", parts).rows for parts in (True, False))
    assert [row for row in whole if row not in apart] == [
        row for row in whole if "refund" in row[0] or "customer=ACME" in row[0]
    ]
    assert len(whole) - len(apart) == 2


def test_before_the_evaluation_there_is_no_table() -> None:
    assert figure_table({}, None).rows == [] and figure_records({}, "1.0") == []


def test_a_figure_of_a_single_case_is_shown_without_an_interval() -> None:
    single = {"golden": {"similarity": {"n": 1, "difference": 0.125, "interval": None}}}
    assert rows(RESULT | {"improvements": single})["golden: similarity"][-2:] == ["+12.5 points", "–"]
