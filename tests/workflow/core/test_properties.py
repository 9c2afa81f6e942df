"""Properties of the core under whatever hypothesis thinks of: any history of one Nova, and any single state."""

from copy import copy
from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.workflow.core.facts import (
    HOUR,
    NOW,
    SAFE,
    SECOND,
    UNSAFE,
    make_config,
    make_execution,
    make_held,
    make_signal,
    make_state,
    make_task,
)
from tests.workflow.core.laws import RESTING, Lawbook
from tests.workflow.core.simulation import MESSAGES, Simulation
from workflow.core import effects as fx
from workflow.core.cycle import CycleInputs
from workflow.core.machine import execute_cycle, recover
from workflow.core.state import CompletionStage, WorkflowPhase, WorkflowState
from workflow.core.work import MomentumBudget, Priority, Signal, WorkType

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
STATUSES = ("dispatched", "running", "succeeded", "failed", "timed_out", "abandoned", "cancelled")


class OneNova(RuleBasedStateMachine):
    """Any order of events in the life of one Nova; every step is put before the lawbook."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Simulation(1, seed=3)
        self.fleet.error_share = 0.0
        (self.nova,) = self.fleet.novas.values()

    def step(self) -> None:
        if self.nova.paused_until is None:
            self.fleet.step(self.nova)

    @rule(slots=st.integers(1, 3), per_phase=st.integers(1, 3), personal=st.integers(0, 2))
    def configure(self, slots, per_phase, personal):
        changes = {"max_concurrent_tasks": slots, "tasks_per_phase": per_phase, "personal_phase_after": personal}
        self.nova.config = replace(self.nova.config, **changes)

    @rule(
        priority=st.sampled_from(Priority),
        mine=st.booleans(),
        executor=st.sampled_from(("", "builtin", "agent", "command")),
        work_type=st.sampled_from((WorkType.REQUESTED, WorkType.ALERT, WorkType.STRATEGIC)),
        personal=st.booleans(),
    )
    def request(self, priority, mine, executor, work_type, personal):
        fields = {"executor": executor, "work_type": work_type, "personal": personal and mine}
        self.fleet.add_task("Write the report", priority, assignee=self.nova.name if mine else "", **fields)
        self.step()

    @rule(
        fields=st.sampled_from(MESSAGES),
        kind=st.sampled_from(("signal", "alert", "work_item")),
        stream=st.sampled_from(("nova.priority.alerts", "nova.coordination.torch-0")),
        now=st.booleans(),
    )
    def signal(self, fields, kind, stream, now):
        self.fleet.counter += 1
        self.nova.signals.append(Signal(self.fleet.counter, kind, stream, fields, self.fleet.now, f"{self.fleet.counter}-0"))
        if now:
            self.step()

    @precondition(lambda self: self.nova.held)
    @rule(status=st.sampled_from(STATUSES), retryable=st.booleans(), needs=st.booleans(), progress=st.integers(0, 100))
    def report(self, status, retryable, needs, progress):
        name, task = next(iter(self.nova.held.items()))
        needed = {"owner": "operator", "action": "connect an agent"} if needs else {}
        fields = {"retryable": retryable, "needs": needed, "progress": progress, "attempt": task.attempts}
        self.nova.held[name] = replace(task, execution=make_execution(status, **fields))
        self.step()

    @rule(seconds=st.integers(1, 600), mechanism=st.sampled_from(("frosty", "api_guardian", "")))
    def become_unsafe(self, seconds, mechanism):
        self.nova.unsafe_until = self.fleet.now + timedelta(seconds=seconds)
        self.nova.mechanism = mechanism
        self.step()

    @rule()
    def become_safe(self):
        self.nova.unsafe_until = None
        self.step()

    @rule(draining=st.booleans())
    def drain(self, draining):
        self.nova.paused_until = None
        self.nova.config = replace(self.nova.config, draining=draining)
        self.step()

    @rule()
    def fail(self):
        before = copy(self.nova.state)
        step = recover(self.nova.state, "the database went away", self.fleet.now)
        assert self.nova.state == before
        assert step.due_at > self.fleet.now
        self.nova.state, self.nova.due_at = step.state, step.due_at

    @rule(seconds=st.floats(0, 120))
    def pass_time(self, seconds):
        self.fleet.now += timedelta(seconds=seconds)
        self.step()

    @rule()
    def reach_due_time(self):
        self.fleet.now = max(self.fleet.now, self.nova.due_at)
        self.step()

    @invariant()
    def no_law_is_broken(self):
        assert self.fleet.faults == []


OneNova.TestCase.settings = settings(QUICK, max_examples=100, stateful_step_count=40)
TestNoHistoryOfANovaBreaksALaw = OneNova.TestCase

instants = st.integers(-7200, 7200).map(lambda seconds: NOW + timedelta(seconds=seconds))
states = st.builds(
    make_state,
    st.sampled_from(WorkflowState),
    current_phase=st.sampled_from(WorkflowPhase),
    tasks_completed_in_phase=st.integers(0, 9),
    last_stream_check=st.none() | instants,
    cycle_started_at=instants,
    state_entered_at=instants,
    phase_started_at=instants,
    resume_state=st.none() | st.sampled_from(WorkflowState),
    completion_stage=st.sampled_from(CompletionStage),
    completion_stage_until=st.none() | instants,
    completion_until=st.none() | instants,
    consecutive_errors=st.integers(0, 60),
    context=st.fixed_dictionaries({}, optional={"look_again_at": instants.map(lambda instant: instant.isoformat())}),
)
tasks = st.lists(
    st.builds(
        make_task,
        priority=st.sampled_from(Priority),
        executor=st.sampled_from(("", "builtin", "agent", "command")),
        work_type=st.sampled_from(WorkType),
        created_at=instants,
        attempts=st.integers(0, 5),
    ),
    max_size=4,
)
inputs = st.builds(
    CycleInputs,
    config=st.builds(
        make_config,
        max_concurrent_tasks=st.integers(1, 3),
        personal_phase_after=st.integers(0, 2),
        draining=st.booleans(),
        reflection_frequency=st.floats(0, 1),
    ),
    safety=st.sampled_from((SAFE, UNSAFE, replace(UNSAFE, expires_at=NOW - HOUR), replace(UNSAFE, expires_at=NOW + HOUR))),
    signals=st.lists(st.sampled_from(MESSAGES).map(lambda fields: make_signal(**fields)), max_size=2),
    held=st.lists(st.sampled_from(STATUSES).map(lambda status: make_held(status=status)), max_size=3),
    assigned=tasks.map(lambda found: [replace(task, assignee="torch") for task in found]),
    dealt=tasks,
    available=st.integers(0, 5),
    momentum=st.sampled_from((MomentumBudget(), MomentumBudget(("analyze_streams", "validate_safety")))),
    recent_insights=st.sampled_from(((), ("The estimate was too short.",))),
)


@settings(QUICK, max_examples=400)
@given(states, inputs)
def test_no_state_whatever_leads_off_the_table_or_to_work_while_unsafe_or_to_no_due_time(state, given_inputs):
    before = copy(state)
    step = execute_cycle(state, given_inputs, NOW)
    assert state == before
    assert step.due_at >= NOW
    assert step.due_at <= NOW + HOUR
    assert step.state.total_cycles_completed == state.total_cycles_completed + 1
    assert step.state.current_state in RESTING
    if not given_inputs.safety.is_safe:
        assert step.state.current_state == WorkflowState.SAFETY_PAUSE
        assert not any(isinstance(effect, fx.StartTask | fx.CreateTask | fx.HandleSignal) for effect in step.effects)
    book = Lawbook()
    faults = book.faults(state, before, given_inputs, NOW, step)
    # some laws are about histories; a made-up state has none
    assert [
        fault for fault in faults if not fault.startswith(("dwells", "pauses while", "resumes", "is due", "is quiet"))
    ] == []


@settings(QUICK)
@given(states, st.text(max_size=5000))
def test_recovery_works_from_every_state_and_waits_longer_each_time(state, error):
    waits = []
    for _ in range(12):
        step = recover(state, error, NOW)
        waits.append(step.due_at - NOW)
        assert step.state.current_state == WorkflowState.ERROR_RECOVERY
        assert step.state.consecutive_errors == state.consecutive_errors + 1
        state = step.state
    assert all(SECOND <= wait <= timedelta(minutes=5) for wait in waits)
    assert waits == sorted(waits)
