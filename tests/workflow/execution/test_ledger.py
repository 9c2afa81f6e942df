"""The rows behind a host, in the database: claims, fences, ends."""

from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests import factories
from tests.workflow.execution.conftest import dispatch
from workflow.execution import ledger
from workflow.execution.ledger import Claimed, End, Held, Room
from workflow.execution.registry import ExecutionFailed, Kept, Result
from workflow.models import Execution, NovaState

pytestmark = pytest.mark.django_db
ECHO = ("builtin:echo",)
PLENTY = Room(inline=256, others=32, inline_names=ECHO)
LATER = timedelta(seconds=7)  # past a lease


def claim(now: datetime, room: Room = PLENTY, host: str = "here") -> list[Claimed]:
    return ledger.turn(host, [], room, now=now)


def success(execution: Claimed, now: datetime, text: str = "done") -> End:
    return ledger.succeeded(execution, Result(text), now=now)


def test_a_claim_takes_the_oldest_first_with_what_their_executors_must_know(now: datetime) -> None:
    first = dispatch("echo", executor="builtin", title="One", description="words", metadata={"payload": "p"})
    second = dispatch("ok")
    claimed = claim(now)
    assert [execution.id for execution in claimed] == [first.id, second.id]
    assert (claimed[0].title, claimed[0].description, claimed[0].metadata) == ("One", "words", {"payload": "p"})
    first.refresh_from_db()
    assert (first.status, first.host, first.runs, first.fence) == ("running", "here", 1, 1)
    assert (first.started_at, first.lease_until) == (now, now + timedelta(seconds=6))
    assert claim(now) == []


def test_inline_executions_and_others_have_room_of_their_own(now: datetime) -> None:
    for _ in range(4):
        dispatch("ok")
    for _ in range(4):
        dispatch("echo", executor="builtin")
    taken = claim(now, Room(inline=3, others=2, inline_names=ECHO))
    assert sorted(execution.executor for execution in taken) == ["builtin"] * 3 + ["probe"] * 2
    assert claim(now, Room(inline=0, others=0, inline_names=ECHO)) == []
    assert [execution.executor for execution in claim(now, Room(inline=9, others=0, inline_names=ECHO))] == ["builtin"]


def test_what_somebody_outside_must_claim_is_left_alone(now: datetime) -> None:
    dispatch("", executor="agent")
    assert claim(now) == []


def test_a_claim_walks_the_index_of_open_executions(now: datetime) -> None:
    with CaptureQueriesContext(connection) as queries:
        dispatch("ok")
        claim(now)
    update = next(query["sql"] for query in queries if query["sql"].startswith("UPDATE workflow_execution"))
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {'QUERY PLAN' if connection.vendor == 'sqlite' else ''} {update}")
        plan = "\n".join(str(row) for row in cursor.fetchall())
    assert "execution_open" in plan or connection.vendor == "postgresql"


def test_what_a_dead_host_left_is_taken_over_with_a_higher_fence(now: datetime) -> None:
    execution = dispatch()
    claim(now, host="dead")
    assert claim(now + timedelta(seconds=5)) == []
    [taken] = claim(now + LATER, host="alive")
    assert (taken.id, taken.runs, taken.fence) == (execution.id, 2, 2)
    execution.refresh_from_db()
    assert execution.host == "alive"


def test_after_three_dead_hosts_nobody_tries_again(now: datetime) -> None:
    execution = dispatch()
    for run in range(3):
        assert len(claim(now + run * LATER)) == 1
    assert claim(now + 3 * LATER) == []
    NovaState.objects.update(due_at=now + timedelta(hours=1))
    ledger.tend([], now=now + 3 * LATER)
    execution.refresh_from_db()
    assert (execution.status, execution.retryable, execution.runs) == ("abandoned", False, 3)
    assert "died 3 times" in execution.error
    assert execution.needs is not None
    assert execution.needs["owner"] == "operator"
    assert execution.finished_at == now + 3 * LATER
    assert NovaState.objects.get().due_at == now + 3 * LATER


def test_an_end_is_written_and_makes_the_nova_due(now: datetime) -> None:
    execution = dispatch()
    NovaState.objects.update(due_at=now + timedelta(hours=1))
    [claimed] = claim(now)
    end = ledger.succeeded(claimed, Result("text", {"n": 1}, findings=["f"], needs={"owner": "o", "action": "a"}), now=now)
    ledger.turn("here", [end], Room(0, 0), now=now)
    execution.refresh_from_db()
    assert (execution.status, execution.results, execution.progress) == ("succeeded", "text", 100)
    assert execution.metrics == {"n": 1, "findings": ["f"]}
    assert execution.needs == {"owner": "o", "action": "a"}
    assert (execution.finished_at, execution.lease_until) == (now, None)
    assert NovaState.objects.get().due_at == now


def test_a_lost_fence_changes_nothing(now: datetime) -> None:
    execution = dispatch()
    [late] = claim(now, host="late")
    [current] = claim(now + LATER, host="current")
    NovaState.objects.update(due_at=now + timedelta(hours=1))
    ledger.turn("late", [success(late, now, "from the late one")], Room(0, 0), now=now + LATER)
    execution.refresh_from_db()
    assert (execution.status, execution.results, execution.host) == ("running", "", "current")
    assert NovaState.objects.get().due_at == now + timedelta(hours=1)
    ledger.turn("current", [success(current, now)], Room(0, 0), now=now + LATER)
    execution.refresh_from_db()
    assert (execution.status, execution.results) == ("succeeded", "done")


def test_the_end_of_a_cancelled_execution_changes_nothing(now: datetime) -> None:
    execution = dispatch()
    [claimed] = claim(now)
    Execution.objects.update(status="cancelled", finished_at=now)
    ledger.turn("here", [success(claimed, now)], Room(0, 0), now=now)
    execution.refresh_from_db()
    assert (execution.status, execution.results) == ("cancelled", "")


def test_an_execution_that_ends_just_after_it_was_cancelled_is_let_go_by_its_own_host_only(now: datetime) -> None:
    dispatch("ok")
    (mine,) = claim(now)
    Execution.objects.update(status=Execution.Status.CANCELLED, finished_at=now)
    ledger.turn("here", [success(mine, now)], Room(0, 0), now=now)
    row = Execution.objects.get()
    assert (row.status, row.lease_until) == ("cancelled", None)  # so a halt need not wait for the lease
    Execution.objects.update(fence=9, lease_until=now + timedelta(seconds=6))  # another host had it by then
    ledger.turn("here", [success(mine, now)], Room(0, 0), now=now)
    assert Execution.objects.get().lease_until == now + timedelta(seconds=6)


def test_tending_renews_leases_keeps_progress_and_tells_what_is_lost(now: datetime) -> None:
    dispatch()
    dispatch()
    dispatch()
    mine, cancelled, taken = claim(now)
    Execution.objects.filter(pk=cancelled.id).update(status="cancelled", finished_at=now)
    Execution.objects.filter(pk=taken.id).update(fence=9)
    news = Kept("half of it", {"pages": 2})
    held = [Held(mine, 30, news), Held(cancelled, 0, news), Held(taken)]
    lost = ledger.tend(held, now=now + timedelta(seconds=4))
    assert lost == {cancelled.id: "cancelled", taken.id: "running"}
    row = Execution.objects.get(pk=mine.id)
    assert (row.progress, row.lease_until) == (30, now + timedelta(seconds=10))
    assert (row.results, row.metrics) == ("half of it", {"pages": 2})
    assert Execution.objects.get(pk=cancelled.id).results == ""
    ledger.tend([Held(mine, 40)], now=now + timedelta(seconds=5))
    assert Execution.objects.get(pk=mine.id).results == "half of it"  # no news is no change
    assert Execution.objects.get(pk=taken.id).lease_until == now + timedelta(seconds=6)


def test_a_failure_keeps_what_there_was_and_says_when_to_try_again(now: datetime) -> None:
    dispatch()
    [claimed] = claim(now)
    error = ExecutionFailed("not now", retry_after=timedelta(minutes=2))
    end = ledger.failed(claimed, error, now=now, kept=Kept("half of it", {"odd": object(), "pages": 2}))
    ledger.turn("here", [end], Room(0, 0), now=now)
    row = Execution.objects.get()
    assert (row.status, row.error, row.retryable) == ("failed", "not now", True)
    assert (row.not_before, row.results, row.metrics) == (now + timedelta(minutes=2), "half of it", {})


def test_what_is_handed_back_is_open_to_any_host_at_once(now: datetime) -> None:
    dispatch()
    ledger.hand_back(claim(now))
    [again] = claim(now, host="other")
    assert (again.runs, again.fence) == (2, 2)


def test_texts_that_no_database_takes_are_made_keepable(now: datetime) -> None:
    dispatch()
    [claimed] = claim(now)
    end = ledger.succeeded(claimed, Result("a\x00b\ud800c" + "x" * 100_000, {"odd": float("nan")}), now=now)
    ledger.turn("here", [end], Room(0, 0), now=now)
    row = Execution.objects.get()
    assert row.results.startswith("a\ufffdb?c")
    assert len(row.results) == ledger.TEXT_LIMIT
    assert row.metrics == {"odd": None}


@pytest.mark.parametrize("metrics", [{"thing": object()}, {"big": 2**70}, {"long": "x" * 70_000}, {"half": "\ud800"}])
def test_metrics_that_can_not_be_kept_fail_the_execution_and_say_so(now: datetime, metrics: dict[str, object]) -> None:
    dispatch()
    [claimed] = claim(now)
    end = ledger.succeeded(claimed, Result("fine", metrics), now=now)
    assert (end.status, end.retryable) == (Execution.Status.FAILED, False)
    assert "metrics" in end.error


def queries_of_a_turn(count: int, now: datetime) -> int:
    nova_ids = factories.make_novas(count, prefix=f"n{count}")
    for nova_id in nova_ids:
        dispatch("echo", executor="builtin", nova_id=nova_id)
    ends = [success(execution, now) for execution in claim(now)]
    assert len(ends) == count
    for nova_id in nova_ids:
        dispatch("ok", nova_id=nova_id)
    with CaptureQueriesContext(connection) as queries:
        taken = ledger.turn("here", ends, Room(256, 256, ECHO), now=now)
    assert len(taken) == count
    Execution.objects.all().delete()
    return len(queries)


def test_a_turn_costs_the_same_queries_for_1_50_and_128_executions(now: datetime) -> None:
    counts = [queries_of_a_turn(count, now) for count in (1, 50, 128)]
    assert counts == [counts[0]] * 3
    assert counts[0] <= 6  # savepoint, ends, due, claim, tasks, release: inside a test the transaction is a savepoint


def test_an_idle_turn_takes_no_writers_turn(now: datetime) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert claim(now) == []
    assert [query["sql"].split()[0] for query in queries] == ["SELECT"]
