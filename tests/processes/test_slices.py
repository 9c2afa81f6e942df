"""A slice's turn at its slot, and what the supervisor does to slots and queue."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django_q.models import OrmQ, Schedule

from safety.models import FleetFact
from tests.processes.stack import wait_until
from workflow import leases
from workflow.hosting import slots
from workflow.hosting.child import Child
from workflow.hosting.slices import Slice
from workflow.hosting.supervisor import SUPERVISOR, Supervisor
from workflow.models import Lease

pytestmark = pytest.mark.django_db


@pytest.fixture
def slot() -> str:
    return slots.slot_names("loops")[0]


def groups() -> list[str]:
    return [row.group() for row in OrmQ.objects.order_by("pk")]


class TestSlice:
    def test_ends_with_its_successor_in_its_hosts_queue(self, slot: str) -> None:
        turn = Slice(slot, seconds=0.0)
        assert turn.begin()
        assert not turn.beat()
        turn.end()
        row = OrmQ.objects.get()
        assert (row.key, row.group(), row.args()) == (slots.queue_name("loops"), slot, (slot,))
        assert Lease.objects.get(name=slot).holder == ""

    def test_of_a_slot_that_is_driven_has_no_turn(self, slot: str) -> None:
        assert Slice(slot, seconds=10.0).begin()
        assert not Slice(slot, seconds=10.0).begin()
        assert groups() == []

    def test_beats_in_the_database(self, slot: str, settings: Any) -> None:
        settings.SLOT_HEARTBEAT_SECONDS = 0.0
        turn = Slice(slot, seconds=10.0)
        turn.begin()
        before = Lease.objects.get(name=slot).heartbeat_at
        assert turn.beat()
        after = Lease.objects.get(name=slot).heartbeat_at
        assert before is not None
        assert after is not None
        assert after > before

    def test_tells_what_its_process_uses(self, slot: str) -> None:
        program = subprocess.Popen([sys.executable, "-c", "held = bytearray(90_000_000); print('ready'); input()"],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        Slice(slot, seconds=10.0).begin()
        with_program = FleetFact.objects.get(name=f"process:{slot}").value
        program.communicate(b"\n")
        second = Slice(slots.slot_names("loops")[1], seconds=10.0)
        second.begin()
        alone = FleetFact.objects.get(name=f"process:{second.slot}").value
        assert with_program["memory"] > alone["memory"] + 80
        assert 0 <= with_program["cpu"] <= 1
        assert alone["host"] == settings.HOST

    def test_that_lost_its_slot_leaves_without_successor(self, slot: str, settings: Any) -> None:
        settings.SLOT_HEARTBEAT_SECONDS = 0.0
        turn = Slice(slot, seconds=10.0)
        turn.begin()
        Lease.objects.filter(name=slot).update(holder="another", fence=99)
        assert not turn.beat()
        assert turn.lost
        turn.end()
        assert groups() == []
        assert Lease.objects.get(name=slot).holder == "another"

    def test_in_the_foreground_has_no_successor(self) -> None:
        turn = Slice("slot:foreground:here:1", seconds=0.0)
        turn.begin()
        turn.end()
        assert groups() == []


class Asked:
    """A stop signal in the test's hand."""

    asked = False

    def wait(self, seconds: float) -> bool:
        return self.asked


@pytest.fixture
def supervisor() -> Supervisor:
    made = Supervisor("loops", Asked())
    made.child = Child("loops", ["/bin/sleep", "60"])
    return made


class TestSupervisor:
    def test_begins_with_free_slots_and_one_slice_for_each(self, supervisor: Supervisor, slot: str) -> None:
        Slice(slot, seconds=60.0).begin()  # of a cluster that is dead now
        slots.enqueue(slot)
        slots.enqueue_probe("loops")
        OrmQ.objects.update(lock=datetime.now(UTC) + timedelta(minutes=10))
        supervisor._begin(0.0)
        try:
            assert sorted(groups()) == slots.slot_names("loops")
            assert not Lease.objects.exclude(holder="").exists()
            assert all(row.lock <= datetime.now(UTC) for row in OrmQ.objects.all())
        finally:
            supervisor.child.kill_group()

    def test_leaves_the_queues_of_other_hosts_alone(self, supervisor: Supervisor) -> None:
        OrmQ.objects.create(key="loops@elsewhere", payload="theirs", lock=datetime.now(UTC))
        leases.acquire("slot:loops:elsewhere:0", "them", now=datetime.now(UTC), seconds=60)
        supervisor._clean()
        assert OrmQ.objects.get().payload == "theirs"
        assert Lease.objects.get().holder == "them"

    def test_forgets_hosts_that_left_long_ago(self, supervisor: Supervisor) -> None:
        long_ago = datetime.now(UTC) - timedelta(days=2)
        OrmQ.objects.create(key="loops@gone", payload="theirs", lock=long_ago)
        Lease.objects.create(name="slot:loops:gone:0", heartbeat_at=long_ago)
        supervisor._clean()
        assert not OrmQ.objects.exists()
        assert not Lease.objects.exists()

    def test_revives_a_silent_slot_by_fence_and_redelivery(self, supervisor: Supervisor, slot: str, settings: Any) -> None:
        settings.SLOT_HEARTBEAT_SECONDS = 0.0
        asleep = Slice(slot, seconds=60.0)
        asleep.begin()
        slots.enqueue(slot)
        OrmQ.objects.update(lock=datetime.now(UTC) + timedelta(minutes=10))
        supervisor._revive(slot)
        assert not asleep.beat()
        assert asleep.lost
        assert OrmQ.objects.get().lock <= datetime.now(UTC)
        assert Slice(slot, seconds=60.0).begin()

    def test_takes_schedules_that_no_living_host_runs(self, supervisor: Supervisor) -> None:
        leases.acquire("slot:work:alive:0", "them", now=datetime.now(UTC), seconds=60)
        for cluster in (None, "work", "work@alive", "work@dead"):
            Schedule.objects.create(name=str(cluster), func="builtins.len", cluster=cluster)
        work = Supervisor("work", Asked())
        work._adopt_schedules()
        assert {row.name: row.cluster for row in Schedule.objects.filter(func="builtins.len")} == {
            **dict.fromkeys(("None", "work", "work@dead"), work.queue),
            "work@alive": "work@alive",
        }

    def test_stops_by_taking_the_slots_away_and_gives_them_back(self, supervisor: Supervisor, slot: str, settings: Any) -> None:
        settings.SLOT_HEARTBEAT_SECONDS = 0.0
        turn = Slice(slot, seconds=60.0)
        turn.begin()
        supervisor._take_slots()
        assert Lease.objects.get(name=slot).holder == SUPERVISOR
        assert not turn.beat()
        supervisor.child.start(0.0)
        wait_until(lambda: supervisor.child.alive, seconds=5, what="the child runs")
        supervisor._end()
        assert not supervisor.child.alive
        assert Lease.objects.get(name=slot).holder == ""
