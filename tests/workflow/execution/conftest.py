"""What the tests of executions share: rows to run, and hosts that run them."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from safety.stream_client import StreamClient
from tests import factories
from tests.conftest import StreamServer
from tests.workflow.execution.executors import Probe
from workflow import waking
from workflow.execution.host import ExecutionHost
from workflow.execution.ledger import Claimed
from workflow.models import Execution, Nova, Task

PROBE = "tests.workflow.execution.executors.Probe"
APPEND = "tests.processes.executors.Append"


@pytest.fixture(autouse=True)
def _executors(settings: Any) -> None:
    settings.EXECUTORS = {**settings.EXECUTORS, "probe": PROBE, "append": APPEND}
    Probe.seen.clear()


@pytest.fixture
def quick(settings: Any) -> None:
    """Leases and heartbeats in tenths of their length."""
    settings.LEASE_SECONDS, settings.LEASE_RENEW_SECONDS = 0.6, 0.05
    settings.SLOT_HEARTBEAT_SECONDS, settings.STOP_GRACE_SECONDS = 0.05, 2.2


def dispatch(
    action: str = "ok", *, executor: str = "probe", nova_id: str = "torch", task: Task | None = None, **fields: Any
) -> Execution:
    """Make a task in progress and its dispatched execution."""
    if task is None:
        if not Nova.objects.filter(pk=nova_id).exists():
            factories.make_nova(nova_id)
        given = {name: fields.pop(name) for name in ("title", "description", "metadata") if name in fields}
        task = factories.make_task(
            given.pop("title", f"Do {action}"),
            assignee=nova_id,
            status="in_progress",
            executor=executor,
            action=action,
            **given,
        )
    return factories.make_execution(task, executor=executor, action=action, **fields)


def run_all(host: ExecutionHost | None = None, *, seconds: float = 0.0) -> None:
    """Let a host take what waits, for as many looks as that needs and for so long at least, and drain."""
    host = host or ExecutionHost("here")
    begin, accepting = host._begin, host._accepting
    left = True

    def begin_and_note(claimed: list[Claimed]) -> None:
        nonlocal left
        left = bool(claimed or host._running)
        begin(claimed)

    with pytest.MonkeyPatch.context() as patched:  # by looks, not by time: the first may come late on a busy machine
        patched.setattr(host, "_begin", begin_and_note)
        patched.setattr(host, "_accepting", lambda: accepting() or left)
        host.drive(threading.Event(), seconds)


def ended(execution: Execution) -> Execution:
    """Let hosts take this execution, and give it as it ended."""
    while True:
        run_all(seconds=0.2)
        execution.refresh_from_db()
        if execution.finished_at is not None:
            return execution


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Look again and again until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.01)


@pytest.fixture
def background(_stream_settings: StreamServer) -> Iterator[Callable[..., threading.Event]]:
    """Drive hosts in threads of their own; all are stopped at the end."""
    driven: list[tuple[threading.Event, threading.Thread]] = []

    def begin(host: ExecutionHost, *, seconds: float = 30.0, **arguments: Any) -> threading.Event:
        stop = threading.Event()
        thread = threading.Thread(target=host.drive, args=(stop, seconds), kwargs=arguments)
        thread.start()
        driven.append((stop, thread))
        return stop

    yield begin
    for stop, _ in driven:
        stop.set()
    knocking = StreamClient(_stream_settings.url, name="test-knock") if _stream_settings.running else None
    for _, thread in driven:
        for _ in range(600):
            thread.join(0.05)
            if not thread.is_alive():
                break
            if knocking:  # a host's watch waits for a knock, up to a second
                knocking.call("XADD", waking.WAKE_STREAMS["work"], "*", "why", "the test is over")
        assert not thread.is_alive()
    if knocking:
        knocking.close()
