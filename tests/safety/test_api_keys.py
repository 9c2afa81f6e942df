"""Keys of Novas: shown once, found by digest, suspended, reinstated and revoked, all journalled without the key."""

import json
from datetime import datetime, timedelta

import pytest

from safety import api_keys, audit
from safety.api_keys import KeyNotFound, KeyRefused, create_key, find_key
from safety.models import ApiKey, AuditEntry

pytestmark = pytest.mark.django_db


def refusal(key: str, now: datetime) -> str:
    with pytest.raises(KeyRefused) as refused:
        find_key(key, now=now)
    return refused.value.reason


def test_a_key_has_256_random_bits_and_only_its_digest_is_kept(now):
    with audit.acting("user:ann"):
        text, key = create_key("torch", name="laptop", now=now)
    other, _ = create_key("torch", now=now)
    assert text.startswith("nova_")
    assert len(text.split("_", 2)[2]) >= 43
    assert text != other
    assert (key.prefix, key.created_by, key.name) == (text[:11], "user:ann", "laptop")
    secret = text.split("_", 2)[2]
    rows = [ApiKey.objects.values().get(pk=key.pk), *AuditEntry.objects.values()]
    assert secret not in json.dumps(rows, default=str)
    assert find_key(text, now=now).nova_id == "torch"


@pytest.mark.parametrize("key", ["", "nova_", "nova_000000_" + "x" * 43, "bearer", "nova_" + "x" * 200, "nova_\u00fc"])
def test_a_key_nobody_made_is_unknown(key, now):
    assert refusal(key, now) == "unknown"


def test_its_use_is_noted_at_most_once_a_minute(now, django_assert_num_queries):
    text, key = create_key("torch", now=now)
    with django_assert_num_queries(2):
        find_key(text, now=now)
    with django_assert_num_queries(1):
        find_key(text, now=now + timedelta(seconds=59))
    find_key(text, now=now + timedelta(seconds=60))
    key.refresh_from_db()
    assert key.last_used_at == now + timedelta(seconds=60)


def test_an_expired_key_is_refused(now):
    text, _ = create_key("torch", now=now, expires_at=now + timedelta(hours=1))
    assert find_key(text, now=now + timedelta(minutes=59))
    assert refusal(text, now + timedelta(hours=1)) == "expired"


def test_a_kill_suspends_every_key_of_the_nova_and_its_end_reinstates_them(now):
    first, _ = create_key("torch", now=now)
    second, _ = create_key("torch", now=now)
    other, _ = create_key("echo", now=now)
    assert api_keys.suspend_keys(["torch"], reason="killed", now=now) == 2
    assert api_keys.suspend_keys(["torch"], reason="killed", now=now) == 0
    assert refusal(first, now) == refusal(second, now) == "suspended"
    assert find_key(other, now=now)
    assert api_keys.reinstate_keys(["torch"], now=now) == 2
    assert find_key(first, now=now)
    assert list(AuditEntry.objects.order_by("id").values_list("action", flat=True)) == [
        *["safety.key.created"] * 3,
        *["safety.key.suspended"] * 2,
        *["safety.key.reinstated"] * 2,
    ]


def test_what_a_person_suspended_no_lifted_kill_gives_back(now):
    text, key = create_key("torch", now=now)
    assert api_keys.suspend_key(key.pk, reason="laptop lost", now=now)
    assert not api_keys.suspend_key(key.pk, reason="laptop lost", now=now)
    assert api_keys.suspend_keys(["torch"], reason="killed", now=now) == 0
    assert api_keys.reinstate_keys(["torch"], now=now) == 0
    assert refusal(text, now) == "suspended"
    assert api_keys.reinstate_key(key.pk, reason="found again", now=now)
    assert find_key(text, now=now)


def test_a_revoked_key_stays_so(now):
    text, key = create_key("torch", now=now)
    assert api_keys.revoke_key(key.pk, reason="leaked", now=now)
    assert not api_keys.revoke_key(key.pk, reason="leaked", now=now)
    assert not api_keys.suspend_key(key.pk, reason="leaked", now=now)
    assert api_keys.suspend_keys(["torch"], reason="killed", now=now) == 0
    assert not api_keys.reinstate_key(key.pk, reason="oops", now=now)
    assert refusal(text, now) == "revoked"


def test_a_key_that_is_not_there_is_said_so(now):
    with pytest.raises(KeyNotFound):
        api_keys.revoke_key(404, reason="leaked", now=now)
