"""Personal data in text, found by rules: addresses, numbers and secrets that have a form.

Names and street addresses have none and are not found; a model would be needed for them. Every number that carries a
check digit is checked, so that an order number is not taken for a card. All patterns are bounded: time grows with the
text's length and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, NamedTuple, get_args

Kind = Literal["secret", "email", "iban", "card", "ssn", "ip", "phone"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order in which they win where two overlap."""


class Span(NamedTuple):
    """Where something stands: `text[start:end]`."""

    kind: Kind
    start: int
    end: int


def find(text: str, kinds: Collection[Kind] = KINDS) -> list[Span]:
    """All personal data of these kinds, in the order of the text; spans never overlap.

    Where two rules see the same place, the span covers both and has the kind that stands first in `KINDS`.
    """
    found = [Span(kind, start, end) for kind in KINDS if kind in kinds for start, end in _RULES[kind](text)]
    found.sort(key=lambda span: span.start)
    joined: list[Span] = []
    for span in found:
        if joined and span.start < joined[-1].end:
            last = joined[-1]
            kind = min(last.kind, span.kind, key=KINDS.index)
            joined[-1] = Span(kind, last.start, max(last.end, span.end))
        else:
            joined.append(span)
    return joined


def redacted(text: str, kinds: Collection[Kind] = KINDS) -> str:
    """The text with `[email]` in the place of an e-mail address, `[email 2]` in that of a second, different one."""
    return Placeholders(kinds).put(text)


class Placeholders:
    """Redacts the texts that belong together, so that one address has one placeholder in all of them."""

    def __init__(self, kinds: Collection[Kind] = KINDS) -> None:
        self._kinds = kinds
        self._numbers: dict[Kind, dict[str, int]] = {}

    def put(self, text: str) -> str:
        """The text with placeholders; the same object where there is nothing to replace."""
        spans = find(text, self._kinds)
        if not spans:
            return text
        pieces: list[str] = []
        position = 0
        for span in spans:
            pieces += [text[position : span.start], self._name(span.kind, text[span.start : span.end])]
            position = span.end
        return "".join([*pieces, text[position:]])

    def mark(self, kind: Kind, value: str) -> str:
        """The placeholder of a value that is known to be personal."""
        return self._name(kind, value)

    def count(self) -> dict[Kind, int]:
        """How many different values of each kind were replaced."""
        return {kind: len(values) for kind, values in self._numbers.items()}

    def _name(self, kind: Kind, value: str) -> str:
        plain = value if kind == "secret" else re.sub(r"[\s()./-]", "", value).lower()
        values = self._numbers.setdefault(kind, {})
        number = values.setdefault(plain, len(values) + 1)
        return f"[{kind}]" if number == 1 else f"[{kind} {number}]"


# -- e-mail

_EMAIL = re.compile(
    r"(?<![\w.%+'-])[\w.%+'-]{1,64}@(?:[^\W_](?:[^\W_]|-){0,62}\.){1,8}[^\W\d_]{2,24}(?![\w-])", re.UNICODE
)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    if "@" in text:
        yield from (match.span() for match in _EMAIL.finditer(text))


# -- numbers with a check

_DIGITS = re.compile(r"(?<![\w.])\d(?:[ -]?\d){11,}+")
_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}"
)
_CARD_LENGTHS = (19, 16, 15, 14, 13)


def _cards(text: str) -> Iterator[tuple[int, int]]:
    """Numbers of an issuer's range and length whose Luhn digit is right, also as groups in a longer row of digits."""
    for run in _DIGITS.finditer(text):
        places = [place for place in range(run.start(), run.end()) if text[place].isdecimal()]
        digits = "".join(text[place] for place in places)
        begins = [0, *(i for i in range(1, len(places)) if places[i] != places[i - 1] + 1)]
        ends = {*begins, len(places)}
        if text[run.end() : run.end() + 1].isalnum():
            ends.discard(len(places))
        taken = 0
        for begin in begins:
            if begin < taken:
                continue
            for length in _CARD_LENGTHS:
                number = digits[begin : begin + length]
                if begin + length in ends and _CARD.fullmatch(number) and _luhn(number):
                    taken = begin + length
                    yield places[begin], places[taken - 1] + 1
                    break


def _luhn(number: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?=[ ]?[A-Za-z0-9])", re.ASCII)
# Characters of an IBAN by country (SWIFT IBAN registry).
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}


def _ibans(text: str) -> Iterator[tuple[int, int]]:
    for match in _IBAN_START.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper())
        if length is None:
            continue
        place, number = match.end(), match[0]
        while len(number) < length and place < len(text):
            if text[place] == " " and text[place - 1] != " ":
                place += 1
                continue
            if not (text[place].isascii() and text[place].isalnum()):
                break
            number += text[place]
            place += 1
        ends = place == len(text) or not (text[place].isascii() and text[place].isalnum())
        if len(number) == length and ends and _mod_97(number.upper()):
            yield match.start(), place


def _mod_97(iban: str) -> bool:
    """ISO 13616: letters as two digits, the first four characters last; the remainder by 97 is 1."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


_SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-]|\.\d)", re.ASCII)


_BETWEEN = r"(?:[ ](?:numbers?|no|nr|is|are|me|us|him|her|them|back|at|on|under|to)\b|[ ]?[.:#=-]){0,5}[ ]?"
"""What stands between the word that says what digits are, and the digits."""
_SSN_SAID = re.compile(
    rf"\b(?:ssn|social(?:[ ]security)?){_BETWEEN}\b((?!000|666|9)\d{{3}}(?!00)\d{{2}}(?!0000)\d{{4}})(?![\w-]|\.\d)",
    re.ASCII | re.IGNORECASE,
)


def _ssns(text: str) -> Iterator[tuple[int, int]]:
    yield from (match.span() for match in _SSN.finditer(text))
    yield from (match.span(1) for match in _SSN_SAID.finditer(text))


# -- addresses of machines

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?<![\w.-])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w-]|\.\w)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?![\w:])", re.ASCII | re.IGNORECASE)
# What four numbers with dots are when they are no address; `Chrome/120.0.0.0` too.
_VERSION_BEFORE = re.compile(
    r"(?:\b(?:v|ver|version|versions|release|build|rev|revision|firmware|driver|section|chapter)\.?[ :=]{0,3}"
    r"|§ ?|[a-z]/)$",
    re.IGNORECASE,
)
_LOOK_BACK = 16


def _ips(text: str) -> Iterator[tuple[int, int]]:
    """Addresses that can be somebody's: not the loopback, and not four numbers that are said to be a version."""
    for match in _IPV4.finditer(text):
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        if not _VERSION_BEFORE.search(before) and _is_somebodys(match[0]):
            yield match.span()
    if "::" not in text and text.count(":") < 7:
        return
    for match in _IPV6.finditer(text):
        digits = match[0].replace(":", "")
        if len(digits) > 4 and any(map(str.isdigit, digits)) and _is_somebodys(match[0]):
            yield match.span()


def _is_somebodys(written: str) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(written)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


# -- telephone numbers

_BOUND = r"(?<![\w.,+/@#=&-])(?<!\d )"
_END = r"(?![\w@]|[-.,/]\d)"
_INTERNATIONAL = re.compile(rf"{_BOUND}(?:\+|00(?=[1-9]))(?=\(?\d)[\d ().\-/\u00a0]{{6,24}}(?<=\d){_END}")
_NATIONAL = re.compile(rf"{_BOUND}\(?0[1-9][\d ().\-/\u00a0]{{6,18}}(?<=\d){_END}")
_NORTH_AMERICAN = re.compile(
    rf"{_BOUND}(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d(?P<mark>[ .-]))\d{{3}}[ .-]\d{{4}}{_END}"
)
_PHONE_SAID = re.compile(
    r"\b(?:(?:tele|cell|mobile )?phone|telefon|mobile|cell|tel|handy|fax|whats ?app|sms|call|ring|dial|text|reach)"
    rf"{_BETWEEN}\b(?!(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\b)(\d{{7,15}}){_END}",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"(?:\d{4}([-./ ])\d{1,2}\1\d{1,2}|\d{1,2}([-./ ])\d{1,2}\2(?:\d{4}|\d{2}))(?:[ ]\d{1,2}(?:[.:]\d{2}){0,2})?"
)


def _phones(text: str) -> Iterator[tuple[int, int]]:
    """With a country's code, with a trunk zero and groups, in North America's form, or said to be one right before.

    Bare digits without any of these are not taken: order and customer numbers look the same.
    """
    yield from (match.span(1) for match in _PHONE_SAID.finditer(text))
    for match in _INTERNATIONAL.finditer(text):
        if 8 <= _digits(match[0]) <= 15 + 2 * match[0].startswith("00") and _well_grouped(match[0]):
            yield match.span()
    for match in _NATIONAL.finditer(text):
        written = match[0]
        grouped = not written.isdecimal()
        if (
            grouped
            and 8 <= _digits(written) <= 12
            and _well_grouped(written)
            and not _DATE.fullmatch(written)
        ):
            yield match.span()
    for match in _NORTH_AMERICAN.finditer(text):
        yield match.span()


def _digits(text: str) -> int:
    return sum(map(str.isdecimal, text))


def _well_grouped(text: str) -> bool:
    """No two marks in a row, but around brackets; a bracket opened is closed; not as many groups as a table has."""
    plain = text.replace(" (", "(").replace(") ", ")").replace(" - ", "-").replace(" / ", "/")
    return (
        re.search(r"[ .\-/\u00a0]{2}", plain) is None
        and text.count("(") == text.count(")") <= 1
        and len(re.findall(r"\d+", text)) <= 7
    )


# -- secrets

_SECRETS = re.compile(
    r"""
    (?<![A-Za-z0-9_-])(?:
        sk-[A-Za-z0-9_-]{20,200}                                  # OpenAI, Anthropic and those that follow them
      | [sr]k_(?:live|test)_[A-Za-z0-9]{16,120}                   # Stripe
      | gh[pousr]_[A-Za-z0-9]{36,255} | github_pat_[A-Za-z0-9_]{22,255}
      | glpat-[A-Za-z0-9_-]{20,64}
      | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])                  # AWS
      | AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])                    # Google
      | xox[abeoprs]-[A-Za-z0-9-]{10,250}                         # Slack
      | hf_[A-Za-z0-9]{30,64}
      | sl-[A-Za-z0-9_-]{30,120}                                  # Starloop's own
      | npm_[A-Za-z0-9]{36} | pypi-[A-Za-z0-9_-]{50,400}
      | SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{30,64}
      | eyJ[A-Za-z0-9_-]{10,8000}\.eyJ[A-Za-z0-9_-]{4,8000}\.[A-Za-z0-9_-]{10,8000}   # a signed JSON web token
    )
    | -----BEGIN\ [A-Z ]{0,30}PRIVATE\ KEY-----[A-Za-z0-9+/=\s:,.\\]*+(?:-----END\ [A-Z ]{0,30}PRIVATE\ KEY-----)?
    """,
    re.VERBOSE | re.ASCII,
)
_ASSIGNED = re.compile(
    r"(?<![a-z0-9])(?:password|passwd|pwd|passphrase|secret|api[_ -]?key|access[_ -]?key|auth[_ -]?token)"
    r"""["']?[ ]{0,3}(?:[:=]|\bis\b)[ ]{0,3}["']?(?P<value>[^\s"',;<>]{8,200})""",
    re.IGNORECASE | re.ASCII,
)


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    """Keys by their makers' prefixes, private keys, and what is said to be a password and looks like one."""
    yield from (match.span() for match in _SECRETS.finditer(text))
    for match in _ASSIGNED.finditer(text):
        if _looks_secret(match["value"]):
            yield match.span("value")


def secret_under(name: str, value: str) -> bool:
    """Whether the value of a field is a secret by the field's name, as `password: …` is in a text."""
    found = _ASSIGNED.search(f"{name}: {value}")
    return found is not None and found["value"] == value and _looks_secret(value)


def _looks_secret(value: str) -> bool:
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value))


_RULES: dict[Kind, Callable[[str], Iterator[tuple[int, int]]]] = {
    "secret": _secrets,
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ssn": _ssns,
    "ip": _ips,
    "phone": _phones,
}
