"""The laws of the core, as checks that tests evaluate: of a table of moves, and of every single step.

Each check gives the faults it found as sentences. `Lawbook` counts how often each law had something to say.
"""

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from operator import attrgetter

from workflow.core import effects as fx
from workflow.core.cycle import CycleInputs
from workflow.core.machine import Step
from workflow.core.state import RESUMED_AT, CompletionStage, Table, WorkflowPhase, WorkflowState, WorkflowStateData
from workflow.core.work import TaskFacts, WorkType

RESTING = frozenset(
    (
        WorkflowState.STREAM_CHECK,
        WorkflowState.TASK_EXECUTION,
        WorkflowState.COMPLETION_ROUTINE,
        WorkflowState.SAFETY_PAUSE,
        WorkflowState.ERROR_RECOVERY,
    )
)
_RUNNING = ("dispatched", "running")
_ENDS = fx.CompleteTask | fx.RetryTask | fx.BlockTask


def table_faults(table: Table) -> list[str]:
    """Check the laws of a table: total, reachable, an exit everywhere, pause and recovery from anywhere, back from a pause."""
    astray = {WorkflowState.SAFETY_PAUSE, WorkflowState.ERROR_RECOVERY}
    faults = [f"{state} has no row" for state in WorkflowState if state not in table]
    faults += [f"{state} has no ordinary exit" for state in table if not table[state] - astray - {state}]
    reached, front = {WorkflowState.INITIALIZING}, [WorkflowState.INITIALIZING]
    while front:
        state = front.pop()
        fresh = (table.get(state, frozenset()) if state not in astray else frozenset()) - reached
        reached |= fresh
        front += fresh
    faults += [f"{state} can't be reached" for state in WorkflowState if state not in reached]
    for target in (WorkflowState.SAFETY_PAUSE, WorkflowState.ERROR_RECOVERY):
        faults += [
            f"{state} does not lead to {target}"
            for state in WorkflowState
            if state != target and target not in table.get(state, ())
        ]
    pause = table.get(WorkflowState.SAFETY_PAUSE, frozenset())
    faults += [
        f"a pause can't return to {state}" for state in WorkflowState if state not in pause | {WorkflowState.SAFETY_PAUSE}
    ]
    starters = {state for state in WorkflowState if WorkflowState.TASK_EXECUTION in table.get(state, ())}
    allowed = {WorkflowState.WORK_DISCOVERY, WorkflowState.PROGRESS_UPDATE, WorkflowState.SAFETY_PAUSE}
    faults += [f"{state} leads to task execution past discovery" for state in starters - allowed]
    return faults


class Lawbook:
    """Evaluates the laws of a step and counts the evaluations that were about something."""

    def __init__(self) -> None:
        self.evaluated: Counter[str] = Counter()

    def faults(
        self, before: WorkflowStateData, snapshot: WorkflowStateData, inputs: CycleInputs, now: datetime, step: Step
    ) -> list[str]:
        """Check one step. `snapshot` is a copy of `before` made before the step."""
        case = Case(before, inputs, now, step)
        found: list[str] = []
        if before != snapshot:
            found.append("the caller's state was changed")
        for name, law in (PLAIN_LAWS if case.is_plain() else LAWS).items():
            verdict = law(case)
            if verdict is not None:
                self.evaluated[name] += 1
                found += [f"{name}: {fault}" for fault in verdict]
        return found


class Case:
    """One step with what the laws ask about it."""

    def __init__(self, before: WorkflowStateData, inputs: CycleInputs, now: datetime, step: Step) -> None:
        self.before = before
        self.after = step.state
        self.inputs = inputs
        self.config = inputs.config
        self.now = now
        self.step = step
        self.effects = step.effects
        self.ended = [task for task in inputs.held if task.execution and task.execution.status not in _RUNNING]

    def is_plain(self) -> bool:
        """Say whether nothing was there to do and nothing was done: most laws have nothing to say about that."""
        inputs = self.inputs
        waiting = inputs.held or inputs.assigned or inputs.dealt or inputs.signals
        resumed = self.before.current_state == WorkflowState.SAFETY_PAUSE
        return not (self.effects or waiting or resumed or self.config.draining) and inputs.safety.is_safe

    def of(self, *kinds: type[fx.Effect]) -> list[fx.Effect]:
        return [effect for effect in self.effects if isinstance(effect, kinds)]

    def runnable(self) -> list[TaskFacts]:
        config = self.config
        return [
            task
            for task in (*self.inputs.assigned, *self.inputs.dealt)
            if (task.executor or config.default_executor) != "agent"
            and (task.executor or config.default_executor) in config.allowed_executors
        ]

    def started(self) -> list[str]:
        return [effect.task_id for effect in self.effects if isinstance(effect, fx.StartTask)]


Verdict = list[str] | None  # None: the law had nothing to say about this step


def _due(case: Case) -> Verdict:
    limit = case.now + max(case.config.base_cycle_time + timedelta(seconds=1), timedelta(minutes=6))
    if case.step.due_at < case.now:
        return [f"due in the past, {case.step.due_at}"]
    return [] if case.step.due_at <= limit else [f"due only at {case.step.due_at}, from {case.now}"]


def _rests(case: Case) -> Verdict:
    return [] if case.after.current_state in RESTING else [f"rests in {case.after.current_state}"]


def _counts(case: Case) -> Verdict:
    faults = []
    if case.after.total_cycles_completed != case.before.total_cycles_completed + 1:
        faults.append("the cycle was not counted")
    left = len(case.inputs.held) - len(case.ended) + len(case.started())
    recovering = case.after.current_state == WorkflowState.ERROR_RECOVERY  # it looks at nothing until its backoff is over
    if case.effects and not recovering and case.after.tasks_in_flight != left:
        faults.append(f"{case.after.tasks_in_flight} tasks in flight, but {left} in hand")
    return faults


def _pauses(case: Case) -> Verdict:
    if case.inputs.safety.is_safe:
        return None
    faults = []
    if case.after.current_state != WorkflowState.SAFETY_PAUSE:
        faults.append(f"unsafe, but in {case.after.current_state}")
    if case.of(fx.StartTask, fx.CreateTask, fx.HandleSignal, fx.AdvanceObjective, fx.ReviewInsights, fx.ReflectPrivately):
        faults.append("something was started or created while unsafe")
    if case.before.current_state == WorkflowState.SAFETY_PAUSE:
        if case.after.resume_state != case.before.resume_state:
            faults.append("the interrupted state was forgotten")
        if case.of(fx.ReportViolation) and case.before.safety_status.mechanism == case.inputs.safety.mechanism:
            faults.append("one violation was reported twice")
    elif case.after.resume_state != case.before.current_state:
        faults.append(f"interrupted {case.before.current_state}, remembered {case.after.resume_state}")
    elif not case.of(fx.ReportViolation):
        faults.append("the violation was not reported")
    return faults


def _resumes(case: Case) -> Verdict:
    if case.before.current_state != WorkflowState.SAFETY_PAUSE or not case.inputs.safety.is_safe:
        return None
    report = case.of(fx.ReportStatus)[0]
    assert isinstance(report, fx.ReportStatus)
    wanted = case.before.resume_state or WorkflowState.STREAM_CHECK
    return [] if report.path[1] == wanted else [f"came back to {report.path[1]} instead of {wanted}"]


def _ends(case: Case) -> Verdict:
    """Every ended execution has exactly one consequence, and only those."""
    if case.after.current_state == WorkflowState.ERROR_RECOVERY or not case.ended:
        return None
    assigned = {task.id for task in case.inputs.assigned}
    ends = [effect.task_id for effect in case.effects if isinstance(effect, _ENDS) and effect.task_id not in assigned]
    wanted = sorted(task.id for task in case.ended)
    return [] if sorted(ends) == wanted else [f"ended {wanted}, but dealt with {sorted(ends)}"]


def _celebrates(case: Case) -> Verdict:
    """Celebration and insight belong to a task completed in this very cycle, once each; a personal one has neither."""
    personal = {task.id for task in case.inputs.held if task.personal}
    completed = [
        effect.task_id for effect in case.effects if isinstance(effect, fx.CompleteTask) and effect.task_id not in personal
    ]
    celebrated = [effect.task_id for effect in case.effects if isinstance(effect, fx.Celebrate)]
    learned = [effect.task_id for effect in case.effects if isinstance(effect, fx.RecordInsight)]
    if not (completed or celebrated or learned):
        return None
    faults = (
        []
        if completed == celebrated == learned
        else [f"completed {completed}, celebrated {celebrated}, learned from {learned}"]
    )
    if completed and case.after.last_completion_celebration != case.now:
        faults.append("the celebration was not remembered")
    return faults


def _dwells(case: Case) -> Verdict:
    """The routine has its deadlines, is over after three minutes outside of pauses, and keeps no work waiting."""
    stage, until, end = case.after.completion_stage, case.after.completion_stage_until, case.after.completion_until
    if stage == CompletionStage.NONE:
        return (
            None
            if case.before.completion_stage == CompletionStage.NONE
            else []
            if until is None and end is None
            else ["deadlines are left"]
        )
    faults = []
    if until is None or end is None or until > end:
        return [f"a stage until {until}, in a routine until {end}"]
    celebrated, resumed = case.after.last_completion_celebration, case.after.context.get(RESUMED_AT)
    if celebrated and resumed:
        celebrated = max(celebrated, datetime.fromisoformat(resumed))
    if celebrated is None or end - celebrated > timedelta(minutes=3):
        faults.append(f"celebrates what was done at {celebrated} until {end}")
    if case.after.current_state == WorkflowState.COMPLETION_ROUTINE:
        if case.now >= end:
            faults.append("the routine goes on past its end")
        if any(task.work_type != WorkType.MOMENTUM for task in case.runnable()) or len(case.inputs.held) > len(case.ended):
            faults.append("the routine keeps work waiting")
    return faults


def _signals(case: Case) -> Verdict:
    """Signals are handled all at once or left all waiting; what became work has its task."""
    handled = [effect for effect in case.effects if isinstance(effect, fx.HandleSignal)]
    if not case.inputs.signals:
        return None
    working = (
        case.inputs.safety.is_safe and not case.config.draining and case.after.current_state != WorkflowState.ERROR_RECOVERY
    )
    wanted = sorted(signal.id for signal in case.inputs.signals) if working else []
    faults = (
        [] if sorted(effect.signal_id for effect in handled) == wanted else [f"handled {len(handled)} of {len(wanted)} signals"]
    )
    made = sorted(effect.signal_id or 0 for effect in case.effects if isinstance(effect, fx.CreateTask) and effect.signal_id)
    if made != sorted(effect.signal_id for effect in handled if effect.outcome == "work"):
        faults.append("a signal became work without a task, or the other way round")
    return faults


def _starts(case: Case) -> Verdict:
    """Only ready tasks are started, that the Nova may run, within its slots, the most urgent first."""
    started = case.started()
    if not started:
        return None
    runnable = {task.id: task for task in case.runnable()}
    faults = [f"started {task_id}, which it may not" for task_id in started if task_id not in runnable]
    if len(started) != len(set(started)):
        faults.append("a task was started twice")
    if len(case.inputs.held) - len(case.ended) + len(started) > case.config.max_concurrent_tasks:
        faults.append("more tasks than slots")
    left = [task.order_at.replace(microsecond=0) for task_id, task in runnable.items() if task_id not in started]
    latest = max(runnable[task_id].order_at.replace(microsecond=0) for task_id in started if task_id in runnable)
    if left and min(left) < latest:
        faults.append("a less urgent task went first")
    return faults


def _conserves_work(case: Case) -> Verdict:
    """No ready task waits beside a free slot, but in a pause, a recovery, a drain or a personal phase."""
    state = case.after.current_state
    if state in (WorkflowState.SAFETY_PAUSE, WorkflowState.ERROR_RECOVERY) or case.config.draining:
        return None
    runnable = case.runnable()
    if not runnable:
        return None
    if case.after.current_phase == WorkflowPhase.PERSONAL_PHASE:
        urgent = [task.id for task in runnable if task.priority in ("critical", "high") and task.id not in case.started()]
        return [f"urgent work waits for a personal phase: {urgent}"] if urgent else []
    if state == WorkflowState.COMPLETION_ROUTINE:
        return None  # _dwells sees to it
    free = case.config.max_concurrent_tasks - (len(case.inputs.held) - len(case.ended))
    wanted = min(max(free, 0), len(runnable))
    return [] if len(case.started()) == wanted else [f"started {len(case.started())} of {wanted}"]


def _drains(case: Case) -> Verdict:
    if not case.config.draining:
        return ["a drain was finished that nobody asked for"] if case.of(fx.FinishDrain) else None
    if case.after.current_state == WorkflowState.ERROR_RECOVERY:
        return None
    faults = []
    if case.of(fx.StartTask, fx.CreateTask, fx.HandleSignal):
        faults.append("a draining Nova took on something")
    if bool(case.of(fx.FinishDrain)) != (len(case.inputs.held) == len(case.ended)):
        faults.append("the drain ended too early or too late")
    return faults


_IDLE = ("last_stream_check", "total_cycles_completed", "cycle_started_at", "state_entered_at")
_LASTING = [name for name in WorkflowStateData.__dataclass_fields__ if name not in _IDLE]
_lasting = attrgetter(*_LASTING)


def _is_quiet(case: Case) -> Verdict:
    """A cycle without effects writes only its own clockwork."""
    if case.effects or case.before.completion_stage != CompletionStage.NONE or case.before.context.get("look_again_at"):
        return None
    if not (case.inputs.safety.is_safe and case.before.safety_status.is_safe) or _lasting(case.before) == _lasting(case.after):
        return []
    return [
        f"nothing happened, but {name} changed" for name in _LASTING if getattr(case.before, name) != getattr(case.after, name)
    ]


def _reports(case: Case) -> Verdict:
    """Status is reported once, when something happened, with a path that ends where the Nova rests."""
    reports = [effect for effect in case.effects if isinstance(effect, fx.ReportStatus)]
    happened = case.of(fx.StartTask, fx.CompleteTask, fx.BlockTask, fx.RetryTask, fx.ReflectPrivately)
    moved = case.before.current_phase != case.after.current_phase
    if not happened and not moved and not reports:
        return None
    faults = [] if len(reports) == 1 else [f"{len(reports)} status reports"]
    for report in reports:
        if report.path[-1] != case.after.current_state or report.path[0] != case.before.current_state:
            faults.append(f"went {report.path}, but from {case.before.current_state} to {case.after.current_state}")
        if not report.message:
            faults.append("a report without words")
    return faults


def _alternates(case: Case) -> Verdict:
    """Work phases take turns; a phase changes only when it has had its tasks, or a personal one ends."""
    before, after = case.before.current_phase, case.after.current_phase
    if before == after:
        return None
    personal = WorkflowPhase.PERSONAL_PHASE
    if personal not in (before, after) and case.after.work_phases_completed == case.before.work_phases_completed:
        return ["a work phase ended uncounted"]
    if after == personal and not case.of(fx.ReflectPrivately):
        return ["a personal phase without reflection"]
    return ["two reflections"] if len(case.of(fx.ReflectPrivately)) > 1 else []


def _keeps_private(case: Case) -> Verdict:
    """What is personal is in no other effect."""
    secrets = [effect.text for effect in case.effects if isinstance(effect, fx.ReflectPrivately)]
    secrets += [task.title for task in (*case.inputs.held, *case.inputs.assigned) if task.personal]
    if not secrets:
        return None
    told = "\n".join(repr(effect) for effect in case.effects if not isinstance(effect, fx.ReflectPrivately))
    return [f"told: {secret}" for secret in secrets if secret in told]


def _follows_protocol(case: Case) -> Verdict:
    messages = len(case.of(fx.CreateTask, fx.StartTask, fx.UpdateProgress, fx.CompleteTask, fx.RetryTask, fx.BlockTask))
    checks = case.after.protocol_checks - case.before.protocol_checks
    if not messages and not checks:
        return None
    passes = case.after.protocol_passes - case.before.protocol_passes
    return [] if messages == checks == passes else [f"{messages} messages, {checks} checked, {passes} passed"]


LAWS: dict[str, Callable[[Case], Verdict]] = {
    "is due in time": _due,
    "rests in a resting state": _rests,
    "counts": _counts,
    "pauses while unsafe": _pauses,
    "resumes where it was": _resumes,
    "deals with every end once": _ends,
    "celebrates what it completes": _celebrates,
    "dwells within limits": _dwells,
    "drops no signal": _signals,
    "starts the right work": _starts,
    "leaves no work waiting": _conserves_work,
    "drains": _drains,
    "is quiet when idle": _is_quiet,
    "reports what happened": _reports,
    "alternates its phases": _alternates,
    "keeps personal things private": _keeps_private,
    "follows the protocol": _follows_protocol,
}


PLAIN_LAWS = {
    name: LAWS[name]
    for name in (
        "is due in time",
        "rests in a resting state",
        "counts",
        "dwells within limits",
        "is quiet when idle",
        "alternates its phases",
    )
}
