"""Who is at the API's door: an operator with the operator key, or a person with a session.

Wrong keys are refused in constant time. What a caller may do is told by Django's permissions; the key may do everything.
"""

from typing import TYPE_CHECKING, Any, Literal

from django.conf import settings
from django.utils.crypto import constant_time_compare
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

if TYPE_CHECKING:  # rest_framework.views imports this module, by the settings
    from rest_framework.views import APIView

OPERATOR = "operator"


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


class MayUseView(BasePermission):
    """The caller holds the permission that the view names for the method."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        user = request.user
        if not user or not user.is_authenticated:
            return False
        needed = getattr(view, "permissions_needed", {}).get(request.method)
        return needed is None or user.has_perm(needed)


def actor_name(user: Any) -> str:
    """Name a caller as the journal does."""
    if isinstance(user, Operator):
        return OPERATOR
    return f"user:{user.get_username()}"[:128]
