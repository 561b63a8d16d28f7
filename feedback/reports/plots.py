"""Plots as SVG in the page: no script, no other host. Colours come from the page's style, so light and dark both work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10

_WIDTH, _HEIGHT, _LEFT, _BELOW, _ABOVE = 640, 180, 44, 24, 10
_LABEL = 60
_DRAWN = 300
_SLOTS = 10
"""Places at least, so that few values are not drawn as walls."""


def bars(title: str, labels: Sequence[str], values: Sequence[float]) -> str:
    """One bar for each label, from 0."""
    top = _round_up(max(values, default=0.0))
    step = (_WIDTH - _LEFT) / max(len(values), _SLOTS)
    drawn = [
        f'<rect class="bar" x="{_LEFT + place * step + step * 0.1:.1f}" y="{_y(value, 0, top):.1f}" '
        f'width="{step * 0.8:.1f}" height="{_y(0, 0, top) - _y(value, 0, top):.1f}">'
        f"<title>{escape(label)}: {value:,.0f}</title></rect>"
        for place, (label, value) in enumerate(zip(labels, values, strict=True))
    ]
    return _plot(title, labels, "".join(drawn), [(0, f"{0}"), (top, f"{top:,.0f}")], 0, top)


def line(
    title: str,
    labels: Sequence[str],
    values: Sequence[float | None],
    low: float,
    high: float,
    bands: Sequence[tuple[float, float] | None] = (),
    marks: Sequence[tuple[int, str]] = (),
) -> str:
    """A line through the values, broken where there is none.

    `bands` are intervals around them, `marks` names at places, such as the version that began to serve there.
    """
    step = (_WIDTH - _LEFT) / max(len(values), _SLOTS)
    path, pen = [], "M"
    dots = [_band(_LEFT + (place + 0.5) * step, band, low, high) for place, band in enumerate(bands) if band]
    dots += [_mark(_LEFT + place * step, name) for place, name in marks]
    for place, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        x, y = _LEFT + (place + 0.5) * step, _y(value, low, high)
        path.append(f"{pen}{x:.1f} {y:.1f}")
        dots.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(labels[place])}: {value:.2f}</title></circle>'
        )
        pen = "L"
    drawn = f'<path class="line" d="{" ".join(path)}"/>{"".join(dots)}'
    rules = [(low + (high - low) * part / 4, f"{low + (high - low) * part / 4:g}") for part in range(5)]
    return _plot(title, labels, drawn, rules, low, high)


Points = Sequence[tuple[float, float]]


def curves(title: str, series: Mapping[str, Points]) -> str:
    """Several lines over one number, such as losses over steps, from 0, each named in its own colour."""
    some = {name: _thinned(points) for name, points in series.items() if points}
    every = [point for points in some.values() for point in points]
    if not every:
        return ""
    first, last = min(x for x, _ in every), max(x for x, _ in every)
    top = _above(max(y for _, y in every))
    drawn = []
    for place, (name, points) in enumerate(some.items()):
        spots = [
            (_LEFT + (x - first) / ((last - first) or 1) * (_WIDTH - _LEFT - 8), _y(y, 0, top))
            for x, y in points
        ]
        path = " ".join(f"{'L' if at else 'M'}{x:.1f} {y:.1f}" for at, (x, y) in enumerate(spots))
        told = f"{escape(name)}: {points[-1][1]:.3f} at {points[-1][0]:g}"
        drawn.append(f'<path class="line curve-{place}" d="{path}"><title>{told}</title></path>')
        drawn.append(
            f'<circle class="dot curve-{place}" cx="{spots[-1][0]:.1f}" cy="{spots[-1][1]:.1f}" r="3"/>'
            f'<text class="curve-{place}" x="{_WIDTH - 8}" y="{_ABOVE + 10 + 14 * place}" text-anchor="end">'
            f"{escape(name)} {points[-1][1]:.3f}</text>"
        )
    rules = [(top * part / 4, f"{top * part / 4:g}") for part in range(5)]
    svg = _plot(title, [], "".join(drawn), rules, 0, top)
    ends = f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{first:g}</text>'
    ends += f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 6}" text-anchor="end">{last:g}</text>'
    return svg.removesuffix("</svg>") + ends + "</svg>"


def _thinned(points: Points) -> Points:
    """At most as many as can be told apart: the means of stretches."""
    size = -(-len(points) // _DRAWN)
    if size <= 1:
        return points
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [(some[-1][0], sum(y for _, y in some) / len(some)) for some in stretches]


def _above(value: float) -> float:
    """1, 2, 4 or 5 times a power of ten, however small, that is not below a value."""
    if value <= 0:
        return 1.0
    size = 10.0 ** floor(log10(value))
    return next((factor * size for factor in (1, 2, 4, 5) if factor * size >= value), 10 * size)


def _band(x: float, band: tuple[float, float], low: float, high: float) -> str:
    top, bottom = _y(band[1], low, high), _y(band[0], low, high)
    told = f"<title>95 %: {band[0]:.2f} to {band[1]:.2f}</title>"
    return f'<rect class="band" x="{x - 4:.1f}" y="{top:.1f}" width="8" height="{max(bottom - top, 1):.1f}">{told}</rect>'


def _mark(x: float, name: str) -> str:
    place = f'x="{x + 3:.1f}"' if x < _WIDTH - _LABEL else f'x="{x - 3:.1f}" text-anchor="end"'
    return (
        f'<line class="moved" x1="{x:.1f}" x2="{x:.1f}" y1="{_ABOVE}" y2="{_HEIGHT - _BELOW}"/>'
        f'<text {place} y="{_ABOVE + 8}">{escape(name)}</text>'
    )


def _plot(
    title: str, labels: Sequence[str], drawn: str, marks: Sequence[tuple[float, str]], low: float, high: float
) -> str:
    lines = "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{_y(value, low, high):.1f}" y2="{_y(value, low, high):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{_y(value, low, high) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for value, text in marks
    )
    ends = ""
    if labels:
        ends = f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{escape(labels[0])}</text>'
        if len(labels) >= _SLOTS:
            ends += f'<text x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end">{escape(labels[-1])}</text>'
        elif len(labels) > 1:
            under = _LEFT + (len(labels) - 0.5) * (_WIDTH - _LEFT) / _SLOTS
            ends += (
                f'<text x="{under:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(labels[-1])}</text>'
            )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{lines}{drawn}{ends}</svg>'


def _y(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.0
    return _ABOVE + (1 - min(max(share, 0.0), 1.0)) * (_HEIGHT - _ABOVE - _BELOW)


def _round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten."""
    size = 1.0
    while True:
        for factor in (1, 2, 5):
            if factor * size >= value:
                return factor * size
        size *= 10
