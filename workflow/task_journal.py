"""What is said of a task's changes: the journal entry and, where there is one, the message on the assignee's task streams."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from safety.audit import Entry
from workflow.core.protocol import NOVAProtocolValidator, stream_name
from workflow.task_rows import TaskRow

_validator = NOVAProtocolValidator()


class TaskJournal:
    """Collects entries in the order things happened. `by_novas`: it is the assignees who act, not the caller."""

    def __init__(self, *, now: datetime, by_novas: bool) -> None:
        self.stamp = now.isoformat()
        self.entries: list[Entry] = []
        self._by_novas = by_novas

    def message(self, row: TaskRow) -> dict[str, str]:
        """Give the fields that every task message has (spec TASK_MESSAGE_SCHEMA)."""
        return {
            "task_id": row.id,
            "title": row.title,
            "description": row.description,
            "status": row.status,
            "priority": row.priority,
            "assignee": row.assignee,
            "created_at": row.created_at.isoformat(),
            "updated_at": self.stamp,
        }

    def publish(
        self,
        row: TaskRow,
        action: str,
        stream: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        reason: str = "",
        **extra: str,
    ) -> None:
        """Journal a change and put its message on a task stream of the assignee, if it has one and the task is not personal."""
        if row.personal or not stream or not row.assignee:
            self.note(row, action, after, before=before, reason=reason)
            return
        message = self.message(row)
        message.update(extra)
        _validator.validate_task_data(message)
        self.entries.append(
            Entry(
                action,
                row.assignee,
                "task",
                row.id,
                before,
                after,
                reason,
                row.cause,
                stream_name(stream, row.assignee),
                message,
                actor=self._actor(row),
            )
        )

    def note(
        self,
        row: TaskRow,
        action: str,
        after: Mapping[str, Any] | None,
        *,
        before: Mapping[str, Any] | None = None,
        reason: str = "",
        counted: bool = False,
    ) -> None:
        """Journal a change that goes on no stream; `counted`: it is a metric all the same."""
        self.entries.append(
            Entry(
                action,
                row.assignee,
                "task",
                row.id,
                before,
                after,
                reason,
                row.cause,
                personal=row.personal,
                actor=self._actor(row),
                counted=counted,
            )
        )

    def check(self, row: TaskRow) -> None:
        """Check a task whose message will go out later.

        :raises ProtocolViolation: its fields break TASK_MESSAGE_SCHEMA.
        """
        _validator.validate_task_data(self.message(row))

    def _actor(self, row: TaskRow) -> str:
        return f"nova:{row.assignee}" if self._by_novas and row.assignee else ""
