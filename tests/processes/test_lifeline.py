"""Processes die with the one that started them, however it ended, and at any depth."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.processes.stack import ROOT, runs, wait_until
from workflow.hosting import lifeline
from workflow.hosting.child import PULSE_SECONDS, Child

# A parent that starts a shimmed program, says its pid, and waits.
SHIM_PARENT = """
import subprocess, sys
from workflow.hosting import lifeline
child = subprocess.Popen(lifeline.shimmed(["/bin/sleep", "60"]), start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""
# A parent whose forks fork: it says the grandchild's pid and waits.
FORK_PARENT = """
import os, sys, time
from workflow.hosting import lifeline
lifeline.bind_forks()
if os.fork() == 0:
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


def start(program: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Run a parent; give it and the process below it that it names."""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, psutil.Process(int(parent.stdout.readline()))


def assert_dies_with_parent(program: str) -> None:
    parent, below = start(program)
    try:
        assert runs(below)
        parent.kill()
        parent.wait()
        wait_until(lambda: not runs(below), seconds=5, what="the process below has died", interval=0.01)
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout:
            parent.stdout.close()
        if runs(below):
            below.kill()


def test_a_shimmed_program_dies_with_its_parent() -> None:
    assert_dies_with_parent(SHIM_PARENT)


def test_a_fork_of_a_fork_dies_with_the_first() -> None:
    assert_dies_with_parent(FORK_PARENT)


def test_a_shim_without_its_parent_runs_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    command = [sys.executable, "-I", "-S", lifeline.__file__, "1", "/bin/touch", str(proof)]
    assert subprocess.run(command, check=False).returncode == 1
    assert not proof.exists()


def test_where_the_kernel_does_not_tell_the_shim_stands_by_and_asks() -> None:
    asking = SHIM_PARENT.replace(
        "child = ", "code = 'import lifeline, sys; lifeline.KERNEL_TELLS = False; lifeline.main(sys.argv[1:])'\nchild = "
    )
    asking = asking.replace(
        'lifeline.shimmed(["/bin/sleep", "60"])',
        '[sys.executable, "-c", code, str(__import__("os").getpid()), "/bin/sleep", "60"], cwd="workflow/hosting"',
    )
    parent, shim = start(asking)
    try:
        program = wait_until(lambda: next(iter(shim.children()), None), seconds=5, what="the program runs")
        parent.kill()
        parent.wait()
        wait_until(lambda: not runs(program), seconds=5, what="the program has died")
    finally:
        parent.kill()
        parent.wait()
        if parent.stdout:
            parent.stdout.close()


def test_the_shim_is_cheap() -> None:
    before = psutil.Process().cpu_times()
    subprocess.run(lifeline.shimmed(["/bin/true"]), check=True)
    after = psutil.Process().cpu_times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


class TestChild:
    """A child that is kept alive."""

    def test_is_due_again_after_a_backoff_that_grows(self) -> None:
        child = Child("it", ["/bin/false"])
        at, waits = 100.0, []
        for _ in range(4):
            assert child.due(at)
            child.start(at)
            assert child.wait(10)
            assert child.bury(at) == "ended with exit code 1"
            began = at
            while not child.due(at):
                at += 0.05
            waits.append(round(at - began, 1))
        assert waits == sorted(waits)
        assert waits[-1] > waits[0]

    def test_says_which_signal_killed_it(self) -> None:
        child = Child("it", ["/bin/sleep", "60"])
        child.start(0.0)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait(10)
        assert child.bury(0.0) == "killed by SIGKILL"

    def test_is_stuck_when_it_lives_without_a_pulse(self, tmp_path: Path) -> None:
        pulse = tmp_path / "pulse"
        pulse.touch()
        child = Child("it", ["/bin/sleep", "60"], pulse=pulse)
        child.start(100.0)
        try:
            assert not child.stuck(101.0)
            os.utime(pulse, (5, 5))
            assert not child.stuck(100.0 + PULSE_SECONDS)  # it has changed since the last look
            assert not child.stuck(101.0 + PULSE_SECONDS)
            assert child.stuck(101.0 + 2 * PULSE_SECONDS)
        finally:
            child.kill_group()
        assert not child.stuck(102.0 + 2 * PULSE_SECONDS)

    def test_is_killed_with_everything_it_started(self) -> None:
        child = Child("it", ["/bin/sh", "-c", "sleep 60 & wait"])
        child.start(0.0)
        below = wait_until(lambda: psutil.Process(child.pid).children(), seconds=5, what="the shell has a child")
        child.kill_group()
        assert not child.alive
        assert not any(runs(process) for process in below)
