"""A report as a page to print: for people with an account, and for whoever holds a link to it."""

from datetime import UTC, datetime
from typing import Any

from django.contrib.auth.decorators import login_required, permission_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from reporting import exports, reports
from reporting.core.bars import HEIGHT, WIDTH, bars
from reporting.core.comparison import rows
from reporting.models import Report

_now = timezone.now  # noqa: TID251 - a door
_CSP = "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@require_safe
@login_required
@permission_required("reporting.view_report", raise_exception=True)
def printed(request: HttpRequest, report_id: str) -> HttpResponse:
    """Show a report to print."""
    try:
        report = reports.find_report(report_id)
    except reports.ReportNotFound:
        raise Http404 from None
    return _page(request, report)


@require_safe
def shared(request: HttpRequest, token: str) -> HttpResponse:
    """Show the report that a link leads to; who made it is not said."""
    try:
        report = reports.open_link(token, now=_now())
    except reports.LinkNotGood as refusal:
        return HttpResponse(str(refusal), status=404, content_type="text/plain; charset=utf-8")
    page = _page(request, report)
    page["Referrer-Policy"] = "no-referrer"  # the address is the key
    page["X-Robots-Tag"] = "noindex"
    return page


def _page(request: HttpRequest, report: Report) -> HttpResponse:
    points = report.payload["series"]["throughput"]
    succeeded = [point["succeeded"] for point in points]
    sections: dict[str, list[dict[str, Any]]] = {}
    texts = report.payload["dashboard"]["figures"]
    for row in rows(report.payload):
        compared = report.payload["comparison"][row["section"]][row["figure"]]
        text = texts[row["section"]][row["figure"]]["text"]
        name = row["figure"].replace("_", " ").replace(" percentage", "")
        shown = row | {"name": name, "text": text, "previous_text": compared["previous_text"]}
        sections.setdefault(row["section"].replace("_", " "), []).append(shown)
    context = {
        "report": exports.about(report),
        "since": _spoken(report.since),
        "until": _spoken(report.until),
        "made": _spoken(report.generated_at),
        "sections": sections,
        "bars": bars(succeeded, [f"{point['at'][:16].replace('T', ' ')} UTC: {point['succeeded']}" for point in points]),
        "points": points,
        "total": sum(succeeded),
        "width": WIDTH,
        "height": HEIGHT,
        "missing": report.payload["dashboard"]["missing"],
    }
    page = render(request, "reporting/report.html", context)
    page["Content-Security-Policy"] = _CSP
    page["Cache-Control"] = "private, no-store"
    return page


def _spoken(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"  # the same for every reader, as the buckets are
