"""Fills a PostgreSQL database with the history of a large fleet: SQL alone, so that millions of rows take minutes.

A row of each kind is made by the services first; the others are copies of it with their own names and times. Past this file
nothing knows that they were not worked for.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

DAYS = 30  # over which the history is spread
TEAMS = 20
_OPEN_SHARE = 0.05  # of all tasks: the newest ones, pending, in progress and blocked
_AT_ONCE = 100_000  # tasks, with their journal, in one transaction


def fill(novas: str, tasks: str, entries: str) -> dict[str, Any]:
    """Make so many Novas, tasks and journal entries (about; five for each completed task), and sum the journal up."""
    from django.core.management import call_command
    from django.db import connection

    if connection.vendor != "postgresql":
        raise SystemExit("The filler speaks PostgreSQL only.")
    now = datetime.now(UTC)  # noqa: TID251 - a door
    begun = time.monotonic()
    _novas(int(novas), now)
    each = max(3, round(int(entries) / int(tasks)))
    _tasks(int(tasks), int(novas), each, now)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO safety_journalhead (nova_id, seq) SELECT nova_id, count(*) FROM safety_auditentry WHERE nova_id <> '' "
            "GROUP BY nova_id ON CONFLICT (nova_id) DO UPDATE SET seq = excluded.seq"
        )
        cursor.execute("DELETE FROM safety_outboxentry")
        cursor.execute("VACUUM ANALYZE")
    filled = time.monotonic()
    call_command("roll_ups", "catch-up")
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM safety_auditentry")
        journal = cursor.fetchone()[0]
        cursor.execute("VACUUM ANALYZE reporting_rollup")
    summed = time.monotonic()
    return {"fill_seconds": filled - begun, "sum_seconds": summed - filled, "entries": journal, "tasks": int(tasks)}


def _copies(model: Any, given: Mapping[str, str], source: str) -> str:
    """Give the statement that copies one row of a model for each row of `source`, with some columns of its own."""
    columns = [field.column for field in model._meta.concrete_fields if field.column in given or field.column != "id"]
    values = [given.get(column, f'o."{column}"') for column in columns]
    names = ", ".join(f'"{column}"' for column in columns)
    statement = (
        f"INSERT INTO {model._meta.db_table} ({names}) SELECT {', '.join(values)} "  # noqa: S608 - names of our own
        f"FROM (SELECT * FROM {model._meta.db_table} WHERE {model._meta.pk.column} = %s) o, {source}"
    )
    return statement.replace(" % ", " %% ")  # the remainder, not a parameter


def _novas(number: int, now: datetime) -> None:
    """Make Novas like the starting fleet's, in teams, with nothing due for a day."""
    from django.core.management import call_command
    from django.db import connection

    from workflow import seeding
    from workflow.models import Nova, NovaState

    call_command("migrate", interactive=False, verbosity=0)
    seeding.seed_all(now=now)
    fleet = "(ARRAY['torch','echo','helix','vaeris','synergy'])[1 + i % 5]"
    series = "generate_series(0, %s) AS i"
    name = "'bench-' || lpad(i::text, 5, '0')"
    own = {"nova_id": name, "name": name, "team": f"'team-' || (i % {TEAMS})", "personality_id": fleet}
    with connection.cursor() as cursor:
        cursor.execute(_copies(Nova, own, series), ["torch", number - 1])
        state = {
            "nova_id": name,
            "due_at": "now() + interval '1 day'",
            "protocol_checks": "100 + i % 900",
            "protocol_passes": "100 + i % 900 - i % 3",
            "total_cycles_completed": "i % 5000",
            "mode": "CASE i % 100 WHEN 0 THEN 'paused' WHEN 1 THEN 'halted' ELSE 'running' END",
            "tasks_in_flight": "CASE WHEN i % 3 = 0 THEN 1 ELSE 0 END",
            "mode_reason": "''",
        }
        cursor.execute(_copies(NovaState, state, series), ["torch", number - 1])
        cursor.execute("UPDATE workflow_novastate SET due_at = now() + interval '1 day'")
        cursor.execute(
            "INSERT INTO reporting_membership (nova_id, team) SELECT nova_id, team FROM workflow_nova "
            "ON CONFLICT (nova_id) DO UPDATE SET team = excluded.team"
        )
        cursor.execute(
            "INSERT INTO safety_safetyincident (nova_id, mechanism, status, violation, safety_level, reason, evidence, "
            "opened_at, last_seen_at, ended_at, joined, acknowledged_by, conclusion) "
            "SELECT 'bench-' || lpad((i * 3)::text, 5, '0'), 'frosty_cooldown', "
            "CASE WHEN i < 20 THEN 'open' ELSE 'resolved' END, '', 'cooldown', 'bench', '{}', "
            "now() - i * interval '20 minutes', now(), CASE WHEN i < 20 THEN NULL ELSE now() END, 0, '', '' "
            "FROM generate_series(0, %s) AS i",
            [min(2_000, number // 3 - 1)],
        )


def _tasks(number: int, novas: int, each: int, now: datetime) -> None:
    """Make tasks one after the other over the days, the newest still open, and the journal of each."""
    from django.db import connection, transaction

    from workflow.models import Task
    from workflow.task_tracker import TaskTracker

    with TaskTracker.open(now=now) as tracker:
        task_id = tracker.create_task("Analyse stream lag", "What lags, and why?", executor="agent")
    since, step = now - timedelta(days=DAYS), DAYS * 86_400 / number
    closed = int(number * (1 - _OPEN_SHARE))
    nova = f"'bench-' || lpad((i::bigint * 7919 % {novas})::text, 5, '0')"
    at = f"%s::timestamptz + i * interval '{step:.6f} seconds'"
    status = f"CASE WHEN i < {closed} THEN 'completed' ELSE (ARRAY['pending','pending','in_progress','blocked'])[1 + i % 4] END"
    done = f"i < {closed}"
    kind = "CASE WHEN i % 10 = 0 THEN 'momentum' ELSE 'requested' END"
    own = {
        "id": "'BENCH-' || i",
        "title": "'Analyse stream lag ' || i",
        "assignee_id": nova,
        "status": status,
        "work_type": kind,
        "priority": "(ARRAY['critical','high','medium','low'])[1 + i % 4]",
        "created_at": at,
        "updated_at": at,
        "order_at": at,
        "started_at": f"CASE WHEN {done} OR i % 4 = 2 THEN {at} END",
        "completed_at": f"CASE WHEN {done} THEN {at} + (5 + i % 300) * interval '1 second' END",
        "outcome": f"CASE WHEN {done} THEN 'succeeded' ELSE '' END",
        "progress": f"CASE WHEN {done} THEN 100 ELSE 0 END",
        "blocked_at": f"CASE WHEN i >= {closed} AND i % 4 = 3 THEN {at} END",
        "block_owner": f"CASE WHEN i >= {closed} AND i % 4 = 3 THEN 'operator' ELSE '' END",
        "block_action": f"CASE WHEN i >= {closed} AND i % 4 = 3 THEN 'look at it' ELSE '' END",
    }
    statement = _copies(Task, own, "generate_series(%s, %s) AS i")
    instants = statement.count("%s") - 3
    journal = _journal(nova, at, kind, closed, each)
    for first in range(0, number, _AT_ONCE):
        last = min(first + _AT_ONCE, number) - 1
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement, [*[since] * instants, task_id, first, last])
            cursor.execute(journal, [since, first, last])
    Task.objects.filter(pk=task_id).delete()


def _journal(nova: str, at: str, kind: str, closed: int, each: int) -> str:
    """Give the statement that writes the entries of tasks: created, started, completed or blocked, and steps of the Nova."""
    last = f"CASE WHEN i < {closed} THEN 'workflow.task.completed' ELSE 'workflow.task.blocked' END"
    action = (
        "CASE k WHEN 1 THEN 'workflow.task.created' WHEN 2 THEN 'workflow.task.started' "
        f"WHEN 3 THEN {last} ELSE 'workflow.nova.moved' END"
    )
    created = f"jsonb_build_object('priority', 'high', 'work_type', {kind}, 'executor', '', 'action', '')"
    ended = (
        f"jsonb_build_object('outcome', 'succeeded', 'work_type', {kind}, 'was', 'in_progress', 'evidence', i % 9 > 0, "
        "'work_ms', 5000 + (i % 300) * 1000, 'lead_ms', 5000 + (i % 300) * 1000)"
    )
    blocked = f"jsonb_build_object('owner', 'operator', 'action', 'look at it', 'work_type', {kind}, 'was', 'pending')"
    state = "CASE WHEN (k + i) % 2 = 0 THEN 'task_execution' ELSE 'stream_check' END"
    moved = f"jsonb_build_object('path', jsonb_build_array('work_discovery', {state}))"
    after = (
        f"CASE WHEN k = 1 THEN {created} WHEN k = 2 THEN jsonb_build_object('attempt', 1) "
        f"WHEN k = 3 AND i < {closed} THEN {ended} WHEN k = 3 THEN {blocked} ELSE {moved} END"
    )
    columns = (
        "created_at, nova_id, seq, actor, action, object_type, object_id, before, after, reason, request_id, cause, stream, "
        "message, personal"
    )
    values = (
        f"{at} + k * interval '1 second', {nova}, i, 'nova:' || {nova}, {action}, CASE WHEN k < 4 THEN 'task' ELSE 'nova' END, "
        f"CASE WHEN k < 4 THEN 'BENCH-' || i ELSE {nova} END, NULL, {after}, '', '', '', '', NULL, false"
    )
    statement = (
        f"INSERT INTO safety_auditentry ({columns}) SELECT {values} "  # noqa: S608 - words of our own
        f"FROM generate_series(%s, %s) AS i, generate_series(1, {each}) AS k "
        f"WHERE k NOT IN (2, 3) OR i < {closed} OR (k = 2 AND i % 4 = 2) OR (k = 3 AND i % 4 = 3) ORDER BY i, k"
    )
    return statement.replace(" % ", " %% ")


def dashboards(repeats: str) -> dict[str, Any]:
    """Make each scope's dashboard and series so many times; give the milliseconds of each and the queries."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from reporting import series
    from reporting.reporting_system import EnterpriseReportingSystem
    from reporting.scope import Scope

    found: dict[str, Any] = {}
    scopes = {"fleet": Scope(), "team": Scope("", "team-7"), "nova": Scope("bench-00007")}
    for name, scope in scopes.items():
        system = EnterpriseReportingSystem(scope.nova_id, team=scope.team)

        def make() -> None:
            system.generate_real_time_dashboard(datetime.now(UTC))  # noqa: B023, TID251

        def chart() -> None:
            now = datetime.now(UTC)  # noqa: TID251
            series.throughput(scope, now=now)  # noqa: B023
            series.cycle_times(scope, now=now)  # noqa: B023
            series.cumulative_flow(scope, now=now)  # noqa: B023
            series.safety_margins(scope, now=now)  # noqa: B023
            if scope.nova_id:  # noqa: B023
                series.state_timeline(scope.nova_id, now=now)  # noqa: B023

        make()
        with CaptureQueriesContext(connection) as queries:
            make()
        slowest = sorted(queries.captured_queries, key=lambda query: -float(query["time"]))[:3]
        found[name] = {
            "dashboard_ms": [_timed(make) for _ in range(int(repeats))],
            "series_ms": [_timed(chart) for _ in range(int(repeats))],
            "queries": len(queries),
            "slowest": [(query["time"], query["sql"][:300]) for query in slowest],
        }
    return found


def _timed(call: Any) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000
