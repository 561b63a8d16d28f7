from __future__ import annotations

import pytest

from server.loopback import is_local


def local(peer: str | None = "127.0.0.1", **headers: str) -> bool:
    sent = {"host": "127.0.0.1:8000", **headers}
    return is_local(peer, {name.replace("_", "-").encode(): value.encode() for name, value in sent.items()})


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"])
def test_a_loopback_peer_is_local(peer: str) -> None:
    assert local(peer)


@pytest.mark.parametrize(
    "peer", ["10.0.0.5", "192.168.1.1", "8.8.8.8", "::ffff:10.0.0.1", "fe80::1", "", "unix", None]
)
def test_any_other_peer_is_not(peer: str | None) -> None:
    assert not local(peer)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "[::1]:8000", "[::1]"]
)
def test_a_loopback_host_is_local(host: str) -> None:
    assert local(host=host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8000",
        "10.0.0.1",
        "[::2]:8000",
        "evil@127.0.0.1",
        "localhost:80@evil.example",
        "[::1]evil.example",
        "[::1].evil.example:80",
        "[localhost]",
    ],
)
def test_a_foreign_host_is_a_page_that_rebound_its_name(host: str) -> None:
    assert not local(host=host)


@pytest.mark.parametrize(
    "header",
    [
        "forwarded",
        "x_forwarded_for",
        "x_forwarded_host",
        "x_forwarded_proto",
        "x_forwarded_anything",
        "x_real_ip",
        "via",
        "x_client_ip",
        "true_client_ip",
        "cf_connecting_ip",
        "x_envoy_external_address",
    ],
)
def test_what_came_through_a_proxy_is_not_local(header: str) -> None:
    assert not local(**{header: "127.0.0.1"})


def test_only_the_gateways_own_pages_are_local() -> None:
    assert local(origin="http://127.0.0.1:8000")
    assert not local(origin="http://127.0.0.1:9000")
    assert not local(origin="http://evil.example")
    assert not local(origin="null")
    assert not local(host="localhost:8000", origin="http://127.0.0.1:8000")
