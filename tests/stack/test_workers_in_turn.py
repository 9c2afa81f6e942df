"""`manage.py deploy` on the running stack restarts the workers, one cluster after the other; the rest goes on."""

import subprocess

import pytest

from tests.processes.stack import ROOT, RunningStack, wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]


def deploy(stack: RunningStack, option: str) -> "subprocess.CompletedProcess[str]":
    command = stack.command("deploy", option)
    return subprocess.run(command, env=stack.environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_workers_are_restarted_in_turn_and_all_is_well_afterwards(stack: RunningStack) -> None:
    before = {name: stack.role(f"workers:{name}") for name in ("loops", "work")}
    web = stack.role("web")
    done = deploy(stack, "--apply")
    assert done.returncode == 0, done.stderr + stack.text()
    assert "workers of loops: restarted" in done.stdout
    assert "workers of work: restarted" in done.stdout
    for name, former in before.items():
        assert stack.role(f"workers:{name}") != former
    assert stack.role("web") == web
    wait_until(lambda: stack.readiness().get("ready"), seconds=30, what="all is well")
    look = deploy(stack, "--check")
    assert (look.returncode, look.stdout) == (0, "This version is in service: nothing to do.\n"), look.stderr
