"""`/metrics` for Prometheus: read from the database and the stream server when it is asked, so it is right whoever answers.

A scrape costs the same few queries however large the fleet and its history are: nothing here counts ended tasks or journal
entries row by row. Who may ask: whoever has the token; without one, this machine alone.
"""

import tomllib
from collections import Counter
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
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from reporting import standing
from reporting.alert_facts import DISK, load_facts
from reporting.alerting import LEASE
from reporting.core import histogram
from reporting.core.alerting import Tier
from reporting.core.buckets import BEGINNING, EVER
from reporting.core.tally import LEAD, WORK, Sums, add, histogram_of
from reporting.models import AlertChannel, AlertDelivery, AlertEvent, AlertRule, RollUp, RollUpCursor
from reporting.roll_ups import key_of
from reporting.scope import Scope
from safety.models import AuditEntry, FleetFact, Observation, OutboxEntry, ProviderAccount, SafetyIncident
from safety.observations import Kind
from safety.stream_client import StreamClient, StreamError
from workflow.core.state import WorkflowState
from workflow.core.work import TaskStatus
from workflow.derived_status import ARCHIVED, STATUSES, load_fleet
from workflow.models import Approval, Execution, Halt, Lease, NovaState, Task

PING_TIMEOUT = 0.5  # seconds
_OPEN_TASKS = (TaskStatus.PENDING, TaskStatus.IN_PROGRESS, TaskStatus.BLOCKED)
_TASK_EVENTS = (
    "created", "created_momentum", "claimed", "started", "succeeded", "succeeded_momentum", "cancelled", "cancelled_momentum",
    "blocked", "blocked_momentum", "unblocked", "retried", "lapsed", "released", "reworked",
)  # fmt: skip
_SAFETY_EVENTS = (
    "safety_pauses", "incidents", "incidents_ended", "quarantines", "api_refusals", "breakers_opened", "violations_reported",
    "operator_stops",
)  # fmt: skip
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

Samples = Sequence[tuple[Sequence[str], Any]]  # (values of the labels, value)


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
        for part in (
            self._novas,
            self._work,
            self._journal,
            self._streams,
            self._safety,
            self._workers,
            self._people,
            self._alerts,
        ):
            yield from part()

    def _since(self, instant: datetime | None) -> float:
        return max((self._now - instant).total_seconds(), 0.0) if instant else 0.0

    def _novas(self) -> Iterator[Metric]:
        modes: Counter[str] = Counter()
        states: Counter[str] = Counter()
        sums: Counter[str] = Counter()
        groups = NovaState.objects.order_by().values("mode", "current_state")
        for group in groups.annotate(
            number=Count("pk"),
            cycles=Sum("total_cycles_completed"),
            tools=Sum("tool_use_count"),
            checks=Sum("protocol_checks"),
            passes=Sum("protocol_passes"),
        ):
            modes[group["mode"]] += group["number"]
            states[group["current_state"]] += group["number"]
            sums.update({name: group[name] or 0 for name in ("cycles", "tools", "checks", "passes")})
        statuses = standing.novas(Scope(), self._now, self._fleet).by_status
        yield _gauge("novawf_novas", "Novas by mode.", ["mode"], [([m], modes[m]) for m in NovaState.Mode.values])
        yield _gauge(
            "novawf_novas_by_state",
            "Novas by state of their workflow.",
            ["state"],
            [([s], states[s.value]) for s in WorkflowState],
        )
        yield _gauge(
            "novawf_novas_by_status", "Novas in service by what they are seen doing.", ["status"],
            [([s], statuses[s]) for s in STATUSES if s != ARCHIVED],
        )  # fmt: skip
        yield _counter("novawf_cycles", "Cycles of all Novas.", [], [([], sums["cycles"])])
        yield _counter("novawf_tool_uses", "Tool uses of all Novas.", [], [([], sums["tools"])])
        checks = [(["passed"], sums["passes"]), (["failed"], sums["checks"] - sums["passes"])]
        yield _counter("novawf_protocol_checks", "Checks of the protocol.", ["result"], checks)

    def _work(self) -> Iterator[Metric]:
        open_ = standing.open_tasks(Scope())
        yield _gauge("novawf_tasks", "Tasks that are not completed.", ["status"], [([s], open_[s.value]) for s in _OPEN_TASKS])
        head = Task.objects.claimable(now=self._now).values_list("created_at", "not_before").first()
        waits = self._since(max(filter(None, head))) if head else 0.0
        yield _gauge("novawf_queue_age_seconds", "How long the next task in line has waited.", [], [([], waits)])
        running = dict(Execution.objects.filter(finished_at=None).order_by().values_list("status").annotate(number=Count("pk")))
        names = (Execution.Status.DISPATCHED.value, Execution.Status.RUNNING.value)
        yield _gauge("novawf_executions", "Executions under way.", ["status"], [([s], running.get(s, 0)) for s in names])

    def _journal(self) -> Iterator[Metric]:
        """Count from the roll-ups: one row of the fleet, however much the journal holds."""
        newest = AuditEntry.objects.order_by("-id").values_list("id", flat=True).first() or 0
        yield _counter("novawf_journal_entries", "Journal entries written, by the newest number.", [], [([], newest)])
        seals = load_facts(("seal_age", "journal_damage_age"), now=self._now)
        unsealed: Samples = [([], reading.value) for reading in seals["seal_age"] or ()] or [([], 0.0)]
        yield _gauge("novawf_journal_unsealed_age_seconds", "Age of the oldest journal entry without a seal.", [], unsealed)
        damaged: Samples = [([], float(bool(seals["journal_damage_age"])))]
        yield _gauge("novawf_journal_damaged", "1: the last verification of the journal found damage.", [], damaged)
        cursor = RollUpCursor.objects.filter(id=1).first()
        behind = newest - cursor.position if cursor else newest
        yield _gauge(
            "novawf_roll_ups_behind_entries", "Entries that are not in the counters below, at most.", [], [([], behind)]
        )
        total: Sums = {}
        for sums in RollUp.objects.filter(key=key_of("fleet", EVER, BEGINNING)).values_list("sums", flat=True):
            add(total, sums)
        tasks = [([event], total.get(event, 0)) for event in _TASK_EVENTS]
        yield _counter("novawf_task_events", "What became of tasks; momentum work apart.", ["event"], tasks)
        safety = [([event], total.get(event, 0)) for event in _SAFETY_EVENTS]
        yield _counter("novawf_safety_events", "What the safety floor did.", ["event"], safety)
        yield _histogram("novawf_task_work_seconds", "Tasks that succeeded, from begin to end.", total, WORK)
        yield _histogram("novawf_task_lead_seconds", "Tasks that succeeded, from creation to end.", total, LEAD)

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
        trips: Samples = [] if trip is None else [([], trip)]
        yield _gauge("novawf_stream_round_trip_seconds", "How long its answer took.", [], trips)
        for name, (metric, words) in _READINGS.items():
            row = self._fleet.get(name)
            fresh = row is not None and self._now - row.observed_at < timedelta(minutes=1)
            value = row.value if row is not None and fresh else None
            yield _gauge(metric, words, [], [] if value is None else [([], float(value))])
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
        ages: Samples = [([], self._since(evaluated))] if evaluated else []
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


def _histogram(name: str, words: str, total: Sums, of: str) -> Metric:
    """Give a histogram of the roll-ups, its buckets each twice as long as the one before."""
    counts = histogram_of(total, of)
    buckets, below = [], 0
    for number in range(histogram.HIGHEST + 1):
        below += counts.get(number, 0)
        if number % 2 == 0 and number < histogram.HIGHEST:
            buckets.append((f"{histogram.ends_at(number):g}", float(below)))
    family = HistogramMetricFamily(name, words)
    family.add_metric([], [*buckets, ("+Inf", float(below))], total.get(f"{of}_ms", 0) / 1000)
    return family
