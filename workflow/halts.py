"""Orders to stop, for a Nova, a team or the fleet: asked for, followed up, confirmed by evidence, lifted (design section 5).

A Nova is called stopped when nothing of it is seen running any more, and not before. What a verb changes in a Nova stands in
workflow.services; here is who it is asked of, and what became of it.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Count

from safety import audit, hook_intake
from safety.audit import Entry
from safety.core.mechanisms import STREAM_MONITOR
from safety.facts import STREAM_REACHABLE
from safety.models import FleetFact, SafetyState
from workflow import services, waking
from workflow.configuration import demand_reason
from workflow.errors import WorkflowError
from workflow.models import Execution, Halt, HaltConfirmation, Nova, NovaState, Task
from workflow.services import NovaNotFound, VerbResult

HALT_ORDERED = "workflow.halt.ordered"
HALT_CONFIRMED = "workflow.halt.confirmed"
HALT_UNREACHABLE = "workflow.halt.unreachable"
HALT_SETTLED = "workflow.halt.settled"
HALT_LIFTED = "workflow.halt.lifted"
SAFETY_LIFTED = "safety.verdict.lifted"

UNREACHABLE_AFTER = timedelta(seconds=30)

Kind, Scope, Status = Halt.Kind, Halt.Scope, HaltConfirmation.Status
_WAITING = (Status.REQUESTED, Status.DELIVERED, Status.ACKNOWLEDGED)
_IMPATIENT = frozenset({Kind.HALT, Kind.KILL})  # a drain takes as long as its tasks do
_MODES: Mapping[str, frozenset[str]] = {  # in which modes a Nova is under an order of a kind
    Kind.HALT: frozenset({"halted", "killed"}),
    Kind.KILL: frozenset({"killed"}),
    Kind.DRAIN: frozenset({"draining", "paused"}),
    Kind.PAUSE: frozenset({"paused"}),
}


class HaltNotFound(WorkflowError):
    """There is no such order."""


class NovaStopped(WorkflowError):
    """The Nova may not begin anything now: it is stopped, or a safety mechanism objects."""

    def __init__(self, text: str, *, mechanism: str, until: datetime | None = None) -> None:
        super().__init__(text)
        self.mechanism = mechanism
        self.until = until


@dataclass(frozen=True, slots=True)
class StandingOrder:
    """What an agent must be told: which order, of which kind, by whom and why."""

    halt_id: int
    kind: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What is still seen of a Nova."""

    mode: str
    due_at: datetime  # a drill makes it due at once; a cycle since then has moved it
    runs: int  # executions whose hosts have not let go
    heard_at: datetime | None  # the newest hook call of a session at work
    rests: bool  # its agent has hooks, and by them nothing runs in any of its sessions
    works: int  # tasks that an agent holds under a lease


def order(kind: str, scope: str, target: str = "", *, reason: str, now: datetime, drill: bool = False) -> Halt:
    """Order Novas to stop, in one transaction; the same order that stands already is given back, not repeated.

    :raises ReasonMissing: the reason is blank. :raises NovaNotFound: nobody is meant.
    """
    reason = demand_reason(reason)
    with transaction.atomic():
        standing = Halt.objects.filter(kind=kind, scope=scope, target=target, lifted_at=None, drill=False).first()
        if standing is not None and not drill:
            return standing
        nova_ids = _meant(scope, target)
        actor = audit.current_actor()
        halt = Halt.objects.create(
            kind=kind, scope=scope, target=target, reason=reason, requested_by=actor, requested_at=now, drill=drill
        )
        HaltConfirmation.objects.bulk_create(
            HaltConfirmation(halt=halt, nova_id=nova_id, requested_at=now) for nova_id in nova_ids
        )
        after = {"kind": kind, "scope": scope, "target": target, "novas": len(nova_ids), "drill": drill}
        audit.record([Entry(HALT_ORDERED, "", "halt", str(halt.pk), after=after, reason=reason)], now=now)
        if drill:
            waking.mark_due(nova_ids, now=now)
            transaction.on_commit(lambda: waking.knock("loops"))
        else:
            services.apply_verb(kind, nova_ids, reason=reason, now=now)
    transaction.on_commit(lambda: waking.knock("work"))
    settle(now=now)
    halt.refresh_from_db()
    return halt


def lift(halt_id: int, *, reason: str, now: datetime) -> Halt:
    """Let the Novas of an order go on, staggered; one that was lifted already changes nothing.

    :raises HaltNotFound: there is none. :raises ReasonMissing: the reason is blank.
    """
    reason = demand_reason(reason)
    with transaction.atomic():
        halt = Halt.objects.select_for_update().filter(pk=halt_id).first()
        if halt is None:
            raise HaltNotFound(f"There is no order {halt_id}; nothing was changed.")
        if halt.lifted_at is None:
            nova_ids = list(
                NovaState.objects.filter(nova__halts__halt=halt, mode__in=_MODES[halt.kind]).values_list("nova_id", flat=True)
            )
            if not halt.drill:
                services.apply_verb("resume", nova_ids, reason=reason, now=now)
            _mark_lifted(halt, reason, len(nova_ids), now)
    return halt


def resume(nova_ids: Collection[str], *, reason: str, now: datetime) -> list[VerbResult]:
    """Let chosen Novas go on, whatever order they stand under; an order under which none stands any more is lifted."""
    with transaction.atomic():
        results = services.apply_verb("resume", nova_ids, reason=reason, now=now)
        lift_empty(nova_ids, reason=reason, now=now)
    return results


def lift_empty(nova_ids: Collection[str], *, reason: str, now: datetime) -> None:
    """Lift every order over these Novas under which none stands any more."""
    for halt in Halt.objects.filter(lifted_at=None, drill=False, confirmations__nova__in=nova_ids).distinct():
        under = NovaState.objects.filter(nova__halts__halt=halt, mode__in=_MODES[halt.kind])
        if not under.exists():
            _mark_lifted(halt, reason, 0, now)


def lift_safety(nova_id: str, *, reason: str, now: datetime) -> bool:
    """End what safety mechanisms imposed on a Nova for a time; they judge it anew at once. False if nothing was imposed."""
    reason = demand_reason(reason)
    names = ("cooldown_until", "meditation_until", "quarantine_until", "api_cooldown_until")
    with transaction.atomic():
        state = SafetyState.objects.select_for_update().filter(nova_id=nova_id).first()
        before = {name: getattr(state, name) for name in names if state and getattr(state, name)}
        if not before:
            return False
        changes: dict[str, Any] = dict.fromkeys(before)
        if "cooldown_until" in before:  # what led to it is paid for
            changes |= {"last_cooldown_end": now, "cooldown_since": now}
        SafetyState.objects.filter(nova_id=nova_id).update(**changes)
        entry = Entry(SAFETY_LIFTED, nova_id, "nova", nova_id, before=before, after=dict.fromkeys(before), reason=reason)
        audit.record([entry], now=now)
        waking.mark_due([nova_id], now=now)
        transaction.on_commit(lambda: waking.knock("loops"))
    return True


def get(halt_id: int) -> Halt:
    """Give an order.

    :raises HaltNotFound: there is none.
    """
    halt = Halt.objects.filter(pk=halt_id).first()
    if halt is None:
        raise HaltNotFound(f"There is no order {halt_id}.")
    return halt


def right_to_resume(modes: Collection[str]) -> str:
    """Name the permission that resuming Novas in these modes needs."""
    return "workflow.lift_pause" if set(modes) <= {"running", "paused", "draining"} else "workflow.lift_halt"


def standing_order(nova_id: str) -> StandingOrder | None:
    """Give the order under which a Nova stands; None if it is under none."""
    mode = NovaState.objects.filter(nova=nova_id).values_list("mode", flat=True).first()
    kinds = [kind for kind, modes in _MODES.items() if mode in modes]
    halt = (
        Halt.objects.filter(confirmations__nova=nova_id, kind__in=kinds, lifted_at=None, drill=False).order_by("-id").first()
        if kinds
        else None
    )
    return StandingOrder(halt.pk, halt.kind, halt.requested_by, halt.reason) if halt else None


def demand_may_act(nova_id: str) -> None:
    """Refuse, for a Nova's agent, to begin anything while the Nova is stopped or unsafe.

    :raises NovaStopped: it says by which mechanism, why and until when. :raises NovaNotFound: there is no such Nova.
    """
    state = NovaState.objects.filter(nova=nova_id).values_list("mode", "mode_reason").first()
    if state is None:
        raise NovaNotFound(f"There is no Nova {nova_id}.")
    mode, reason = state
    if mode != NovaState.Mode.RUNNING:
        raise NovaStopped(f"Nova {nova_id} is {mode}: {reason or 'no reason was given'}.", mechanism=mode)
    if FleetFact.objects.filter(name=STREAM_REACHABLE, value=False).exists():  # verdicts are written once they are judged
        text = "The stream server can't be reached; every Nova waits for it. Nothing was begun."
        raise NovaStopped(text, mechanism=STREAM_MONITOR)
    verdict = SafetyState.objects.filter(nova_id=nova_id, is_safe=False).first()
    if verdict is not None:
        raise NovaStopped(verdict.reason, mechanism=verdict.mechanism, until=verdict.until)


def note_delivered(nova_id: str, *, now: datetime) -> None:
    """Note that a Nova's agent was told of the orders that stand against it."""
    HaltConfirmation.objects.filter(nova=nova_id, status=Status.REQUESTED, halt__lifted_at=None, halt__drill=False).update(
        status=Status.DELIVERED, delivered_at=now
    )


def note_acknowledged(nova_id: str, *, now: datetime) -> None:
    """Note that a Nova's agent said, or showed by ending its sessions, that it obeys."""
    waiting = HaltConfirmation.objects.filter(
        nova=nova_id, status__in=(Status.REQUESTED, Status.DELIVERED), halt__lifted_at=None, halt__drill=False
    )
    waiting.filter(delivered_at=None).update(delivered_at=now)
    waiting.update(status=Status.ACKNOWLEDGED, acknowledged_at=now)


def settle(*, now: datetime) -> int:
    """Look how far the Novas have come that were told to stop; give how many are still waited for.

    1. Evidence for all of them, by a few queries. 2. Each moves on as far as it shows. 3. Who shows nothing for half a minute
    is unreachable, and killed. May be called by anybody, any number of times.
    """
    if not Halt.objects.filter(settled_at=None).exists():
        return 0
    with transaction.atomic():
        waiting = list(
            HaltConfirmation.objects.select_for_update(of=("self",))
            .filter(status__in=_WAITING, halt__settled_at=None)
            .select_related("halt")
            .order_by("id")
        )
        evidence = _evidence({confirmation.nova_id for confirmation in waiting}, now)
        entries, deaf = [], list[str]()
        for confirmation in waiting:
            halt = confirmation.halt
            before = confirmation.status
            _advance(confirmation, evidence[confirmation.nova_id], now)
            if confirmation.status in _WAITING and halt.lifted_at is not None:
                confirmation.status = Status.UNREACHABLE  # it was let go before it had obeyed
            elif confirmation.status in _WAITING and _is_deaf(confirmation, now):
                confirmation.status, confirmation.unreachable_at = Status.UNREACHABLE, now
                if not halt.drill:
                    deaf.append(confirmation.nova_id)
            if confirmation.status != before and confirmation.status not in _WAITING:
                entries.append(_outcome(confirmation, now))
        HaltConfirmation.objects.bulk_update(
            waiting,
            ["status", "delivered_at", "acknowledged_at", "confirmed_at", "unreachable_at", "detail"],
        )
        if deaf:
            services.apply_verb("kill", deaf, reason="It did not obey a halt within 30 s.", now=now)
        entries += _close(now)
        audit.record(entries, now=now)
        return sum(confirmation.status in _WAITING for confirmation in waiting)


# -- details


def _meant(scope: str, target: str) -> list[str]:
    """Give the Novas that an order is for.

    :raises NovaNotFound: there is none.
    """
    novas = Nova.objects.filter(archived_at=None)
    if scope == Scope.NOVA:
        novas = novas.filter(nova_id=target)
    elif scope == Scope.TEAM:
        novas = novas.filter(team=target)
    found = list(novas.order_by("nova_id").values_list("nova_id", flat=True))
    if not found:
        who = {Scope.NOVA: f"Nova {target}", Scope.TEAM: f"Nova in team {target}"}.get(scope, "Nova")  # type: ignore[call-overload]
        raise NovaNotFound(f"There is no {who}; nothing was changed.")
    return found


def _evidence(nova_ids: Collection[str], now: datetime) -> dict[str, _Evidence]:
    """See what is still seen of Novas: five queries, however many they are."""
    heard = hook_intake.agents_at_work(nova_ids, now=now)
    runs: Counter[str] = Counter()
    open_ones = Execution.objects.filter(nova__in=nova_ids, finished_at=None)
    # found by their tasks, which stay in hand: there may be millions of executions, and few tasks are in hand
    not_let_go = Execution.objects.filter(
        task__in=Task.objects.filter(assignee__in=nova_ids, status="in_progress"), status="cancelled", lease_until__gt=now
    )
    for executions in (open_ones, not_let_go):
        runs.update(dict(executions.order_by().values_list("nova_id").annotate(Count("id"))))
    held = Task.objects.filter(assignee__in=nova_ids, status="in_progress", reserved_until__gt=now)
    works = dict(held.order_by().values_list("assignee_id").annotate(Count("id")))
    states = NovaState.objects.filter(nova__in=nova_ids).values_list("nova_id", "mode", "due_at")
    return {
        nova_id: _Evidence(
            mode,
            due_at,
            runs.get(nova_id, 0),
            heard.get(nova_id),
            nova_id in heard and heard[nova_id] is None,
            works.get(nova_id, 0),
        )
        for nova_id, mode, due_at in states
    }


def _advance(confirmation: HaltConfirmation, seen: _Evidence, now: datetime) -> None:
    """Move a confirmation on as far as the evidence goes, and say what is missing."""
    halt = confirmation.halt
    missing = _missing_of_drill(halt, seen) if halt.drill else _missing(confirmation, seen, now)
    confirmation.detail = "; ".join(missing)
    if missing:
        return
    confirmation.status, confirmation.confirmed_at = Status.CONFIRMED, now
    confirmation.delivered_at = confirmation.delivered_at or now
    confirmation.acknowledged_at = confirmation.acknowledged_at or now


def _missing(confirmation: HaltConfirmation, seen: _Evidence, now: datetime) -> list[str]:
    halt, missing = confirmation.halt, []
    if halt.kind == Kind.DRAIN:
        return ["tasks in hand are being finished"] if seen.mode == NovaState.Mode.DRAINING else []
    if halt.kind == Kind.PAUSE:
        return []  # the fence was raised with the order: nothing begins any more
    if seen.runs:
        missing.append(f"{seen.runs} execution{'' if seen.runs == 1 else 's'} not let go by their hosts")
    if seen.heard_at is not None:
        acknowledged = confirmation.acknowledged_at is not None
        missing.append("its agent's hooks were heard just now" if acknowledged else "its agent is at work")
    elif seen.works > 0 and not seen.rests and confirmation.acknowledged_at is None:
        missing.append("its agent has not acknowledged")
    return missing


def _missing_of_drill(halt: Halt, seen: _Evidence) -> list[str]:
    missing = []
    if seen.mode in NovaState.RUNNING_MODES and seen.due_at <= halt.requested_at:
        missing.append("no cycle since it was asked")
    if seen.heard_at is not None and seen.heard_at < halt.requested_at:
        missing.append("no hook call since it was asked")
    return missing


def _is_deaf(confirmation: HaltConfirmation, now: datetime) -> bool:
    impatient = confirmation.halt.kind in _IMPATIENT or confirmation.halt.drill
    return impatient and now - confirmation.requested_at >= UNREACHABLE_AFTER


def _outcome(confirmation: HaltConfirmation, now: datetime) -> Entry:
    action = HALT_CONFIRMED if confirmation.status == Status.CONFIRMED else HALT_UNREACHABLE
    after = {
        "halt": confirmation.halt_id,
        "status": str(confirmation.status),
        "seconds": (now - confirmation.requested_at).total_seconds(),
    }
    return Entry(action, confirmation.nova_id, "halt", str(confirmation.halt_id), after=after, reason=confirmation.detail)


def _close(now: datetime) -> list[Entry]:
    """Settle the orders of which nobody is waited for any more."""
    entries = []
    for halt in Halt.objects.filter(settled_at=None).exclude(confirmations__status__in=_WAITING):
        halt.settled_at = now
        halt.save(update_fields=["settled_at"])
        counts = dict(halt.confirmations.order_by().values_list("status").annotate(Count("id")))
        after = {**counts, "seconds": (now - halt.requested_at).total_seconds(), "drill": halt.drill}
        entries.append(Entry(HALT_SETTLED, "", "halt", str(halt.pk), after=after))
    return entries


def _mark_lifted(halt: Halt, reason: str, resumed: int, now: datetime) -> None:
    halt.lifted_at, halt.lifted_by, halt.lift_reason = now, audit.current_actor(), reason
    halt.settled_at = halt.settled_at or now
    halt.save(update_fields=["lifted_at", "lifted_by", "lift_reason", "settled_at"])
    audit.record([Entry(HALT_LIFTED, "", "halt", str(halt.pk), after={"resumed": resumed}, reason=reason)], now=now)
