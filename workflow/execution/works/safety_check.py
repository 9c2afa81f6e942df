"""validate_safety: is what should protect the fleet in place, and is the journal whole? Reads only, changes no limit."""

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Max, Min

from safety import triggers
from safety.core.status import SafetyRules
from safety.models import RULE_DURATIONS, AuditEntry, JournalHead, OutboxEntry, SafetyPolicy, SafetyState
from workflow.execution.registry import ExecutionContext, Result
from workflow.execution.works.report import Report, Scope, age, duration_text
from workflow.models import Nova, NovaState

JOURNAL_WINDOW = 20_000
OUTBOX_WINDOW = 500
STALE_SECONDS = 60.0
YOUNG_SECONDS = 600.0
_BATCH = 1_000
# Where a smaller number protects less; everywhere else a larger one does.
_SMALLER_IS_WEAKER = frozenset({"burst_window", "failure_window", "cooldown", "cooldown_limit", "meditation", "quarantine"})


def validate_safety(context: ExecutionContext) -> Result:
    """Check policies, verdicts, hooks, triggers, journal and outbox."""
    scope, now = Scope.of(context), context.now
    report = Report(f"Safety of {scope.label}")
    _policies(scope, report)
    _verdicts(scope, now, report)
    _hooks(scope, now, report)
    _triggers(report)
    _journal(scope, report)
    _outbox(report)
    return report.result()


def _policies(scope: Scope, report: Report) -> None:
    standard = SafetyRules()
    policies = SafetyPolicy.objects.filter(archived_at=None)
    if scope.team:
        policies = policies.filter(nova__team=scope.team)
    users = dict(scope.novas().values("policy").annotate(count=Count("pk")).values_list("policy", "count"))
    report.section("Policies")
    weak = 0
    for policy in policies.distinct().order_by("slug")[:_BATCH]:
        rules = policy.rules
        weaker = [name for name in SafetyRules.__dataclass_fields__ if _is_weaker(name, getattr(rules, name), standard)]
        weak += bool(weaker)
        verdict = f"weaker than standard in {', '.join(weaker)}" if weaker else "as safe as standard or safer"
        report.line(f"{policy.slug}, used by {users.get(policy.slug, 0):,} Novas: {verdict}")
        for name in weaker:
            given, usual = _plain(getattr(rules, name)), _plain(getattr(standard, name))
            unit = " s" if name in RULE_DURATIONS else ""
            report.find(
                f"weaker policy: {policy.slug}.{name}",
                f"policy {policy.slug} allows {name} {given:g}{unit}; standard has {usual:g}{unit}",
            )
    report.metrics["weak_policies"] = weak


def _is_weaker(name: str, value: Any, standard: SafetyRules) -> bool:
    usual = getattr(standard, name)
    return bool(value < usual) if name in _SMALLER_IS_WEAKER else bool(value > usual)


def _plain(value: Any) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _verdicts(scope: Scope, now: datetime, report: Report) -> None:
    """Find verdicts that nobody keeps current: none for a Nova that works, or one that should have ended."""
    running = scope.states().filter(mode__in=NovaState.RUNNING_MODES)
    judged = SafetyState.objects.values("nova_id")
    old = now - timedelta(seconds=YOUNG_SECONDS)
    missing = running.filter(session_start_time__lt=old, total_cycles_completed__gt=0).exclude(pk__in=judged)
    for nova_id in missing.order_by("pk").values_list("pk", flat=True)[:_BATCH]:
        report.find(f"no verdict: {nova_id}", f"{nova_id} works, but no safety verdict of it is stored")
    ended = SafetyState.objects.filter(is_safe=False, until__lt=now - timedelta(seconds=STALE_SECONDS))
    for nova_id, mechanism, until in ended.filter(nova_id__in=running.values("pk")).values_list(
        "nova_id", "mechanism", "until"
    )[:_BATCH]:
        over = duration_text(age(now, until))
        report.find(f"stale verdict: {nova_id}", f"{nova_id} is still held by {mechanism}, whose verdict ended {over} ago")
    unsafe = SafetyState.objects.filter(is_safe=False, nova_id__in=scope.novas().values("pk"))
    report.section("Verdicts")
    report.line(f"{unsafe.count():,} of {scope.novas().count():,} Novas are held by a safety mechanism now")


def _hooks(scope: Scope, now: datetime, report: Report) -> None:
    running = scope.states().filter(mode__in=NovaState.RUNNING_MODES).values("pk")
    expected = SafetyState.objects.filter(hooks_expected=True, nova_id__in=running)
    rows = list(expected.order_by("nova_id").values_list("nova_id", "last_hook_heartbeat")[:_BATCH])
    limits = dict(Nova.objects.filter(pk__in=[nova_id for nova_id, _ in rows]).values_list("pk", "policy__hook_silence"))
    silent = 0
    for nova_id, heartbeat in rows:
        limit = limits.get(nova_id, SafetyRules().hook_silence.total_seconds())
        if heartbeat is None or age(now, heartbeat) > limit:
            silent += 1
            last = f"last heard {duration_text(age(now, heartbeat))} ago" if heartbeat else "never heard"
            report.find(f"silent hooks: {nova_id}", f"{nova_id}'s hooks should speak every {duration_text(limit)}; {last}")
    report.section("Hooks")
    report.line(f"{len(rows):,} Novas have hooks that should speak, {silent:,} are silent")
    report.metrics |= {"hooks_expected": len(rows), "hooks_silent": silent}


def _triggers(report: Report) -> None:
    missing = triggers.missing()
    for name in missing:
        report.find(f"missing trigger: {name}", f"the journal is not protected by the database: trigger {name} is missing")
    report.metrics["triggers_missing"] = len(missing)


def _journal(scope: Scope, report: Report) -> None:
    """Look for missing numbers in the newest entries: a Nova's `seq` knows no gap, since it is taken in the writing commit."""
    heads = JournalHead.objects.all()
    newest = AuditEntry.objects.aggregate(newest=Max("id"))["newest"] or 0
    entries = AuditEntry.objects.filter(id__gt=newest - JOURNAL_WINDOW, seq__gt=0)
    if scope.team:
        own = scope.novas().values("pk")
        heads, entries = heads.filter(nova_id__in=own), entries.filter(nova_id__in=own)
    last_taken = dict(heads.values_list("nova_id", "seq"))  # before the entries: what is written meanwhile is no gap
    grouped = entries.order_by().values("nova_id").annotate(first=Min("seq"), last=Max("seq"), count=Count("id"))
    checked = broken = 0
    for row in grouped:
        nova_id, missing = row["nova_id"], row["last"] - row["first"] + 1 - row["count"]
        checked += row["count"]
        between = f"{row['first']:,} and {row['last']:,}"
        if missing > 0:
            report.find(f"journal gap: {nova_id}", f"{missing:,} entries of {nova_id} are missing between {between}")
        elif missing < 0:
            report.find(f"journal repeat: {nova_id}", f"{nova_id} has {-missing:,} numbers twice between {between}")
        if row["last"] < last_taken.get(nova_id, 0):
            tail = f"{nova_id}'s journal ends with {row['last']:,}, but {last_taken[nova_id]:,} was taken"
            report.find(f"journal tail missing: {nova_id}", tail)
        broken += missing != 0 or row["last"] < last_taken.get(nova_id, 0)
    report.section("Journal")
    report.line(f"{checked:,} newest entries checked for gaps, {broken:,} Novas with a broken row of numbers")
    report.metrics |= {"journal_checked": checked, "journal_broken": broken}


def _outbox(report: Report) -> None:
    rows = [*OutboxEntry.objects.order_by("id")[:OUTBOX_WINDOW], *OutboxEntry.objects.order_by("-id")[:OUTBOX_WINDOW]]
    pointers = {row.pk: set(row.entry_ids) for row in rows}
    wanted = sorted(set().union(*pointers.values()))
    known: set[int] = set()
    for start in range(0, len(wanted), _BATCH):
        known.update(AuditEntry.objects.filter(id__in=wanted[start : start + _BATCH]).values_list("id", flat=True))
    lost = {pk: entry_ids - known for pk, entry_ids in pointers.items() if entry_ids - known}
    if lost:
        count = sum(len(entry_ids) for entry_ids in lost.values())
        report.find(
            "outbox points at nothing", f"{len(lost):,} outbox entries point at {count:,} journal entries that are gone"
        )
    report.metrics["outbox_pointers_lost"] = sum(len(entry_ids) for entry_ids in lost.values())
