"""The relay: at least once, in order, with the envelope, and the mirror of states."""

import json

import pytest

from safety.audit import Entry, record
from safety.models import OutboxEntry
from safety.stream_client import StreamUnavailable
from tests import factories
from workflow.streams.relay import Relay
from workflow.task_tracker import TaskTracker

pytestmark = pytest.mark.django_db


@pytest.fixture
def relay(stream, fleet):
    factories.make_installation()
    return Relay(stream)


def entries(stream, name):
    return [
        {key.decode(): value.decode() for key, value in fields.items()} for _, fields in stream.call("XRANGE", name, "-", "+")
    ]


def test_a_committed_entry_is_published_with_its_envelope_and_forgotten(relay, stream):
    with TaskTracker.open(now=factories.NOW) as tracker:
        task_id = tracker.create_task("Say hello", assignee="echo", cause="api/1")
    assert relay.relay_batch(now=factories.NOW) == 1
    assert relay.relay_batch(now=factories.NOW) == 0
    (entry,) = entries(stream, "nova.tasks.echo.todo")
    assert (entry["task_id"], entry["status"], entry["seq"], entry["cause"]) == (task_id, "pending", "1", "api/1")
    assert entry["event_id"].startswith("testhouse-")


def test_what_was_published_before_a_crash_goes_out_again_under_the_same_event_id(relay, stream):
    with TaskTracker.open(now=factories.NOW) as tracker:
        tracker.create_task("Twice on the wire", assignee="echo")
    pointer = list(OutboxEntry.objects.values_list("created_at", "entry_ids"))[0]
    relay.relay_batch(now=factories.NOW)
    OutboxEntry.objects.create(created_at=pointer[0], entry_ids=pointer[1])  # the deletion was lost with the process
    relay.relay_batch(now=factories.NOW)
    first, second = entries(stream, "nova.tasks.echo.todo")
    assert first == second


def test_entries_of_a_nova_go_out_in_the_order_of_their_seq(relay, stream):
    for number in range(40):
        with TaskTracker.open(now=factories.NOW) as tracker:
            tracker.create_task(f"Task {number}", assignee="helix")
    while relay.relay_batch(now=factories.NOW):
        pass
    assert [int(entry["seq"]) for entry in entries(stream, "nova.tasks.helix.todo")] == list(range(1, 41))


def test_metrics_are_counted_from_what_passes(relay, stream):
    with TaskTracker.open(now=factories.NOW) as tracker:
        for _ in range(3):
            tracker.create_task("Counted", assignee="torch")
    relay.relay_batch(now=factories.NOW)
    (metric,) = entries(stream, "nova.enterprise.metrics")
    assert (metric["metric_name"], metric["metric_value"], metric["nova_id"]) == ("task_created", "3", "torch")


def test_the_state_hash_is_mirrored_with_its_ttl(relay, stream):
    with TaskTracker.open(now=factories.NOW) as tracker:
        tracker.create_task("Mirror me", assignee="vaeris")
    relay.relay_batch(now=factories.NOW)
    flat = stream.call("HGETALL", "workflow:state:vaeris")
    state = {key.decode(): value.decode() for key, value in flat.items()}
    assert state["current_state"] == "initializing"
    assert state["session_start_time"].endswith("+00:00")
    assert isinstance(json.loads(state["safety_status"]), dict)
    assert 3500 < stream.call("TTL", "workflow:state:vaeris") <= 3600


def test_nothing_is_forgotten_while_the_server_is_away(relay, stream_server):
    with TaskTracker.open(now=factories.NOW) as tracker:
        tracker.create_task("Patience", assignee="echo")
    stream_server.stop()
    try:
        with pytest.raises(StreamUnavailable):
            relay.relay_batch(now=factories.NOW)
        assert OutboxEntry.objects.count() == 1
    finally:
        stream_server.start()
    assert relay.relay_batch(now=factories.NOW) == 1


def test_a_personal_entry_reaches_no_stream(relay, stream):
    from django.db import transaction

    with transaction.atomic():
        record([Entry("workflow.nova.reflected", "echo", after={"text": "planted secret"}, personal=True)], now=factories.NOW)
    relay.relay_batch(now=factories.NOW)
    for key in stream.call("KEYS", "nova.*"):
        assert b"planted secret" not in repr(stream.call("XRANGE", key, "-", "+")).encode()


def test_an_open_task_counts_as_created_although_it_is_on_no_stream_yet(relay, stream):
    with TaskTracker.open(now=factories.NOW) as tracker:
        tracker.create_task("For anybody")
    relay.relay_batch(now=factories.NOW)
    (metric,) = entries(stream, "nova.enterprise.metrics")
    assert (metric["metric_name"], metric["nova_id"]) == ("task_created", "")
    assert not entries(stream, "nova.tasks.echo.todo")


def test_a_new_relay_trims_no_more_than_the_fleet_needs(relay, stream):
    for _ in range(3):
        with TaskTracker.open(now=factories.NOW) as tracker:
            for number in range(200):
                tracker.create_task(f"Task {number}", assignee="echo")
    while Relay(stream).relay_batch(now=factories.NOW):
        pass
    assert stream.call("XLEN", "nova.tasks.echo.todo") == 600
