"""Traces: a span for each inference, in the client's trace, continued by the engine, and nothing at all when off."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from feedback.errors import SettingsError
from feedback.settings import Server, Settings
from server.commands.serve import serve
from server.telemetry import traces
from server.telemetry.traces import check_traces, traces_address, with_endpoint
from tests.server.inside import HELLO, Inside, inside, settings_for
from tests.server.served import free_port
from tests.server.test_completion import STREAM, identifier
from tests.server.upstream import FakeEngine

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
WELL_FORMED = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]")


class Collector:
    """Takes spans over OTLP/HTTP, as a collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    data = gzip.decompress(data)
                if self.path == "/v1/traces":
                    collector.take(ExportTraceServiceRequest.FromString(data))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def take(self, request: Any) -> None:
        for resource in request.resource_spans:
            self.services |= {
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            }
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@contextmanager
def traced(engine: FakeEngine, data: Path, endpoint: str) -> Iterator[Inside]:
    """Its spans have arrived when the block is over."""
    with inside(settings_for(data, [engine.url], server=Server(traces=endpoint))) as gateway:
        yield gateway


def said(span: Any) -> dict[str, Any]:
    """A span's attributes."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


def test_an_inference_is_a_span_in_the_clients_trace(
    engine: FakeEngine, data: Path, collector: Collector
) -> None:
    with traced(engine, data, collector.url) as gateway:
        answer = gateway.ask(headers={"traceparent": TRACEPARENT})
    (span,) = collector.spans
    assert (span.name, collector.services) == ("chat assistant", {"starloop"})
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert said(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "assistant",
        "starloop.model": "assistant",
        "starloop.version": "base",
        "http.route": "/v1/chat/completions",
        "starloop.inference_id": identifier(answer),
        "starloop.captured": True,
        "http.response.status_code": 200,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 2,
    }
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 10_000_000_000
    assert engine.completions()[0].headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"


def test_a_stream_says_when_its_first_token_came(
    engine: FakeEngine, data: Path, collector: Collector
) -> None:
    engine.pause = 0.05
    with traced(engine, data, collector.url) as gateway:
        gateway.ask(STREAM)
    (span,) = collector.spans
    (event,) = span.events
    assert event.name == "first token"
    assert span.start_time_unix_nano < event.time_unix_nano < span.end_time_unix_nano - 100_000_000


def test_what_fails_is_marked_and_holds_nothing_that_was_written(
    engine: FakeEngine, data: Path, collector: Collector
) -> None:
    with traced(engine, data, collector.url) as gateway:
        gateway.ask({"max_tokens": 0})
        engine.status = 500
        gateway.ask({"messages": [{"role": "user", "content": "a secret question"}], "user": "ann"})
        engine.status, engine.die_after = 200, 2
        gateway.ask(STREAM)
        engine.die_after, engine.held = None, True
        asked = len(engine.completions())
        gateway.run(
            gateway.send(
                "POST", "/v1/chat/completions", HELLO, leaves=lambda _: len(engine.completions()) > asked
            )
        )
    error = 2
    assert [
        (said(span)["http.response.status_code"], said(span).get("error.type"), span.status.code == error)
        for span in collector.spans
    ] == [
        (400, None, False),
        (502, "BrokenAnswerError", True),
        (502, "BrokenAnswerError", True),
        (499, None, False),
    ]
    held = b"".join(span.SerializeToString() for span in collector.spans)
    assert not any(word in held for word in (b"secret", b"ann", b"Hello", b"told to fail"))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"{TRACEPARENT}\r\nx-injected: 1",
        "0" * 5000,
    ],
)
def test_a_malformed_parent_begins_a_new_trace_and_never_reaches_the_engine(
    engine: FakeEngine, data: Path, collector: Collector, header: str
) -> None:
    with traced(engine, data, collector.url) as gateway:
        assert gateway.ask(headers={"traceparent": header, "tracestate": "theirs=1"}).status == 200
    (span,) = collector.spans
    assert (span.trace_id.hex() != TRACE, span.parent_span_id) == (True, b"")
    sent = engine.completions()[0].headers
    assert WELL_FORMED.fullmatch(sent["traceparent"]) and TRACE not in sent["traceparent"]
    assert not {"tracestate", "x-injected"} & set(sent)


def test_a_trace_that_is_not_sampled_is_passed_on_and_not_sent(
    engine: FakeEngine, data: Path, collector: Collector
) -> None:
    with traced(engine, data, collector.url) as gateway:
        gateway.ask(headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert collector.spans == []
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-00", engine.completions()[0].headers["traceparent"])


def test_a_collector_that_is_away_costs_no_request(engine: FakeEngine, data: Path) -> None:
    with traced(engine, data, "http://127.0.0.1:9") as gateway:
        assert [gateway.ask().status for _ in range(5)] == [200] * 5


# -- off


def test_without_a_collector_the_engine_gets_no_trace_and_nothing_is_loaded(
    engine: FakeEngine, data: Path
) -> None:
    with inside(settings_for(data, [engine.url])) as gateway:
        assert gateway.gateway.traces is None
        gateway.ask(headers={"traceparent": TRACEPARENT})
    assert "traceparent" not in engine.completions()[0].headers
    program = "import sys, server.app; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- settings


@pytest.mark.parametrize(
    ("written", "environment", "used"),
    [
        ("", {}, ""),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, "http://a:4318/v1/traces"),
        ("http://b:4318/", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, "http://b:4318/v1/traces"),
        ("http://b/v1/traces", {}, "http://b/v1/traces"),
    ],
)
def test_the_collector_comes_from_the_settings_or_opentelemetrys_variable(
    written: str, environment: dict[str, str], used: str
) -> None:
    settings = with_endpoint(Settings(server=Server(traces=written)), environment)

    assert (settings.server.traces and traces_address(settings.server.traces)) == used


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://x", "http://", "http://[::1"])
def test_an_endpoint_that_is_no_address_is_an_error(endpoint: str) -> None:
    with pytest.raises(SettingsError, match=r"server\.traces: must be the address"):
        check_traces(endpoint)


def test_without_opentelemetry_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "_NEEDED", ("opentelemetry_that_is_not_there.sdk",))
    monkeypatch.chdir(tmp_path)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}

    done = CliRunner().invoke(serve, ["--port", str(free_port())], env=environment)

    assert done.exit_code != 0
    assert "pip install 'starloop[traces]'" in done.output
