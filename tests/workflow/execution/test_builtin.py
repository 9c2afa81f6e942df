"""What the builtin executor does with a task: echoes it, works on it, or writes a brief."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests import factories
from tests.workflow.execution.conftest import dispatch, run_all
from workflow.core.work import similarity_key
from workflow.execution.builtin import Builtin
from workflow.execution.registry import ExecutionContext, Result
from workflow.execution.works.brief import work_brief
from workflow.models import Task, TaskDependency, TaskStatistics


def context(title: str = "", description: str = "", *, task: Task | None = None, **fields: Any) -> ExecutionContext:
    given: dict[str, Any] = {
        "execution_id": 1,
        "task_id": task.id if task else "TORCH-1-000001",
        "title": task.title if task else title,
        "description": task.description if task else description,
        "metadata": {},
        "nova_id": "torch",
        "executor": "builtin",
        "action": "",
        "attempt": 1,
        "runs": 1,
        "now": factories.NOW,
    }
    return ExecutionContext(**(given | fields))


@pytest.mark.parametrize(
    ("description", "metadata", "results"),
    [
        ("words", {}, "words"),
        ("words", {"payload": "given"}, "given"),
        ("words", {"payload": ""}, ""),
        ("words", {"payload": {"a": [1, "ü"]}}, '{"a":[1,"ü"]}'),
        ("", {}, ""),
    ],
)
def test_echo_gives_back_what_came_in(description: str, metadata: dict[str, Any], results: str) -> None:
    answer = Builtin().run_inline(context(description=description, metadata=metadata))
    assert answer == Result(results, {"bytes": len(results.encode())})


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("action", ["", "paint_the_shed"])
def test_what_nothing_here_can_do_gets_its_brief_and_is_never_called_done(action: str) -> None:
    execution = dispatch(action, executor="builtin", title="Paint the garden shed")
    run_all()
    execution.refresh_from_db()
    assert execution.needs == {"owner": "operator", "action": "connect a model or an agent to torch"}
    assert "it was not done" in execution.results
    assert ("no action 'paint_the_shed'" in execution.results) == bool(action)
    assert "findings" not in execution.metrics


@pytest.fixture
def shed(db: None) -> Task:
    factories.make_nova("torch")
    return factories.make_task("Paint the garden shed red", assignee="torch", status="in_progress")


def test_a_brief_shows_related_tasks_their_insights_and_an_estimate_from_them(shed: Task, now: datetime) -> None:
    done = factories.make_task(
        "Paint the garden fence",
        assignee="torch",
        status="completed",
        started_at=now - timedelta(minutes=10),
        insights={"lessons_learned": "Two coats are needed."},
    )
    stuck = factories.make_task("Repair the garden shed roof", status="blocked", block_reason="No ladder.")
    factories.make_task("Write the quarterly report", assignee="torch", status="completed")
    private = {"lessons_learned": "I dislike sheds."}
    factories.make_task("Garden shed thoughts", assignee="torch", status="completed", personal=True, insights=private)
    answer = work_brief(context(task=shed))
    assert answer.metrics["related"] == [done.id, stuck.id] or answer.metrics["related"] == [stuck.id, done.id]
    assert answer.metrics["estimate_seconds"] == 600.0
    assert "10 min (mean of 1 related tasks that succeeded)" in answer.results
    assert "Two coats are needed." in answer.results
    assert "No ladder." in answer.results
    assert "quarterly" not in answer.results
    assert "dislike" not in answer.results
    assert f"read {done.id}" in answer.results


def test_without_relatives_the_estimate_comes_from_tasks_of_the_kind_or_from_the_task_itself(shed: Task) -> None:
    shed.estimated_duration = 90.0
    shed.save()
    assert work_brief(context(task=shed)).metrics["estimate_seconds"] == 90.0
    TaskStatistics.objects.create(key=similarity_key("requested", "", ""), count=4, seconds=1200.0)
    assert work_brief(context(task=shed)).metrics["estimate_seconds"] == 300.0


def test_a_brief_names_the_missing_facts(shed: Task) -> None:
    TaskDependency.objects.create(task=shed, depends_on="TORCH-9-ffffff")
    assert work_brief(context(task=shed), missing_action="paint").metrics["missing"] == [
        "the executor builtin has no action 'paint'",
        "a description of what is wanted",
        "how to tell that it is done (acceptance)",
        "an estimate of the time it may take",
        "the task TORCH-9-ffffff, which it depends on, does not exist",
    ]


def test_a_task_that_says_everything_lacks_nothing(shed: Task) -> None:
    shed.description = "Two coats of red on all four walls. Done when nothing of the old green shows."
    shed.estimated_duration = 7200.0
    shed.save()
    answer = work_brief(context(task=shed))
    assert answer.metrics["missing"] == []
    assert answer.needs == {"owner": "operator", "action": "connect a model or an agent to torch"}


@pytest.mark.django_db
def test_a_brief_is_written_even_where_the_task_has_no_words_or_no_row() -> None:
    answer = work_brief(context("???"))
    assert "none among the newest tasks" in answer.results
    assert answer.needs is not None
