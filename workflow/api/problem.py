"""Every error of the API as RFC 9457 problem details, with its status from one table.

The views raise what the services raise; this room alone knows which HTTP status an anticipated failure has. Failures nobody
anticipated are not caught here: Django logs them, and `server_error` answers.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

import orjson
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.views import defaults
from rest_framework import exceptions, status
from rest_framework.response import Response

from safety.answers import KeyReused, StillInFlight
from safety.api_guardian import ApiLimitExceeded
from safety.api_keys import CredentialError, KeyNotFound, KeyNotGood, KeyUnsound
from safety.incident_services import IllegalIncidentMove, IncidentError, IncidentNotFound, WordsMissing
from workflow.agent_work import ClaimRefused, TaskLeaseLost
from workflow.approvals import ApprovalNotFound, ApprovalRequired, ArgumentsMismatch, IllegalApprovalMove
from workflow.breakers import AccountNotFound, CountersAway
from workflow.configuration import ReasonMissing, StillInUse
from workflow.core.protocol import ProtocolViolation
from workflow.errors import WorkflowError
from workflow.halts import HaltNotFound, NovaStopped
from workflow.key_services import BeyondYourRights
from workflow.messages import MessageRefused, RecipientNotFound
from workflow.models import Nova, Task
from workflow.services import IllegalModeChange, NovaNotFound
from workflow.task_services import IdempotencyKeyReused, RequestRefused
from workflow.task_tracker import IllegalTaskMove, TaskError, TaskNotFound

CONTENT_TYPE = "application/problem+json"

# The first class that fits decides: status and code.
STATUSES: Mapping[type[Exception], tuple[int, str]] = {
    NovaNotFound: (404, "nova_not_found"),
    HaltNotFound: (404, "halt_not_found"),
    IncidentNotFound: (404, "incident_not_found"),
    AccountNotFound: (404, "provider_account_not_found"),
    TaskNotFound: (404, "task_not_found"),
    KeyNotFound: (404, "key_not_found"),
    RecipientNotFound: (404, "nova_not_found"),
    ApprovalNotFound: (404, "approval_not_found"),
    Nova.DoesNotExist: (404, "nova_not_found"),
    Task.DoesNotExist: (404, "task_not_found"),
    ReasonMissing: (400, "reason_missing"),
    WordsMissing: (400, "reason_missing"),
    IllegalModeChange: (409, "illegal_mode_change"),
    IllegalTaskMove: (409, "illegal_task_move"),
    TaskLeaseLost: (409, "lease_lost"),
    ClaimRefused: (409, "executor_not_allowed"),
    ApprovalRequired: (409, "approval_required"),
    ArgumentsMismatch: (409, "arguments_mismatch"),
    IllegalApprovalMove: (409, "illegal_approval_move"),
    MessageRefused: (400, "message_refused"),
    IllegalIncidentMove: (409, "illegal_incident_move"),
    StillInUse: (409, "still_in_use"),
    BeyondYourRights: (403, "beyond_your_rights"),
    KeyNotGood: (409, "key_not_good"),
    StillInFlight: (409, "idempotency_key_in_flight"),
    IdempotencyKeyReused: (422, "idempotency_key_reused"),
    KeyReused: (422, "idempotency_key_reused"),
    ProtocolViolation: (400, "protocol_violation"),
    CountersAway: (503, "stream_server_away"),
    WorkflowError: (409, "refused"),
    TaskError: (409, "refused"),
    IncidentError: (409, "refused"),
    CredentialError: (409, "refused"),
}
# Failures that somebody foresaw: they have an answer here. All others are 500.
ANTICIPATED: tuple[type[Exception], ...] = (
    Http404,
    PermissionDenied,
    ValidationError,
    exceptions.APIException,
    ApiLimitExceeded,
    NovaStopped,
    *STATUSES,
)
_WAITS = {StillInFlight: "1", CountersAway: "5"}  # seconds until it is worth asking again


def problem_response(exc: Exception, context: Mapping[str, Any]) -> Response | None:
    """Answer an exception raised in an API view; None for what nobody anticipated (Django's 500 takes over)."""
    request = context["request"]
    headers: dict[str, str] = {}
    errors: list[dict[str, str]] = []
    more: dict[str, Any] = {}
    if isinstance(exc, Http404):
        exc = exceptions.NotFound()
    elif isinstance(exc, PermissionDenied):
        exc = exceptions.PermissionDenied()
    if isinstance(exc, exceptions.APIException):
        code, detail = _code(exc), _summary(exc)
        answer = exc.status_code
        if isinstance(exc, exceptions.ValidationError):
            errors = list(field_errors(exc.detail))
        if authenticate := getattr(exc, "auth_header", None):
            headers["WWW-Authenticate"] = authenticate
        if wait := getattr(exc, "wait", None):
            headers["Retry-After"] = str(max(1, ceil(wait)))
    elif isinstance(exc, ApiLimitExceeded):
        answer, code, detail = 429, "api_limit_exceeded", exc.reason
        headers["Retry-After"] = str(max(1, ceil(exc.retry_after)))
        more = {"mechanism": exc.mechanism, "limit": exc.limit, "retry_after": exc.retry_after}
    elif isinstance(exc, NovaStopped):
        answer, code, detail = 423, "nova_stopped", str(exc)
        more = {"mechanism": exc.mechanism, "until": exc.until}
    elif isinstance(exc, RequestRefused):
        answer, code, detail = 400, "invalid", "The request was refused; nothing was changed. See errors."
        errors = [{"pointer": f"/{exc.field}", "code": exc.code, "detail": str(exc)}]
    elif isinstance(exc, KeyUnsound):
        answer, code, detail = 400, "invalid", "The request was refused; nothing was changed. See errors."
        errors = [{"pointer": f"/{exc.field}", "code": "invalid", "detail": str(exc)}]
    elif isinstance(exc, ValidationError):
        answer, code, detail = 400, "invalid", "The request was refused; nothing was changed. See errors."
        errors = list(field_errors(exceptions.ValidationError(_django_detail(exc)).detail))
    else:
        known_to_itself = getattr(exc, "answer", None)  # a failure of an upper floor: its status and code
        found = known_to_itself or next((known for kind, known in STATUSES.items() if isinstance(exc, kind)), None)
        if found is None:
            return None
        (answer, code), detail = found, str(exc)
        if seconds := _WAITS.get(type(exc)):
            headers["Retry-After"] = seconds
        if isinstance(exc, ApprovalRequired | ArgumentsMismatch):
            more = {"approval_id": exc.approval_id}
    body = _problem(request, answer, code, detail, errors) | more
    return Response(body, status=answer, headers=headers, content_type=CONTENT_TYPE)


def code_of(failure: WorkflowError) -> str:
    """Name an anticipated failure in one word, as the answer to one of many in a batch has it."""
    return next(code for kind, (_, code) in STATUSES.items() if isinstance(failure, kind))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 404 for an address that leads nowhere."""
    return _outside_views(request, 404, "not_found", "There is nothing at this address.") or defaults.page_not_found(
        request, exception
    )


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _outside_views(request, 403, "permission_denied", "That is not allowed.") or defaults.permission_denied(
        request, exception
    )


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer 400 for a request that Django itself refused (a wrong host, a malformed header)."""
    detail = "The request is malformed or names a host that is not served here."
    return _outside_views(request, 400, "bad_request", detail) or defaults.bad_request(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer 500 without telling internals; the log has them under the same request id."""
    detail = "Something went wrong here. It was logged under the request_id; nothing more was done."
    return _outside_views(request, 500, "server_error", detail) or defaults.server_error(request)


def unknown_address(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
    """Stand behind every other address of the API, so that debug pages don't answer for it."""
    return not_found(request, Http404())


def method_not_allowed(request: HttpRequest, *allowed: str) -> HttpResponse:
    """Answer 405 for a door that is no API view."""
    detail = f"Method {request.method} is not offered here."
    body = orjson.dumps(_problem(request, 405, "method_not_allowed", detail, []))
    return HttpResponse(body, status=405, headers={"Allow": ", ".join(allowed)}, content_type=CONTENT_TYPE)


def second_factor_missing(request: HttpRequest, setup: str) -> HttpResponse | None:
    """Answer 403 to staff whose session has no second factor where one is demanded."""
    detail = f"Staff need a second factor here. Set one up at {setup}. Nothing was done."
    return _outside_views(request, 403, "second_factor_missing", detail)


def _outside_views(request: HttpRequest, answer: int, code: str, detail: str) -> HttpResponse | None:
    if not request.path.startswith("/api/"):
        return None
    found = _problem(request, answer, code, detail, [])
    # where a middleware failed, the one that names requests may not come to write its header
    headers = {"X-Request-ID": found["request_id"]} if found["request_id"] else {}
    return HttpResponse(orjson.dumps(found), status=answer, headers=headers, content_type=CONTENT_TYPE)


def _problem(request: Any, answer: int, code: str, detail: str, errors: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "type": f"urn:novawf:problem:{code}",
        "title": HTTPStatus(answer).phrase,
        "status": answer,
        "detail": detail,
        "instance": request.path,
        "code": code,
        "request_id": getattr(request, "request_id", ""),
        "errors": errors,
    }


def _code(exc: exceptions.APIException) -> str:
    if isinstance(exc, exceptions.ValidationError):
        return "invalid"
    codes = exc.get_codes()
    return codes if isinstance(codes, str) else str(exc.default_code)


def _summary(exc: exceptions.APIException) -> str:
    if isinstance(exc, exceptions.ValidationError):
        return "The request was refused; nothing was changed. See errors."
    if exc.status_code == status.HTTP_404_NOT_FOUND:
        return "There is nothing at this address."
    return str(exc.detail)


def field_errors(detail: Any, pointer: str = "") -> Iterator[dict[str, str]]:
    """Flatten DRF's nested errors into a list, each with a JSON pointer into the request's body."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            at_root = name in ("nonfield_errors", "__all__")
            yield from field_errors(inner, pointer if at_root else f"{pointer}/{escape_pointer(str(name))}")
    elif isinstance(detail, list):
        for index, inner in enumerate(detail):
            nested = isinstance(inner, Mapping | list)
            yield from field_errors(inner, f"{pointer}/{index}" if nested else pointer)
    else:
        yield {"pointer": pointer, "code": str(getattr(detail, "code", "invalid")), "detail": str(detail)}


def escape_pointer(name: str) -> str:
    """Write a key as a token of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _django_detail(exc: ValidationError) -> Any:
    return exc.message_dict if hasattr(exc, "error_dict") else exc.messages
