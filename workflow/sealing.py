"""What the installation does with its seals: made every minute, anchored outside the database, verified daily and on demand.

Jobs and doors call this. What a seal is stands in safety/core/seals.py.
"""

from collections.abc import Callable, Mapping
from datetime import datetime

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Sum
from django_q.models import Schedule

from safety import anchors, seal_keys, seals, verification
from safety.core.seals import Anchor
from safety.models import AuditSeal, FleetFact, Installation, VerificationRun
from safety.stream_client import StreamClient, StreamError
from workflow.core.protocol import stream_name

PUBLISHED = "seal_published"  # the fact that says up to which seal the stream was told
METRIC = "journal_sealed"
VERIFY_JOB = "workflow.jobs.verify_journal"

log = structlog.get_logger(__name__)


def seal_and_anchor(*, now: datetime, client: StreamClient | None = None, go_on: Callable[[], bool] = lambda: True) -> int:
    """Seal what is closed and anchor the heads: in the seals log, and on the metrics stream. Give how many seals were made.

    An anchor that can't be written now is written the next time; sealing does not wait for it.
    """
    try:
        made = seals.seal(now=now, go_on=go_on)
    except seal_keys.NoSealKey as missing:
        log.warning("journal.not_sealed", reason=str(missing))
        return 0
    try:
        anchors.append()
    except (anchors.AnchorContradicts, OSError, ValueError, KeyError) as problem:
        log.error("journal.seals_log_not_written", reason=str(problem))
    try:
        publish_head(client or StreamClient(name="novawf-seals"), now=now)
    except StreamError as problem:
        log.warning("journal.seal_not_published", reason=str(problem))
    return made


def publish_head(client: StreamClient, *, now: datetime) -> bool:
    """Tell the metrics stream the head of the chain, if it is new; True if it was told.

    :raises StreamError: it was not; the next call tells it.
    """
    newest = AuditSeal.objects.order_by("-number").defer("leaves").first()
    fact = FleetFact.objects.filter(name=PUBLISHED).first()
    told = int(fact.value or 0) if fact else 0
    if newest is None or newest.number == told:
        return False
    fresh = AuditSeal.objects.filter(number__gt=told).aggregate(entries=Sum("count"))["entries"] or newest.count
    name = Installation.objects.values_list("name", flat=True).first() or ""
    stream = stream_name("enterprise_metrics")
    context = f'{{"seal":{newest.number},"last_id":{newest.last_id},"head":"{newest.head}","key_id":"{newest.key_id}"}}'
    client.call(
        "XADD", stream, "MAXLEN", "~", str(settings.STREAM_MAXLEN[stream]), "*",
        "event_id", f"{name}-{newest.last_id}-{METRIC}", "metric_name", METRIC, "metric_value", str(fresh),
        "metric_type", "counter", "timestamp", now.isoformat(), "nova_id", "", "context", context,
    )  # fmt: skip
    FleetFact.objects.update_or_create(name=PUBLISHED, defaults={"value": newest.number, "observed_at": now})
    return True


def ask_verification(scope: str, *, reason: str, now: datetime) -> VerificationRun:
    """Ask for a verification; a worker does it within a minute."""
    with transaction.atomic():
        asked = verification.request(scope, reason=reason, now=now)
        name = f"verify-journal-{asked.pk}"
        if not Schedule.objects.filter(name=name).exists():
            # repeats=-1: it is gone once it has run
            Schedule.objects.create(
                name=name, func=VERIFY_JOB, args=str(asked.pk), schedule_type=Schedule.ONCE, repeats=-1, next_run=now
            )
    return asked


def verify(
    run_id: int | None, part: int, *, clock: Callable[[], datetime], go_on: Callable[[], bool] = lambda: True
) -> VerificationRun | None:
    """Do a part of a verification that was asked for, the one behind seal `part`; without an id, begin the daily one.

    Give the run as it stands then; None: it is finished, or another process did this part.
    """
    if run_id is None:
        run = verification.due(now=clock())
    else:
        found = VerificationRun.objects.filter(pk=run_id, finished_at=None, last_seal=part).first()
        if found is None:
            return None
        run = found
    return run if verification.run(run, clock=clock, anchors=_own_anchors(), go_on=go_on) else None


def _own_anchors() -> Mapping[int, Anchor]:
    try:
        return anchors.own()
    except anchors.AnchorUnusable as problem:
        log.error("journal.seals_log_unusable", reason=str(problem))
        return {}
