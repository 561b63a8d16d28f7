"""What is said about like prompts: whether it speaks against one correction or one praised answer. Pure.

A label that one rater stands for is right about as often as that rater; the prompts around it, whose answers others
demonstrated, corrected or praised, say more. The nearest of them vote, as far as they are like it and believed. Three
rounds, in which a voter counts as far as its own neighbours agree with it, so that lies which stand among true words lose
their voice. What is clearly contradicted waits for a reviewer; a label that hardly any voter has is never contradicted, as
something new looks like that.

Most who complain write no correction, and what they say is heard too: praise counts for little where the same answer to the
prompts most like it was mostly complained about. That tells where a model knows nothing yet, before corrections do.

Only where the contract tells labels apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from feedback.datasets.chat import Messages, last_user_text
from feedback.datasets.contract import TaskContract
from feedback.datasets.raters import BAD, GOOD, Trust
from feedback.datasets.said import BaseExample, Said
from feedback.datasets.votes import REVIEWER, key_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEAREST = 10
"""Voters for each prompt."""
CLEARLY, LEAST = 0.25, 0.4
"""Contradicted is what has at most this part of the strongest other label's votes, which are this share of all at least."""
CLEARLY_WRITTEN, LEAST_WRITTEN = 0.05, 0.75
"""The same for a correction: who writes one takes more care than who praises, and what is new to the model begins so."""
KNOWN = 10
"""Voters of a label below which it may be new, and nothing speaks against it."""
PRAISE = 0.5
"""What praise weighs beside a written answer: lenient raters praise what looks right."""
DENIED = 0.6
"""Share of complaints, among what was said about the same label for the prompts most like it, from which praise is contradicted."""
_MASS = 0.5
"""Likeness and belief of all voters together below which nothing near enough is known."""
_ROUNDS = 3
_VOTERS = 8000
"""At most so many vote, the newest; all are judged."""
_HEARD = 2000
"""The same of praise and complaints together, for each label."""
_CHUNK = 256
_LONGEST = 2


class Verdict(NamedTuple):
    """What the nearest voters say of one label, in shares of 0..1 of their votes."""

    voters: int
    agree: float
    against: float
    """For the strongest other label."""
    other: str
    contradicted: bool
    denied: float | None = None
    """For praise: share of complaints in what was said about the same label for the prompts most like it."""

    @property
    def facts(self) -> dict[str, Any]:
        """As a row of a dataset version keeps them."""
        facts = {"voters": self.voters, "agree": round(self.agree, 3), "against": round(self.against, 3)}
        return facts if self.denied is None else facts | {"denied": round(self.denied, 3)}

    @property
    def why(self) -> str:
        """The figures as a sentence."""
        return (
            f"{self.voters} answers to the prompts most like it speak against it: {self.against:.0%} of their votes are "
            f"for {self.other[:60]!r}, {self.agree:.0%} for its own, so it waits for a reviewer"
        )


class _Word(NamedTuple):
    """One statement about which label a prompt has."""

    text: str
    label: str
    rater: str | None
    """None for a reviewer and for base examples, which are not judged."""
    feedback_id: str | None
    weight: float
    written: bool = False
    """As a correction; False where an answer is praised."""


def heed_neighbours(
    trust: Trust, said: Sequence[Said], base: Sequence[BaseExample], contract: TaskContract
) -> Trust:
    """`trust` with what like prompts say of each correction and each praised answer, by feedback id.

    Looks at the training side alone. Without labels to tell apart, or where nobody is weighed, it is returned as it is.
    """
    if not trust.guarded:
        return trust
    words = [*_shown(base, contract), *_spoken(said, contract, trust)]
    if len({word.label for word in words}) < 2 or all(word.feedback_id is None for word in words):
        return trust
    return replace(trust, neighbours=_judged(words, list(_complaints(said, contract, trust))))


def _shown(base: Sequence[BaseExample], contract: TaskContract) -> Iterator[_Word]:
    for row in base:
        label = contract.slice_of(row.conversation.answer) if row.side == "train" else None
        if label is not None and contract.valid(row.conversation.answer, row.conversation.messages):
            yield _Word(row.conversation.prompt, label, None, None, 1.0)


def _spoken(said: Sequence[Said], contract: TaskContract, trust: Trust) -> Iterator[_Word]:
    for one in said:
        if one.side != "train" or one.resolution == "dismissed":
            continue
        settled = one.reviewed_answer if one.resolution == "corrected" else None
        if one.resolution == "accepted":
            settled = one.output
        if settled:
            yield from _word(one.messages, settled, None, None, 1.0, contract)
            continue
        for signal in one.signals:
            written = (signal.correction or "").strip()
            if signal.feedback_id in trust.held or (not written and (signal.rating or 0) < GOOD):
                continue
            if written and key_of(written) == key_of(one.output):
                continue
            belief = _belief(trust, signal.rater)
            if signal.source == REVIEWER:
                yield from _word(one.messages, written or one.output, None, None, 1.0, contract)
            else:
                weight = belief if written else belief * PRAISE
                yield from _word(
                    one.messages,
                    written or one.output,
                    signal.rater,
                    signal.feedback_id,
                    weight,
                    contract,
                    bool(written),
                )


def _complaints(said: Sequence[Said], contract: TaskContract, trust: Trust) -> Iterator[_Word]:
    """Labels that were given and found wrong, with or without a correction; reviewers settle cases, they do not complain."""
    for one in said:
        label = contract.slice_of(one.output)
        if one.side != "train" or one.resolution is not None or label is None:
            continue
        for signal in one.signals:
            complains = (signal.rating or GOOD) <= BAD
            if complains and signal.source != REVIEWER and signal.feedback_id not in trust.held:
                yield _Word(
                    last_user_text(one.messages), label, signal.rater, None, _belief(trust, signal.rater)
                )


def _belief(trust: Trust, rater: str) -> float:
    return min(1.0, trust.of(rater) / trust.crowd) if trust.crowd else 1.0


def _word(
    messages: Messages,
    answer: str,
    rater: str | None,
    feedback_id: str | None,
    weight: float,
    contract: TaskContract,
    written: bool = False,
) -> Iterator[_Word]:
    label = contract.slice_of(answer)
    if label is not None and contract.valid(answer, messages):
        yield _Word(last_user_text(messages), label, rater, feedback_id, weight, written)


def _judged(words: Sequence[_Word], complaints: Sequence[_Word]) -> dict[str, Verdict]:
    import numpy as np

    names = sorted({word.label for word in words})
    number = {name: place for place, name in enumerate(names)}
    labels = np.array([number[word.label] for word in words])
    rows = np.arange(len(words))
    voters = rows[-_VOTERS:]
    places, likeness = _nearest(_vectors(words), _numbered(words), rows, voters)
    denied = _denied([*words, *complaints], len(words))
    weights = np.array([word.weight for word in words])
    judged = np.array([word.feedback_id is not None for word in words])
    voice = weights.copy()
    for _ in range(_ROUNDS):
        votes = np.zeros((len(words), len(names)), dtype=np.float32)
        np.add.at(votes, (rows[:, None], labels[places]), likeness * voice[places])
        own, mass = votes[rows, labels], votes.sum(axis=1)
        agree = np.divide(own, mass, out=np.full(len(words), 1.0, dtype=np.float32), where=mass >= _MASS)
        voice = np.where(judged, weights * (0.1 + 0.9 * agree), weights)
    votes[rows, labels] = -1.0
    rival = votes.argmax(axis=1)
    against = np.divide(
        votes[rows, rival], mass, out=np.zeros(len(words), dtype=np.float32), where=mass >= _MASS
    )
    known = _known([words[row] for row in voters.tolist()])
    return {
        word.feedback_id: Verdict(
            int((likeness[row] > 0).sum()),
            float(agree[row]),
            float(against[row]),
            names[rival[row]],
            denied.get(row, 0.0) >= DENIED
            or (
                known[word.label] >= KNOWN and _clearly(word.written, float(agree[row]), float(against[row]))
            ),
            denied.get(row),
        )
        for row, word in enumerate(words)
        if word.feedback_id is not None and (mass[row] >= _MASS or row in denied)
    }


def _denied(everything: Sequence[_Word], words: int) -> dict[int, float]:
    """By row of praise, the share of complaints among the nearest statements of others about the same label.

    The first `words` of everything praise or show an answer or correct one, the others complain.
    """
    import numpy as np

    about: dict[str, list[int]] = defaultdict(list)
    for row, word in enumerate(everything):
        if not word.written:
            about[word.label].append(row)
    vectors, who = _vectors(everything), _numbered(everything)
    weights = np.array([word.weight for word in everything], dtype=np.float32)
    found: dict[int, float] = {}
    for rows in about.values():
        praise = np.array([row for row in rows if row < words and everything[row].feedback_id is not None])
        if not len(praise) or rows[-1] < words:
            continue
        # Praise and complaints are in the order of time each: of both the newest are heard, the same share of either.
        split, kept = bisect_left(rows, words), min(1.0, _HEARD / len(rows))
        voters = np.array(
            [
                *rows[split - round(kept * split) : split],
                *rows[len(rows) - round(kept * (len(rows) - split)) :],
            ]
        )
        places, likeness = _nearest(vectors, who, praise, voters)
        heard = likeness * weights[places]
        mass = heard.sum(axis=1)
        shares = (heard * (places >= words)).sum(axis=1) / np.maximum(mass, _MASS)
        near = mass >= _MASS
        found |= dict(zip(praise[near].tolist(), shares[near].tolist(), strict=True))
    return found


def _clearly(written: bool, agree: float, against: float) -> bool:
    part, least = (CLEARLY_WRITTEN, LEAST_WRITTEN) if written else (CLEARLY, LEAST)
    return against >= least and agree <= part * against


def _known(words: Sequence[_Word]) -> Mapping[str, int]:
    """How many stand for each label, a rater once."""
    raters: dict[str, set[str | int]] = defaultdict(set)
    for place, word in enumerate(words):
        raters[word.label].add(place if word.rater is None else word.rater)
    return Counter({label: len(found) for label, found in raters.items()})


def _vectors(words: Sequence[_Word]) -> Any:
    """Weighed terms of the prompts, in rows of length 1."""
    import numpy as np

    from feedback.analysis.terms import terms_of, weighed  # with SciPy: only where it is needed

    return weighed(terms_of([word.text for word in words], longest=_LONGEST)).astype(np.float32)


def _numbered(words: Sequence[_Word]) -> NDArray[Any]:
    """A number for each rater; each word of nobody's has one of its own."""
    import numpy as np

    raters: dict[str, int] = {}
    return np.array(
        [
            -2 - row if word.rater is None else raters.setdefault(word.rater, len(raters))
            for row, word in enumerate(words)
        ]
    )


def _nearest(
    vectors: Any, who: NDArray[Any], rows: NDArray[Any], voters: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Places and likenesses (cosine of weighed terms) of the `NEAREST` voters of other raters, for each of the rows."""
    import numpy as np

    columns = vectors[voters].T.tocsr()
    count = min(NEAREST, len(voters))
    places = np.zeros((len(rows), count), dtype=np.int64)
    likeness = np.zeros((len(rows), count), dtype=np.float32)
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        similar = (vectors[some] @ columns).toarray()
        similar[who[some][:, None] == who[voters][None, :]] = 0.0
        best = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        places[start : start + _CHUNK] = voters[best]
        likeness[start : start + _CHUNK] = np.take_along_axis(similar, best, axis=1)
    return places, likeness
