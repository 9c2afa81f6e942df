"""A stranger to a running stack: a raw Redis client, HTTP with the operator key, and a look into the database file."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections import defaultdict
from email.message import Message
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import redis

from tests.processes.load import Ledger
from tests.processes.stack import ROOT, RunningStack, wait_until
from workflow.core.protocol import stream_kind

SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "streams.schema.json").read_text())
QUEUE = "nova.work.queue"
ALERTS = "nova.priority.alerts"

Fields = dict[str, str]
Sent = dict[str | bytes, str | bytes]


def problems(stream: str, fields: Fields) -> list[str]:
    """Give what an entry breaks of docs/streams.schema.json."""
    kind, _ = stream_kind(stream)
    validator = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]})
    return [f"{stream} {fields}: {error.message}" for error in validator.iter_errors(fields)]


class Outside:
    """What anybody can do to a running stack, and see of it."""

    def __init__(self, stack: RunningStack) -> None:
        self.stack = stack
        run = stack.run_file()
        self.redis = redis.Redis.from_url(run["dragonfly_url"], protocol=2, socket_timeout=10)
        self.ledger = Ledger(stack.folder)
        self._url, self._key = run["url"].rstrip("/"), run["operator_key"]

    # -- streams

    def add(self, stream: str, fields: Sent) -> str:
        """XADD; give the cause that all which comes of it will name."""
        entry_id: Any = self.redis.xadd(stream, dict(fields))
        return f"{stream}/{entry_id.decode()}"

    def entries(self, stream: str) -> list[Fields]:
        found: Any = self.redis.xrange(stream)
        return [{_text(name): _text(value) for name, value in fields.items()} for _, fields in found]

    def hash(self, name: str) -> Fields:
        found: Any = self.redis.hgetall(name)
        return {_text(field): _text(value) for field, value in found.items()}

    def streams(self) -> list[str]:
        """Every stream of the protocol that is there now, without those that only strangers write to."""
        names = [key.decode() for key in self.redis.scan_iter("nova.*", count=1000, _type="stream")]
        return sorted(name for name in names if stream_kind(name)[0] and name not in (QUEUE, ALERTS))

    def told(self, cause: str) -> dict[str, list[Fields]]:
        """Give every entry with this cause, by the kind of its stream."""
        found: dict[str, list[Fields]] = defaultdict(list)
        for stream in self.streams():
            found[stream_kind(stream)[0]] += [fields for fields in self.entries(stream) if fields.get("cause") == cause]
        return {kind: fields for kind, fields in found.items() if fields}

    def wait_for(self, kind: str, cause: str, *, status: str = "", seconds: float = 60.0) -> Fields:
        """Wait for an entry of this kind with this cause, and with this status where one is given."""

        def entry() -> Fields | None:
            found = self.told(cause).get(kind, [])
            return next((fields for fields in found if not status or fields["status"] == status), None)

        entry_found: Fields = wait_until(entry, seconds=seconds, what=f"{kind} {status} for {cause}", interval=0.05)
        return entry_found

    def assert_echo_works(self) -> None:
        """See a harmless work item through."""
        cause = self.add(QUEUE, {"title": "Say it back", "description": "hello", "executor": "builtin", "action": "echo"})
        assert self.wait_for("task_completed", cause)["results"] == "hello"

    # -- REST

    def rest(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, Message]:
        """Ask /api/v1/; give status, JSON and headers. `key`: another than the operator's; empty: none."""
        key = self._key if key is None else key
        sent = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}/api/v1/{path}", data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return reply.status, json.load(reply), reply.headers
        except urllib.error.HTTPError as refusal:
            return refusal.code, json.load(refusal), refusal.headers

    def task(self, task_id: str) -> dict[str, Any]:
        status, task, _ = self.rest("GET", f"tasks/{task_id}")
        assert status == 200, task
        return dict(task)

    def statuses(self) -> dict[str, tuple[str, str]]:
        """Give every Nova's derived status and its reason."""
        status, page, _ = self.rest("GET", "novas?limit=200")
        assert status == 200, page
        return {nova["nova_id"]: (nova["status"], nova["status_reason"]) for nova in page["results"]}

    # -- inside

    def run_inside(self, code: str) -> None:
        """Run Python in a process that has the stack's settings, as an agent's host or an operator would."""
        header = "from django.utils import timezone\nnow = timezone.now()\n"
        subprocess.run(
            self.stack.command("shell", "-v", "0", "-c", header + code), env=self.stack.environment, cwd=ROOT, check=True
        )

    def journal(self, object_id: str) -> list[str]:
        """Give the actions journalled about an object, in order."""
        rows = self.ledger.rows(f"SELECT action FROM safety_auditentry WHERE object_id = '{object_id}' ORDER BY id")
        return [row[0] for row in rows]

    def inbox(self, cause: str) -> dict[str, Any]:
        """Give the inbox row of an entry."""
        stream, entry_id = cause.rsplit("/", 1)
        columns = ("status", "reason", "kind", "task_id", "fields")
        rows = self.ledger.rows(
            f"SELECT {', '.join(columns)} FROM workflow_inboxmessage WHERE stream = '{stream}' AND entry_id = '{entry_id}'"
        )
        return dict(zip(columns, rows[0], strict=True)) if rows else {}

    def close(self) -> None:
        self.redis.close()


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")  # strangers also write what is not UTF-8


def stop_file(folder: Path) -> Path:
    """Name the file that tells a loop worker to stop (tests/stack/stopping.py)."""
    return folder / f"stop-{os.getpid()}"
