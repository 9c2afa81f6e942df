"""What the simulated shell does with each effect: the rows it changes, the executions it plays, the faults it notices."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from workflow.core import effects as fx
from workflow.core.momentum import after_momentum_run
from workflow.core.work import ExecutionFacts, TaskStatus, WorkType, similarity_key


def create_task(sim: Any, nova: Any, effect: fx.CreateTask) -> None:
    item = effect.item
    if effect.momentum_template:
        row = sim.ledger[item.team].setdefault(effect.momentum_template, [None, 0, False, []])
        if row[0] is not None and sim.now - row[0] < timedelta(hours=1):
            sim.faults.append(f"{item.id} again within the hour")
        row[0] = sim.now
    name = sim.add_task(
        item.title,
        item.priority,
        assignee=item.assigned_to,
        team=item.team,
        executor=item.executor,
        action=item.action,
        work_type=item.work_type,
        estimated_duration=item.estimated_duration,
        cause=item.cause,
    )
    if effect.objective_id is not None:
        sim.open_objectives[effect.objective_id] = name


def advance_objective(sim: Any, nova: Any, effect: fx.AdvanceObjective) -> None:
    for place, objective in enumerate(sim.objectives):
        if objective.id == effect.objective_id:
            if effect.next_due_at is None:
                del sim.objectives[place]
            else:
                sim.objectives[place] = replace(objective, due_at=effect.next_due_at)
            return


def start_task(sim: Any, nova: Any, effect: fx.StartTask) -> None:
    task = nova.assigned.pop(effect.task_id, None) or sim.open.pop(effect.task_id, None)
    if task is None or effect.executor not in nova.config.allowed_executors - {"agent"}:
        sim.faults.append(f"started {effect.task_id}, which is not there to start")
        return
    sim.tasks[task.id] = "in_progress"
    sim.counter += 1
    execution = ExecutionFacts(sim.counter, effect.attempt, "running", "", {}, "", True, {}, 0, sim.now)
    nova.held[task.id] = replace(
        task,
        status=TaskStatus.IN_PROGRESS,
        assignee=nova.name,
        started_at=task.started_at or sim.now,
        attempts=effect.attempt,
        progress=0,
        execution=execution,
    )
    length = sim.random.expovariate(1 / 15)
    if length > 20:
        sim.at(sim.now + timedelta(seconds=length / 2), lambda: come_further(sim, nova, task.id, execution.id))
    sim.at(sim.now + timedelta(seconds=length), lambda: end(sim, nova, task.id, execution.id))


def come_further(sim: Any, nova: Any, name: str, execution_id: int) -> None:
    task = nova.held.get(name)
    if task and task.execution and task.execution.id == execution_id:
        nova.held[name] = replace(task, execution=replace(task.execution, progress=50))
        sim.wake(nova)


def end(sim: Any, nova: Any, name: str, execution_id: int) -> None:
    task = nova.held.get(name)
    if not task or not task.execution or task.execution.id != execution_id:
        return
    dice = sim.random.random()
    ended = replace(task.execution, finished_at=sim.now, status="succeeded", results="found it", metrics={"tool_uses": 2})
    if dice < 0.15:
        status = sim.random.choice(("failed", "timed_out", "abandoned", "cancelled"))
        ended = replace(ended, status=status, error="it broke", retryable=sim.random.random() < 0.8)
    elif dice < 0.2:
        ended = replace(ended, needs={"owner": "operator", "action": "connect a model or an agent"})
    nova.held[name] = replace(task, execution=ended)
    sim.wake(nova)


def update_progress(sim: Any, nova: Any, effect: fx.UpdateProgress) -> None:
    nova.held[effect.task_id] = replace(nova.held[effect.task_id], progress=effect.progress_percentage)


def complete_task(sim: Any, nova: Any, effect: fx.CompleteTask) -> None:
    task = nova.held.pop(effect.task_id)
    sim.tasks[task.id] = "completed"
    entry = sim.history[similarity_key(task.work_type, task.executor, task.action)]
    entry[0] += 1
    entry[1] += (sim.now - (task.started_at or sim.now)).total_seconds()
    close_objective(sim, task.id)
    if task.work_type == WorkType.MOMENTUM:
        nova.runs[task.action] += 1
        row = sim.ledger[task.team][task.action]
        findings = [f"finding {sim.random.randrange(40)}"]
        row[1], row[2] = after_momentum_run(row[3], findings, row[1])
        row[3] = findings


def close_objective(sim: Any, name: str) -> None:
    sim.open_objectives = {key: value for key, value in sim.open_objectives.items() if value != name}


def retry_task(sim: Any, nova: Any, effect: fx.RetryTask) -> None:
    task = nova.held.pop(effect.task_id)
    sim.tasks[task.id] = "pending"
    nova.assigned[task.id] = replace(task, status=TaskStatus.PENDING, not_before=effect.not_before, execution=None, progress=0)


def block_task(sim: Any, nova: Any, effect: fx.BlockTask) -> None:
    task = nova.held.pop(effect.task_id, None) or nova.assigned.pop(effect.task_id)
    if not (effect.owner and effect.action and effect.reason):
        sim.faults.append(f"{task.id} is blocked, and nobody knows why")
    sim.tasks[task.id] = "blocked"
    sim.blocked[task.id] = replace(task, execution=None, progress=0, blocked_time=task.blocked_time + timedelta(hours=1))
    sim.at(sim.now + timedelta(hours=1), lambda: sim.unblock(task.id))
    close_objective(sim, task.id)


def celebrate(sim: Any, nova: Any, effect: fx.Celebrate) -> None:
    sim.celebrations[effect.task_id] += 1
    if sim.celebrations[effect.task_id] > 1 or sim.tasks[effect.task_id] != "completed":
        sim.faults.append(f"{effect.task_id} was celebrated without being completed, or twice")


def record_insight(sim: Any, nova: Any, effect: fx.RecordInsight) -> None:
    nova.insights.appendleft(effect.insights["lessons_learned"])


def handle_signal(sim: Any, nova: Any, effect: fx.HandleSignal) -> None:
    nova.signals = [signal for signal in nova.signals if signal.id != effect.signal_id]


def finish_drain(sim: Any, nova: Any, effect: fx.FinishDrain) -> None:
    nova.paused_until = sim.now + timedelta(minutes=10)
    sim.at(nova.paused_until, lambda: sim.resume(nova))


CARRY: dict[type[fx.Effect], Callable[[Any, Any, Any], None]] = {
    fx.CreateTask: create_task,
    fx.AdvanceObjective: advance_objective,
    fx.StartTask: start_task,
    fx.UpdateProgress: update_progress,
    fx.CompleteTask: complete_task,
    fx.RetryTask: retry_task,
    fx.BlockTask: block_task,
    fx.Celebrate: celebrate,
    fx.RecordInsight: record_insight,
    fx.HandleSignal: handle_signal,
    fx.FinishDrain: finish_drain,
}
