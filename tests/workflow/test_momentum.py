"""Momentum work through engine and ledger: enough of it to never idle, too little of it to be busywork."""

from collections import defaultdict
from datetime import timedelta

import pytest

from safety.models import AuditEntry
from tests.factories import NOW, make_installation, make_nova, make_novas, make_task
from tests.workflow.driving import Driver, silence_momentum
from workflow.core.momentum import MOMENTUM_PER_DAY, MOMENTUM_TEMPLATES
from workflow.models import Execution, MomentumLedger, NovaState, Personality, Task
from workflow.streams.intake import Intake
from workflow.streams.names import streams_of

pytestmark = pytest.mark.django_db

REVIEW = "review_workflow"


def momentum_tasks(**fields):
    return Task.objects.filter(work_type="momentum", **fields)


def live(driver: Driver, length: timedelta, findings) -> None:
    """Let hours pass in which every execution ends at once; `findings(action)` is what it found."""
    end = driver.now + length
    while driver.now < end:
        driver.run(limit=200)
        for execution in Execution.objects.filter(status="dispatched"):
            driver.end(execution.task_id, seconds=0, metrics={"findings": findings(execution.action)})
        due = NovaState.objects.runnable().earliest("due_at").due_at
        driver.now = max(driver.now, due)


def hear(driver: Driver, stream: str, nova_ids: list[str], **fields: str) -> None:
    """Let an entry come in."""
    raw = {name.encode(): value.encode() for name, value in fields.items()}
    entry_id = f"{int(driver.now.timestamp() * 1000)}-0".encode()
    Intake(streams_of(nova_ids), "testhouse").accept([(stream.encode(), [(entry_id, raw)])], None, now=driver.now, seconds=6)


@pytest.fixture
def driver():
    return Driver()


# -- how much


def test_a_nova_that_finds_nothing_makes_three_open_items_of_its_teams_and_begins_one(driver):
    make_nova(team="builders")
    driver.step()
    items = momentum_tasks(status="pending")
    assert items.count() == 3
    assert {(item.team, item.assignee_id, item.executor, item.priority) for item in items} == {
        ("builders", None, "builtin", "low")
    }
    driver.step(0.25)
    assert Execution.objects.get().action in MOMENTUM_TEMPLATES
    assert AuditEntry.objects.filter(action="workflow.task.created").count() == 3


@pytest.mark.parametrize(("waiting", "made"), [(0, 3), (1, 2), (2, 1), (3, 0), (9, 0)])
def test_momentum_work_only_fills_up_to_three_available_items(driver, waiting, made):
    make_nova()
    for number in range(waiting):
        make_task(f"Asked for {number}", executor="builtin", action="echo")
    driver.step()
    assert momentum_tasks().count() == made


def test_work_that_was_asked_for_comes_before_momentum_work(driver):
    make_nova()
    driver.step()
    asked = make_task("Asked for", executor="builtin", action="echo", now=driver.now)
    driver.step(0.25)
    assert Execution.objects.get().task_id == asked.id


def test_a_nova_without_the_builtin_executor_makes_no_momentum_work(driver):
    make_nova(allowed_executors=["agent"], default_executor="agent")
    driver.run()
    assert not momentum_tasks().exists()


def test_each_team_has_its_own_turns(driver):
    make_nova("echo", team="builders")
    make_nova("helix", team="watch")
    driver.step()
    assert momentum_tasks(team="builders").count() == momentum_tasks(team="watch").count() == 3


def test_a_busy_nova_makes_none(driver):
    make_nova()
    make_task(assignee="torch", executor="builtin", action="echo")
    driver.begin()
    momentum_tasks().delete()
    MomentumLedger.objects.all().delete()
    driver.run_until(lambda: driver.now > NOW + timedelta(minutes=1))
    assert not momentum_tasks().exists()


# -- how often


def test_a_template_comes_at_most_once_an_hour_in_a_scope(driver):
    make_nova()
    Personality.objects.update(base_cycle_time=300.0)
    live(driver, timedelta(hours=3), lambda action: [f"something new at {driver.now}"])
    turns = defaultdict(list)
    for action, created_at in momentum_tasks().order_by("created_at").values_list("action", "created_at"):
        turns[action].append(created_at)
    assert set(turns) == set(MOMENTUM_TEMPLATES)
    gaps = [later - earlier for at in turns.values() for earlier, later in zip(at, at[1:], strict=False)]
    assert gaps
    assert min(gaps) >= timedelta(hours=1)


def test_a_nova_runs_a_template_at_most_four_times_a_day(driver):
    for nova_id in ("echo", "helix"):
        make_nova(nova_id)
    Personality.objects.update(base_cycle_time=1800.0)
    driver.now = NOW.replace(hour=0)
    NovaState.objects.update(due_at=driver.now, state_entered_at=driver.now, cycle_started_at=driver.now)
    live(driver, timedelta(hours=23), lambda action: [f"something new at {driver.now}"])
    runs: defaultdict[tuple[str | None, str], int] = defaultdict(int)
    for assignee, action in momentum_tasks(outcome="succeeded").values_list("assignee_id", "action"):
        runs[assignee, action] += 1
    assert max(runs.values()) == MOMENTUM_PER_DAY
    assert sum(runs.values()) > 20


def test_a_nova_that_has_run_a_template_often_enough_leaves_it_to_another(driver):
    silence_momentum()
    make_nova("echo")
    for _ in range(MOMENTUM_PER_DAY):
        make_task(assignee="echo", status="completed", work_type="momentum", executor="builtin", action=REVIEW)
    again = make_task("Again", work_type="momentum", executor="builtin", action=REVIEW)
    driver.run()
    again.refresh_from_db()
    assert (again.status, again.assignee_id, again.reserved_by) == ("pending", None, "")
    make_nova("helix")
    driver.run()
    again.refresh_from_db()
    assert again.assignee_id == "helix"


def test_an_item_that_has_not_ended_is_not_repeated_however_long_it_takes(driver):
    make_nova()
    driver.step()
    momentum_tasks().update(status="blocked", block_owner="operator", block_action="look at it", blocked_at=NOW)
    for _ in range(4):
        driver.now += timedelta(hours=2)
        driver.run()
        momentum_tasks(status="pending").update(status="blocked", block_owner="operator", block_action="see", blocked_at=NOW)
        momentum_tasks(status="in_progress").update(
            status="blocked", block_owner="operator", block_action="see", blocked_at=NOW
        )
    actions = list(momentum_tasks().values_list("action", flat=True))
    assert sorted(actions) == sorted(MOMENTUM_TEMPLATES)


# -- once


def test_two_novas_of_a_batch_make_an_item_once(driver):
    make_novas(5)
    driver.step()
    actions = list(momentum_tasks().values_list("action", flat=True))
    assert len(actions) == len(set(actions)) >= 3


def test_two_engines_make_an_item_once():
    first, second = Driver("e1"), Driver("e2")
    make_nova("echo")
    cycle = first.claim_gather_step()
    make_nova("helix")
    other = second.claim_gather_step()
    assert first.engine.commit(*cycle).steps == second.engine.commit(*other).steps == 1
    actions = list(momentum_tasks().values_list("action", flat=True))
    assert len(actions) == len(set(actions)) == 3
    assert MomentumLedger.objects.count() == 3


# -- sleep


def run_template(driver: Driver, findings: list[str]) -> None:
    """Let the one template that is awake have its next turn, and end with these findings."""
    driver.now += timedelta(hours=1)
    driver.run_until(lambda: Execution.objects.filter(status="dispatched").exists())
    driver.end(seconds=0, metrics={"findings": findings})
    driver.run()


@pytest.fixture
def one_template():
    """A Nova for which every template but one sleeps."""
    make_nova()
    silence_momentum()
    MomentumLedger.objects.filter(template=REVIEW).delete()


def ledger() -> MomentumLedger:
    return MomentumLedger.objects.get(scope="", template=REVIEW)


def test_a_template_sleeps_after_three_runs_without_a_new_finding(driver, one_template):
    run_template(driver, ["the disk is slow"])
    assert (ledger().fruitless_runs, ledger().findings) == (0, ["the disk is slow"])
    for run in (1, 2, 3):
        run_template(driver, ["The disk is  slow"] if run < 3 else [])
        assert (ledger().fruitless_runs, ledger().asleep) == (run, run == 3)
    made = momentum_tasks().count()
    driver.now += timedelta(days=2)
    driver.run()
    assert momentum_tasks().count() == made


def test_a_new_finding_keeps_a_template_awake(driver, one_template):
    for findings in ([], [], ["something new"], []):
        run_template(driver, findings)
    assert (ledger().fruitless_runs, ledger().asleep) == (1, False)


@pytest.mark.parametrize(
    ("stream", "fields"),
    [
        ("nova.coordination.torch", {"type": "signal", "message": "fyi, the report is out"}),
        ("nova.priority.alerts", {"type": "signal", "message": "wake up"}),
        ("nova.priority.alerts", {"title": "Disk is full"}),
        ("nova.priority.alerts", {"title": "Disk is full", "nova_id": "torch"}),
    ],
)
def test_a_sleeping_template_wakes_by_a_signal_or_an_alert(driver, stream, fields):
    make_installation()
    make_nova(team="builders")
    make_nova("echo", team="watch")
    silence_momentum("builders", "watch")
    hear(driver, stream, ["torch", "echo"], **fields)
    assert not MomentumLedger.objects.filter(scope="builders", asleep=True).exists()
    everybody = "nova_id" not in fields and not stream.endswith("torch")
    assert MomentumLedger.objects.filter(scope="watch", asleep=True).exists() is not everybody


def test_work_for_a_nova_lets_its_templates_sleep_on(driver):
    make_installation()
    make_nova()
    silence_momentum()
    hear(driver, "nova.work.queue", ["torch"], title="Count the streams", assignee="torch")
    assert MomentumLedger.objects.filter(asleep=True).count() == len(MOMENTUM_TEMPLATES)
