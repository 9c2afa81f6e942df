"""How people come in: by password and second factor, or by the organisation's provider (OIDC). Built of django-allauth.

Nobody signs up: an admin makes users, or the provider vouches for them; then its claims decide the role at every login. What
Django's signals tell of logins, safety.access_journal writes down.
"""

from typing import Any

from allauth.account import views as account
from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.http import HttpRequest
from django.shortcuts import render
from django.urls import include, path

from safety import audit, encryption
from workflow.roles import ROLES

_ENCRYPTED = "fernet:"

urlpatterns: list[Any] = [
    path("login/", account.login, name="account_login"),
    path("logout/", account.logout, name="account_logout"),
    path("inactive/", account.account_inactive, name="account_inactive"),
    path("reauthenticate/", account.reauthenticate, name="account_reauthenticate"),
    path("password/change/", account.password_change, name="account_change_password"),
    path("2fa/", include("allauth.mfa.urls")),
    path("3rdparty/", include("allauth.socialaccount.urls")),
    path("", include("allauth.socialaccount.providers.openid_connect.urls")),
]


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Accounts are made by admins only."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False


class SecondFactorAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """Keeps the secrets of second factors encrypted, where a key for that is configured."""

    def encrypt(self, text: str) -> str:
        return _ENCRYPTED + encryption.encrypt(text) if settings.SECRETS_KEY else text

    def decrypt(self, encrypted_text: str) -> str:
        kept = encrypted_text.removeprefix(_ENCRYPTED)
        return encryption.decrypt(kept) if kept != encrypted_text else encrypted_text


class OidcAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """Lets in whom the provider vouches for, with the role that its claims give."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        return bool(settings.OIDC_SERVER)

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        """Give somebody who comes again the role that the claims have now.

        :raises ImmediateHttpResponse: the claims give none.
        """
        role = role_of(_claims(sociallogin))
        if not role:
            raise ImmediateHttpResponse(render(request, "socialaccount/no_role.html", status=403))
        if sociallogin.is_existing:
            give_role(sociallogin.user, role)

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        """Make the user of somebody who comes for the first time."""
        with transaction.atomic(), audit.acting("oidc"):
            user: User = super().save_user(request, sociallogin, form)
            give_role(user, role_of(_claims(sociallogin)))
        return user


def role_of(claims: dict[str, Any]) -> str:
    """Give the strongest role that the claims name, else the default; empty: none."""
    said = claims.get(settings.OIDC_ROLE_CLAIM, [])
    values = {said} if isinstance(said, str) else {str(value) for value in said} if isinstance(said, list) else set()
    fitting = [role for role, names in settings.OIDC_ROLES.items() if values & set(names)]
    return fitting[-1] if fitting else str(settings.OIDC_DEFAULT_ROLE)


def give_role(user: User, role: str) -> None:
    """Make this the only one of our roles that a user has; whoever does more than look may open the admin."""
    group, staff = Group.objects.get(name=role), role != "viewer"
    with transaction.atomic(), audit.acting("oidc"):
        mine = set(user.groups.filter(name__in=ROLES))
        if mine != {group}:
            user.groups.remove(*(mine - {group}))
            user.groups.add(group)
        if user.is_staff != staff:
            user.is_staff = staff
            user.save(update_fields=["is_staff"])


def _claims(sociallogin: Any) -> dict[str, Any]:
    data = sociallogin.account.extra_data
    return {**(data.get("id_token") or {}), **(data.get("userinfo") or {}), **data}
