"""Carries the effects of steps into rows and journal entries: one method per effect, a table at the end.

Collects only; `workflow.committing` writes. Nothing is decided here.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from safety import bulk
from safety.audit import Entry
from workflow.core import effects as fx
from workflow.core.machine import Step
from workflow.core.protocol import stream_name
from workflow.core.work import WorkType, similarity_key
from workflow.gathering import Claimed
from workflow.task_rows import TaskRow
from workflow.task_tracker import TaskTracker

NOVA_MOVED = "workflow.nova.moved"
NOVA_DRAINED = "workflow.nova.drained"
NOVA_REFLECTED = "workflow.nova.reflected"
TASK_CELEBRATED = "workflow.task.celebrated"
INSIGHT_RECORDED = "workflow.insight.recorded"
INSIGHTS_REVIEWED = "workflow.insight.reviewed"
SIGNAL_HANDLED = "workflow.signal.handled"
OBJECTIVE_ENDED = "workflow.objective.ended"

DRAINED = "Drained: every task in hand is finished."


@dataclass(slots=True)
class Stepped:
    """A Nova of the batch after its step."""

    claimed: Claimed
    step: Step
    tasks: set[str] = field(default_factory=set)  # the tasks whose rows this step changes

    @property
    def nova_id(self) -> str:
        return self.claimed.nova_id


@dataclass(frozen=True, slots=True)
class Reported:
    """A Nova whose agent reports ends of tasks, between its steps."""

    nova_id: str


class EffectCarrier:
    """What a batch's effects come to, ready to be written."""

    def __init__(
        self, tracker: TaskTracker, rows: Mapping[str, TaskRow], granted: set[tuple[str, str]], plannable: set[int]
    ) -> None:
        self.now: datetime = tracker.now
        self.stamp = tracker.journal.stamp
        self.tracker = tracker
        self.rows = rows
        self.granted = granted  # momentum templates that may be created now, by (scope, template)
        self.plannable = plannable  # objectives that nobody has planned meanwhile
        self.executions: list[tuple[Any, ...]] = []
        self.signals: list[tuple[int, str]] = []
        self.signal_tasks: dict[int, str] = {}
        self.objectives: dict[int, datetime | None] = {}
        self.objective_tasks: dict[int, str] = {}
        self.counts: Counter[str] = Counter()  # succeeded tasks, and their seconds, by similarity key
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.momentum_runs: list[tuple[str, str, list[str]]] = []  # (scope, template, findings)
        self.drained: list[str] = []
        self._planned: set[str] = set()

    def carry(self, stepped: Stepped) -> None:
        """Collect what one Nova's step wants done."""
        for effect in stepped.step.effects:
            _CARRY[type(effect)](self, stepped, effect)

    def carry_reported(self, nova_id: str, effects: Sequence[fx.Effect]) -> None:
        """Collect what follows from the success of tasks that a Nova's agent reports."""
        nova = Reported(nova_id)
        for effect in effects:
            _CARRY[type(effect)](self, nova, effect)

    def _create_task(self, nova: Stepped, effect: fx.CreateTask) -> None:
        item = effect.item
        if item.id in self._planned:
            return  # another Nova of this batch planned the same item
        if effect.momentum_template and (item.team, effect.momentum_template) not in self.granted:
            return  # another engine did, within the hour
        if effect.objective_id is not None and effect.objective_id not in self.plannable:
            return  # another engine did, just now
        self._planned.add(item.id)
        task_id = self.tracker.create_task(
            item.title,
            item.description,
            item.priority,
            assignee=item.assigned_to,
            team=item.team,
            work_type=item.work_type,
            executor=item.executor,
            action=item.action,
            estimated_duration=item.estimated_duration,
            dependencies=item.dependencies,
            metadata=item.metadata,
            cause=item.cause,
            personal=effect.personal,
            objective_id=effect.objective_id,
        )
        if effect.objective_id is not None:
            self.objective_tasks[effect.objective_id] = task_id
        if effect.signal_id is not None:
            self.signal_tasks[effect.signal_id] = task_id

    def _start_task(self, nova: Stepped, effect: fx.StartTask) -> None:
        nova_id = nova.nova_id
        self.tracker.start_task(self.rows[effect.task_id], nova_id=nova_id, update=effect.update, attempt=effect.attempt)
        self.executions.append(
            (
                effect.task_id,
                nova_id,
                effect.executor,
                effect.action,
                effect.attempt,
                "dispatched",
                self.now,
                effect.timeout.total_seconds(),
                "",
                "{}",
                "",
                True,
                0,
                0,
                "",
                0,
            )
        )

    def _update_progress(self, nova: Stepped, effect: fx.UpdateProgress) -> None:
        self.tracker.update_progress(self.rows[effect.task_id], effect.update, effect.progress_percentage)

    def _complete_task(self, nova: Stepped | Reported, effect: fx.CompleteTask) -> None:
        row = self.rows[effect.task_id]
        self.tracker.complete_task(row, effect.results, effect.metrics, note=effect.note)
        key = similarity_key(WorkType(row.work_type), row.executor, row.action)
        self.counts[key] += 1
        self.seconds[key] += (self.now - (row.started_at or self.now)).total_seconds()
        if row.work_type == WorkType.MOMENTUM:
            self.momentum_runs.append((row.team, row.action, list(effect.metrics.get("findings", ()))))

    def _retry_task(self, nova: Stepped, effect: fx.RetryTask) -> None:
        self.tracker.retry_task(
            self.rows[effect.task_id], not_before=effect.not_before, reason=effect.reason, uncounted=effect.uncounted
        )

    def _block_task(self, nova: Stepped, effect: fx.BlockTask) -> None:
        self.tracker.block_task(
            self.rows[effect.task_id],
            owner=effect.owner,
            action=effect.action,
            reason=effect.reason,
            results=effect.results,
            metrics=effect.metrics,
        )

    def _celebrate(self, nova: Stepped | Reported, effect: fx.Celebrate) -> None:
        message = {
            "type": "TASK_COMPLETION_CELEBRATION",
            "task_id": effect.task_id,
            "task_title": effect.task_title,
            "celebration_level": effect.celebration_level,
            "achievement_impact": effect.achievement_impact,
            "message": effect.message,
            "timestamp": self.stamp,
        }
        after = {"level": effect.celebration_level, "impact": effect.achievement_impact}
        self._say(nova, TASK_CELEBRATED, "celebrations", message, task_id=effect.task_id, after=after)

    def _record_insight(self, nova: Stepped | Reported, effect: fx.RecordInsight) -> None:
        insights = dict(effect.insights)
        self.tracker.record_insights(self.rows[effect.task_id], insights)
        message = {
            "type": "COMPLETION_REFLECTION",
            "task_id": effect.task_id,
            "insights": bulk.json_text(insights),
            "timestamp": self.stamp,
        }
        self._say(nova, INSIGHT_RECORDED, "insights", message, task_id=effect.task_id)

    def _review_insights(self, nova: Stepped, effect: fx.ReviewInsights) -> None:
        message = {
            "type": "INSIGHT_REVIEW",
            "task_id": "",
            "insights": bulk.json_text({"summary": effect.summary, "count": effect.insight_count}),
            "timestamp": self.stamp,
        }
        self._say(nova, INSIGHTS_REVIEWED, "insights", message)

    def _reflect_privately(self, nova: Stepped, effect: fx.ReflectPrivately) -> None:
        nova_id = nova.nova_id
        self.tracker.journal.entries.append(
            Entry(NOVA_REFLECTED, nova_id, "nova", nova_id, after={"text": effect.text}, personal=True, actor=f"nova:{nova_id}")
        )

    def _handle_signal(self, nova: Stepped, effect: fx.HandleSignal) -> None:
        nova_id = nova.nova_id
        self.signals.append((effect.signal_id, f"{effect.outcome}: {effect.note}"[:200]))
        after = {"outcome": effect.outcome, "note": effect.note}
        self.tracker.journal.entries.append(
            Entry(SIGNAL_HANDLED, nova_id, "message", str(effect.signal_id), after=after, actor=f"nova:{nova_id}")
        )

    def _advance_objective(self, nova: Stepped, effect: fx.AdvanceObjective) -> None:
        objective_id = effect.objective_id
        if objective_id not in self.plannable or objective_id in self.objectives:
            return
        self.objectives[objective_id] = effect.next_due_at
        if effect.next_due_at is None:
            nova_id, after = nova.nova_id, {"archived_at": self.stamp}
            reason = "No further turn comes before its end."
            self.tracker.journal.entries.append(
                Entry(
                    OBJECTIVE_ENDED,
                    nova_id,
                    "objective",
                    str(objective_id),
                    after=after,
                    reason=reason,
                    actor=f"nova:{nova_id}",
                )
            )

    def _report_status(self, nova: Stepped, effect: fx.ReportStatus) -> None:
        state = nova.step.state
        message = {
            "nova_id": state.nova_id,
            "state": state.current_state.value,
            "phase": state.current_phase.value,
            "status": "unsafe" if not state.safety_status.is_safe else "active",
            "message": effect.message,
            "timestamp": self.stamp,
        }
        self._say(nova, NOVA_MOVED, "status_updates", message, after={"path": effect.path}, cause=effect.cause)

    def _report_violation(self, nova: Stepped, effect: fx.ReportViolation) -> None:
        """The verdict's own writer journals it; here is nothing left to do."""

    def _finish_drain(self, nova: Stepped, effect: fx.FinishDrain) -> None:
        nova_id = nova.nova_id
        self.drained.append(nova_id)
        state = nova.step.state
        message = {
            "nova_id": nova_id,
            "state": state.current_state.value,
            "phase": state.current_phase.value,
            "status": "paused",
            "message": DRAINED,
            "timestamp": self.stamp,
        }
        self._say(nova, NOVA_DRAINED, "status_updates", message, after={"mode": "paused"})

    def _say(
        self,
        nova: Stepped | Reported,
        action: str,
        stream: str,
        message: dict[str, str],
        *,
        task_id: str = "",
        after: dict[str, Any] | None = None,
        cause: str = "",
    ) -> None:
        nova_id = nova.nova_id
        self.tracker.journal.entries.append(
            Entry(
                action,
                nova_id,
                "task" if task_id else "nova",
                task_id or nova_id,
                after=after,
                cause=cause or (self.rows[task_id].cause if task_id else ""),
                stream=stream_name(stream, nova_id),
                message=message,
                actor=f"nova:{nova_id}",
            )
        )


_CARRY: dict[type[fx.Effect], Callable[[EffectCarrier, Any, Any], None]] = {
    fx.CreateTask: EffectCarrier._create_task,
    fx.StartTask: EffectCarrier._start_task,
    fx.UpdateProgress: EffectCarrier._update_progress,
    fx.CompleteTask: EffectCarrier._complete_task,
    fx.RetryTask: EffectCarrier._retry_task,
    fx.BlockTask: EffectCarrier._block_task,
    fx.Celebrate: EffectCarrier._celebrate,
    fx.RecordInsight: EffectCarrier._record_insight,
    fx.ReviewInsights: EffectCarrier._review_insights,
    fx.ReflectPrivately: EffectCarrier._reflect_privately,
    fx.HandleSignal: EffectCarrier._handle_signal,
    fx.AdvanceObjective: EffectCarrier._advance_objective,
    fx.ReportStatus: EffectCarrier._report_status,
    fx.ReportViolation: EffectCarrier._report_violation,
    fx.FinishDrain: EffectCarrier._finish_drain,
}
