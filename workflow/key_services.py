"""What people ask of keys at the doors: make one, rotate, suspend, reinstate, revoke. safety.api_keys does the changing.

Nobody gets a key that can more than he can himself, nor one by which he would act under another person's name. Who may ask for
keys at all is the doors' business.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import Group, User

from safety import api_keys, audit
from safety.api_keys import OVERLAP, KeyNotFound, KeyUnsound
from safety.core.scopes import Scope
from safety.models import ApiKey
from workflow.configuration import demand_reason
from workflow.errors import WorkflowError
from workflow.models import Nova


class BeyondYourRights(WorkflowError):
    """The key would confer what its maker has not."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A key that is asked for: of a Nova, a person, or a program with a name and a role. `scopes` None: all but keys."""

    nova_id: str = ""
    user: str = ""
    operator: str = ""
    role: str = ""
    name: str = ""
    scopes: Collection[str] | None = None
    expires_at: datetime | None = None


def request_key(request: KeyRequest, *, maker: Any, now: datetime, reason: str = "") -> tuple[str, ApiKey]:
    """Make a key; give its text, which can't be had again, and its row. `maker` None: the command line, which may do all.

    :raises KeyUnsound: holder, scopes or end make no sense. :raises BeyondYourRights: it would confer what the maker lacks.
    """
    holders = [name for name in ("nova_id", "user", "operator") if getattr(request, name)]
    if len(holders) != 1:
        raise KeyUnsound(holders[1] if holders else "nova_id", "Name one holder: a Nova, a user, or an operator with a role.")
    if request.nova_id and not Nova.objects.filter(pk=request.nova_id, archived_at=None).exists():
        raise KeyUnsound("nova_id", f"There is no Nova {request.nova_id} in service; no key was made.")
    user = User.objects.filter(username=request.user, is_active=True).first() if request.user else None
    if request.user and user is None:
        raise KeyUnsound("user", f"There is no active user {request.user}; no key was made.")
    if request.operator and not Group.objects.filter(name=request.role).exists():
        known = ", ".join(Group.objects.order_by("name").values_list("name", flat=True))
        raise KeyUnsound("role", f"Give the operator one of the roles: {known}. No key was made.")
    if request.role and not request.operator:
        raise KeyUnsound("role", "Only a named operator gets a role; a Nova and a person have their own rights.")
    draft = ApiKey(nova_id=request.nova_id, user=user, operator=request.operator, role=request.role)
    draft.scopes = [scope.value for scope in Scope] if request.scopes is None else list(request.scopes)
    if request.scopes is None:
        draft.scopes.remove(Scope.KEYS)
    _demand_rights(draft, maker)
    return api_keys.create_key(
        request.nova_id,
        user=user,
        operator=request.operator,
        role=request.role,
        name=request.name,
        scopes=request.scopes,
        now=now,
        expires_at=request.expires_at,
        reason=reason,
    )


def rotate_key(key_id: int, *, maker: Any, reason: str, now: datetime, overlap: timedelta = OVERLAP) -> tuple[str, ApiKey]:
    """Make a key that takes another's place, which goes on for `overlap`; give its text and its row.

    :raises KeyNotFound: there is none of that id. :raises KeyNotGood: it is of no use, or was rotated before.
    :raises BeyondYourRights: the maker lacks what the key confers.
    """
    reason = demand_reason(reason)
    _demand_rights(get_key(key_id), maker)
    return api_keys.rotate_key(key_id, reason=reason, now=now, overlap=overlap)


def reinstate_key(key_id: int, *, maker: Any, reason: str, now: datetime) -> bool:
    """Let a suspended key be used again; False if it needed no change.

    :raises KeyNotFound: there is none of that id. :raises BeyondYourRights: the maker lacks what the key confers.
    """
    reason = demand_reason(reason)
    if maker is not None and (missing := api_keys.beyond(maker, get_key(key_id))):
        raise _beyond(missing)
    return api_keys.reinstate_key(key_id, reason=reason, now=now)


def suspend_key(key_id: int, *, reason: str, now: datetime) -> bool:
    """Suspend a key until somebody reinstates it; False if it needed no change."""
    return api_keys.suspend_key(key_id, reason=demand_reason(reason), now=now)


def revoke_key(key_id: int, *, reason: str, now: datetime) -> bool:
    """Make a key useless for good; False if it is so already."""
    return api_keys.revoke_key(key_id, reason=demand_reason(reason), now=now)


# What takes a key out of use: anybody who may change keys may do it with any of them.
ENDINGS: Mapping[str, Callable[..., bool]] = {"suspend": suspend_key, "revoke": revoke_key}


def get_key(key_id: int) -> ApiKey:
    """Give a key's row.

    :raises KeyNotFound: there is none of that id.
    """
    key = ApiKey.objects.select_related("user").filter(pk=key_id).first()
    if key is None:
        raise KeyNotFound(f"There is no key {key_id}; nothing was changed.")
    return key


def _demand_rights(key: ApiKey, maker: Any) -> None:
    if maker is None:
        return
    if key.user is not None and key.holder != audit.current_actor() and not maker.has_perm("auth.change_user"):
        raise BeyondYourRights("Only an admin makes keys for another person. Nothing was changed.")
    if missing := api_keys.beyond(maker, key):
        raise _beyond(missing)


def _beyond(missing: list[str]) -> BeyondYourRights:
    some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return BeyondYourRights(f"This key can what you can't: {some}. Nothing was changed; leave scopes out, or ask an admin.")
