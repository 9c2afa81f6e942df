"""The reader on a real server: where it goes on after a hand-over, what wakes it, and how it notices what was lost."""

import time

import pytest

from safety.models import AuditEntry, FleetFact, Installation, OutboxEntry, SafetyIncident
from tests.factories import NOW, make_installation, make_nova
from workflow import waking
from workflow.models import InboxMessage, NovaState, StreamCursor, Task
from workflow.streams import reader as module
from workflow.streams.intake import Intake
from workflow.streams.reader import EPOCH_KEY, Reader
from workflow.streams.relay import Relay
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db

QUEUE = "nova.work.queue"


class House:
    """A reader with the intake behind it, and somebody who writes."""

    def __init__(self, client):
        self.client = client
        self.reader = self.successor()

    def successor(self) -> Reader:
        """Give the reader that comes after a hand-over, or after a crash."""
        self.reader = Reader(self.client)
        self.reader.refresh()
        return self.reader

    def add(self, stream: str = QUEUE, entry_id: str = "*", **fields: str) -> str:
        pairs = [part for pair in (fields or {"title": "Count"}).items() for part in pair]
        return self.client.call("XADD", stream, entry_id, *pairs).decode()

    def take(self) -> int:
        """Read what there is and take it in; gives how many entries that were."""
        replies = self.reader.wait(0) + self.reader.read_own() + self.reader.read_todo() + self.reader.sweep()
        outcome = Intake(self.reader.streams, "testhouse").accept(replies, None, now=NOW, seconds=6)
        self.reader.taken(replies)
        return outcome.entries

    def relay(self) -> None:
        relay = Relay(self.client)
        while relay.relay_batch(now=NOW):
            pass

    def look(self) -> None:
        """Look for gaps, at every stream."""
        self.reader.check_gaps(now=NOW)


@pytest.fixture
def house(stream, fleet):
    make_installation()
    stream.call("SET", EPOCH_KEY, "test-epoch")
    return House(stream)


# -- going on


def test_nothing_is_read_twice_after_a_hand_over(house):
    for number in range(3):
        house.add(title=f"Task {number}")
    house.add("nova.coordination.echo", message="please look")
    with TaskTracker.open(now=NOW) as tracker:
        tracker.create_task("Our own entry", assignee="helix")
    house.relay()
    assert house.take() == 6  # with the todo entry and the metric that are our own
    assert house.take() == 0
    house.reader.keep_cursors(now=NOW)
    house.successor()
    assert house.take() == 0
    assert Task.objects.count() == 4


def test_the_cursor_of_what_was_taken_in_moves_with_it_although_the_reader_dies(house):
    entry_id = house.add()
    house.take()
    assert StreamCursor.objects.get(stream=QUEUE).last_id == entry_id
    house.successor()
    assert house.take() == 0


def test_what_was_read_but_not_taken_in_is_read_again(house):
    house.add()
    assert len(house.reader.wait(0)) == 1
    house.successor()
    assert house.take() == 1


def test_cursors_of_streams_with_nothing_but_our_own_entries_are_kept(house):
    with TaskTracker.open(now=NOW) as tracker:
        tracker.create_task("Our own entry", assignee="helix")
    house.relay()
    house.take()
    assert not StreamCursor.objects.exists()
    house.reader.keep_cursors(now=NOW)
    assert set(StreamCursor.objects.values_list("stream", flat=True)) == {"nova.tasks.helix.todo", "nova.enterprise.metrics"}
    assert not InboxMessage.objects.exists()


def test_the_stream_of_a_new_nova_is_read_from_its_first_entry(house):
    house.add("nova.coordination.newcomer", message="please look")
    assert house.take() == 0
    make_nova("newcomer")
    house.reader.refresh()
    assert house.take() == 1
    assert InboxMessage.objects.get().nova_id == "newcomer"


def test_the_streams_of_an_archived_nova_are_no_longer_read(house):
    make_nova("gone", state={"mode": "archived"})
    house.reader.refresh()
    assert not any("gone" in name for name in house.reader.streams)


def test_a_nova_that_is_archived_right_after_its_stream_moved_on_stops_nobody(house):
    house.add("nova.coordination.helix", message="hello")
    house.take()
    NovaState.objects.filter(nova_id="helix").update(mode="archived")
    house.reader.refresh()
    house.reader.keep_cursors(now=NOW)
    house.add()
    assert house.take() == 1


def test_with_too_many_novas_for_one_blocking_call_their_streams_are_read_beside_it(house, monkeypatch):
    monkeypatch.setattr(module, "_BLOCKING_STREAMS", 4)
    monkeypatch.setattr(module, "_STREAMS_A_CALL", 3)
    for nova_id in ("echo", "torch"):
        house.add(f"nova.coordination.{nova_id}", message="please look")
    house.add()
    assert not house.reader.own_in_blocking_call
    assert [name for name, _ in house.reader.wait(0)] == [QUEUE.encode()]
    own = house.reader.read_own()
    assert [name for name, _ in own] == [b"nova.coordination.echo", b"nova.coordination.torch"]  # each once


# -- sleeping


def test_a_knock_ends_the_wait_and_an_old_one_does_not(house):
    waking.knock("loops", house.client)
    house.reader.listen()
    assert house.reader.wait_for_knock(0.02) is False
    waking.knock("loops", house.client)
    begun = time.monotonic()
    assert house.reader.wait_for_knock(1.0) is True
    assert time.monotonic() - begun < 0.9
    assert house.reader.wait_for_knock(0.02) is False


def test_an_entry_ends_the_wait(house):
    house.reader.listen()
    house.add()
    begun = time.monotonic()
    assert house.reader.wait(1.0)
    assert time.monotonic() - begun < 0.9


# -- another server


def test_a_server_that_is_the_one_we_knew_is_left_alone(house):
    assert house.reader.check_epoch(now=NOW) is False
    assert not OutboxEntry.objects.exists()


def test_on_the_first_start_there_is_nothing_to_rebuild(house):
    house.client.call("FLUSHALL")
    assert house.reader.check_epoch(now=NOW) is False
    assert house.client.call("GET", EPOCH_KEY) == b"test-epoch"


@pytest.mark.parametrize("loss", ["flushed", "another server"])
def test_a_server_that_lost_its_data_gets_hashes_and_messages_again_and_nothing_happens_twice(house, loss):
    house.add(title="Before")
    house.take()
    with TaskTracker.open(now=NOW) as tracker:
        tracker.create_task("Ours", assignee="helix")
    house.relay()
    house.take()
    (before,) = house.client.call("XRANGE", "nova.tasks.helix.todo", "-", "+")
    house.client.call("FLUSHALL")
    if loss == "another server":
        house.client.call("SET", EPOCH_KEY, "somebody-else")
    house.add(title="After")

    assert house.reader.check_epoch(now=NOW) is True
    assert house.reader.check_epoch(now=NOW) is False
    assert house.client.call("GET", EPOCH_KEY).decode() == Installation.objects.get().epoch != "test-epoch"
    assert house.client.call("EXISTS", *(f"workflow:state:{nova_id}" for nova_id in ("torch", "echo", "helix"))) == 3
    house.relay()
    (again,) = house.client.call("XRANGE", "nova.tasks.helix.todo", "-", "+")
    assert again[1][b"event_id"] == before[1][b"event_id"]
    house.take()
    house.look()
    assert sorted(Task.objects.values_list("title", flat=True)) == ["After", "Before", "Ours"]
    assert not InboxMessage.objects.filter(status="rejected").exists()
    assert not SafetyIncident.objects.exists()


def test_a_crash_in_the_middle_of_the_rebuilding_is_made_good_by_the_next_look(house, monkeypatch):
    house.add()
    house.take()
    house.client.call("FLUSHALL")
    monkeypatch.setattr(module, "publish_hashes", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        house.reader.check_epoch(now=NOW)
    monkeypatch.undo()
    assert house.successor().check_epoch(now=NOW) is True
    assert house.client.call("EXISTS", "workflow:state:torch") == 1


# -- gaps


def incidents() -> list[str]:
    """Give the reasons of the open incidents about gaps, and check that each is journalled once."""
    reasons = list(SafetyIncident.objects.filter(mechanism="stream_gap", ended_at=None).values_list("reason", flat=True))
    assert AuditEntry.objects.filter(action="safety.stream.gap_found").count() == len(reasons)
    return reasons


@pytest.fixture
def caught_up(house):
    """A reader that has read everything, and has looked once."""
    for number in range(5):
        house.add(title=f"Read {number}")
    house.take()
    house.look()
    assert incidents() == []
    return house


def test_entries_that_were_cut_off_before_they_were_read_raise_one_incident(caught_up):
    for number in range(10):
        caught_up.add(title=f"New {number}")
    caught_up.client.call("XTRIM", QUEUE, "MAXLEN", "3")
    for _ in range(3):
        caught_up.look()
    (reason,) = incidents()
    assert reason.startswith(f"{QUEUE}: 7 entries")
    assert FleetFact.objects.get(name="stream_gap").value == QUEUE
    assert caught_up.take() == 3
    caught_up.look()
    assert len(incidents()) == 1


def test_entries_that_were_deleted_before_they_were_read_raise_one_incident(caught_up):
    ids = [caught_up.add(title=f"New {number}") for number in range(3)]
    caught_up.client.call("XDEL", QUEUE, ids[1])
    assert caught_up.take() == 2
    for _ in range(2):
        caught_up.look()
    assert incidents()[0].startswith(f"{QUEUE}: 1 entries")


def test_a_stream_cut_to_nothing_before_it_was_read_raises_one_incident(caught_up):
    caught_up.add()
    caught_up.client.call("XTRIM", QUEUE, "MAXLEN", "0")
    for _ in range(2):
        caught_up.look()
    assert len(incidents()) == 1
    caught_up.reader.keep_cursors(now=NOW)
    caught_up.successor()
    caught_up.look()
    assert len(incidents()) == 1


def test_entries_that_were_cut_off_while_nobody_read_raise_one_incident(caught_up):
    for number in range(10):
        caught_up.add(title=f"New {number}")
    caught_up.client.call("XTRIM", QUEUE, "MAXLEN", "3")
    caught_up.successor()
    for _ in range(2):
        caught_up.look()
    assert "while nobody read" in incidents()[0]


def test_cutting_off_what_was_read_is_no_gap(caught_up):
    caught_up.client.call("XTRIM", QUEUE, "MAXLEN", "1")
    caught_up.look()
    caught_up.add()
    caught_up.look()
    caught_up.take()
    caught_up.client.call("XTRIM", QUEUE, "MAXLEN", "0")
    caught_up.look()
    caught_up.reader.keep_cursors(now=NOW)
    caught_up.successor()
    caught_up.look()
    assert incidents() == []


def test_entries_that_wait_to_be_read_are_no_gap(caught_up):
    for number in range(10):
        caught_up.add(title=f"New {number}")
        caught_up.look()
    caught_up.take()
    caught_up.look()
    assert incidents() == []


def test_a_stream_that_went_back_in_time_raises_one_incident_and_is_read_from_its_beginning(caught_up):
    caught_up.client.call("DEL", QUEUE)
    caught_up.add(entry_id="1000-0", title="From the past")
    assert caught_up.take() == 0
    caught_up.look()
    assert "went back to 1000-0" in incidents()[0]
    assert caught_up.take() == 1
    assert Task.objects.filter(title="From the past").count() == 1
    caught_up.reader.keep_cursors(now=NOW)
    caught_up.successor()
    caught_up.look()
    assert len(incidents()) == 1


def test_a_stream_that_was_begun_anew_raises_one_incident(caught_up):
    caught_up.client.call("DEL", QUEUE)
    caught_up.add(title="Fresh")
    assert caught_up.take() == 1
    for _ in range(2):
        caught_up.look()
    assert "begun anew" in incidents()[0]


def test_a_long_stream_is_cut_down_to_what_was_not_read(caught_up, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_READ", 4)
    for _ in range(300):
        caught_up.add()
    caught_up.take()
    caught_up.take()
    caught_up.look()
    assert caught_up.client.call("XLEN", QUEUE) < 200
    for number in range(3):
        caught_up.add(title=f"New {number}")
    caught_up.look()
    assert caught_up.take() == 3
    assert incidents() == []
