"""The rows behind a host: claim executions, hold on to them, write how they ended. Each verb is constant in statements.

Every write checks the fence its claim gave, so a host that lost a lease changes nothing. This file must not know how an
execution is run; transactions are its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
import structlog
from django.conf import settings
from django.db import connection, transaction

from safety import bulk
from workflow import waking
from workflow.execution.registry import EXTERNAL, ExecutionFailed, Kept, Result
from workflow.models import Execution

CLAIM_BATCH = 256  # inline executions taken in one go
RUN_LIMIT = 3  # hosts that may die in one execution before nobody tries again
TEXT_LIMIT = 65_536  # characters of results, and of metrics: they travel in one stream field
ERROR_LIMIT = 4_000
# A claim looks at so many open rows at most: a long backlog makes it no slower, an inline one waits behind no more others.
WINDOW = 1_024

_OPEN = "finished_at IS NULL"  # word for word the condition of the index execution_open
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Claimed:
    """An execution in hand, and what its executor must know of the task."""

    id: int
    task_id: str
    nova_id: str
    executor: str
    action: str
    attempt: int
    timeout: float
    fence: int
    runs: int
    title: str = ""
    description: str = ""
    metadata: dict[str, Any] | None = None


@dataclass(slots=True)
class End:
    """How an execution ended, as its row keeps it; `metrics` and `needs` are JSON text already."""

    execution: Claimed
    status: Execution.Status
    finished_at: datetime
    results: str = ""
    metrics: str = "{}"
    needs: str | None = None
    error: str = ""
    retryable: bool = True
    progress: int = 0
    not_before: datetime | None = None


@dataclass(slots=True)
class Held:
    """An execution that runs: how far it is (percent), and what it has come to since that was last written."""

    execution: Claimed
    progress: int = 0
    news: Kept | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """How many more a host takes: inline ones (named `executor:action`), and others."""

    inline: int
    others: int
    inline_names: Collection[str] = ()


def turn(host: str, ends: Sequence[End], room: Room, *, now: datetime) -> list[Claimed]:
    """Write the ends, make their Novas due, and claim what there is room for, oldest first; all in one transaction.

    With nothing to write it opens no transaction unless something waits, so an idle host takes no writers' turn.
    """
    if not ends and not _anything_waits(room, now):
        return []
    with transaction.atomic():
        written = _write_ends(ends, now)
        claimed = _claim(host, room, now)
    if written:
        waking.knock("loops")
    return claimed


def tend(held: Sequence[Held], *, now: datetime) -> dict[int, str]:
    """Hold on to what runs, keeping each one's progress and news; give up on what has killed too many hosts.

    Gives the ids no longer ours, each with the status its row has now.
    """
    lease_until = now + timedelta(seconds=settings.LEASE_SECONDS)
    lost: dict[int, str] = {}
    rows = [(one.execution.id, one.execution.fence, lease_until, one.progress) for one in held]
    news = [(one.execution.id, one.execution.fence, *_as_stored(one.news)) for one in held if one.news]
    if rows:
        with transaction.atomic():
            kept = {row[0] for row in _conditional(("lease_until", "progress"), rows)}
            _conditional(("results", "metrics"), news)
        missing = [row[0] for row in rows if row[0] not in kept]
        if missing:
            lost = dict(Execution.objects.filter(id__in=missing).values_list("id", "status"))
    _abandon_hopeless(now)
    return lost


def let_go(gone: Sequence[Held]) -> None:
    """Say that nothing runs any more of what was cancelled, and how far it came: a halt waits for that."""
    rows = [(one.execution.id, one.execution.fence, *_as_stored(one.news)) for one in gone if one.news]
    bulk.update(Execution, ("id", "fence"), ("results", "metrics"), rows, where="t.status = 'cancelled'")
    cancelled = Execution.objects.filter(id__in=[one.execution.id for one in gone], status=Execution.Status.CANCELLED)
    cancelled.exclude(lease_until=None).update(lease_until=None)


def hand_back(held: Sequence[Claimed]) -> None:
    """Give up what runs, for another host to begin at once; `runs` keeps telling that it was begun."""
    rows = [(execution.id, execution.fence, Execution.Status.DISPATCHED) for execution in held]
    with transaction.atomic():
        _conditional(("status",), rows, extra_set="lease_until = NULL, host = ''")
    waking.knock("work")


def succeeded(execution: Claimed, answer: object, *, now: datetime) -> End:
    """Put an executor's answer into the form its row keeps; an answer that can't be kept is a failure."""
    if not isinstance(answer, Result):
        text = f"The executor {execution.executor!r} answered with {type(answer).__name__}, not with a Result."
        return End(execution, Execution.Status.FAILED, now, error=text, retryable=False)
    metrics = dict(answer.metrics)
    if answer.findings is not None:
        metrics["findings"] = list(answer.findings)
    try:
        text = bulk.json_text(metrics)
        needs = None if answer.needs is None else bulk.json_text(_needs(answer.needs))
    except (TypeError, ValueError) as error:
        problem = f"The executor's metrics or needs can't be kept as JSON: {error}"
        return End(execution, Execution.Status.FAILED, now, error=problem[:ERROR_LIMIT], retryable=False)
    if len(text) > TEXT_LIMIT:
        problem = f"The executor's metrics are {len(text)} characters long; {TEXT_LIMIT} can be kept."
        return End(execution, Execution.Status.FAILED, now, error=problem, retryable=False)
    results = _kept(str(answer.results), TEXT_LIMIT)
    return End(execution, Execution.Status.SUCCEEDED, now, results=results, metrics=text, needs=needs, progress=100)


def failed(execution: Claimed, error: BaseException, *, now: datetime, kept: Kept | None = None) -> End:
    """Put an exception into the form the row keeps, with what there was so far."""
    end = End(execution, Execution.Status.FAILED, now)
    end.results, end.metrics = _as_stored(kept)
    if isinstance(error, ExecutionFailed):
        end.error, end.retryable = str(error), error.retryable
        end.not_before = None if error.retry_after is None else now + error.retry_after
        end.needs = None if error.needs is None else bulk.json_text(_needs(error.needs))
    else:
        end.error = f"{type(error).__name__}: {error}"
    end.error = _kept(end.error, ERROR_LIMIT)
    return end


def timed_out(execution: Claimed, *, now: datetime, kept: Kept | None = None) -> End:
    """Say that an execution was stopped because its time was over; what there was so far stays with it."""
    text = f"It ran longer than its {execution.timeout:g} s and was stopped."
    results, metrics = _as_stored(kept)
    return End(execution, Execution.Status.TIMED_OUT, now, results, metrics, error=text)


def unknown_executor(execution: Claimed, *, now: datetime) -> End:
    """Say that nothing here is called so: no retry can help, an operator can."""
    name = _kept(execution.executor, 32)
    return failed(
        execution,
        ExecutionFailed(
            f"There is no executor {name!r} here; nothing was run.",
            retryable=False,
            needs={"owner": "operator", "action": f"configure the executor {name!r}, or give the task another one"},
        ),
        now=now,
    )


def _as_stored(kept: Kept | None) -> tuple[str, str]:
    """Give results and metrics as the row keeps them; what can't be kept is left out, since nobody could be told."""
    if kept is None:
        return "", "{}"
    try:
        metrics = bulk.json_text(dict(kept.metrics))
    except (TypeError, ValueError):
        metrics = "{}"
    return _kept(kept.results, TEXT_LIMIT), metrics if len(metrics) <= TEXT_LIMIT else "{}"


def _needs(needs: Any) -> dict[str, str]:
    return {"owner": _kept(str(needs["owner"]), 64), "action": _kept(str(needs["action"]), 200)}


def _kept(text: str, limit: int) -> str:
    """Cut a text to what a row and a stream field can hold: no NUL (PostgreSQL), no half characters, not too long."""
    clean = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def _stored(moment: datetime) -> Any:
    """Give an instant as the database compares it: SQLite knows texts only."""
    return connection.ops.adapt_datetimefield_value(moment)


def _window() -> str:
    """Give the select of the oldest open rows that may be claimed, with `inline` 1 or 0; its parameters: names, now."""
    inline = bulk.membership("executor || ':' || action")
    external = ", ".join(f"'{name}'" for name in sorted(EXTERNAL))
    return (
        f"SELECT id, CASE WHEN {inline} THEN 1 ELSE 0 END AS inline "  # noqa: S608
        f"FROM workflow_execution WHERE {_OPEN} AND executor NOT IN ({external}) "
        f"AND (status = 'dispatched' OR (lease_until < %s AND runs < {RUN_LIMIT})) ORDER BY id LIMIT {WINDOW}"
    )


def _anything_waits(room: Room, now: datetime) -> bool:
    if room.inline <= 0 and room.others <= 0:
        return False
    kinds = [kind for kind, count in ((1, room.inline), (0, room.others)) if count > 0]
    fitting = f"inline IN ({', '.join(map(str, kinds))})"
    sql = f"SELECT EXISTS (SELECT 1 FROM ({_window()}) AS waiting WHERE {fitting})"  # noqa: S608 - constants of this file
    with connection.cursor() as cursor:
        cursor.execute(sql, [bulk.members(sorted(room.inline_names)), _stored(now)])
        return bool(cursor.fetchone()[0])


def _claim(host: str, room: Room, now: datetime) -> list[Claimed]:
    """Take the oldest open executions there is room for, and what a dead host left, with their tasks."""
    if room.inline <= 0 and room.others <= 0:
        return []
    postgresql = connection.vendor == "postgresql"
    window = _window() + (" FOR UPDATE SKIP LOCKED" if postgresql else "")
    chosen = (
        "SELECT id FROM (SELECT id, inline, row_number() OVER (PARTITION BY inline ORDER BY id) AS place "  # noqa: S608
        f"FROM ({window}) AS waiting) AS ranked WHERE place <= CASE WHEN inline = 1 THEN %s ELSE %s END"
    )
    # an array, since PostgreSQL may run a plain subquery more than once and lock other rows each time
    found = f"id = ANY(ARRAY({chosen}))" if postgresql else f"id IN ({chosen})"
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE workflow_execution SET status = 'running', host = %s, fence = fence + 1, runs = runs + 1, "  # noqa: S608
            f"lease_until = %s, started_at = %s, progress = 0 WHERE {found} "
            "RETURNING id, task_id, nova_id, executor, action, attempt, timeout, fence, runs",
            [
                host,
                _stored(now + timedelta(seconds=settings.LEASE_SECONDS)),
                _stored(now),
                bulk.members(sorted(room.inline_names)),
                _stored(now),
                max(0, room.inline),
                max(0, room.others),
            ],
        )
        claimed = sorted((Claimed(*row) for row in cursor.fetchall()), key=lambda execution: execution.id)
        if claimed:
            wanted = bulk.members(execution.task_id for execution in claimed)
            cursor.execute(
                f"SELECT id, title, description, metadata FROM workflow_task WHERE {bulk.membership('id')}",  # noqa: S608
                [wanted],
            )
            tasks = {row[0]: row for row in cursor.fetchall()}
            for execution in claimed:
                _, execution.title, execution.description, metadata = tasks[execution.task_id]
                execution.metadata = _mapping(metadata)
    return claimed


def _mapping(metadata: Any) -> dict[str, Any]:
    value = orjson.loads(metadata) if isinstance(metadata, str | bytes) else metadata
    return value if isinstance(value, dict) else {}


def _write_ends(ends: Sequence[End], now: datetime) -> bool:
    if not ends:
        return False
    rows = [
        (
            end.execution.id,
            end.execution.fence,
            end.status.value,
            end.finished_at,
            end.results,
            end.metrics,
            end.needs,
            end.error,
            end.retryable,
            end.progress,
            end.not_before,
        )
        for end in ends
    ]
    columns = ("status", "finished_at", "results", "metrics", "needs", "error", "retryable", "progress", "not_before")
    written = {row[0] for row in _conditional(columns, rows, extra_set="lease_until = NULL")}
    fenced = [end for end in ends if end.execution.id not in written]
    if fenced:  # one that was cancelled a moment before its end runs no more either: a halt waits for that
        held = [(end.execution.id, end.execution.fence, None) for end in fenced]
        bulk.update(Execution, ("id", "fence"), ("lease_until",), held, where="t.status = 'cancelled'")
        for end in fenced:
            _log.warning(
                "execution_fenced",
                execution=end.execution.id,
                task_id=end.execution.task_id,
                fence=end.execution.fence,
                status=end.status.value,
            )
    waking.mark_due({end.execution.nova_id for end in ends if end.execution.id in written}, now=now)
    return bool(written)


def _conditional(columns: tuple[str, ...], rows: Sequence[Sequence[Any]], *, extra_set: str = "") -> list[tuple[Any, ...]]:
    """Change running rows that still have our fence; give the ids of those that had."""
    return bulk.update(
        Execution, ("id", "fence"), columns, rows, where="t.status = 'running'", extra_set=extra_set, returning="t.id"
    )


def _abandon_hopeless(now: datetime) -> None:
    """End what has outlived as many hosts as may die in it: it would kill the next one too."""
    hopeless = f"{_OPEN} AND status = 'running' AND lease_until < %s AND runs >= {RUN_LIMIT}"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM workflow_execution WHERE {hopeless} LIMIT 1", [_stored(now)])  # noqa: S608
        if cursor.fetchone() is None:
            return
        needs = {"owner": "operator", "action": "find out why this work kills its worker, then unblock or cancel the task"}
        with transaction.atomic():
            cursor.execute(
                "UPDATE workflow_execution SET status = 'abandoned', finished_at = %s, lease_until = NULL, "  # noqa: S608
                "fence = fence + 1, retryable = %s, needs = %s, error = 'Its host died ' || runs || ' times; it was not "
                f"begun again.' WHERE {hopeless} RETURNING id, task_id, nova_id",
                [_stored(now), False, bulk.json_text(needs), _stored(now)],
            )
            abandoned = cursor.fetchall()
            waking.mark_due({nova_id for _, _, nova_id in abandoned}, now=now)
    for execution_id, task_id, nova_id in abandoned:
        _log.error("execution_abandoned", execution=execution_id, task_id=task_id, nova_id=nova_id, runs=RUN_LIMIT)
    waking.knock("loops")
