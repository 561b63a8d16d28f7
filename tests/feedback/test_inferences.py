"""Finding inferences: each filter alone and together, and pages that neither repeat nor skip."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.errors import BadFieldError
from feedback.storage.database import Database
from feedback.storage.inferences import InferenceFilter, feedback_of, get_inference, search
from feedback.storage.records import InferenceRecord, Record
from feedback.storage.tables import Failure, Inference
from feedback.storage.upsert import store
from tests.feedback.records import NOW, feedback, inference


@pytest.fixture
def said(database: Database) -> list[InferenceRecord]:
    """Six inferences, one of each kind that a filter tells apart."""
    records = [
        inference(0, model="assistant", version="1.0", user="ann"),
        inference(10, model="assistant", version="1.1", user="bob", prompt="Where is my 100% refund?"),
        inference(20, model="other", output="It WAS refunded_today"),
        inference(30, metadata={"channel": "chat", 'odd "key"': "x", "a.b": "dotted"}),
        inference(40, purpose="evaluation", key_id="key-1", metadata=None),
        inference(50, prompt=None, output=None),
    ]
    # of two raters the first changed a low rating to a high one, the second stays displeased
    said: list[Record] = [
        *records,
        feedback(records[0].id, 60, rating=1),
        feedback(records[0].id, 70, rating=5),
        feedback(records[1].id, 60, rating=4),
        feedback(records[1].id, 61, rater="bob", rating=2),
        feedback(records[2].id, 60, rating=None, comment="hm"),
    ]
    with database.session() as session:
        store(session, said, 0)
        session.add(
            Failure(
                id=records[1].id,
                inference_id=records[1].id,
                model="assistant",
                created=0.0,
                reasons=[
                    {"reason": "low_rating", "confidence": 1.0, "evidence": "2 stars"},
                    {"reason": "truncated", "confidence": 1.0, "evidence": 'said "reason": "empty"'},
                ],
            )
        )
        session.commit()
    return records


_START = NOW.timestamp()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [5, 4, 3, 2, 1, 0]),
        ({"model": "other"}, [2]),
        ({"model": "assistant", "version": "1.1"}, [1]),
        ({"version": "2.0"}, []),
        ({"rating_lte": 2}, [1]),
        ({"rating_lte": 5}, [1, 0]),
        ({"rating_lte": 1}, []),
        ({"reason": "low_rating"}, [1]),
        ({"reason": "truncated"}, [1]),
        ({"reason": "empty"}, []),
        ({"reason": "%"}, []),
        ({"user": "ann"}, [0]),
        ({"key_id": "key-1"}, [4]),
        ({"purpose": "evaluation"}, [4]),
        ({"metadata": {"channel": "chat"}}, [3]),
        ({"metadata": {"channel": "mail"}}, [5, 2, 1, 0]),
        ({"metadata": {"channel": "chat", "a.b": "dotted"}}, [3]),
        ({"metadata": {"channel": "chat", "a.b": "other"}}, []),
        ({"metadata": {"' OR 1=1 --": "x"}}, []),
        ({"since": _START + 20, "until": _START + 40}, [3, 2]),
        ({"q": "REFUND"}, [2, 1]),
        ({"q": "100%"}, [1]),
        ({"q": "0% r"}, [1]),
        ({"q": "d_t"}, [2]),
        ({"q": "%"}, [1]),
        ({"q": "refund", "user": "bob", "rating_lte": 3, "until": _START + 11}, [1]),
    ],
)
def test_a_search_finds_what_meets_all_of_its_filter(
    wanted: dict[str, Any], found: list[int], said: list[InferenceRecord], database: Database
) -> None:
    with database.reading() as session:
        page = search(session, InferenceFilter(**wanted), 100, None)
    assert [item.id for item in page.items] == [said[place].id for place in found]
    assert page.next_cursor is None


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6])
def test_pages_neither_repeat_nor_skip(limit: int, said: list[InferenceRecord], database: Database) -> None:
    seen: list[str] = []
    cursor = None
    with database.reading() as session:
        while True:
            page = search(session, InferenceFilter(), limit, cursor)
            assert 0 < len(page.items) <= limit
            seen += [item.id for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert seen == sorted((one.id for one in said), reverse=True)


@pytest.mark.parametrize("looked_at", [1, 2, 5, 6, 7])
@pytest.mark.parametrize(
    "wanted", [{"q": "refund"}, {"user": "ann"}, {"model": "other"}, {"since": _START + 20}]
)
def test_a_page_looks_at_so_many_and_the_next_goes_on_behind_them(
    looked_at: int, wanted: dict[str, Any], said: list[InferenceRecord], database: Database
) -> None:
    seen: list[str] = []
    cursor, pages = None, 0
    with database.reading() as session:
        whole = search(session, InferenceFilter(**wanted), 100, None)
        while pages == 0 or cursor is not None:
            page = search(session, InferenceFilter(**wanted), 100, cursor, looked_at)
            seen += [item.id for item in page.items]
            cursor, pages = page.next_cursor, pages + 1
            assert len(page.items) <= looked_at and pages <= len(said) + 1
    assert seen == [item.id for item in whole.items]


def test_a_cursor_that_is_none_is_named(said: list[InferenceRecord], database: Database) -> None:
    with database.reading() as session, pytest.raises(BadFieldError, match=r"^cursor: 'x'"):
        search(session, InferenceFilter(), 10, "x")


def test_one_inference_is_found_with_the_history_of_its_feedback(
    said: list[InferenceRecord], database: Database
) -> None:
    with database.reading() as session:
        found = get_inference(session, said[0].id)
        assert isinstance(found, Inference)
        assert (found.user, found.metadata_) == ("ann", {"channel": "mail"})
        assert [(one.rating, one.current) for one in feedback_of(session, said[0].id)] == [
            (1, False),
            (5, True),
        ]
        assert get_inference(session, "0199e0c8-2b6f-7a31-9d2c-3a5b7c9d1e2f") is None
        assert feedback_of(session, said[4].id) == []
