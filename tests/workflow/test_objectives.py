"""Objectives through engine and database: one open item each, the next after its end, none past the objective's own end."""

from datetime import timedelta

import pytest

from safety.models import AuditEntry
from tests.factories import NOW, make_nova, make_novas, make_objective
from tests.workflow.driving import Driver, silence_momentum, story
from workflow import configuration
from workflow.models import Execution, NovaState, Objective, Task
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


@pytest.fixture
def driver():
    silence_momentum("", "builders", "watch")
    return Driver()


def items(objective: Objective, **fields):
    return Task.objects.filter(objective=objective, **fields).order_by("created_at", "id")


def complete(driver: Driver) -> None:
    """Let the item that is in work, or comes into work, succeed."""
    driver.run_until(lambda: Execution.objects.filter(status="dispatched").exists())
    driver.end()
    driver.run()


def test_an_objective_becomes_one_item_of_its_nova(driver):
    make_nova()
    objective = make_objective("Keep the docs true", nova="torch", description="Every page.", priority="high")
    driver.step()
    item = items(objective).get()
    assert (item.title, item.description, item.priority, item.work_type) == (
        "Keep the docs true",
        "Every page.",
        "high",
        "strategic",
    )
    assert (item.assignee_id, item.status) == ("torch", "pending")
    objective.refresh_from_db()
    assert (objective.open_task_id, objective.due_at) == (item.id, NOW + DAY)
    driver.step(0.25)
    assert Execution.objects.get().task_id == item.id


def test_the_next_item_comes_when_the_last_has_ended_and_the_next_turn_has_come(driver):
    make_nova()
    objective = make_objective(nova="torch", cadence=3600.0)
    complete(driver)
    objective.refresh_from_db()
    assert objective.open_task_id == ""
    driver.now = NOW + timedelta(minutes=59)
    driver.run()
    assert items(objective).count() == 1
    driver.now = NOW + timedelta(hours=1)
    driver.run_until(lambda: items(objective).count() == 2)
    assert driver.now < NOW + timedelta(hours=1, minutes=1)


def test_while_an_item_is_open_no_other_is_made_and_missed_turns_are_not_made_up_for(driver):
    make_nova()
    objective = make_objective(nova="torch", cadence=3600.0)
    driver.run_until(lambda: Execution.objects.filter(status="dispatched").exists())
    driver.now = NOW + timedelta(hours=5, minutes=30)
    driver.run()
    assert items(objective).count() == 1
    driver.end()
    driver.run_until(lambda: items(objective).count() == 2)
    objective.refresh_from_db()
    assert objective.due_at == NOW + timedelta(hours=6)
    driver.run()
    assert items(objective).count() == 2


def test_a_blocked_item_holds_its_objective_and_a_cancelled_one_frees_it(driver):
    make_nova()
    objective = make_objective(nova="torch", cadence=3600.0)
    driver.run_until(lambda: Execution.objects.filter(status="dispatched").exists())
    driver.end(needs={"owner": "operator", "action": "connect a model"}, results="The brief.")
    driver.run()
    assert items(objective).get().status == "blocked"
    driver.now = NOW + timedelta(hours=2)
    driver.run()
    assert items(objective).count() == 1
    with TaskTracker.open(now=driver.now) as tracker:
        tracker.cancel_task(items(objective).get().id, "not today")
    driver.run()
    assert items(objective).count() == 2


def test_an_objective_ends_at_its_end(driver):
    make_nova()
    objective = make_objective(nova="torch", cadence=3600.0, until=NOW + timedelta(minutes=90))
    complete(driver)
    driver.now = NOW + timedelta(hours=1)
    driver.run_until(lambda: items(objective).count() == 2)
    objective.refresh_from_db()
    assert objective.archived_at == driver.now  # no third turn comes before the end
    assert story(str(objective.pk), object_type="objective") == ["workflow.objective.ended"]
    complete(driver)
    driver.now = NOW + timedelta(days=3)
    driver.run()
    assert items(objective).count() == 2


def test_an_objective_whose_end_was_missed_makes_no_item(driver):
    make_nova()
    objective = make_objective(nova="torch", until=NOW - timedelta(minutes=1), due_at=NOW - DAY)
    driver.step()
    objective.refresh_from_db()
    assert objective.archived_at == NOW
    assert not items(objective).exists()
    assert AuditEntry.objects.get(action="workflow.objective.ended").actor == "nova:torch"


def test_an_objective_that_is_not_due_waits(driver):
    make_nova()
    objective = make_objective(nova="torch", due_at=NOW + timedelta(minutes=10))
    driver.run()
    assert not items(objective).exists()
    driver.now = NOW + timedelta(minutes=10)
    driver.run()
    assert items(objective).count() == 1


# -- whose


def test_a_teams_objective_becomes_an_open_item_of_the_team_that_one_of_it_takes(driver):
    make_nova("echo", team="watch")
    for nova_id in ("helix", "torch"):
        make_nova(nova_id, team="builders")
    objective = make_objective(team="builders")
    driver.step()
    assert (items(objective).get().team, items(objective).get().assignee_id) == ("builders", None)
    driver.run_until(lambda: Execution.objects.exists())
    assert items(objective).get().assignee_id in ("helix", "torch")


def test_an_objective_of_everybody_is_planned_once_by_a_batch(driver):
    make_novas(5)
    objective = make_objective()
    driver.step()
    assert items(objective).count() == 1
    objective.refresh_from_db()
    assert objective.open_task_id == items(objective).get().id


def test_another_novas_objective_is_left_to_it(driver):
    make_nova("echo")
    make_nova("helix", state={"mode": "paused"})
    objective = make_objective(nova="helix")
    driver.run()
    assert not items(objective).exists()


def test_a_hundred_objectives_of_others_hide_none(driver):
    make_nova("echo")
    make_nova("helix", state={"mode": "paused"})
    for number in range(100):
        make_objective(f"Others' {number}", nova="helix", due_at=NOW - DAY)
    objective = make_objective("Mine", nova="echo")
    driver.run()
    assert items(objective).count() == 1


def test_two_engines_plan_an_objective_once():
    silence_momentum()
    first, second = Driver("e1"), Driver("e2")
    objective = make_objective()
    make_nova("echo")
    cycle = first.claim_gather_step()
    make_nova("helix")
    other = second.claim_gather_step()
    assert first.engine.commit(*cycle).steps == second.engine.commit(*other).steps == 1
    assert items(objective).count() == 1


def test_two_engines_plan_an_objective_once_even_if_its_item_has_ended_meanwhile():
    silence_momentum()
    first, second = Driver("e1"), Driver("e2")
    objective = make_objective()
    make_nova("echo")
    cycle = first.claim_gather_step()
    make_nova("helix")
    other = second.claim_gather_step()
    first.engine.commit(*cycle)
    with TaskTracker.open(now=NOW) as tracker:
        tracker.cancel_task(items(objective).get().id, "not wanted")
    second.engine.commit(*other)
    assert items(objective).count() == 1


def test_an_objective_archived_in_mid_step_makes_no_item(driver):
    make_nova()
    objective = make_objective(nova="torch")
    cycle = driver.claim_gather_step()
    configuration.archive(objective, now=NOW, reason="no longer wanted")
    assert driver.engine.commit(*cycle).steps == 1
    assert not items(objective).exists()


def test_an_unsafe_nova_plans_nothing(driver):
    make_nova()
    objective = make_objective(nova="torch")
    driver.fleet = None  # nothing is known of the fleet: that is unsafe
    driver.run()
    assert NovaState.objects.get().current_state == "safety_pause"
    assert not items(objective).exists()
