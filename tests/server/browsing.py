"""What tests in a real Chromium share: a gateway with something on each of its pages, a window, and what a tab complained of.

One of each serves all of them, as both take seconds to start. Without an installed Chromium, Playwright or axe, whoever
asks for one is skipped.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback.datasets.freeze import build_dataset
from feedback.ids import new_id
from feedback.storage.database import Database
from feedback.storage.tables import Candidate, Failure
from tests.feedback.world import NOW, RIGHT, World, settings_for
from tests.server.served import Served, served
from tests.server.turns import add_canary, add_cycle
from tests.server.upstream import FakeEngine, fake_engine
from tests.server.versions import add_version

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MARKS = [
    pytest.mark.alone,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium"),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LONG = "An order number that nothing breaks: " + "8241" * 30


@dataclass
class Site:
    """A gateway with something on each of its pages."""

    gateway: Served
    database: Database
    engine: FakeEngine
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.gateway.address

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.ids['admin']}"} if "admin" in self.ids else {}

    def ask(self, prompt: str, user: str = "ann") -> httpx.Headers:
        body = {"model": "assistant", "messages": [{"role": "user", "content": prompt}], "user": user}
        answered = httpx.post(f"{self.address}/v1/chat/completions", json=body, headers=self.headers)
        return answered.raise_for_status().headers

    def key(self, *scopes: str, owner: str) -> str:
        """A key's secret. From the first one on, nobody is let in without."""
        wanted = {"scopes": scopes, "owner": owner}
        made = httpx.post(f"{self.address}/v1/keys", json=wanted, headers=self.headers).raise_for_status()
        return str(made.json()["secret"])

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def inference(self, identifier: str) -> Any:
        """As the API shows it, once it is there."""
        address = f"{self.address}/v1/inferences/{identifier}"
        self.until(lambda: httpx.get(address, headers=self.headers).status_code == 200)
        return httpx.get(address, headers=self.headers).json()

    def said(self, identifier: str) -> list[dict[str, Any]]:
        return list(self.inference(identifier)["feedback"])

    def failures(self, state: str) -> list[str]:
        wanted = {"model": "assistant", "state": state}
        got = httpx.get(f"{self.address}/v1/failures", params=wanted, headers=self.headers)
        return [one["inference_id"] for one in got.raise_for_status().json()["items"]]

    def add_failure(self, prompt: str, proposed: str = "") -> str:
        """A failure case that waits, with a model's proposal if there is one; its inference."""
        inference = self.ask(prompt)["x-starloop-inference-id"]
        said = {"inference_id": inference, "rating": 1, "comment": "no", "rater": "ann"}
        httpx.post(f"{self.address}/v1/feedback", json=said, headers=self.headers).raise_for_status()
        self.inference(inference)
        now = datetime.now(UTC)
        plain: dict[str, Any] = {"inference_id": inference, "model": "assistant", "created": now.timestamp()}
        reasons = [{"reason": "low_rating", "confidence": 1.0, "evidence": "rated 1 of 5"}]
        rows: list[Any] = [Failure(id=new_id(now), reasons=reasons, **plain)]
        if proposed:
            checks = [{"check": "task contract", "passed": True, "told": "it meets it"}]
            origin: dict[str, Any] = {"source": "teacher", "origin": "big", "request_hash": "0"}
            rows.append(
                Candidate(id=new_id(now), answer=proposed, checks=checks, state="checked", **origin, **plain)
            )
        with self.database.session() as session:
            session.add_all(rows)
            session.commit()
        return inference

    def furnish(self) -> None:
        directory, now = self.gateway.directory, datetime.now(UTC)
        self.ids["inference"] = self.add_failure(LONG)
        for number in range(5):
            self.add_failure(f"{number} parcels are lost", RIGHT)
        version = add_version(self.database, directory)
        add_version(self.database, directory)
        self.ids["cycle"] = add_cycle(self.database, now, version)
        add_canary(self.database, now, self.ids["cycle"], version)
        steps = [{"step": "train", "started": now.isoformat(), "ended": None, "outcome": None}]
        going: dict[str, Any] = {"state": "running", "step": "train", "decision": None, "reason": None}
        self.ids["running"] = add_cycle(self.database, now, None, steps=steps, result=None, **going)
        world = World(self.database, settings_for(directory, rater_minimum=50))
        for number in range(30):
            world.correct(
                f"question {number * 7919} about {'abcdefghij'[number % 10] * 7}", RIGHT, user=f"u{number}"
            )
        world.write()
        self.ids["dataset"] = new_id(NOW)
        build_dataset(world.database, world.settings, "assistant", self.ids["dataset"], ["replay"], NOW)


@contextmanager
def standing(directory: Path) -> Iterator[Site]:
    """A site of one's own, with nothing on it."""
    with fake_engine() as engine, served(directory, [engine.url]) as gateway:
        database = Database(f"sqlite:///{gateway.directory / 'starloop.sqlite'}")
        yield Site(gateway, database, engine)
        database.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Open to whoever is at this machine: no test makes a key here."""
    with standing(tmp_path_factory.mktemp("browser")) as made:
        made.furnish()
        yield made


@pytest.fixture(scope="session")
def keyed_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A second one with two failure cases, which wants a key: `ids["admin"]` is one of all scopes."""
    with standing(tmp_path_factory.mktemp("keyed")) as made:
        made.ids["inference"] = made.add_failure("Two parcels are lost", RIGHT)
        made.add_failure("Three parcels are lost")
        made.ids["admin"] = made.key("admin", owner="ada")
        yield made


@contextmanager
def shop(page: str, policy: str) -> Iterator[str]:
    """A site on a port of its own with one page; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-security-policy", policy)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")  # no longer: its event loop would run on under tests with one of their own
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A window of a Chromium with a profile of its own."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="drives a browser: pip install playwright axe-playwright-python"
    )
    profile = tmp_path_factory.mktemp("profile")
    playwright.expect.set_options(timeout=20_000)  # a busy machine takes longer than the 5 s that are usual
    with playwright.sync_playwright() as driver:
        try:
            context = driver.chromium.launch_persistent_context(
                profile,
                executable_path=CHROMIUM,
                args=FLAGS,
                headless=True,
                timezone_id="Asia/Tokyo",
                locale="en-GB",
            )
        except playwright.Error as error:
            pytest.skip(f"{CHROMIUM} does not start: {error}")
        yield context
        context.close()


@dataclass
class Watched:
    """A tab, with what it asked for and complained of."""

    tab: Any
    addresses: list[str] = field(default_factory=list)
    sizes: int = 0
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    driver = pytest.importorskip("playwright.sync_api")
    tab = browser.new_page()
    found = Watched(tab)

    def ended(request: Any) -> None:
        found.addresses.append(request.url)
        try:
            sizes = request.sizes()
        except driver.Error:  # the tab was closed meanwhile, and nobody counts any more
            return
        found.sizes += sizes["responseBodySize"] + sizes["responseHeadersSize"]

    tab.on("requestfinished", ended)
    tab.on("requestfailed", lambda request: found.addresses.append(request.url))
    tab.on(
        "console",
        lambda told: found.complaints.append(told.text) if told.type in ("error", "warning") else None,
    )
    tab.on("pageerror", lambda error: found.complaints.append(str(error)))
    yield found
    tab.remove_listener("requestfinished", ended)
    tab.close()
    browser.clear_cookies()  # they are those of all ports of this host


def sign_in(tab: Any, site: Site, key: str) -> None:
    """Begin a session of that key in the tab's browser, as a person does."""
    tab.goto(site.address)
    tab.get_by_label("Key", exact=True).fill(key)
    tab.keyboard.press("Enter")
    tab.get_by_role("button", name="Sign out").wait_for()


def violations(tab: Any) -> list[str]:
    """What axe-core finds wrong in a tab as it is now."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    return [
        f"{one['id']}: {node['target']} {node['html'][:160]} {[what['message'] for what in node['any'] + node['all']]}"
        for one in axe.Axe().run(tab).response["violations"]
        for node in one["nodes"]
    ]


def narrow_and_dark(tab: Any) -> list[str]:
    """The same in light at full width, and in dark on a narrow screen; what is too wide there is told, too."""
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.emulate_media(color_scheme="light")
    wrong = [f"light: {one}" for one in violations(tab)]
    tab.emulate_media(color_scheme="dark")
    tab.set_viewport_size({"width": 360, "height": 740})
    wrong += [f"dark and narrow: {one}" for one in violations(tab)]
    width = tab.evaluate("document.documentElement.scrollWidth")
    return wrong if width <= 360 else [*wrong, f"{width} pixels wide where 360 are"]
