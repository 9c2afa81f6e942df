"""/healthz and /readyz: green on evidence only, and red with the reason."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from reporting import health
from reporting.models import AlertChannel
from safety import triggers
from safety.models import FleetFact
from safety.stream_client import StreamClient
from tests.conftest import StreamServer
from workflow.models import Lease

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _forget_migrations() -> Iterator[None]:
    health._migrations_applied.cache_clear()
    yield
    health._migrations_applied.cache_clear()


@pytest.fixture
def working(stream: StreamClient) -> None:
    """All that readiness asks for."""
    instant = datetime.now(UTC)
    for cluster in ("loops", "work"):
        Lease.objects.create(name=f"slot:{cluster}:here:0", holder="1-a", heartbeat_at=instant)
    FleetFact.objects.create(name="intake_lag", value=0.2, observed_at=instant)


def ask(path: str = "/readyz") -> tuple[int, dict[str, Any]]:
    reply = Client().get(path)
    return reply.status_code, json.loads(reply.content)


def refused() -> dict[str, str]:
    """The checks that are not green, with their reasons."""
    status, content = ask()
    found = {name: check["detail"] for name, check in content["checks"].items() if not check["ok"]}
    assert (status == 200, content["ready"]) == (not found, not found)
    return found


def test_alive_needs_nothing(stream_server: StreamServer) -> None:
    stream_server.stop()
    with connection.execute_wrapper(_no_queries):
        assert Client().get("/healthz").content == b"ok\n"


def _no_queries(*args: Any) -> None:
    raise AssertionError("healthz asked the database")


def test_ready_when_everything_proves_it(working: None) -> None:
    assert refused() == {}
    assert {check["ms"] >= 0 for check in ask()[1]["checks"].values()} == {True}


def test_a_silent_cluster_is_named(working: None) -> None:
    Lease.objects.filter(name="slot:work:here:0").update(heartbeat_at=datetime.now(UTC) - timedelta(seconds=10))
    assert refused() == {"work": "no worker beats; is `manage.py workers work` running?"}


def test_late_intake_is_named(working: None) -> None:
    FleetFact.objects.update(value=61.0)
    assert refused() == {"intake": "streams are read 61 s late (limit 60 s)"}


def test_intake_that_nobody_observes_is_not_trusted(working: None) -> None:
    FleetFact.objects.update(observed_at=datetime.now(UTC) - timedelta(minutes=5))
    assert refused() == {"intake": "nobody has read the streams lately"}


def test_alerts_that_nobody_hears_are_told_and_make_nothing_unready(working: None) -> None:
    assert ask()[1]["checks"]["alerts"]["detail"] == "the rules were never evaluated"
    instant = datetime.now(UTC)
    Lease.objects.create(name="alerts", heartbeat_at=instant)
    AlertChannel.objects.create(slug="ops", kind="webhook", failing_since=instant)
    status, content = ask()
    assert status == 200
    assert content["checks"]["alerts"]["detail"].endswith("s ago; nothing comes through to 1 of 1 channels")


def test_a_journal_without_triggers_is_not_ready(working: None) -> None:
    triggers.remove()
    try:
        assert "triggers missing" in refused()["journal"]
    finally:
        triggers.install()


def test_a_stream_server_that_is_away_is_named(working: None, stream_server: StreamServer) -> None:
    stream_server.stop()
    assert "could not be reached" in refused()["streams"]


def test_a_check_that_hangs_holds_up_nothing_else(working: None, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = threading.Event()
    monkeypatch.setattr(health, "DEADLINE", 2.0)
    monkeypatch.setitem(health.CHECKS, "streams", lambda: "too late" if hold.wait(20) else "never")
    try:
        assert refused() == {"streams": "no answer within 2 s"}
    finally:
        hold.set()
