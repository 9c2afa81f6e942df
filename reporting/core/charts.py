"""Small charts as SVG text: no script, no inline style, readable by screen readers. Pure: numbers in, text out.

Colours and sizes are the stylesheet's (classes `c1`…`c6` and the tones); a chart says only where things are. Each has a title,
and a table of its numbers to unfold (`with_table`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from itertools import pairwise

TONES = frozenset({"good", "info", "warn", "bad", "calm", "none"})
COLOURS = 6


@dataclass(frozen=True, slots=True)
class Span:
    """Something that lasted: a state of a lane, from one instant to another."""

    lane: str
    begin: datetime
    end: datetime
    label: str
    tone: str = "info"


def sparkline(values: Sequence[float | None], *, title: str, chart_id: str, width: int = 120, height: int = 28) -> str:
    """Draw a line without axes; None is a gap."""
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    step = width / max(1, len(values) - 1)
    points = [
        None if v is None else (round(i * step, 1), round(height - 2 - v / top * (height - 4), 1)) for i, v in enumerate(values)
    ]
    body = "".join(f'<polyline class="line c1" points="{run}"/>' for run in _runs(points))
    return _svg(body, title, chart_id, width, height, "spark")


def bars(values: Sequence[tuple[str, float]], *, title: str, chart_id: str, width: int = 320, height: int = 80) -> str:
    """Draw a bar a value, with its label to hover."""
    top = max((value for _, value in values), default=0.0) or 1.0
    step = width / max(1, len(values))
    body = "".join(
        f'<rect class="bar c1" x="{i * step + step * 0.1:.1f}" y="{height - value / top * height:.1f}" '
        f'width="{step * 0.8:.1f}" height="{value / top * height:.1f}"><title>{escape(label)}: {value:g}</title></rect>'
        for i, (label, value) in enumerate(values)
    )
    return _svg(body, title, chart_id, width, height, "bars")


def stacked_bar(
    parts: Sequence[tuple[str, float, str]], *, title: str, chart_id: str, width: int = 320, height: int = 10
) -> str:
    """Draw one bar of (label, amount, tone) parts, side by side."""
    total = sum(amount for _, amount, _ in parts) or 1.0
    body, x = "", 0.0
    for label, amount, tone in parts:
        if amount > 0:
            wide = amount / total * width
            body += (
                f'<rect class="part tone-{_tone(tone)}" x="{x:.1f}" y="0" width="{max(1.0, wide - 1):.1f}" height="{height}">'
                f"<title>{escape(label)}: {amount:g}</title></rect>"
            )
            x += wide
    return _svg(body, title, chart_id, width, height, "stack")


def line(
    series: Mapping[str, Sequence[float | None]],
    *,
    title: str,
    chart_id: str,
    limit: float | None = None,
    unit: str = "",
    width: int = 640,
    height: int = 160,
) -> str:
    """Draw lines over one axis from 0, with a line at the limit where there is one."""
    seen = [value for values in series.values() for value in values if value is not None]
    top = max([*seen, limit or 0.0], default=0.0) * 1.05 or 1.0
    left, bottom = 44, 4
    wide, high = width - left, height - 2 * bottom
    body = ""
    for share in (0.0, 0.5, 1.0):
        y = height - bottom - share * high
        body += f'<line class="grid" x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>'
        words = f"{_short(share * top)}{escape(unit)}"
        body += f'<text class="tick" x="{left - 6}" y="{min(height - 2, y + 4):.1f}" text-anchor="end">{words}</text>'
    for index, values in enumerate(series.values()):
        step = wide / max(1, len(values) - 1)
        points = [
            None if v is None else (round(left + i * step, 1), round(height - bottom - v / top * high, 1))
            for i, v in enumerate(values)
        ]
        colour = f"c{index % COLOURS + 1}"
        body += "".join(f'<polyline class="line {colour}" points="{run}"/>' for run in _runs(points))
        body += "".join(f'<circle class="point {colour}" cx="{x:g}" cy="{y:g}" r="2.5"/>' for x, y in _lone(points))
    if limit is not None:
        y = height - bottom - limit / top * high
        body += f'<line class="limit" x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"><title>limit {limit:g}</title></line>'
    return _svg(body, title, chart_id, width, height, "lines")


def tracker(slots: Sequence[tuple[str, str]], *, title: str, chart_id: str, width: int = 288, height: int = 24) -> str:
    """Draw a row of (label, tone) slots, such as the hours of a day; tone `none`: nothing is known of it."""
    step = width / max(1, len(slots))
    body = "".join(
        f'<rect class="slot tone-{_tone(tone)}" x="{i * step:.1f}" y="0" width="{max(1.0, step - 2):.1f}" height="{height}">'
        f"<title>{escape(label)}</title></rect>"
        for i, (label, tone) in enumerate(slots)
    )
    return _svg(body, title, chart_id, width, height, "tracker")


def timeline(
    spans: Sequence[Span],
    *,
    begin: datetime,
    end: datetime,
    title: str,
    chart_id: str,
    width: int = 960,
    lane_height: int = 22,
    left: int = 150,
) -> str:
    """Draw what lasted from when to when, a lane each, in the order in which lanes come up; `left`: room for their names."""
    lanes = {lane: place for place, lane in enumerate(dict.fromkeys(span.lane for span in spans))}
    seconds = max(1.0, (end - begin).total_seconds())
    wide, height = width - left, max(1, len(lanes)) * lane_height
    body = ""
    for lane, place in lanes.items():
        middle = place * lane_height + lane_height / 2
        body += f'<text class="lane" x="0" y="{middle + 4:.1f}">{escape(lane)}</text>'
        body += f'<line class="grid" x1="{left}" x2="{width}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
    for span in spans:
        x = left + max(0.0, (span.begin - begin).total_seconds()) / seconds * wide
        last = left + min(seconds, (span.end - begin).total_seconds()) / seconds * wide
        if last >= left and x <= width:
            y = lanes[span.lane] * lane_height + 3
            words = f"{escape(span.label)}, {span.begin:%H:%M:%S} to {span.end:%H:%M:%S}"
            body += (
                f'<rect class="span tone-{_tone(span.tone)}" x="{x:.1f}" y="{y}" width="{max(1.5, last - x):.1f}" '
                f'height="{lane_height - 6}" rx="2"><title>{words}</title></rect>'
            )
    return _svg(body, title, chart_id, width, height, "timeline")


def with_table(
    chart: str, *, chart_id: str, heads: Sequence[str], rows: Sequence[Sequence[object]], summary: str = "Numbers"
) -> str:
    """Put a table of its numbers under a chart, folded."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<figure class="chart">{chart}<details id="{escape(chart_id)}-numbers"><summary>{escape(summary)}</summary>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></details></figure>"
    )


def _svg(body: str, title: str, chart_id: str, width: int, height: int, kind: str) -> str:
    name = escape(chart_id)
    stretched = "" if kind in ("lines", "timeline") else ' preserveAspectRatio="none"'  # letters are not stretched
    return (
        f'<svg class="chart-{kind}" role="img" aria-labelledby="{name}-title" viewBox="0 0 {width} {height}"'
        f'{stretched}><title id="{name}-title">{escape(title)}</title>{body}</svg>'
    )


def _runs(points: Sequence[tuple[float, float] | None]) -> list[str]:
    """Give the unbroken runs of points; a lone point becomes a short line, so that it is seen."""
    runs: list[list[tuple[float, float]]] = [[]]
    for before, point in pairwise([None, *points]):
        if point is None:
            continue
        if before is None:
            runs.append([])
        runs[-1].append(point)
    lines = [run if len(run) > 1 else [run[0], (run[0][0] + 1, run[0][1])] for run in runs if run]
    return [" ".join(f"{x:g},{y:g}" for x, y in run) for run in lines]


def _lone(points: Sequence[tuple[float, float] | None]) -> list[tuple[float, float]]:
    """Give the points without a neighbour."""
    padded = [None, *points, None]
    return [at for before, at, after in zip(padded, padded[1:], padded[2:], strict=False) if at and not (before or after)]


def _tone(tone: str) -> str:
    return tone if tone in TONES else "none"


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
