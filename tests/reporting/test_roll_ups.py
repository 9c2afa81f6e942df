"""The roll-ups are what the journal says, each entry once, however it is read; nothing personal is in them."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import Count, F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reporting import roll_ups, series
from reporting.core.buckets import DAY, EVER, HOUR, KEPT
from reporting.models import Membership, Rework, RollUp, RollUpCursor
from reporting.scope import Scope
from reporting.settled import Settled
from reporting.standing import novas
from safety import audit
from safety.audit import Entry
from safety.models import AuditEntry, SafetyState
from safety.pruning import _readers
from tests import factories
from tests.conftest import flush_database
from tests.factories import NOW
from tests.reporting.summing import complete, create, do_task, patient, start, sum_up
from workflow.configuration import create_nova, save_configured
from workflow.core.work import Priority, WorkType
from workflow.derived_status import derived_status, load_fleet, load_verdicts
from workflow.models import Nova, NovaState, Task
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db


def kept() -> list[Any]:
    """Give everything that the roll-ups hold."""
    cursor = RollUpCursor.objects.get()
    return [
        sorted(RollUp.objects.values_list("key", "sums"), key=lambda row: row[0]),
        sorted(Membership.objects.values_list("nova_id", "team")),
        sorted(Rework.objects.values_list("task_id", "by_task_id")),
        (cursor.position, cursor.newest_at, cursor.first_at, cursor.first_id),
    ]


VERBS = ("create", "open", "made_up", "personal", "again", "start", "complete", "block", "unblock", "retry", "cancel", "assign",
         "release", "lapse", "team")  # fmt: skip


def act(verb: str, which: int, at: datetime) -> None:
    """Do something to some task, if its status allows it."""
    nova_id, tasks = ("torch", "echo")[which % 2], list(Task.objects.order_by("created_at", "id"))
    if verb == "team":
        nova = Nova.objects.get(pk=nova_id)
        nova.team = f"team{which % 3}"
        save_configured(nova, now=at, reason="x")
        return
    with TaskTracker.open(now=at) as tracker:
        if verb in ("create", "open", "made_up", "personal", "again"):
            kind = WorkType.MOMENTUM if verb == "made_up" else WorkType.REQUESTED
            again = {"rework_of": tasks[which % len(tasks)].id} if verb == "again" and tasks else None
            assignee = "" if verb == "open" else nova_id
            tracker.create_task(
                "x", assignee=assignee, work_type=kind, personal=verb == "personal", metadata=again, priority=Priority.LOW
            )
            return
        wanted = {"start": "pending", "assign": "pending", "unblock": "blocked"}.get(verb, "in_progress")
        fits = [task for task in tasks if task.status == wanted]
        if fits:
            _move(tracker, verb, tracker._row(fits[which % len(fits)].id), nova_id, at)


def _move(tracker: TaskTracker, verb: str, row: Any, nova_id: str, at: datetime) -> None:
    moves: dict[str, Callable[[], None]] = {
        "start": lambda: tracker.start_task(row, nova_id=row.assignee or nova_id, update="x", attempt=1),
        "complete": lambda: tracker.complete_task(row, "x", {"evidence": ["x"]}),
        "block": lambda: tracker.block_task(row, owner="operator", action="x", reason="x"),
        "unblock": lambda: tracker.unblock_task(row, "x"),
        "retry": lambda: tracker.retry_task(row, not_before=at, reason="x"),
        "cancel": lambda: tracker.cancel_task(row, "x"),
        "assign": lambda: tracker.assign_task(row, nova_id, "x"),
        "release": lambda: tracker.release_task(row, reason="x", open_again=True),
        "lapse": lambda: _lapse(tracker, row, nova_id),
    }
    moves[verb]()


def _lapse(tracker: TaskTracker, row: Any, nova_id: str) -> None:
    tracker.lapse_task(row, open_again=True)
    tracker.start_task(row, nova_id=nova_id, update="x", attempt=2)


steps = st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 5), st.integers(0, 400)), max_size=40)


@pytest.mark.django_db(transaction=True)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, st.integers(1, 30))
def test_made_anew_they_are_what_was_kept_and_the_levels_are_the_tables(steps: list[tuple[str, int, int]], most: int) -> None:
    at = NOW - timedelta(days=3)
    for nova_id in ("torch", "echo"):
        factories.make_personality(nova_id), factories.make_policy()
        create_nova(nova_id, personality=nova_id, now=at, reason="x")
    for verb, which, minutes in steps:
        at = min(NOW, at + timedelta(minutes=minutes))
        act(verb, which, at)
        if which == 0:
            sum_up(now=NOW, most=most)
    sum_up(now=NOW)
    before = kept()
    scopes = {"fleet": Task.objects.all(), "nova:echo": Task.objects.filter(assignee="echo")}
    scopes |= {f"team:team{number}": Task.objects.filter(assignee__team=f"team{number}") for number in range(3)}
    for key, rows in scopes.items():
        counted = rows.filter(personal=False).order_by().values_list("status").annotate(Count("pk"))
        there = dict(counted.exclude(status="completed"))
        assert {status: number for status, number in roll_ups.levels(key).items() if number} == there
    roll_ups.rebuild(now=NOW, settled=patient())
    assert kept() == before
    flush_database()


def test_a_turn_reads_no_more_than_what_is_new(now: datetime, django_assert_max_num_queries: Any) -> None:
    factories.make_nova("torch")
    for _ in range(3):
        do_task("torch", at=now)
    keeper = roll_ups.RollUpKeeper(patient())
    keeper.turn(now=now, most=4)
    with django_assert_max_num_queries(14):
        keeper.turn(now=now)
    assert keeper.turn(now=now) == 0
    assert RollUp.objects.get(scope="fleet", grain=DAY).sums["succeeded"] == 3


def test_a_turn_that_another_has_overtaken_writes_nothing(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    factories.make_nova("torch")
    do_task("torch", at=now)
    written = roll_ups._added

    def overtaken(*given: Any) -> Any:
        rows = written(*given)
        monkeypatch.setattr(roll_ups, "_added", written)
        sum_up(now=now)
        return rows

    monkeypatch.setattr(roll_ups, "_added", overtaken)
    assert roll_ups.RollUpKeeper(patient()).turn(now=now) == 0
    assert RollUp.objects.get(scope="fleet", grain=DAY).sums["succeeded"] == 1


def test_nobody_prunes_what_is_not_summed_up(now: datetime) -> None:
    assert roll_ups.lowest_unread() == 1
    factories.make_nova("torch")
    do_task("torch", at=now)
    sum_up(now=now)
    newest = AuditEntry.objects.latest("id").pk
    assert _readers["roll-ups"]() == newest + 1


def test_a_pruned_journal_is_not_summed_up_anew(now: datetime) -> None:
    factories.make_nova("torch")
    do_task("torch", at=now)
    sum_up(now=now)
    RollUpCursor.objects.update(first_id=F("first_id") - 1)
    with pytest.raises(roll_ups.JournalIsGone, match="Nothing was changed"):
        roll_ups.rebuild(now=now, settled=patient())
    assert RollUp.objects.exists()


def test_short_buckets_are_forgotten_and_days_kept(now: datetime) -> None:
    factories.make_nova("torch")
    do_task("torch", at=now)
    sum_up(now=now)
    roll_ups.forget_old(now=now + KEPT[HOUR] + timedelta(hours=3))
    assert set(RollUp.objects.values_list("grain", flat=True)) == {DAY, EVER}


@pytest.mark.django_db(transaction=True)
def test_an_entry_that_commits_late_is_not_missed(now: datetime) -> None:
    """On PostgreSQL a transaction may hold a lower id and commit after others; elsewhere writers wait for each other."""
    if connection.vendor != "postgresql":
        _write_one("x", now)
        assert sum_up(now=now)
        return
    entered, leave = threading.Event(), threading.Event()
    _write_one("first", now)
    sum_up(now=now)

    def slow() -> None:
        try:
            with transaction.atomic():
                audit.record([Entry("safety.incident.opened")], now=now)
                entered.set()
                leave.wait(20)
        finally:
            connections.close_all()

    writer = threading.Thread(target=slow)
    writer.start()
    entered.wait(20)
    keeper = roll_ups.RollUpKeeper(Settled(leave.wait))
    for number in range(3):
        _write_one(str(number), now)
        assert keeper.turn(now=now) == 0  # what lies behind the gap waits
    leave.set()
    writer.join()
    keeper = roll_ups.RollUpKeeper(patient())
    assert keeper.turn(now=now) == 4
    assert RollUp.objects.get(scope="fleet", grain=DAY).sums == {"incidents": 5}
    with transaction.atomic():
        audit.record([Entry("safety.incident.opened")], now=now)
        transaction.set_rollback(True)  # its id is gone for good
    _write_one("after the gap", now)
    assert keeper.turn(now=now)
    assert RollUp.objects.get(scope="fleet", grain=DAY).sums == {"incidents": 6}


def _write_one(object_id: str, now: datetime) -> None:
    with transaction.atomic():
        audit.record([Entry("safety.incident.opened", object_id=object_id)], now=now)


def test_novas_counted_in_groups_have_the_status_that_each_has(now: datetime) -> None:
    for number in range(40):
        nova_id = f"nova-{number}"
        factories.make_nova(
            nova_id,
            personality=list(factories.PERSONALITIES)[number % 5],
            state={
                "mode": NovaState.Mode.values[number % 7],
                "current_state": ("work_discovery", "error_recovery", "completion_routine")[number % 3],
                "due_at": now - timedelta(seconds=(0, 70, 130, 500)[number % 4]),
                "tasks_in_flight": number % 2,
                "total_cycles_completed": number % 3,
            },
        )
        if number % 4 == 0:
            SafetyState.objects.create(nova_id=nova_id, is_safe=number % 8 == 0, mechanism="frosty")
    NovaState.objects.filter(nova__nova_id__gt="nova-2").update(mode="running")
    each: dict[str, int] = {}
    verdicts = load_verdicts(list(Nova.objects.values_list("pk", flat=True)))
    for nova in Nova.objects.select_related("state", "personality").exclude(state__mode="archived"):
        status = derived_status(nova, nova.state, verdicts.get(nova.pk), load_fleet(), now).status
        each[status] = each.get(status, 0) + 1
    assert dict(novas(Scope(), now, load_fleet()).by_status) == each
    assert len(each) >= 6


def test_the_series_are_what_was_done(now: datetime) -> None:
    factories.make_nova("torch")
    for hours in (5, 3, 3):
        do_task("torch", at=now - timedelta(hours=hours), seconds=30)
    waiting = create("torch", at=now - timedelta(hours=2))
    start(waiting, "torch", at=now - timedelta(hours=1))
    sum_up(now=now)
    scope = Scope("torch")
    assert [point["succeeded"] for point in series.throughput(scope, now=now, hours=6)] == [1, 0, 2, 0, 0, 0]
    assert [point["cases"] for point in series.cycle_times(scope, now=now, hours=6)] == [1, 0, 2, 0, 0, 0]
    flow = series.cumulative_flow(scope, now=now, hours=6)
    assert [(p["pending"], p["in_progress"], p["completed"]) for p in flow] == [
        (0, 0, 1), (0, 2, 1), (0, 0, 3), (1, 0, 3), (0, 1, 3), (0, 1, 3),
    ]  # fmt: skip
    complete(waiting, at=now)
    assert series.incidents_per_day(scope, now=now, days=2)[-1]["incidents"] == 0
    assert series.state_timeline("torch", now=now)[-1]["state"] == "unknown"
    factories.make_observation("torch", "api_request", at=now, ago=5, count=12)
    margins = {row["limit"]: row for row in series.safety_margins(Scope("torch"), now=now)}
    assert (margins["requests_per_minute"]["measured"], margins["requests_per_minute"]["used_percentage"]) == (12, 40.0)
    assert series.safety_margins(Scope(), now=now)[0]["nova_id"] == "torch"


def test_nothing_personal_is_summed_up(now: datetime) -> None:
    factories.make_nova("torch")
    with transaction.atomic():
        entry = Entry("workflow.nova.moved", "torch", after={"path": ["idle"]}, personal=True)
        audit.record([entry, Entry("workflow.task.created", "torch", after={}, personal=True)], now=now)
    assert sum_up(now=now) >= AuditEntry.objects.count() == 2
    assert not RollUp.objects.exists()
