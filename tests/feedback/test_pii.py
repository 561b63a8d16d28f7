"""Personal data by rules: what has the form is found, what only looks like it is left, and no text makes it slow."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.privacy.pii import KINDS, Placeholders, Span, find, redacted
from tests.bench.pii import outcome, sample

YARDSTICKS = Path(__file__).parents[3] / "shared" / "data"
FOUND = [
    ("email", "write to ann.lee+news@mail.example.co.uk.", "ann.lee+news@mail.example.co.uk"),
    ("email", "<jörg@müller.example>", "jörg@müller.example"),
    ("email", "Ann:ann@example.com,bob", "ann@example.com"),
    ("card", "card 4111 1111 1111 1111, please", "4111 1111 1111 1111"),
    ("card", "5555-5555-5555-4444", "5555-5555-5555-4444"),
    ("card", "amex 378282246310005", "378282246310005"),
    ("card", "order 1234 4111 1111 1111 1111 77", "4111 1111 1111 1111"),
    ("iban", "to DE89 3704 0044 0532 0130 00 please", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB29NWBK60161331926819", "GB29NWBK60161331926819"),
    ("iban", "iban fr14 2004 1010 0505 0001 3m02 606 thanks", "fr14 2004 1010 0505 0001 3m02 606"),
    ("ssn", "SSN: 536-22-8745.", "536-22-8745"),
    ("ip", "from 203.0.113.9 today", "203.0.113.9"),
    ("ip", "http://198.51.100.7:8080/", "198.51.100.7"),
    ("ip", "at 2001:db8::8a2e:370:7334 now", "2001:db8::8a2e:370:7334"),
    ("phone", "call +49 171 1234567", "+49 171 1234567"),
    ("phone", "+1 (555) 123-4567", "+1 (555) 123-4567"),
    ("phone", "(555) 123-4567 any time", "(555) 123-4567"),
    ("phone", "555-123-4567", "555-123-4567"),
    ("phone", "ring 030/1234567.", "030/1234567"),
    ("phone", "020 7946 0958", "020 7946 0958"),
    ("phone", "tél. 06 12 34 56 78", "06 12 34 56 78"),
    ("phone", "0049 171 1234567", "0049 171 1234567"),
    ("phone", "My mobile number is: 07700900461, thanks", "07700900461"),
    ("phone", "please call me back at 5550123!", "5550123"),
    ("phone", "Tel. 2125550187", "2125550187"),
    ("phone", "Handy: 01711234567", "01711234567"),
    ("ssn", "social security number: 457555462.", "457555462"),
    ("secret", "key sk-abcdefghijklmnopqrstuvwx1234", "sk-abcdefghijklmnopqrstuvwx1234"),
    ("secret", "AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    ("secret", "ghp_" + "a1B2" * 9, "ghp_" + "a1B2" * 9),
    ("secret", "password: hunter2hunter", "hunter2hunter"),
    ("secret", '{"api_key": "zX81kk20qq"}', "zX81kk20qq"),
    (
        "secret",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ),
]
LEFT = [
    "4111 1111 1111 1112",  # no card by its last digit
    "tracking 1234567890123456",
    "order 9999999999999995",  # its digit is right, and no issuer has the range
    "DE89 3704 0044 0532 0130 01",
    "XX82 1234 5678 9012",
    "000-12-3456",
    "666-12-3456",
    "987-65-4320",
    "part 1536-22-8745-1",
    "version 10.2.3.4",
    "v1.2.3.4",
    "Chrome/120.0.0.0",
    "1.2.3",
    "1.2.3.4.5",
    "256.1.1.1",
    "section 4.1.2.3",
    "listen on 127.0.0.1 and ::1",
    "std::vector and 12:30:45",
    "aa:bb:cc:dd:ee:ff",
    "2026-03-01 12:30",
    "01.02.2026",
    "01/02/2026 14:00",
    "on 2026-03-01T12:30:45.123456Z",
    "0.123456789",
    "1,234,567,890",
    "invoice 20260301123",
    "3.14159265358979",
    "550e8400-e29b-41d4-a716-446655440000",
    "019cb2a4-1234-7abc-8def-0123456789ab",
    "ISBN 978-3-16-148410-0",
    "2 + 2 = 4 @ home",
    "@ann said a@b",
    "the password is required",
    "password: ********",
    "risk-assessment-of-the-whole-department",
    '{"intent": "refund", "urgency": "low"}',
    "12345678",
    "order 07700900461",
    "recall 5550123",
    "the phone case 5550123 is broken",
    "text of 20260301 and call 20260301",
    "call 20260301123456789",
    "my phone 5550123X",
    "ssn 000123456",
    "antisocial 457555462",
]


@pytest.mark.parametrize(("kind", "text", "wanted"), FOUND)
def test_what_has_the_form_is_found_where_it_stands(kind: str, text: str, wanted: str) -> None:
    assert [(span.kind, text[span.start : span.end]) for span in find(text)] == [(kind, wanted)]


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert find(text) == []


def test_a_second_different_value_has_a_number_and_the_same_one_has_its_own_again() -> None:
    text = "ann@example.com, Bob@example.com, then ANN@example.com and bob@example.com"
    assert redacted(text) == "[email], [email 2], then [email] and [email 2]"


def test_texts_that_belong_together_share_their_placeholders() -> None:
    together = Placeholders()
    assert together.put("a@example.com and b@example.com") == "[email] and [email 2]"
    assert together.put("only B@example.com") == "only [email 2]"
    assert together.count() == {"email": 2}


def test_only_the_kinds_that_are_asked_for_go() -> None:
    text = "ann@example.com +49 171 1234567"
    assert redacted(text, ["phone"]) == "ann@example.com [phone]"


def test_where_two_rules_see_one_place_all_of_it_goes() -> None:
    assert redacted("password: ann1@example.com!") == "password: [secret]"


@given(st.text(alphabet=st.sampled_from('a1 .@:-+/(){}"\n0495eyJskDE§é'), max_size=300))
def test_spans_are_in_order_within_the_text_and_apart(text: str) -> None:
    spans = find(text)
    assert all(0 <= span.start < span.end <= len(text) and span.kind in KINDS for span in spans)
    assert all(one.end <= other.start for one, other in pairwise(spans))
    assert redacted(redacted(text)) == redacted(text)


@given(st.text(max_size=50), st.text(max_size=50))
def test_an_address_is_found_in_any_company(before: str, after: str) -> None:
    text = f"{before} ann.lee@example.com {after}"
    assert any(Span("email", len(before) + 1, len(before) + 20) == span for span in find(text))


_PIECES = [
    "a", "1", " 1", "1-", "a@", "a.", "@a.a.", "+1", "+1 (", "0 1", "(0", "1.1.", "1.1.1.1", ":a", "::", "a::1 ",
    "DE89", "DE89 ", "eyJaaaaaaaaaa.", "eyJ", "sk-", "-----BEGIN PRIVATE KEY-----", "password=", "password: a",
    "ghp_", "4111 1111 ", "41", "a%", "é", "1a", "555-", "'", "\\", "\n", "01 02 ",
]  # fmt: skip


def _seconds(text: str) -> float:
    times = []
    for _ in range(2):
        begun = time.process_time()
        find(text)
        times.append(time.process_time() - begun)
    return min(times)


@pytest.mark.parametrize("piece", _PIECES)
def test_time_grows_with_length_alone_on_text_made_to_stall(piece: str) -> None:
    size = 100_000
    short, long = _seconds(piece * (size // len(piece))), _seconds(piece * (4 * size // len(piece)) + "!")
    assert long < 4 * short * 2.5 + 0.05


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), min_size=1, max_size=4).map("".join))
def test_no_mixture_of_pieces_stalls_it(pieces: str) -> None:
    text = pieces * (100_000 // len(pieces))
    assert _seconds(text) < 3.0


def test_megabytes_take_seconds() -> None:
    text = "Dear Ann, my number is +49 171 1234567 and I live at 12 High Street. Order 4111-22. " * 25_000
    begun = time.process_time()
    found = find(text)
    assert len(found) == 25_000
    assert time.process_time() - begun < 8.0


def test_of_texts_as_people_write_them_it_finds_what_the_readme_says() -> None:
    texts = sample()
    told = outcome(texts)
    of_kinds = {kind: (told.found[kind], told.marked[kind]) for kind in KINDS}
    assert (len(texts), sum(marked for _, marked in of_kinds.values())) == (106, 55)
    assert sum(found for found, _ in of_kinds.values()) >= 48 and told.false.total() <= 1, told.missed
    assert all(of_kinds[kind][0] == of_kinds[kind][1] for kind in ("card", "iban", "ip"))


def test_of_thousands_of_peoples_questions_without_personal_data_none_is_taken_for_it() -> None:
    if not YARDSTICKS.is_dir():
        pytest.skip(f"{YARDSTICKS} is not there")
    lines = [
        line
        for file in ("banking77/train.csv", "banking77/test.csv", "snips/train.jsonl", "snips/validate.jsonl")
        for line in (YARDSTICKS / file).read_text(encoding="utf-8").splitlines()
    ]
    assert len(lines) > 25_000
    assert [line for line in lines if find(line)] == []
