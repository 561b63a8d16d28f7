"""Hands one letter to a mail server: the password only over TLS or to this machine, and all of it within one time."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
import time
from contextlib import suppress
from email.message import EmailMessage
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit


def send_letter(address: str, letter: EmailMessage, password: str | None, seconds: float) -> None:
    """Send the letter through the server at `smtp://user@host:port` or `smtps://…`.

    With `smtp` the server's STARTTLS is used where it offers it; on this machine there is nothing to hide, so there it is not asked
    for. Raises `ValueError`, before the password is said, where the server is elsewhere and offers none; `OSError` or
    `smtplib.SMTPException` where the server is away, refuses, or takes longer than `seconds`.
    """
    server = urlsplit(address)
    host, secure, context = server.hostname or "", server.scheme == "smtps", ssl.create_default_context()
    ends = time.monotonic() + seconds
    made = (
        _SecureServer(host, server.port or 465, timeout=seconds, context=context, ends=ends)
        if secure
        else _Server(host, server.port or 25, timeout=seconds, ends=ends)
    )
    with made as client:
        client.ehlo_or_helo_if_needed()  # only then it is known what the server offers
        trusted = secure or _on_this_machine(client.sock)
        if not trusted and client.has_extn("starttls"):
            client.starttls(context=context)
            trusted = True
        if server.username and password:
            if not trusted:
                raise ValueError(
                    f"{host} offers no STARTTLS, so the password was not sent to it; write smtps:// where it speaks TLS from the "
                    "start, or leave the user out where it takes letters without a password"
                )
            client.login(server.username, password)
        client.send_message(letter)


class _Server(smtplib.SMTP):
    """Ends at one moment, however slowly the server writes: its own timeout is for each single read."""

    def __init__(self, *args: Any, ends: float, **named: Any) -> None:
        self._ends = ends
        super().__init__(*args, **named)

    def getreply(self) -> tuple[int, bytes]:
        """The server's next reply."""
        late = threading.Event()

        def hang_up() -> None:
            late.set()
            if self.sock is not None:
                with suppress(OSError):  # it may have ended by itself just now
                    self.sock.shutdown(socket.SHUT_RDWR)

        watch = threading.Timer(max(0.0, self._ends - time.monotonic()), hang_up)
        watch.daemon = True
        watch.start()
        try:
            reply = super().getreply()
        except (OSError, smtplib.SMTPException):
            if not late.is_set():
                raise
        finally:
            watch.cancel()
        if late.is_set():  # what came is half a line
            self.close()
            raise smtplib.SMTPServerDisconnected("it took too long, and was hung up on")
        return reply


class _SecureServer(_Server, smtplib.SMTP_SSL):
    """One that speaks TLS from the start."""


def _on_this_machine(connection: socket.socket | None) -> bool:
    assert connection is not None
    return ip_address(connection.getpeername()[0].partition("%")[0]).is_loopback
