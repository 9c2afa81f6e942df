"""Who is at the API's door: an operator with the operator key, a Nova's agent with its key, or a person with a session.

Wrong keys are refused in constant time. What a caller may do is told by Django's permissions; the operator key may do
everything, a Nova's key only what that Nova may do for itself: a door that wants it asks for ACT_AS_NOVA.
"""

from typing import TYPE_CHECKING, Any, Literal

from django.conf import settings
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from safety.api_keys import SCHEME, KeyRefused, find_key

if TYPE_CHECKING:  # rest_framework.views imports this module, by the settings
    from rest_framework.views import APIView

OPERATOR = "operator"
ACT_AS_NOVA = "workflow.act_as_nova"


class Operator:
    """The bearer of the operator key: no row in the database, every permission."""

    pk = None
    is_authenticated = is_active = is_staff = True
    is_anonymous = False

    def has_perm(self, permission: str, obj: Any = None) -> Literal[True]:
        return True

    def __str__(self) -> str:
        return OPERATOR


class OperatorKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer <operator key>`."""

    def authenticate(self, request: Request) -> tuple[Operator, str] | None:
        """Give the operator; None where the request carries no bearer key, so that a session may speak.

        :raises AuthenticationFailed: the key is not ours.
        """
        scheme, _, key = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        if not settings.OPERATOR_KEY or not constant_time_compare(key.strip(), settings.OPERATOR_KEY):
            raise AuthenticationFailed("This key is not known here. Check the operator key.", code="invalid_key")
        return Operator(), OPERATOR

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="novawf"'


class NovaAgent:
    """The bearer of a Nova's key: the agent that is this Nova. It has no row, and no permission but to act for itself."""

    pk = None
    is_authenticated = is_active = True
    is_staff = is_anonymous = is_superuser = False

    def __init__(self, nova_id: str, key_id: int = 0) -> None:
        self.nova_id = nova_id
        self.key_id = key_id

    def has_perm(self, permission: str, obj: Any = None) -> bool:
        return permission == ACT_AS_NOVA

    def __str__(self) -> str:
        return f"nova:{self.nova_id}"


class NovaKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer nova_...`. Stands before the operator key's, which refuses every bearer key it doesn't know."""

    def authenticate(self, request: Request) -> tuple[NovaAgent, str] | None:
        """Give the agent; None where the request carries no key of a Nova.

        :raises AuthenticationFailed: the key is unknown, suspended, expired or revoked.
        """
        scheme, _, given = get_authorization_header(request).partition(b" ")
        key = given.strip().decode("latin-1")
        if scheme.lower() != b"bearer" or not key.startswith(SCHEME):
            return None
        try:
            found = find_key(key, now=timezone.now())  # noqa: TID251 - a door
        except KeyRefused as refusal:
            raise AuthenticationFailed(str(refusal), code=f"key_{refusal.reason}") from None
        return NovaAgent(found.nova_id, found.pk), "nova_key"

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="novawf"'


class MayUseView(BasePermission):
    """The caller holds the permission that the view names for the method, or is an agent and the view says `agents_too`.

    Such a view itself sees to it that a key opens its own Nova's things only.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        user = request.user
        if not user or not user.is_authenticated:
            return False
        if isinstance(user, NovaAgent) and request.method in getattr(view, "agents_too", ()):
            return True
        needed = getattr(view, "permissions_needed", {}).get(request.method)
        return needed is None or user.has_perm(needed)


def actor_name(user: Any) -> str:
    """Name a caller as the journal does."""
    if isinstance(user, Operator | NovaAgent):
        return str(user)
    return f"user:{user.get_username()}"[:128]
