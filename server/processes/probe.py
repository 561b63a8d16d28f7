"""Is somebody there: one GET, from this machine to a child of its own, past any proxy."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException

from server.processes.ports import reachable_host


def answers(host: str, port: int, path: str, timeout: float = 1.0) -> bool:
    """Whether `path` answers 200 within `timeout` seconds."""
    connection = HTTPConnection(reachable_host(host), port, timeout=timeout)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
