"""Which kinds of input fail: what the tests of `feedback.analysis` find in a model's production traffic.

`python -m feedback.datasets.failing_kinds` does so in a process of its own, for the gateway.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from sqlmodel import Session, col, func, select

from feedback.apart import answer_apart, ask_apart
from feedback.datasets.groups import normalise
from feedback.ids import first_id_at
from feedback.settings import Settings
from feedback.storage.database import open_database
from feedback.storage.inferences import of_model
from feedback.storage.tables import Failure, Inference

MOST = 50_000
"""Prompts that are looked at, the newest: some four seconds and 260 MB; 20 s and 900 MB where each has 300 words."""
_EXAMPLES = 3
SHOWN = 300
"""Characters of an example's prompt."""
_MOST_GROUPS = 8
_GROUP_SIZE = 10
_STATES = ("quarantine", "corrected")
_LONGEST_VALUE = 100


class Example(Struct):
    """One failing input."""

    inference_id: str
    prompt: str


class FailingKind(Struct):
    """A kind of input that fails more often than the rest."""

    phrases: list[str]
    """Words that stand in its prompts, the clearest first."""
    metadata: list[str]
    """`key=value` of the requests' metadata."""
    prompts: int
    failures: int
    share: float
    """Of its prompts that failed, 0..1."""
    elsewhere: float
    """Of all others."""
    p_value: float
    q_value: float
    """Adjusted for all that was tested."""
    examples: list[Example]


class FailingGroup(Struct):
    """Failing inputs that are alike, for reading: no test stands behind it."""

    words: list[str]
    failures: int
    examples: list[Example]


class FailingKinds(Struct):
    """The whole answer."""

    items: list[FailingKind]
    groups: list[FailingGroup]
    prompts: int
    """Different prompts looked at: of one user, the same one counts once."""
    failures: int
    tested: int
    """Phrases and slices that were tested together."""
    level: float
    """Share of the kinds that is false on average, at most."""
    complete: bool
    """False where the period has more inferences than are looked at, and only the newest were."""
    next_cursor: str | None = None

    @property
    def kinds(self) -> list[FailingKind | FailingGroup]:
        """Kinds and groups: whatever has examples."""
        return [*self.items, *self.groups]


class Question(Struct):
    """What to look at."""

    settings: Settings
    model: str
    since: float | None = None
    until: float | None = None
    """Unix seconds, `since` inclusive and `until` exclusive."""


class _Asked(Struct):
    inference_id: str
    prompt: str
    failed: bool
    metadata: dict[str, str]


def kinds_apart(question: Question) -> FailingKinds:
    """As `find_failing_kinds`, in a process of its own. Raises what `ask_apart` raises."""
    told = f"looking for the failing kinds of {question.model!r}"
    return ask_apart("feedback.datasets.failing_kinds", question, FailingKinds, told)


def find_failing_kinds(
    session: Session, model: str, since: float | None = None, until: float | None = None
) -> FailingKinds:
    """Test what was asked of a model in a period. Failures are cases in quarantine and corrected ones.

    Answers that nobody complained about count as good ones, so a kind whose users rate more shows more failures: what is
    found here is where to look, not a measure of quality.
    """
    from feedback.analysis.clusters import clusters_of  # with SciPy: only where it is needed
    from feedback.analysis.kinds import LEVEL, failing_kinds

    asked, complete = _asked(session, model, since, until)
    failing = [one for one in asked if one.failed]
    kinds = failing_kinds(
        [one.prompt for one in asked], [one.failed for one in asked], [one.metadata for one in asked]
    )
    clusters = clusters_of(
        [one.prompt for one in failing], min(_MOST_GROUPS, max(1, len(failing) // _GROUP_SIZE))
    )
    return FailingKinds(
        items=[
            FailingKind(
                phrases=[one.name for one in kind.properties if one.kind == "phrase"],
                metadata=[one.name for one in kind.properties if one.kind == "metadata"],
                prompts=len(kind.prompts),
                failures=kind.failures,
                share=kind.share,
                elsewhere=kind.elsewhere,
                p_value=kind.p_value,
                q_value=kind.q_value,
                examples=_examples([asked[place] for place in kind.prompts if asked[place].failed]),
            )
            for kind in kinds.found
        ],
        groups=[
            FailingGroup(
                cluster.words,
                len(cluster.members),
                _examples([failing[place] for place in cluster.members]),
            )
            for cluster in clusters
        ],
        prompts=len(asked),
        failures=len(failing),
        tested=kinds.tested,
        level=LEVEL,
        complete=complete,
    )


def _asked(
    session: Session, model: str, since: float | None, until: float | None
) -> tuple[list[_Asked], bool]:
    """The newest prompts, and whether they are all there are. Whoever asks the same again and again counts once."""
    failed = col(Failure.id).is_not(None) & col(Failure.state).in_(_STATES)
    query = (
        select(  # type: ignore[call-overload]
            Inference.id,
            Inference.user,
            Inference.conversation,
            Inference.prompt,
            Inference.metadata_,
            failed,
        )
        .outerjoin(Failure, col(Failure.inference_id) == col(Inference.id))
        .where(
            of_model(model),
            Inference.purpose == "production",
            Inference.status == 200,
            func.length(Inference.prompt) > 0,
        )
        .order_by(col(Inference.id).desc())
        .limit(MOST + 1)
    )
    if since is not None:
        query = query.where(col(Inference.id) >= first_id_at(since))
    if until is not None:
        query = query.where(col(Inference.id) < first_id_at(until))
    found: dict[tuple[str, str], _Asked] = {}
    count = 0
    for identifier, user, conversation, prompt, metadata, bad in session.exec(query):
        count += 1
        if count > MOST:
            break
        key = user or conversation or identifier, normalise(prompt)
        known = found.get(key)
        if known is None or (bad and not known.failed):
            found[key] = _Asked(identifier, prompt, bool(bad), _slices(metadata))
    return list(found.values()), count <= MOST


def _slices(metadata: dict[str, object] | None) -> dict[str, str]:
    """What can be sliced by: short texts, numbers and truths."""
    return {
        key: str(value)
        for key, value in (metadata or {}).items()
        if isinstance(value, str | int | float | bool) and len(str(value)) <= _LONGEST_VALUE
    }


def _examples(asked: Sequence[_Asked]) -> list[Example]:
    return [Example(one.inference_id, one.prompt[:SHOWN]) for one in asked[:_EXAMPLES]]


def _answer(question: Question) -> FailingKinds:
    database = open_database(question.settings)
    try:
        with database.reading() as session:
            return find_failing_kinds(session, question.model, question.since, question.until)
    finally:
        database.close()


if __name__ == "__main__":
    answer_apart(Question, _answer)
