"""A fleet in memory: a small pure shell that carries effects out at once, so that simulated days pass in seconds.

It plays the part of database, streams, executors and operators, seeded, and puts every step before the lawbook.
"""

import heapq
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from tests.workflow.core.facts import NOW, SAFE, UNSAFE, make_task
from tests.workflow.core.laws import Lawbook
from tests.workflow.core.simulated_effects import CARRY
from workflow.core import effects as fx
from workflow.core.cycle import CycleInputs, NovaConfig, Step
from workflow.core.machine import WorkflowStateMachine, recover, wants_insights
from workflow.core.momentum import MomentumFacts, allowed_templates
from workflow.core.personality import NovaPersonalityConfig
from workflow.core.state import TRANSITIONS, IllegalTransition, Table, WorkflowState, WorkflowStateData, new_state
from workflow.core.work import (
    MomentumBudget,
    ObjectiveFacts,
    Priority,
    Signal,
    SimilarTasks,
    TaskFacts,
    TaskStatus,
    Wanting,
    deal,
    order_at,
    similarity_key,
    task_id,
)

PERSONALITIES = list(NovaPersonalityConfig.PERSONALITY_CONFIGS)
PACE = timedelta(seconds=3)  # for a personality's second: a slower pace saves idle cycles, which are all alike
TEAMS = ("", "", "builders", "watch")
PRIORITIES = (Priority.CRITICAL, Priority.HIGH, Priority.MEDIUM, Priority.MEDIUM, Priority.LOW)
MESSAGES = (
    {"message": "Emergency: the database is corrupted"},
    {"title": "Please review the plan", "sender": "echo"},
    {"message": "fyi, the report is out"},
    {"type": "heartbeat"},
    {"message": "what now", "priority": "high"},
    {"something": "else"},
)


class BrokenStep(Exception):
    """The error that some steps raise."""


class SimulatedNova:
    """A Nova with the rows it would have."""

    def __init__(self, number: int, now: datetime) -> None:
        personality = PERSONALITIES[number % len(PERSONALITIES)]
        values = NovaPersonalityConfig.get_config(personality)
        self.name = f"{personality}-{number}"
        self.config = NovaConfig(
            nova_id=self.name,
            team=TEAMS[number % len(TEAMS)],
            **(values | {"base_cycle_time": PACE * values["base_cycle_time"]}),
            default_executor="builtin",
            allowed_executors=frozenset(("builtin", "agent", "model") if number % 3 == 0 else ("builtin", "agent")),
            max_concurrent_tasks=3 if number % 7 == 0 else 1,
            personal_phase_after=2 if number % 2 else 0,
        )
        self.state: WorkflowStateData = new_state(self.name, now)
        self.due_at = now
        self.signals: list[Signal] = []
        self.held: dict[str, TaskFacts] = {}
        self.assigned: dict[str, TaskFacts] = {}  # pending, with this assignee, ready or not
        self.insights: deque[str] = deque(maxlen=5)
        self.unsafe_until: datetime | None = None
        self.mechanism = "frosty"
        self.paused_until: datetime | None = None
        self.day = now.date()
        self.runs: Counter[str] = Counter()  # momentum work this day
        self.budget: tuple[int, tuple[str, ...]] = (0, ())


class Simulation:
    """Runs a fleet for a while; `faults` is what went wrong, and stops it."""

    def __init__(self, novas: int, *, seed: int = 1, table: Table = TRANSITIONS, book: Lawbook | None = None) -> None:
        self.random = random.Random(seed)
        self.machine = WorkflowStateMachine(table)
        self.book = book or Lawbook()
        self.now = NOW
        self.novas = {nova.name: nova for nova in (SimulatedNova(number, NOW) for number in range(novas))}
        self.open: dict[str, TaskFacts] = {}
        self.for_agents: dict[str, TaskFacts] = {}
        self.tasks: dict[str, str] = {}  # every accepted task and its status
        self.blocked: dict[str, TaskFacts] = {}
        self.history: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0])
        self.ledger: defaultdict[str, dict[str, list[Any]]] = defaultdict(
            dict
        )  # template -> [last created, fruitless, asleep, findings]
        self.objectives = [
            ObjectiveFacts(1, "Keep the docs true", "", Priority.MEDIUM, timedelta(hours=2), NOW),
            ObjectiveFacts(2, "Watch the fleet", "", Priority.HIGH, timedelta(hours=1), NOW, None, next(iter(self.novas))),
        ]
        self.open_objectives: dict[int, str] = {}
        self.agenda: list[tuple[datetime, int, Callable[[], None]]] = []
        self.counter = 0
        self.celebrations: Counter[str] = Counter()
        self.states: Counter[WorkflowState] = Counter()
        self.stages: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.error_share = 0.003  # of the steps raise
        self.steps = 0
        self.faults: list[str] = []

    # -- time -----------------------------------------------------------------------------------------------------------------

    def at(self, instant: datetime, action: Callable[[], None]) -> None:
        self.counter += 1
        heapq.heappush(self.agenda, (instant, self.counter, action))

    def wake(self, nova: SimulatedNova) -> None:
        self.set_due(nova, self.now)

    def set_due(self, nova: SimulatedNova, instant: datetime) -> None:
        nova.due_at = instant
        self.at(instant, lambda: self.step(nova) if nova.due_at == instant else None)

    def run(self, length: timedelta) -> "Simulation":
        """Run for a while, or until the first fault."""
        end = self.now + length
        for nova in self.novas.values():
            self.set_due(nova, self.now + timedelta(milliseconds=self.random.randrange(20_000)))
            self.later(3 * 3600, lambda nova=nova: self.become_unsafe(nova))
            self.later(2400, lambda nova=nova: self.send_signal(nova))
            self.later(6 * 3600, lambda nova=nova: self.drain(nova))
        self.later(30, self.request_work)
        while self.agenda and not self.faults:
            instant, _, action = heapq.heappop(self.agenda)
            if instant > end:
                break
            self.now = instant
            action()
        return self

    def later(self, mean_seconds: float, action: Callable[[], None]) -> None:
        self.at(self.now + timedelta(seconds=self.random.expovariate(1 / mean_seconds)), action)

    # -- what happens to a fleet ----------------------------------------------------------------------------------------------

    def request_work(self) -> None:
        """Somebody asks for work, now and then in a burst."""
        for _ in range(20 if self.random.random() < 0.02 else 1):
            nova = self.random.choice(list(self.novas.values())) if self.random.random() < 0.3 else None
            executor = self.random.choice(("", "", "", "builtin", "model" if nova else "builtin", "agent"))
            self.add_task(
                self.random.choice(("Write the report", "Count the streams", "Mend the fence")),
                self.random.choice(PRIORITIES),
                assignee=nova.name if nova else "",
                team="" if nova else self.random.choice(TEAMS),
                executor=executor,
                action="echo",
                estimated_duration=timedelta(seconds=self.random.choice((0, 20, 600))),
                personal=nova is not None and self.random.random() < 0.1,
            )
        self.later(30, self.request_work)

    def add_task(self, title: str, priority: Priority, *, assignee: str, **fields: Any) -> str:
        self.counter += 1
        name = task_id(assignee or "FLEET", int(self.now.timestamp()), self.counter)
        created = {"created_at": self.now, "order_at": order_at(priority, self.now)}
        if fields.get("personal"):
            title = f"Private wish {self.counter}"
        task = make_task(title, id=name, priority=priority, assignee=assignee, **created, **fields)
        self.tasks[name] = "pending"
        self.queue(task)
        if task.executor == "agent":
            self.later(600, lambda: self.let_agent_work(task))
        return name

    def queue(self, task: TaskFacts) -> None:
        if task.executor == "agent" and not task.assignee:
            self.for_agents[task.id] = task
        elif task.assignee:
            nova = self.novas[task.assignee]
            nova.assigned[task.id] = task
            self.wake(nova)
        else:
            self.open[task.id] = task
            idle = [
                nova for nova in self.novas.values() if not nova.held and nova.state.current_state == WorkflowState.STREAM_CHECK
            ]
            if idle:
                self.wake(self.random.choice(idle))

    def let_agent_work(self, task: TaskFacts) -> None:
        """An agent comes by, takes a task that is meant for it and completes it."""
        waiting = self.novas[task.assignee].assigned if task.assignee else self.for_agents
        if waiting.pop(task.id, None) is not None:
            self.tasks[task.id] = "completed"

    def send_signal(self, nova: SimulatedNova) -> None:
        self.counter += 1
        kind = "alert" if self.random.random() < 0.2 else "signal"
        stream = "nova.priority.alerts" if self.random.random() < 0.2 else f"nova.coordination.{nova.name}"
        fields = self.random.choice(MESSAGES)
        nova.signals.append(Signal(self.counter, kind, stream, fields, self.now, f"{self.counter}-0"))
        self.wake(nova)
        self.later(2400, lambda: self.send_signal(nova))

    def become_unsafe(self, nova: SimulatedNova) -> None:
        nova.unsafe_until = self.now + timedelta(seconds=self.random.randrange(5, 300))
        nova.mechanism = self.random.choice(("frosty", "api_guardian", ""))
        self.wake(nova)
        self.later(3 * 3600, lambda: self.become_unsafe(nova))

    def drain(self, nova: SimulatedNova) -> None:
        nova.config = replace(nova.config, draining=True)
        self.wake(nova)

    def resume(self, nova: SimulatedNova) -> None:
        """The drained Nova comes back, with a new session."""
        nova.paused_until = None
        nova.state = new_state(nova.name, self.now)
        nova.config = replace(nova.config, draining=False)
        self.wake(nova)
        self.later(6 * 3600, lambda: self.drain(nova))

    def unblock(self, name: str) -> None:
        task = self.blocked.pop(name)
        self.tasks[name] = "pending"
        executor = "builtin" if task.executor == "model" else task.executor
        self.queue(replace(task, status=TaskStatus.PENDING, max_attempts=task.attempts + 3, executor=executor))

    # -- one step -------------------------------------------------------------------------------------------------------------

    def gather(self, nova: SimulatedNova) -> CycleInputs:
        now, config = self.now, nova.config
        assigned = self.ready(nova.assigned)
        ready = self.ready(self.open)
        free = config.max_concurrent_tasks - len(nova.held)
        dealt: list[TaskFacts] = []
        if ready and free > 0:
            wanting = Wanting(nova.name, config.team, free, config.default_executor, config.allowed_executors)
            dealt = deal(ready, [wanting]).get(nova.name, [])
        safety = SAFE
        if nova.unsafe_until is not None and now < nova.unsafe_until:
            expires_at = nova.unsafe_until if nova.mechanism == "frosty" else None
            safety = replace(UNSAFE, mechanism=nova.mechanism, expires_at=expires_at)
        keys = {similarity_key(task.work_type, task.executor, task.action) for task in nova.held.values()}
        return CycleInputs(
            config=config,
            safety=safety,
            signals=tuple(nova.signals),
            held=tuple(nova.held.values()),
            assigned=assigned,
            dealt=dealt,
            available=len(assigned) + sum(1 for task in ready if task.team in ("", config.team)),
            momentum=MomentumBudget(self.allowed(nova)),
            objectives=[
                o
                for o in self.objectives
                if o.due_at <= now and o.id not in self.open_objectives and o.nova_id in ("", nova.name)
            ],
            similar={key: self.similar(key) for key in keys if key in self.history},
            recent_insights=tuple(nova.insights) if wants_insights(nova.state, config) else (),
        )

    def ready(self, tasks: dict[str, TaskFacts]) -> list[TaskFacts]:
        if not tasks:
            return []
        ready = [task for task in tasks.values() if task.not_before is None or task.not_before <= self.now]
        return sorted(ready, key=lambda task: task.order_at)

    def allowed(self, nova: SimulatedNova) -> tuple[str, ...]:
        """Ask the policy; its answer changes by the hour and with runs, so it is asked once a minute."""
        minute = int(self.now.timestamp()) // 60
        if nova.budget[0] != minute or nova.budget[1]:
            rows = self.ledger[nova.config.team]
            facts = [MomentumFacts(template, row[0], row[2]) for template, row in rows.items()]
            if nova.day != self.now.date():
                nova.day = self.now.date()
                nova.runs.clear()
            nova.budget = minute, allowed_templates(facts, self.now, nova.runs)
        return nova.budget[1]

    def similar(self, key: str) -> SimilarTasks:
        count, seconds = self.history[key]
        return SimilarTasks(int(count), timedelta(seconds=seconds / count))

    def step(self, nova: SimulatedNova) -> None:
        if nova.paused_until is not None:
            return
        inputs = self.gather(nova)
        before, snapshot = nova.state, copy(nova.state)
        try:
            if self.random.random() < self.error_share:
                raise BrokenStep("the database went away")
            step = self.machine.execute_cycle(before, inputs, self.now)
        except BrokenStep as error:
            step = recover(before, str(error), self.now)
            if step.due_at <= self.now:
                self.faults.append("an error without backoff")
        except IllegalTransition as error:
            self.faults.append(f"illegal: {error}")
            return
        else:
            self.faults += [
                f"{nova.name} at {self.now}: {fault}" for fault in self.book.faults(before, snapshot, inputs, self.now, step)
            ]
        self.steps += 1
        self.note(step)
        nova.state = step.state
        for effect in step.effects:
            self.effects[type(effect).__name__] += 1
            carry = CARRY.get(type(effect))
            if carry:
                carry(self, nova, effect)
        if nova.paused_until is None:
            self.set_due(nova, step.due_at)

    def note(self, step: Step) -> None:
        self.states[step.state.current_state] += 1
        self.stages[step.state.completion_stage] += 1
        for effect in step.effects:
            if isinstance(effect, fx.ReportStatus):
                self.states.update(WorkflowState(state) for state in effect.path[:-1])
                for source, target in pairwise(effect.path):
                    if WorkflowState(target) not in TRANSITIONS[WorkflowState(source)]:
                        self.faults.append(f"walked from {source} to {target}")
