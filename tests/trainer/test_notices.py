"""Notices: everybody who wants to know hears of a cycle's end, once where all goes well, and nothing waits for them."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from feedback.settings import Schedule, Settings
from feedback.settings_file import load
from feedback.storage.database import Database
from feedback.storage.notice_table import Notice
from feedback.storage.tables import Canary, Cycle, MonthlyFinding
from tests.feedback.world import NOW
from trainer.notices import PASSWORD_VARIABLE, PAUSES, SECRET_VARIABLE, SIGNATURE, Notifier, signature


class Receiver:
    """A webhook's server that answers as it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.hang = 0.0
        self.drip = 0.0
        self.dribble = False
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                time.sleep(receiver.hang)
                for _ in range(100 if receiver.dribble else 0):
                    self.wfile.write(b"x")
                    time.sleep(0.1)
                self.send_response(receiver.status)
                self.send_header("content-length", str(round(10 * receiver.drip)))
                self.end_headers()
                for _ in range(round(10 * receiver.drip)):
                    self.wfile.write(b".")
                    time.sleep(0.1)

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.server.shutdown()
    one.server.server_close()


class Post(socketserver.ThreadingTCPServer):
    """A mail server that takes letters."""

    allow_reuse_address = True
    daemon_threads = True
    letters: list[str]


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        say = lambda text: self.wfile.write(text.encode() + b"\r\n")  # noqa: E731
        say("220 post")
        while line := self.rfile.readline().decode().strip():
            word = line[:4].upper()
            if word == "DATA":
                say("354 go on")
                letter = []
                while (part := self.rfile.readline().decode()) != ".\r\n":
                    letter.append(part)
                self.server.letters.append("".join(letter))  # type: ignore[attr-defined]
                say("250 taken")
            elif word == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")


@contextmanager
def _post() -> Iterator[Post]:
    server = Post(("127.0.0.1", 0), _Session)
    server.letters = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Desk:
    """A record with cycles, and a clock."""

    def __init__(self, database: Database, **wanted: Any) -> None:
        self.database = database
        self.now = NOW
        self.secrets: dict[str, str] = {}
        self.settings = Settings(schedule=Schedule(poll_seconds=0.05, **wanted))

    def notifier(self) -> Notifier:
        return Notifier(self.database, self.settings, lambda: self.now, self.secrets)

    def ended(
        self, identifier: str, decision: str | None = "promoted", state: str = "done", at: datetime = NOW
    ) -> None:
        with self.database.session() as session:
            session.add(
                Cycle(
                    id=identifier,
                    model="assistant",
                    mode="auto",
                    state=state,
                    decision=decision,
                    reason="better beyond chance",
                    requested_by="test",
                    version="1.2",
                    result={"champion": "1.1"},
                    created=at.timestamp(),
                    updated=at.timestamp(),
                )
            )
            session.commit()

    def notices(self) -> list[Notice]:
        with self.database.reading() as session:
            return list(session.exec(select(Notice)))


def test_a_webhook_hears_of_each_end_once_with_a_signature_that_proves_it(
    database: Database, receiver: Receiver
) -> None:
    desk = Desk(database, webhook=receiver.url)
    desk.secrets[SECRET_VARIABLE] = "s3cret"
    desk.ended("one")
    desk.ended("two", None, "failed")
    desk.ended("three", None, "running")
    desk.ended("old", at=NOW - timedelta(days=2))
    assert desk.notifier().tell_once() == 2
    assert desk.notifier().tell_once() == 0  # another loop, or the same after a restart
    told = [json.loads(body) for _, body in receiver.got]
    assert [(one["id"], one["outcome"], one["needs_a_person"]) for one in told] == [
        ("one", "promoted", False),
        ("two", "failed", False),
    ]
    headers, body = receiver.got[0]
    assert headers[SIGNATURE] == signature("s3cret", body)
    assert {row.state for row in desk.notices()} == {"sent"}


def test_one_that_refuses_is_tried_again_with_pauses_and_given_up_at_last(
    sqlite_database: Database, receiver: Receiver
) -> None:
    desk = Desk(sqlite_database, webhook=receiver.url)
    receiver.status = 500
    desk.ended("one")
    notifier = desk.notifier()
    for number, pause in enumerate(PAUSES, 1):
        assert (notifier.tell_once(), notifier.tell_once()) == (1, 0)
        (row,) = desk.notices()
        assert (row.state, row.attempts, row.told) == ("sending", number, "ValueError: it answered 500")
        desk.now += timedelta(seconds=pause)
        with desk.database.session() as session:  # the cycle itself grows old meanwhile
            cycle = session.get(Cycle, "one")
            assert cycle is not None
            cycle.updated = desk.now.timestamp()
            session.add(cycle)
            session.commit()
    notifier.tell_once()
    assert desk.notices()[0].state == "failed"
    assert notifier.tell_once() == 0


def test_one_that_comes_back_hears_it_then(sqlite_database: Database, receiver: Receiver) -> None:
    desk = Desk(sqlite_database, webhook=receiver.url)
    desk.ended("one")
    receiver.status = 503
    desk.notifier().tell_once()
    receiver.status = 204
    desk.now += timedelta(seconds=PAUSES[0])
    desk.notifier().tell_once()
    assert (desk.notices()[0].state, desk.notices()[0].attempts) == ("sent", 2)


def test_one_that_hangs_holds_up_neither_the_loop_nor_its_end(
    sqlite_database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.notices._SECONDS", 1.5)
    desk = Desk(sqlite_database, webhook=receiver.url)
    receiver.hang = 60.0
    desk.ended("one")
    notifier = desk.notifier()
    began = time.monotonic()
    notifier.start(lambda: True)
    assert time.monotonic() - began < 1.2
    while not (desk.notices() and desk.notices()[0].attempts):
        assert time.monotonic() - began < 50
        time.sleep(0.05)
    notifier.stop()
    assert "Timeout" in desk.notices()[0].told


def test_an_answer_that_never_ends_holds_up_no_other_news(
    sqlite_database: Database, receiver: Receiver
) -> None:
    desk = Desk(sqlite_database, webhook=receiver.url)
    receiver.drip = 8.0
    desk.ended("one")
    desk.ended("two")
    began = time.monotonic()
    assert desk.notifier().tell_once() == 2
    assert time.monotonic() - began < 6
    assert [row.state for row in desk.notices()] == ["sent", "sent"]


def test_a_head_that_never_ends_holds_up_no_other_news(
    sqlite_database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.notices._SECONDS", 0.5)
    desk = Desk(sqlite_database, webhook=receiver.url)
    receiver.dribble = True
    desk.ended("one")
    began = time.monotonic()
    assert desk.notifier().tell_once() == 1
    assert time.monotonic() - began < 5
    (row,) = desk.notices()
    assert (row.state, row.told) == ("sending", "TimeoutError: it did not answer within 0.5 s")


def test_of_many_cycles_that_end_at_once_each_is_told(sqlite_database: Database, receiver: Receiver) -> None:
    desk = Desk(sqlite_database, webhook=receiver.url)
    for number in range(25):
        desk.ended(f"cycle-{number:02}", "skipped")
    while desk.notifier().tell_once():
        pass
    assert {json.loads(body)["id"] for _, body in receiver.got} == {f"cycle-{n:02}" for n in range(25)}
    assert len(receiver.got) == 25


def test_a_clock_that_was_set_back_delays_no_further_attempt(
    sqlite_database: Database, receiver: Receiver
) -> None:
    desk = Desk(sqlite_database, webhook=receiver.url)
    receiver.status = 503
    desk.ended("one")
    assert desk.notifier().tell_once() == 1
    desk.now -= timedelta(days=300)
    assert (desk.notifier().tell_once(), desk.notifier().tell_once()) == (1, 0)


def test_a_loop_that_does_not_lead_tells_nothing(sqlite_database: Database, receiver: Receiver) -> None:
    desk = Desk(sqlite_database, webhook=receiver.url)
    desk.ended("one")
    notifier = desk.notifier()
    notifier.start(lambda: False)
    time.sleep(0.3)
    notifier.stop()
    assert receiver.got == [] and desk.notices() == []


def test_a_letter_says_what_waits_and_how_to_decide(sqlite_database: Database) -> None:
    with _post() as post:
        desk = Desk(
            sqlite_database,
            email="owner@example.com",
            email_from="starloop@example.com",
            smtp=f"smtp://127.0.0.1:{post.server_address[1]}",
        )
        desk.secrets[PASSWORD_VARIABLE] = "unused without a user"
        desk.ended("one", "proposed")
        assert desk.notifier().tell_once() == 1
        (letter,) = post.letters
    assert "Subject: assistant: proposed, waits for a decision" in letter
    assert f"Date: {format_datetime(NOW)}" in letter and "Message-ID: <one@starloop>" in letter
    assert "To: owner@example.com" in letter and "From: starloop@example.com" in letter
    assert "starloop models promote assistant@1.2 --instead-of 1.1" in letter
    assert desk.notices()[0].told == "127.0.0.1 took it"


def test_a_watch_that_rolled_back_is_told_and_a_canary_of_a_cycle_only_with_that(
    sqlite_database: Database, receiver: Receiver
) -> None:
    desk = Desk(sqlite_database, webhook=receiver.url)
    with sqlite_database.session() as session:
        for name, kind, cycle in (("a", "canary", "one"), ("b", "watch", "one"), ("c", "canary", None)):
            session.add(
                Canary(
                    id=name,
                    model="assistant",
                    kind=kind,
                    version="1.2",
                    against="1.1",
                    share=0.2,
                    salt="one",
                    state="rolled_back",
                    reason="rated worse beyond chance",
                    started_by="gate",
                    cycle_id=cycle,
                    created=0.0,
                    limit=0.0,
                    ended=NOW.timestamp(),
                )
            )
        session.commit()
    assert desk.notifier().tell_once() == 2
    told = [json.loads(body) for _, body in receiver.got]
    assert [(one["event"], one["id"], one["outcome"]) for one in told] == [
        ("watch.ended", "b", "rolled_back"),
        ("canary.ended", "c", "rolled_back"),
    ]
    assert told[0]["reason"] == "rated worse beyond chance"


@pytest.mark.parametrize(
    ("ruling", "state", "asks"),
    [
        ("time is up", "withdrawn", True),
        ("pass", "withdrawn", True),
        ("not shown", "withdrawn", True),
        ("go on", "withdrawn", False),
        ("roll back", "rolled_back", False),
    ],
)
def test_a_canary_that_is_left_to_a_person_is_told_so_alone_and_as_its_cycles_end(
    sqlite_database: Database, receiver: Receiver, ruling: str, state: str, asks: bool
) -> None:
    desk = Desk(sqlite_database, webhook=receiver.url)
    desk.ended("one", "inconclusive")
    with sqlite_database.session() as session:
        for name, cycle in (("a", "one"), ("b", None)):
            session.add(
                Canary(
                    id=name,
                    model="assistant",
                    kind="canary",
                    version="1.2",
                    against="1.1",
                    share=0.2,
                    salt="one",
                    state=state,
                    reason="the time is up",
                    result={"ruling": ruling},
                    started_by="gate",
                    cycle_id=cycle,
                    created=0.0,
                    limit=0.0,
                    ended=NOW.timestamp(),
                )
            )
        session.commit()
    assert desk.notifier().tell_once() == 2
    told = [json.loads(body) for _, body in receiver.got]
    assert [(one["event"], one["needs_a_person"]) for one in told] == [
        ("cycle.ended", asks),
        ("canary.ended", asks),
    ]


def test_what_a_months_failures_have_in_common_is_told_once(
    sqlite_database: Database, receiver: Receiver
) -> None:
    with _post() as post:
        smtp = f"smtp://127.0.0.1:{post.server_address[1]}"
        desk = Desk(sqlite_database, webhook=receiver.url, email="owner@example.com", smtp=smtp)
        with sqlite_database.session() as session:
            told = (
                'In 2026-02, 9 of 90 prompts failed. 1 kind of input fails more often than the rest: "lamp".'
            )
            at = NOW.timestamp()
            row = MonthlyFinding(
                model="assistant", month="2026-02", id="k", created=at, told=told, found={"items": [{}]}
            )
            session.add(row)
            session.commit()
        assert (desk.notifier().tell_once(), desk.notifier().tell_once()) == (2, 0)
        (letter,) = post.letters
    document = json.loads(receiver.got[0][1])
    assert (document["event"], document["id"], document["month"]) == ("kinds.found", "k", "2026-02")
    assert document["reason"] == told and not document["needs_a_person"]
    assert "Subject: assistant: 1 kind of input failed more than the rest in 2026-02" in letter
    assert "starloop report --model assistant --month 2026-02" in letter


def test_a_mail_server_that_is_away_does_not_keep_the_webhook_waiting(
    sqlite_database: Database, receiver: Receiver
) -> None:
    desk = Desk(sqlite_database, webhook=receiver.url, email="owner@example.com", smtp="smtp://127.0.0.1:9")
    desk.ended("one")
    desk.notifier().tell_once()
    assert {row.channel: row.state for row in desk.notices()} == {"webhook": "sent", "email": "sending"}


def test_without_a_channel_nothing_is_noted(sqlite_database: Database) -> None:
    desk = Desk(sqlite_database)
    desk.ended("one")
    assert desk.notifier().tell_once() == 0 and desk.notices() == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('webhook = "nowhere"', "is not an address"),
        ('smtp = "mail.example"', "is not a mail server"),
        ('smtp = "smtp://me:secret@mail.example"', "leave it out"),
    ],
)
def test_addresses_that_cannot_be_used_are_found_at_the_start(
    line: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "starloop.toml"
    file.write_text(f"[schedule]\n{line}\n")
    with pytest.raises(Exception, match=problem) as error:
        load(file, {})
    assert "secret" not in str(error.value)


def test_a_loop_tells_of_the_cycles_that_it_runs(
    sqlite_database: Database, tmp_path: Path, receiver: Receiver
) -> None:
    from tests.trainer.test_schedule import loop
    from tests.trainer.world import World

    world = World(
        sqlite_database, tmp_path, schedule=Schedule(cron="", poll_seconds=0.05, webhook=receiver.url)
    )
    running = loop(world)
    thread = threading.Thread(target=running.run)
    thread.start()
    world.request()
    deadline = time.monotonic() + 60
    while not receiver.got:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    world.stopping.set()
    thread.join(20)
    assert json.loads(receiver.got[0][1])["outcome"] == "skipped"
