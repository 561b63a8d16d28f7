"""Traces over OpenTelemetry: a span for each inference, joined to the client's trace and continued by the engine.

Off unless an endpoint is set, and then nothing of OpenTelemetry is imported. No span holds what users wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from time import time_ns
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from feedback.errors import SettingsError
from feedback.settings import Settings
from feedback.storage.records import InferenceRecord
from server.routing import Route

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

_PATH = "/v1/traces"
_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_LONGEST_PARENT = 256  # of longer ones OpenTelemetry complains in the log, once a request
# Spans are sent by a thread of their own; at the end of a worker it waits no longer than this for the collector.
_EXPORT_SECONDS = 5


def with_endpoint(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """The settings with the collector that OpenTelemetry's variable names, if they name none; for entry points."""
    if settings.server.traces:
        return settings
    endpoint = environment.get(ENDPOINT, "")
    server = msgspec.structs.replace(settings.server, traces=endpoint)
    return msgspec.structs.replace(settings, server=server)


def check_traces(endpoint: str) -> None:
    """Raises `SettingsError` when traces are wanted and cannot be sent: no address, or OpenTelemetry is not there."""
    if not endpoint:
        return
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        sound = False
    if not sound:
        raise SettingsError(
            ["server.traces: must be the address of an OTLP collector, such as http://collector:4318"]
        )
    if not all(_is_installed(name) for name in _NEEDED):
        raise SettingsError(
            [
                "server.traces: OpenTelemetry is not installed; install the extra: pip install 'starloop[traces]', "
                "or leave server.traces and OTEL_EXPORTER_OTLP_ENDPOINT out"
            ]
        )


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


class Trace:
    """The span of one inference."""

    __slots__ = ("_span", "_started", "header")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._started = time_ns()
        context = span.get_span_context()
        self.header = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        """The `traceparent` for the engine."""

    def end(self, record: InferenceRecord, status: int, captured: bool, failure: str | None) -> None:
        """Say how it ended, and hand it over to be sent."""
        from opentelemetry.trace import StatusCode

        span = self._span
        if record.first_token_ms is not None:
            span.add_event("first token", timestamp=self._started + int(record.first_token_ms * 1_000_000))
        said: dict[str, str | int | bool | None] = {
            "starloop.inference_id": record.id,
            "starloop.captured": captured,
            "http.response.status_code": status,
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
            "error.type": failure,
        }
        span.set_attributes({name: value for name, value in said.items() if value is not None})
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()


class Traces:
    """Makes spans, and sends them from a thread of its own."""

    def __init__(self, endpoint: str, exporter: SpanExporter | None = None) -> None:
        """`exporter` takes the place of OTLP over HTTP. Raises `SettingsError`, as `check_traces` does."""
        check_traces(endpoint)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        if exporter is None:
            exporter = OTLPSpanExporter(endpoint=traces_address(endpoint), timeout=_EXPORT_SECONDS)
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "starloop"}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("starloop")
        self._parents = TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER

    def begin(self, path: str, operation: str, route: Route, traceparent: str | None) -> Trace:
        """A span for an inference, in the client's trace if its `traceparent` is well formed, else in a new one."""
        # Of the client's headers only this one is read; `tracestate` may hold anything and goes no further.
        known = traceparent is not None and len(traceparent) <= _LONGEST_PARENT
        parent = self._parents.extract({"traceparent": traceparent} if known else {})
        span = self._tracer.start_span(
            f"{operation} {route.model}",
            parent,
            self._kind,
            {
                "gen_ai.operation.name": operation,
                "gen_ai.request.model": route.model,
                "starloop.model": route.model,
                "starloop.version": route.version,
                "http.route": path,
            },
        )
        return Trace(span)

    def close(self) -> None:
        """Send what waits; takes a few seconds when the collector is away."""
        self._provider.shutdown()


def traces_address(endpoint: str) -> str:
    """Where a collector at this address takes traces, by OTLP's rule."""
    base = endpoint.rstrip("/")
    return base if base.endswith(_PATH) else base + _PATH
