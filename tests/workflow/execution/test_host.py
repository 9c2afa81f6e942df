"""The host as a whole: real threads, a real database file, and a stream server that may be away."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from safety.stream_client import StreamClient
from tests.conftest import StreamServer
from tests.workflow.execution.conftest import dispatch, run_all, wait_until
from tests.workflow.execution.executors import Probe
from workflow import waking
from workflow.execution import host as host_module
from workflow.execution import ledger
from workflow.execution.host import ExecutionHost
from workflow.leases import LeaseLost
from workflow.models import Execution, NovaState

pytestmark = pytest.mark.django_db(transaction=True)

Background = Callable[..., threading.Event]


class Killed(BaseException):
    """The process died here: no wall stops it, nothing more is written."""


def status(execution: Execution) -> str:
    return Execution.objects.get(pk=execution.pk).status


# -- how executions end


def test_echo_comes_back_and_its_nova_is_due(stream: StreamClient) -> None:
    execution = dispatch("echo", executor="builtin", description="hello")
    NovaState.objects.update(due_at=timezone.now() + timedelta(hours=1))
    run_all()
    execution.refresh_from_db()
    assert (execution.status, execution.results, execution.metrics) == ("succeeded", "hello", {"bytes": 5})
    assert (execution.runs, execution.host, execution.lease_until) == (1, "here", None)
    assert NovaState.objects.get().due_at <= timezone.now()
    assert stream.call("XLEN", waking.WAKE_STREAMS["loops"]) >= 1


def test_more_than_a_batch_of_echoes_is_done_in_one_go() -> None:
    first = dispatch("echo", executor="builtin")
    Execution.objects.bulk_create(
        Execution(
            task=first.task,
            nova_id="torch",
            executor="builtin",
            action="echo",
            attempt=n,
            created_at=first.created_at,
            timeout=9,
        )
        for n in range(2, 601)
    )
    run_all()
    assert Execution.objects.filter(status="succeeded", runs=1).count() == 600


def test_without_a_stream_server_everything_works(stream_server: StreamServer) -> None:
    stream_server.stop()
    executions = [dispatch("echo", executor="builtin"), dispatch("ok")]
    run_all()
    assert [status(execution) for execution in executions] == ["succeeded", "succeeded"]


def test_an_answer_is_kept_with_its_metrics_and_findings() -> None:
    execution = dispatch("ok", title="Sweep")
    run_all()
    execution.refresh_from_db()
    assert execution.results == "did Sweep"
    assert execution.metrics == {"answer": 42, "findings": ["a", "b"]}


def test_one_failure_stays_with_its_execution() -> None:
    broken, odd, unkeepable, fine = dispatch("raise"), dispatch("odd"), dispatch("unkeepable"), dispatch("ok")
    run_all()
    assert [status(row) for row in (broken, odd, unkeepable, fine)] == ["failed", "failed", "failed", "succeeded"]
    broken.refresh_from_db()
    assert (broken.error, broken.retryable) == ("ValueError: the reason it broke", True)


def test_an_executor_may_say_who_can_help() -> None:
    execution = dispatch("refuse")
    run_all()
    execution.refresh_from_db()
    assert (execution.status, execution.error, execution.retryable) == ("failed", "no licence", False)
    assert execution.needs == {"owner": "operator", "action": "buy a licence"}


def test_an_unknown_executor_is_a_clear_failure_for_the_operator() -> None:
    execution = dispatch("x", executor="nonesuch")
    run_all()
    execution.refresh_from_db()
    assert (execution.status, execution.retryable) == ("failed", False)
    assert "no executor 'nonesuch'" in execution.error
    assert execution.needs == {"owner": "operator", "action": "configure the executor 'nonesuch', or give the task another one"}


def test_texts_no_database_takes_do_not_stop_the_batch() -> None:
    dirty, fine = dispatch("dirty"), dispatch("ok")
    run_all()
    assert [status(dirty), status(fine)] == ["succeeded", "succeeded"]


# -- time, leases, cancelling


def test_an_execution_past_its_timeout_is_stopped_and_says_so() -> None:
    execution = dispatch("hang", timeout=0.2)
    run_all()
    execution.refresh_from_db()
    assert (execution.status, execution.retryable) == ("timed_out", True)
    assert "0.2 s" in execution.error
    assert Probe.seen == ["hang begun", "hang cancelled"]


def test_one_that_ignores_its_cancellation_times_out_all_the_same() -> None:
    execution = dispatch("stubborn", timeout=0.2)
    run_all()
    assert status(execution) == "timed_out"
    assert "stubborn goes on" in Probe.seen


def test_a_cancelled_execution_is_stopped(quick: None, background: Background) -> None:
    execution = dispatch("hang")
    background(ExecutionHost("here"))
    wait_until(lambda: Probe.seen)
    Execution.objects.update(status="cancelled", finished_at=timezone.now())
    wait_until(lambda: "hang cancelled" in Probe.seen)
    assert status(execution) == "cancelled"


def test_leases_of_what_runs_are_renewed(quick: None, background: Background) -> None:
    execution = dispatch("ok", metadata={"seconds": 1.5})  # more than two leases
    background(ExecutionHost("one"))
    wait_until(lambda: Probe.seen)
    background(ExecutionHost("two"))
    wait_until(lambda: status(execution) == "succeeded")
    execution.refresh_from_db()
    assert (execution.runs, execution.host) == (1, "one")


def test_progress_is_kept_while_it_runs(quick: None, background: Background) -> None:
    dispatch("report")
    background(ExecutionHost("here"))
    wait_until(lambda: Execution.objects.get().progress == 40)


def test_a_host_that_lost_its_fence_stops_and_changes_nothing(quick: None, background: Background) -> None:
    execution = dispatch("hang", timeout=30)
    background(ExecutionHost("late"))
    wait_until(lambda: Probe.seen)
    Execution.objects.update(fence=7, host="other", lease_until=timezone.now() + timedelta(hours=1))
    wait_until(lambda: "hang cancelled" in Probe.seen)
    execution.refresh_from_db()
    assert (execution.status, execution.fence, execution.host) == ("running", 7, "other")


def test_no_more_run_at_once_than_the_host_has_room_for(background: Background) -> None:
    for _ in range(5):
        dispatch("hang", timeout=0.6)
    echo = dispatch("echo", executor="builtin")
    background(ExecutionHost("here", concurrency=2))
    wait_until(lambda: status(echo) == "succeeded")
    assert Execution.objects.filter(status="running").count() == 2
    wait_until(lambda: Execution.objects.filter(status="timed_out").count() == 5)


def test_two_hosts_at_once_run_everything_once(stream: StreamClient, background: Background) -> None:
    for nova_id in ("torch", "echo"):
        for _ in range(60):
            dispatch("echo", executor="builtin", nova_id=nova_id)
            dispatch("ok", nova_id=nova_id)
    for name in ("one", "two"):
        background(ExecutionHost(name, concurrency=4))
    wait_until(lambda: Execution.objects.filter(status="succeeded").count() == 240, 20.0)
    assert Execution.objects.filter(runs=1, fence=1).count() == 240
    assert Probe.seen.count("ok ended") == 120


# -- accepting, draining, stopping


def test_what_runs_at_the_end_of_the_slice_may_finish_and_nothing_new_begins(background: Background) -> None:
    running = dispatch("ok", metadata={"seconds": 0.6})
    background(ExecutionHost("here"), seconds=0.2)
    wait_until(lambda: Probe.seen)
    threading.Event().wait(0.3)
    late = dispatch("ok")
    wait_until(lambda: status(running) == "succeeded")
    assert status(late) == "dispatched"


def test_after_a_stop_what_does_not_end_within_the_grace_is_handed_back(quick: None, background: Background) -> None:
    long, short = dispatch("hang"), dispatch("ok", metadata={"seconds": 0.1})
    stop = background(ExecutionHost("here"))
    wait_until(lambda: len(Probe.seen) == 2)
    stop.set()
    wait_until(lambda: status(long) == "dispatched")
    assert status(short) == "succeeded"
    long.refresh_from_db()
    assert (long.runs, long.host, long.lease_until) == (1, "", None)


def test_the_heart_beats_while_accepting_and_while_draining(quick: None) -> None:
    dispatch("ok", metadata={"seconds": 1.5})
    beats: list[int] = []
    ExecutionHost("here").drive(threading.Event(), 0.1, lambda: beats.append(NovaState.objects.count()))
    assert len(beats) >= 3


def test_a_lost_slot_is_a_stop(quick: None) -> None:
    def lost() -> None:
        raise LeaseLost("somebody else drives this slot")

    dispatch("ok")
    ExecutionHost("here").drive(threading.Event(), 30.0, lost)  # returns long before


def test_a_knock_wakes_the_host(
    stream: StreamClient, background: Background, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(host_module, "_LOOK_SECONDS", 30.0)
    settings.SLOT_HEARTBEAT_SECONDS = 30.0
    begun = threading.Event()
    background(ExecutionHost("here"), seconds=3.0, heartbeat=begun.set)
    assert begun.wait(5)
    threading.Event().wait(0.2)  # it rests by now
    execution = dispatch("echo", executor="builtin")
    waking.knock("work")
    wait_until(lambda: status(execution) == "succeeded", 0.9)  # before the next heartbeat would make it look


# -- crashes


def test_a_host_that_dies_between_claim_and_run_leaves_the_execution_to_another() -> None:
    class DiesBeforeRunning(ExecutionHost):
        def _begin(self, claimed: Any) -> None:
            raise Killed

    execution = dispatch("ok")
    with pytest.raises(Killed):
        run_all(DiesBeforeRunning("first"))
    assert status(execution) == "running"
    run_all()
    assert status(execution) == "running"  # its lease holds yet
    run_all(ExecutionHost("second", clock=lambda: timezone.now() + timedelta(seconds=7)))
    execution.refresh_from_db()
    assert (execution.status, execution.runs, execution.host) == ("succeeded", 2, "second")
    assert Probe.seen.count("ok ended") == 1


def test_a_host_that_dies_between_run_and_finish_is_repeated_and_runs_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOVAWF_APPEND_FILE", str(tmp_path / "effects"))
    turn = ledger.turn

    def dies_before_writing(name: str, ends: Any, *arguments: Any, **more: Any) -> Any:
        if ends and name == "first":
            raise Killed
        return turn(name, ends, *arguments, **more)

    monkeypatch.setattr(ledger, "turn", dies_before_writing)
    execution = dispatch("append", executor="append", metadata={"milliseconds": 5})
    with pytest.raises(Killed):
        run_all(ExecutionHost("first"))
    run_all(ExecutionHost("second", clock=lambda: timezone.now() + timedelta(seconds=7)))
    execution.refresh_from_db()
    assert (execution.status, execution.runs) == ("succeeded", 2)
    lines = (tmp_path / "effects").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [[execution.task_id, "1"]] * 2


def test_an_end_outlives_a_round_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    turn, failures = ledger.turn, iter([OperationalError("database is locked")] * 2)

    def fails_twice(name: str, ends: Any, *arguments: Any, **more: Any) -> Any:
        if ends:
            for error in failures:
                raise error
        return turn(name, ends, *arguments, **more)

    monkeypatch.setattr(ledger, "turn", fails_twice)
    execution = dispatch("ok")
    run_all()
    execution.refresh_from_db()
    assert (execution.status, execution.runs) == ("succeeded", 1)
    assert Probe.seen == ["ok begun", "ok ended"]
