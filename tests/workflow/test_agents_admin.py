"""Keys, sessions and hook calls in the admin: windows, and verbs on keys that ask why."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from safety.api_keys import KeyRefused, create_key, find_key
from safety.models import AuditEntry

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _plain_static_files(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


def verb(page: Client, name: str, key_id: int, reason: str = "leaked") -> Any:
    return page.post(reverse("admin:safety_apikey_verb", args=[name]), {"rows": str(key_id), "reason": reason}, follow=True)


def test_a_key_is_suspended_reinstated_and_revoked_with_a_reason(now: datetime, admin_client: Client) -> None:
    text, key = create_key("torch", now=now)
    assert "1 api key suspended" in verb(admin_client, "suspend", key.pk).content.decode()
    with pytest.raises(KeyRefused):
        find_key(text, now=now)
    verb(admin_client, "reinstate", key.pk)
    assert find_key(text, now=now)
    verb(admin_client, "revoke", key.pk)
    assert "needed no change" in verb(admin_client, "reinstate", key.pk).content.decode()
    with pytest.raises(KeyRefused):
        find_key(text, now=now)
    entries = AuditEntry.objects.filter(object_type="key", object_id=str(key.pk)).order_by("id")
    assert [(entry.action.rpartition(".")[2], entry.actor) for entry in entries[1:]] == [
        ("suspended", "user:admin"),
        ("reinstated", "user:admin"),
        ("revoked", "user:admin"),
    ]


def test_neither_key_nor_digest_is_shown(now: datetime, admin_client: Client) -> None:
    text, key = create_key("torch", now=now)
    for url in (reverse("admin:safety_apikey_changelist"), reverse("admin:safety_apikey_change", args=[key.pk])):
        content = admin_client.get(url).content.decode()
        assert key.prefix in content
        assert key.digest not in content
        assert text not in content


def test_who_may_only_look_can_change_no_key(now: datetime) -> None:
    _, key = create_key("torch", now=now)
    user = User.objects.create_user("ada", password="x", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    viewer = Client()
    viewer.force_login(user)
    assert viewer.get(reverse("admin:safety_apikey_change", args=[key.pk])).status_code == 200
    assert verb(viewer, "revoke", key.pk).status_code == 403
    key.refresh_from_db()
    assert key.revoked_at is None
