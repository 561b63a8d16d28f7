"""Which writing a text is in: what can be said of its language without guessing.

Languages that share a script are not told apart; a file of one script may still hold several languages.
"""

from __future__ import annotations

import bisect
from collections import Counter

# First code points of the blocks whose letters are counted, and what they are; anything between is of no script.
_BLOCKS = (
    (0x41, "Latin"),
    (0x5B, ""),
    (0x61, "Latin"),
    (0x7B, ""),
    (0xC0, "Latin"),
    (0x250, ""),
    (0x370, "Greek"),
    (0x400, "Cyrillic"),
    (0x530, "Armenian"),
    (0x590, "Hebrew"),
    (0x600, "Arabic"),
    (0x780, ""),
    (0x900, "Devanagari"),
    (0x980, "other Indic"),
    (0xE00, "Thai"),
    (0xE80, ""),
    (0x10A0, "Georgian"),
    (0x1100, "Hangul"),
    (0x1200, ""),
    (0x1E00, "Latin"),
    (0x1F00, "Greek"),
    (0x2000, ""),
    (0x3040, "Japanese"),
    (0x3100, ""),
    (0x4E00, "Han"),
    (0xA000, ""),
    (0xAC00, "Hangul"),
    (0xD7B0, ""),
)
_STARTS = [start for start, _ in _BLOCKS]
_LOOKED_AT = 200


def script_of(text: str) -> str:
    """The script of most of a text's first letters; `none` where there are none. Kana makes it Japanese."""
    counts: Counter[str] = Counter()
    for sign in text[:_LOOKED_AT]:
        place = bisect.bisect_right(_STARTS, ord(sign)) - 1
        if place >= 0 and _BLOCKS[place][1]:
            counts[_BLOCKS[place][1]] += 1
    if not counts:
        return "none"
    if counts["Japanese"] and counts["Han"]:
        return "Japanese"
    return counts.most_common(1)[0][0]
