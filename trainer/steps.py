"""What a cycle does, one function a step, in the order of `STEPS`.

Each is idempotent: called again after a crash at any point, it finds what it had done and goes on from there. A step
ends either with `record.end`, and the next one follows, or with `record.finish`, and the cycle is over. An error
that it raises is the runner's business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from statistics import fmean

import msgspec

from feedback.datasets.cases import import_base_examples
from feedback.datasets.contract import TaskContract
from feedback.datasets.failures import triage_in_steps
from feedback.datasets.freeze import build_dataset
from feedback.errors import DataRefusedError
from feedback.ids import new_id
from feedback.registry.models import get_model
from trainer.asleep import engines_asleep
from trainer.contenders import contend_where_configured
from trainer.evaluation import pinned
from trainer.findings import Latency, counted
from trainer.gate import Evidence, decide
from trainer.improvements import improved_scores, improvements
from trainer.judge import finding_of, judge_where_configured, shown
from trainer.latency import measure
from trainer.leftovers import run_folder
from trainer.metrics import Metrics, agreement
from trainer.nights import counted as counting_nights
from trainer.proposals import propose_where_configured
from trainer.record import CycleRecord
from trainer.repetition import refuse_repetition
from trainer.scoring import Answers, outcomes, validity
from trainer.settling import settle
from trainer.suites import Suites, collect, fair_to, refuse_overlap
from trainer.training import Progress
from trainer.training_lines import TrainingLines
from trainer.turns import Hours
from trainer.workshop import Workshop

Step = Callable[[Workshop, CycleRecord], None]
_SAMPLED = 100
"""Golden cases that several samples are drawn for."""
_log = logging.getLogger(__name__)


def triage(workshop: Workshop, record: CycleRecord) -> None:
    """Select failure cases among what was answered since the last time, and take in the model's base examples."""
    settings, model = workshop.settings, workshop.model(record.row.model)
    with workshop.database.session() as session:
        imported = import_base_examples(session, settings, model.name, workshop.clock())
        session.commit()
    found = triage_in_steps(workshop.database, model.name, settings, workshop.clock())
    cases = counted(imported, "regression case")
    taken = f"; {cases} taken from the base examples" if imported else ""
    record.end(f"{counted(found, 'failure case')} {'is' if found == 1 else 'are'} new or changed{taken}")


def freeze(workshop: Workshop, record: CycleRecord) -> None:
    """Curate examples from corrections and freeze them with their replay. Its id stands in the row before it does."""
    if record.row.dataset_id is None:
        record.save(dataset_id=new_id(workshop.clock()))
    dataset_id = record.row.dataset_id
    assert dataset_id is not None
    proposed = propose_where_configured(
        workshop, workshop.model(record.row.model), workshop.teacher, record.check
    )
    try:
        dataset = build_dataset(
            workshop.database,
            workshop.settings,
            record.row.model,
            dataset_id,
            record.row.guards_off,
            workshop.clock(),
        )
    except DataRefusedError:
        record.save(dataset_id=None)
        raise
    _suites(workshop, record)  # before hours of training rather than after
    record.end("; ".join([f"dataset {dataset.id}: {dataset.note}", *proposed]))


def train(workshop: Workshop, record: CycleRecord) -> None:
    """Fine-tune in a child process, check the adapter and publish it as the next version."""

    hours, made = Hours.of(workshop.settings.training), record.row.version is not None
    if not made:
        refuse_repetition(workshop, record.row)
        hours.check_begin(workshop.clock())
    lines = TrainingLines(_log.info)

    def on_progress(progress: Progress) -> None:
        record.check()
        hours.check_going_on(workshop.clock())
        lines(progress)
        record.progress(**msgspec.to_builtins(progress))

    what = f"cycle {record.row.id} of {record.row.model}"
    sleep = nullcontext() if made else engines_asleep(workshop.settings, what, record.pause)
    with counting_nights(run_folder(workshop, record.row.id), workshop.settings.training), sleep:
        version = workshop.make_version(record.row, on_progress)
        record.end(f"{record.row.model}@{version.number}: {version.note}", version=version.number)


def evaluate(workshop: Workshop, record: CycleRecord) -> None:
    """Let base, champion and challenger answer all suites through the server, and time the last two in turns.

    Contenders that every cycle asks answer them too; their figures stand apart, where no decision reads them.
    """
    suites, model = _suites(workshop, record), workshop.model(record.row.model)
    champion = _champion(workshop, record)
    if champion == record.challenger:
        told = f"somebody promoted {record.row.model}@{champion} before it was compared with the champion before it"
        record.finish("promoted", f"{told}, so there is nothing to decide")
        return
    answers = _answers(workshop, record, suites, champion)
    contract = TaskContract.from_settings(model)
    versions = {
        number: {
            suite: msgspec.to_builtins(Metrics.of(cases, given, contract))
            for suite, cases in suites.named().items()
        }
        for number, given in answers.items()
    }
    ours, theirs = (pinned(workshop.settings, model, number) for number in (champion, record.challenger))
    cases = [*suites.golden, *suites.regression]
    both = (champion, record.challenger)
    agreed = _consistency(workshop, record, suites, contract, both)
    compared = {
        suite: improvements(cases, answers[champion], answers[record.challenger], contract)
        for suite, cases in suites.named().items()
        if cases
    }
    if agreed and suites.golden:
        compared["golden"]["consistency"] = improved_scores(*(agreed[number] for number in both))
    latency = measure(workshop.evaluation(), ours, theirs, cases, record.check)
    judged, trouble = judge_where_configured(
        workshop, suites.golden, answers[champion], answers[record.challenger], record.check
    )
    facts = {"latency": msgspec.to_builtins(latency), "improvements": msgspec.to_builtins(compared)}
    facts["consistency"] = {
        number: fmean(shares.values()) if shares else None for number, shares in agreed.items()
    }
    facts["judge"] = None if judged is None else shown(judged)
    facts["contenders"] = contend_where_configured(workshop, model, suites, record.check)
    trouble += [f"{name}: {one['stopped']}" for name, one in facts["contenders"].items() if one["stopped"]]
    record.add(champion=champion, versions=versions, **facts)
    counts = ", ".join(f"{len(cases)} {suite}" for suite, cases in suites.named().items())
    told = f"{len(answers)} versions answered {counts} cases; the champion is {champion}"
    record.end("; ".join([told, *trouble]))


def gate(workshop: Workshop, record: CycleRecord) -> None:
    """Judge the challenger by the answers, and tell how often the golden cases were read before."""
    result = record.row.result or {}
    suites, champion = _suites(workshop, record), result["champion"]
    answers = _answers(
        workshop, record, suites, champion
    )  # from the cache, but for cases that are newer than it
    ours, theirs = answers[champion], answers[record.challenger]
    contract = TaskContract.from_settings(workshop.model(record.row.model))
    fair = fair_to([champion], suites.regression)
    evidence = Evidence(
        golden=outcomes(suites.golden, ours, theirs, contract),
        regression=outcomes(fair, ours, theirs, contract),
        praised=outcomes(
            [case for case in suites.regression if case.version == champion], ours, theirs, contract
        ),
        holdout=outcomes(suites.holdout, ours, theirs, contract),
        validity=validity([*suites.golden, *fair] or suites.regression, ours, theirs, contract),
        latency=result["latency"] and msgspec.convert(result["latency"], Latency),
        looks=_looks(workshop, record, suites),
        judge=finding_of(result.get("judge")),
        limit=workshop.settings.evaluation.suite_limit,
    )
    decision = decide(evidence, workshop.settings.promotion)
    record.add(gate=msgspec.to_builtins(decision))
    record.end(f"{decision.decision}: {decision.reason}")


STEPS: dict[str, Step] = {
    "triage": triage,
    "dataset": freeze,
    "train": train,
    "evaluate": evaluate,
    "gate": gate,
    "settle": settle,
}


def _suites(workshop: Workshop, record: CycleRecord) -> Suites:
    """The suites as they are now, none of which the cycle's dataset may hold."""
    assert record.row.dataset_id is not None
    with workshop.database.reading() as session:
        suites = collect(session, record.row.model, workshop.settings)
        refuse_overlap(session, suites, record.row.dataset_id)
    return suites


def _answers(workshop: Workshop, record: CycleRecord, suites: Suites, champion: str) -> dict[str, Answers]:
    """All suites answered by base, champion and challenger, by number."""
    evaluation, model = workshop.evaluation(), workshop.model(record.row.model)
    answers: dict[str, Answers] = {}
    for number in dict.fromkeys(("base", champion, record.challenger)):

        def advance(done: int, total: int, version: str = number) -> None:
            record.progress(version=version, done=done, total=total)

        version = pinned(workshop.settings, model, number)
        answers[number] = evaluation.answers(version, suites.every(), record.check, advance)
    return answers


def _consistency(
    workshop: Workshop, record: CycleRecord, suites: Suites, contract: TaskContract, numbers: Sequence[str]
) -> dict[str, dict[str, float]]:
    """How far several samples of a version agree with each other, by number and case; nothing where no samples are asked for."""
    wanted = workshop.settings.evaluation
    if not wanted.samples:
        return {}
    model, evaluation = workshop.model(record.row.model), workshop.evaluation()
    cases = suites.golden[:_SAMPLED]
    return {
        number: agreement(
            evaluation.samples(pinned(workshop.settings, model, number), cases, wanted.samples, record.check),
            contract,
        )
        for number in numbers
    }


def _champion(workshop: Workshop, record: CycleRecord) -> str:
    """The version to beat: the one that serves now."""
    with workshop.database.reading() as session:
        return get_model(session, record.row.model).champion or "base"


def _looks(workshop: Workshop, record: CycleRecord, suites: Suites) -> list[int]:
    """How often each golden case was read before: by how many versions, base and this cycle's own aside."""
    begun = next(entry["started"] for entry in record.row.steps if entry["step"] == "evaluate")
    until = datetime.fromisoformat(begun).timestamp()
    apart = ("base", record.challenger)
    return workshop.evaluation().read_before(record.row.model, suites.golden, apart, until)
