"""`starloop data check`: one pass over a file, and what a careful engineer would say of it before training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field

from feedback.checks.answers import Answers
from feedback.checks.cost import Estimate, TokenCount, Tokens, base_directory, estimate, parameters_of
from feedback.checks.personal import count_personal, texts_in
from feedback.checks.prompts import COMPARED, Repetition
from feedback.checks.scripts import script_of
from feedback.checks.template import renders_tools
from feedback.datasets.chat import last_user_text
from feedback.datasets.contract import TaskContract
from feedback.datasets.groups import KnownPrompts, normalise, prompt_hash
from feedback.datasets.tool_calls import answer_text
from feedback.errors import BadInputError, NotFoundError
from feedback.imports.reading import Reader, Reading
from feedback.imports.rows import EMPTY_ANSWER, BadRow, Row
from feedback.imports.storing import TOLD, shown_name
from feedback.settings import Model, Settings

FEW, NOTICEABLE, STRONG = 200, 1000, 5000
"""Sizes of new distinct examples: below the first a warning; from the second on strong, up to the third."""
_ONE_SOURCE = 0.8
_IMBALANCE, _THIN_LABEL = 10, 10
_MINORITY = 0.05


class Report(Struct):
    """What was found. The first eight are what other programs may rely on."""

    rows: int = 0
    """All rows, the bad ones too."""
    bad: list[dict[str, Any]] = field(default_factory=list)
    exact_duplicates: int = 0
    near_duplicates: int = 0
    conflicts: int = 0
    """Prompts with different answers."""
    pii: int = 0
    warnings: list[str] = field(default_factory=list)
    verdict: Literal["ok", "warn", "refuse"] = "ok"
    file: str = ""
    format: str = ""
    bad_rows: int = 0
    unreadable: bool = False
    """The file could not be read to its end."""
    distinct: int = 0
    size: str = ""
    pii_kinds: dict[str, int] = field(default_factory=dict)
    structure: dict[str, int] = field(default_factory=dict)
    sides: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    outliers: dict[str, Any] = field(default_factory=dict)
    scripts: dict[str, int] = field(default_factory=dict)
    leaking: int | None = None
    """Rows whose prompt is like one of `--against`."""
    tokens: Tokens | None = None
    tokens_missing: str | None = None
    estimate: Estimate | None = None


def check_file(
    file: Path, reading: Reading, settings: Settings, model: Model | None, against: Path | None = None
) -> Report:
    """Look at every row of a file; one that cannot be read to its end is refused, as a bad row of line 0 says.

    Raises `NotFoundError` when a file or folder is not there, `BadInputError` when `against` cannot be read.
    """
    for one in (file, against):
        if one is not None and not one.exists():
            raise NotFoundError(f"{shown_name(one)}: there is no such file")
    name = shown_name(file)
    reader = Reader(file, name, reading)
    known = None
    if against is not None:
        others = Reader(against, shown_name(against), reading)
        known = known_prompts((row for row in others if isinstance(row, Row)), settings)
    report = check_rows(reader, name, settings, model, known)
    report.format = reader.format
    return report


def check_rows(
    rows: Iterable[Row | BadRow],
    name: str,
    settings: Settings,
    model: Model | None,
    known: KnownPrompts | None,
) -> Report:
    """Look at every row; `known` are prompts that are not to be seen here. `BadInputError` of the rows becomes a finding."""
    contract = TaskContract.from_settings(model) if model is not None else None
    seen = _Seen(settings, contract, model, known)
    report = Report(file=name)
    try:
        for row in rows:
            report.rows += 1
            if isinstance(row, BadRow):
                seen.empty += row.problem == EMPTY_ANSWER
                report.bad_rows += 1
                if len(report.bad) < TOLD:
                    report.bad.append(row._asdict())
            else:
                seen.add(row)
    except BadInputError as error:
        report.bad_rows, report.unreadable = report.bad_rows + 1, True
        report.bad.append(BadRow(0, "file", str(error))._asdict())
    seen.fill(report)
    report.leaking = seen.repetition.leaking if known is not None else None
    _judge(report, settings)
    return report


class _Seen:
    """Everything that counts, as rows go by."""

    def __init__(
        self,
        settings: Settings,
        contract: TaskContract | None,
        model: Model | None,
        known: KnownPrompts | None,
    ) -> None:
        self.repetition = Repetition(settings.dataset, known)
        self.answers = Answers(contract)
        self.empty = 0
        self._settings, self._contract = settings, contract
        self._personal: Counter[str] = Counter()
        self._structure: Counter[str] = Counter()
        self._scripts: Counter[str] = Counter()
        self._directory = base_directory(model) if model is not None else None
        tokenizer = self._directory / "tokenizer.json" if self._directory else None
        self._counter: TokenCount | None = None
        self._missing = "" if model is not None else "name a model with --model"
        if tokenizer is not None and tokenizer.is_file():
            self._counter = TokenCount(tokenizer, settings.training.max_tokens)
        elif model is not None:
            self._missing = f"the base {model.base!r} has no tokenizer.json on this disk"

    def add(self, row: Row) -> None:
        prompt = last_user_text(row.messages)
        last = row.messages[-1]
        answer = answer_text(last)
        whole = "\n".join(answer_text(message) for message in row.messages)
        if row.tools:
            whole += "\n" + json.dumps(row.tools, ensure_ascii=False)
        self.repetition.add(row, prompt, answer)
        self.answers.add(row.line, row.messages[:-1], answer, row.label, row.source, "tool_calls" in last)
        said = "\n".join(texts_in([row.messages, row.tools])) if row.tools else whole
        self._personal.update(count_personal(said))
        self._scripts[script_of(prompt)] += 1
        self._structure["of several turns"] += sum(one["role"] == "user" for one in row.messages) > 1
        self._structure["with a system message"] += row.messages[0]["role"] in ("system", "developer")
        self._structure["with tools"] += bool(row.tools)
        self._structure["with a rejected answer"] += row.rejected is not None
        if self._counter is not None:
            self._counter.add(whole)

    def fill(self, report: Report) -> None:
        repetition, answers = self.repetition, self.answers
        report.exact_duplicates, report.near_duplicates = repetition.exact, repetition.near
        report.conflicts, report.distinct = repetition.conflicts, repetition.distinct
        report.sides = dict(repetition.sides)
        report.pii, report.pii_kinds = self._personal.total(), dict(self._personal.most_common())
        report.structure = {what: count for what, count in self._structure.items() if count}
        report.scripts = dict(self._scripts.most_common())
        report.labels, report.sources = answers.label_counts(), dict(answers.sources.most_common())
        count, lines = answers.outliers()
        report.outliers = {"count": count, "lines": lines}
        report.answers = {
            "count": answers.count,
            "json": answers.as_json,
            "not_json": answers.count - answers.as_json,
            "against_contract": answers.against_contract if self._contract is not None else None,
            "empty": self.empty,
            "cut_short": answers.cut_short_count,
            "cut_short_lines": answers.cut_short,
            "cut_at_one_length": answers.cut_at_one_length(),
        }
        report.tokens = self._counter.result() if self._counter is not None else None
        report.tokens_missing = self._missing or None
        if report.tokens is not None and self._directory is not None:
            parameters = parameters_of(self._directory)
            if parameters:
                report.estimate = estimate(report.tokens.total, parameters, self._settings.training)
        offered = self._structure["with tools"]
        if offered and self._directory is not None and not renders_tools(self._directory):
            report.warnings.append(
                f"{offered} rows have tools, which the base's chat template does not render; they are left out of training"
            )
        if repetition.not_compared:
            report.warnings.append(
                f"{repetition.not_compared} rows beyond {COMPARED} prompts were not compared by likeness"
            )


def known_prompts(rows: Iterable[Row], settings: Settings) -> KnownPrompts:
    """The prompts of another side, searchable by likeness."""
    known = KnownPrompts(settings.dataset)
    prompts = [last_user_text(row.messages) for row in rows]
    known.place({prompt_hash(prompt): normalise(prompt) for prompt in prompts})
    return known


def _judge(report: Report, settings: Settings) -> None:
    """The warnings, the most serious first, and the verdict."""
    least, refused = settings.dataset.minimum_new, report.unreadable
    warn = report.warnings
    if report.unreadable:
        warn.append("the file cannot be read to its end")
    elif report.bad_rows:
        warn.append(f"{report.bad_rows} of {report.rows} rows cannot be taken")
    report.size = _size(report.distinct, least)
    if report.distinct < least:
        refused = True
        warn.append(f"{report.distinct} distinct examples; at least {least} are needed to train on")
    elif report.distinct < FEW:
        warn.append(f"{report.distinct} distinct examples; an effect is to be expected from {FEW} on")
    if report.conflicts:
        warn.append(f"{report.conflicts} prompts have different answers; none of them is learned")
    if report.leaking:
        warn.append(f"{report.leaking} rows are near duplicates of rows that they are to be apart from")
    repeated = report.exact_duplicates + report.near_duplicates
    if repeated > _MINORITY * report.rows:
        warn.append(f"{repeated} rows repeat others, {report.exact_duplicates} of them to the letter")
    _judge_answers(report.answers, warn)
    _judge_balance(report.labels, report.sources, warn)
    if report.pii:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.pii_kinds.items())
        warn.append(f"personal data: {kinds}; redact it or make sure that it may be trained on")
    if report.outliers["count"]:
        warn.append(
            f"{report.outliers['count']} rows are unusually long or short (lines {_lines(report.outliers['lines'])})"
        )
    if report.tokens is not None and report.tokens.over_limit:
        warn.append(f"{report.tokens.over_limit} rows are longer than [training] max_tokens and would be cut")
    _, *other = (
        (count for script, count in report.scripts.items() if script != "none") if report.scripts else (0,)
    )
    if sum(other) > _MINORITY * report.rows:
        warn.append(
            f"several scripts: {', '.join(f'{count} {script}' for script, count in report.scripts.items())}"
        )
    report.verdict = "refuse" if refused else "warn" if warn else "ok"


def _judge_answers(answers: Mapping[str, Any], warn: list[str]) -> None:
    if answers["json"] and answers["not_json"]:
        warn.append(
            f"{answers['json']} answers are JSON and {answers['not_json']} are not; give all one form"
        )
    if answers["against_contract"]:
        warn.append(
            f"{answers['against_contract']} answers break the model's task contract and are not learned"
        )
    if answers["cut_short"]:
        warn.append(
            f"{answers['cut_short']} answers look cut off (lines {_lines(answers['cut_short_lines'])})"
        )
    if answers["cut_at_one_length"]:
        warn.append(
            f"{answers['cut_at_one_length']} answers end at the same longest length, as a limit leaves them"
        )


def _judge_balance(labels: Mapping[str, int], sources: Mapping[str, int], warn: list[str]) -> None:
    if len(labels) > 1:
        most, least = max(labels.values()), min(labels.values())
        rare = [label for label, count in labels.items() if count < _THIN_LABEL]
        if most > _IMBALANCE * least:
            warn.append(f"labels are out of balance: the most frequent has {most} rows, the rarest {least}")
        if rare:
            warn.append(f"{len(rare)} labels have fewer than {_THIN_LABEL} rows: {', '.join(rare[:5])}")
    if sources:
        name, count = max(sources.items(), key=lambda item: item[1])
        if len(sources) > 1 and count > _ONE_SOURCE * sum(sources.values()):
            warn.append(
                f"one source, {name!r}, has {count} of {sum(sources.values())} rows; others are hardly heard"
            )


def _size(distinct: int, least: int) -> str:
    if distinct < least:
        return "too few to train on"
    if distinct < FEW:
        return "few: an effect may not show"
    if distinct < NOTICEABLE:
        return "a noticeable effect is to be expected"
    return "a strong effect is to be expected" + (
        "" if distinct <= STRONG else "; more than is usually needed"
    )


def _lines(lines: list[int]) -> str:
    return ", ".join(map(str, lines[:5])) + (" …" if len(lines) > 5 else "")
