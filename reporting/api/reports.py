"""Reports at the API: made, listed, read, exported as files, lent out by links, planned by schedules."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.http import HttpResponse
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from reporting import exports, reports
from reporting.api.dashboards import period_of
from reporting.core.metrics import Period
from reporting.models import Report, ReportLink, ReportSchedule
from reporting.scope import Scope, ScopeUnknown
from workflow.api.described import Described, page_of
from workflow.api.pages import Pages
from workflow.api.serializers import Accepted, Instant, ReasonAccepted, Shown
from workflow.api.views import Door

_VIEW = {"GET": "reporting.view_report"}


class ReportShown(Shown):
    class Meta:
        model = Report
        fields = ["id", "scope", "since", "until", "generated_at", "generated_by", "journal_head", "seal_head", "digest"]


class ReportDetailShown(ReportShown):
    payload = serializers.DictField()

    class Meta(ReportShown.Meta):
        fields = [*ReportShown.Meta.fields, "payload"]


class LinkShown(Shown):
    report = serializers.CharField(source="report_id")
    path = serializers.SerializerMethodField()

    class Meta:
        model = ReportLink
        fields = ["id", "report", "path", "created_at", "created_by", "expires_at", "revoked_at", "revoked_by"]

    def get_path(self, link: ReportLink) -> str:
        return reports.address_of(link)


class ScheduleShown(Shown):
    last_report = serializers.CharField(source="last_report_id", allow_null=True)

    class Meta:
        model = ReportSchedule
        fields = ["id", "name", "scope", "days", "due_at", "enabled", "last_report", "created_at"]


class ReportAccepted(Accepted):
    """The period by its length, back from now, or by its two ends."""

    scope = serializers.CharField(max_length=80, required=False, default="fleet")
    period = serializers.CharField(max_length=8, required=False)
    since = Instant(required=False)
    until = Instant(required=False)


class LinkAccepted(Accepted):
    days = serializers.IntegerField(min_value=1, max_value=reports.LINK_DAYS_MOST, required=False, default=7)


class ScheduleAccepted(Accepted):
    name = serializers.CharField(max_length=100)
    scope = serializers.CharField(max_length=80, required=False, default="fleet")
    days = serializers.IntegerField(min_value=1, max_value=366, required=False, default=7)
    due_at = Instant()


def scope_of(text: str) -> Scope:
    """Read a scope that a body names.

    :raises ValidationError: it is none.
    """
    try:
        scope = Scope.of(text)
        scope.demand_exists()
    except ScopeUnknown as unknown:
        raise ValidationError({"scope": [str(unknown)]}, code="unknown_scope") from None
    return scope


class ReportList(Door):
    """Reports, newest first, and the door for new ones: {scope, period} or {scope, since, until}."""

    permissions_needed = {**_VIEW, "POST": "reporting.add_report"}
    parameters = frozenset({"scope"})
    _pages: Pages[Report] = Pages("generated_at", "id", descending=True)
    described: ClassVar[Mapping[str, Described]] = {
        "GET": Described(None, {200: page_of(ReportShown)}),
        "POST": Described(ReportAccepted, {201: ReportDetailShown}, {"scope": "fleet", "period": "7d"}),
    }

    def get(self, request: Request) -> Response:
        rows = Report.objects.defer("payload")
        if scope := request.query_params.get("scope"):
            rows = rows.filter(scope=scope)
        return Response(self._pages.answer(request, [rows], lambda found: list(ReportShown(found, many=True).data)))

    def post(self, request: Request) -> Response:
        body = self.accept(ReportAccepted).validated_data
        period = _period(body, self.now)
        report = reports.make_report(scope_of(body["scope"]), period, now=self.now)
        return Response(ReportDetailShown(report).data, status=201)


def _period(body: Mapping[str, Any], now: datetime) -> Period:
    if "since" in body and "until" in body and "period" not in body:
        return Period(body["since"], body["until"])
    if "since" in body or "until" in body:
        raise ValidationError({"period": ["Give either period, or since and until."]}, code="invalid_period")
    return Period(now - period_of(body.get("period", "7d")), now)


class ReportDetail(Door):
    """One report, as it was made."""

    permissions_needed = _VIEW
    described: ClassVar[Mapping[str, Described]] = {"GET": Described(None, {200: ReportDetailShown})}

    def get(self, request: Request, report_id: str) -> Response:
        return Response(ReportDetailShown(reports.find_report(report_id)).data)


class ReportExport(Door):
    """A report as a file: the address ends in csv, xlsx or json."""

    permissions_needed = _VIEW
    gives_files: ClassVar[tuple[str, ...]] = tuple(media_type.partition(";")[0] for _, media_type in exports.FORMATS.values())

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """Whatever the caller accepts: the address says which file it is."""
        return super().perform_content_negotiation(request, force=True)

    def get(self, request: Request, report_id: str, kind: str) -> HttpResponse:
        file = exports.export(reports.find_report(report_id), kind)
        disposition = f'attachment; filename="{file.name}"'
        return HttpResponse(file.content, content_type=file.media_type, headers={"Content-Disposition": disposition})


class LinkList(Door):
    """The links by which outsiders may read a report, and the door for new ones."""

    permissions_needed = {"GET": "reporting.view_reportlink", "POST": "reporting.add_reportlink"}
    _pages: Pages[ReportLink] = Pages("created_at", "id", descending=True)
    described: ClassVar[Mapping[str, Described]] = {
        "GET": Described(None, {200: page_of(LinkShown)}),
        "POST": Described(LinkAccepted, {201: LinkShown}, {"days": 7}),
    }

    def get(self, request: Request, report_id: str) -> Response:
        rows = ReportLink.objects.filter(report=reports.find_report(report_id))
        return Response(self._pages.answer(request, [rows], lambda found: list(LinkShown(found, many=True).data)))

    def post(self, request: Request, report_id: str) -> Response:
        days = self.accept(LinkAccepted).validated_data["days"]
        link = reports.make_link(reports.find_report(report_id), days=days, now=self.now)
        return Response(LinkShown(link).data, status=201)


class LinkRevoked(Door):
    """End a link at once."""

    permissions_needed = {"POST": "reporting.change_reportlink"}
    described: ClassVar[Mapping[str, Described]] = {
        "POST": Described(ReasonAccepted, {200: LinkShown}, {"reason": "it was meant for somebody else"})
    }

    def post(self, request: Request, report_id: str, link_id: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        link = reports.revoke_link(reports.find_report(report_id), link_id, reason=reason, now=self.now)
        return Response(LinkShown(link).data)


class ScheduleList(Door):
    """What makes reports by itself, and the door for new ones: a report of the last `days` days, each so many days."""

    permissions_needed = {"GET": "reporting.view_reportschedule", "POST": "reporting.add_reportschedule"}
    _pages: Pages[ReportSchedule] = Pages("id")
    described: ClassVar[Mapping[str, Described]] = {
        "GET": Described(None, {200: page_of(ScheduleShown)}),
        "POST": Described(
            ScheduleAccepted,
            {201: ScheduleShown},
            {"name": "Monday", "scope": "fleet", "days": 7, "due_at": "2026-11-23T06:00:00Z"},
        ),
    }

    def get(self, request: Request) -> Response:
        rows = ReportSchedule.objects.all()
        return Response(self._pages.answer(request, [rows], lambda found: list(ScheduleShown(found, many=True).data)))

    def post(self, request: Request) -> Response:
        body = self.accept(ScheduleAccepted).validated_data
        if not self.now - timedelta(days=366) < body["due_at"] < self.now + timedelta(days=366):
            raise ValidationError({"due_at": ["Give an instant within a year from now."]}, code="invalid_due_at")
        schedule = reports.make_schedule(
            body["name"], scope_of(body["scope"]), days=body["days"], due_at=body["due_at"], now=self.now
        )
        return Response(ScheduleShown(schedule).data, status=201)


class ScheduleVerb(Door):
    """Switch a schedule on or off. A second time changes nothing."""

    permissions_needed = {"POST": "reporting.change_reportschedule"}
    described: ClassVar[Mapping[str, Described]] = {
        "POST": Described(ReasonAccepted, {200: ScheduleShown}, {"reason": "nobody reads it"})
    }

    def post(self, request: Request, schedule_id: str, verb: str) -> Response:
        reason = self.accept(ReasonAccepted).validated_data["reason"]
        schedule = reports.switch_schedule(int(schedule_id), verb == "enable", reason=reason, now=self.now)
        return Response(ScheduleShown(schedule).data)
