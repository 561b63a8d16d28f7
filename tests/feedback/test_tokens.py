"""Feedback tokens: one inference, one user, until they expire, and from nobody else."""

from __future__ import annotations

import base64
import multiprocessing
import string
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.access.tokens import TOKEN_KEY, FeedbackTokens, open_tokens
from feedback.errors import NotAllowedError, StorageError
from feedback.ids import new_id
from tests.feedback.records import NOW

_TOKENS = FeedbackTokens("a secret", lifetime_days=30)
_ID = "0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f"


@settings(deadline=None)
@given(st.none() | st.text())
def test_a_token_names_the_user_it_was_issued_for(user: str | None) -> None:
    assert _TOKENS.check(_TOKENS.issue(_ID, user, NOW), _ID, NOW) == user


def test_a_token_is_safe_in_a_header_and_a_url() -> None:
    token = _TOKENS.issue(_ID, "Zoë <zoe@example.org>", NOW)
    assert set(token) <= set(string.ascii_letters + string.digits + "-_.")


def test_a_token_is_of_one_inference() -> None:
    token = _TOKENS.issue(_ID, "ann", NOW)
    with pytest.raises(NotAllowedError, match="does not belong to this inference"):
        _TOKENS.check(token, new_id(NOW), NOW)


def test_a_token_expires() -> None:
    token = _TOKENS.issue(_ID, "ann", NOW)
    assert _TOKENS.check(token, _ID, NOW + timedelta(days=29)) == "ann"
    with pytest.raises(NotAllowedError, match="expired"):
        _TOKENS.check(token, _ID, NOW + timedelta(days=30))


def test_a_token_of_another_secret_is_refused() -> None:
    token = FeedbackTokens("another secret", 30).issue(_ID, "ann", NOW)
    with pytest.raises(NotAllowedError):
        _TOKENS.check(token, _ID, NOW)


def test_no_changed_byte_of_a_token_is_let_through() -> None:
    payload, signature = _TOKENS.issue(_ID, "ann", NOW).split(".")
    raw = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        forged = base64.urlsafe_b64encode(bytes(changed)).rstrip(b"=").decode()
        with pytest.raises(NotAllowedError):
            _TOKENS.check(f"{forged}.{signature}", _ID, NOW)
    for place in range(len(signature) - 1):  # the last letter holds bits that base64 ignores
        other = "A" if signature[place] != "A" else "B"
        with pytest.raises(NotAllowedError):
            _TOKENS.check(f"{payload}.{signature[:place]}{other}{signature[place + 1 :]}", _ID, NOW)


@settings(deadline=None)
@given(st.text())
def test_whatever_else_is_sent_as_a_token_is_refused(text: str) -> None:
    with pytest.raises(NotAllowedError):
        _TOKENS.check(text, _ID, NOW)


def test_the_secret_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    token = open_tokens(tmp_path, 30).issue(_ID, "ann", NOW)
    assert open_tokens(tmp_path, 30).check(token, _ID, NOW) == "ann"
    assert (tmp_path / TOKEN_KEY).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [TOKEN_KEY]


def _issue(directory: Path) -> str:
    return open_tokens(directory, 30).issue(_ID, "ann", NOW)


def test_workers_that_start_together_share_one_secret(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        tokens = pool.map(_issue, [tmp_path] * 12, chunksize=1)
    assert len(set(tokens)) == 1


def test_an_empty_secret_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / TOKEN_KEY).touch()
    with pytest.raises(StorageError, match="delete it"):
        open_tokens(tmp_path, 30)
