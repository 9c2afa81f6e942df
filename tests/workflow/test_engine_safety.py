"""The engine and its judges: each fact is observed in earnest, and what can't be judged stops one Nova, not a batch."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from safety.core.mechanisms import MECHANISMS
from safety.core.status import SafetyStatus
from safety.models import AuditEntry, FleetFact, Observation, SafetyIncident, SafetyPolicy, SafetyState
from tests import factories
from tests.factories import make_nova, make_policy, make_safety_state, make_task
from tests.workflow.driving import Driver, silence_momentum, state_of
from workflow import halts, services, waking
from workflow.models import Execution, NovaState, Task
from workflow.safety_checks import check_safety
from workflow.streams.intake import Intake
from workflow.streams.reader import Reader

pytestmark = pytest.mark.django_db

ECHO = {"executor": "builtin", "action": "echo"}
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def driver():
    silence_momentum()
    return Driver()


def verdict_of(nova_id: str = "torch") -> SafetyState:
    return SafetyState.objects.get(nova_id=nova_id)


def pause_for(driver: Driver, length: timedelta, *, mechanism: str = "meditation") -> None:
    """Let a safety mechanism pause torch for so long, with looks in between; then let it go on."""
    until = driver.now + length
    make_safety_state("torch", **{f"{mechanism}_until": until})
    waking.mark_due(["torch"], now=driver.now)
    driver.run()
    assert state_of().current_state == "safety_pause"
    while driver.now < until:
        driver.now = min(max(driver.now + SECOND, state_of().due_at), until)
        driver.run()


# -- what can't be judged


@pytest.mark.parametrize(
    ("table", "column", "slug"),
    [("safety_safetypolicy", "policy_id", "own"), ("workflow_personality", "personality_id", "odd")],
    ids=["policy", "personality"],
)
def test_a_nova_whose_limits_or_personality_are_gone_waits_and_says_why_and_the_others_go_on(driver, table, column, slug):
    make_nova("torch", policy="own", personality="odd")
    make_nova("echo")
    for nova_id in ("torch", "echo"):
        make_task(assignee=nova_id, **ECHO)
    with connection.cursor() as cursor:  # somebody who goes past us: the database's own check comes at the end
        cursor.execute(f"SELECT * FROM {table} WHERE slug = %s", [slug])
        row, names = cursor.fetchone(), ", ".join(f'"{field[0]}"' for field in cursor.description)
        cursor.execute(f"DELETE FROM {table} WHERE slug = %s", [slug])
    driver.run()
    assert dict(Execution.objects.values_list("nova_id", "status")) == {"echo": "dispatched"}
    assert state_of().current_state == "safety_pause"
    verdict = verdict_of()
    assert (verdict.is_safe, verdict.mechanism) == (False, "configuration")
    assert f"{slug} can't be found, so nothing may run" in verdict.reason
    assert SafetyIncident.objects.get(nova_id="torch", ended_at=None).mechanism == "configuration"
    assert AuditEntry.objects.get(action="safety.nova.unsafe").nova_id == "torch"
    assert not check_safety(["torch"], now=driver.now)["torch"].status.is_safe
    with pytest.raises(halts.NovaStopped, match="can't be found"):
        halts.demand_may_act("torch")

    with connection.cursor() as cursor:
        marks = ", ".join(["%s"] * len(row))
        cursor.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", row)
    driver.now += 10 * SECOND
    driver.run()
    assert Execution.objects.filter(nova="torch", status="dispatched").exists()
    assert verdict_of().is_safe
    assert not SafetyIncident.objects.filter(ended_at=None).exists()


@pytest.mark.parametrize("broken", MECHANISMS, ids=lambda mechanism: mechanism.name)
def test_a_judge_that_raises_pauses_whom_it_can_not_judge_and_is_named(driver, broken, monkeypatch):
    make_nova("torch")
    make_nova("echo")
    for nova_id in ("torch", "echo"):
        make_task(assignee=nova_id, **ECHO)
    judge = type(broken).check_safety_status

    def fail_on_torch(self: Any, facts: Any, rules: Any, now: Any) -> SafetyStatus:
        if facts.nova_id == "torch":
            raise ArithmeticError("of its own")
        return judge(self, facts, rules, now)

    monkeypatch.setattr(type(broken), "check_safety_status", fail_on_torch)
    driver.run()
    assert dict(Execution.objects.values_list("nova_id", "status")) == {"echo": "dispatched"}
    verdict = verdict_of()
    assert (verdict.is_safe, verdict.mechanism) == (False, broken.name)
    assert verdict.reason == "The judge failed (ArithmeticError: of its own), so nothing may run."
    monkeypatch.undo()
    driver.now += 10 * SECOND
    driver.run()
    assert verdict_of().is_safe
    assert Execution.objects.filter(nova="torch", status="dispatched").exists()


def test_nothing_may_begin_while_the_stream_server_is_away_although_nobody_was_judged_yet(now):
    make_nova()
    factories.make_healthy_fleet()
    halts.demand_may_act("torch")
    FleetFact.objects.filter(name="stream_reachable").update(value=False)
    with pytest.raises(halts.NovaStopped, match="stream server can't be reached") as refused:
        halts.demand_may_act("torch")
    assert refused.value.mechanism == "stream_monitor"


# -- the pace of cycles


def test_a_nova_that_runs_in_circles_is_cooled_down(driver):
    make_policy("standard", empty_cycles_per_minute=100)
    make_nova()
    driver.run()
    cycles = 0
    while not SafetyState.objects.filter(is_safe=False).exists():
        driver.now += timedelta(seconds=0.1)
        waking.mark_due(["torch"], now=driver.now)
        cycles += driver.step().steps
        assert cycles < 125
    assert cycles > 100  # what is told once a second comes to the judge a little later
    verdict = verdict_of()
    assert (verdict.is_safe, verdict.mechanism, verdict.limit) == (False, "frosty", 100)
    assert "the Nova runs in circles" in verdict.reason
    driver.now = verdict.until
    driver.run()
    assert verdict_of().is_safe


def test_a_nova_that_keeps_its_pace_or_works_is_not_said_to_run_in_circles(driver):
    make_nova()
    driver.run()
    for _ in range(20):
        driver.now = state_of().due_at
        driver.run()
    for number in range(20):
        task = make_task(f"Task {number}", assignee="torch", now=driver.now, **ECHO)
        waking.mark_due(["torch"], now=driver.now)
        driver.begin()
        driver.end(task, seconds=0.5)
        driver.run()
    assert not Observation.objects.filter(kind="empty_cycle").exists()


# -- other facts


def test_waking_itself_over_its_stream_again_and_again_cools_a_nova_down(driver, stream):
    factories.make_installation()
    make_nova()
    make_nova("echo")
    reader = Reader(stream)
    reader.refresh()
    for number in range(11):
        for sender in ("torch", "echo"):
            note = ("type", "heartbeat", "message", f"and {number}", "sender", sender)
            stream.call("XADD", f"nova.coordination.{sender}", "*", *note)
    stream.call("XADD", "nova.coordination.echo", "*", "type", "heartbeat", "message", "wake up", "sender", "torch")
    replies = reader.wait(0) + reader.sweep()
    Intake(reader.streams, "testhouse").accept(replies, None, now=driver.now, seconds=6)
    SafetyPolicy.objects.filter(slug="standard").update(own_wakes_per_hour=11)
    driver.step()
    assert not SafetyState.objects.filter(is_safe=False).exists()
    SafetyPolicy.objects.filter(slug="standard").update(own_wakes_per_hour=10)
    driver.now += SECOND
    waking.mark_all_due(now=driver.now)
    driver.step()
    assert "woke itself 11 times" in verdict_of("torch").reason
    assert "woke itself 11 times" in verdict_of("echo").reason


def test_executions_that_fail_raise_the_share_that_the_stress_score_looks_at(driver):
    make_nova()
    task = make_task(assignee="torch", max_attempts=9, **ECHO)
    shares = []
    for status in ("failed", "failed", "failed", "succeeded"):
        driver.begin()
        driver.end(task, status=status, error="" if status == "succeeded" else "Boom.")
        driver.step()
        shares.append(state_of().error_ratio)
        Task.objects.update(not_before=None)
        waking.mark_due(["torch"], now=driver.now)
    assert shares == pytest.approx([0.2, 0.36, 0.488, 0.3904])
    claimed = driver.engine.claim(driver.now)
    batch = driver.engine.gather(claimed, driver.now, driver.fleet)
    assert batch.facts["torch"].error_ratio == pytest.approx(0.3904)


# -- clocks in a safety pause


def test_a_safety_pause_freezes_the_completion_routine_which_goes_on_with_what_it_had_left(driver):
    make_nova()
    make_task(assignee="torch", **ECHO)
    driver.begin()
    driver.end()
    driver.run()
    before = state_of()
    assert (before.current_state, before.completion_stage) == ("completion_routine", "celebration")
    assert before.completion_until is not None
    assert before.completion_stage_until is not None
    driver.now += 5 * SECOND
    pause_for(driver, HOUR)
    after = state_of()
    assert (after.current_state, after.completion_stage) == ("completion_routine", "celebration")
    assert after.completion_until == before.completion_until + HOUR
    assert after.completion_stage_until == before.completion_stage_until + HOUR
    assert not AuditEntry.objects.filter(action="safety.nova.unsafe", reason__contains="celebrated").exists()


def test_a_celebration_whose_end_comes_late_for_the_loops_sake_is_not_drift(driver):
    make_nova()
    make_task(assignee="torch", **ECHO)
    driver.begin()
    driver.end()
    driver.run()
    assert state_of().completion_stage == "celebration"
    driver.now += 4 * MINUTE  # nobody stepped it meanwhile
    factories.make_healthy_fleet(now=driver.now)
    assert check_safety(["torch"], now=driver.now)["torch"].status.is_safe
    driver.run()
    assert state_of().completion_stage == ""
    assert not AuditEntry.objects.filter(action="safety.nova.unsafe").exists()


def test_a_safety_pause_freezes_the_leases_of_agents_and_never_what_caused_it(driver):
    make_nova()
    lease = driver.now + 40 * SECOND
    held = make_task("held", assignee="torch", status="in_progress", executor="agent", reserved_until=lease)
    gone = make_task("gone", assignee="torch", status="in_progress", executor="agent", reserved_until=driver.now - SECOND)
    driver.run()
    begun = driver.now
    pause_for(driver, HOUR)
    held.refresh_from_db()
    gone.refresh_from_db()
    assert held.reserved_until == lease + HOUR
    assert gone.reserved_until == begun - SECOND  # it had expired before
    assert state_of().current_state != "safety_pause"
    assert driver.now == begun + HOUR


def test_an_operators_pause_within_a_safety_pause_freezes_each_instant_once(driver):
    deadline = driver.now + 50 * SECOND
    make_nova(
        state={
            "current_state": "completion_routine", "completion_stage": "celebration", "completion_stage_until": deadline,
            "completion_until": deadline, "last_completion_celebration": driver.now, "total_cycles_completed": 3,
        }
    )  # fmt: skip
    make_safety_state("torch", meditation_until=driver.now + 10 * MINUTE)
    driver.run()
    driver.now += 5 * MINUTE
    services.pause_nova("torch", reason="a look", now=driver.now)
    driver.now += 2 * HOUR
    services.resume_nova("torch", reason="over", now=driver.now)
    assert verdict_of().meditation_until == driver.now + 5 * MINUTE
    driver.now += 5 * MINUTE
    driver.run()
    NovaState.objects.update(due_at=driver.now)
    driver.run()
    assert state_of().current_state == "completion_routine"
    assert state_of().completion_until == deadline + 10 * MINUTE + 2 * HOUR


def test_who_was_not_allowed_to_work_has_not_drifted(driver):
    make_nova()
    driver.run()
    make_task(assignee="torch", **ECHO)
    make_safety_state("torch", quarantine_until=driver.now + 2 * HOUR, quarantine_reason="It restarted itself.")
    waking.mark_due(["torch"], now=driver.now)
    end = driver.now + 2 * HOUR
    while driver.now < end:
        driver.run()
        driver.now = min(state_of().due_at, end)
    driver.run()
    assert Execution.objects.filter(status="dispatched").exists()
    mechanisms = AuditEntry.objects.filter(action="safety.nova.unsafe").values_list("after__mechanism", flat=True)
    assert list(mechanisms) == ["hook_health"]


def test_a_nova_that_leaves_claimable_work_lying_drifts(driver):
    make_nova(tasks_per_phase=1, personal_phase_after=1, personal_phase_minutes=90.0)
    make_task("Plant roses", **ECHO)
    driver.begin()
    driver.end()
    driver.run_until(lambda: state_of().current_phase == "personal_phase")
    begun = driver.now
    make_task("Not now", assignee="torch", now=begun, **ECHO)
    while not SafetyState.objects.filter(is_safe=False).exists():
        driver.now = state_of().due_at
        driver.run()
        assert driver.now < begun + HOUR
    assert driver.now > begun + 30 * MINUTE
    verdict = verdict_of()
    assert (verdict.mechanism, verdict.limit) == ("frosty", 1800)
    assert "There is work to claim, but no task changed for" in verdict.reason
