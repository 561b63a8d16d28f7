"""Together's own client, whose requests go to the application inside the test's process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.server.inside import Inside
from tests.server.openai_client import Into

together = pytest.importorskip("together", reason="Together's client is not installed")
Client = Callable[[str], "together.Together"]
ADDRESS = "http://127.0.0.1:8000/together"


@contextmanager
def clients(gateway: Inside) -> Iterator[Client]:
    """Makes clients by their keys."""
    made = []

    def as_key(secret: str = "none") -> together.Together:
        http = httpx.Client(transport=Into(gateway), follow_redirects=True)
        one = together.Together(
            api_key=secret, base_url=ADDRESS, http_client=http, max_retries=0, project_id="any"
        )
        made.append(one)
        return one

    yield as_key
    for one in made:
        one.close()
