"""`make screenshots`: every page as it is, light, dark and narrow, over what `make demo` left behind.

Engine, gateway and loop are started over the demo's data, so the pages show what the product itself found there.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.server.browsing import CHROMIUM, FLAGS

_FORMS: dict[str, tuple[str, int]] = {
    "light": ("light", 1280),
    "dark": ("dark", 1280),
    "narrow": ("light", 360),
}
_QUESTION = "My parcel has not arrived yet, where is it?"


@contextmanager
def _up(configuration: Path) -> Iterator[str]:
    """`starloop up` over the demo's data; its address."""
    port = tomllib.loads(configuration.read_text())["server"]["port"]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "server.command", "up", "--config", str(configuration)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ))
    try:
        deadline = time.monotonic() + 600
        while not _ready(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the demo's gateway does not come up; see the logs in its folder")
            time.sleep(1)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _pages(address: str) -> dict[str, str]:
    """Addresses by the name of their picture."""

    def first(path: str) -> Any:
        return httpx.get(f"{address}{path}", timeout=60).raise_for_status().json()["items"][0]

    version = httpx.get(f"{address}/v1/models/assistant/versions", timeout=60).json()["items"]
    promoted = next(one["number"] for one in version if one["state"] == "promoted")
    trained = next(one for one in version if one["number"] == promoted)
    return {
        "chat": "/",
        "review": "/review",
        "overview": "/overview",
        "inferences": "/inferences?rating_lte=2",
        "inference": f"/inferences/{first('/v1/inferences?rating_lte=2&limit=1')['id']}",
        "cycles": "/cycles",
        "cycle": f"/cycles/{trained['cycle_id']}",
        "versions": "/versions",
        "compared": f"/versions?before=base&after={promoted}",
        "datasets": "/datasets",
        "dataset": f"/datasets/{trained['dataset_id']}?check=1",
        "report": "/report",
        "settings": "/settings",
        "widget": "/widget",
    }


def _take(tab: Any, address: str, name: str, path: str, out: Path) -> None:
    tab.goto(f"{address}{path}", timeout=60_000)
    for _ in range(60):
        if not tab.locator("#again").count():
            break
        tab.wait_for_timeout(2000)  # what is found beside the gateway, and is there when one comes again
        tab.goto(f"{address}{path}", timeout=60_000)
    if name == "chat":
        tab.locator("#message").fill(_QUESTION)
        tab.keyboard.press("Enter")
        tab.wait_for_timeout(4000)
    tab.wait_for_timeout(500)
    for form, (scheme, width) in _FORMS.items():
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 800})
        tab.wait_for_timeout(150)
        tab.screenshot(
            path=str(out / f"{name}-{form}.png"), full_page=form == "narrow" or name != "inferences"
        )
    tab.set_viewport_size({"width": 1280, "height": 800})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.server.screenshots", description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo-data"), help="folder of the demo")
    parser.add_argument("--address", help="of a gateway that runs, instead")
    parser.add_argument("--out", type=Path, default=Path(".screenshots"))
    arguments = parser.parse_args()
    if arguments.address:
        _all(arguments.address, arguments.out)
        return
    configuration = arguments.demo / "demo.toml"
    if not configuration.is_file():
        raise SystemExit(f"{configuration} is not there: run `make demo ARGS=--exit` first")
    with _up(configuration) as address:
        _all(address, arguments.out)


def _all(address: str, out: Path) -> None:
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as profile:
        context = driver.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, headless=True, locale="en-GB"
        )
        tab = context.new_page()
        for name, path in _pages(address).items():
            _take(tab, address, name, path, out)
        context.close()
    print(f"{len(list(out.glob('*.png')))} pictures in {out}")


if __name__ == "__main__":
    main()
