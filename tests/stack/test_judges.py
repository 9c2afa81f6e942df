"""The five judges on the running stack: a fact is made true, that Nova and no other pauses, and it comes back by itself.

Each judged Nova has a cycle of a second and a policy with short cooldowns; what a judge judges is real: counted observations,
the machine's load, a silence. (The fifth, of the stream server: test_stream_outage.py.)
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta

import psutil
import pytest

from safety.core.stress import stress_score
from tests.processes.stack import wait_until
from tests.stack.outside import Outside

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

PAUSED = "safety_pause"
JUDGED = ("judged-burst", "judged-load", "judged-hook", "judged-flood")

# A policy for each judged Nova: the preset `standard` but for what its test would wait for too long.
PREPARE = f"""
from safety.models import SafetyPolicy
from workflow.configuration import create_nova, save_configured
from workflow.models import Personality
quick = Personality.objects.get(slug="torch")
quick.slug, quick.base_cycle_time = "quick", 1.0
save_configured(quick, now=now, reason="tests", creating=True)
changes = {{
    "judged-burst": {{"cooldown": 1.0, "cooldown_limit": 2.0}},
    "judged-load": {{"stress_sustained": 0.1, "meditation": 2.0}},
    "judged-hook": {{"hook_silence": 1.5}},
    "judged-flood": {{"cooldown": 1.0, "cooldown_limit": 2.0, "requests_per_minute": 1000, "burst_window": 4.0}},
}}
for name in {JUDGED}:
    save_configured(SafetyPolicy(slug=name, **changes[name]), now=now, reason="tests", creating=True)
    create_nova(name, now=now, personality="quick", policy=name, reason="tests")
"""
OBSERVE = "from safety.observations import Kind, observe\n"


@pytest.fixture(scope="module", autouse=True)
def judged(outside: Outside) -> Iterator[None]:
    """The four Novas that are judged one by one; archived when the tests are over."""
    outside.run_inside(PREPARE)
    wait_until(
        lambda: all(outside.hash(f"workflow:state:{nova_id}") for nova_id in JUDGED), seconds=20, what="the judged Novas run"
    )
    yield
    archive = (
        f"from workflow.services import archive_nova\nfor name in {JUDGED}:\n    archive_nova(name, reason='tests', now=now)"
    )
    outside.run_inside(archive)


def paused_by(outside: Outside, mechanism: str, nova_id: str) -> Callable[[], str]:
    """Give a condition: this Nova is paused by this mechanism. Its value is the reason.

    A Nova is judged when it has a cycle; one that rests after a task gets it by being woken.
    """

    def condition() -> str:
        status, reason = outside.statuses()[nova_id]
        if status == PAUSED:
            return reason if reason.startswith(f"{mechanism}: ") else ""
        assert outside.rest("POST", f"novas/{nova_id}/wake", {"reason": "Look at yourself."})[0] == 200
        return ""

    return condition


def see_pause(outside: Outside, nova_id: str, mechanism: str, *, seconds: float = 60.0) -> str:
    """Wait until the Nova, and no other, is paused by the mechanism, and until the streams say so too; give the reason."""
    reason: str = wait_until(
        paused_by(outside, mechanism, nova_id), seconds=seconds, what=f"{mechanism} pauses {nova_id}", interval=0.3
    )
    others = {other: status for other, status in outside.statuses().items() if other != nova_id and status[0] == PAUSED}
    assert not others
    alert = wait_until(
        lambda: next((e for e in reversed(outside.entries(f"nova.safety.{nova_id}")) if e["is_safe"] == "false"), None),
        seconds=30,
        what=f"nova.safety.{nova_id} says so",
    )
    assert alert["mechanism"] == mechanism
    # the same words; how long it lasts and how much it is by now may have been told anew since
    assert without_figures(alert["reason"]) == without_figures(reason.removeprefix(f"{mechanism}: "))
    rows = outside.ledger.rows(
        f"SELECT count(*) FROM safety_safetyincident WHERE nova_id = '{nova_id}' AND mechanism = '{mechanism}'"
    )
    assert rows[0][0] >= 1
    return reason


def without_figures(text: str) -> str:
    return re.sub(r"[0-9.]+ s\b", "some time", text)


def see_return(outside: Outside, nova_id: str, *, seconds: float = 60.0) -> None:
    """Wait until the Nova acts again, and says so."""
    wait_until(lambda: outside.statuses()[nova_id][0] != PAUSED, seconds=seconds, what=f"{nova_id} comes back")
    wait_until(
        lambda: outside.entries(f"nova.safety.{nova_id}")[-1]["is_safe"] == "true",
        seconds=30,
        what=f"nova.safety.{nova_id} says so",
    )
    item = {"title": "After the pause", "nova_id": nova_id, "executor": "builtin", "action": "echo"}
    assert outside.wait_for("task_completed", outside.add("nova.work.queue", dict(item)))["assignee"] == nova_id


def test_a_burst_of_tool_uses_cools_that_nova_down(outside: Outside) -> None:
    outside.run_inside(OBSERVE + "for _ in range(70):\n    observe('judged-burst', Kind.TOOL_USE, now=now)")
    reason = see_pause(outside, "judged-burst", "frosty")
    assert "70 tool uses in the last minute, more than the 60 allowed" in reason
    see_return(outside, "judged-burst")


def test_a_flood_of_api_requests_stops_that_nova(outside: Outside) -> None:
    outside.run_inside(OBSERVE + "for _ in range(40):\n    observe('judged-flood', Kind.API_REQUEST, now=timezone.now())")
    reason = see_pause(outside, "judged-flood", "api_guardian")
    assert "API rate limit exceeded" in reason
    see_return(outside, "judged-flood")


def test_work_without_hooks_stops_that_nova_until_they_are_heard_again(outside: Outside) -> None:
    heard = "observe('judged-hook', Kind.HOOK_HEARTBEAT, now=now)\n"
    later = "from datetime import timedelta\nlater = now + timedelta(seconds=2)\n"
    outside.run_inside(OBSERVE + heard + later + "observe('judged-hook', Kind.WORK_EVIDENCE, now=later)")
    reason = see_pause(outside, "judged-hook", "hook_health")
    assert "UNGUARDED" in reason
    outside.run_inside(OBSERVE + heard)
    see_return(outside, "judged-hook")


def test_load_on_the_machine_sends_that_nova_into_meditation(outside: Outside) -> None:
    stress = stress_of_a_busy_moment()
    outside.run_inside(
        "from safety.models import SafetyPolicy\n"
        f"SafetyPolicy.objects.filter(slug='judged-load').update(meditation_stress={stress - 0.5}, emergency_stress=100)"
    )
    reason = see_pause(outside, "judged-load", "really_chill_willy")
    assert "Stress is" in reason
    see_return(outside, "judged-load", seconds=60)


def stress_of_a_busy_moment() -> float:
    """Load the machine with processes that everybody else goes before; give the stress of the load average they made.

    The kernel computes it every five seconds: it stands still until then, and falls from then on.
    """
    cores = psutil.cpu_count() or 1
    enough = max(load_of_a_core(), 1.0) + 0.15
    burners = [
        subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"], preexec_fn=lambda: os.nice(19)) for _ in range(16 * cores)
    ]
    try:
        wait_until(lambda: load_of_a_core() > enough, seconds=30, what="the load average rises")
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    return stress_score(load_of_a_core(), 0.0, 0.0, timedelta(0), 0)


def load_of_a_core() -> float:
    return psutil.getloadavg()[0] / (psutil.cpu_count() or 1)
