"""Leads staff who have no second factor to where they set one up, before anything else (NOVAWF_REQUIRE_MFA).

Programs with keys are no staff, and whoever came by the organisation's provider has shown theirs there.
"""

from collections.abc import Callable
from typing import Any

from allauth.mfa.utils import is_mfa_enabled
from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.decorators import sync_and_async_middleware

from workflow.api.problem import second_factor_missing

_OPEN = ("/accounts/", "/static/", "/healthz", "/readyz")
_SETUP = "mfa_activate_totp"


@sync_and_async_middleware
def second_factor(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Answer staff without a second factor with the way to it; everybody else goes on."""
    if iscoroutinefunction(get_response):

        async def later(request: HttpRequest) -> HttpResponseBase:
            found = await sync_to_async(_missing)(request) if settings.REQUIRE_MFA else None
            return found or await get_response(request)

        return later

    def at_once(request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = (_missing(request) if settings.REQUIRE_MFA else None) or get_response(request)
        return response

    return at_once


def _missing(request: HttpRequest) -> HttpResponse | None:
    if request.path_info.startswith(_OPEN) or settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return None
    user = request.user
    if not user.is_authenticated or not user.is_staff:
        return None
    came_by = request.session.get("account_authentication_methods", [])
    if is_mfa_enabled(user) or any(one.get("method") == "socialaccount" for one in came_by):
        return None
    if request.path_info.startswith("/api/"):
        return second_factor_missing(request, reverse(_SETUP))
    messages.warning(request, "Staff need a second factor here. Set one up to go on.")
    return redirect(_SETUP)
