"""The page to start from: what it shows, to whom, and that nothing in it can be made to run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from tests.server.inside import Answer, Inside
from tests.server.test_access import make_key
from tests.server.upstream import FakeEngine


class _Outline(HTMLParser):
    """Elements with their attributes, and the text outside of markup."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def element(self, identifier: str) -> dict[str, str | None]:
        return next(attrs for _, attrs in self.elements if attrs.get("id") == identifier)


def page(gateway: Inside) -> tuple[Answer, _Outline]:
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    answer = gateway.call("GET", "/")
    return answer, _Outline(answer.body.decode())


def test_the_page_shows_the_models_and_what_was_asked_lately(gateway: Inside) -> None:
    asked = gateway.ask({"messages": [{"role": "user", "content": "Where is my parcel?"}]})
    gateway.call(
        "POST", "/v1/feedback", {"inference_id": asked.headers["x-starloop-inference-id"], "rating": 2}
    )
    answer, outline = page(gateway)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    text = " ".join(outline.texts)
    for shown in ("assistant", "Where is my parcel?", "bases/starter answers", "assistant@base", "★★☆☆☆"):
        assert shown in text
    assert "hidden" in outline.element("lock")


def test_what_users_and_models_write_is_text_and_never_markup(gateway: Inside, engine: FakeEngine) -> None:
    engine.answer = lambda body: "</p><script>alert(1)</script>"
    gateway.ask({"messages": [{"role": "user", "content": '<img src=x onerror="alert(2)">'}]})
    _, outline = page(gateway)
    assert sum(tag == "script" for tag, _ in outline.elements) == 2  # the page's own
    assert not any("onerror" in attrs for _, attrs in outline.elements)
    script = files("server").joinpath("pages/static/chat.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_nothing_on_the_page_comes_from_elsewhere(gateway: Inside) -> None:
    answer, outline = page(gateway)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "frame-ancestors 'none'" in policy
    for tag, attrs in outline.elements:
        assert "style" not in attrs and not any(name.startswith("on") for name in attrs), tag
        for name in ("src", "href", "action"):
            assert (attrs.get(name) or "/").startswith("/"), attrs
    for file in files("server").joinpath("pages/static").iterdir():
        found = gateway.call("GET", f"/static/{file.name}")
        assert found.status == 200
        assert "http" not in found.body.decode().replace("http://www.w3.org/2000/svg", "")


def test_the_pages_files_are_sent_once_and_what_paints_a_page_is_not_even_asked_for_again(
    gateway: Inside,
) -> None:
    _, outline = page(gateway)
    style = next(attrs["href"] for _, attrs in outline.elements if attrs.get("rel") == "stylesheet")
    assert style and re.fullmatch(r"/static/page\.css\?v=[0-9a-f]{16}", style)
    kept = gateway.call("GET", style)
    assert kept.headers["cache-control"] == "private, max-age=31536000, immutable"
    tag = kept.headers["etag"]
    assert tag == f'"{style.rpartition("=")[2]}"'
    for address in ("/static/page.css", "/static/page.css?v=0123456789abcdef"):  # another release's page
        plain = gateway.call("GET", address)
        assert (plain.body, plain.headers["cache-control"]) == (kept.body, "no-cache")
    for asked in (tag, f"W/{tag}", f'"another", {tag}', "*"):
        again = gateway.call("GET", "/static/page.css", None, {"if-none-match": asked})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["cache-control"] == "no-cache"
    changed = gateway.call("GET", "/static/page.css", None, {"if-none-match": '"another"'})
    assert (changed.status, changed.body) == (200, kept.body)
    assert (
        len({gateway.call("GET", f"/static/{name}.js").headers["etag"] for name in ("page", "every", "chat")})
        == 3
    )


def test_once_there_are_keys_the_page_asks_for_one_and_shows_nothing(gateway: Inside) -> None:
    gateway.ask({"messages": [{"role": "user", "content": "A secret"}]})
    make_key(gateway, "infer")
    answer, outline = page(gateway)
    assert answer.status == 200
    assert "hidden" not in outline.element("lock") and "hidden" in outline.element("desk")
    assert b"A secret" not in answer.body


@pytest.mark.parametrize("headers", [{"x-forwarded-for": "1.2.3.4"}, {"host": "evil.example"}])
def test_the_page_shows_nothing_to_others(gateway: Inside, headers: dict[str, str]) -> None:
    gateway.ask({"messages": [{"role": "user", "content": "A secret"}]})
    gateway.wait_for(lambda: gateway.gateway.journal.backlog() == 0)
    answer = gateway.call("GET", "/", None, headers)
    assert b"A secret" not in answer.body and b"starloop keys create" in answer.body


def test_every_field_has_a_label_and_the_page_fits_a_narrow_screen(gateway: Inside) -> None:
    _, outline = page(gateway)
    assert any(attrs.get("name") == "viewport" for _, attrs in outline.elements)
    labels = sum(tag == "label" for tag, _ in outline.elements)
    fields = sum(tag in ("input", "select", "textarea") for tag, _ in outline.elements)
    assert labels >= fields
