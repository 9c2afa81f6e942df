"""Task ids in the spec's form, `{NOVA_ID}-{unix seconds}-{6 hex}`, from a counter that never repeats.

Each process takes a block of numbers at a time, so that writers don't queue at the counter's row for every task.
"""

import os
import threading
from datetime import datetime

from django.db import connection

from workflow.core.work import task_id

_BLOCK = 1000


class TaskNumbers:
    """A process's numbers for new tasks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._end = 0
        self._owner = 0

    def next_task_id(self, nova_id: str, now: datetime) -> str:
        """Give a new id for a task of this Nova, or of the fleet."""
        with self._lock:
            if self._next >= self._end or self._owner != os.getpid():  # a forked child must not use its parent's block
                self._end = self._take_block()
                self._next, self._owner = self._end - _BLOCK, os.getpid()
            number = self._next
            self._next += 1
        return task_id(nova_id, int(now.timestamp()), number)

    def _take_block(self) -> int:
        """Move the counter on by a block, inside whatever transaction is open, and give the block's end.

        If that transaction is rolled back the row forgets the block, so the row never moves to below what this process used.
        Another process could then get the same numbers; in the same second the primary key refuses the second task.
        """
        highest = "max" if connection.vendor == "sqlite" else "greatest"
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO workflow_tasknumber (id, value) VALUES (1, %s) ON CONFLICT (id) DO UPDATE "  # noqa: S608
                f"SET value = {highest}(workflow_tasknumber.value, %s) + %s RETURNING value",
                [self._end + _BLOCK, self._end, _BLOCK],
            )
            return int(cursor.fetchone()[0])


NUMBERS = TaskNumbers()
