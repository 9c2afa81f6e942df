"""The OpenAPI document, made from the addresses themselves, and the page that shows it. Nothing else reads what stands here."""

import inspect
import re
from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse

from workflow.api.authentication import ACT_AS_NOVA
from workflow.api.described import described
from workflow.api.pages import LIMIT_MOST
from workflow.api.problem import CONTENT_TYPE

_ROOT = "/api/v1/"
_VERBS = re.compile(r"\(\?P<verb>([a-z|-]+)\)")
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = ("400", "401", "403", "404", "406", "429", "503")
_ON_WRITE = ("409", "411", "412", "413", "415", "422", "423")
_COLUMN_BOUNDS = {"maximum": (2**63 - 1, 2**31 - 1, 2**15 - 1), "minimum": (-(2**63), -(2**31)), "format": ("int64",)}
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457. `code` is for programs, `detail` for people; `pointer` leads to the field.",
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {name: {"type": "string"} for name in ("pointer", "code", "detail")},
            },
        },
    },
}
_PROBLEM_EXAMPLE = {
    "type": "urn:novawf:problem:invalid",
    "title": "Bad Request",
    "status": 400,
    "detail": "The request was refused; nothing was changed. See errors.",
    "instance": "/api/v1/tasks",
    "code": "invalid",
    "request_id": "6d0f",
    "errors": [{"pointer": "/priority", "code": "invalid_choice", "detail": '"urgent" is not a valid choice.'}],
}
_EVENTS = 'retry: 3000\n\nid: 4711\ndata: {"id": 4711, "action": "workflow.task.completed", "nova_id": "torch"}\n\n'


def spell_out_verbs(endpoints: Iterable[tuple[str, str, str, Any]]) -> list[tuple[str, str, str, Any]]:
    """Give each verb of an address its own path, and every path without the slash that it may end in."""
    found = []
    for path, regex, method, callback in endpoints:
        short = path if path == _ROOT else path.rstrip("/")
        verbs = _VERBS.search(regex)
        for verb in verbs[1].split("|") if verbs else [""]:
            found.append((short.replace("{verb}", verb), regex.replace(verbs[0], verb) if verbs else regex, method, callback))
    return found


class DoorSchema(AutoSchema):
    """Describes one address of ours."""

    @property
    def _words(self) -> list[str]:
        return [word for word in self.path.removeprefix(_ROOT).split("/") if word]

    @property
    def _described(self) -> Any:
        return described(self.view, self.method, self._words[-1] if self._words else "")

    def get_operation_id(self) -> str:
        named = ["one" if word.startswith("{") else word.replace("-", "_") for word in self._words]
        return "_".join([self.method.lower(), *(named or ["root"])])

    def get_tags(self) -> list[str]:
        return [self._words[0] if self._words else "root"]

    def get_description(self) -> str:  # type: ignore[override]
        handler = getattr(self.view, self.method.lower(), None)
        text = getattr(handler, "__doc__", None) or inspect.getdoc(type(self.view)) or ""
        return " ".join(text.split())

    def get_auth(self) -> list[dict[str, list[str]]]:
        key: dict[str, list[str]] = {"key": []}
        door: Any = self.view
        return [key] if door.permissions_needed.get(self.method) == ACT_AS_NOVA else [key, {"session": []}]

    def get_override_parameters(self) -> list[Any]:
        door: Any = self.view
        names = sorted(door.parameters) if self.method in ("GET", "DELETE") else []
        found = [OpenApiParameter(name, str, description=_PARAMETERS.get(name, "Only those.")) for name in names]
        if self.method == "GET" and self._is_paged():
            limit = {"type": "integer", "minimum": 1, "maximum": LIMIT_MOST, "default": 50}
            found += [
                OpenApiParameter("limit", limit, description="Rows a page."),
                OpenApiParameter("cursor", str, description="From `next` or `previous` of another page."),
            ]
        if self.method == "GET" and self._words == ["events"]:
            found.append(OpenApiParameter("Last-Event-ID", str, "header", description="Like `after`; browsers send it."))
        if self.method == "POST":
            key = {"type": "string", "pattern": "^[\\x21-\\x7e]{1,128}$"}
            found.append(OpenApiParameter("Idempotency-Key", key, "header", description="Your name for this request."))
        if self.method == "PATCH" and hasattr(self.view, "kind"):
            found.append(OpenApiParameter("If-Match", str, "header", description="The ETag of what you have read."))
        return found

    def _is_paged(self) -> bool:
        return hasattr(self.view, "_pages") or (hasattr(self.view, "kind") and not self._words[-1].startswith("{"))

    def get_request_serializer(self) -> Any:
        known = self._described
        return known.takes if known else None

    def get_response_serializers(self) -> Any:
        if self._words == ["events"]:
            return {(200, "text/event-stream"): OpenApiResponse({"type": "string"}, "Events, without end.")}
        if files := getattr(self.view, "gives_files", ()):
            return {(200, kind): OpenApiResponse({"type": "string", "format": "binary"}, "A file.") for kind in files}
        known = self._described
        if known is None:
            return {200: OpenApiResponse({"type": "object"}, "See docs/api.md.")}
        words = {200: "Done.", 201: "Made.", 202: "Queued.", 204: "Nothing more to say."}
        return {status: OpenApiResponse(row, words[status]) for status, row in known.gives.items()}

    def get_examples(self) -> list[OpenApiExample]:
        known = self._described
        if self._words == ["events"]:
            return [OpenApiExample("An event", value=_EVENTS, response_only=True)]
        return [OpenApiExample("A request", value=known.example, request_only=True)] if known and known.example else []

    def get_serializer_name(self, serializer: Any, direction: Any) -> str:
        return str(super().get_serializer_name(serializer, direction)).lstrip("_")


_PARAMETERS = {
    "tier": "One tier, or several with commas between them.",
    "period": "How far back: hours or days, e.g. `24h`, `7d`.",
    "scope": "`fleet`, `team:NAME` or `nova:ID`.",
    "momentum": "`true`: also the tasks that Novas made up for themselves.",
    "search": "Words in its names and texts.",
    "open": "`true`: only what is not over.",
    "unread": "`true`: only what was not acknowledged.",
    "archived": "`true`: also what is out of use.",
    "action": "A journal action; it may end in `*`.",
    "after": "The id of the last entry that you have read.",
    "outcome": "How the call went.",
    "status": "One status, or several with commas between them.",
}


def finish(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Add what all operations share: how to come in, and what refusals look like."""
    components = result.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = _PROBLEM
    components["responses"] = {
        "Problem": {
            "description": "Why not, as a problem document.",
            "content": {
                CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": _PROBLEM_EXAMPLE},
            },
        }
    }
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A Nova's key, or an operator's."},
        "session": {"type": "apiKey", "in": "cookie", "name": "sessionid", "description": "A session of the admin."},
    }
    for schema in components["schemas"].values():
        for known in schema.get("properties", {}).values():
            if known.get("oneOf") == [{}, {"type": "null"}]:
                del known["oneOf"]  # anything, null too
            _forget_bounds(known)
    for path in result["paths"].values():
        for method, operation in path.items():
            for code in sorted({*_ALWAYS, *(_ON_WRITE if method != "get" else ())}):
                operation["responses"].setdefault(code, {"$ref": "#/components/responses/Problem"})
    return result


def _forget_bounds(known: dict[str, Any]) -> None:
    """Leave out the bounds of integer columns: each database has its own, and whole numbers have 64 bits everywhere."""
    for name, bounds in _COLUMN_BOUNDS.items():
        if known.get(name) in bounds:
            del known[name]


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """Show the document with Swagger UI; everything it loads comes from here."""
    page = render(request, "api/docs.html")
    page["Content-Security-Policy"] = _CSP
    return page
