"""/metrics: who may ask, what it says, what it costs."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from reporting import alerting
from reporting.core.buckets import BEGINNING, EVER
from reporting.models import RollUp, RollUpCursor
from reporting.roll_ups import key_of
from reporting.seeding import seed_alert_rules
from safety.observations import Kind, observe
from tests import factories
from tests.conftest import StreamServer
from workflow.models import Lease

pytestmark = pytest.mark.django_db

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(**headers: str) -> Samples:
    answer = Client().get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.content
    return samples_of(answer.content.decode())


def samples_of(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestWhoMayAsk:
    def test_without_a_token_this_machine_alone_may(self, stream_url: str) -> None:
        assert Client().get("/metrics").status_code == 200
        assert Client(REMOTE_ADDR="::1").get("/metrics").status_code == 200
        for client in (
            Client(REMOTE_ADDR="10.0.0.7"),
            Client(REMOTE_ADDR=""),
            Client(headers={"X-Forwarded-For": "10.0.0.7"}),
            Client(headers={"Forwarded": "for=10.0.0.7"}),
        ):
            answer = client.get("/metrics")
            assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
            assert b"novawf_" not in answer.content

    def test_with_a_token_its_bearer_alone_may(self, stream_url: str, settings: Any) -> None:
        settings.METRICS_TOKEN = "the-token"
        assert Client(REMOTE_ADDR="10.0.0.7", headers={"Authorization": "Bearer the-token"}).get("/metrics").status_code == 200
        for words in ("", "Bearer wrong", "Basic the-token", "the-token"):
            assert Client(headers={"Authorization": words}).get("/metrics").status_code == 401

    def test_nothing_is_changed_by_asking(self) -> None:
        assert Client().post("/metrics").status_code == 405


def test_it_says_what_is_there(stream_url: str) -> None:
    now = timezone.now()
    factories.make_healthy_fleet(now=now, intake_lag=1.5)
    factories.make_nova("torch", now=now, state={"total_cycles_completed": 7})
    factories.make_nova("echo", now=now - timedelta(hours=1), state={"mode": "paused"})
    factories.make_task("Open", now=now - timedelta(minutes=2))
    factories.make_task("Held", assignee="torch", status="blocked")
    levels = {"d_pending": 1, "d_blocked": 1}
    RollUp.objects.create(key=key_of("fleet", EVER, BEGINNING), scope="fleet", grain=EVER, start=BEGINNING, sums=levels)
    factories.make_incident("torch", now=now)
    factories.make_provider("main", breaker="open", breaker_since=now)
    observe("@main", Kind.API_REQUEST, now=now, count=3)
    Lease.objects.create(name="slot:loops:here:0", heartbeat_at=now - timedelta(seconds=3))
    seed_alert_rules(now=now)
    alerting.evaluate_if_due(now=now)
    found = scrape()

    def one(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    assert one("novawf_novas", mode="running") == one("novawf_novas", mode="paused") == 1
    assert one("novawf_novas_by_status", status="idle") == one("novawf_novas_by_status", status="paused") == 1
    assert one("novawf_cycles_total") == 7
    assert (one("novawf_tasks", status="pending"), one("novawf_tasks", status="blocked")) == (1, 1)
    assert 119 < one("novawf_queue_age_seconds") < 180
    assert one("novawf_incidents", mechanism="frosty_cooldown", status="open") == 1
    assert one("novawf_breaker", account="main", state="open") == 1
    assert (
        one("novawf_guardian_calls", account="main", window="hour"),
        one("novawf_guardian_limit", account="main", window="hour"),
    ) == (3, 2000)
    assert one("novawf_intake_lag_seconds") == 1.5
    assert one("novawf_stream_up") == 1
    assert 2 < one("novawf_worker_heartbeat_age_seconds", cluster="loops", host="here", slot="0") < 60
    assert one("novawf_alert_rules") == 18
    assert one("novawf_alerts_evaluated_age_seconds") < 60
    assert any(name == "novawf_build_info" and dict(labels)["version"] == "0.1.0" for name, labels in found)


def test_a_stream_server_that_is_away_does_not_hold_it_up(stream_server: StreamServer) -> None:
    stream_server.stop()
    found = scrape()
    assert found["novawf_stream_up", ()] == 0
    assert ("novawf_stream_round_trip_seconds", ()) not in found


def test_a_scrape_costs_the_same_queries_whatever_there_is(stream_url: str, now: datetime) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            scrape()
        return len(queries)

    factories.make_nova("torch", now=now)
    factories.make_provider("first")
    seed_alert_rules(now=now)
    first = cost()
    factories.make_novas(120, now=now - timedelta(hours=1), prefix="more")
    for number in range(30):
        factories.make_task(assignee="torch", status="in_progress")
        factories.make_incident(f"more-{number:05d}", now=now)
        factories.make_provider(f"account-{number}")
        factories.make_safety_state(f"more-{number:05d}", is_safe=False)
    assert cost() == first <= 35


def test_openmetrics_is_given_to_whoever_asks_for_it(stream_url: str) -> None:
    answer = Client(headers={"Accept": "application/openmetrics-text; version=1.0.0"}).get("/metrics")
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    assert answer.content.endswith(b"# EOF\n")


def test_counters_and_histograms_come_from_the_roll_ups(stream_url: str) -> None:
    now = timezone.now()
    RollUpCursor.objects.create(position=0, first_at=now - timedelta(days=1))
    sums = {"succeeded": 4, "incidents": 2, "work_ms": 6_000, "work_12": 2, "work_15": 2, "work_56": 2}
    RollUp.objects.create(key=key_of("fleet", EVER, BEGINNING), scope="fleet", grain=EVER, start=BEGINNING, sums=sums)
    found = scrape()
    assert found["novawf_task_events_total", (("event", "succeeded"),)] == 4
    assert found["novawf_safety_events_total", (("event", "incidents"),)] == 2
    buckets = {
        dict(labels)["le"]: value for (name, labels), value in found.items() if name == "novawf_task_work_seconds_bucket"
    }
    assert (buckets["0.64"], buckets["1.28"], buckets["2.56"], buckets["+Inf"]) == (2, 2, 4, 6)
    assert found["novawf_task_work_seconds_sum", ()] == 6
    assert found["novawf_task_work_seconds_count", ()] == 6
