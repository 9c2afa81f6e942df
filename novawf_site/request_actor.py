"""Names each request and who makes it, for the journal and the logs.

Stands after authentication and before django-structlog, which binds the same request id to every log line. The API names its
callers itself, since it also knows keys.
"""

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from safety import audit

HEADER = "X-Request-ID"
_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@sync_and_async_middleware
def request_actor(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Set `request.request_id`, answer with it, and let journal entries carry it with the user's name."""
    if iscoroutinefunction(get_response):
        answer_later: Callable[[HttpRequest], Awaitable[HttpResponseBase]] = get_response

        async def name_later(request: HttpRequest) -> HttpResponseBase:
            request_id = _take_request_id(request)
            user = await request.auser() if settings.SESSION_COOKIE_NAME in request.COOKIES else None
            with audit.acting(_actor(user), request_id):
                response = await answer_later(request)
            response[HEADER] = request_id
            return response

        return name_later

    def name(request: HttpRequest) -> HttpResponseBase:
        request_id = _take_request_id(request)
        user = request.user if settings.SESSION_COOKIE_NAME in request.COOKIES else None
        with audit.acting(_actor(user), request_id):
            response: HttpResponseBase = get_response(request)
        response[HEADER] = request_id
        return response

    return name


def _take_request_id(request: HttpRequest) -> str:
    """Keep the caller's id if it is harmless, else make one; either way everybody after us reads the same."""
    given = request.META.get("HTTP_X_REQUEST_ID", "")
    request_id = given if _ACCEPTED.fullmatch(given) else str(uuid.uuid4())
    request.META["HTTP_X_REQUEST_ID"] = request_id
    request.__dict__.pop("headers", None)  # Django keeps the headers it has once read
    request.request_id = request_id  # type: ignore[attr-defined]
    return request_id


def _actor(user: Any) -> str:
    return f"user:{user.get_username()}"[:128] if user is not None and user.is_authenticated else "anonymous"
