"""The stream server hangs, or dies and is started again: every Nova is unsafe within two seconds, and comes back by itself.

What counts is what /api/v1 shows of each Nova; the whole fleet's outage is one incident. Its figures are in the output (-s).
"""

import sys
import time
from collections.abc import Callable

import pytest

from tests.processes.stack import wait_until
from tests.stack.outside import Outside

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

PROMISED = 2.0  # seconds
SLACK = 3.0  # of a machine that other tests share


def everybody(outside: Outside) -> list[tuple[str, str]]:
    return [status for status in outside.statuses().values() if status[0] != "archived"]


def all_unsafe(outside: Outside) -> bool:
    return all(status == "safety_pause" and reason.startswith("stream_monitor: ") for status, reason in everybody(outside))


def none_unsafe(outside: Outside) -> bool:
    return not any(status == "safety_pause" for status, _ in everybody(outside))


def told(outside: Outside) -> list[tuple[str, str, str]]:
    """Give every incident of the fleet's stream server: whose it is, its status, when it opened."""
    return outside.ledger.rows(
        "SELECT nova_id, status, opened_at FROM safety_safetyincident WHERE mechanism = 'stream_monitor' ORDER BY id"
    )


def see_outage(outside: Outside, how: str, begin: Callable[[], object]) -> None:
    """Begin an outage; see that every Nova is unsafe in time, by one new incident, which is the fleet's."""
    wait_until(lambda: none_unsafe(outside), seconds=20, what="every Nova is safe before")
    before = told(outside)
    begin()
    begun = time.monotonic()
    wait_until(lambda: all_unsafe(outside), seconds=PROMISED + SLACK, what=f"{how}: every Nova is unsafe", interval=0.02)
    sys.stdout.write(f"\n{how}: every Nova unsafe after {time.monotonic() - begun:.2f} s\n")
    (new,) = told(outside)[len(before) :]
    assert (new[0], new[1] in ("open", "resolved")) == ("", True)


def see_return(outside: Outside, how: str) -> None:
    """See that all come back by themselves, the incident is over, and work goes on."""
    begun = time.monotonic()
    wait_until(lambda: none_unsafe(outside), seconds=20, what=f"{how}: every Nova comes back", interval=0.02)
    sys.stdout.write(f"{how}: every Nova back after {time.monotonic() - begun:.2f} s\n")
    outside.assert_echo_works()
    assert told(outside)[-1][1] == "resolved"
    actions = [
        row[0]
        for row in outside.ledger.rows("SELECT action FROM safety_auditentry WHERE action LIKE 'safety.stream.%' ORDER BY id")
    ]
    assert actions[-2:] == ["safety.stream.lost", "safety.stream.returned"]
    assert not outside.ledger.rows(
        "SELECT nova_id FROM safety_auditentry WHERE action = 'safety.nova.unsafe' AND reason LIKE '%stream server%'"
    )


@pytest.mark.parametrize("moment", [0.0, 0.4, 0.8])
def test_a_server_that_hangs_makes_every_nova_unsafe_until_it_answers(outside: Outside, moment: float) -> None:
    server = outside.stack.role("stream")
    assert server is not None
    time.sleep(moment)  # a hang may begin at any moment of the second between two looks
    try:
        see_outage(outside, "hanging", server.suspend)
        status, task, _ = outside.rest(
            "POST", "tasks", {"title": "Accepted meanwhile", "executor": "builtin", "action": "echo"}
        )
        assert status == 201, task
    finally:
        server.resume()
    see_return(outside, "hanging")
    wait_until(
        lambda: outside.task(task["task_id"])["status"] == "completed", seconds=20, what="what was accepted meanwhile is done"
    )


def test_a_server_that_dies_makes_every_nova_unsafe_until_it_is_started_again(outside: Outside) -> None:
    see_outage(outside, "stopped", lambda: outside.stack.kill("stream"))
    see_return(outside, "stopped")
