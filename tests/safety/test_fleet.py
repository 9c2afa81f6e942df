"""Machine and stream server are observed once for all, and an outage is told once, whoever notices."""

from datetime import timedelta

import pytest

from safety import facts as safety_facts
from safety.core.status import FleetFacts
from safety.models import AuditEntry, FleetFact, SafetyIncident
from safety.stream_client import StreamClient
from tests import factories

pytestmark = pytest.mark.django_db


def actions() -> list[str]:
    return list(AuditEntry.objects.exclude(object_type="incident").order_by("id").values_list("action", flat=True))


def test_what_nobody_observed_is_not_readable(now):
    fleet = safety_facts.load_fleet(now)
    assert fleet == FleetFacts(
        stream_reachable=None,
        round_trip=None,
        intake_lag=None,
        outbox_age=None,
        stream_memory_ratio=None,
        cpu_load=None,
        memory_ratio=None,
        process_memory=None,
        process_cpu=None,
    )


def test_a_reading_older_than_ten_seconds_counts_as_none(now, django_assert_num_queries):
    factories.make_healthy_fleet(now=now)
    with django_assert_num_queries(1):
        assert safety_facts.load_fleet(now + timedelta(seconds=10)).cpu_load == 0.5
    assert safety_facts.load_fleet(now + timedelta(seconds=11)).cpu_load is None
    assert safety_facts.load_fleet(now + timedelta(seconds=11)).stream_reachable is None


def test_machine_and_server_are_measured(now, stream):
    safety_facts.note_fleet("intake_lag", 0.25, now)
    safety_facts.note_fleet("outbox_age", 0.0, now)
    fleet = safety_facts.observe_fleet(now, stream)
    assert fleet.stream_reachable is True
    assert fleet.round_trip is not None
    assert timedelta(0) < fleet.round_trip < timedelta(seconds=1)
    assert fleet.stream_memory_ratio is not None
    assert 0 < fleet.stream_memory_ratio < 0.5  # of the 256 MB it may use
    assert fleet.cpu_load is not None
    assert fleet.memory_ratio is not None
    assert 0 < fleet.memory_ratio < 1
    assert (fleet.intake_lag, fleet.outbox_age) == (timedelta(seconds=0.25), timedelta(0))
    assert actions() == []


def test_it_is_measured_once_a_second_however_many_ask(now, stream, django_assert_num_queries):
    first = safety_facts.observe_fleet(now, stream)
    with django_assert_num_queries(1):
        assert safety_facts.observe_fleet(now + timedelta(milliseconds=900), stream) == first
    FleetFact.objects.filter(name="cpu_load").update(value=99)
    assert safety_facts.observe_fleet(now + timedelta(seconds=1), stream).cpu_load != 99


def test_the_largest_worker_process_and_the_busiest_host_count(now):
    for slot, host, memory, cpu in (("a", "one", 120.0, 0.2), ("b", "one", 310.0, 0.3), ("c", "two", 90.0, 0.4)):
        safety_facts.note_process(f"slot:loops:{host}:{slot}", host, memory=memory, cpu=cpu, now=now)
    fleet = safety_facts.load_fleet(now)
    assert (fleet.process_memory, fleet.process_cpu) == (310.0, 0.5)
    safety_facts.note_process("slot:loops:two:c", "two", memory=95.0, cpu=0.1, now=now + timedelta(seconds=9))
    assert safety_facts.load_fleet(now + timedelta(seconds=11)).process_memory == 95.0  # the others are silent


def test_an_outage_is_told_once_and_its_end_once(now, stream_server, stream_url):
    client = StreamClient(stream_url, name="test-outage", timeout=0.5)
    safety_facts.observe_fleet(now, client)
    stream_server.stop()
    for second in range(1, 6):
        fleet = safety_facts.observe_fleet(now + timedelta(seconds=second), client)
        assert not safety_facts.note_stream_lost(now + timedelta(seconds=second))
    assert fleet.stream_reachable is False
    assert fleet.stream_unreachable_since == now + timedelta(seconds=1)
    assert fleet.round_trip is None
    assert actions() == ["safety.stream.lost"]
    incident = SafetyIncident.objects.get()
    assert (incident.nova_id, incident.mechanism, incident.status) == ("", "stream_monitor", "open")

    stream_server.start()
    for second in range(6, 10):
        fleet = safety_facts.observe_fleet(now + timedelta(seconds=second), client)
    client.close()
    assert fleet.stream_reachable is True
    assert fleet.stream_unreachable_since is None
    assert actions() == ["safety.stream.lost", "safety.stream.returned"]
    incident.refresh_from_db()
    assert (incident.status, incident.ended_at) == ("resolved", now + timedelta(seconds=6))


def test_whoever_notices_first_tells(now):
    assert safety_facts.note_stream_lost(now)
    assert not safety_facts.note_stream_lost(now)
    assert safety_facts.note_stream_back(now + timedelta(seconds=3))
    assert not safety_facts.note_stream_back(now + timedelta(seconds=3))
    assert safety_facts.note_stream_lost(now + timedelta(seconds=9))
    assert actions() == ["safety.stream.lost", "safety.stream.returned", "safety.stream.lost"]
    assert SafetyIncident.objects.filter(ended_at=None).count() == 1


def test_a_gap_is_told_each_time_and_shown_for_a_while(now):
    safety_facts.note_stream_gap("nova.work.queue", "1-0 to 5-0 were trimmed before they were read.", now)
    safety_facts.note_stream_gap("nova.work.queue", "7-0 was trimmed before it was read.", now + timedelta(minutes=1))
    assert actions() == ["safety.stream.gap_found"] * 2
    assert SafetyIncident.objects.get().reason == "nova.work.queue: 7-0 was trimmed before it was read."
    assert safety_facts.load_fleet(now + timedelta(minutes=9)).stream_gap == "nova.work.queue"
    assert safety_facts.load_fleet(now + timedelta(minutes=11)).stream_gap == ""


def test_a_late_reading_does_not_overwrite_a_newer_one(now):
    safety_facts.note_fleet("outbox_age", 5.0, now)
    safety_facts.note_fleet("outbox_age", 9.0, now - timedelta(seconds=2))
    assert safety_facts.load_fleet(now).outbox_age == timedelta(seconds=5)
