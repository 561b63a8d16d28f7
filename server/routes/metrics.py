"""`/metrics`: all workers' numbers in Prometheus' text format."""

from __future__ import annotations

import asyncio

from litestar import Response, get

from feedback.errors import UnavailableError
from feedback.storage.aside import KINDS, count_aside
from server.gateway import Gateway
from server.request import Parts
from server.telemetry import exposition
from server.telemetry.families import ROWS_SET_ASIDE


@get("/metrics", media_type="text/plain")
async def metrics(gateway: Parts) -> Response[bytes]:
    """Metrics for Prometheus: the sum over the workers of this gateway, whichever of them is asked."""
    gateway.gauges.write()
    text = await asyncio.to_thread(_scrape, gateway)
    return Response(text, headers={"content-type": exposition.CONTENT_TYPE})


def _scrape(gateway: Gateway) -> bytes:
    directory = gateway.settings.directory
    aside: dict[str, float] = {kind: float(count_aside(directory, kind)) for kind in KINDS}
    try:
        registry = gateway.live.current
    except UnavailableError:  # never read yet: nothing was served either
        registry = None
    return exposition.expose(gateway.metrics.readings(), registry, {ROWS_SET_ASIDE: aside})


ROUTES = [metrics]
