"""`/overview`: a model's last days, and what awaits a decision."""

from __future__ import annotations

from typing import Any

from litestar import Response, get
from litestar.params import FromQuery
from markupsafe import Markup

from feedback.errors import BadFieldError
from feedback.registry.models import get_model
from feedback.reports.overview import PERIODS, Overview, awaiting
from feedback.reports.plots import bars, line
from feedback.reports.pulse import mark_of
from feedback.reports.zones import name_of
from server.access import Caller
from server.cookies import zone_of
from server.gateway import Looked
from server.rendering import model_page
from server.request import OPEN, SCOPES, GatewayRequest, Parts
from server.routes.updates import live


@get("/overview", opt={SCOPES: OPEN}, include_in_schema=False, sync_to_thread=True)
def overview(
    request: GatewayRequest, gateway: Parts, model: FromQuery[str] = "", days: FromQuery[str] = "30"
) -> Response[str]:
    """What awaits a decision is looked up now; the figures are as they were last found, at most minutes ago."""

    def shown(caller: Caller, chosen: str) -> dict[str, Any]:
        if days not in map(str, PERIODS):
            raise BadFieldError("days", f"{days[:20]!r} is none of {', '.join(map(str, PERIODS))}")
        with gateway.database.reading() as session:
            get_model(session, chosen)
            waits = awaiting(session, chosen)
        zone = name_of(zone_of(request.scope["headers"]))
        found = gateway.overviews.get(Looked(chosen, int(days), zone))
        value = found.value if found else None
        return {
            "waits": waits,
            "live": live("overview", chosen, mark_of(waits)),
            "found": value,
            "when": found.when if found else None,
            "problem": found.problem if found else None,
            "under_way": found is None,
            "stars_plot": Markup(_stars(value)) if value else "",
            "answers_plot": Markup(_answers(value)) if value else "",
        }

    nothing: dict[str, Any] = dict.fromkeys(
        ("waits", "found", "when", "problem", "under_way", "stars_plot", "answers_plot")
    )
    facts = {"days": days, "periods": list(map(str, PERIODS))}
    return model_page("overview.html", request, gateway, model, ("review", "train"), nothing, shown, **facts)


def _stars(found: Overview) -> str:
    if not found.stars.ratings:
        return ""
    labels = [day.day for day in found.days]
    means, bands = [day.mean for day in found.days], [day.interval for day in found.days]
    marks = [(mark.day, mark.version) for mark in found.marks]
    return line("Mean stars a day, with their 95 % intervals", labels, means, 1, 5, bands, marks)


def _answers(found: Overview) -> str:
    if not found.volume.answers:
        return ""
    return bars("Answers a day", [day.day for day in found.days], [day.answers for day in found.days])


ROUTES = [overview]
