"""Who is at the API's door: an operator, a person or program with a key, a Nova's agent with its key, a person with a session.

Keys are compared in constant time, and wrong ones are counted by the client's address. What a caller may do is told by Django's
permissions; the operator key may do everything, another key what its person or role may do within its scopes, a Nova's key only
what that Nova may do for itself: a door that wants it asks for ACT_AS_NOVA.
"""

from collections.abc import Collection
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from django.conf import settings
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import APIException, AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from safety.api_keys import OPERATOR_SCHEME, SCHEME, KeyRefused, Refusal, find_key, rights_of
from safety.core.scopes import NOVA_SCOPES
from safety.models import ApiKey
from safety.request_limits import Standing, Window, counters, owner_of_address

if TYPE_CHECKING:  # rest_framework.views imports this module, by the settings
    from rest_framework.views import APIView

OPERATOR = "operator"
ACT_AS_NOVA = "workflow.act_as_nova"
_REALM = 'Bearer realm="novawf"'
_BEYOND_GUESSING = 32  # characters of an operator key that nobody finds by trying


class TooManyRequests(APIException):
    """A window is used up; `wait` says for how many seconds."""

    status_code = 429
    default_code = "too_many_requests"

    def __init__(self, detail: str, standing: Standing) -> None:
        super().__init__(detail)
        self.wait = standing.resets_in


class Operator:
    """The bearer of the operator key: no row in the database, every permission."""

    pk = None
    is_authenticated = is_active = is_staff = True
    is_anonymous = False

    def has_perm(self, permission: str, obj: Any = None) -> Literal[True]:
        return True

    def has_perms(self, permissions: Collection[str], obj: Any = None) -> Literal[True]:
        return True

    def __str__(self) -> str:
        return OPERATOR


class KeyOperator:
    """The bearer of a person's or a program's key: the rights of that person or role, within the key's scopes."""

    pk = None
    is_authenticated = is_active = True
    is_staff = is_anonymous = is_superuser = False

    def __init__(self, key: ApiKey) -> None:
        self.key_id = key.pk
        self._key = key

    @cached_property
    def _rights(self) -> frozenset[str]:
        return rights_of(self._key)

    def has_perm(self, permission: str, obj: Any = None) -> bool:
        return permission in self._rights

    def has_perms(self, permissions: Collection[str], obj: Any = None) -> bool:
        return self._rights.issuperset(permissions)

    def __str__(self) -> str:
        return self._key.holder


class NovaAgent:
    """The bearer of a Nova's key: the agent that is this Nova. It has no row, and no permission but to act for itself."""

    pk = None
    is_authenticated = is_active = True
    is_staff = is_anonymous = is_superuser = False

    def __init__(self, nova_id: str, key_id: int = 0, scopes: Collection[str] = NOVA_SCOPES) -> None:
        self.nova_id = nova_id
        self.key_id = key_id
        self.scopes = frozenset(scopes)

    def has_perm(self, permission: str, obj: Any = None) -> bool:
        return permission == ACT_AS_NOVA

    def has_perms(self, permissions: Collection[str], obj: Any = None) -> bool:
        return all(map(self.has_perm, permissions))

    def __str__(self) -> str:
        return f"nova:{self.nova_id}"


class OperatorKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer <operator key>`, or `Bearer novaop_...`: the key of a person or a program."""

    def authenticate(self, request: Request) -> tuple[Operator | KeyOperator, str] | None:
        """Give the operator; None where the request carries no bearer key, so that a session may speak.

        :raises AuthenticationFailed: the key is not ours. :raises TooManyRequests: too many were not, from this address.
        """
        scheme, _, given = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        now = timezone.now()  # noqa: TID251 - a door
        key = given.strip()
        if key.startswith(OPERATOR_SCHEME.encode()):
            return KeyOperator(known_key(key.decode("latin-1"), address_of(request), now)), "key"
        ours = settings.OPERATOR_KEY
        if len(ours) < _BEYOND_GUESSING:  # somebody chose it: it might be found by trying on and on
            _demand_patience(address_of(request), now)
        if not ours or not constant_time_compare(key, ours):
            refuse_wrong_key(address_of(request), "This key is not known here. Check the operator key.", "invalid_key", now)
        return Operator(), OPERATOR

    def authenticate_header(self, request: Request) -> str:
        return _REALM


class NovaKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer nova_...`. Stands before the operator key's, which refuses every bearer key it doesn't know."""

    def authenticate(self, request: Request) -> tuple[NovaAgent, str] | None:
        """Give the agent; None where the request carries no key of a Nova.

        :raises AuthenticationFailed: the key is unknown, suspended, expired or revoked. :raises TooManyRequests: too many
            unknown ones came from this address.
        """
        scheme, _, given = get_authorization_header(request).partition(b" ")
        key = given.strip().decode("latin-1")
        if scheme.lower() != b"bearer" or not key.startswith(SCHEME):
            return None
        found = known_key(key, address_of(request), timezone.now())  # noqa: TID251 - a door
        return NovaAgent(found.nova_id, found.pk, found.scopes), "nova_key"

    def authenticate_header(self, request: Request) -> str:
        return _REALM


def address_of(request: Request) -> str:
    """Give the client's address."""
    return request.META.get("REMOTE_ADDR") or ""


def known_key(key: str, address: str, now: datetime) -> ApiKey:
    """Give the row of a good key. It is looked up whatever else came from this address: its 256 random bits can't be guessed.

    :raises AuthenticationFailed: it is not good. :raises TooManyRequests: too many unknown ones came from this address.
    """
    try:
        return find_key(key, now=now)
    except KeyRefused as refusal:
        if refusal.reason is Refusal.UNKNOWN:
            refuse_wrong_key(address, str(refusal), "key_unknown", now)
        raise AuthenticationFailed(str(refusal), code=f"key_{refusal.reason}") from None


def refuse_wrong_key(address: str, detail: str, code: str, now: datetime) -> NoReturn:
    """Count a wrong key against the client's address, and refuse it.

    :raises AuthenticationFailed: as long as there were few. :raises TooManyRequests: then.
    """
    _refuse_impatience(_wrong_keys(address, now, by=1))
    raise AuthenticationFailed(detail, code=code)


def _demand_patience(address: str, now: datetime) -> None:
    _refuse_impatience(_wrong_keys(address, now, by=0))


def _refuse_impatience(standing: Standing) -> None:
    if standing.exceeded:
        detail = f"Too many wrong keys came from this address; none is looked at for {standing.resets_in} s."
        raise TooManyRequests(detail, standing)


def _wrong_keys(address: str, now: datetime, *, by: int) -> Standing:
    window = Window("wrong-keys", settings.WRONG_KEYS_PER_MINUTE)
    return counters.count(window, owner_of_address(address), now=now, by=by)


class MayUseView(BasePermission):
    """The caller holds the permission that the view names for the method, or is an agent and the view says `agents_too`.

    Such a view itself sees to it that a key opens its own Nova's things only.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        user = request.user
        if not user or not user.is_authenticated:
            return False
        method = "GET" if request.method == "HEAD" else request.method
        if isinstance(user, NovaAgent) and method in getattr(view, "agents_too", ()):
            return True
        needed = getattr(view, "permissions_needed", {}).get(method)
        return needed is None or user.has_perm(needed)


def caller_of(user: Any) -> str:
    """Name whose requests are counted together: one key, or one person."""
    key_id = getattr(user, "key_id", 0)
    return f"key-{key_id}" if key_id else f"user-{user.pk}" if user.pk else str(user)


def actor_name(user: Any) -> str:
    """Name a caller as the journal does."""
    if isinstance(user, Operator | KeyOperator | NovaAgent):
        return str(user)
    return f"user:{user.get_username()}"[:128]
