"""Pages of other sites in the reader's own browser: whatever they send here with the reader's cookies is refused.

A page on another port of this host is such a site, and the nearest one there is: cookies are shared by all ports, and
`SameSite` does not tell them apart.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server.browsing import MARKS, Site, Watched, shop, sign_in

playwright = pytest.importorskip(
    "playwright.sync_api", reason="drives a browser: pip install playwright axe-playwright-python"
)
pytestmark = MARKS
PAGE = '<!doctype html><html lang="en"><head><title>Prizes</title><link rel="icon" href="data:,"></head><body></body></html>'
ASKED = {"messages": [{"role": "user", "content": "forged"}], "model": "assistant"}
CHANGES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": ASKED,
    "/v1/cycles": {"model": "assistant", "mode": "report", "reason": "forged"},
    "/v1/models/assistant/promote": {"version": "base", "reason": "forged"},
    "/v1/models/assistant/rollback": {"reason": "forged"},
    "/v1/keys": {"scopes": ["admin"], "owner": "forger"},
    "/v1/failures/{failure}/resolve": {"action": "dismiss"},
    "/v1/feedback": {"inference_id": "{inference}", "rating": 5},
}
FORMS = """
async ([address, changes]) => {
  for (const [path, body] of Object.entries(changes)) {
    const text = JSON.stringify(body);
    for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
      const sink = Object.assign(document.createElement("iframe"), { name: `sink-${document.querySelectorAll("iframe").length}` });
      document.body.append(sink);
      const form = document.createElement("form");
      Object.assign(form, { method: "post", action: address + path, enctype, target: sink.name });
      // As plain text, a field is sent as `name=value`: cut at the right place, that is JSON.
      const fields = enctype === "text/plain" ? { [text.slice(0, -1) + ', "comment": "']: '"}' } : body;
      for (const [name, value] of Object.entries(fields)) {
        const field = document.createElement("input");
        Object.assign(field, { type: "hidden", name, value });
        form.append(field);
      }
      document.body.append(form);
      const loaded = new Promise((done) => { sink.onload = done; setTimeout(done, 3000); });
      form.submit();
      await loaded;
    }
  }
}
"""
FETCHES = """
async ([address, changes]) => {
  const guard = document.cookie.match(/starloop-csrf=([0-9a-f]+)/)?.[1] ?? "";
  const outcomes = [];
  const send = async (path, options) => {
    try {
      const answer = await fetch(address + path, { credentials: "include", ...options });
      outcomes.push([path, answer.type, answer.status]);
    } catch (problem) {
      outcomes.push([path, "refused", 0]);
    }
  };
  for (const [path, body] of Object.entries(changes)) {
    const text = JSON.stringify(body);
    await send(path, { method: "POST", mode: "no-cors", body: text });
    await send(path, { method: "POST", body: text });
    for (const headers of [{ "content-type": "application/json" }, { "x-starloop-csrf": guard }]) {
      await send(path, { method: "POST", body: text, headers: { "content-type": "application/json", ...headers } });
    }
    navigator.sendBeacon(address + path, text);
  }
  await send("/session", { method: "DELETE" });
  await send("/session", { method: "DELETE", headers: { "x-starloop-csrf": guard } });
  for (const path of ["/v1/keys", "/v1/inferences", "/settings", "/", "/pages/events?about=review&of=assistant"]) await send(path, {});
  return [guard, outcomes];
}
"""


def changes(site: Site) -> dict[str, dict[str, Any]]:
    """What is tried, against things that are there."""
    failure = next(iter(state(site)["/v1/failures"]))["id"]
    return {
        path.format(failure=failure): {
            name: site.ids["inference"] if value == "{inference}" else value for name, value in body.items()
        }
        for path, body in CHANGES.items()
    }


def state(site: Site) -> dict[str, list[dict[str, Any]]]:
    """Everything that could have been changed, as the API shows it."""
    headers = {"authorization": f"Bearer {site.ids['admin']}"} if "admin" in site.ids else {}
    paths = ("/v1/audit", "/v1/cycles", "/v1/keys", "/v1/failures", "/v1/inferences")
    found = {}
    for path in paths:
        answer = httpx.get(
            site.address + path, params={"limit": 1000} if path != "/v1/keys" else {}, headers=headers
        )
        found[path] = answer.raise_for_status().json()["items"]
    one = httpx.get(
        f"{site.address}/v1/inferences/{site.ids['inference']}", headers=headers
    ).raise_for_status()
    return {**found, "feedback": one.json()["feedback"]}


@pytest.mark.parametrize("kind", ["site", "keyed_site"])
def test_a_page_of_another_site_changes_nothing_and_reads_nothing(
    request: pytest.FixtureRequest, watched: Watched, kind: str
) -> None:
    site: Site = request.getfixturevalue(kind)
    tab = watched.tab
    if kind == "keyed_site":
        sign_in(tab, site, site.ids["admin"])
    before, cookies = state(site), tab.context.cookies()
    arrived: list[tuple[str, str, int]] = []

    def came(response: Any) -> None:
        asked = response.request
        if asked.url.startswith(site.address) and asked.method == "POST":
            arrived.append((asked.resource_type, asked.url.removeprefix(site.address), response.status))

    tab.on("response", came)
    tried = [site.address, changes(site)]
    with shop(PAGE, "default-src * 'unsafe-inline' data:") as address:
        tab.goto(address)
        tab.evaluate(FORMS, tried)
        guard, outcomes = tab.evaluate(FETCHES, tried)
        tab.wait_for_timeout(500)  # beacons
    tab.remove_listener("response", came)
    forms = [path for kind, path, _ in arrived if kind == "document"]
    assert len(forms) == 3 * len(CHANGES) and len(arrived) >= 4 * len(CHANGES)
    if kind == "keyed_site":
        assert len(guard) == 64  # the page can even read the value that our own pages show
        # The cookie came along each time: without it, the answer is 401.
        assert httpx.post(f"{site.address}/v1/cycles", json=CHANGES["/v1/cycles"]).status_code == 401
    refused = 403 if kind == "keyed_site" else 401
    assert {status for _, path, status in arrived if path != "/v1/feedback"} == {refused}
    # Feedback also comes by token from any site, so it is read before anybody is asked for: a form's fields are no JSON.
    assert sorted({status for _, path, status in arrived if path == "/v1/feedback"}) == [400, refused]
    assert {(kind, status) for _, kind, status in outcomes} <= {("opaque", 0), ("refused", 0)}
    assert state(site) == before and tab.context.cookies() == cookies


def test_no_page_of_ours_is_shown_inside_another_sites(site: Site, watched: Watched) -> None:
    tab = watched.tab
    framed = "".join(
        f'<iframe src="{site.address}{path}"></iframe>' for path in ("/", "/versions", "/settings")
    )
    with shop(PAGE.replace("<body>", f"<body>{framed}"), "frame-src *") as address:
        tab.goto(address)
        tab.wait_for_load_state("networkidle")
        for frame in tab.frames[1:]:
            assert "Starloop" not in frame.content()
    assert len([one for one in watched.complaints if "frame-ancestors" in one]) == 3


def test_another_site_can_sign_nobody_in_as_somebody_else(keyed_site: Site, watched: Watched) -> None:
    site, tab = keyed_site, watched.tab
    sign_in(tab, site, site.ids["admin"])
    stolen = site.key("infer", owner="mallory")
    cookies = tab.context.cookies()
    with shop(PAGE, "default-src * 'unsafe-inline'") as address:
        tab.goto(address)
        tab.evaluate(FORMS, [site.address, {"/session": {"key": stolen}}])
        tab.evaluate(FETCHES, [site.address, {"/session": {"key": stolen}}])
    assert tab.context.cookies() == cookies
    tab.goto(f"{site.address}/settings")
    playwright.expect(tab.get_by_text("this page's own")).to_be_visible()


def test_what_another_site_is_refused_our_own_page_may(keyed_site: Site, watched: Watched) -> None:
    tab = watched.tab
    sign_in(tab, keyed_site, keyed_site.ids["admin"])
    guard, outcomes = tab.evaluate(
        FETCHES, ["", {"/v1/failures/claim": {"model": "assistant", "holder": "0" * 32}}]
    )
    statuses = [status for path, _, status in outcomes if path == "/v1/failures/claim"]
    assert len(guard) == 64 and statuses == [403, 403, 403, 200]
    tab.goto(f"{keyed_site.address}/overview")  # and the last of them signed its reader out
    playwright.expect(tab.get_by_role("heading", name="Sign in first")).to_be_visible()
