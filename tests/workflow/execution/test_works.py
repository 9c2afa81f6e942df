"""Each builtin work finds the fault it looks for, names it, and finds nothing on a healthy fleet."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from safety import audit, triggers
from safety.audit import Entry
from safety.models import AuditEntry, JournalHead, OutboxEntry, SafetyPolicy
from safety.stream_client import StreamClient
from tests import factories
from tests.conftest import StreamServer
from tests.workflow.execution.conftest import dispatch, run_all
from workflow.carrying import NOVA_MOVED
from workflow.execution.builtin import MOMENTUM_ACTIONS, WORKS
from workflow.execution.registry import ExecutionContext, Result
from workflow.execution.works import figures
from workflow.execution.works.workflow_review import MOVED
from workflow.models import Execution, Nova, NovaState, StreamCursor, Task, TaskDependency

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
Run = Callable[..., Result]


@pytest.fixture
def run(now: datetime) -> Run:
    def run_work(action: str, *, scope: str = "", at: datetime = now) -> Result:
        context = ExecutionContext(1, "TORCH-1-000001", action, "", {"scope": scope}, "torch", "builtin", action, 1, 1, at)
        result = WORKS[action](context)
        for finding in result.findings or ():
            assert f"[{finding}]" in result.results  # what was found is told in words, too
        return result

    return run_work


def found(result: Result) -> list[str]:
    return list(result.findings or ())


def journal(*entries: Entry, at: datetime) -> list[int]:
    with transaction.atomic():
        return audit.record(entries, now=at, announce=False)


def executed(count: int, *, task: Task, now: datetime, **fields: Any) -> None:
    for attempt in range(1, count + 1):
        fields.setdefault("started_at", now - timedelta(seconds=4))
        fields.setdefault("finished_at", now)
        factories.make_execution(task, **({"attempt": attempt} | fields))


# -- all of them


@pytest.mark.parametrize("action", MOMENTUM_ACTIONS)
def test_on_a_new_fleet_a_work_finds_nothing(run: Run, fleet: list[str], stream: StreamClient, action: str) -> None:
    SafetyPolicy.objects.update(description="the spec's numbers")
    result = run(action)
    assert found(result) == []
    assert "nothing that needs correcting" in result.results
    assert result.metrics["finding_count"] == 0


@pytest.mark.django_db(transaction=True)
def test_every_work_runs_in_a_host_and_tells_its_findings(stream: StreamClient) -> None:
    executions = [dispatch(action, executor="builtin") for action in MOMENTUM_ACTIONS]
    run_all()
    for execution in executions:
        execution.refresh_from_db()
        assert (execution.status, execution.error) == ("succeeded", "")
        assert isinstance(execution.metrics["findings"], list)
        assert execution.results


@pytest.mark.parametrize("action", MOMENTUM_ACTIONS)
def test_a_work_looks_at_its_own_team_only(run: Run, now: datetime, stream: StreamClient, action: str) -> None:
    plant_everything(now)
    Nova.objects.update(team="red")
    factories.make_nova("lonely", team="blue", policy="calm", state={"last_completion_celebration": now})
    SafetyPolicy.objects.filter(slug="calm").update(description="as standard")
    Task.objects.update(team="red")
    assert found(run(action, scope="red")) != []
    assert found(run(action, scope="blue")) == []


@pytest.mark.parametrize("action", MOMENTUM_ACTIONS)
def test_a_work_costs_the_same_queries_however_much_there_is(
    run: Run, now: datetime, stream: StreamClient, action: str
) -> None:
    plant_everything(now)
    counts = []
    for size in (10, 60):
        for nova_id in factories.make_novas(size, prefix=f"n{size}"):
            task = factories.make_task(f"Count to {nova_id}", assignee=nova_id, status="completed", action="count")
            factories.make_execution(task, status="succeeded", started_at=now, finished_at=now)
        with CaptureQueriesContext(connection) as queries:
            run(action)
        counts.append(len(queries))
    assert counts[0] == counts[1]


def plant_everything(now: datetime) -> None:
    """Give every work something to find, all of it with the Nova `torch`."""
    policy = factories.make_policy("loose", requests_per_minute=99)
    factories.make_nova(
        "torch",
        policy=policy.slug,
        state={
            "current_state": "error_recovery",
            "consecutive_errors": 4,
            "session_start_time": now - 2 * DAY,
            "due_at": now - HOUR,
        },
    )
    for _ in range(3):
        factories.make_task(assignee="torch", status="blocked", block_action="connect a model or an agent to torch")
    factories.make_task(executor="nonesuch")
    at = now - timedelta(minutes=5)
    journal(Entry("test.said", "torch", stream="nova.status.torch", message={"a": "b"}), at=at)
    OutboxEntry.objects.all().delete()


# -- review_workflow


def test_the_workflow_review_knows_the_engines_word_for_a_move() -> None:
    assert MOVED == NOVA_MOVED


def test_the_time_in_each_state_is_measured_from_the_journal(run: Run, now: datetime) -> None:
    factories.make_nova("torch")
    steps = [("task_execution", 0), ("work_discovery", 30), ("task_execution", 35), ("work_discovery", 75)]
    for state, seconds in steps:
        entry = Entry(MOVED, "torch", after={"path": ["stream_check", state]})
        journal(entry, at=now + timedelta(seconds=seconds))
    result = run("review_workflow")
    assert result.metrics["slowest_state"] == "task_execution"
    assert result.metrics["seconds_in_state_p90"] == {"task_execution": 40.0, "work_discovery": 5.0}
    assert "task_execution: 2 times" in result.results


def test_a_nova_stuck_in_a_state_is_named(run: Run, now: datetime) -> None:
    factories.make_nova("torch", state={"current_state": "task_execution", "state_entered_at": now - 2 * HOUR})
    factories.make_nova("echo", state={"current_state": "task_execution", "state_entered_at": now - timedelta(minutes=9)})
    result = run("review_workflow")
    assert found(result) == ["stuck: torch in task_execution"]
    assert "torch has stood in task_execution for 2.0 h" in result.results


def test_a_nova_that_nobody_steps_is_named(run: Run, now: datetime) -> None:
    factories.make_nova("torch", state={"due_at": now - timedelta(minutes=5)})
    factories.make_nova("paused", state={"due_at": now - HOUR, "mode": "paused"})
    assert found(run("review_workflow")) == ["not stepped: torch"]


def test_a_nova_that_recovers_from_errors_is_named(run: Run) -> None:
    factories.make_nova(
        "torch", state={"current_state": "error_recovery", "consecutive_errors": 2, "last_error": "KeyError: 'x'"}
    )
    result = run("review_workflow")
    assert found(result) == ["recovering: torch"]
    assert "KeyError" in result.results


def test_an_action_that_keeps_failing_is_named(run: Run, now: datetime) -> None:
    factories.make_nova("torch")
    task = factories.make_task(assignee="torch", status="in_progress", action="break_things", executor="builtin")
    executed(3, task=task, now=now, status="failed")
    fine = factories.make_task(assignee="torch", status="in_progress", action="echo", executor="builtin")
    executed(5, task=fine, now=now, status="succeeded")
    result = run("review_workflow")
    assert found(result) == ["failing action: builtin/break_things"]
    assert result.metrics["executions_failed"] == 3


# -- update_documentation


def test_insights_become_a_handbook_by_action(run: Run, now: datetime) -> None:
    factories.make_nova("torch")
    for _ in range(2):
        insights = {"lessons_learned": "Ask for the key first.", "future_applications": "Other audits."}
        factories.make_task(assignee="torch", status="completed", executor="model", action="audit", insights=insights)
    private = {"lessons_learned": "My private thought."}
    factories.make_task(assignee="torch", status="completed", action="reflect", insights=private, personal=True)
    result = run("update_documentation")
    assert "model/audit: 2 done" in result.results
    assert "lessons learned: Ask for the key first. (2 times)" in result.results
    assert "private" not in result.results
    assert result.metrics["tasks_with_insights"] == 2


def test_an_action_with_many_tasks_and_no_insight_is_named(run: Run) -> None:
    factories.make_nova("torch", policy="told")
    SafetyPolicy.objects.update(description="described")
    for _ in range(5):
        factories.make_task(assignee="torch", status="completed", executor="builtin", action="echo")
    assert found(run("update_documentation")) == ["no insights: builtin/echo"]


def test_what_nobody_described_is_named(run: Run) -> None:
    factories.make_policy("bare")
    factories.make_nova("torch", name="torch")
    factories.make_objective("Keep the docs true")
    assert found(run("update_documentation")) == [
        "undescribed Nova: torch",
        "undescribed objective: Keep the docs true",
        "undescribed policy: bare",
        "undescribed policy: standard",
    ]


# -- analyze_streams


def test_a_dead_stream_is_named(run: Run, stream: StreamClient, now: datetime) -> None:
    factories.make_nova("torch")
    for kind in ("todo", "completed"):
        journal(
            Entry("test.said", "torch", stream=f"nova.tasks.torch.{kind}", message={"a": "b"}),
            at=now - 2 * timedelta(minutes=1),
        )
    OutboxEntry.objects.all().delete()  # the relay says that it has published both
    milliseconds = int(now.timestamp() * 1000)
    stream.call("XADD", "nova.tasks.torch.todo", f"{milliseconds}-0", "task_id", "x")
    result = run("analyze_streams")
    assert found(result) == ["dead stream: nova.tasks.torch.completed"]
    assert "nova.tasks.torch.todo: 1 entries" in result.results


def test_what_still_waits_in_the_outbox_makes_no_stream_dead_but_an_old_outbox_is_named(
    run: Run, stream: StreamClient, now: datetime
) -> None:
    factories.make_nova("torch")
    journal(Entry("test.said", "torch", stream="nova.status.torch", message={"a": "b"}), at=now - timedelta(minutes=2))
    result = run("analyze_streams")
    assert found(result) == ["outbox stuck"]
    assert result.metrics["outbox_age_seconds"] == 120.0


def test_a_lagging_cursor_is_named(run: Run, stream: StreamClient, now: datetime) -> None:
    milliseconds = int((now - timedelta(minutes=3)).timestamp() * 1000)
    StreamCursor.objects.create(stream="nova.work.queue", last_id=f"{milliseconds - 5}-3", updated_at=now)
    StreamCursor.objects.create(stream="nova.priority.alerts", last_id=f"{milliseconds}-0", updated_at=now)
    for name in ("nova.work.queue", "nova.priority.alerts"):
        stream.call("XADD", name, f"{milliseconds}-0", "title", "x")
    result = run("analyze_streams")
    assert found(result) == ["lagging cursor: nova.work.queue"]
    assert result.metrics["intake_lag_seconds"] == 180.0


def test_refused_messages_are_counted_by_reason_and_sender(run: Run, stream: StreamClient, now: datetime) -> None:
    for number in range(3):
        factories.make_inbox_message(
            kind="work_item",
            stream="nova.work.queue",
            status="rejected",
            sender="cron-7",
            reason=f"The field 'title' has {number + 600} characters.",
        )
    factories.make_inbox_message(
        kind="work_item", stream="nova.work.queue", status="rejected", reason="No title.", now=now - 2 * DAY
    )
    result = run("analyze_streams")
    assert found(result) == ["refused often: The field '…' has # characters.", "sender refused often: cron-7"]
    assert result.metrics["refused_day"] == 3


def test_messages_a_nova_does_not_hear_are_named(run: Run, stream: StreamClient, now: datetime) -> None:
    factories.make_inbox_message(nova_id="torch", now=now - HOUR)
    assert found(run("analyze_streams")) == ["unheard: torch"]


def test_a_stream_server_that_is_away_is_reported_with_the_rest(run: Run, now: datetime, stream_server: StreamServer) -> None:
    stream_server.stop()
    factories.make_inbox_message(nova_id="torch", now=now - HOUR)
    assert found(run("analyze_streams")) == ["stream server away", "unheard: torch"]


# -- validate_safety


def test_a_policy_weaker_than_standard_is_named(run: Run) -> None:
    factories.make_policy("strict")
    factories.make_policy("loose", requests_per_minute=31, cooldown=5.0, quarantine=7200.0)
    assert found(run("validate_safety")) == ["weaker policy: loose.cooldown", "weaker policy: loose.requests_per_minute"]


def test_verdicts_that_nobody_keeps_current_are_named(run: Run, now: datetime) -> None:
    factories.make_nova("torch", state={"session_start_time": now - HOUR, "total_cycles_completed": 9})
    factories.make_nova("echo")
    factories.make_safety_state("echo", is_safe=False, mechanism="frosty_cooldown", until=now - timedelta(minutes=5))
    factories.make_nova("helix")
    factories.make_safety_state("helix", is_safe=False, mechanism="frosty_cooldown", until=now + timedelta(minutes=5))
    assert found(run("validate_safety")) == ["no verdict: torch", "stale verdict: echo"]


def test_missing_triggers_are_named(run: Run) -> None:
    triggers.remove()
    try:
        findings = found(run("validate_safety"))
    finally:
        triggers.install()
    assert findings
    assert all(finding.startswith("missing trigger: safety_audit") for finding in findings)


def test_a_gap_in_a_novas_journal_is_named(run: Run, now: datetime) -> None:
    journal(*(Entry("test.said", "torch") for _ in range(3)), at=now)
    JournalHead.objects.filter(nova_id="torch").update(seq=5)  # as if two entries had been taken out
    journal(Entry("test.said", "torch"), Entry("test.said", "echo"), at=now)
    JournalHead.objects.filter(nova_id="echo").update(seq=4)  # and the newest three here
    result = run("validate_safety")
    assert found(result) == ["journal gap: torch", "journal tail missing: echo"]
    assert "2 entries of torch are missing between 1 and 6" in result.results


def test_an_outbox_pointer_to_a_missing_entry_is_named(run: Run, now: datetime) -> None:
    [entry_id] = journal(Entry("test.said", "torch", stream="nova.status.torch", message={"a": "b"}), at=now)
    assert found(run("validate_safety")) == []
    OutboxEntry.objects.create(created_at=now, entry_ids=[entry_id, entry_id + 70])
    assert found(run("validate_safety")) == ["outbox points at nothing"]


def test_hooks_that_should_speak_and_do_not_are_named(run: Run, now: datetime) -> None:
    for nova_id, heard in (("torch", now - HOUR), ("echo", now), ("helix", None)):
        factories.make_nova(nova_id)
        factories.make_safety_state(nova_id, hooks_expected=True, last_hook_heartbeat=heard)
    assert found(run("validate_safety")) == ["silent hooks: helix", "silent hooks: torch"]


# -- research_patterns


def test_tasks_blocked_for_one_reason_are_named_whoever_has_them(run: Run) -> None:
    for nova_id in ("torch", "echo", "helix"):
        factories.make_nova(nova_id)
        action = f"connect a model or an agent to {nova_id}"
        factories.make_task(f"Item of {nova_id}", assignee=nova_id, status="blocked", block_action=action)
    assert found(run("research_patterns")) == ["blocked often: operator to connect a model or an agent to …"]


def test_an_action_retried_often_and_one_that_kills_hosts_are_named(run: Run, now: datetime) -> None:
    factories.make_nova("torch")
    task = factories.make_task(assignee="torch", status="in_progress", executor="model", action="guess")
    executed(4, task=task, now=now, status="succeeded")
    deadly = factories.make_task(assignee="torch", status="in_progress", executor="model", action="crash")
    executed(1, task=deadly, now=now, status="succeeded", runs=2)
    assert found(run("research_patterns")) == ["hosts died in: model/crash", "retried often: model/guess"]


def test_an_hour_in_which_failures_cluster_is_named(run: Run, now: datetime) -> None:
    factories.make_nova("torch")
    for number in range(12):
        task = factories.make_task(assignee="torch", status="in_progress", action="work", executor="model")
        factories.make_execution(task, status="failed", finished_at=now - number * DAY)
    assert "failures cluster at 12:00" in found(run("research_patterns"))


def test_a_title_that_comes_again_and_again_is_named(run: Run, now: datetime) -> None:
    for title in ("Check the  backup", "check the backup", "Check The Backup", "Something else"):
        factories.make_task(title)
    for _ in range(3):
        factories.make_task("Momentum", work_type="momentum")
        factories.make_task("Long ago", created_at=now - 2 * DAY)
    assert found(run("research_patterns")) == ["repeated title: check the backup"]


def test_a_nova_that_does_little_but_momentum_work_is_named(run: Run) -> None:
    factories.make_nova("torch")
    for number in range(12):
        kind = "requested" if number == 0 else "momentum"
        factories.make_task(f"Item {number}", assignee="torch", status="completed", work_type=kind)
    result = run("research_patterns")
    assert found(result) == ["mostly momentum work: torch"]
    assert result.metrics["momentum_share"] == 0.917


# -- enhance_reporting


def test_throughput_and_durations_are_worked_out(run: Run, now: datetime) -> None:
    factories.make_nova("torch")
    for seconds in range(1, 11):
        at = now - timedelta(minutes=30)
        factories.make_task(
            f"Item {seconds}", assignee="torch", status="completed", started_at=at - timedelta(seconds=seconds), completed_at=at
        )
    result = run("enhance_reporting")
    assert (result.metrics["completed_24h"], result.metrics["completed_1h"]) == (10, 10)
    assert (result.metrics["duration_p50"], result.metrics["duration_p90"]) == (6.0, 10.0)
    assert result.metrics["completion_rate"] == 1.0


def test_estimates_off_by_more_than_twice_are_named(run: Run, now: datetime) -> None:
    factories.make_nova("torch")
    for action, took in (("slow", 100), ("right", 55), ("fast", 10)):
        for _ in range(3):
            factories.make_task(
                assignee="torch",
                status="completed",
                action=action,
                executor="model",
                estimated_duration=40.0,
                started_at=now - timedelta(seconds=took),
            )
    assert found(run("enhance_reporting")) == ["estimate too high: model/fast", "estimate too low: model/slow"]


def test_a_nova_that_completed_nothing_in_a_day_is_named(run: Run, now: datetime) -> None:
    old = {"session_start_time": now - 3 * DAY}
    factories.make_nova("torch", state=old)
    factories.make_nova("echo", state=old | {"last_completion_celebration": now - HOUR})
    factories.make_nova("helix", state=old | {"mode": "paused"})
    factories.make_nova("vaeris")  # began today
    factories.make_nova("synergy", state=old)
    factories.make_task(assignee="synergy", status="completed")
    assert found(run("enhance_reporting")) == ["nothing completed: torch"]


def test_a_nova_that_breaks_the_protocol_is_named(run: Run) -> None:
    factories.make_nova("torch", state={"protocol_checks": 100, "protocol_passes": 80})
    factories.make_nova("echo", state={"protocol_checks": 100, "protocol_passes": 99})
    result = run("enhance_reporting")
    assert found(result) == ["low compliance: torch"]
    assert result.metrics["compliance_mean"] == 0.895


def test_the_completion_rate_is_right_where_one_status_outgrows_its_window(
    run: Run, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "TASK_WINDOW", 6)
    factories.make_nova("torch")
    for number in range(24):
        status = "pending" if number % 4 == 0 else "completed"
        factories.make_task(f"Item {number}", assignee="torch", status=status, created_at=now - timedelta(minutes=number))
    assert run("enhance_reporting").metrics["completion_rate"] == pytest.approx(0.75, abs=0.05)


# -- optimize_coordination


def test_a_nova_with_far_more_than_the_others_is_named(run: Run) -> None:
    for nova_id in ("torch", "echo", "helix"):
        factories.make_nova(nova_id)
        factories.make_task(assignee=nova_id)
    for number in range(6):
        factories.make_task(f"Item {number}", assignee="torch")
    result = run("optimize_coordination")
    assert found(result) == ["overloaded: torch"]
    assert result.metrics["pending"] == 9


def test_work_that_waits_for_a_stopped_nova_or_over_a_day_is_named(run: Run, now: datetime) -> None:
    factories.make_nova("torch", state={"mode": "paused"})
    factories.make_nova("echo")
    factories.make_task(assignee="torch")
    factories.make_task(assignee="echo", created_at=now - 2 * DAY)
    assert found(run("optimize_coordination")) == ["waits for a stopped Nova: torch", "waits over a day: echo"]


def waiting_for(*others: str) -> Task:
    task = factories.make_task(f"After {', '.join(others)}", waiting_on=len(others))
    for other in others:
        TaskDependency.objects.create(task=task, depends_on=other)
    return task


def test_dependencies_that_can_not_be_met_are_named(run: Run) -> None:
    factories.make_nova("torch")
    stuck = factories.make_task(status="blocked")
    gone = factories.make_task(assignee="torch", status="completed", outcome="cancelled")
    fine = factories.make_task(assignee="torch")
    missing, blocked, cancelled = waiting_for("TORCH-1-ffffff"), waiting_for(stuck.id), waiting_for(gone.id, fine.id)
    assert found(run("optimize_coordination")) == [
        f"waits for a blocked task: {blocked.id}",
        f"waits for a cancelled task: {cancelled.id}",
        f"waits for a missing task: {missing.id}",
    ]


def test_tasks_that_wait_for_each_other_are_named_once(run: Run) -> None:
    factories.make_nova("torch")
    first, second, third = (factories.make_task(name, waiting_on=1) for name in ("a", "b", "c"))
    for task, other in ((first, second), (second, third), (third, first), (factories.make_task("d", waiting_on=1), first)):
        TaskDependency.objects.create(task=task, depends_on=other.id)
    result = run("optimize_coordination")
    assert found(result) == [f"circle: {first.id} > {second.id} > {third.id}"]
    assert result.metrics["circles"] == 1


def test_open_tasks_that_no_nova_may_run_are_named(run: Run, now: datetime) -> None:
    factories.make_nova("torch", team="red")
    factories.make_task(team="red")
    factories.make_task(executor="builtin")
    factories.make_task(executor="nonesuch")
    factories.make_task(team="green")
    factories.make_task(executor="agent", created_at=now - 2 * HOUR)
    factories.make_task(executor="agent", team="red")
    assert found(run("optimize_coordination")) == [
        "nobody may run: executor default, team green",
        "nobody may run: executor nonesuch, the fleet",
        "waits for an agent: the fleet",
    ]


def test_the_journal_is_left_as_it_was(run: Run, now: datetime, stream: StreamClient) -> None:
    plant_everything(now)
    before = (AuditEntry.objects.count(), Execution.objects.count(), NovaState.objects.count())
    for action in MOMENTUM_ACTIONS:
        run(action)
    assert (AuditEntry.objects.count(), Execution.objects.count(), NovaState.objects.count()) == before
