"""Letters: the password goes over TLS or stays here, and a slow mail server takes no more than its time."""

from __future__ import annotations

import smtplib
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from email.message import EmailMessage

import pytest

from trainer.mail import send_letter


class Post(socketserver.ThreadingTCPServer):
    """A mail server that says what it offers and keeps what it hears."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.offers = ["STARTTLS", "AUTH PLAIN"]
        self.dribbles = False
        self.heard: list[str] = []
        self.address = f"smtp://me@127.0.0.1:{self.server_address[1]}"


class _Session(socketserver.StreamRequestHandler):
    server: Post

    def handle(self) -> None:
        with suppress(OSError):  # until it is hung up on
            for _ in range(100 if self.server.dribbles else 0):
                self.wfile.write(b"2")
                time.sleep(0.1)
        if self.server.dribbles:
            return
        self.say("220 post")
        while line := self.rfile.readline():
            self.server.heard.append(line.decode().strip())
            match line[:4].upper():
                case b"EHLO":
                    self.say("250-post", *[f"250-{offer}" for offer in self.server.offers], "250 8BITMIME")
                case b"STAR":
                    self.say("220 go on")
                    # a handshake has no lines
                    self.server.heard.append("a TLS handshake" if self.rfile.read(1) == b"\x16" else "?")
                    return
                case b"AUTH":
                    self.say("235 welcome")
                case b"DATA":
                    self.say("354 go on")
                    while self.rfile.readline() != b".\r\n":
                        pass
                    self.say("250 taken")
                case b"QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("250 ok")

    def say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())


@pytest.fixture
def post() -> Iterator[Post]:
    server = Post()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's server is on this machine; here it counts as one that is not."""
    monkeypatch.setattr("trainer.mail._on_this_machine", lambda _: False)


def letter() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "starloop@example.com", "owner@example.com"
    message.set_content("It has ended.")
    return message


@pytest.mark.usefixtures("elsewhere")
def test_starttls_is_used_where_it_is_offered_before_the_password_is_said(post: Post) -> None:
    with pytest.raises((OSError, smtplib.SMTPException)):  # it breaks off in the handshake
        send_letter(post.address, letter(), "s3cret", 5.0)
    assert [line[:8] for line in post.heard] == ["ehlo " + post.heard[0][5:8], "STARTTLS", "a TLS ha"]


@pytest.mark.usefixtures("elsewhere")
def test_a_server_elsewhere_that_offers_no_tls_gets_no_password_and_that_is_said(post: Post) -> None:
    post.offers = ["AUTH PLAIN"]
    with pytest.raises(ValueError, match="offers no STARTTLS, so the password was not sent"):
        send_letter(post.address, letter(), "s3cret", 5.0)
    assert not [line for line in post.heard if line.startswith(("AUTH", "MAIL"))]


@pytest.mark.usefixtures("elsewhere")
def test_without_a_password_a_server_without_tls_takes_letters(post: Post) -> None:
    post.offers = []
    send_letter(post.address.replace("me@", ""), letter(), "unused without a user", 5.0)
    assert "DATA" in [line.upper() for line in post.heard]


def test_on_this_machine_the_password_needs_no_tls(post: Post) -> None:
    send_letter(post.address, letter(), "s3cret", 5.0)
    words = [line.split()[0].upper() for line in post.heard]
    assert words[:3] == ["EHLO", "AUTH", "MAIL"] and "STARTTLS" not in words


def test_after_starttls_the_password_goes_over_tls_alone(
    post: Post, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, bool]] = []

    def wrapped(client: smtplib.SMTP, context: ssl.SSLContext) -> None:
        assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
        said.append(("starttls", True))

    monkeypatch.setattr(smtplib.SMTP, "starttls", wrapped)
    monkeypatch.setattr(smtplib.SMTP, "login", lambda *_: said.append(("login", bool(said))))
    send_letter(post.address, letter(), "s3cret", 5.0)
    assert said == [("starttls", True), ("login", True)]


def test_a_server_that_dribbles_is_hung_up_on(post: Post) -> None:
    post.dribbles = True
    began = time.monotonic()
    with pytest.raises(smtplib.SMTPServerDisconnected, match="took too long"):
        send_letter(post.address, letter(), None, 0.5)
    assert time.monotonic() - began < 5
