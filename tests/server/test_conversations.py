"""A conversation stays on the version that answered it first, at every worker, through moves and restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feedback.registry.versions import mark_version
from feedback.storage.database import Database
from server.conversations import Conversations
from tests.server.inside import Inside, inside, settings_for
from tests.server.upstream import FakeEngine
from tests.server.versions import add_version

OPENING = {"role": "user", "content": "Hello?"}
FOLLOW_UP = [OPENING, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "And now?"}]
NAMED = {"x-starloop-conversation": "thread-1"}


@pytest.fixture
def versions(gateway: Inside) -> list[str]:
    """Two registered versions, the first of them the champion."""
    numbers = [add_version(gateway.gateway.database, gateway.settings.directory) for _ in range(2)]
    gateway.gateway.live.refresh()
    promote(gateway, numbers[0])
    return numbers


def promote(gateway: Inside, version: str) -> None:
    told = gateway.call("POST", "/v1/models/assistant/promote", {"version": version, "reason": "a test"})
    assert told.status == 200, told.body


def answered_by(
    gateway: Inside, messages: list[dict[str, str]], headers: dict[str, str] | None = None, **more: Any
) -> str:
    answer = gateway.ask({"messages": messages, **more}, headers)
    assert answer.status == 200, answer.body
    return answer.headers["x-starloop-version"]


def test_a_conversation_of_a_user_stays_through_promotion_and_rollback(
    gateway: Inside, versions: list[str]
) -> None:
    assert answered_by(gateway, [OPENING], user="ann") == "assistant@1.0"
    promote(gateway, versions[1])
    assert answered_by(gateway, FOLLOW_UP, user="ann") == "assistant@1.0"
    assert answered_by(gateway, FOLLOW_UP, user="ben") == "assistant@1.1"
    gateway.call("POST", "/v1/models/assistant/rollback", {"reason": "a test"})
    assert answered_by(gateway, FOLLOW_UP, user="ann") == "assistant@1.0"
    assert answered_by(gateway, FOLLOW_UP, user="ben") == "assistant@1.1"


def test_a_new_conversation_with_the_same_words_goes_to_the_champion(
    gateway: Inside, versions: list[str]
) -> None:
    answered_by(gateway, [OPENING], user="ann")
    promote(gateway, versions[1])
    assert answered_by(gateway, [OPENING], user="ann") == "assistant@1.1"
    assert answered_by(gateway, FOLLOW_UP, user="ann") == "assistant@1.1"


@pytest.mark.parametrize(
    ("headers", "more"),
    [(NAMED, {}), ({}, {"metadata": {"conversation_id": "thread-1"}})],
    ids=["by header", "by metadata"],
)
def test_a_conversation_that_is_named_needs_no_earlier_answer_in_its_messages(
    gateway: Inside, versions: list[str], headers: dict[str, str], more: dict[str, Any]
) -> None:
    answered_by(gateway, [OPENING], headers, **more)
    promote(gateway, versions[1])
    assert answered_by(gateway, [OPENING], headers, **more) == "assistant@1.0"


def test_a_pinned_name_wins_and_moves_nothing(gateway: Inside, versions: list[str]) -> None:
    answered_by(gateway, [OPENING], NAMED)
    assert answered_by(gateway, FOLLOW_UP, NAMED, model="assistant@1.1") == "assistant@1.1"
    assert answered_by(gateway, FOLLOW_UP, NAMED) == "assistant@1.0"


def test_evaluation_is_no_part_of_a_conversation(gateway: Inside, versions: list[str]) -> None:
    evaluation = {**NAMED, "x-starloop-purpose": "evaluation"}
    answered_by(gateway, [OPENING], evaluation)
    promote(gateway, versions[1])
    assert answered_by(gateway, FOLLOW_UP, NAMED) == "assistant@1.1"
    promote(gateway, versions[0])
    assert answered_by(gateway, FOLLOW_UP, evaluation) == "assistant@1.0"


def test_an_answer_that_failed_binds_no_conversation(
    gateway: Inside, engine: FakeEngine, versions: list[str]
) -> None:
    engine.status = 500
    assert gateway.ask(headers=NAMED).status == 502
    engine.status, engine.die_after = 200, 1
    gateway.ask({"stream": True}, NAMED)
    engine.die_after = None
    promote(gateway, versions[1])
    assert answered_by(gateway, [OPENING], NAMED) == "assistant@1.1"


def test_a_version_that_can_no_longer_serve_gives_its_conversations_to_the_champion(
    gateway: Inside, versions: list[str]
) -> None:
    answered_by(gateway, [OPENING], NAMED)
    promote(gateway, versions[1])
    with gateway.gateway.database.session() as session:
        mark_version(session, "assistant", versions[0], "retired")
        session.commit()
    gateway.gateway.live.refresh()
    assert answered_by(gateway, FOLLOW_UP, NAMED) == "assistant@1.1"


def test_other_workers_and_a_later_start_know_it_too(
    gateway: Inside, engine: FakeEngine, versions: list[str]
) -> None:
    """The other worker is there before the conversation begins, the later one starts after it."""
    settings = settings_for(gateway.settings.directory, [engine.url])
    with inside(settings) as other:
        answered_by(gateway, [OPENING], user="ann", stream=True)
        promote(gateway, versions[1])
        other.wait_for(lambda: other.gateway.live.current.models["assistant"].champion == "1.1")
        other.wait_for(heard(other, 1))
        assert answered_by(other, FOLLOW_UP, user="ann") == "assistant@1.0"
    with inside(settings) as later:
        assert answered_by(later, FOLLOW_UP, user="ann") == "assistant@1.0"


def test_gateways_on_one_postgresql_tell_each_other(
    engine: FakeEngine, postgresql_database: Database, tmp_path: Path
) -> None:
    url = postgresql_database.engine.url.render_as_string(hide_password=False)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "two" / "adapters").symlink_to(tmp_path / "one" / "adapters")
    with (
        inside(settings_for(tmp_path / "one", [engine.url], database=url)) as one,
        inside(settings_for(tmp_path / "two", [engine.url], database=url)) as two,
    ):
        answered_by(one, [OPENING], NAMED)
        number = add_version(postgresql_database, tmp_path / "one")
        promote(one, number)
        two.wait_for(lambda: two.gateway.live.current.models["assistant"].champion == number)
        two.wait_for(heard(two, 1))
        assert answered_by(two, FOLLOW_UP, NAMED) == "assistant@base"
        assert answered_by(two, FOLLOW_UP, {"x-starloop-conversation": "thread-2"}) == f"assistant@{number}"


def heard(gateway: Inside, count: int) -> Callable[[], bool]:
    return lambda: len(gateway.gateway.conversations._known) == count


# -- the memory itself


def test_the_memory_forgets_what_it_heard_of_longest_ago() -> None:
    memory = Conversations(capacity=3)
    for number in range(4):
        memory.answered("assistant", f"{number}", "1.0", float(number))
    known = [memory.version("assistant", f"{number}") for number in range(4)]
    assert known == [None, "1.0", "1.0", "1.0"]


def test_what_is_heard_late_changes_nothing_that_came_after_it() -> None:
    memory = Conversations()
    memory.answered("assistant", "a", "1.1", 20.0)
    memory.answered("assistant", "a", "1.0", 10.0)
    assert memory.version("assistant", "a") == "1.1"
    assert memory.version("other", "a") is None
