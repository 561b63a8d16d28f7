"""Why an example is in a dataset version, and why what was said about an inference is in none.

The figures of an example are those that were frozen with it: nothing is computed again from what came later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from feedback.datasets.asked import asked_of
from feedback.datasets.candidates import candidates_of
from feedback.datasets.files import SPLITS, read_rows
from feedback.datasets.groups import groups_by_hash, prompt_hash
from feedback.datasets.neighbours import DENIED
from feedback.datasets.splits import row_side, user_key
from feedback.datasets.tool_calls import turn_of
from feedback.errors import NotFoundError
from feedback.storage.case_table import JUDGING
from feedback.storage.tables import Case, DatasetVersion, Example, Failure, Inference

_RUNGS = {
    "demonstration": "a user wrote it as a correction",
    "reviewer": "a reviewer wrote it",
    "sibling": "a better-rated answer to the same prompt or one that is nearly the same",
    "teacher": "a teacher proposed it, and it was accepted",
    "best-of-n": "the best of several answers of the model's own, and it was accepted",
    "replay": "an answer that was rated well, replayed so that old skill stays",
    "base": "a base example, replayed so that old skill stays",
}


def why_example(session: Session, directory: Path, dataset: DatasetVersion, which: str) -> dict[str, Any]:
    """An example of a dataset version, by position or by (the beginning of) its content hash, with what let it in.

    Raises `NotFoundError` where there is none, or its frozen file is not there.
    """
    query = select(Example).where(
        Example.dataset_id == dataset.id, col(Example.split).not_in(("pairs", "rated"))
    )
    if which.isdecimal() and len(which) < 10:
        query = query.where(Example.position == int(which))
    else:
        query = query.where(col(Example.content_hash).startswith(which, autoescape=True))
    row = session.exec(query.order_by(col(Example.position)).limit(1)).first()
    if row is None or not which:
        raise NotFoundError(
            f"dataset {dataset.id} has no example {which[:70]!r}; give its position, from 0 on, or its hash (`id` in "
            "the rows, `starloop data export ID --format rows`)"
        )
    for line in read_rows(directory, dataset.id, row.split):
        if line["id"] == row.content_hash:
            break
    else:
        raise NotFoundError(
            f"dataset {dataset.id}: the frozen rows no longer hold this example; it was erased"
        )
    why = line.get("why", {})
    return {
        "dataset_id": dataset.id,
        "model": dataset.model,
        "position": row.position,
        "id": row.content_hash,
        "split": row.split,
        "source": row.source,
        "new": row.new,
        "weight": line["weight"],
        "group": row.group_key,
        "side": "train",
        "inference_id": row.inference_id,
        "feedback_id": row.feedback_id,
        "rater": row.rater,
        "messages": line["messages"],
        "tools": line.get("tools"),
        "answer": line["answer"],
        "rules": dataset.manifest["rules"],
        "guards_off": dataset.manifest["guards_off"],
        "why": why,
        "told": _told(why, line, dataset.manifest),
    }


def _told(why: Mapping[str, Any], line: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """Each rule with its figure, as sentences."""
    rules = manifest["settings"]
    found = [f"source: {_RUNGS.get(why.get('rung', ''), line['source'])}"]
    if votes := why.get("votes"):
        found.append(
            f"votes: {votes['raters']} said so, believed {votes['belief']:g} together; {votes['against']:g} in belief "
            "said otherwise"
        )
    if stars := why.get("stars"):
        if isinstance(stars, list):
            found.append(
                f"stars: {', '.join(map(str, stars))} by raters who are believed, and nobody doubted it"
            )
        else:
            found.append(
                f"stars: {stars['better']:g} against {stars['failed']:g} for the answer that failed "
                "(at least 4, and 2 more, are needed)"
            )
    if rater := why.get("rater"):
        shared = rater.get("compared") or 0
        agreed = (
            f", agrees with others in {rater['agreement']:.0%} of {shared:g} comparisons" if shared else ""
        )
        found.append(
            f"rater: reliability {rater['reliability']:.2f}, the crowd's {rater['crowd']:.2f}{agreed}; low is below "
            f"{rules.get('low_reliability', 0) * rater['crowd']:.2f}"
        )
    if near := why.get("neighbours"):
        found.append(
            f"like prompts: of {near['voters']} answers to the nearest, {near['agree']:.0%} of the votes are for its label and "
            f"{near['against']:.0%} for the strongest other one"
        )
        if (denied := near.get("denied")) is not None:
            found.append(
                f"complaints: {denied:.0%} of what was said about the same answer to like prompts; left out is what more than "
                f"{DENIED:.0%} complain about"
            )
    if cap := why.get("cap"):
        found.append(f"cap: new example {cap['place']} of at most {cap['cap']} of its rater")
    for check in why.get("checks", []):
        found.append(f"check: {check['check']}: {check['told']}")
    if accepted := why.get("accepted_by"):
        found.append(f"accepted by: {accepted}")
    found.append(f"weight: {line['weight']:g} of its loss")
    found.append(
        f"side: prompt group {line['group'][:12]} and its user both stand on the training side "
        f"({rules['evaluation_share']:.0%} of each are kept for evaluation)"
    )
    if "tool_calls" in turn_of(line["answer"], line.get("tools")):
        found.append("tools: its calls fit the schemas of the tools that were offered")
    else:
        found.append("contract: the answer meets the model's task contract")
    if manifest["guards_off"]:
        found.append(f"guards switched off by name: {', '.join(manifest['guards_off'])}")
    return found


def why_inference(session: Session, model: str, inference_id: str, share: float) -> dict[str, Any]:
    """Where what was said about an inference went: the dataset versions that it is in, or why it waits.

    Raises `NotFoundError` for an inference that the model did not answer.
    """
    inference = session.get(Inference, inference_id)
    if inference is None or inference.model != model:
        raise NotFoundError(
            f"{model!r} has no inference {inference_id[:60]!r}; `starloop failures list` shows failed ones"
        )
    failure = session.exec(select(Failure).where(Failure.inference_id == inference_id)).first()
    datasets = list(
        session.exec(
            select(Example.dataset_id)
            .where(Example.inference_id == inference_id, col(Example.split).in_(SPLITS))
            .order_by(col(Example.dataset_id))
        )
    )
    found = {
        "inference_id": inference_id,
        "model": model,
        "datasets": datasets,
        "failure_id": failure and failure.id,
        "state": failure and failure.state,
        "waits": failure and failure.waits,
        "candidates": [
            {"id": row.id, "source": row.source, "state": row.state}
            for row in candidates_of(session, inference_id)
        ],
    }
    return found | {"told": _where(session, inference, failure, datasets, share)}


def _where(
    session: Session, inference: Inference, failure: Failure | None, datasets: list[str], share: float
) -> str:
    if datasets:
        return f"it is in {len(datasets)} dataset version{'' if len(datasets) == 1 else 's'}, last in {datasets[-1]}"
    of = Case.inference_id == inference.id, col(Case.state).in_((*JUDGING, "lapsed"))
    case = session.exec(select(Case).where(*of).order_by(col(Case.state))).first()
    if case is not None and case.state != "lapsed":
        praised = ", as raters who are believed praised it," if case.version else ""
        return f"it is a case of the {case.suite} suite{praised} so versions are judged by it, and it is never trained on"
    if failure is None and case is not None:
        return (
            "it was praised and a case of the regression suite, until somebody who is believed spoke against it or its prompt; "
            "it is one again once that is over"
        )
    if failure is None:
        return "it is no failure case, or triage has not looked yet; well-rated answers are replayed in turns"
    if failure.waits:
        return f"it waits: {failure.waits}"
    if failure.state in ("accepted", "dismissed"):
        return f"a person or its rater said that nothing is to be learned from it ({failure.state} by {failure.resolved_by})"
    if inference.purpose != "production" or asked_of(inference.request) is None:
        return "it is no chat of texts and calls of production, or its calls do not go with its tools, so it is not learned from"
    group = groups_by_hash(session, [prompt_hash(inference.prompt or "")]).get(
        prompt_hash(inference.prompt or "")
    )
    if group is None or (failure.curated is None and failure.state == "quarantine"):
        return "no dataset version was made since it came; the next one looks at it"
    if session.exec(select(Case.id).where(Case.group_key == group.key, col(Case.state).in_(JUDGING))).first():
        return "its prompt is one that versions are judged by, so it is never trained on"
    side = row_side(group.key, user_key(inference.user, inference.conversation, inference.id), share)
    if group.unused or side is None:
        return "its prompt and its user stand on different sides, so it is used neither to train nor to judge"
    if side == "evaluation":
        return "it stands on the evaluation side: it is held out to look at failures, never trained on"
    return "its correction is accepted, and goes into the next dataset version unless another of its prompt group stands for it"
