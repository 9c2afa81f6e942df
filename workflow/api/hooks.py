"""The door for the hooks of Claude Code: any POST is answered 200 with JSON, since every other status lets a call pass."""

from typing import Any

import orjson
import structlog
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from workflow import hooks
from workflow.api.problem import method_not_allowed

_log = structlog.get_logger(__name__)


@csrf_exempt
def claude_code(request: HttpRequest) -> HttpResponse:
    """Answer one hook call."""
    if request.method != "POST":
        return method_not_allowed(request, "POST")
    now = timezone.now()  # noqa: TID251 - a door
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    key = key.strip() if scheme.lower() == "bearer" else ""
    body = b""
    reply: dict[str, Any]
    try:
        body = request.read(hooks.BODY_LIMIT + 1)
        reply = hooks.answer(key, body, origin=request.META.get("REMOTE_ADDR") or "", now=now)
    except Exception:  # the wall of the hook door: whatever fails, an agent must not go on unguarded because of it
        _log.exception("hook call failed")
        reply = hooks.answer_failure(key, body, now=now)
    return HttpResponse(orjson.dumps(reply), content_type="application/json")
