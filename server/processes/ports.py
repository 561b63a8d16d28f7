"""Ports: looked at before anything starts, so that a taken one is a sentence and not a stack trace."""

from __future__ import annotations

import errno
import resource
import socket
from contextlib import suppress
from dataclasses import dataclass

from feedback.errors import UnavailableError

_FILES = 65_536
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class Listener:
    """An address that something is about to listen on, and the key of the configuration that says so."""

    host: str
    port: int
    key: str
    advice: str = ""


def check_free(listener: Listener) -> None:
    """Raises `UnavailableError` when the address cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listener.host or None, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that just closed is free
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise UnavailableError(_explain(listener, error)) from None


def reachable_host(host: str) -> str:
    """Where something that listens on `host` is found from this machine."""
    return _EVERYWHERE.get(host, host)


def url_of(host: str, port: int) -> str:
    """The address as a URL, from this machine."""
    found = reachable_host(host)
    return f"http://[{found}]:{port}" if ":" in found else f"http://{found}:{port}"


def raise_file_limit() -> None:
    """Let this process and its children have some ten thousand connections open, where the system allows them at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # some systems name a limit that they then refuse
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _explain(listener: Listener, error: OSError) -> str:
    where = f"{listener.key} = {listener.port}"
    if isinstance(error, socket.gaierror):
        return f"{where}: the host {listener.host!r} is not known on this machine; write an address of it"
    if error.errno == errno.EADDRINUSE:
        advice = listener.advice or "stop what listens there, or set another port"
        return f"{where}: port {listener.port} on {listener.host} is in use; {advice}"
    if error.errno == errno.EACCES:
        return f"{where}: this user may not listen on port {listener.port}; set one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: this machine has no address {listener.host}; set the host to one that it has"
    return f"{where}: cannot be listened on ({error.strerror})"
