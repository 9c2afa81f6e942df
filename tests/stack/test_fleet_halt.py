"""A halt of a whole fleet under load, one Nova of which does not listen, on the running stack; a drill comes before it.

Fifty Novas at work: forty-nine confirm by evidence, the deaf one is unreachable after half a minute and killed; nothing of any
of them runs after its confirmation, and the journal tells all of it.
"""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.processes.load import Load
from tests.processes.stack import ROOT, wait_until
from tests.stack.outside import Outside
from tests.stack.test_founding_incident import Agent

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

NOVAS, DEAF = 50, "crowd-00"
PREPARE = """
from safety.models import SafetyPolicy
from workflow.configuration import create_nova, save_configured
from workflow.models import Nova
save_configured(SafetyPolicy(slug="crowd", max_concurrent_tasks=2), now=now, reason="tests", creating=True)
for number in range({count}):
    create_nova(f"crowd-{{number:02}}", now=now, policy="crowd", reason="tests")
for nova in Nova.objects.filter(archived_at=None):  # what a stream entry may choose, every Nova must allow
    Nova.objects.filter(pk=nova.pk).update(
        allowed_executors=[*nova.allowed_executors, "append"], stream_executors=[*nova.stream_executors, "append"]
    )
"""
ARCHIVE = """
from workflow.models import Nova, Task
from workflow.services import archive_nova
from workflow.task_services import cancel_task
for task_id in Task.objects.filter(executor="append").exclude(status="completed").values_list("id", flat=True):
    cancel_task(task_id, reason="tests", now=now)
for name in Nova.objects.filter(nova_id__startswith="crowd-").values_list("nova_id", flat=True):
    archive_nova(name, now=now, reason="tests")
for nova in Nova.objects.filter(archived_at=None):
    Nova.objects.filter(pk=nova.pk).update(
        **{name: [one for one in getattr(nova, name) if one != "append"] for name in ("allowed_executors", "stream_executors")}
    )
"""


@pytest.fixture(scope="module", autouse=True)
def crowd(outside: Outside) -> Iterator[None]:
    """As many more Novas as make fifty, at work."""
    active = sum(status != "archived" for status, _ in outside.statuses().values())
    outside.run_inside(PREPARE.format(count=NOVAS - active))
    yield
    outside.run_inside(ARCHIVE)


@pytest.fixture(scope="module")
def load(outside: Outside, crowd: None) -> Iterator[Load]:
    """Tasks that leave a line in a file, always so many that most of the crowd are at work."""
    made = Load(outside.stack, in_flight=80, milliseconds=1_000)
    made.start()
    try:
        wait_until(lambda: made.ledger.completed() >= 20, seconds=30, what="the load runs")
        yield made
    finally:
        made.stop()


class Deaf:
    """An agent that goes on with its calls, whatever it is told."""

    def __init__(self, outside: Outside) -> None:
        self.agent, self.replies = Agent(outside, DEAF), list[dict[str, Any]]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="deaf")
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._over.wait(1.5):
            number += 1
            self.replies.append(self.agent.use("deaf", f"make part-{number}"))

    def stop(self) -> None:
        self._over.set()
        self._thread.join(20)


def manage(outside: Outside, *words: str) -> tuple[int, Any]:
    """Run a command of manage.py with --json; give its exit code and what it printed."""
    stack = outside.stack
    done = subprocess.run(
        stack.command(*words, "--json"), env=stack.environment, cwd=ROOT, capture_output=True, check=False, timeout=90
    )
    return done.returncode, json.loads(done.stdout)


def test_a_drill_shows_that_every_nova_would_hear_a_halt_and_stops_nobody(outside: Outside, load: Load) -> None:
    code, drill = manage(outside, "safety_drill")
    assert code == 0, drill
    assert drill["counts"] == {"requested": 0, "delivered": 0, "acknowledged": 0, "confirmed": NOVAS, "unreachable": 0}
    sys.stdout.write(f"\ndrill of {NOVAS} Novas under load: {drill['seconds']}\n")
    assert drill["seconds"]["most"] < 30
    assert not {"halted", "killed", "paused"} & {status for status, _ in outside.statuses().values()}
    assert outside.ledger.rows("SELECT count(*) FROM workflow_halt WHERE drill AND settled_at IS NOT NULL")[0][0] == 1
    done = load.ledger.completed()
    wait_until(lambda: load.ledger.completed() > done, seconds=10, what="work goes on")


def test_a_fleet_halt_is_confirmed_by_all_but_the_deaf_one_who_is_killed(
    outside: Outside, load: Load, effects_file: Path
) -> None:
    deaf = Deaf(outside)
    try:
        wait_until(lambda: len(deaf.replies) > 1, seconds=15, what="the deaf one is at work")
        assert deaf.replies[0] == {}
        code, (halt,) = manage(outside, "nova", "halt", "--fleet", "--reason", "Everybody stops.")
        heard = len(deaf.replies)
        wait_until(lambda: len(deaf.replies) > heard + 1, seconds=15, what="the deaf one goes on")
    finally:
        deaf.stop()
    assert code == 1
    assert halt["counts"] == {
        "requested": 0, "delivered": 0, "acknowledged": 0, "confirmed": NOVAS - 1, "unreachable": 1,
    }  # fmt: skip
    assert [nova["nova_id"] for nova in halt["novas"] if nova["status"] == "unreachable"] == [DEAF]
    assert "its agent is at work" in next(nova["detail"] for nova in halt["novas"] if nova["nova_id"] == DEAF)
    statuses = Counter(status for status, _ in outside.statuses().values() if status != "archived")
    assert statuses == {"halted": NOVAS - 1, "killed": 1}

    confirmed = {nova["nova_id"]: instant(nova["confirmed_at"]) for nova in halt["novas"] if nova["confirmed_at"]}
    took = sorted((at - instant(halt["requested_at"])).total_seconds() for at in confirmed.values())
    middle, last = took[len(took) // 2], took[-1]
    sys.stdout.write(f"\nhalt of {NOVAS} Novas under load: median {middle:.2f} s, the last but the deaf one {last:.2f} s\n")
    assert nothing_ran_after(outside, confirmed, effects_file)
    assert outside.rest("POST", f"novas/{DEAF}/api-permits/", {}, key=deaf.agent.key)[0] in (401, 403)

    story = Counter(outside.journal(str(halt["id"])))
    assert story["workflow.halt.ordered"] == story["workflow.halt.settled"] == story["workflow.halt.unreachable"] == 1
    assert story["workflow.halt.confirmed"] == NOVAS - 1
    assert "workflow.nova.killed" in outside.journal(DEAF)

    accepted = load.unread()
    load.pause()
    code, _ = manage(outside, "nova", "resume", "--fleet", "--reason", "The danger is over.")
    assert code == 0
    wait_until(lambda: not load.ledger.open(), seconds=20, what="what was accepted meanwhile is done", interval=0.3)
    assert not accepted
    assert (
        load.ledger.rows("SELECT count(*) FROM workflow_task WHERE executor = 'append' AND outcome <> 'succeeded'")[0][0] == 0
    )
    assert deaf.agent.call("SessionStart", "again", source="startup") == {}  # its key is good again
    deaf.agent.call("SessionEnd", "again", reason="other")
    deaf.agent.call("SessionEnd", "deaf", reason="other")


def nothing_ran_after(outside: Outside, confirmed: dict[str, datetime], effects_file: Path) -> bool:
    """See that no execution and no effect of a Nova is younger than its confirmation, and that none runs."""
    running = "SELECT count(*) FROM workflow_execution WHERE status IN ('dispatched', 'running')"
    assert outside.ledger.rows(running)[0][0] == 0
    begun = outside.ledger.rows("SELECT nova_id, max(started_at) FROM workflow_execution GROUP BY nova_id")
    late = {nova_id: at for nova_id, at in begun if at and nova_id in confirmed and utc(at) > confirmed[nova_id]}
    assert not late
    whose = dict(outside.ledger.rows("SELECT id, assignee_id FROM workflow_task WHERE executor = 'append'"))
    for line in effects_file.read_text().splitlines():
        task_id, _, _, at = line.split()
        nova_id = whose[task_id]
        assert nova_id not in confirmed or float(at) <= confirmed[nova_id].timestamp(), line
    return True


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
