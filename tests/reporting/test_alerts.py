"""Alerts from the fact to the receiver: real rows, real receivers on this machine, a clock that the test moves."""

import base64
import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connections
from django_q.models import OrmQ
from standardwebhooks import Webhook, WebhookVerificationError

from reporting import alert_sending, alert_services, alerting, jobs
from reporting.core.alerting import Change
from reporting.models import AlertChannel, AlertDelivery, AlertEvent, AlertMemory, AlertRule
from reporting.seeding import RULES, seed_alert_rules
from safety.encryption import encrypt
from safety.facts import note_stream_lost
from safety.models import AuditEntry, FleetFact, SafetyState, VerificationRun
from tests import factories
from tests.reporting.receiver import Receiver
from workflow.models import Approval, Halt, Lease, NovaState

pytestmark = pytest.mark.django_db

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, ok!").decode()
FORMER = "whsec_" + base64.b64encode(b"the secret that was there before").decode()
MINUTE = timedelta(minutes=1)


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    settings.ALLOW_PRIVATE_WEBHOOKS = True
    found = Receiver()
    yield found
    found.close()


def webhook(url: str, slug: str = "ops", **fields: Any) -> AlertChannel:
    return AlertChannel.objects.create(slug=slug, kind="webhook", url=url, encrypted_secret=encrypt(SECRET), **fields)


def rule(slug: str = "silent", condition: str = "nova_silent", **fields: Any) -> AlertRule:
    known = {"title": "Nova silent", "threshold": 120.0, "duration": 0.0, "cooldown": 900.0, "tier": "critical"}
    return AlertRule.objects.create(slug=slug, condition=condition, **(known | fields))


def send(now: datetime) -> int:
    return alert_sending.send_due(now=now, clock=lambda: now)


def told(receiver: Receiver, now: datetime, secret: str = SECRET) -> list[dict[str, Any]]:
    """Give what the receiver got, each verified as a receiver of Standard Webhooks does."""
    for headers, body in receiver.got:
        assert abs(int(headers["webhook-timestamp"]) - now.timestamp()) < 86_400
        fresh = headers | {"webhook-timestamp": headers["webhook-timestamp"]}
        _verify(secret, body, fresh)
    return [json.loads(body) for _, body in receiver.got]


def _verify(secret: str, body: bytes, headers: dict[str, str]) -> None:
    """Verify as of the instant at which it was signed; the library itself looks at the machine's clock."""
    hook = Webhook(secret)
    hook._Webhook__verify_timestamp = lambda stamp: datetime.fromtimestamp(int(stamp), factories.NOW.tzinfo)  # type: ignore[attr-defined]
    hook.verify(body, headers)


class TestEvaluation:
    def test_five_hundred_silent_novas_are_one_message_and_one_resolution(self, receiver: Receiver, now: datetime) -> None:
        webhook(receiver.url)
        rule()
        factories.make_novas(500, now=now - 5 * MINUTE)
        assert alerting.evaluate(now=now) == {"silent": Change.FIRED}
        assert alerting.evaluate(now=now + MINUTE) == {}
        send(now)
        event = AlertEvent.objects.get()
        assert (event.status, event.count, len(event.subjects)) == ("firing", 500, alerting.KEPT_SUBJECTS)
        NovaState.objects.update(due_at=now + 5 * MINUTE)
        assert alerting.evaluate(now=now + 2 * MINUTE) == {"silent": Change.RESOLVED}
        send(now + 2 * MINUTE)
        first, last = told(receiver, now)
        assert (first["type"], first["data"]["count"], len(first["data"]["subjects"])) == ("alert.fired", 500, 10)
        assert (last["type"], last["data"]["status"], last["data"]["alert_id"]) == ("alert.resolved", "resolved", event.pk)
        actions = AuditEntry.objects.filter(object_type="alert").order_by("id").values_list("action", flat=True)
        assert list(actions) == ["reporting.alert.fired", "reporting.alert.resolved"]

    def test_queries_do_not_grow_with_the_fleet(self, now: datetime, django_assert_num_queries: Any) -> None:
        seed_alert_rules(now=now)
        factories.make_installation()
        factories.make_novas(2, now=now - 5 * MINUTE)
        alerting.evaluate(now=now)
        factories.make_novas(60, now=now - 9 * MINUTE, prefix="more", team="red")
        counts = []
        for number in range(2):
            with _counted(counts):
                alerting.evaluate(now=now + timedelta(seconds=15 * (number + 1)))
            factories.make_novas(60, now=now - 9 * MINUTE, prefix=f"again-{number}")
        assert counts[0] == counts[1]

    def test_a_cooldown_keeps_what_flaps_quiet(self, receiver: Receiver, now: datetime) -> None:
        webhook(receiver.url)
        rule(cooldown=900.0)
        factories.make_nova("torch", now=now - 5 * MINUTE)
        changes = []
        for minute in range(20):
            at = now + minute * MINUTE
            NovaState.objects.update(due_at=at - 5 * MINUTE if minute % 2 == 0 else at)
            changes += [(minute, change) for change in alerting.evaluate(now=at).values()]
        assert changes == [(0, "fired"), (1, "resolved"), (16, "fired"), (17, "resolved")]

    def test_what_can_not_be_read_changes_nothing(self, now: datetime) -> None:
        rule("late", "intake_late", threshold=10.0)
        factories.make_healthy_fleet(now=now, intake_lag=30.0)
        assert alerting.evaluate(now=now) == {"late": Change.FIRED}
        assert alerting.evaluate(now=now + 5 * MINUTE) == {}, "nobody has observed it since"
        factories.make_healthy_fleet(now=now + 6 * MINUTE)
        assert alerting.evaluate(now=now + 6 * MINUTE) == {"late": Change.RESOLVED}

    def test_a_rule_about_one_team_hears_of_no_other(self, now: datetime) -> None:
        rule(scope="team", target="red")
        factories.make_nova("torch", now=now - 5 * MINUTE, team="blue")
        assert alerting.evaluate(now=now) == {}
        factories.make_nova("echo", now=now - 5 * MINUTE, team="red")
        assert alerting.evaluate(now=now) == {"silent": Change.FIRED}
        assert [s["nova_id"] for s in AlertEvent.objects.get().subjects] == ["echo"]

    def test_a_rule_that_is_switched_off_is_resolved(self, now: datetime) -> None:
        rule()
        factories.make_nova("torch", now=now - 5 * MINUTE)
        alerting.evaluate(now=now)
        AlertRule.objects.update(enabled=False)
        assert alerting.evaluate(now=now + MINUTE) == {"silent": Change.RESOLVED}
        assert AlertEvent.objects.get().resolution == "the rule was switched off"

    def test_only_channels_that_want_its_tier_are_told(self, now: datetime) -> None:
        webhook("https://a.example.com/", "all")
        webhook("https://b.example.com/", "critical-only", least_tier="critical")
        webhook("https://c.example.com/", "off", enabled=False)
        rule(tier="warning")
        rule("chosen", channels=["critical-only"])
        factories.make_nova("torch", now=now - 5 * MINUTE)
        alerting.evaluate(now=now)
        assert sorted(AlertDelivery.objects.values_list("event__rule", "channel")) == [
            ("chosen", "critical-only"), ("silent", "all"),
        ]  # fmt: skip


def test_every_shipped_rule_fires_on_what_it_is_about(now: datetime, settings: Any) -> None:
    """A few looks at a house in which everything is wrong, but for the stream server."""
    seed_alert_rules(now=now - timedelta(hours=3))
    VerificationRun.objects.create(scope="full", requested_by="x", requested_at=now, finished_at=now, damages=1)
    assert seed_alert_rules(now=now) == []
    long_ago = now - timedelta(days=1)
    factories.make_installation()
    factories.make_healthy_fleet(now=now, outbox_age=99.0, intake_lag=99.0)
    factories.make_nova("torch", now=long_ago, budget_requests=10)
    factories.make_nova("echo", state={"tasks_in_flight": 1, "last_task_change": long_ago, "due_at": now})
    factories.make_task("Open", now=long_ago)
    factories.make_usage("torch", now=now, requests=9)
    factories.make_incident("torch", safety_level="quarantine", now=long_ago)
    factories.make_provider("main", breaker="open", breaker_since=long_ago)
    Approval.objects.create(
        nova_id="torch", action="deploy", digest="x", requested_by="x", requested_at=long_ago, expires_at=now + MINUTE
    )
    Halt.objects.create(kind="halt", scope="nova", target="torch", reason="x", requested_by="x", requested_at=long_ago)
    FleetFact.objects.create(name="stream_gap", value="nova.work.queue", since=now, observed_at=now)
    FleetFact.objects.create(name="disk:here", value=0.01, observed_at=now)
    Lease.objects.create(name="slot:loops:here:0", heartbeat_at=long_ago)
    Lease.objects.create(name="slot:work:here:0", heartbeat_at=now + 2 * MINUTE)
    webhook("https://a.example.com/", failing_since=long_ago)
    installation = factories.make_installation()
    type(installation).objects.update(created_at=long_ago)
    for seconds in (0, 30, 60):  # the durations of the shipped rules are at most a minute
        at = now + timedelta(seconds=seconds)
        FleetFact.objects.update(observed_at=at)
        alerting.evaluate(now=at)
    fired = set(AlertEvent.objects.values_list("rule", flat=True))
    assert set(RULES) - fired == {"stream-away"}
    note_stream_lost(now + MINUTE)
    alerting.evaluate(now=now + 2 * MINUTE)
    assert AlertEvent.objects.filter(rule="stream-away", status="firing").exists()
    assert AlertEvent.objects.get(rule="nova-silent").status == "resolved", "a server that is away has an alert of its own"
    assert {s["subject"] for s in AlertEvent.objects.get(rule="no-worker").subjects} == {"workers loops"}


@pytest.mark.django_db(transaction=True)
def test_two_that_evaluate_and_send_at_once_alert_once(receiver: Receiver, now: datetime) -> None:
    webhook(receiver.url)
    rule()
    factories.make_nova("torch", now=now - 5 * MINUTE)
    AlertMemory.objects.create(rule_id="silent")
    gate, found, problems = threading.Barrier(2), [], []

    def work() -> None:
        try:
            gate.wait(10)
            found.append(alerting.evaluate(now=now))
            send(now)
        except Exception as problem:
            problems.append(problem)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert problems == []
    assert sorted(found, key=len) == [{}, {"silent": Change.FIRED}]
    send(now)
    assert len(receiver.got) == AlertEvent.objects.count() == AuditEntry.objects.filter(object_type="alert").count() == 1


def test_the_chore_evaluates_no_more_often_than_it_must_and_has_what_is_due_sent(
    receiver: Receiver, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    monkeypatch.setattr(alerting, "evaluate", lambda *, now: looks.append(now))
    for seconds in (0, 5, 10, 15, 20, 25, 30):
        assert jobs.look_after_alerts(now + timedelta(seconds=seconds)) == 5.0
    assert [(look - now).seconds for look in looks] == [0, 15, 30]
    assert FleetFact.objects.filter(name__startswith="disk:").exists()
    assert not OrmQ.objects.exists(), "nothing is to be sent"
    monkeypatch.undo()
    webhook(receiver.url)
    alert_services.try_channel("ops", reason="is it heard?", now=now)
    jobs.look_after_alerts(now + timedelta(seconds=31))
    assert OrmQ.objects.get().func() == "reporting.jobs.send_alerts"
    monkeypatch.setattr(jobs, "_clock", lambda: now + timedelta(seconds=32))
    jobs.send_alerts()
    assert len(receiver.got) == 1


class TestDelivery:
    def test_while_a_secret_is_rotated_both_are_good(self, receiver: Receiver, now: datetime) -> None:
        webhook(receiver.url, encrypted_former=encrypt(FORMER), former_until=now + MINUTE)
        alert_services.try_channel("ops", reason="is it heard?", now=now)
        send(now)
        told(receiver, now)
        told(receiver, now, FORMER)
        alert_services.try_channel("ops", reason="is it heard?", now=now + 2 * MINUTE)
        send(now + 2 * MINUTE)
        with pytest.raises(WebhookVerificationError):
            told(receiver, now, FORMER)
        assert [row.status for row in AlertDelivery.objects.all()] == ["sent", "sent"]

    def test_failures_are_tried_again_later_and_later_under_one_id(self, receiver: Receiver, now: datetime) -> None:
        receiver.statuses = [500, 503, 204]
        webhook(receiver.url)
        _alert(now)
        assert send(now) == 1
        assert send(now + timedelta(seconds=1)) == 0
        channel = AlertChannel.objects.get()
        assert channel.failing_since == now
        assert send(now + timedelta(seconds=7)) == 1
        assert send(now + timedelta(seconds=20)) == 0
        assert send(now + timedelta(seconds=60)) == 1
        row, channel = AlertDelivery.objects.get(), AlertChannel.objects.get()
        assert (row.status, row.attempts, [a["detail"] for a in row.log]) == (
            "sent", 3, ["answered 500", "answered 503", "answered 204"],
        )  # fmt: skip
        assert (channel.failing_since, channel.delivered_at) == (None, now + timedelta(seconds=60))
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1

    def test_410_closes_the_channel_for_good(self, receiver: Receiver, now: datetime) -> None:
        receiver.statuses = [410]
        webhook(receiver.url)
        _alert(now)
        send(now)
        channel = AlertChannel.objects.get()
        assert (channel.is_open, channel.closed_reason) == (False, "Its host says that it is gone (410).")
        assert AlertDelivery.objects.get().status == "failed"
        assert AuditEntry.objects.filter(action="reporting.alert_channel.closed", object_id="ops").count() == 1
        assert alert_services.reopen_channel("ops", reason="it moved back", now=now)
        assert AlertChannel.objects.get().is_open

    def test_five_days_of_failures_close_it_too(self, receiver: Receiver, now: datetime) -> None:
        receiver.statuses = [500]
        webhook(receiver.url, failing_since=now - timedelta(days=5))
        _alert(now)
        send(now)
        assert AlertChannel.objects.get().closed_at == now
        assert "five days" in AlertChannel.objects.get().closed_reason

    def test_a_receiver_that_hangs_holds_up_no_other(self, receiver: Receiver, now: datetime) -> None:
        receiver.hold.set()
        webhook(receiver.url, "slow", timeout=0.5)
        other = Receiver()
        webhook(other.url, "quick")
        _alert(now)
        send(now)
        rows = {row.channel_id: row for row in AlertDelivery.objects.all()}
        assert rows["quick"].status == "sent"
        assert (rows["slow"].status, rows["slow"].log[0]["ok"]) == ("waiting", False)
        other.close()

    def test_redirects_are_not_followed(self, receiver: Receiver, now: datetime) -> None:
        receiver.statuses, receiver.location = [302], "/elsewhere"
        webhook(receiver.url)
        _alert(now)
        send(now)
        assert len(receiver.got) == 1
        assert AlertDelivery.objects.get().log[0]["detail"] == "answered 302"

    @pytest.mark.parametrize(
        "host", ["https://127.0.0.1:1/", "https://[::1]:1/", "https://169.254.169.254/x", "http://example.com/"]
    )
    def test_private_addresses_are_not_reached_unless_that_is_allowed(self, host: str, now: datetime) -> None:
        webhook(host)
        _alert(now)
        send(now)
        detail = AlertDelivery.objects.get().log[0]["detail"]
        assert "Nothing was sent." in detail

    def test_services_are_reached_by_apprise(self, receiver: Receiver, now: datetime) -> None:
        address = f"json://127.0.0.1:{receiver.port}/room"
        AlertChannel.objects.create(slug="room", kind="apprise", service="json", encrypted_address=encrypt(address))
        _alert(now)
        assert send(now) == 1
        ((_, body),) = receiver.got
        message = json.loads(body)
        assert (message["title"], message["type"]) == ("[CRITICAL] Nova silent", "failure")
        assert message["message"] == "torch: due, but no worker has stepped it for 5 min"

    def test_a_service_in_a_private_network_is_refused(self, now: datetime) -> None:
        encrypted = encrypt("json://127.0.0.1:1/room")
        AlertChannel.objects.create(slug="room", kind="apprise", service="json", encrypted_address=encrypted)
        _alert(now)
        send(now)
        assert "private network" in AlertDelivery.objects.get().log[0]["detail"]

    def test_a_message_can_be_delivered_again_under_its_id(self, receiver: Receiver, now: datetime) -> None:
        webhook(receiver.url)
        _alert(now)
        send(now)
        alert_services.redeliver(AlertDelivery.objects.get().pk, reason="it got lost there", now=now + MINUTE)
        send(now + MINUTE)
        (first, _), (second, _) = receiver.got
        assert first["webhook-id"] == second["webhook-id"]
        assert AlertDelivery.objects.filter(status="sent").count() == 2

    def test_a_test_that_fails_is_not_repeated(self, receiver: Receiver, now: datetime) -> None:
        receiver.statuses = [500]
        webhook(receiver.url, enabled=False)
        alert_services.try_channel("ops", reason="is it heard?", now=now)
        send(now)
        assert AlertDelivery.objects.get().status == "failed"


def test_what_is_sent_and_kept_holds_no_text_of_people_or_tasks(receiver: Receiver, now: datetime) -> None:
    webhook(receiver.url)
    seed_alert_rules(now=now)
    factories.make_installation()
    factories.make_nova("torch", now=now - timedelta(hours=2))
    SafetyState.objects.create(nova_id="torch", is_safe=False, reason="PLANTED", mechanism="frosty_cooldown")
    factories.make_task("PLANTED", now=now - timedelta(hours=3), description="PLANTED", sender="PLANTED")
    factories.make_incident(
        "torch", safety_level="quarantine", reason="PLANTED", evidence={"x": "PLANTED"}, now=now - 90 * MINUTE
    )
    for minute in range(3):
        alerting.evaluate(now=now + minute * MINUTE)
        send(now + minute * MINUTE)
    assert len(receiver.got) >= 3
    everything = [body for _, body in receiver.got] + [
        json.dumps(list(model.objects.values()), default=str).encode() for model in (AlertEvent, AlertDelivery)
    ]
    assert b"PLANTED" not in b"".join(everything)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"condition": "moon_full"}, "condition"),
        ({"scope": "team"}, "target"),
        ({"target": "torch"}, "target"),
        ({"condition": "disk_low", "scope": "nova", "target": "torch"}, "scope"),
        ({"channels": ["nowhere"]}, "channels"),
        ({"threshold": -1.0}, "threshold"),
    ],
)
def test_a_rule_that_could_never_mean_what_it_says_is_refused(fields: dict[str, Any], named: str) -> None:
    known = {"slug": "x", "title": "X", "condition": "nova_silent", "threshold": 1.0}
    with pytest.raises(ValidationError) as refusal:
        AlertRule(**(known | fields)).full_clean()
    assert named in refusal.value.message_dict


def _alert(now: datetime) -> None:
    """Let one rule fire for one Nova."""
    rule()
    factories.make_nova("torch", now=now - 5 * MINUTE)
    alerting.evaluate(now=now)


class _counted:
    """Count the queries of a block into a list."""

    def __init__(self, counts: list[int]) -> None:
        self._counts = counts

    def __enter__(self) -> None:
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        self._queries = CaptureQueriesContext(connection)
        self._queries.__enter__()

    def __exit__(self, *args: Any) -> None:
        self._queries.__exit__(*args)
        self._counts.append(len(self._queries))
