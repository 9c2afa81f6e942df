"""The life of a task in an agent's hands: claims, leases, ends, and what becomes of a dead agent's task."""

from datetime import datetime, timedelta
from threading import Barrier, Thread

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from safety.models import AuditEntry
from tests import factories
from tests.workflow.driving import Driver, silence_momentum, state_of, story
from workflow import agent_work, halts, services
from workflow.agent_work import ClaimRefused, Completion, TaskLeaseLost
from workflow.models import Task, TaskDependency, TaskStatistics
from workflow.task_tracker import TaskNotFound

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


def make_agent(nova_id: str = "torch", *, room: int = 64, **fields):
    policy = factories.make_policy(f"room-{room}", max_concurrent_tasks=room)
    fields.setdefault("default_executor", "agent")
    return factories.make_nova(nova_id, policy=policy.slug, **fields)


def claim(nova_id: str = "torch", *, limit: int = 1, now: datetime = factories.NOW, **more):
    return agent_work.claim_tasks(nova_id, limit=limit, now=now, **more)


def test_a_claim_takes_the_novas_own_tasks_first_and_then_open_work_by_urgency(now):
    make_agent(team="red")
    later = factories.make_task("open, low", priority="low", team="red")
    urgent = factories.make_task("open, critical", priority="critical")
    own = factories.make_task("own", assignee="torch", executor="agent")
    factories.make_task("of another team", team="blue")
    factories.make_task("for an executor", executor="builtin")
    factories.make_task("waits", assignee="torch", waiting_on=1)
    claimed = claim(limit=10)
    assert [task.task_id for task in claimed] == [own.id, urgent.id, later.id]
    task = Task.objects.get(id=urgent.id)
    assert (task.status, task.assignee_id, task.attempts, task.started_at) == ("in_progress", "torch", 1, now)
    assert task.fence == claimed[1].fence
    assert task.reserved_until == claimed[1].lease_until == now + MINUTE
    assert story(urgent.id) == ["workflow.task.claimed", "workflow.task.started"]
    assert claim(limit=10) == []


def test_a_nova_whose_default_is_another_executor_gets_only_work_for_agents(now):
    make_agent(default_executor="builtin")
    factories.make_task("for whoever", assignee="torch")
    meant = factories.make_task("for an agent", executor="agent")
    assert [task.task_id for task in claim(limit=10)] == [meant.id]


def test_a_nova_that_may_not_use_agents_is_refused(now):
    make_agent(allowed_executors=["builtin"])
    with pytest.raises(ClaimRefused):
        claim()


def test_a_claim_leaves_room_for_what_the_engine_has_in_hand(now):
    make_agent(room=2)
    factories.make_execution(factories.make_task(assignee="torch", status="in_progress", executor="builtin"))
    for _ in range(3):
        factories.make_task(assignee="torch")
    assert len(claim(limit=10)) == 1
    assert claim(limit=10) == []


def test_the_engine_leaves_room_for_what_the_agent_has_in_hand(now):
    make_agent(room=1, default_executor="builtin")
    silence_momentum()
    factories.make_task(executor="agent")
    builtin = factories.make_task(executor="builtin", action="echo")
    assert len(claim()) == 1
    driver = Driver(now=now + timedelta(seconds=1))
    driver.run()
    assert Task.objects.get(id=builtin.id).status == "pending"


def test_a_step_under_way_can_take_nothing_into_the_slot_that_the_agent_took(now):
    make_agent(room=1, default_executor="builtin")
    silence_momentum()
    builtin = factories.make_task(assignee="torch", executor="builtin", action="echo")
    factories.make_task(executor="agent")
    driver = Driver()
    stepped = driver.claim_gather_step()
    assert len(claim()) == 1
    driver.engine.commit(*stepped)
    assert Task.objects.get(id=builtin.id).status == "pending"


def test_a_stopped_nova_claims_nothing_and_ends_what_it_has(now):
    make_agent()
    factories.make_task()
    factories.make_task()
    task = claim()[0]
    services.pause_nova("torch", reason="look", now=now)
    with pytest.raises(halts.NovaStopped):
        claim()
    agent_work.renew_lease("torch", task.task_id, task.fence, now=now)
    agent_work.update_progress("torch", task.task_id, task.fence, percent=50, now=now)
    assert agent_work.heartbeat("torch", now=now).order is None
    assert agent_work.complete_task("torch", task.task_id, task.fence, results="Done.", now=now).outcome == "succeeded"


def test_a_completion_is_celebrated_reflected_on_and_counted_as_the_engine_does_it(now):
    make_agent()
    silence_momentum()
    task = factories.make_task(executor="agent", action="write")
    waiting = factories.make_task(waiting_on=1)
    TaskDependency.objects.create(task=waiting, depends_on=task.id)
    held = claim()[0]
    done = now + timedelta(seconds=30)
    ended = agent_work.complete_task(
        "torch", held.task_id, held.fence, results="Written.", metrics={"words": 7}, evidence=["commit 1a2b"], now=done
    )
    task.refresh_from_db()
    assert (ended.status, ended.outcome, ended.late) == ("completed", "succeeded", False)
    assert (task.status, task.outcome, task.results, task.completed_at) == ("completed", "succeeded", "Written.", done)
    assert task.metrics == {"duration_seconds": 30.0, "attempts": 1, "words": 7, "evidence": ["commit 1a2b"]}
    assert set(task.insights) == {"lessons_learned", "process_improvements", "skill_development", "future_applications"}
    assert ended.insights == task.insights
    assert story(task.id) == [
        "workflow.task.claimed",
        "workflow.task.started",
        "workflow.task.completed",
        "workflow.task.celebrated",
        "workflow.insight.recorded",
    ]
    streams = AuditEntry.objects.filter(object_id=task.id).order_by("id").values_list("stream", flat=True)
    assert list(streams)[2:] == ["nova.tasks.torch.completed", "nova.celebrations.torch", "nova.insights.torch"]
    assert TaskStatistics.objects.get(key="requested:agent:write").count == 1
    assert Task.objects.get(id=waiting.id).waiting_on == 0


def test_the_novas_next_cycle_counts_what_its_agent_completed_once(now):
    make_agent(room=1)
    silence_momentum()
    driver = Driver()
    driver.run()
    factories.make_task(executor="agent")
    held = claim()[0]
    agent_work.complete_task("torch", held.task_id, held.fence, results="", now=now)
    assert driver.step(0.25) is not None
    state = state_of()
    assert (state.current_state, state.completion_stage, state.tasks_completed_in_phase) == (
        "completion_routine",
        "celebration",
        1,
    )
    assert state.last_completion_celebration == driver.now
    driver.step(1)
    services.wake_nova("torch", reason="again", now=driver.now)
    driver.run()
    assert state_of().tasks_completed_in_phase == 1


def test_a_completion_that_is_sent_twice_changes_nothing_the_second_time(now):
    make_agent()
    factories.make_task()
    held = claim()[0]
    agent_work.complete_task("torch", held.task_id, held.fence, results="Once.", now=now)
    count = AuditEntry.objects.count()
    again = agent_work.complete_task("torch", held.task_id, held.fence, results="Twice.", now=now)
    assert (again.status, again.repeated) == ("completed", True)
    assert (AuditEntry.objects.count(), Task.objects.get().results) == (count, "Once.")


def test_progress_renews_the_lease_and_leaves_the_fence_good(now):
    make_agent()
    factories.make_task()
    held = claim()[0]
    later = now + timedelta(seconds=50)
    lease = agent_work.update_progress("torch", held.task_id, held.fence, percent=40, update="Nearly half.", now=later)
    assert lease.lease_until == later + MINUTE
    task = Task.objects.get()
    assert (task.progress, task.reserved_until, task.fence) == (40, later + MINUTE, held.fence)
    assert AuditEntry.objects.latest("id").message["update"] == "Nearly half."


def test_a_dead_agents_task_is_taken_over_after_its_lease_and_its_late_completion_is_refused_and_kept(now):
    make_agent("torch")
    make_agent("echo")
    task = factories.make_task()
    first = claim("torch")[0]
    assert claim("echo", now=now + MINUTE) == []
    later = now + MINUTE + timedelta(seconds=1)
    second = claim("echo", now=later)[0]
    assert (second.task_id, second.attempt) == (task.id, 2)
    assert second.fence > first.fence
    assert Task.objects.get().assignee_id == "echo"
    with pytest.raises(TaskLeaseLost):
        agent_work.complete_task("torch", task.id, first.fence, results="Too late.", evidence=["here"], now=later)
    with pytest.raises(TaskLeaseLost):
        agent_work.renew_lease("torch", task.id, first.fence, now=later)
    kept = AuditEntry.objects.get(action="workflow.task.completion_refused")
    assert (kept.nova_id, kept.object_id, kept.after["results"]) == ("torch", task.id, "Too late.")
    assert kept.after["evidence"] == ["here"]
    assert agent_work.complete_task("echo", task.id, second.fence, results="In time.", now=later).outcome == "succeeded"
    assert Task.objects.get().results == "In time."


def test_an_assigned_task_is_taken_over_by_its_own_novas_next_agent_only(now):
    make_agent("torch")
    make_agent("echo")
    factories.make_task(assignee="torch")
    claim("torch")
    later = now + 2 * MINUTE
    assert claim("echo", now=later) == []
    assert claim("torch", now=later)[0].attempt == 2


def test_a_completion_after_its_lease_and_before_another_claim_is_accepted_and_called_late(now):
    make_agent()
    factories.make_task()
    held = claim()[0]
    ended = agent_work.complete_task("torch", held.task_id, held.fence, results="Slow.", now=now + 5 * MINUTE)
    assert (ended.outcome, ended.late) == ("succeeded", True)
    assert Task.objects.get().metrics["late"] is True
    assert "lease" in AuditEntry.objects.get(action="workflow.task.completed").reason


def test_a_task_out_of_attempts_is_blocked_and_its_last_agent_may_still_complete_it(now):
    make_agent()
    task = factories.make_task(max_attempts=1)
    held = claim()[0]
    assert agent_work.block_hopeless(now=now + MINUTE) == 0
    assert agent_work.block_hopeless(now=now + 2 * MINUTE) == 1
    task.refresh_from_db()
    assert (task.status, task.block_owner) == ("blocked", "operator")
    assert claim(now=now + 3 * MINUTE) == []
    ended = agent_work.complete_task("torch", held.task_id, held.fence, results="After all.", now=now + 4 * MINUTE)
    assert (ended.outcome, ended.late) == ("succeeded", True)
    task.refresh_from_db()
    assert (task.status, task.block_owner, task.results) == ("completed", "", "After all.")


def test_while_its_nova_is_stopped_or_unsafe_a_lease_does_not_end(now):
    make_agent("torch")
    make_agent("echo")
    make_agent("helix")
    tasks = [factories.make_task(), factories.make_task()]
    held = claim("torch")[0]
    claim("echo")
    services.halt_nova("torch", reason="stop", now=now + timedelta(seconds=10))
    factories.make_safety_state("echo", is_safe=False, since=now + timedelta(seconds=10), reason="hot")
    later = now + 10 * MINUTE
    assert claim("helix", limit=10, now=later) == []
    services.resume_nova("torch", reason="go on", now=later)
    assert Task.objects.get(id=tasks[0].id).reserved_until == later + timedelta(seconds=50)
    ended = agent_work.complete_task("torch", held.task_id, held.fence, results="", now=later + timedelta(seconds=49))
    assert not ended.late


def test_a_failure_is_tried_again_after_a_backoff_until_the_attempts_are_used_up(now):
    make_agent()
    factories.make_task(max_attempts=2)
    held = claim()[0]
    assert agent_work.fail_task("torch", held.task_id, held.fence, error="no luck", now=now) == "pending"
    assert claim() == []
    later = Task.objects.get().not_before
    held = claim(now=later)[0]
    assert agent_work.fail_task("torch", held.task_id, held.fence, error="no luck", now=later) == "blocked"
    task = Task.objects.get()
    assert "no luck" in task.block_reason
    assert task.block_owner == "operator"


def test_a_blocked_task_says_who_can_go_on_and_how(now):
    make_agent()
    factories.make_task()
    held = claim()[0]
    agent_work.block_task("torch", held.task_id, held.fence, owner="alice", action="grant access", reason="No access.", now=now)
    task = Task.objects.get()
    assert (task.status, task.block_owner, task.block_action) == ("blocked", "alice", "grant access")


def test_a_released_task_is_as_it_was(now):
    make_agent("torch")
    make_agent("echo")
    opened, own = factories.make_task(), factories.make_task(assignee="torch")
    for held in claim("torch", limit=2):
        agent_work.release_task("torch", held.task_id, held.fence, reason="Not mine.", now=now)
    assert list(Task.objects.order_by("id").values_list("status", "attempts")) == [("pending", 0), ("pending", 0)]
    assert Task.objects.get(id=opened.id).assignee_id is None
    assert Task.objects.get(id=own.id).assignee_id == "torch"
    assert [task.task_id for task in claim("echo", limit=5)] == [opened.id]


def test_anothers_task_is_as_if_it_were_not_there(now):
    make_agent("torch")
    make_agent("echo")
    factories.make_task()
    held = claim("torch")[0]
    for act in (agent_work.renew_lease, agent_work.release_task):
        with pytest.raises(TaskNotFound):
            act("echo", held.task_id, held.fence, now=now)
    with pytest.raises(TaskNotFound):
        agent_work.complete_task("echo", held.task_id, held.fence, results="", now=now)
    assert not AuditEntry.objects.filter(action="workflow.task.completion_refused").exists()


def test_a_heartbeat_renews_all_and_tells_what_stands(now):
    make_agent()
    factories.make_task()
    factories.make_task()
    held = claim(limit=2)
    later = now + timedelta(seconds=40)
    beat = agent_work.heartbeat("torch", now=later)
    assert {lease.task_id: (lease.fence, lease.lease_until) for lease in beat.leases} == {
        task.task_id: (task.fence, later + MINUTE) for task in held
    }
    halts.order("halt", "nova", "torch", reason="stop", now=later)
    beat = agent_work.heartbeat("torch", now=later)
    assert beat.order is not None
    assert beat.order.kind == "halt"
    assert halts.get(beat.order.halt_id).confirmations.get().status == "delivered"


def test_a_batch_answers_each_completion_and_refuses_only_what_it_must(now):
    make_agent()
    for _ in range(3):
        factories.make_task()
    held = claim(limit=3)
    sent = [Completion(task.task_id, task.fence, "Done.") for task in held]
    sent[1] = Completion(held[1].task_id, held[1].fence - 1, "Stale.")
    sent += [Completion("FLEET-1-abcdef", 1), sent[0]]
    answers = agent_work.complete_tasks("torch", sent, now=now)
    assert [answer.status for answer in answers] == ["completed", "", "completed", "", "completed"]
    assert isinstance(answers[1].problem, TaskLeaseLost)
    assert isinstance(answers[3].problem, TaskNotFound)
    assert answers[4].repeated
    assert Task.objects.filter(status="completed").count() == 2


def test_claims_and_completions_take_as_many_queries_for_a_hundred_as_for_one(now):
    counts = []
    for nova_id, number in (("torch", 1), ("echo", 50)):
        make_agent(nova_id)
        for _ in range(number):
            factories.make_task(assignee=nova_id)
        with CaptureQueriesContext(
            connection,
        ) as claiming:
            held = claim(nova_id, limit=100)
        assert len(held) == number
        sent = [Completion(task.task_id, task.fence, "Done.") for task in held]
        with CaptureQueriesContext(connection) as completing:
            agent_work.complete_tasks(nova_id, sent, now=now)
        counts.append((len(claiming), len(completing)))
    assert abs(counts[0][0] - counts[1][0]) <= 2, counts  # one finds enough of its own and looks no further
    assert counts[0][1] == counts[1][1]


def test_waiting_agents_are_called_once_for_each_task(now):
    for nova_id in ("torch", "echo", "helix"):
        make_agent(nova_id)
    waiting = ["torch", "echo", "helix"]
    assert agent_work.whom_work_waits_for(waiting, now=now) == []
    factories.make_task()
    factories.make_task(assignee="helix")
    assert agent_work.whom_work_waits_for(waiting, now=now) == ["torch", "helix"]


@pytest.mark.django_db(transaction=True)
def test_fifty_agents_that_claim_at_once_never_get_the_same_task():
    now = factories.NOW
    nova_ids = [f"agent-{number}" for number in range(10)]
    for nova_id in nova_ids:
        make_agent(nova_id, room=8)
    for _ in range(100):
        factories.make_task()
    barrier, got, errors = Barrier(50), [], []

    def work(nova_id: str) -> None:
        try:
            barrier.wait(30)
            for _ in range(4):
                got.extend((nova_id, task.task_id) for task in claim(nova_id, limit=2, now=now))
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [Thread(target=work, args=(nova_ids[number % 10],)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({task_id for _, task_id in got}) == len(got) == 80
    assert all(sum(1 for taker, _ in got if taker == nova_id) == 8 for nova_id in nova_ids)
    assert AuditEntry.objects.filter(action="workflow.task.claimed").count() == 80
