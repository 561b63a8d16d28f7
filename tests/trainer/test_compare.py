"""`starloop compare` on files of paired results, good and bad."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from feedback.errors import BadInputError
from trainer.case_file import read_outcomes
from trainer.commands.compare import compare

KEYS = {"n", "fixes", "regressions", "p_value", "difference", "interval", "decision", "reasons", "slices"}


def passed(champion: bool, challenger: bool, **more: Any) -> dict[str, Any]:
    return {"champion": {"passed": champion}, "challenger": {"passed": challenger}, **more}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [json.dumps({"id": f"case-{n}", **row}) for n, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(path: Path, *options: str) -> Result:
    return CliRunner().invoke(compare, [str(path), *options])


def report(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run(path, "--json").stdout)
    return document


def test_a_better_challenger_is_promoted_with_the_contracts_shape_and_exit_status_0(tmp_path: Path) -> None:
    rows = [passed(False, True)] * 40 + [passed(True, False)] * 8 + [passed(True, True)] * 152
    file = write(tmp_path / "cases.jsonl", rows)
    judged = report(file)
    assert set(judged) == KEYS
    assert (judged["n"], judged["fixes"], judged["regressions"]) == (200, 40, 8)
    assert judged["difference"] == pytest.approx(0.16)
    assert judged["interval"] == pytest.approx([0.0969, 0.2272], abs=0.0001)
    assert judged["p_value"] < 0.0001
    assert judged["decision"] == "promoted" and judged["slices"] == {}
    assert run(file).exit_code == 0


def test_an_equal_challenger_is_inconclusive_with_exit_status_1(tmp_path: Path) -> None:
    file = write(
        tmp_path / "cases.jsonl", [passed(True, True)] * 50 + [passed(False, True), passed(True, False)]
    )
    assert report(file)["decision"] == "inconclusive"
    result = run(file)
    assert result.exit_code == 1
    assert "No number of cases would decide" in result.stdout


def test_regression_cases_protect_and_do_not_count_as_golden(tmp_path: Path) -> None:
    golden = [passed(False, True)] * 40 + [passed(True, True)] * 160
    broken = [passed(True, False, slice="regression")] * 40 + [passed(True, True, slice="regression")] * 360
    judged = report(write(tmp_path / "cases.jsonl", golden + broken))
    assert judged["n"] == 200
    assert judged["decision"] == "rejected"
    assert judged["slices"]["regression"]["n"] == 400
    assert judged["slices"]["regression"]["decision"] == "rejected"


def test_every_slice_has_the_same_shape(tmp_path: Path) -> None:
    rows = [passed(False, True, slice="refunds")] * 20 + [passed(True, True, slice="billing")] * 20
    judged = report(write(tmp_path / "cases.jsonl", rows))
    assert list(judged["slices"]) == ["billing", "refunds"]
    assert all(set(part) == KEYS for part in judged["slices"].values())
    assert judged["slices"]["refunds"]["decision"] == "promoted"
    assert judged["slices"]["billing"]["decision"] == "inconclusive"


def test_a_critical_case_that_regresses_rejects(tmp_path: Path) -> None:
    rows = [passed(False, True)] * 60 + [passed(True, False, critical=True)]
    judged = report(write(tmp_path / "cases.jsonl", rows))
    assert judged["decision"] == "rejected"
    assert "case-60" in judged["reasons"][0]


def test_scores_are_compared_by_the_bootstrap(tmp_path: Path) -> None:
    generator = random.Random(4)
    rows = []
    for _ in range(200):
        before = generator.random() / 2
        after = before + generator.gauss(0.1, 0.1)
        rows.append({"champion": {"score": before}, "challenger": {"score": after}})
    judged = report(write(tmp_path / "cases.jsonl", rows))
    assert judged["decision"] == "promoted"
    low, high = judged["interval"]
    assert 0.07 < low < judged["difference"] < high < 0.13


def test_the_same_file_is_always_judged_the_same(tmp_path: Path) -> None:
    rows = [{"champion": {"score": n % 7 / 7}, "challenger": {"score": n % 5 / 5}} for n in range(60)]
    file = write(tmp_path / "cases.jsonl", rows)
    assert run(file, "--json").stdout == run(file, "--json").stdout


def test_scores_whose_mean_is_next_to_nothing_need_more_cases_than_there_can_be(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    scores = [1.0, -1.0] * 10 + [1e-200]
    rows = [
        {"id": f"{n}", "champion": {"score": 0}, "challenger": {"score": x}} for n, x in enumerate(scores)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "No number of cases would decide" in " ".join(report(file)["reasons"])


def test_a_single_score_is_said_to_have_no_interval(tmp_path: Path) -> None:
    file = write(tmp_path / "cases.jsonl", [{"champion": {"score": 0.2}, "challenger": {"score": 1000.7}}])
    assert report(file)["interval"] == [None, None]
    assert report(file)["decision"] == "inconclusive"
    assert "+1000.500 on average (one score has no interval)" in run(file).stdout
    assert "About 19 more cases would decide" in run(file).stdout


def test_scores_that_cancel_each_other_out_are_judged_too(tmp_path: Path) -> None:
    rows = [
        {"champion": {"score": 0}, "challenger": {"score": score}} for score in [1e12, -1e12, 1e-300] * 10
    ]
    assert report(write(tmp_path / "cases.jsonl", rows))["decision"] == "inconclusive"


def test_the_example_in_the_help_is_a_file_that_can_be_judged(tmp_path: Path) -> None:
    shown = CliRunner().invoke(compare, ["--help"]).stdout
    rows = [line.strip() for line in shown.splitlines() if line.strip().startswith("{")]
    file = tmp_path / "cases.jsonl"
    file.write_text("\n".join(rows), encoding="utf-8")
    assert report(file)["n"] == len(rows) == 2


def test_one_is_told_in_the_singular(tmp_path: Path) -> None:
    rows = [passed(False, True), passed(True, False)]
    reason = report(write(tmp_path / "cases.jsonl", rows))["reasons"][0]
    assert "golden set: 1 fix and 1 regression in 2 cases" in reason


def test_a_file_of_regression_cases_alone_promotes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "cases.jsonl", [passed(True, True, slice="regression")] * 300)
    assert report(file)["decision"] == "inconclusive"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "row: is not JSON"),
        ("[1]", "row: must be an object, not [1]"),
        ('{"champion": {"passed": true}, "challenger": {"passed": true}}', "id: must be a text"),
        ('{"id": "a", "champion": true, "challenger": {"passed": true}}', "champion: must be"),
        ('{"id": "a", "champion": {"passed": true}}', "challenger: must be"),
        ('{"id": "a", "champion": {}, "challenger": {"passed": true}}', "champion: has neither"),
        (
            '{"id": "a", "champion": {"passed": 1}, "challenger": {"passed": true}}',
            "champion.passed: must be true or false, not 1",
        ),
        (
            '{"id": "a", "champion": {"score": 0.5}, "challenger": {"score": true}}',
            "challenger.score: must be a number, not true",
        ),
        ('{"id": "a", "champion": {"score": NaN}, "challenger": {"score": 1}}', "NaN is not a JSON number"),
        (
            '{"id": "a", "champion": {"score": 1e999}, "challenger": {"score": 1}}',
            "champion.score: must be a finite",
        ),
        (
            '{"id": "a", "champion": {"score": 0}, "challenger": {"score": -1e308}}',
            "challenger.score: must lie between -1e+12 and 1e+12",
        ),
        (
            '{"id": "a", "champion": {"score": 1, "passed": true}, "challenger": {"score": 1}}',
            "champion: has both",
        ),
        (
            '{"id": "a", "champion": {"score": 1}, "challenger": {"passed": true}}',
            "challenger: has 'passed' where champion has 'score'",
        ),
        (
            '{"id": "a", "champion": {"passed": true}, "challenger": {"passed": true}, "slice": 3}',
            "slice: must be a text that names the slice, not 3",
        ),
        (
            '{"id": "a", "champion": {"passed": true}, "challenger": {"passed": true}, "slice": " "}',
            'slice: must be a text that names the slice, not " "; leave it out',
        ),
        (
            '{"id": "a", "champion": {"passed": true}, "challenger": {"passed": true}, "slice": "\\ud83d"}',
            "slice: holds half a surrogate pair (\\ud83d)",
        ),
        (
            '{"id": "\\udc00", "champion": {"passed": true}, "challenger": {"passed": true}}',
            "id: holds half a surrogate pair (\\udc00)",
        ),
        (
            '{"id": "a", "champion": {"passed": true}, "challenger": {"passed": true}, "critical": "yes"}',
            'critical: must be true or false, not "yes"',
        ),
        (
            '{"id": "a", "champion": {"passed": true}, "challenger": {"passed": true}, "critcal": true}',
            "critcal: is no field of a case; did you mean 'critical'?",
        ),
        (
            '{"id": "a", "champion": {"passed": true}, "challenger": {"passed": true}, "critica\\ud83d": true}',
            "row: holds half a surrogate pair (\\ud83d)",
        ),
        (
            '{"id": "good", "champion": {"passed": true}, "challenger": {"passed": true}}',
            "already stands on line 1",
        ),
        (
            '{"id": "b", "champion": {"score": 1}, "challenger": {"score": 1}}',
            "champion: has 'score' where line 1 has 'passed'",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, line: str, expected: str) -> None:
    file = tmp_path / "cases.jsonl"
    good = '{"id": "good", "champion": {"passed": true}, "challenger": {"passed": true}}'
    file.write_text(f"{good}\n\n{line}\n", encoding="utf-8")
    result = run(file, "--json")
    assert result.exit_code == 1
    assert f"{file}:3: " in result.stderr and expected in result.stderr
    assert result.stdout == ""


def test_what_else_a_row_has_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    row = {"id": "a", "champion": {"passed": True}, "challenger": {"passed": True}, "slice": "refunds"}
    file.write_text(json.dumps(row | {"prompt": "…", "uid": 7, "slices": ["x"]}), encoding="utf-8")
    assert report(file)["n"] == 1


def test_of_two_kinds_of_results_only_the_lines_of_the_second_are_named(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    kinds = ("passed", "score", "passed", "score")
    results: dict[str, object] = {"passed": True, "score": 0.5}
    rows = [
        {"id": f"{n}", "champion": {kind: results[kind]}, "challenger": {kind: results[kind]}}
        for n, kind in enumerate(kinds)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = run(file, "--json").stderr
    assert f"{file}:2: " in told and f"{file}:4: " in told and told.count(f"{file}:") == 2


def test_a_small_p_is_no_zero_and_scores_have_another_test(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    for value, expected in ((True, "exact McNemar: p < 0.0001"), (0.7, "sign test: p < 0.0001")):
        kind = "passed" if value is True else "score"
        rows = [
            {"id": f"{n}", "champion": {kind: kind == "score" and 0.1}, "challenger": {kind: value}}
            for n in range(30)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        assert expected in run(file).stdout


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_text("nope\n" * 30, encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        read_outcomes(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == 21 and lines[-1] == "… and 10 more"


def test_an_empty_file_and_one_that_is_not_text_say_so(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.jsonl", tmp_path / "binary.jsonl"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe\x00")
    assert "holds no case" in run(empty).stderr
    assert "is not UTF-8" in run(binary).stderr
    assert run(tmp_path / "absent.jsonl").exit_code == 2
