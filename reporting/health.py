"""`/healthz` and `/readyz`: is this process alive, and can this installation do its work (design section 7)?

Readiness believes evidence: a row that was written, a beat that is fresh. Each check has its own thread and deadline, so one
that hangs neither hangs the answer nor the others. This room changes nothing but the row it probes with.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from http import HTTPStatus

from django.conf import settings
from django.db import connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from reporting.alerting import LEASE as ALERTS
from reporting.models import AlertChannel
from safety import triggers
from safety.models import FleetFact
from safety.stream_client import StreamClient
from workflow.models import Lease

DEADLINE = 3.0  # seconds a check may take
STREAM_TIMEOUT = 2.0
INTAKE_LAG_LIMIT = 60.0  # seconds
FACT_FRESH = timedelta(seconds=30)
PROBE_ROW = "probe:readyz"


class NotReady(Exception):
    """A check found something missing; its text says what."""


@dataclass(frozen=True, slots=True)
class Check:
    """How one check went."""

    ok: bool
    ms: float
    detail: str


@require_safe
@never_cache
def healthz(request: HttpRequest) -> HttpResponse:
    """Answer; that is all."""
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """Run all checks and answer 200, or 503 with what is missing."""
    checks = run_checks()
    ready = all(check.ok for check in checks.values())
    content = {"ready": ready, "checks": {name: asdict(check) for name, check in checks.items()}}
    return JsonResponse(content, status=HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)


def run_checks() -> dict[str, Check]:
    """Run every check in a thread of its own; none raises."""
    begun = time.monotonic()
    running = {name: _pool().submit(_timed, check) for name, check in CHECKS.items()}
    return {name: _result(future, begun) for name, future in running.items()}


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=3 * len(CHECKS), thread_name_prefix="readyz")


def _result(future: "Future[Check]", begun: float) -> Check:
    try:
        return future.result(timeout=max(0.0, begun + DEADLINE - time.monotonic()))
    except TooLate:
        future.cancel()
        return Check(False, round((time.monotonic() - begun) * 1000, 1), f"no answer within {DEADLINE:g} s")


def _timed(check: Callable[[], str]) -> Check:
    begun = time.monotonic()
    try:
        ok, detail = True, check()
    except Exception as error:  # noqa: BLE001 - the wall around one check: whatever is wrong is the answer
        ok, detail = False, str(error) or type(error).__name__
    finally:
        connections.close_all()
    return Check(ok, round((time.monotonic() - begun) * 1000, 1), detail)


def _database() -> str:
    probe, now = Lease.objects.filter(name=PROBE_ROW), datetime.now(UTC)
    if not probe.update(heartbeat_at=now):
        Lease.objects.get_or_create(name=PROBE_ROW, defaults={"heartbeat_at": now})
    return f"{connection.vendor} is written to"


def _migrations() -> str:
    return _migrations_applied()


@cache  # what was applied stays applied; a failure is not remembered
def _migrations_applied() -> str:
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in missing[:5])
        raise NotReady(f"{len(missing)} migrations are not applied ({names}); run manage.py migrate")
    return "all applied"


def _journal() -> str:
    if missing := triggers.missing():
        raise NotReady(f"the journal is not protected: triggers missing ({', '.join(missing)}); run manage.py migrate")
    return "append-only triggers are in place"


def _streams() -> str:
    client = StreamClient(name="readyz", timeout=STREAM_TIMEOUT)
    try:
        client.call("PING")
    finally:
        client.close()
    return "the stream server answers"


def _beating(cluster: str) -> str:
    fresh = datetime.now(UTC) - timedelta(seconds=2 * settings.SLOT_SILENT_SECONDS)
    slots = Lease.objects.filter(name__startswith=f"slot:{cluster}:")
    beating = slots.filter(heartbeat_at__gte=fresh).count()  # between two slices nobody holds a slot
    if not beating:
        raise NotReady(f"no worker beats; is `manage.py workers {cluster}` running?")
    return f"{beating} slots beat"


def _intake() -> str:
    fact = FleetFact.objects.filter(name="intake_lag").first()
    if fact is None or fact.observed_at < datetime.now(UTC) - FACT_FRESH:
        raise NotReady("nobody has read the streams lately")
    lag = float(fact.value or 0.0)
    if lag >= INTAKE_LAG_LIMIT:
        raise NotReady(f"streams are read {lag:.0f} s late (limit {INTAKE_LAG_LIMIT:.0f} s)")
    return f"streams are read {lag:.1f} s late"


def _alerts() -> str:
    """Tell how alerting does; that nobody hears of alerts makes no installation unable to work."""
    evaluated = Lease.objects.filter(name=ALERTS).values_list("heartbeat_at", flat=True).first()
    if evaluated is None:
        return "the rules were never evaluated"
    age = (datetime.now(UTC) - evaluated).total_seconds()
    channels = AlertChannel.objects.filter(archived_at=None, enabled=True)
    deaf = channels.filter(Q(failing_since__isnull=False) | Q(closed_at__isnull=False)).count()
    through = f"; nothing comes through to {deaf} of {channels.count()} channels" if deaf else ""
    return f"the rules were evaluated {age:.0f} s ago{through}"


CHECKS: dict[str, Callable[[], str]] = {
    "database": _database,
    "migrations": _migrations,
    "journal": _journal,
    "streams": _streams,
    "loops": lambda: _beating("loops"),
    "work": lambda: _beating("work"),
    "intake": _intake,
    "alerts": _alerts,
}
