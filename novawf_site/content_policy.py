"""Sends the Content-Security-Policy: strict everywhere, with the admin theme's two relaxations under /admin/ alone.

django-csp writes the header; this room only says which answers get the relaxed one.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from csp.middleware import CSPMiddleware
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

_RELAXED = "/admin/"


@sync_and_async_middleware
def content_policy(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Set the policy that fits the address."""
    writer = CSPMiddleware(lambda request: HttpResponse())  # only its writing of the header is used

    def write(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if request.path_info.startswith(_RELAXED):
            response._csp_replace = settings.ADMIN_POLICY  # type: ignore[attr-defined]
        return writer.process_response(request, response)

    if iscoroutinefunction(get_response):
        answer_later: Callable[[HttpRequest], Awaitable[HttpResponseBase]] = get_response

        async def later(request: HttpRequest) -> HttpResponseBase:
            return write(request, await answer_later(request))

        return later

    def at_once(request: HttpRequest) -> HttpResponseBase:
        return write(request, get_response(request))

    return at_once
