"""Alerts at the API, in the admin and on the command line: what comes in, what goes out, and what never does."""

import base64
import io
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from reporting import alerting
from reporting.models import AlertChannel, AlertDelivery, AlertEvent, AlertRule
from reporting.seeding import seed_alert_rules
from safety.encryption import decrypt
from safety.models import AuditEntry
from tests import factories
from tests.reporting.receiver import Receiver
from tests.reporting.test_alerts import FORMER, SECRET, receiver, webhook  # noqa: F401 - a fixture

pytestmark = pytest.mark.django_db

HOOK = {"slug": "ops", "kind": "webhook", "url": "https://ops.example.com/x", "secret": FORMER, "reason": "on call"}
ROOM = {"slug": "room", "kind": "apprise", "address": "slack://AAAAAAAAA/BBBBBBBBB/TOKENTOKEN", "reason": "a room"}


@pytest.fixture
def api(settings: Any) -> Client:
    return Client(headers={"Authorization": f"Bearer {settings.OPERATOR_KEY}"})


def send(api: Client, method: str, path: str, body: dict[str, Any]) -> Any:
    return api.generic(method, f"/api/v1/{path}", json.dumps(body), content_type="application/json")


class TestApi:
    def test_a_channel_keeps_its_secrets_to_itself(self, api: Client) -> None:
        for body in (HOOK, ROOM):
            answer = send(api, "POST", "alert-channels", body)
            assert answer.status_code == 201, answer.content
            assert answer["Location"] == f"/api/v1/alert-channels/{body['slug']}"
        assert send(api, "PATCH", "alert-channels/ops", {"secret": SECRET, "reason": "the yearly change"}).status_code == 200
        ops, room = AlertChannel.objects.get(slug="ops"), AlertChannel.objects.get(slug="room")
        assert (decrypt(ops.encrypted_secret), decrypt(ops.encrypted_former)) == (SECRET, FORMER)
        assert ops.former_until is not None
        assert (room.service, decrypt(room.encrypted_address)) == ("slack", ROOM["address"])
        shown = api.get("/api/v1/alert-channels").content.decode() + json.dumps(
            list(AuditEntry.objects.values("before", "after", "reason", "message")), default=str
        )
        for secret in (SECRET, FORMER, "TOKENTOKEN", ops.encrypted_secret, ops.encrypted_former, room.encrypted_address):
            assert secret not in shown

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            (HOOK | {"secret": "whsec_short"}, "/secret"),
            (HOOK | {"url": "https://user:password@ops.example.com/"}, "/url"),
            (HOOK | {"timeout": 60}, "/timeout"),
            (ROOM | {"address": "exec://rm"}, "/address"),
            (ROOM | {"address": "slack"}, "/address"),
            ({name: value for name, value in HOOK.items() if name != "secret"}, ""),
            (HOOK | {"address": ROOM["address"]}, ""),
        ],
    )
    def test_a_channel_that_leads_nowhere_is_refused(self, api: Client, body: dict[str, Any], pointer: str) -> None:
        answer = send(api, "POST", "alert-channels", body)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, pointer), answer.content
        assert SECRET not in answer.content.decode()
        assert not AlertChannel.objects.exists()

    def test_a_rule_is_changed_with_a_reason_and_journalled(self, api: Client, now: datetime) -> None:
        seed_alert_rules(now=now)
        answer = send(api, "PATCH", "alert-rules/nova-silent", {"threshold": 600, "reason": "calmer nights"})
        assert (answer.status_code, answer.json()["threshold"]) == (200, 600.0)
        entry = AuditEntry.objects.get(action="reporting.alert_rule.changed")
        assert (entry.before, entry.after, entry.reason) == ({"threshold": 120.0}, {"threshold": 600.0}, "calmer nights")
        refused = send(api, "POST", "alert-rules", {"slug": "x", "title": "X", "condition": "moon_full", "threshold": 1})
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (400, "/condition")

    def test_a_test_is_queued_and_a_message_is_sent_again(self, api: Client, receiver: Receiver) -> None:  # noqa: F811
        webhook(receiver.url)
        tried = send(api, "POST", "alert-channels/ops/test", {"reason": "is it heard?"})
        assert (tried.status_code, tried.json()["status"], tried.json()["alert"]) == (202, "waiting", None)
        assert send(api, "POST", "alert-channels/nowhere/test", {"reason": "x"}).status_code == 404
        assert send(api, "POST", "alert-channels/ops/test", {}).status_code == 400
        again = send(api, "POST", f"alert-deliveries/{tried.json()['id']}/redeliver", {"reason": "once more"})
        assert (again.status_code, again.json()["message_id"]) == (202, tried.json()["message_id"])
        assert len(api.get("/api/v1/alert-deliveries?status=waiting&channel=ops").json()["results"]) == 2

    def test_firing_alerts_are_listed(self, api: Client) -> None:
        now = timezone.now()
        seed_alert_rules(now=now)
        factories.make_nova("torch", now=now - timedelta(hours=1))
        alerting.evaluate(now=now)
        (alert,) = api.get("/api/v1/alerts?status=firing&tier=critical").json()["results"]
        assert (alert["rule"], alert["count"], alert["subjects"][0]["nova_id"]) == ("nova-silent", 1, "torch")
        assert api.get(f"/api/v1/alerts/{alert['id']}").json() == alert
        assert api.get("/api/v1/alerts?status=resolved").json()["results"] == []


class TestAdmin:
    @pytest.fixture
    def pages(self, now: datetime, settings: Any, tmp_path: Path) -> Client:
        settings.STATIC_ROOT = tmp_path
        plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
        settings.STORAGES = settings.STORAGES | {"staticfiles": plain}
        seed_alert_rules(now=now)
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        return client

    def test_its_pages_show_no_secret(self, pages: Client, now: datetime) -> None:
        channel = webhook("https://ops.example.com/x", encrypted_former="FORMER")
        factories.make_nova("torch", now=now - timedelta(hours=1))
        alerting.evaluate(now=now)
        event, delivery = AlertEvent.objects.get(), AlertDelivery.objects.get()
        for path in (
            "alertrule/", "alertrule/nova-silent/change/", "alertchannel/", "alertchannel/ops/change/", "alertchannel/add/",
            "alertevent/", f"alertevent/{event.pk}/change/", "alertdelivery/", f"alertdelivery/{delivery.pk}/change/",
        ):  # fmt: skip
            answer = pages.get(f"/admin/reporting/{path}")
            assert answer.status_code == 200, path
            assert channel.encrypted_secret not in answer.content.decode()
            assert "FORMER" not in answer.content.decode()

    def test_a_channel_is_made_and_its_secret_rotated(self, pages: Client) -> None:
        form = {"slug": "ops", "kind": "webhook", "url": "https://ops.example.com/x", "least_tier": "info", "timeout": "5"}
        made = pages.post("/admin/reporting/alertchannel/add/", form | {"secret": FORMER, "enabled": "on", "reason": "on call"})
        assert made.status_code == 302, made.context["errors"] if made.context else made
        changed = pages.post("/admin/reporting/alertchannel/ops/change/", form | {"secret": SECRET, "enabled": "on"})
        assert changed.status_code == 302
        channel = AlertChannel.objects.get()
        assert (decrypt(channel.encrypted_secret), decrypt(channel.encrypted_former)) == (SECRET, FORMER)
        untouched = pages.post(
            "/admin/reporting/alertchannel/ops/change/", form | {"enabled": "on", "description": "the phone"}
        )
        assert untouched.status_code == 302
        assert decrypt(AlertChannel.objects.get().encrypted_secret) == SECRET

    def test_a_test_asks_why_and_changes_nothing_before(self, pages: Client) -> None:
        webhook("https://ops.example.com/x")
        asked = pages.get("/admin/reporting/alertchannel/verb/test/?rows=ops")
        assert asked.status_code == 200
        assert not AlertDelivery.objects.exists()
        pages.post("/admin/reporting/alertchannel/verb/test/", {"rows": "ops"})
        assert not AlertDelivery.objects.exists(), "it says why it is asked for, or nothing is sent"
        pages.post("/admin/reporting/alertchannel/verb/test/", {"rows": "ops", "reason": "is it heard?"})
        assert AlertDelivery.objects.get().kind == "test"

    def test_a_rule_is_edited_by_its_form(self, pages: Client) -> None:
        row = AlertRule.objects.get(slug="disk-low")
        form = {
            "title": row.title, "condition": row.condition, "threshold": "0.2", "duration": "60", "cooldown": "21600",
            "tier": "warning", "scope": "fleet", "target": "", "channels": "[]", "enabled": "on", "reason": "a small disk",
        }  # fmt: skip
        answer = pages.post("/admin/reporting/alertrule/disk-low/change/", form)
        assert answer.status_code == 302, answer.context["errors"] if answer.context else answer
        row.refresh_from_db()
        assert (row.threshold, row.tier) == (0.2, "warning")


class TestCommand:
    def run(self, *words: str) -> Any:
        out = io.StringIO()
        call_command("alert", *words, "--json", stdout=out)
        return json.loads(out.getvalue())

    def test_a_test_is_sent_at_once_and_tells_how_it_went(self, receiver: Receiver) -> None:  # noqa: F811
        webhook(receiver.url)
        (line,) = self.run("test", "ops", "--reason", "is it heard?")
        assert (line["status"], line["detail"], len(receiver.got)) == ("sent", "answered 204", 1)
        receiver.statuses = [500]
        with pytest.raises(SystemExit) as end:
            call_command("alert", "test", "ops", "--reason", "is it heard?", stdout=io.StringIO())
        assert end.value.code == 1
        assert AuditEntry.objects.filter(action="reporting.alert_channel.tried", actor__startswith="cli:").count() == 2

    def test_lists_and_refusals(self) -> None:
        now = timezone.now()
        seed_alert_rules(now=now)
        factories.make_installation()
        factories.make_nova("torch", now=now - timedelta(hours=1))
        assert {"rule": "nova-silent", "change": "fired"} in self.run("evaluate")
        assert [row["rule"] for row in self.run("list")] == ["nova-silent"]
        assert len(self.run("rules")) == 18
        assert self.run("channels") == self.run("deliveries") == []
        for words in (["test"], ["test", "ops"], ["test", "nowhere", "--reason", "x"], ["redeliver", "x", "--reason", "x"]):
            with pytest.raises(CommandError):
                call_command("alert", *words)


def test_a_secret_in_base64_is_what_the_examples_say() -> None:
    assert len(base64.b64decode(SECRET.removeprefix("whsec_"))) >= 24
