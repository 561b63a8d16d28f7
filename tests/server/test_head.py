"""The bound on a request's head holds exactly, whatever the HTTP server let through."""

from __future__ import annotations

import pytest

from feedback.errors import BadInputError, HeadTooLargeError
from server.head import HEAD_BYTES, check_head
from tests.server.inside import Inside


def test_a_head_at_the_bound_is_taken_and_one_byte_more_is_not() -> None:
    check_head([(b"host", b"x"), (b"y", b"a" * (HEAD_BYTES - 6))])
    with pytest.raises(HeadTooLargeError, match=str(HEAD_BYTES + 1)):
        check_head([(b"host", b"x"), (b"y", b"a" * (HEAD_BYTES - 5))])


def test_open_routes_are_bounded_too_and_the_answer_says_how_much_is_taken(gateway: Inside) -> None:
    answer = gateway.call("GET", "/health/live", headers={"x": "a" * (HEAD_BYTES + 1)})
    assert answer.status == 431
    assert str(HEAD_BYTES) in answer.json["error"]["message"]
    assert gateway.call("GET", "/health/live").status == 200


@pytest.mark.parametrize("name", [b"host", b"origin"])
def test_a_request_says_once_where_it_goes_and_where_it_is_from(name: bytes) -> None:
    check_head([(name, b"evil.example"), (b"accept", b"a"), (b"accept", b"b")])
    with pytest.raises(BadInputError, match=f"{name.decode()} stands twice"):
        check_head([(name, b"evil.example"), (b"accept", b"a"), (name, b"127.0.0.1")])
