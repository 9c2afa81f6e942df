"""What a fresh installation begins with, and that a second seeding leaves it alone."""

from datetime import datetime
from io import StringIO

import pytest
from django.core.management import call_command

from reporting.seeding import RULES
from safety.core.status import SafetyRules
from safety.models import AuditEntry, Installation, SafetyPolicy
from safety.stream_client import StreamClient
from tests import factories
from workflow import seeding, services
from workflow.models import Nova, NovaState, Personality

MADE = 17 + len(RULES)  # what the workflow needs, and the alert rules

pytestmark = pytest.mark.django_db


def test_makes_the_installation_the_policies_the_personalities_and_the_fleet(now: datetime) -> None:
    seeding.seed_all(now=now)
    installation = Installation.objects.get()
    assert len(installation.name) == 8
    assert int(installation.name, 16) >= 0
    assert installation.epoch
    assert dict(Nova.objects.values_list("nova_id", "personality_id")) == {name: name for name in factories.PERSONALITIES}
    assert set(NovaState.objects.values_list("mode", "due_at")) == {("running", now)}
    for slug, values in factories.PERSONALITIES.items():
        assert Personality.objects.filter(slug=slug, **values).exists(), slug


def test_the_presets_are_the_specs_and_the_designs_numbers(now: datetime) -> None:
    seeding.seed_policies(now=now)
    assert SafetyPolicy.objects.get(slug="standard").rules == SafetyRules()
    strict = SafetyPolicy.objects.get(slug="strict").rules
    assert (strict.requests_per_minute, strict.requests_per_hour, strict.requests_per_day) == (25, 400, 8_000)
    assert (strict.concurrent_requests, strict.burst_requests, strict.burst_window.total_seconds()) == (3, 10, 30)


def test_a_second_time_makes_nothing_and_takes_nothing_back(now: datetime) -> None:
    assert len(seeding.seed_all(now=now)) == MADE
    services.update_nova("torch", {"team": "forge"}, now=now)
    services.archive_nova("echo", reason="not needed", now=now)
    SafetyPolicy.objects.filter(slug="strict").update(requests_per_minute=5)
    entries = AuditEntry.objects.count()
    assert seeding.seed_all(now=now) == []
    assert AuditEntry.objects.count() == entries
    assert Nova.objects.get(nova_id="torch").team == "forge"
    assert NovaState.objects.get(nova_id="echo").mode == "archived"
    assert SafetyPolicy.objects.get(slug="strict").requests_per_minute == 5


def test_everything_made_is_journalled() -> None:
    out = StringIO()
    call_command("seed", stdout=out)
    assert out.getvalue().count("made") == AuditEntry.objects.filter(actor="cli:seed").count() == MADE
    call_command("seed", stdout=out)
    assert "nothing was missing" in out.getvalue()


@pytest.mark.django_db(transaction=True)
def test_a_new_nova_knocks_so_that_the_readers_rebuild_their_list(stream: StreamClient, now: datetime) -> None:
    seeding.seed_policies(now=now)
    seeding.seed_personalities(now=now)
    assert stream.call("XLEN", "nova.wake.loops") == 0
    services.create_nova("ember", now=now)
    assert stream.call("XLEN", "nova.wake.loops") == 1
