"""The command executor: real processes under their limits, ended with everything they started."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from tests.workflow.execution.conftest import dispatch, ended, wait_until
from workflow import halts
from workflow.execution import command
from workflow.execution.host import ExecutionHost
from workflow.models import CommandTemplate, Execution

pytestmark = pytest.mark.django_db(transaction=True)

Background = Callable[..., threading.Event]


@pytest.fixture(autouse=True)
def _own_folder(settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR = tmp_path


def allow(code: str = "", slug: str = "job", **fields: Any) -> CommandTemplate:
    """Allow a Python program of these lines, or another program."""
    row = CommandTemplate(**{"slug": slug, "program": sys.executable, "arguments": ["-c", code], **fields})
    if code:
        row.arguments = [part.replace("{", "{{").replace("}", "}}") for part in row.arguments]
    row.full_clean()
    row.save()
    return row


def run(arguments: Any = None, action: str = "job", **fields: Any) -> Execution:
    metadata = {} if arguments is None else {"arguments": arguments}
    execution = dispatch(action, executor="command", metadata=metadata, **fields)
    return ended(execution)


def alive(marker: str) -> list[int]:
    """Give the processes whose command line holds the marker."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if marker in " ".join(process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


# -- what it runs


def test_output_and_exit_code_become_the_result() -> None:
    allow("import os; print('hello', os.getcwd()); print(sorted(os.environ))")
    execution = run()
    assert (execution.error, execution.status) == ("", "succeeded")
    folder = command.folders() / f"{execution.pk}-1"
    assert execution.results.startswith(f"hello {folder}")
    names = set(execution.results.split("[")[1].strip("]\n").replace("'", "").split(", "))
    assert names <= {"PATH", "LANG", "HOME", "TMPDIR", "LC_CTYPE"}
    assert (execution.metrics["exit_code"], execution.metrics["truncated"], execution.metrics["runs"]) == (0, False, 1)
    wait_until(lambda: not folder.exists())


def test_only_named_variables_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOVAWF_ALLOWED", "yes")
    monkeypatch.setenv("NOVAWF_OTHER", "no")
    allow("import os; print(os.environ.get('NOVAWF_ALLOWED'), os.environ.get('NOVAWF_OTHER'))", environment=["NOVAWF_ALLOWED"])
    assert run().results == "yes None\n"


def test_arguments_are_filled_in_and_no_shell_reads_them() -> None:
    allow(slug="say", program="/bin/echo", arguments=["to {name}", "{{}}"], placeholders={"name": ".*"})
    assert run({"name": "$(id) ; `ls` | *"}, "say").results == "to $(id) ; `ls` | * {}\n"


@pytest.mark.parametrize(
    "arguments",
    [None, {}, {"day": "2026-1"}, {"day": "2026-11-26\n"}, {"day": "--all-days"}, {"day": 3}, {"day": "2026-11-26", "x": "y"},
     "2026-11-26", {"day": ["2026-11-26"]}],
)  # fmt: skip
def test_arguments_that_nobody_allowed_run_nothing(arguments: Any) -> None:
    allow(slug="job", program="/bin/echo", arguments=["{day}"], placeholders={"day": "[0-9-]{10}"})
    execution = run(arguments)
    assert (execution.status, execution.retryable, execution.results) == ("failed", False, "")
    assert "nothing was run" in execution.error


def test_a_value_never_becomes_an_option() -> None:
    allow(slug="job", program="/bin/echo", arguments=["{text}"], placeholders={"text": ".*"})
    assert run({"text": "-n"}).status == "failed"


@pytest.mark.parametrize("archived", [True, False])
def test_a_command_that_nobody_allowed_is_an_operators(archived: bool) -> None:
    if archived:
        allow("print(1)", archived_at=timezone.now())
    execution = run()
    assert (execution.status, (execution.needs or {})["owner"]) == ("failed", "operator")


def test_a_program_that_is_not_there_says_so() -> None:
    allow(slug="job", program="/nonesuch", arguments=[])
    execution = run()
    assert "exit code 126" in execution.error
    assert "could not be started: FileNotFoundError" in execution.results


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"program": "echo"}, "program"), ({"program": "/bin/../echo"}, "program"), ({"arguments": "x"}, "arguments"),
        ({"arguments": ["{a}"]}, "placeholders"), ({"placeholders": {"a": "("}, "arguments": ["{a}"]}, "placeholders"),
        ({"placeholders": {"a": ".*"}}, "placeholders"), ({"arguments": ["{a.__class__}"]}, "placeholders"),
        ({"arguments": ["{"]}, "placeholders"), ({"arguments": ["{0}"]}, "placeholders"),
        ({"environment": ["A=B"]}, "environment"), ({"timeout": 0}, "timeout"), ({"process_limit": 0}, "process_limit"),
    ],
)  # fmt: skip
def test_a_command_line_that_is_none_is_refused(fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError) as refused:
        CommandTemplate(**{"slug": "job", "program": "/bin/echo", "arguments": [], **fields}).full_clean()
    assert list(refused.value.message_dict) == [wrong]


# -- how it ends


def test_an_exit_code_is_a_failure_and_its_folder_is_kept_with_the_output() -> None:
    allow("open('left', 'w').write('x'); print('so far'); raise SystemExit(3)")
    execution = run()
    assert (execution.status, execution.retryable) == ("failed", True)
    assert "exit code 3" in execution.error
    assert (execution.results, execution.metrics["exit_code"]) == ("so far\n", 3)
    folder = command.folders() / f"{execution.pk}-1"
    wait_until(lambda: (folder / "OUTPUT").exists())
    assert ((folder / "left").read_text(), (folder / "OUTPUT").read_text()) == ("x", "so far\n")


def test_kept_folders_are_few_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "KEPT_FOLDERS", 2)
    monkeypatch.setattr(command, "KEPT_BYTES", 1000)
    allow("raise SystemExit(1)")
    allow("open('big', 'w').write('x' * 2000); raise SystemExit(1)", "big")
    large = run(action="big")
    for _ in range(4):
        run()
    wait_until(lambda: len(list(command.folders().iterdir())) == 2)
    assert not (command.folders() / f"{large.pk}-1").exists()


def test_a_flood_of_output_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    allow("import sys; sys.stdout.write('x' * 5_000_000)", output_limit=1000)
    execution = run()
    assert (execution.status, execution.metrics["output_bytes"], execution.metrics["truncated"]) == (
        "succeeded",
        5_000_000,
        True,
    )
    assert execution.results.startswith("x" * 1000 + "\n… [4,999,000 bytes more were dropped]")


def test_a_flood_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "FLOOD", 1024 * 1024)
    allow(slug="job", program="/usr/bin/yes", arguments=[], output_limit=100)
    assert "wrote more than 1 MiB" in run().error


def test_one_that_takes_too_long_is_ended_and_keeps_what_it_wrote() -> None:
    allow(slug="job", program="/bin/sh", arguments=["-c", "echo begun; sleep 60.0731"], timeout=1.5)
    execution = run()
    assert "longer than its 1.5 s" in execution.error
    assert execution.results == "begun\n"
    assert alive("60.0731") == []


def test_the_executions_own_timeout_ends_it_too() -> None:
    allow("import time; time.sleep(60.0732)")
    execution = run(timeout=0.7)
    assert execution.status == "timed_out"
    wait_until(lambda: alive("60.0732") == [])


def test_a_fork_bomb_is_ended_with_all_its_children() -> None:
    allow(
        "import os, time\nmark = 60.0733\nfor _ in range(500):\n    if os.fork() == 0:\n        os.fork()\ntime.sleep(mark)",
        process_limit=20,
        timeout=20.0,
    )
    execution = run()
    assert "processes, 20 are allowed" in execution.error
    assert alive("60.0733") == []


def test_memory_is_limited_in_each_process_and_in_all_together() -> None:
    allow("x = bytearray(400 * 1024 * 1024)", "one", memory_limit=200)
    allow(
        "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        x = bytearray(os.urandom(1024)) * 61440\n"
        "        time.sleep(60.0734)\ntime.sleep(60)",
        "many",
        memory_limit=200,
        timeout=20.0,
    )
    one, many = run(action="one"), run(action="many")
    assert "MemoryError" in one.results
    assert "MiB of memory, 200 are allowed" in many.error
    assert alive("60.0734") == []


def test_processor_time_is_limited() -> None:
    allow("while True: pass", cpu_limit=1, timeout=30.0)
    assert "Signal" in run().error


def test_daemons_that_leave_the_session_end_with_the_command() -> None:
    allow(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.setsid()\n"
        "        os.close(1); os.close(2)\n        time.sleep(60.0735)\n    os._exit(0)\nos.wait()\nprint('done')"
    )
    execution = run()
    assert (execution.status, execution.results) == ("succeeded", "done\n")
    assert alive("60.0735") == []


def test_one_that_ignores_signals_ends_all_the_same() -> None:
    allow(
        "import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\n"
        "print('up', flush=True)\ntime.sleep(60.0736)",
        timeout=0.5,
    )
    assert "longer than" in run().error
    assert alive("60.0736") == []


def test_a_halt_ends_it_and_keeps_what_it_wrote(quick: None, background: Background) -> None:
    allow("import os, time\nprint('half', flush=True)\nos.fork()\ntime.sleep(60.0737)")
    execution = dispatch("job", executor="command")
    background(ExecutionHost("here"))
    wait_until(lambda: len(alive("60.0737")) >= 3, 10)  # the shim's command line has it too
    halts.order("halt", "nova", "torch", reason="stop", now=timezone.now())
    wait_until(lambda: alive("60.0737") == [], 10)
    wait_until(lambda: Execution.objects.get().lease_until is None)
    execution.refresh_from_db()
    assert (execution.status, execution.results) == ("cancelled", "half\n")


def test_the_death_of_its_host_ends_it(tmp_path: Path) -> None:
    """A process spawns the shim as the host does, and is killed -9."""
    spawn = (
        "import os, subprocess, sys, time, json\n"
        "reading, writing = os.pipe()\n"
        "limits = {'memory': 200, 'cpu': 9, 'file': 1, 'processes': 9}\n"
        "code = 'import os, time; os.fork(); time.sleep(60.0738)'\n"
        f"subprocess.Popen([sys.executable, '-I', '-S', {str(command._SHIM)!r}, str(os.getpid()), str(writing),\n"
        "    json.dumps(limits), sys.executable, '-c', code], pass_fds=(writing,))\n"
        "time.sleep(60)"
    )
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", spawn])
    wait_until(lambda: len([one for one in alive("60.0738") if one != pid]) >= 3, 10)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_until(lambda: alive("60.0738") == [], 10)


def test_a_run_that_another_host_takes_over_says_so() -> None:
    allow("print('again')")
    execution = run(runs=1)
    assert (execution.status, execution.metrics["runs"]) == ("succeeded", 2)
