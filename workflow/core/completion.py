"""The completion routine: what a finished task is worth, what it teaches, and how long to dwell on it (spec section 6).

Every sentence is computed from the task's own facts; none claims what was not measured. The routine waits by deadlines on the
state, three minutes at most, and never keeps ready work waiting: that is for the machine to see to.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from workflow.core.personality import celebration_stages
from workflow.core.state import CompletionStage, WorkflowStateData
from workflow.core.work import Priority, SimilarTasks, TaskFacts, WorkType

ROUTINE_LIMIT = timedelta(minutes=3)
LEVELS = ("quiet", "steady", "strong", "outstanding")
_LEVEL = "celebration_level"  # key in the state's context: the adaptive style needs it for the later stages
_FASTER, _SLOWER = 0.8, 1.25  # shares of an estimate or mean within which a duration counts as the same
_NONE = SimilarTasks()


@dataclass(frozen=True, slots=True)
class CompletionFacts:
    """What is known of a task that has just succeeded. Zero means unknown, for estimate and mean."""

    title: str
    kind: str  # what tasks like it are called
    priority: Priority
    work_type: WorkType
    duration: timedelta  # from its first start to its end, without the time it was blocked
    waited: timedelta  # from its creation to its first start
    estimate: timedelta
    attempts: int
    blocked: timedelta
    dependants: int
    similar: SimilarTasks


def completion_facts(task: TaskFacts, similar: SimilarTasks | None, now: datetime) -> CompletionFacts:
    """Gather what the routine speaks of, from a held task whose execution succeeded."""
    execution = task.execution
    finished_at = (execution and execution.finished_at) or now
    started_at = task.started_at or (execution and execution.started_at) or finished_at
    nothing = timedelta(0)
    return CompletionFacts(
        title=task.title,
        kind=" ".join(filter(None, (task.executor, task.action))) or f"{task.work_type} work",
        priority=task.priority,
        work_type=task.work_type,
        duration=max(finished_at - started_at - task.blocked_time, nothing),
        waited=max(started_at - task.created_at, nothing),
        estimate=task.estimated_duration,
        attempts=max(task.attempts, execution.attempt if execution else 1, 1),
        blocked=task.blocked_time,
        dependants=task.dependants,
        similar=similar or _NONE,
    )


class CompletionRoutineManager:
    """Judges an achievement and draws the four insights from its facts."""

    def celebration_level(self, facts: CompletionFacts) -> str:
        """Give one of LEVELS: urgency, released tasks, speed, overcome failure and novelty each add to it."""
        score = 0
        if facts.priority == Priority.CRITICAL:
            score += 2
        elif facts.priority == Priority.HIGH:
            score += 1
        if facts.dependants:
            score += 1 if facts.dependants < 3 else 2
        if facts.estimate and facts.duration <= facts.estimate * _FASTER:
            score += 1
        if facts.attempts > 1:
            score += 1
        if facts.blocked:
            score += 1
        if not facts.similar.count:
            score += 1
        if facts.work_type == WorkType.MOMENTUM:
            score -= 1
        if score <= 0:
            return "quiet"
        if score == 1:
            return "steady"
        return "strong" if score <= 3 else "outstanding"

    def achievement_impact(self, facts: CompletionFacts) -> str:
        """Say what the achievement changed for others, in one sentence."""
        parts = []
        if facts.dependants:
            parts.append(f"{_count(facts.dependants, 'task')} no longer {'waits' if facts.dependants == 1 else 'wait'} for it")
        if facts.priority in (Priority.CRITICAL, Priority.HIGH):
            passed = span(facts.waited + facts.duration + facts.blocked)
            parts.append(f"work of {facts.priority} priority was done {passed} after it came")
        if facts.estimate and facts.duration <= facts.estimate * _FASTER:
            parts.append(f"{span(facts.estimate - facts.duration)} of the estimate were not needed")
        if not parts:
            whose = "its own initiative" if facts.work_type == WorkType.MOMENTUM else f"{facts.work_type} work"
            parts.append(f"one more piece of {whose} is done, in {span(facts.duration)}")
        text = "; ".join(parts)
        return f"{text[0].upper()}{text[1:]}."

    def insights(self, facts: CompletionFacts) -> dict[str, str]:
        """Draw the spec's four insights, a sentence or two each."""
        return {
            "lessons_learned": _lesson(facts),
            "process_improvements": _improvement(facts),
            "skill_development": _skill(facts),
            "future_applications": _application(facts),
        }


def _lesson(facts: CompletionFacts) -> str:
    took, estimate = span(facts.duration), facts.estimate
    if not estimate:
        text = f"'{facts.title}' took {took}; nobody had estimated it."
    else:
        ratio = facts.duration / estimate
        if ratio < _FASTER:
            text = f"'{facts.title}' took {took}, {_percent(1 - ratio)} less than the {span(estimate)} estimated."
        elif ratio <= _SLOWER:
            text = f"'{facts.title}' took {took}, about as estimated ({span(estimate)})."
        else:
            text = f"'{facts.title}' took {took}, {ratio:.1f} times the {span(estimate)} estimated."
    return f"{text} It needed {facts.attempts} attempts." if facts.attempts > 1 else text


def _improvement(facts: CompletionFacts) -> str:
    if facts.attempts > 1:
        text = f"Find out why {_count(facts.attempts - 1, 'attempt')} failed before this one."
        return f"{text} It was also blocked for {span(facts.blocked)}." if facts.blocked else text
    if facts.blocked:
        return f"It was blocked for {span(facts.blocked)}: ask for what such work needs before it starts."
    if facts.waited > max(facts.duration, timedelta(minutes=1)):
        return f"It waited {span(facts.waited)} for {span(facts.duration)} of work: the wait is what to shorten, not the work."
    if facts.estimate and facts.duration > facts.estimate * _SLOWER:
        return f"The estimate was {span(facts.duration - facts.estimate)} too short: split such work, or estimate it higher."
    return f"Nothing held it up: it waited {span(facts.waited)} and succeeded at the first attempt."


def _skill(facts: CompletionFacts) -> str:
    count, mean, took = facts.similar.count, facts.similar.mean_duration, span(facts.duration)
    if not count:
        return f"This was the first success of its kind ({facts.kind}); {took} is the first measure of it."
    text = f"This was success number {count + 1} of its kind ({facts.kind})"
    if not mean:
        return f"{text}; it took {took}."
    ratio = facts.duration / mean
    if ratio < _FASTER:
        return f"{text}, {_percent(1 - ratio)} faster than the mean of {span(mean)}."
    if ratio > _SLOWER:
        return f"{text}, {ratio:.1f} times as long as the mean of {span(mean)}."
    return f"{text}, at about the mean of {span(mean)}."


def _application(facts: CompletionFacts) -> str:
    count = facts.similar.count
    mean = (facts.similar.mean_duration * count + facts.duration) / (count + 1)
    text = f"Estimate the next work of its kind ({facts.kind}) at {span(mean)}, from {_count(count + 1, 'success')}."
    if facts.dependants:
        return f"{text} Its results are there for the {_count(facts.dependants, 'task')} that needed them."
    return text


def span(duration: timedelta) -> str:
    """Write a duration for people, two units at most."""
    seconds = duration.total_seconds()
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def begin_routine(state: WorkflowStateData, style: str, level: str, now: datetime) -> None:
    """Enter the celebration stage and set the deadline of the whole routine."""
    stages = celebration_stages(style, level)
    state.completion_stage = CompletionStage.CELEBRATION
    state.completion_stage_until = now + timedelta(seconds=stages[0])
    state.completion_until = now + min(timedelta(seconds=sum(stages)), ROUTINE_LIMIT)
    state.context = {**state.context, _LEVEL: level}


def advance_routine(state: WorkflowStateData, style: str, now: datetime) -> None:
    """Move through every stage whose time is over: reflection, transition planning, and by the bridge out of the routine."""
    lengths = celebration_stages(style, state.context.get(_LEVEL, "steady"))
    following = {
        CompletionStage.CELEBRATION: (CompletionStage.REFLECTION, lengths[1]),
        CompletionStage.REFLECTION: (CompletionStage.TRANSITION_PLANNING, lengths[2]),
        CompletionStage.TRANSITION_PLANNING: (CompletionStage.BRIDGE, 0),  # the bridge takes no time
    }
    while state.completion_stage_until is not None and now >= state.completion_stage_until:
        if state.completion_stage not in following:
            end_routine(state)
            return
        state.completion_stage, seconds = following[state.completion_stage]
        state.completion_stage_until += timedelta(seconds=seconds)
    if state.completion_until is None or not now < state.completion_until <= now + ROUTINE_LIMIT:  # or the clock went back
        end_routine(state)


def end_routine(state: WorkflowStateData) -> None:
    """Leave the routine."""
    if state.completion_stage == CompletionStage.NONE:
        return
    state.completion_stage = CompletionStage.NONE
    state.completion_stage_until = state.completion_until = None
    state.context = {key: value for key, value in state.context.items() if key != _LEVEL}
