"""Keys by which an agent shows which Nova it is, and a program whose rights it uses: made, found, rotated, suspended, revoked.

The key's text leaves this room once, when it is made; kept is its SHA-256 digest. Nothing is remembered between two uses, so a
revoked key is dead at once. Whether there is such a Nova, and whether it may act, others say. Each change is journalled.
"""

import hashlib
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.contrib.auth.models import Permission, User
from django.db import models, transaction
from django.db.models import Q
from django.utils.crypto import constant_time_compare

from safety import audit
from safety.audit import Entry
from safety.core.scopes import NOVA_SCOPES, OPERATOR_SCOPES, Scope, scope_of_permission, unknown_scopes
from safety.models import ApiKey

KEY_CREATED = "safety.key.created"
KEY_ROTATED = "safety.key.rotated"
KEY_SUSPENDED = "safety.key.suspended"
KEY_REINSTATED = "safety.key.reinstated"
KEY_REVOKED = "safety.key.revoked"

# Every key begins so: it tells the doors, and scanners for leaked secrets, what it is.
SCHEME = "nova_"
OPERATOR_SCHEME = "novaop_"
OVERLAP = timedelta(hours=24)  # a rotated key lives on for so long, unless told otherwise
OVERLAP_MOST = timedelta(days=30)
_SECRET_BYTES = 32
_RANDOM_NAME = 6  # the characters after the scheme that tell keys apart; they are no part of the secret
_LONGEST = 128
_NOTE_USE_EVERY = timedelta(minutes=1)


class Refusal(StrEnum):
    """Why a key is not good."""

    UNKNOWN = "unknown"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    REVOKED = "revoked"
    INACTIVE = "inactive"
    SCOPE = "scope"


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
    Refusal.INACTIVE: "The person whose key this is has no active account. An admin can activate it.",
    Refusal.SCOPE: "This key was not made for this use. An operator makes one with the scope that it needs.",
}


class CredentialError(Exception):
    """Something asked of a key can't be done; nothing was changed."""


class KeyNotFound(CredentialError):
    """There is no key of that id."""


class KeyNotGood(CredentialError):
    """A key that is revoked, suspended, expired or rotated can't be rotated."""


class KeyUnsound(CredentialError):
    """No key can be made as it is asked for; `field` says what is wrong."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


def create_key(
    nova_id: str = "",
    *,
    user: User | None = None,
    operator: str = "",
    role: str = "",
    name: str = "",
    scopes: Collection[str] | None = None,
    now: datetime,
    expires_at: datetime | None = None,
    reason: str = "",
) -> tuple[str, ApiKey]:
    """Make a key for a Nova, a person or a named operator; give its text, which can't be had again, and its row.

    Without `scopes` it may be used for everything its holder may do, but no operator's key makes keys unless that is asked for.

    :raises KeyUnsound: a scope is unknown, or it would have expired already.
    """
    known = NOVA_SCOPES if nova_id else OPERATOR_SCOPES
    wanted = [scope.value for scope in known if scope is not Scope.KEYS] if scopes is None else list(dict.fromkeys(scopes))
    if strange := unknown_scopes(wanted, known):
        raise KeyUnsound("scopes", f"No such scope for this key: {', '.join(strange)}; there are {', '.join(known)}.")
    if not wanted:
        raise KeyUnsound("scopes", f"A key without a scope opens nothing; there are {', '.join(known)}.")
    if expires_at is not None and expires_at <= now:
        raise KeyUnsound("expires_at", "The key would have expired already.")
    with transaction.atomic():
        return _make(
            ApiKey(
                nova_id=nova_id,
                user=user,
                operator=operator,
                role=role,
                name=name[:64],
                scopes=wanted,
                expires_at=expires_at,
            ),
            reason,
            now,
        )


def rotate_key(key_id: int, *, reason: str, now: datetime, overlap: timedelta = OVERLAP) -> tuple[str, ApiKey]:
    """Make a key that takes a good key's place; the old one ends after `overlap`. Give the new one's text and its row.

    It has holder and scopes of the old one, and lives as long as that was meant to live.

    :raises KeyNotFound: there is none of that id. :raises KeyNotGood: it is of no use any more, or was rotated before.
    """
    if not timedelta(0) <= overlap <= OVERLAP_MOST:
        raise KeyUnsound("overlap_hours", f"Give 0 to {OVERLAP_MOST.days * 24} hours.")
    with transaction.atomic():
        old = _one(key_id)
        if old.successor_id is not None:
            raise KeyNotGood(f"Key {key_id} was rotated already: key {old.successor_id} took its place. Nothing was changed.")
        status = status_of(old, now=now)
        if status != "good":
            raise KeyNotGood(f"Key {key_id} is {status}; only a good key is rotated. Make a new one. Nothing was changed.")
        life = old.expires_at - old.created_at if old.expires_at else None
        text, new = _make(
            ApiKey(
                nova_id=old.nova_id,
                user=old.user,
                operator=old.operator,
                role=old.role,
                name=old.name,
                scopes=old.scopes,
                expires_at=now + life if life else None,
            ),
            reason,
            now,
        )
        ends_at = min(now + overlap, old.expires_at) if old.expires_at else now + overlap
        ApiKey.objects.filter(pk=old.pk).update(expires_at=ends_at, successor_id=new.pk)
        after: dict[str, object] = {"expires_at": ends_at, "successor": new.pk}
        audit.record([_entry(KEY_ROTATED, old, before={"expires_at": old.expires_at}, after=after, reason=reason)], now=now)
    return text, new


def _make(key: ApiKey, reason: str, now: datetime) -> tuple[str, ApiKey]:
    scheme = SCHEME if key.nova_id else OPERATOR_SCHEME
    text = f"{scheme}{secrets.token_hex(_RANDOM_NAME // 2)}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    key.prefix, key.digest = text[: len(scheme) + _RANDOM_NAME], _digest(text)
    key.created_at, key.created_by = now, audit.current_actor()
    key.save(force_insert=True)
    after: dict[str, object] = {"prefix": key.prefix, "name": key.name, "expires_at": key.expires_at, "scopes": key.scopes}
    if not key.nova_id:
        after |= {"holder": key.holder, "role": key.role}
    audit.record([_entry(KEY_CREATED, key, after=after, reason=reason)], now=now)
    return text, key


def find_key(key: str, *, now: datetime, scope: Scope | None = None) -> ApiKey:
    """Give the row of a key that is good (for a scope, where one is named), and note at most once a minute that it was used.

    :raises KeyRefused: it is unknown, revoked, suspended or expired, not made for this, or its person is inactive.
    """
    if not key.startswith((SCHEME, OPERATOR_SCHEME)) or len(key) > _LONGEST or not key.isascii():
        raise KeyRefused(Refusal.UNKNOWN)
    digest = _digest(key)
    found = ApiKey.objects.filter(digest=digest).first()
    if found is None or not constant_time_compare(found.digest, digest):
        raise KeyRefused(Refusal.UNKNOWN)
    if found.revoked_at is not None:
        raise KeyRefused(Refusal.REVOKED, found)
    if found.expires_at is not None and found.expires_at <= now:
        raise KeyRefused(Refusal.EXPIRED, found)
    if found.user is not None and not found.user.is_active:
        raise KeyRefused(Refusal.INACTIVE, found)
    if scope is not None and scope not in found.scopes:
        raise KeyRefused(Refusal.SCOPE, found)
    if found.last_used_at is None or now - found.last_used_at >= _NOTE_USE_EVERY:
        ApiKey.objects.filter(pk=found.pk).update(last_used_at=now)
        found.last_used_at = now
    if found.suspended_at is not None:
        raise KeyRefused(Refusal.SUSPENDED, found)
    return found


def status_of(key: ApiKey, *, now: datetime) -> str:
    """Say in a word what a key is worth: good, suspended, expired or revoked."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    return "suspended" if key.suspended_at is not None else "good"


def rights_of_role(role: str) -> frozenset[str]:
    """Give the permissions of a group, as `app.codename`; none if there is no such group."""
    found = Permission.objects.filter(group__name=role).values_list("content_type__app_label", "codename")
    return frozenset(f"{app}.{codename}" for app, codename in found)


def rights_of(key: ApiKey) -> frozenset[str]:
    """Give the permissions that an operator's key confers: its person's or role's, within its scopes."""
    rights = frozenset(key.user.get_all_permissions()) if key.user else rights_of_role(key.role)
    return frozenset(right for right in rights if scope_of_permission(right) in key.scopes)


def beyond(maker: Any, key: ApiKey) -> list[str]:
    """Give the rights that a key would confer and its maker has not: nobody may make a key that can more than he can."""
    return sorted(right for right in rights_of(key) if not maker.has_perm(right)) if not key.nova_id else []


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
