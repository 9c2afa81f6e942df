"""Reports: the list with what makes them, one report with its six sections, links for outsiders, schedules, a wall screen."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from reporting import reports as service
from reporting import series
from reporting.core.metrics import Period
from reporting.fragments import demand, page
from reporting.models import Report, ReportLink, ReportSchedule
from reporting.report_pictures import TITLES, sections
from reporting.reporting_system import EnterpriseReportingSystem
from reporting.scope import Scope, ScopeUnknown
from workflow.models import Nova

PAGE = 25
KIOSK_SECONDS = 15  # a wall screen shows each section so long
_VIEW, _ADD, _LINKS = "reporting.view_report", "reporting.add_report", "reporting.view_reportlink"
_DAY = timedelta(days=1)
_PERIODS = (
    ("24h", "the last 24 hours"), ("7d", "the last 7 days"), ("30d", "the last 30 days"), ("month", "this month"),
    ("last-month", "last month"), ("own", "from and to, below"),
)  # fmt: skip
_SCOPES_MOST = 200


class ReportForm(forms.Form):
    """Whose figures, and of which period."""

    scope = forms.CharField(max_length=80, label="Whose figures", initial="fleet")
    period = forms.ChoiceField(choices=_PERIODS, initial="7d")
    since = forms.DateTimeField(required=False, label="From", widget=forms.DateTimeInput(attrs={"type": "datetime-local"}))
    until = forms.DateTimeField(required=False, label="To", widget=forms.DateTimeInput(attrs={"type": "datetime-local"}))

    def clean_scope(self) -> Scope:
        return scope_named(str(self.cleaned_data["scope"]))

    def clean(self) -> dict[str, Any]:
        found: dict[str, Any] = super().clean() or {}
        if found.get("period") == "own" and not (found.get("since") and found.get("until")):
            raise forms.ValidationError("Give both ends of the period. Nothing was made.")
        return found

    def asked(self, now: datetime) -> Period:
        """Give the period that was asked for."""
        said = self.cleaned_data
        return Period(said["since"], said["until"]) if said["period"] == "own" else period_named(said["period"], now)


class ScheduleForm(forms.Form):
    """A report of the last days, each so many days."""

    name = forms.CharField(max_length=100)
    scope = forms.CharField(max_length=80, label="Whose figures", initial="fleet")
    days = forms.IntegerField(min_value=1, max_value=366, initial=7, help_text="Of its period, and between two reports.")
    due_at = forms.DateTimeField(label="First at", widget=forms.DateTimeInput(attrs={"type": "datetime-local"}))

    def clean_scope(self) -> Scope:
        return scope_named(str(self.cleaned_data["scope"]))


def scope_named(text: str) -> Scope:
    """Read a scope from a form.

    :raises ValidationError: there is none of that name.
    """
    try:
        scope = Scope.of(text.strip())
        scope.demand_exists()
    except ScopeUnknown as unknown:
        raise forms.ValidationError(f"{unknown} Nothing was made.") from None
    return scope


def period_named(name: str, now: datetime) -> Period:
    """Give the period of one of the names."""
    first = timezone.localtime(now).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if name == "month":
        return Period(first, now)
    if name == "last-month":
        return Period((first - _DAY).replace(day=1), first)
    return Period(now - {"24h": _DAY, "30d": 30 * _DAY}.get(name, 7 * _DAY), now)


def scopes() -> list[tuple[str, str]]:
    """Give the scopes that a form offers: the fleet, its teams, and Novas."""
    novas = Nova.objects.filter(archived_at=None)
    teams = novas.exclude(team="").order_by("team").values_list("team", flat=True).distinct()[:_SCOPES_MOST]
    ids = novas.order_by("nova_id").values_list("nova_id", flat=True)[:_SCOPES_MOST]
    return [("fleet", "the fleet"), *((f"team:{t}", f"team {t}") for t in teams), *((f"nova:{n}", n) for n in ids)]


@require_safe
@login_required
def reports(request: HttpRequest) -> HttpResponse:
    """Show the list, or the wall screen."""
    return wall(request) if request.GET.get("kiosk") == "1" else listed(request)


@page("reporting/reports/page.html", _VIEW)
def listed(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Show what was made, and what makes more."""
    rows = Report.objects.defer("payload").order_by("-generated_at", "-id")
    last = Report.objects.only("generated_at").filter(pk=request.GET.get("before", "")[:40]).first()
    if last is not None:
        rows = rows.filter(generated_at__lte=last.generated_at).exclude(generated_at=last.generated_at, id__gte=last.pk)
    found = list(rows[: PAGE + 1])
    return {
        "reports": [(row, named(row.scope)) for row in found[:PAGE]],
        "older": found[PAGE - 1].pk if len(found) > PAGE else "",
        "first": last is None,
        "form": ReportForm(),
        "scopes": scopes() if request.user.has_perm(_ADD) else [],
        "schedules": list(ReportSchedule.objects.order_by("name")[:100]),
    }


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_report(request: HttpRequest) -> HttpResponse:
    """Make a report, and go to it."""
    demand(request, _ADD)
    form = ReportForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        now = timezone.now()  # noqa: TID251 - a door
        try:
            made = service.make_report(form.cleaned_data["scope"], form.asked(now), now=now)
        except service.ReportRefused as refusal:
            form.add_error(None, str(refusal))
        else:
            return HttpResponseRedirect(reverse("report", args=[made.pk]))
    context = {"form": form, "title": "Make a report", "verb": "Make it", "scopes": scopes()}
    return render(request, "reporting/reports/new.html", context, status=200 if request.method == "GET" else 400)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def new_schedule(request: HttpRequest) -> HttpResponse:
    """Plan reports that are made by themselves."""
    demand(request, "reporting.add_reportschedule")
    form = ScheduleForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        said, now = form.cleaned_data, timezone.now()  # noqa: TID251 - a door
        try:
            service.make_schedule(said["name"], said["scope"], days=said["days"], due_at=said["due_at"], now=now)
        except service.ReportRefused as refusal:
            form.add_error(None, str(refusal))
        else:
            return HttpResponseRedirect(f"{reverse('reports')}#schedules")
    context = {"form": form, "title": "Plan reports", "verb": "Plan", "scopes": scopes()}
    return render(request, "reporting/reports/new.html", context, status=200 if request.method == "GET" else 400)


@page("reporting/reports/report.html", _VIEW)
def report(request: HttpRequest, now: datetime, report_id: str) -> Mapping[str, Any]:
    """Show one report as it was made."""
    row = found_or_404(report_id)
    links: list[ReportLink] = []
    if request.user.has_perm(_LINKS):
        links = list(ReportLink.objects.filter(report=row).order_by("-created_at", "-id")[:20])
    before = row.payload["previous_period"]
    return {
        "report": row,
        "whose": named(row.scope),
        "sections": sections(row.payload["dashboard"], row.payload["comparison"], row.payload["series"]),
        "before": (datetime.fromisoformat(before["since"]), datetime.fromisoformat(before["until"])),
        "links": [(link, _standing(link, now), service.address_of(link)) for link in links],
        "sound": service.digest_of(row.payload) == row.digest,
    }


def found_or_404(report_id: str) -> Report:
    """Give a report.

    :raises Http404: there is none.
    """
    try:
        return service.find_report(report_id)
    except service.ReportNotFound:
        raise Http404 from None


def _standing(link: ReportLink, now: datetime) -> str:
    return "revoked" if link.revoked_at else "expired" if link.expires_at <= now else "open"


def named(scope: str) -> str:
    """Name a scope in words."""
    kind, _, name = scope.partition(":")
    return "The fleet" if kind == "fleet" else f"Team {name}" if kind == "team" else name


def wall(request: HttpRequest) -> HttpResponse:
    """Show one section at a time, as it stands now, large; the browser goes on to the next by itself, unless it is held."""
    shown = int(request.GET["section"]) % len(TITLES) if request.GET.get("section", "").isdecimal() else 0
    held = request.GET.get("hold") == "1"
    response = _screen(request, shown=shown, held=held)
    if not held and response.status_code == 200:
        response["Refresh"] = f"{KIOSK_SECONDS}; url=?kiosk=1&section={(shown + 1) % len(TITLES)}"
    return response


@page("reporting/reports/kiosk.html", "workflow.view_nova")
def _screen(request: HttpRequest, now: datetime, shown: int, held: bool) -> Mapping[str, Any]:
    dashboard = EnterpriseReportingSystem().generate_real_time_dashboard(now)
    drawn = {
        "throughput": series.throughput(Scope(), now=now),
        "cycle_times": series.cycle_times(Scope(), now=now),
        "incidents_per_day": series.incidents_per_day(Scope(), now=now),
    }
    number = len(TITLES)
    return {
        "section": sections(dashboard, {}, drawn)[shown],
        "place": shown + 1,
        "number": number,
        "shown": shown,
        "before": (shown - 1) % number,
        "next": (shown + 1) % number,
        "held": held,
        "at": now,
    }
