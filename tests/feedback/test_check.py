"""`starloop data check`: what it counts, what it warns of, and with which status it ends."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from feedback.checks.check import Report, check_file
from feedback.checks.cost import base_directory, estimate, parameters_of
from feedback.checks.scripts import script_of
from feedback.commands.data import data
from feedback.errors import NotFoundError
from feedback.imports.reading import Reading
from feedback.settings import Model, Settings, Training
from feedback.starter.grammar import KNOWN, draw

RNG = random.Random(5)
PROMPTS = sorted({draw(RNG, KNOWN, "base").text for _ in range(700)})
ANSWER = '{"intent": "refund", "urgency": "low"}'


def row(prompt: str, answer: str = ANSWER, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": answer, **more}


def rows(count: int, answer: str = ANSWER, **more: Any) -> list[dict[str, Any]]:
    """Rows that repeat nothing: other words in each."""
    words = [f"{RNG.getrandbits(64):x}" for _ in range(count)]
    return [row(f"{word} {word[::-1]} is {n}", answer, **more) for n, word in enumerate(words)]


def checked(tmp_path: Path, content: list[Any], model: Model | None = None, **how: Any) -> Report:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in content), encoding="utf-8")
    return check_file(file, Reading(), Settings(), model, **how)


@pytest.mark.parametrize(("count", "verdict"), [(49, "refuse"), (50, "warn"), (199, "warn"), (200, "ok")])
def test_the_size_guide_decides_on_distinct_examples(tmp_path: Path, count: int, verdict: str) -> None:
    distinct = rows(count)
    report = checked(tmp_path, [*distinct, distinct[0]])
    assert (report.rows, report.distinct, report.exact_duplicates, report.verdict) == (
        count + 1,
        count,
        1,
        verdict,
    )


def test_near_duplicates_and_conflicts_are_counted_apart(tmp_path: Path) -> None:
    text = "My parcel with the blue raincoat has not come yet, where is it now?"
    content = [
        *rows(200),
        row(text),
        row(text),
        row(text.upper()),
        row(text + "?"),
        row("Other question altogether"),
    ]
    content.append(row("Other question altogether", '{"intent": "bug", "urgency": "low"}'))
    report = checked(tmp_path, content)
    assert (report.exact_duplicates, report.near_duplicates, report.conflicts) == (1, 2, 1)
    assert any("1 prompts have different answers" in warning for warning in report.warnings)


def test_answers_that_say_the_same_in_another_spelling_are_no_conflict(tmp_path: Path) -> None:
    content = [row("One question"), row("One question", '{"urgency":"low","intent":"refund"}')]
    assert checked(tmp_path, content).conflicts == 0


def test_bad_rows_are_named_as_the_contract_says(tmp_path: Path) -> None:
    report = checked(tmp_path, [*rows(300), row("x", "")])
    assert report.bad == [
        {
            "line": 301,
            "field": "completion",
            "problem": "is empty; write the right answer, or leave the row out",
        }
    ]
    assert (report.rows, report.bad_rows, report.answers["empty"], report.verdict) == (301, 1, 1, "warn")


def test_mixed_forms_cut_answers_and_broken_contracts_are_seen(tmp_path: Path) -> None:
    content = [*rows(200), *rows(3, "plain words"), *rows(2, '{"intent": "refund", "urg')]
    report = checked(tmp_path, content, Model(name="assistant"))
    assert (report.answers["json"], report.answers["not_json"]) == (200, 5)
    assert (report.answers["against_contract"], report.answers["cut_short"]) == (5, 2)
    assert report.answers["cut_short_lines"] == [204, 205]
    told = " ".join(report.warnings)
    assert "200 answers are JSON and 5 are not" in told and "look cut off (lines 204, 205)" in told


def test_answers_that_a_limit_cut_are_seen_by_their_common_length(tmp_path: Path) -> None:
    content = [*rows(200, "short words"), *rows(6, "w" * 400)]
    assert checked(tmp_path, content).answers["cut_at_one_length"] == 6


def test_labels_and_sources_are_counted_and_their_bias_is_told(tmp_path: Path) -> None:
    content = [*rows(190, label="a", source="one"), *rows(15, label="b", source="two"), *rows(5, label="c")]
    report = checked(tmp_path, content)
    assert report.labels == {"a": 190, "b": 15, "c": 5} and report.sources == {"one": 190, "two": 15}
    told = " ".join(report.warnings)
    assert "out of balance: the most frequent has 190 rows, the rarest 5" in told
    assert "1 labels have fewer than 10 rows: c" in told and "one source, 'one', has 190 of 205" in told


def test_labels_come_from_the_task_contract_or_from_short_answers(tmp_path: Path) -> None:
    assert checked(tmp_path, rows(60), Model(name="assistant")).labels == {"refund": 60}
    assert checked(tmp_path, [*rows(30, "yes"), *rows(30, "no")]).labels == {"yes": 30, "no": 30}
    different = [row(one["prompt"], f"answer {n}") for n, one in enumerate(rows(60))]
    assert checked(tmp_path, different).labels == {}


def test_unusual_lengths_are_named_by_line(tmp_path: Path) -> None:
    content = [row("word " * (20 + n % 7) + str(n)) for n in range(60)]
    report = checked(tmp_path, [*content, row("word " * 5000)])
    assert report.outliers == {"count": 1, "lines": [61]}


def test_personal_data_is_counted_by_kind(tmp_path: Path) -> None:
    content = [*rows(250), row("Write to ann@example.org or bob@example.org")]
    report = checked(tmp_path, content)
    assert (report.pii, report.pii_kinds) == (2, {"email": 2})
    assert any(warning.startswith("personal data: 2 email") for warning in report.warnings)


def test_of_few_rows_no_share_is_longer_than_the_longest(tmp_path: Path) -> None:
    report = checked(tmp_path, [row("word " * words) for words in (10, 20, 40)], Model(name="assistant"))
    assert report.tokens is not None
    assert report.tokens.median < report.tokens.p95 <= report.tokens.longest


def test_tokens_are_those_of_the_bases_own_tokenizer_and_time_follows_from_them(tmp_path: Path) -> None:
    content = [row(prompt) for prompt in PROMPTS[:60]] + [row("long " * 3000)]
    report = checked(tmp_path, content, Model(name="assistant"))
    assert report.tokens is not None and report.estimate is not None
    assert report.tokens.longest > 2048 > report.tokens.p95 > report.tokens.median > 10
    assert report.tokens.over_limit == 1
    assert 1_500_000 < report.estimate.parameters < 2_500_000
    assert report.estimate.cost is None and report.estimate.hours > 0
    assert checked(tmp_path, content).tokens_missing == "name a model with --model"
    other = checked(tmp_path, content, Model(name="assistant", base="acme/chat"))
    assert other.tokens is None and "no tokenizer.json on this disk" in str(other.tokens_missing)


def test_the_estimate_is_the_formula_that_it_names() -> None:
    settings = Training(epochs=2, teraflops=100.0, price_per_hour=3.0)
    found = estimate(10_000_000, 8_000_000_000, settings)
    assert found.hours == pytest.approx(6 * 8e9 * 1e7 * 2 / 1e14 / 3600)
    assert found.cost == pytest.approx(found.hours * 3.0, abs=0.01) and "6 × parameters" in found.rests_on
    directory = base_directory(Model(name="m"))
    assert directory is not None and parameters_of(directory) > 0


def test_rows_that_stand_on_the_other_side_of_a_split_are_found(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(row(prompt)) + "\n" for prompt in PROMPTS[:50]), encoding="utf-8")
    near = row(PROMPTS[3].upper() + " ")
    report = checked(tmp_path, [near, *rows(60)], against=train)
    assert report.leaking == 1 and any(
        "near duplicates of rows that they are" in one for one in report.warnings
    )
    assert checked(tmp_path, [near]).leaking is None


def test_sides_are_counted_for_every_row_that_counts(tmp_path: Path) -> None:
    report = checked(tmp_path, rows(300))
    assert sum(report.sides.values()) == 300 and report.sides["train"] > 180


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Where is it?", "Latin"),
        ("Où est-ce?", "Latin"),
        ("Где заказ", "Cyrillic"),
        ("注文はどこ", "Japanese"),
        ("订单在哪里", "Han"),
        ("주문", "Hangul"),
        ("أين", "Arabic"),
        ("42 !?", "none"),
        ("", "none"),
    ],
)
def test_scripts_are_told_apart(text: str, script: str) -> None:
    assert script_of(text) == script


def test_a_mix_of_scripts_is_told(tmp_path: Path) -> None:
    report = checked(tmp_path, [*rows(200), *(row(f"Где заказ {n} {n * n} сегодня") for n in range(20))])
    assert report.scripts["Latin"] == 200 and any("several scripts" in one for one in report.warnings)


def test_a_file_that_cannot_be_read_to_its_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'prompt,completion\none,1\n"open,2\n')
    report = check_file(file, Reading(), Settings(), None)
    assert (report.verdict, report.bad[0]["line"], report.bad[0]["field"]) == ("refuse", 0, "file")
    with pytest.raises(NotFoundError, match="there is no such file"):
        check_file(tmp_path / "none.jsonl", Reading(), Settings(), None)


def run(tmp_path: Path, *arguments: str) -> Result:
    config = tmp_path / "starloop.toml"
    config.write_text(f'[storage]\ndirectory = "{tmp_path / "data"}"\n', encoding="utf-8")
    return CliRunner().invoke(data, ["check", *arguments, "--config", str(config)], catch_exceptions=False)


def test_the_command_ends_with_1_on_bad_rows_and_on_too_few_and_with_0_else(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for content, status in ((rows(200), 0), (rows(60), 0), (rows(20), 1), ([*rows(200), row("x", "")], 1)):
        file.write_text("".join(json.dumps(one) + "\n" for one in content), encoding="utf-8")
        done = run(tmp_path, str(file), "--json")
        assert done.exit_code == status
        contract = (
            "rows",
            "bad",
            "exact_duplicates",
            "near_duplicates",
            "conflicts",
            "pii",
            "warnings",
            "verdict",
        )
        assert json.loads(done.stdout).keys() >= set(contract)
    assert not (tmp_path / "data").exists()  # it only looks


def test_the_report_for_people_names_all_that_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in [*rows(60), row("x", "")]), encoding="utf-8")
    shown = run(tmp_path, str(file), "--model", "assistant").stdout
    for name in (
        "rows",
        "split",
        "duplicates",
        "conflicts",
        "labels",
        "sources",
        "tokens",
        "personal data",
        "estimate",
    ):
        assert name in shown
    assert "line 61: completion: is empty" in shown
    assert run(tmp_path, str(file), "--model", "nobody").exit_code == 1


def test_a_report_can_be_read_back(tmp_path: Path) -> None:
    report = checked(tmp_path, rows(60), Model(name="assistant"))
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
