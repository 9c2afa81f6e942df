"""Engines, hosts and the intake at work at the same time, in threads, on the same Novas and tasks."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.db import connections

from safety.models import AuditEntry
from tests.factories import make_installation, make_novas, make_task
from tests.workflow.driving import WELL, silence_momentum
from workflow.engine import WorkflowEngine
from workflow.execution import ledger
from workflow.execution.ledger import Room
from workflow.execution.registry import Result
from workflow.models import Execution, MomentumLedger, NovaState, Task
from workflow.streams.intake import Intake
from workflow.streams.names import streams_of

pytestmark = pytest.mark.django_db(transaction=True)

ECHO = {"executor": "builtin", "action": "echo"}


def at_once(*jobs: Callable[[], bool]) -> list[BaseException]:
    """Do each job again and again in a thread of its own, until it says True; gives what went wrong."""
    errors: list[BaseException] = []
    together = threading.Barrier(len(jobs))

    def work(job: Callable[[], bool]) -> None:
        try:
            together.wait(10)
            until = time.monotonic() + 40
            while not errors and not job():
                assert time.monotonic() < until, "it takes too long"
        except BaseException as error:  # shown by the test itself
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    return errors


def engine_at_work(holder: str, finished: Callable[[], bool]) -> Callable[[], bool]:
    """An engine and a host in turn, by the real clock."""
    engine = WorkflowEngine(holder)

    def job() -> bool:
        now = datetime.now(UTC)
        engine.run_once(now=now, fleet=WELL)
        begun = ledger.turn(holder, [], Room(8, 0, ["builtin:echo"]), now=now)
        ends = [ledger.succeeded(execution, Result("Done."), now=now) for execution in begun]
        ledger.turn(holder, ends, Room(0, 0), now=now)
        return finished()

    return job


def nothing_left() -> bool:
    return not Task.objects.exclude(status="completed").exists()


def test_two_engines_at_once_start_every_task_exactly_once():
    make_novas(20, now=datetime.now(UTC))
    silence_momentum()
    for number in range(100):
        make_task(f"Task {number}", **ECHO)
    assert at_once(engine_at_work("e1", nothing_left), engine_at_work("e2", nothing_left)) == []
    assert Task.objects.filter(outcome="succeeded").count() == 100
    assert Execution.objects.count() == 100
    actions = Counter(AuditEntry.objects.values_list("action", flat=True))
    for action in ("task.claimed", "task.started", "task.completed", "task.celebrated"):
        assert actions[f"workflow.{action}"] == 100
    assert actions["workflow.nova.fenced"] == 0


def test_engines_hosts_and_intake_at_once_never_wait_for_each_other_in_a_circle():
    make_installation()
    nova_ids = make_novas(12, now=datetime.now(UTC), allowed_executors=["builtin"])
    silence_momentum()
    intake = Intake(streams_of(nova_ids), "testhouse")
    numbers = iter(range(25))
    fed = threading.Event()

    def feed() -> bool:
        """Let a batch come in: open work and assigned work that waits for the newest there is, a signal, an alert."""
        number = next(numbers, None)
        if number is None:
            fed.set()
            return True
        MomentumLedger.objects.update(asleep=True)  # which no host here could run
        newest = [{"dependencies": task_id} for task_id in Task.objects.order_by("-id").values_list("id", flat=True)[:4]]
        entries: list[tuple[str, dict[str, str]]] = [("nova.work.queue", {"title": "Open", **ECHO, **more}) for more in newest]
        entries += [("nova.work.queue", {"title": "Open", **ECHO})] * 3
        entries += [(f"nova.coordination.{nova_id}", {"title": "Mine", **ECHO}) for nova_id in nova_ids[number % 4 :: 4]]
        entries.append((f"nova.coordination.{nova_ids[number % 12]}", {"message": "fyi, a note"}))
        now = datetime.now(UTC)
        reply: dict[bytes, list[tuple[bytes, dict[bytes, bytes]]]] = {}
        for place, (stream, fields) in enumerate(entries):
            raw = {name.encode(): value.encode() for name, value in fields.items()}
            reply.setdefault(stream.encode(), []).append(
                (f"{int(now.timestamp() * 1000)}-{number * 100 + place}".encode(), raw)
            )
        intake.accept(list(reply.items()), None, now=now, seconds=6)
        return False

    def finished() -> bool:
        return fed.is_set() and not asked_for().exclude(status="completed").exists()

    assert at_once(feed, engine_at_work("e1", finished), engine_at_work("e2", finished)) == []
    assert asked_for().filter(outcome="succeeded").count() == asked_for().count() > 200
    assert Execution.objects.filter(task__in=asked_for()).count() == asked_for().count()
    assert not NovaState.objects.exclude(crashes=0).exists()
    for nova_id in nova_ids:
        own = list(AuditEntry.objects.filter(nova_id=nova_id).order_by("id").values_list("seq", flat=True))
        assert own == list(range(1, len(own) + 1))


def asked_for():
    return Task.objects.exclude(work_type="momentum")
