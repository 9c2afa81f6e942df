"""`/metrics` for Prometheus: read from the database and the stream server when it is asked, so it is right whoever answers.

A scrape costs the same few queries however large the fleet and its history are: nothing here counts ended tasks or journal
entries row by row. Who may ask: whoever has the token; without one, this machine alone.
"""

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Count, Max, Min, Q, Sum
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from reporting.alert_facts import DISK
from reporting.alerting import LEASE
from reporting.core.alerting import Tier
from reporting.fleet_status import count_fleet
from reporting.models import AlertChannel, AlertDelivery, AlertEvent, AlertRule
from safety.models import AuditEntry, FleetFact, Observation, OutboxEntry, ProviderAccount, SafetyIncident
from safety.observations import Kind
from safety.stream_client import StreamClient, StreamError
from workflow.core.work import TaskStatus
from workflow.derived_status import STATUSES, load_fleet
from workflow.models import Approval, Execution, Halt, Lease, NovaState, Task, TaskStatistics

PING_TIMEOUT = 0.5  # seconds
_OPEN_TASKS = (TaskStatus.PENDING, TaskStatus.IN_PROGRESS, TaskStatus.BLOCKED)
_FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-Ip")
# FleetFact name: metric, what it is
_READINGS = {
    "intake_lag": ("novawf_intake_lag_seconds", "How late the inbound streams are read."),
    "outbox_age": ("novawf_outbox_age_seconds", "Age of the oldest journal entry that is not on its stream yet."),
    "cpu_load": ("novawf_cpu_load_ratio", "Load average of a minute by core, of the machine that observes."),
    "memory_ratio": ("novawf_memory_used_ratio", "Used share of memory, of the machine that observes."),
    "stream_memory_ratio": ("novawf_stream_memory_used_ratio", "Used share of the stream server's memory."),
}
_WINDOWS = (
    (Kind.API_REQUEST, "minute", 60),
    (Kind.API_REQUEST_BY_MINUTE, "hour", 3_600),
    (Kind.API_REQUEST_BY_QUARTER, "day", 86_400),
)


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer a scrape."""
    if not _may_ask(request):
        words = "Give the token as `Authorization: Bearer …` (NOVAWF_METRICS_TOKEN). Without one only this machine may ask.\n"
        return HttpResponse(words, status=401, content_type="text/plain", headers={"WWW-Authenticate": "Bearer"})
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Novawf(timezone.now()))  # noqa: TID251 - a door
    return HttpResponse(encode(registry), content_type=content_type)


def _may_ask(request: HttpRequest) -> bool:
    token = settings.METRICS_TOKEN
    if token:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and constant_time_compare(given.strip(), token)
    if any(name in request.headers for name in _FORWARDED):  # a proxy on this machine speaks for somebody elsewhere
        return False
    try:
        return ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:  # a unix socket has no address
        return False


@cache
def version() -> str:
    """Give the version of this installation."""
    with (settings.BASE_DIR / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


class Novawf(Collector):
    """Everything as it is at one instant."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._fleet: dict[str, FleetFact] = {}

    def collect(self) -> Iterable[Metric]:
        """Give all metrics."""
        self._fleet = load_fleet()
        info = InfoMetricFamily("novawf_build", "This installation.")
        info.add_metric([], {"version": version(), "database": connection.vendor})
        yield info
        for part in (self._novas, self._work, self._streams, self._safety, self._workers, self._people, self._alerts):
            yield from part()

    def _since(self, instant: datetime | None) -> float:
        return max((self._now - instant).total_seconds(), 0.0) if instant else 0.0

    def _novas(self) -> Iterator[Metric]:
        counts = count_fleet(now=self._now, fleet=self._fleet)
        yield _gauge("novawf_novas", "Novas by mode.", ["mode"], [([m], counts.modes[m]) for m in NovaState.Mode.values])
        yield _gauge(
            "novawf_novas_by_state",
            "Novas by state of their workflow.",
            ["state"],
            [([s], n) for s, n in counts.states.items()],
        )
        yield _gauge(
            "novawf_novas_by_status",
            "Novas by what they are seen doing.",
            ["status"],
            [([s], counts.statuses[s]) for s in STATUSES],
        )
        sums = NovaState.objects.aggregate(
            cycles=Sum("total_cycles_completed"), tools=Sum("tool_use_count"), checks=Sum("protocol_checks"),
            passes=Sum("protocol_passes"),
        )  # fmt: skip
        yield _counter("novawf_cycles", "Cycles of all Novas.", [], [([], sums["cycles"])])
        yield _counter("novawf_tool_uses", "Tool uses of all Novas.", [], [([], sums["tools"])])
        failed = (sums["checks"] or 0) - (sums["passes"] or 0)
        yield _counter(
            "novawf_protocol_checks",
            "Checks of the protocol.",
            ["result"],
            [(["passed"], sums["passes"]), (["failed"], failed)],
        )

    def _work(self) -> Iterator[Metric]:
        open_ = dict(Task.objects.filter(status__in=_OPEN_TASKS).order_by().values_list("status").annotate(number=Count("pk")))
        yield _gauge("novawf_tasks", "Tasks that are not completed.", ["status"], [([s], open_.get(s, 0)) for s in _OPEN_TASKS])
        head = Task.objects.claimable(now=self._now).values_list("created_at", "not_before").first()
        waits = self._since(max(filter(None, head))) if head else 0.0
        yield _gauge("novawf_queue_age_seconds", "How long the next task in line has waited.", [], [([], waits)])
        done: dict[str, tuple[int, float]] = {}
        for key, count, seconds in TaskStatistics.objects.values_list("key", "count", "seconds"):
            kind = key.partition(":")[0]
            known = done.get(kind, (0, 0.0))
            done[kind] = (known[0] + count, known[1] + seconds)
        yield _counter(
            "novawf_tasks_succeeded", "Tasks that succeeded.", ["work_type"], [([k], n) for k, (n, _) in sorted(done.items())]
        )
        yield _counter(
            "novawf_task_work_seconds", "Time from start to success of them.", ["work_type"],
            [([k], seconds) for k, (_, seconds) in sorted(done.items())],
        )  # fmt: skip
        running = dict(Execution.objects.filter(finished_at=None).order_by().values_list("status").annotate(number=Count("pk")))
        names = (Execution.Status.DISPATCHED.value, Execution.Status.RUNNING.value)
        yield _gauge("novawf_executions", "Executions under way.", ["status"], [([s], running.get(s, 0)) for s in names])
        newest = AuditEntry.objects.order_by("-id").values_list("id", flat=True).first()
        yield _counter("novawf_journal_entries", "Journal entries written, by the newest number.", [], [([], newest)])

    def _streams(self) -> Iterator[Metric]:
        client = StreamClient(name="metrics", timeout=PING_TIMEOUT)
        begun = timezone.now()  # noqa: TID251 - the measured time of one answer
        try:
            client.call("PING")
            trip: float | None = (timezone.now() - begun).total_seconds()  # noqa: TID251
        except StreamError:
            trip = None
        finally:
            client.close()
        yield _gauge("novawf_stream_up", "Whether the stream server answers.", [], [([], float(trip is not None))])
        trips = [] if trip is None else [([], trip)]
        yield _gauge("novawf_stream_round_trip_seconds", "How long its answer took.", [], trips)
        for name, (metric, words) in _READINGS.items():
            row = self._fleet.get(name)
            read = row is not None and row.value is not None and self._now - row.observed_at < timedelta(minutes=1)
            yield _gauge(metric, words, [], [([], float(row.value))] if read and row is not None else [])
        disks = [
            ([name.removeprefix(DISK)], float(row.value))
            for name, row in sorted(self._fleet.items())
            if name.startswith(DISK) and row.value is not None and self._now - row.observed_at < timedelta(minutes=5)
        ]
        yield _gauge("novawf_disk_free_ratio", "Free share of the disk that holds var/.", ["host"], disks)
        oldest = OutboxEntry.objects.order_by("id").values_list("id", flat=True).first()
        newest = OutboxEntry.objects.order_by("-id").values_list("id", flat=True).first()
        backlog = (newest - oldest + 1) if oldest is not None and newest is not None else 0
        yield _gauge("novawf_outbox_commits", "Commits whose entries are not published yet, at most.", [], [([], backlog)])

    def _safety(self) -> Iterator[Metric]:
        lasting = SafetyIncident.objects.filter(ended_at=None).order_by().values_list("mechanism", "status")
        rows = [([mechanism, status], n) for mechanism, status, n in lasting.annotate(number=Count("pk"))]
        yield _gauge("novawf_incidents", "Incidents that last.", ["mechanism", "status"], rows)
        newest = SafetyIncident.objects.aggregate(newest=Max("id"))["newest"]
        yield _counter("novawf_incidents_opened", "Incidents opened, by the newest number.", [], [([], newest)])
        accounts = list(ProviderAccount.objects.filter(archived_at=None).order_by("slug"))
        states = [([a.slug, s], float(a.breaker == s)) for a in accounts for s in ProviderAccount.Breaker.values]
        yield _gauge("novawf_breaker", "1 for the state that an account's breaker is in.", ["account", "state"], states)
        used = self._calls([f"@{account.slug}" for account in accounts])
        calls, limits = [], []
        for account in accounts:
            for kind, window, _ in _WINDOWS:
                calls.append(([account.slug, window], used.get((f"@{account.slug}", kind.value), 0)))
                limits.append(([account.slug, window], getattr(account, f"requests_per_{window}")))
        yield _gauge("novawf_guardian_calls", "Calls of an account in the window that ends now.", ["account", "window"], calls)
        yield _gauge("novawf_guardian_limit", "Calls of an account that the window allows.", ["account", "window"], limits)

    def _calls(self, owners: Sequence[str]) -> dict[tuple[str, str], int]:
        windows = Q()
        for kind, _, seconds in _WINDOWS:
            windows |= Q(kind=kind, at__gt=self._now - timedelta(seconds=seconds))
        rows = Observation.objects.filter(windows, nova_id__in=owners).order_by().values_list("nova_id", "kind")
        return {(owner, kind): total for owner, kind, total in rows.annotate(total=Sum("count"))}

    def _workers(self) -> Iterator[Metric]:
        beats = []
        for name, at in Lease.objects.filter(name__startswith="slot:").order_by("name").values_list("name", "heartbeat_at"):
            words = name.split(":")
            if at is not None and len(words) == 4:
                beats.append(([words[1], words[2], words[3]], self._since(at)))
        yield _gauge(
            "novawf_worker_heartbeat_age_seconds", "Time since a slot's last beat.", ["cluster", "host", "slot"], beats
        )

    def _people(self) -> Iterator[Metric]:
        halts = Halt.objects.filter(lifted_at=None, drill=False).order_by().values_list("kind")
        open_ = {
            kind: (number, unsettled)
            for kind, number, unsettled in halts.annotate(number=Count("pk"), unsettled=Count("pk", filter=Q(settled_at=None)))
        }
        kinds = Halt.Kind.values
        yield _gauge(
            "novawf_halts", "Orders to stop that are not lifted.", ["kind"], [([k], open_.get(k, (0, 0))[0]) for k in kinds]
        )
        yield _gauge(
            "novawf_halts_unconfirmed",
            "Those that are not confirmed yet.",
            ["kind"],
            [([k], open_.get(k, (0, 0))[1]) for k in kinds],
        )
        waiting = Approval.objects.filter(status=Approval.Status.PENDING).aggregate(
            number=Count("pk"), oldest=Min("requested_at")
        )
        yield _gauge("novawf_approvals_pending", "Approvals that wait for a person.", [], [([], waiting["number"])])
        yield _gauge("novawf_approval_age_seconds", "How long the oldest waits.", [], [([], self._since(waiting["oldest"]))])

    def _alerts(self) -> Iterator[Metric]:
        firing = dict(AlertEvent.objects.filter(status="firing").order_by().values_list("tier").annotate(number=Count("pk")))
        yield _gauge("novawf_alerts_firing", "Alerts that fire.", ["tier"], [([t.value], firing.get(t.value, 0)) for t in Tier])
        rules = AlertRule.objects.filter(archived_at=None, enabled=True).count()
        yield _gauge("novawf_alert_rules", "Alert rules in force.", [], [([], rules)])
        evaluated = Lease.objects.filter(name=LEASE).values_list("heartbeat_at", flat=True).first()
        ages = [([], self._since(evaluated))] if evaluated else []
        yield _gauge("novawf_alerts_evaluated_age_seconds", "Time since the rules were evaluated.", [], ages)
        channels = AlertChannel.objects.filter(archived_at=None).order_by("slug")
        failing = [([c.slug], self._since(c.failing_since)) for c in channels]
        yield _gauge("novawf_alert_channel_failing_seconds", "How long nothing has come through.", ["channel"], failing)
        closed = [([c.slug], float(not c.is_open)) for c in channels]
        yield _gauge("novawf_alert_channel_closed", "1: nothing is sent there any more.", ["channel"], closed)
        waiting = AlertDelivery.objects.filter(status="waiting").aggregate(number=Count("pk"), oldest=Min("created_at"))
        yield _gauge("novawf_alert_deliveries_waiting", "Messages that are yet to be sent.", [], [([], waiting["number"])])
        yield _gauge(
            "novawf_alert_delivery_age_seconds", "How long the oldest waits.", [], [([], self._since(waiting["oldest"]))]
        )


Samples = Sequence[tuple[Sequence[str], Any]]


def _gauge(name: str, words: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(name, words, labels=labels)
    for values, value in samples:
        family.add_metric(values, float(value or 0))
    return family


def _counter(name: str, words: str, labels: Sequence[str], samples: Samples) -> Metric:
    family = CounterMetricFamily(name, words, labels=labels)
    for values, value in samples:
        family.add_metric(values, float(value or 0))
    return family
