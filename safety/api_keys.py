"""Keys by which an agent shows which Nova it is: made, found, suspended, revoked; each change is journalled.

The key's text leaves this room once, when it is made; kept is its SHA-256 digest. This room knows a Nova by its nova_id only:
whether there is such a Nova, and whether it may act, others say.
"""

import hashlib
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum

from django.db import models, transaction
from django.db.models import Q
from django.utils.crypto import constant_time_compare

from safety import audit
from safety.audit import Entry
from safety.models import ApiKey

KEY_CREATED = "safety.key.created"
KEY_SUSPENDED = "safety.key.suspended"
KEY_REINSTATED = "safety.key.reinstated"
KEY_REVOKED = "safety.key.revoked"

SCHEME = "nova_"  # every key begins so: it tells the doors, and scanners for leaked secrets, what it is
_SECRET_BYTES = 32
_NAMED = len(SCHEME) + 6  # the characters that tell keys apart; they are no part of the secret
_LONGEST = 128
_NOTE_USE_EVERY = timedelta(minutes=1)


class Refusal(StrEnum):
    """Why a key is not good."""

    UNKNOWN = "unknown"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    REVOKED = "revoked"


class KeyRefused(Exception):
    """The key is not good: `reason` says why, `key` is its row, where there is one."""

    def __init__(self, reason: Refusal, key: ApiKey | None = None) -> None:
        self.reason = reason
        self.key = key
        super().__init__(_WORDS[reason])


_WORDS = {
    Refusal.UNKNOWN: "This key is not known here. An operator makes one with `manage.py apikey_create NOVA`.",
    Refusal.SUSPENDED: "This key is suspended. A safety officer can reinstate it.",
    Refusal.EXPIRED: "This key has expired. An operator makes a new one with `manage.py apikey_create NOVA`.",
    Refusal.REVOKED: "This key was revoked. An operator makes a new one with `manage.py apikey_create NOVA`.",
}


class KeyNotFound(Exception):
    """There is no key of that id."""


def create_key(nova_id: str, *, name: str = "", now: datetime, expires_at: datetime | None = None) -> tuple[str, ApiKey]:
    """Make a key for a Nova; give its text, which can't be had again, and its row."""
    text = f"{SCHEME}{secrets.token_hex(3)}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    with transaction.atomic():
        key = ApiKey.objects.create(
            nova_id=nova_id,
            name=name[:64],
            prefix=text[:_NAMED],
            digest=_digest(text),
            created_at=now,
            created_by=audit.current_actor(),
            expires_at=expires_at,
        )
        audit.record(
            [_entry(KEY_CREATED, key, after={"prefix": key.prefix, "name": key.name, "expires_at": expires_at})], now=now
        )
    return text, key


def find_key(key: str, *, now: datetime) -> ApiKey:
    """Give the row of a key that is good, and note at most once a minute that it was used.

    :raises KeyRefused: it is unknown, revoked, suspended or expired.
    """
    if not key.startswith(SCHEME) or len(key) > _LONGEST or not key.isascii():
        raise KeyRefused(Refusal.UNKNOWN)
    digest = _digest(key)
    found = ApiKey.objects.filter(digest=digest).first()
    if found is None or not constant_time_compare(found.digest, digest):
        raise KeyRefused(Refusal.UNKNOWN)
    if found.revoked_at is not None:
        raise KeyRefused(Refusal.REVOKED, found)
    if found.expires_at is not None and found.expires_at <= now:
        raise KeyRefused(Refusal.EXPIRED, found)
    if found.last_used_at is None or now - found.last_used_at >= _NOTE_USE_EVERY:
        ApiKey.objects.filter(pk=found.pk).update(last_used_at=now)
        found.last_used_at = now
    if found.suspended_at is not None:
        raise KeyRefused(Refusal.SUSPENDED, found)
    return found


def suspend_keys(nova_ids: Collection[str], *, reason: str, now: datetime) -> int:
    """Suspend every good key of the given Novas, as a kill does; give how many there were."""
    with transaction.atomic():
        keys = list(_locked(Q(nova_id__in=nova_ids, suspended_at=None, revoked_at=None)))
        _suspend(keys, reason, now, by_kill=True)
    return len(keys)


def reinstate_keys(nova_ids: Collection[str], *, now: datetime) -> int:
    """Take back what a kill did to the keys of the given Novas; a key that a person suspended stays so. Give how many."""
    with transaction.atomic():
        keys = list(_locked(Q(nova_id__in=nova_ids, suspended_by_kill=True, revoked_at=None)))
        _reinstate(keys, "the kill was lifted", now)
    return len(keys)


def suspend_key(key_id: int, *, reason: str, now: datetime) -> bool:
    """Suspend one key until somebody reinstates it; False if it needed no change.

    :raises KeyNotFound: there is none of that id.
    """
    with transaction.atomic():
        key = _one(key_id)
        if key.suspended_at is not None and not key.suspended_by_kill:
            return False
        if key.revoked_at is not None:
            return False
        _suspend([key], reason, now, by_kill=False)
    return True


def reinstate_key(key_id: int, *, reason: str, now: datetime) -> bool:
    """Let one suspended key be used again; False if it needed no change.

    :raises KeyNotFound: there is none of that id.
    """
    with transaction.atomic():
        key = _one(key_id)
        if key.suspended_at is None or key.revoked_at is not None:
            return False
        _reinstate([key], reason, now)
    return True


def revoke_key(key_id: int, *, reason: str, now: datetime) -> bool:
    """Make one key useless for good; False if it is so already.

    :raises KeyNotFound: there is none of that id.
    """
    with transaction.atomic():
        key = _one(key_id)
        if key.revoked_at is not None:
            return False
        ApiKey.objects.filter(pk=key.pk).update(revoked_at=now)
        audit.record([_entry(KEY_REVOKED, key, after={"revoked_at": now}, reason=reason)], now=now)
    return True


def _suspend(keys: list[ApiKey], reason: str, now: datetime, *, by_kill: bool) -> None:
    ApiKey.objects.filter(pk__in=[key.pk for key in keys]).update(
        suspended_at=now, suspended_reason=reason, suspended_by_kill=by_kill
    )
    after = {"suspended_at": now, "suspended_by_kill": by_kill}
    audit.record([_entry(KEY_SUSPENDED, key, after=after, reason=reason) for key in keys], now=now)


def _reinstate(keys: list[ApiKey], reason: str, now: datetime) -> None:
    ApiKey.objects.filter(pk__in=[key.pk for key in keys]).update(
        suspended_at=None, suspended_reason="", suspended_by_kill=False
    )
    entries = [
        _entry(KEY_REINSTATED, key, before={"suspended_at": key.suspended_at}, after={"suspended_at": None}, reason=reason)
        for key in keys
    ]
    audit.record(entries, now=now)


def _locked(condition: Q) -> "models.QuerySet[ApiKey]":
    return ApiKey.objects.select_for_update().filter(condition).order_by("pk")


def _one(key_id: int) -> ApiKey:
    key = _locked(Q(pk=key_id)).first()
    if key is None:
        raise KeyNotFound(f"There is no key {key_id}; nothing was changed.")
    return key


def _entry(
    action: str,
    key: ApiKey,
    *,
    before: dict[str, object] | None = None,
    after: dict[str, object] | None = None,
    reason: str = "",
) -> Entry:
    return Entry(action, key.nova_id, "key", str(key.pk), before=before, after=after, reason=reason)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
