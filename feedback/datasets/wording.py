"""What an answer's or a follow-up's wording gives away: refusals, complaints and answers that run in circles. Pure.

Phrases, not a model: a reader can see why, a million answers take seconds, and an operator adds their own. They are
looked for where such a text begins, so that an answer that quotes one further down is not taken for one.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import NamedTuple

_OPENING = 200
"""Characters in which a refusal or a complaint shows itself."""
_CIRCLES = 4
"""Least number of rounds; a list may well say something three times."""
_LEAST_WORDS = 20
_LONGEST_ROUND = 64
_APOLOGY = r"(?:(?:i['’]?m|i am|we['’]?re|we are)?\s*(?:so |very |really )?sorry|unfortunately|apologies|i apologi[sz]e)"
_UNABLE = r"(?:can['’]?t|cannot|can not|am unable to|am not able to|['’]m unable to|['’]m not able to|won['’]?t|will not|am not allowed to|['’]m not allowed to)"
_HELPING = r"(?:help|assist|answer|provide|comply|fulfil+|do that|do this|support|discuss|engage|give|create|write|generate|share)"
_REFUSAL = re.compile(
    rf"^\W*(?:{_APOLOGY}[\s,.:;!–-]*(?:but\s+)?(?:i|we)\s*{_UNABLE}\b"
    rf"|(?:i|we)\s*{_UNABLE}\s+(?:\w+\s+){{0,2}}{_HELPING}\b"
    rf"|as an? (?:ai|artificial|large|language)\b[^.!?\n]{{0,80}}\b(?:i|we)\s*{_UNABLE}\b"
    r"|(?:es tut mir leid|tut mir leid|leider)\b[^.!?\n]{0,60}\b(?:nicht|kein)"
    r"|(?:je suis désolée?|désolée?|malheureusement)\b[^.!?\n]{0,60}\bne\b[^.!?\n]{0,20}\bpas\b"
    r"|(?:lo siento|lamentablemente)\b[^.!?\n]{0,60}\bno puedo\b)",
    re.IGNORECASE,
)
_COMPLAINT = re.compile(
    r"^\W*(?:no+|nope|nah)\b[\s,.!:;–-]+(?:that|this|it|you|not|wrong|incorrect|i (?:meant|mean|asked|said|wanted))\b"
    r"|^\W*(?:no+|nope|nah|wrong|incorrect|nonsense|false|try again|nein|falsch|quatsch|faux|non|incorrecto|mal)\W*$"
    r"|^\W*(?:wrong|incorrect|nonsense)\b[\s,.!:;–-]"
    r"|\b(?:that|this|it|your answer|your reply)(?:['’]s| is| was)\s+(?:still |just |all |completely |totally |simply )?"
    r"(?:wrong|incorrect|not (?:right|correct|true|what)|nonsense|useless|unhelpful|false)\b"
    r"|\b(?:that|this|it) (?:isn|wasn)['’]?t (?:right|correct|true|what|helpful)\b"
    r"|\b(?:that|this|it) (?:didn|doesn)['’]?t (?:work|help|answer)\b"
    r"|\bnot what i (?:asked|meant|wanted|said)\b|\bi didn['’]?t (?:ask|mean)\b"
    r"|\byou (?:misunderstood|misread|didn['’]?t (?:answer|understand|read|listen)|got (?:it|that) wrong|are wrong|re wrong|missed)\b"
    r"|\byou['’]re (?:wrong|mistaken)\b"
    r"|\bdas (?:ist|war|stimmt) (?:leider |immer noch )?(?:falsch|nicht (?:richtig|das|was)|nicht)\b"
    r"|\bc['’]est (?:faux|incorrect)\b|\b(?:eso|esto) (?:es incorrecto|está mal|no es)\b",
    re.IGNORECASE,
)


class Circle(NamedTuple):
    """A piece that an answer says over and over."""

    times: int
    piece: str
    share: float
    """Of the answer's words (or signs, in a script without blanks) that the rounds take."""


def refusal_in(text: str, phrases: Sequence[str] = ()) -> str | None:
    """The words by which an answer begins to refuse; None where it does not."""
    return _found(_REFUSAL, text, phrases)


def complaint_in(text: str, phrases: Sequence[str] = ()) -> str | None:
    """The words by which a user says that the last answer was wrong; None where they do not."""
    return _found(_COMPLAINT, text, phrases)


def circle_in(text: str) -> Circle | None:
    """The longest piece that follows on itself at least four times and takes a third of the text or more.

    Time grows with the text's length: only where most pairs of neighbours are repeats, rounds are looked for at all.
    """
    words = text.split()
    if len(words) >= _LEAST_WORDS:
        return _circle(words, " ")
    if len(text) >= 4 * _LEAST_WORDS and len(text) > _LEAST_WORDS * max(len(words), 1):
        return _circle(list(text), "")  # one endless word, or a script without blanks
    return None


def _found(pattern: re.Pattern[str], text: str, phrases: Sequence[str]) -> str | None:
    opening = text.lstrip()[:_OPENING]
    match = pattern.search(opening)
    if match is not None:
        return match.group().strip()
    folded = opening.casefold()
    return next((phrase for phrase in phrases if phrase.strip() and phrase.casefold() in folded), None)


def _circle(parts: list[str], glue: str) -> Circle | None:
    width = 2 if glue else 4
    pieces: set[Hashable] = set(zip(*(parts[start:] for start in range(width)), strict=False))
    if len(pieces) > len(parts) / 2:
        return None
    best, best_end, best_length = 0, 0, 1
    for length in range(1, min(_LONGEST_ROUND, len(parts) // _CIRCLES) + 1):
        run = 0
        for place in range(length, len(parts)):
            run = run + 1 if parts[place] == parts[place - length] else 0
            # A round is told by its shortest piece: of equally long runs, the one that was found first.
            if run >= (_CIRCLES - 1) * length and run + length > best:
                best, best_end, best_length = run + length, place, length
    if best < _LEAST_WORDS or best < len(parts) / 3:
        return None
    piece = glue.join(parts[best_end - best_length + 1 : best_end + 1])
    return Circle(best // best_length, piece, best / len(parts))
