"""analyze_streams: what the wire carries, what lags, what is dead, what was refused. Reads streams and rows, writes nothing.

Which streams must live is told by the journal: what it holds for a stream, and does not wait in the outbox, must be there.
"""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta

from django.db.models import Count, Max, Min

from safety.models import AuditEntry, OutboxEntry
from safety.stream_client import StreamClient, StreamError
from workflow.execution.registry import ExecutionContext, Result
from workflow.execution.works.report import Report, Scope, age, counted, duration_text
from workflow.models import InboxMessage, StreamCursor

JOURNAL_WINDOW = 20_000
STREAM_LIMIT = 500
REFUSED_WINDOW = 2_000
LATE_SECONDS = 60.0
UNHEARD_SECONDS = 600.0
OFTEN = 3
_SHARED = ("nova.work.queue", "nova.priority.alerts", "nova.enterprise.metrics")


def analyze_streams(context: ExecutionContext) -> Result:
    """Look at the streams and at both ends of them: intake cursors and inbox, journal and outbox."""
    scope, now = Scope.of(context), context.now
    report = Report(f"Streams of {scope.label}")
    oldest_pending = _outbox(now, report)
    expected = _published(scope, oldest_pending, now)
    cursors = dict(_cursors(scope))
    _wire(expected, cursors, now, report)
    _refused(scope, now, report)
    _unheard(scope, now, report)
    return report.result()


def _outbox(now: datetime, report: Report) -> int | None:
    """Tell how long entries wait for the relay; give the id of the oldest journal entry that waits."""
    oldest = OutboxEntry.objects.order_by("id").first()
    report.metrics["outbox"] = OutboxEntry.objects.count()
    report.metrics["outbox_age_seconds"] = round(age(now, oldest.created_at), 3) if oldest else 0.0
    if oldest is None:
        return None
    if age(now, oldest.created_at) > LATE_SECONDS:
        waiting = duration_text(age(now, oldest.created_at))
        report.find("outbox stuck", f"{report.metrics['outbox']:,} commits wait for the relay, the oldest for {waiting}")
    return min(oldest.entry_ids, default=None)


def _published(scope: Scope, oldest_pending: int | None, now: datetime) -> dict[str, datetime]:
    """Give each stream that must hold an entry, with the time the newest one was journalled."""
    newest = AuditEntry.objects.aggregate(newest=Max("id"))["newest"] or 0
    entries = AuditEntry.objects.filter(id__gt=newest - JOURNAL_WINDOW, personal=False).exclude(stream="")
    entries = entries.filter(created_at__lt=now - timedelta(seconds=LATE_SECONDS))
    if oldest_pending is not None:
        entries = entries.filter(id__lt=oldest_pending)
    if scope.team:
        entries = entries.filter(nova_id__in=scope.novas().values("pk"))
    streams = entries.values("stream").annotate(at=Max("created_at")).order_by("-at")
    return {row["stream"]: row["at"] for row in streams[:STREAM_LIMIT]}


def _cursors(scope: Scope) -> list[tuple[str, str]]:
    cursors = StreamCursor.objects.order_by("-updated_at").values_list("stream", "last_id")
    if not scope.team:
        return list(cursors[:STREAM_LIMIT])
    own = [f"nova.coordination.{nova_id}" for nova_id in scope.novas().values_list("pk", flat=True)[:STREAM_LIMIT]]
    return list(cursors.filter(stream__in=[*own, *_SHARED]))


def _wire(expected: dict[str, datetime], cursors: dict[str, str], now: datetime, report: Report) -> None:
    """Ask the stream server for length and newest entry of every stream that matters."""
    names = sorted({*expected, *cursors, *_SHARED})
    commands: list[tuple[str | int, ...]] = []
    for name in names:
        commands += [("XLEN", name), ("XREVRANGE", name, "+", "-", "COUNT", 1)]
    client = StreamClient(name="novawf-analyze")
    try:
        replies = client.execute(commands)
    except StreamError as error:
        report.find("stream server away", f"the stream server can't be asked: {error}")
        report.metrics["streams"] = 0
        return
    finally:
        client.close()
    lengths = dict(zip(names, replies[::2], strict=True))
    newest = {name: reply[0][0].decode() for name, reply in zip(names, replies[1::2], strict=True) if reply}
    report.section("Streams, longest first")
    report.lines(
        [
            f"{name}: {lengths[name]:,} entries, the newest {duration_text(age(now, _instant(newest[name])))} old"
            if name in newest
            else f"{name}: empty"
            for name in sorted(names, key=lambda name: (-lengths[name], name))
        ],
        most=40,
    )
    report.metrics |= {"streams": len(newest), "entries": sum(lengths.values())}
    _dead(expected, newest, now, report)
    _lagging(cursors, newest, now, report)


def _dead(expected: dict[str, datetime], newest: dict[str, str], now: datetime, report: Report) -> None:
    dead = 0
    for name, journalled_at in expected.items():
        last = _instant(newest[name]) if name in newest else None
        # the stream server's clock names the entries; a few seconds between two clocks are no fault
        if last is None or last < journalled_at - timedelta(seconds=5):
            dead += 1
            seen = f"its newest entry is {duration_text(age(now, last))} old" if last else "it is empty"
            since = duration_text(age(now, journalled_at))
            report.find(f"dead stream: {name}", f"{name} should hold an entry journalled {since} ago, but {seen}")
    report.metrics["dead_streams"] = dead


def _lagging(cursors: dict[str, str], newest: dict[str, str], now: datetime, report: Report) -> None:
    behind = {name: _instant(newest[name]) for name, last_id in cursors.items() if _order(newest.get(name)) > _order(last_id)}
    worst = 0.0
    for name in behind:
        # what came after the cursor has waited at least since the newest entry came
        waited = age(now, behind[name])
        worst = max(worst, waited)
        if waited > LATE_SECONDS:
            report.find(f"lagging cursor: {name}", f"{name} has unread entries, the newest of them {duration_text(waited)} old")
    report.section("Intake")
    report.line(f"{len(cursors):,} streams are read, {len(behind):,} have entries not read yet")
    report.metrics |= {"cursors": len(cursors), "cursors_behind": len(behind), "intake_lag_seconds": round(worst, 3)}


def _refused(scope: Scope, now: datetime, report: Report) -> None:
    rows = InboxMessage.objects.filter(status=InboxMessage.Status.REJECTED).order_by("-id")
    if scope.team:
        rows = rows.filter(nova_id__in=scope.novas().values("pk"))
    day = now - timedelta(days=1)
    refused = [row for row in rows.values_list("received_at", "reason", "sender")[:REFUSED_WINDOW] if row[0] >= day]
    reasons = Counter(_kind(reason) for _, reason, _ in refused)
    senders = Counter(sender or "(unnamed)" for _, _, sender in refused)
    hour = sum(1 for received_at, _, _ in refused if received_at >= now - timedelta(hours=1))
    report.section(f"Refused messages in 24 hours: {len(refused):,}, {hour:,} of them in the last hour")
    report.lines(counted(reasons), most=10)
    if refused:
        report.section("Refused messages by sender")
        report.lines(counted(senders), most=10)
    for reason, count in reasons.items():
        if count >= OFTEN:
            report.find(f"refused often: {reason}", f"{count:,} messages were refused in 24 hours: {reason}")
    for sender, count in senders.items():
        if count >= OFTEN and sender != "(unnamed)":
            report.find(f"sender refused often: {sender[:60]}", f"{sender[:60]} sent {count:,} messages that were refused")
    report.metrics |= {"refused_day": len(refused), "refused_hour": hour}


def _unheard(scope: Scope, now: datetime, report: Report) -> None:
    waiting = InboxMessage.objects.filter(status=InboxMessage.Status.WAITING)
    if scope.team:
        waiting = waiting.filter(nova_id__in=scope.novas().values("pk"))
    novas = waiting.values("nova_id").annotate(count=Count("id"), oldest=Min("received_at")).order_by("oldest")
    for row in novas[:100]:
        if age(now, row["oldest"]) > UNHEARD_SECONDS:
            oldest = duration_text(age(now, row["oldest"]))
            report.find(
                f"unheard: {row['nova_id']}", f"{row['count']:,} messages wait for {row['nova_id']}, the oldest for {oldest}"
            )


def _kind(reason: str) -> str:
    """Give a refusal's reason without what differs from message to message."""
    return re.sub(r"\d+", "#", re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", reason))[:100] or "(no reason)"


def _instant(entry_id: str) -> datetime:
    return datetime.fromtimestamp(int(entry_id.partition("-")[0]) / 1000, UTC)


def _order(entry_id: str | None) -> tuple[int, int]:
    milliseconds, _, number = (entry_id or "0-0").partition("-")
    return int(milliseconds), int(number or 0)
