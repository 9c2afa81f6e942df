"""The dashboard's figures and series at the API, for the fleet, a team and a Nova. A Nova's key opens its own Nova's."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar

from rest_framework import serializers
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from reporting import series
from reporting.reporting_system import EnterpriseReportingSystem
from reporting.scope import Scope, ScopeUnknown
from workflow.api.agent_tasks import own_only
from workflow.api.authentication import NovaAgent
from workflow.api.described import Described
from workflow.api.serializers import Instant
from workflow.api.views import Door

_PERIOD = re.compile(r"([1-9][0-9]{0,3})(h|d)")
PERIOD_MOST = timedelta(days=366)
_HOURS = {"throughput": series.throughput, "cycle_times": series.cycle_times, "cumulative_flow": series.cumulative_flow}


class DashboardShown(serializers.Serializer[Any]):
    """The six sections, each its keys and values; `figures` says of each value how it was computed."""

    operational_status = serializers.DictField()
    productivity_metrics = serializers.DictField()
    quality_indicators = serializers.DictField()
    collaboration_metrics = serializers.DictField()
    safety_compliance = serializers.DictField()
    task_tracking_status = serializers.DictField()
    generated_at = Instant()
    scope = serializers.DictField(child=serializers.CharField(allow_blank=True))
    period = serializers.DictField()
    data_until = Instant(allow_null=True)
    figures = serializers.DictField(child=serializers.DictField())
    missing = serializers.DictField(child=serializers.CharField())


class SeriesShown(serializers.Serializer[Any]):
    """What charts are drawn from: a list of points for each series."""

    scope = serializers.DictField(child=serializers.CharField(allow_blank=True))
    generated_at = Instant()
    throughput = serializers.ListField(child=serializers.DictField())
    cycle_times = serializers.ListField(child=serializers.DictField())
    cumulative_flow = serializers.ListField(child=serializers.DictField())
    incidents_per_day = serializers.ListField(child=serializers.DictField())
    safety_margins = serializers.ListField(child=serializers.DictField())
    state_timeline = serializers.ListField(child=serializers.DictField())


def period_of(text: str) -> timedelta:
    """Read a period: `24h`, `7d`.

    :raises ValidationError: it is none, or longer than a year.
    """
    found = _PERIOD.fullmatch(text)
    length = timedelta(**{{"h": "hours", "d": "days"}[found[2]]: int(found[1])}) if found else timedelta(0)
    if not timedelta(0) < length <= PERIOD_MOST:
        raise ValidationError({"period": ["Give hours or days, e.g. 24h or 7d; 366d at most."]}, code="invalid_period")
    return length


class _FiguresDoor(Door):
    permissions_needed: ClassVar[dict[str, str]] = {"GET": "workflow.view_nova"}

    def scope(self, request: Request, nova_id: str, team: str) -> Scope:
        """Give the scope of the address.

        :raises NotFound: there is no such Nova or team, or the key is another Nova's.
        """
        if isinstance(request.user, NovaAgent):
            own_only(request, nova_id)
        scope = Scope(nova_id, team)
        try:
            scope.demand_exists()
        except ScopeUnknown:
            raise NotFound from None
        return scope


class Dashboard(_FiguresDoor):
    """The six sections. `period`: 24h, 7d, …; `momentum=true`: with the tasks that Novas made up for themselves."""

    parameters = frozenset({"period", "momentum"})
    described: ClassVar[Mapping[str, Described]] = {"GET": Described(None, {200: DashboardShown})}

    def get(self, request: Request, nova_id: str = "", team: str = "") -> Response:
        scope, query = self.scope(request, nova_id, team), request.query_params
        period = period_of(query.get("period", "24h"))
        system = EnterpriseReportingSystem(scope.nova_id, team=scope.team)
        momentum = query.get("momentum") == "true"
        return Response(system.generate_real_time_dashboard(self.now, period, include_momentum=momentum))


class Series(_FiguresDoor):
    """What charts are drawn from. `period`: of the series by the hour."""

    parameters = frozenset({"period"})
    described: ClassVar[Mapping[str, Described]] = {"GET": Described(None, {200: SeriesShown})}

    def get(self, request: Request, nova_id: str = "", team: str = "") -> Response:
        scope = self.scope(request, nova_id, team)
        hours = max(1, round(period_of(request.query_params.get("period", "24h")).total_seconds() / 3600))
        found: dict[str, Any] = {"scope": {"kind": scope.kind, "name": scope.name}, "generated_at": self.now.isoformat()}
        for name, make in _HOURS.items():
            found[name] = make(scope, now=self.now, hours=hours)
        found["incidents_per_day"] = series.incidents_per_day(scope, now=self.now)
        found["safety_margins"] = series.safety_margins(scope, now=self.now)
        timeline = series.state_timeline(scope.nova_id, now=self.now, hours=min(hours, 168)) if scope.nova_id else []
        return Response(found | {"state_timeline": timeline})


class NovaDashboard(Dashboard):
    """The six sections of one Nova. `period`: 24h, 7d, …; `momentum=true`: with the tasks it made up for itself."""

    agents_too = frozenset({"GET"})


class NovaSeries(Series):
    """What charts of one Nova are drawn from, its course through the states included."""

    agents_too = frozenset({"GET"})
