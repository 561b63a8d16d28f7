"""Session cookies: of one key, until they expire, and from nobody else."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.access.sessions import SESSION_KEY, Sessions, open_sessions
from tests.feedback.records import NOW

_KEY = "0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f"
_SESSIONS = Sessions("a secret", hours=12)


def test_a_cookie_names_its_key_until_it_expires() -> None:
    cookie, ticket = _SESSIONS.begin(_KEY, None, NOW)
    ends = NOW + timedelta(hours=12)
    assert (ticket.key_id, ticket.expires) == (_KEY, ends)
    assert _SESSIONS.read(cookie, ends - timedelta(microseconds=1)) == ticket
    assert _SESSIONS.read(cookie, ends) is None
    assert _KEY not in cookie


def test_a_session_ends_before_its_key_does() -> None:
    soon = NOW + timedelta(hours=1)
    assert _SESSIONS.begin(_KEY, soon.timestamp(), NOW)[1].expires == soon
    late = NOW + timedelta(days=1)
    assert _SESSIONS.begin(_KEY, late.timestamp(), NOW)[1].expires == NOW + timedelta(hours=12)


def test_no_two_sessions_are_alike_and_none_guards_another() -> None:
    begun = [_SESSIONS.begin(_KEY, None, NOW) for _ in range(20)]
    assert len({cookie for cookie, _ in begun}) == len({ticket.guard for _, ticket in begun}) == 20


def test_no_changed_letter_of_a_cookie_is_let_through() -> None:
    cookie, _ = _SESSIONS.begin(_KEY, None, NOW)
    for place, letter in enumerate(cookie):
        other = "0" if letter != "0" else "1"
        assert _SESSIONS.read(cookie[:place] + other + cookie[place + 1 :], NOW) is None
    for other in (cookie.upper(), cookie + "0", " " + cookie, cookie + "\n", cookie[:-1]):
        assert _SESSIONS.read(other, NOW) is None


@pytest.mark.parametrize("secret", ["another secret", "a secret "])
def test_a_cookie_of_another_secret_is_refused(secret: str) -> None:
    cookie, _ = Sessions(secret, 12).begin(_KEY, None, NOW)
    assert _SESSIONS.read(cookie, NOW) is None


def test_the_guard_is_no_signature_of_a_session() -> None:
    cookie, ticket = _SESSIONS.begin(_KEY, None, NOW)
    assert _SESSIONS.read(f"{cookie.partition('.')[0]}.{ticket.guard}", NOW) is None


@settings(deadline=None)
@given(st.text())
def test_whatever_else_is_sent_as_a_cookie_is_refused(text: str) -> None:
    assert _SESSIONS.read(text, NOW) is None


def test_the_secret_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    cookie, ticket = open_sessions(tmp_path, 12).begin(_KEY, None, NOW)
    assert open_sessions(tmp_path, 12).read(cookie, NOW) == ticket
    assert (tmp_path / SESSION_KEY).stat().st_mode & 0o777 == 0o600
