"""An engine stopped between step and commit, past its leases: work goes on, and its late commit changes nothing."""

import os
import signal

import pytest

from tests.processes.stack import wait_until
from tests.stack.outside import QUEUE, Outside, stop_file

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

NOVA = "fenced"
PREPARE = f"from workflow.configuration import create_nova\ncreate_nova('{NOVA}', now=now, reason='tests')"
ARCHIVE = f"from workflow.services import archive_nova\narchive_nova('{NOVA}', reason='tests', now=now)"


def test_a_stopped_engines_late_commit_changes_nothing_and_is_journalled_as_fenced(outside: Outside) -> None:
    outside.run_inside(PREPARE)
    wait_until(lambda: outside.hash(f"workflow:state:{NOVA}"), seconds=20, what="the Nova runs")
    stop = stop_file(outside.stack.folder)
    stopped = stop.with_suffix(".pid")
    stop.write_text(NOVA)
    item = {"title": "Once", "nova_id": NOVA, "executor": "builtin", "action": "echo", "description": "said"}
    cause = outside.add(QUEUE, dict(item))
    wait_until(lambda: stopped.exists() and stopped.read_text(), seconds=20, what="an engine stops before its commit")
    pid = int(stopped.read_text())
    try:
        outside.assert_echo_works()  # the others' work goes on
        completed = outside.wait_for("task_completed", cause)  # and so does the stopped engine's own
        before = outside.journal(completed["task_id"])
        moves = len(outside.journal(NOVA))
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(
        lambda: "workflow.nova.fenced" in outside.journal(NOVA)[moves:], seconds=15, what="the late commit is journalled"
    )
    assert outside.journal(completed["task_id"]) == before
    assert before.count("workflow.task.started") == before.count("workflow.task.completed") == 1
    told = outside.told(cause)
    assert [len(told[kind]) for kind in ("task_todo", "task_progress", "task_completed", "celebrations")] == [1, 1, 1, 1]
    executions = outside.ledger.rows(f"SELECT status, runs FROM workflow_execution WHERE task_id = '{completed['task_id']}'")
    assert executions == [("succeeded", 1)]
    outside.assert_echo_works()
    outside.run_inside(ARCHIVE)
