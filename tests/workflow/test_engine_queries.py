"""What a batch costs in statements: the same for one Nova as for 128, and each big table is entered by its index."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from safety.models import CandidateVerdict
from safety.observations import Kind, Seen, observe_many
from tests.factories import NOW, make_inbox_message, make_novas, make_objective, make_policy
from tests.workflow.driving import Driver, silence_momentum
from workflow.core.work import Priority, order_at
from workflow.models import Execution, InboxMessage, Nova, NovaState, Objective, Task

pytestmark = pytest.mark.django_db

# SQLite names the index of a unique constraint itself
_ATTEMPT = "execution_attempt_once" if connection.vendor == "postgresql" else "sqlite_autoindex_workflow_execution_1"
SIZES = (1, 50, 128)
# a block's row, its entry's number, the entry (of which SQLite must be asked the id)
WRITTEN = 3 if connection.vendor == "postgresql" else 4
FAR = NOW + timedelta(days=365)


@pytest.fixture
def novas():
    silence_momentum()
    return make_novas(max(SIZES))


def make_tasks(nova_ids: list[str], *, prefix: str, held: bool, **fields: Any) -> None:
    """Make a task for each of these Novas: in hand, with an execution that has ended, or open."""
    values: dict[str, Any] = {
        "title": "Count", "executor": "builtin", "action": "echo", "created_at": NOW, "updated_at": NOW,
        "order_at": order_at(Priority.MEDIUM, NOW),
    }  # fmt: skip
    values |= {"status": "in_progress", "attempts": 1, "started_at": NOW} if held else {"status": "pending"}
    tasks = Task.objects.bulk_create(
        Task(**(values | {"id": f"{prefix}-{number:05d}", "assignee_id": nova_id if held else None} | fields))
        for number, nova_id in enumerate(nova_ids)
    )
    if held:
        Execution.objects.bulk_create(
            Execution(
                task=task, nova_id=task.assignee_id, executor="builtin", action="echo", attempt=1, status="succeeded",
                created_at=NOW, started_at=NOW, finished_at=NOW, timeout=300.0,
            )
            for task in tasks
        )  # fmt: skip


def only_due(nova_ids: list[str], driver: Driver) -> None:
    NovaState.objects.update(due_at=FAR)
    NovaState.objects.filter(nova_id__in=nova_ids).update(due_at=driver.now)


def statements(driver: Driver, size: int) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        committed = driver.step()
    assert committed is not None
    assert committed.steps == size
    return [query["sql"] for query in captured.captured_queries]


def counts(driver: Driver, novas: list[str], prepare) -> list[int]:
    """Count the statements of a step for each size, after `prepare(nova_ids, round)` has made the work."""
    found = []
    for number, size in enumerate(SIZES):
        driver.now += timedelta(minutes=5)
        chosen = novas[:size]
        prepare(chosen, number)
        only_due(chosen, driver)
        found.append(len(statements(driver, size)))
    return found


def test_an_idle_batch_costs_the_same_few_statements_however_large_it_is(novas):
    driver = Driver()
    driver.run()
    found = counts(driver, novas, lambda chosen, number: None)
    assert len(set(found)) == 1
    assert found[0] <= 24


def test_a_batch_that_completes_and_starts_work_costs_the_same_however_large_it_is(novas):
    driver = Driver()
    driver.run()

    def prepare(chosen, number):
        Execution.objects.all().delete()
        Task.objects.all().delete()
        make_tasks(chosen, prefix=f"HELD-{number}", held=True)
        make_tasks([*chosen, *novas[:3]], prefix=f"OPEN-{number}", held=False)  # three are left: nothing must be made up

    one, *many = counts(driver, novas, prepare)
    assert many == [many[0]] * len(many)
    assert many[0] <= one <= 48  # with enough work in hand it need not look whether more is left
    assert Task.objects.filter(outcome="succeeded").count() == Task.objects.filter(status="in_progress").count() == max(SIZES)


def test_signals_and_objectives_cost_the_same_however_many_there_are(novas):
    driver = Driver()
    driver.run()

    def prepare(chosen, number):
        Task.objects.all().delete()
        Objective.objects.all().delete()
        for nova_id in chosen:
            make_inbox_message(nova_id=nova_id, fields={"title": "Please review the plan"}, now=driver.now)
        for nova_id in chosen[:100]:
            make_objective(nova=nova_id, now=driver.now)

    found = counts(driver, novas, prepare)
    assert max(found) - min(found) <= 1  # a block of task numbers
    assert not InboxMessage.objects.filter(status="waiting").exists()
    assert not Objective.objects.filter(open_task_id="").exists()


def test_candidates_cost_the_same_however_many_there_are_and_nothing_where_there_are_none(novas):
    driver = Driver()
    driver.run()

    def settle(chosen, number):
        """Let all Novas be judged once, so that configurations are read and observations have begun."""
        NovaState.objects.update(due_at=driver.now)
        driver.run()

    def burst(chosen, number):
        settle(chosen, number)
        observe_many([Seen(nova_id, Kind.TOOL_USE, 40) for nova_id in chosen], now=driver.now)

    bursting, without = counts(driver, novas, burst), counts(driver, novas, settle)
    calm = make_policy("calm", tool_uses_per_minute=30)
    Nova.objects.update(candidate_policy=calm)
    assert counts(driver, novas, settle) == [count + 2 for count in without]  # what is recorded, and the sums
    found = counts(driver, novas, burst)
    assert [some - others for some, others in zip(found, bursting, strict=True)] == [2 + WRITTEN] * len(SIZES)
    assert CandidateVerdict.objects.filter(blocks__gt=0).count() == max(SIZES)
    Nova.objects.update(candidate_policy=None)
    assert counts(driver, novas, settle) == without


def test_novas_of_many_teams_that_all_find_work_cost_no_more_than_those_of_one(novas):
    driver = Driver()
    driver.run()
    teams = ["", "builders", "watch", "docs"]
    for place, nova_id in enumerate(novas):
        Nova.objects.filter(pk=nova_id).update(team=teams[place % 4])

    def prepare(chosen, number):
        Execution.objects.all().delete()
        Task.objects.all().delete()
        make_tasks([*chosen, *novas[:3]], prefix=f"OPEN-{number}", held=False)

    one, *many = counts(driver, novas, prepare)
    assert many == [many[0]] * len(many)
    assert many[0] <= one


# -- indexes

# how a statement begins, what else it contains, the index it must use (or the other one that PostgreSQL may find cheaper)
ENTRANCES = (
    ("UPDATE workflow_novastate", "lease_holder", "novastate_due"),
    ("UPDATE workflow_task", "reserved_by", "task_open"),
    ("SELECT team FROM workflow_task", "", "task_open"),
    ("SELECT t.id", "status = 'pending'", "task_mine"),
    ("SELECT t.id", "workflow_execution", "task_mine task_status_list"),
    ("SELECT t.id", "workflow_execution", _ATTEMPT),
    ("SELECT m.nova_id", "workflow_inboxmessage", "inbox_waiting"),
    ("SELECT workflow_task.", "completed_at >=", "task_history"),
    ("SELECT workflow_task.", "completed_at IS NULL", "task_history"),
)


def plan_of(sql: str) -> str:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"EXPLAIN {sql}")
            return "\n".join(row[0] for row in cursor.fetchall())
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        return "\n".join(row[3] for row in cursor.fetchall())


def test_a_step_enters_each_big_table_by_its_index(novas):
    done = {"status": "completed", "outcome": "succeeded", "completed_at": NOW}
    for number in range(20):
        make_tasks(novas, prefix=f"DONE-{number}", held=True, **done)
    make_tasks(novas, prefix="HELD", held=True)
    make_tasks(novas[:1], prefix="OPEN", held=False)  # so few that momentum work is thought of
    make_inbox_message(nova_id=novas[0], fields={"title": "Please review the plan"})
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE workflow_task, workflow_execution, workflow_novastate, workflow_inboxmessage")
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("SET LOCAL enable_sort = off")  # of so few rows, sorting would be cheaper
    spoken = [sql.replace('"', "") if "momentum" in sql else sql for sql in statements(Driver(), len(novas))]
    for begins, contains, index in ENTRANCES:
        plans = [plan_of(sql) for sql in spoken if sql.startswith(begins) and contains in sql]
        assert plans, f"nothing begins with {begins}"
        assert any(name in plans[0] for name in index.split())
