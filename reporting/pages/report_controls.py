"""Controls of reports: a link for outsiders, its end, a schedule switched on or off. Each asks why."""

from datetime import datetime

from django import forms
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from reporting import reports as service
from reporting.fragments import demand
from reporting.models import ReportSchedule
from reporting.pages.confirm import Outcome, Question, ReasonForm, confirm, confirm_with
from reporting.pages.reports import found_or_404, named


class LinkForm(ReasonForm):
    """For how long, and why."""

    days = forms.IntegerField(min_value=1, max_value=service.LINK_DAYS_MOST, initial=7, label="Days that it lasts")
    field_order = ("days", "reason")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def share_report(request: HttpRequest, report_id: str) -> HttpResponse:
    """Ask for how long and why, then make a link to a report."""
    demand(request, "reporting.add_reportlink")
    report = found_or_404(report_id)
    back = reverse("report", args=[report_id])

    def act(said: dict[str, object], now: datetime) -> Outcome:
        link = service.make_link(report, days=int(str(said["days"])), reason=str(said["reason"]), now=now)
        until = f"{link.expires_at:%Y-%m-%d %H:%M} UTC"
        return Outcome(f"Whoever has the link below may read this report until {until}.", f"{back}#links")

    facts = [("Report", report.id), ("Whose figures", named(report.scope))]
    effect = "Makes a link by which somebody without an account may read this one report: figures only, no text of tasks."
    question = Question("Share a report", "Make a link", effect, back, facts)
    return confirm_with(request, question, LinkForm(request.POST or None), act)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def revoke_link(request: HttpRequest, report_id: str, link_id: str) -> HttpResponse:
    """Ask why, then end a link."""
    demand(request, "reporting.change_reportlink")
    report = found_or_404(report_id)
    link = report.links.filter(pk=link_id).first()
    if link is None:
        raise Http404
    back = reverse("report", args=[report_id])

    def act(reason: str, now: datetime) -> Outcome:
        service.revoke_link(report, link_id, reason=reason, now=now)
        return Outcome("The link is revoked: it opens nothing any more.", f"{back}#links")

    facts = [("Made by", link.created_by), ("Lasts until", f"{link.expires_at:%Y-%m-%d %H:%M} UTC")]
    return confirm(request, Question("Revoke a link", "Revoke", "It opens nothing from now on.", back, facts, danger=True), act)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def switch_schedule(request: HttpRequest, schedule_id: int, verb: str) -> HttpResponse:
    """Ask why, then switch a schedule on or off."""
    demand(request, "reporting.change_reportschedule")
    schedule = ReportSchedule.objects.filter(pk=schedule_id).first()
    if schedule is None:
        raise Http404
    back = f"{reverse('reports')}#schedules"

    def act(reason: str, now: datetime) -> Outcome:
        service.switch_schedule(schedule_id, verb == "enable", reason=reason, now=now)
        return Outcome(f"{schedule.name} is switched {'on' if verb == 'enable' else 'off'}.", back)

    word = "Switch on" if verb == "enable" else "Switch off"
    effect = "Reports are made again when they are due." if verb == "enable" else "No more reports are made by it."
    return confirm(request, Question(f"{word} {schedule.name}", word, effect, back), act)
