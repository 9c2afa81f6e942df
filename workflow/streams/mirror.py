"""The mirror: state hashes `workflow:state:{nova_id}` on the stream server, written from the ORM (spec "State Persistence").

A hash is a copy with a TTL; nothing reads it back. This file must not decide anything.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

import orjson
from django.conf import settings
from django.db import connection

from safety import bulk

_FIELDS = (
    "nova_id",
    "mode",
    "current_state",
    "current_phase",
    "tasks_completed_in_phase",
    "tool_use_count",
    "last_stream_check",
    "last_completion_celebration",
    "session_start_time",
    "total_cycles_completed",
    "safety_status",
    "tasks_in_flight",
    "due_at",
)
_INSTANTS = frozenset({"last_stream_check", "last_completion_celebration", "session_start_time", "due_at"})
# as text, which both databases give in UTC: parsing instants only to write them again costs more than the rest
_SELECTED = [f"CAST({name} AS text)" if name in _INSTANTS else name for name in _FIELDS]


def state_commands(nova_ids: Collection[str], *, now: datetime) -> list[list[Any]]:
    """Give the commands that bring the hashes of these Novas up to date: two a Nova."""
    if not nova_ids:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(_SELECTED)} FROM workflow_novastate WHERE {bulk.membership('nova_id')}",  # noqa: S608
            [bulk.members(sorted(nova_ids))],
        )
        rows = cursor.fetchall()
    stamp = now.isoformat()
    commands: list[list[Any]] = []
    for row in rows:
        key = f"workflow:state:{row[0]}"
        command: list[Any] = ["HSET", key, "published_at", stamp]
        for name, value in zip(_FIELDS, row, strict=True):
            command.append(name)
            command.append(_text(name, value))
        commands.append(command)
        commands.append(["EXPIRE", key, settings.STATE_HASH_TTL])
    return commands


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in _INSTANTS:
        return f"{value[:10]}T{value[11:].removesuffix('+00')}+00:00"
    if isinstance(value, str | int):
        return str(value)
    return orjson.dumps(value).decode()


def every_nova() -> list[str]:
    """Give the Novas whose hashes are kept."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nova_id FROM workflow_novastate WHERE mode <> 'archived' ORDER BY nova_id")
        return [row[0] for row in cursor.fetchall()]
