"""`/v1/reports`: a model's month."""

from __future__ import annotations

from typing import Literal

from litestar import MediaType, Response, get
from litestar.params import FromQuery

from feedback.reports.apart import Wanted, report_apart
from feedback.reports.document import Report
from feedback.reports.forms import html, markdown
from server.request import SCOPES, GatewayRequest, Parts

_READ = {SCOPES: ("review", "train")}
_TYPES = {"md": "text/markdown", "html": "text/html"}
"""Litestar adds the charset."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@get("/v1/reports", opt=_READ, sync_to_thread=True)
def report(
    request: GatewayRequest,
    gateway: Parts,
    model: FromQuery[str],
    month: FromQuery[str | None] = None,
    format: FromQuery[Literal["json", "md", "html"]] = "json",
) -> Response[Report | str]:
    """How a model's month (`YYYY-MM`, UTC; without it this one so far) was: ratings, failures, latency, costs, changes, goals."""
    request.user.need_model(model)
    now = gateway.now()
    found = report_apart(Wanted(gateway.settings, model, f"{now:%Y-%m}" if month is None else month, now))
    if format == "json":
        return Response(found, media_type=MediaType.JSON)
    text = markdown(found) if format == "md" else html(found)
    return Response(text, media_type=_TYPES[format], headers={"content-security-policy": _POLICY})


ROUTES = [report]
