"""Load on a running stack from outside, and the ledger that it is checked against at the end.

It sends work items as any Redis client would and counts from the database file, which outlives every process.
"""

import json
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safety.stream_client import StreamClient, StreamError
from tests.processes.stack import RunningStack

QUEUE = "nova.work.queue"
NOVAS = ("torch", "echo", "helix", "vaeris", "synergy")

# Makes the tables and lets every Nova run many of our tasks at once, whatever the judges think of the pace.
PREPARE = """
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("seed", verbosity=0)
from safety.models import SafetyPolicy
from workflow.models import Nova
many = 1_000_000_000
SafetyPolicy.objects.update(
    max_concurrent_tasks=6, tool_uses_per_minute=many, failures_in_window=many, identical_calls_per_minute=many,
    own_wakes_per_hour=many, meditation_stress=1000, emergency_stress=1000,
)
Nova.objects.update(allowed_executors=["builtin", "append"], stream_executors=["builtin", "append"])
"""


class Ledger:
    """Questions to the stack's database file, which can be asked while everything is down."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "novawf.sqlite3"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True, timeout=20)) as connection:
            return list(connection.execute(query))

    def completed(self) -> int:
        return int(self.rows("SELECT count(*) FROM workflow_task WHERE status = 'completed' AND executor = 'append'")[0][0])

    def accepted(self) -> dict[str, str]:
        """Give what was accepted: entry id to task id."""
        return dict(
            self.rows(f"SELECT entry_id, task_id FROM workflow_inboxmessage WHERE stream = '{QUEUE}' AND task_id <> ''")
        )

    def open(self) -> int:
        return int(self.rows("SELECT count(*) FROM workflow_task WHERE status <> 'completed' AND executor = 'append'")[0][0])

    def begun(self, entry_id: str) -> int:
        """Count how often the execution of an entry's task was begun."""
        query = (
            "SELECT coalesce(sum(e.runs), 0) FROM workflow_execution e JOIN workflow_inboxmessage m ON m.task_id = e.task_id"
        )
        return int(self.rows(f"{query} WHERE m.entry_id = '{entry_id}'")[0][0])

    def unpublished(self) -> int:
        return int(self.rows("SELECT count(*) FROM safety_outboxentry")[0][0])


@dataclass
class Load:
    """Keeps so many tasks in flight until it is told to pause."""

    stack: RunningStack
    in_flight: int = 40
    milliseconds: int = 700
    sent: set[str] = field(default_factory=set)  # entry ids that the server acknowledged
    flowing: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _paused: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.stack.folder)
        self._thread = threading.Thread(target=self._run, name="load")

    def start(self) -> None:
        self.flowing.set()
        self._thread.start()

    def pause(self) -> None:
        """Stop sending, and see that nothing is under way to the server any more."""
        self._paused.clear()
        self.flowing.clear()
        self._paused.wait(20)

    def stop(self) -> None:
        self._over.set()
        self.flowing.set()
        if self._thread.is_alive():
            self._thread.join(30)

    def _run(self) -> None:
        client: StreamClient | None = None
        while not self._over.is_set():
            if not self.flowing.is_set():
                self._paused.set()
                self.flowing.wait(1)
                continue
            try:
                client = client or self.stack.stream()
                for _ in range(self.in_flight - self._outstanding()):
                    self.send(client, self.milliseconds)
            except (StreamError, sqlite3.Error):
                client = None
            time.sleep(0.1)

    def _outstanding(self) -> int:
        return self.ledger.open() + self.unread()

    def unread(self) -> int:
        """Count the entries sent that intake has not accepted."""
        return len(self.sent - self.ledger.accepted().keys())

    def send(self, client: StreamClient, milliseconds: int) -> str:
        """Send one work item that takes so long; give its entry id."""
        entry = (
            *("title", "Append a line", "description", "to the file", "priority", "high"),
            *("executor", "append", "action", "append", "metadata", json.dumps({"milliseconds": milliseconds})),
        )
        entry_id: str = client.call("XADD", QUEUE, "*", *entry).decode()
        self.sent.add(entry_id)
        return entry_id


class Listener:
    """A raw client that hears every `completed` entry as it comes, since streams are trimmed."""

    def __init__(self, stack: RunningStack) -> None:
        self._stack = stack
        self._cursors = {f"nova.tasks.{nova_id}.completed": "0-0" for nova_id in NOVAS}
        self._causes: dict[bytes, str] = {}  # by event_id, so that a repeat counts once
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(30)

    def told(self) -> Counter[str]:
        """How often each entry of the work queue was told to be completed, by entry id."""
        causes = Counter(list(self._causes.values()))
        return Counter({cause.removeprefix(f"{QUEUE}/"): count for cause, count in causes.items() if cause.startswith(QUEUE)})

    def _run(self) -> None:
        client: StreamClient | None = None
        while not self._over.is_set():
            try:
                client = client or self._stack.stream()
                for stream, entries in client.read(self._cursors, count=500, block=0.5):
                    for entry_id, fields in entries:
                        self._causes[fields[b"event_id"]] = fields[b"cause"].decode()
                        self._cursors[stream.decode()] = entry_id.decode()
            except StreamError:
                client = None
                time.sleep(0.1)


def effects(file: Path) -> Counter[str]:
    """Count the lines that executions really wrote, by task."""
    return Counter(line.split(" ", 1)[0] for line in file.read_text().splitlines())
