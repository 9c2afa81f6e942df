"""The API's addresses: they translate between HTTP and the services, and decide nothing."""

from contextlib import ExitStack
from typing import Any, ClassVar

from django.db.models import Prefetch, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from rest_framework.exceptions import NotFound, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from safety import audit
from safety.observe import observation_of
from safety.request_limits import Standing, counters
from workflow import halts, services, task_services
from workflow.api import addresses, idempotency
from workflow.api.authentication import MayUseView, NovaAgent, TooManyRequests, actor_name, caller_of
from workflow.api.pages import Pages, refuse_unknown_parameters
from workflow.api.serializers import (
    Accepted,
    EditAccepted,
    PriorityAccepted,
    ReasonAccepted,
    TaskAccepted,
    TaskDetailShown,
    TaskShown,
    show_candidate,
    show_nova,
)
from workflow.api.strict_json import BODY_LIMIT, StrictJSONParser, demand_length, unstorable_text
from workflow.core.work import Priority, TaskStatus
from workflow.derived_status import load_fleet, load_verdicts
from workflow.models import Execution, Nova, NovaState, Task
from workflow.task_tracker import TaskNotFound

_LISTS = (
    "novas", "personalities", "policies", "objectives", "provider-accounts", "tasks", "halts", "incidents", "executions",
    "journal", "journal-seals", "journal-verifications", "insights", "celebrations", "approvals", "keys",
)  # fmt: skip


AGAIN = "novawf.again"  # in the scope of a request that was put off: it is counted already


class ScopeMissing(PermissionDenied):
    """The key was made for other uses."""

    default_code = "scope_missing"


class Door(APIView):
    """What all addresses share: strict JSON, permissions by method, limits and scopes of keys, each POST answered once for its
    idempotency key, the caller's name for the journal.
    """

    parser_classes = [StrictJSONParser]
    permission_classes = [MayUseView]
    permissions_needed: ClassVar[dict[str, str]] = {}
    agents_too: ClassVar[frozenset[str]] = frozenset()  # methods that a Nova's agent may use besides
    parameters: ClassVar[frozenset[str]] = frozenset()
    body_limit: ClassVar[int] = BODY_LIMIT
    shown_once: ClassVar[frozenset[str]] = frozenset()  # fields of an answer that no repeat gets
    standing: Standing | None = None  # of the caller's window, once it is counted

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        with ExitStack() as self._acting:
            return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.now = timezone.now()  # noqa: TID251 - a door
        demand_length(request, self.body_limit)
        super().initial(request, *args, **kwargs)
        self.actor = actor_name(request.user)
        self._acting.enter_context(audit.acting(self.actor, getattr(request, "request_id", "")))
        refuse_unknown_parameters(request, self.parameters)
        for name, values in request.query_params.lists():
            if problem := unstorable_text("".join(map(str, values))):
                raise ValidationError({name: [problem]}, code="unstorable")
        self._demand_scope(request)
        handler = getattr(self, "post", None)
        if request.method == "POST" and handler:
            apart = addresses.is_apart(request.path)
            setattr(self, "post", lambda *_, **__: idempotency.answer_once(self, request, handler, apart=apart))  # noqa: B010

    def perform_authentication(self, request: Request) -> None:
        """Find out who it is, and count the request against the caller's window; a long poll counts once.

        :raises TooManyRequests: the window is used up.
        """
        user = request.user
        if not user.is_authenticated:
            return
        window = addresses.window_of(request.path, agent=isinstance(user, NovaAgent))
        again = getattr(request._request, "scope", {}).get(AGAIN, False)
        self.standing = standing = counters.count(window, caller_of(user), now=self.now, by=0 if again else 1)
        if standing.exceeded:
            detail = (
                f"More than {window.most} requests in {window.seconds} s; wait {standing.resets_in} s. Nothing was changed."
            )
            raise TooManyRequests(detail, standing)

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Add how much is left of the caller's window (draft-ietf-httpapi-ratelimit-headers)."""
        final = super().finalize_response(request, response, *args, **kwargs)
        if (standing := self.standing) and standing.window.most:
            window = standing.window
            final["RateLimit-Policy"] = f'"{window.name}";q={window.most};w={window.seconds}'
            final["RateLimit"] = f'"{window.name}";r={standing.left};t={standing.resets_in}'
        return final

    def options(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Response:
        """Say which methods there are."""
        return Response(status=204, headers={"Allow": ", ".join(self.allowed_methods)})

    def _demand_scope(self, request: Request) -> None:
        """Refuse a Nova's key that was not made for this address.

        :raises ScopeMissing: it names what is missing.
        """
        if not isinstance(request.user, NovaAgent):
            return
        needed = addresses.scopes_for(str(request.method), request.path)
        if needed and not needed & request.user.scopes:
            names = " or ".join(sorted(needed))
            raise ScopeMissing(f"This key was not made for this: it lacks the scope {names}. Nothing was changed.")

    def accept(self, kind: type[Accepted]) -> Any:
        """Give the checked body.

        :raises ValidationError: with a pointer to each field that is wrong.
        """
        body = kind(data=self.request.data)
        body.is_valid(raise_exception=True)
        return body


class NovaList(Door):
    """All Novas, by nova_id; archived ones only when asked for by mode."""

    permissions_needed = {"GET": "workflow.view_nova"}
    parameters = frozenset({"mode", "team", "search"})
    _pages: Pages[Nova] = Pages("nova_id")

    def get(self, request: Request) -> Response:
        novas = Nova.objects.select_related("state", "personality")
        modes = choices_of(request, "mode", NovaState.Mode.values)
        novas = novas.filter(state__mode__in=modes) if modes else novas.filter(archived_at=None)
        if team := request.query_params.get("team"):
            novas = novas.filter(team=team)
        if words := request.query_params.get("search"):
            novas = novas.filter(Q(nova_id__icontains=words) | Q(name__icontains=words))
        return Response(self._pages.answer(request, [novas], self._show))

    def _show(self, novas: list[Nova]) -> list[Any]:
        verdicts, fleet = load_verdicts([nova.nova_id for nova in novas]), load_fleet()
        return [show_nova(nova, verdicts, fleet, now=self.now) for nova in novas]


class NovaDetail(Door):
    """One Nova."""

    permissions_needed = {"GET": "workflow.view_nova"}

    def get(self, request: Request, nova_id: str) -> Response:
        return Response(show_one_nova(self, nova_id))


class TaskList(Door):
    """Tasks, newest first, and the door for new ones. An agent sees its own Nova's, and asks for work only while it may act."""

    permissions_needed = {"GET": "workflow.view_task", "POST": "workflow.add_task"}
    agents_too = frozenset({"GET", "POST"})
    parameters = frozenset({"status", "assignee", "priority", "team", "search"})
    _pages: Pages[Task] = Pages("created_at", "id", descending=True)

    def get(self, request: Request) -> Response:
        tasks = self._filtered(request)
        # one part for each status, since each is read along an index of its own: the cost doesn't grow with the table
        statuses = choices_of(request, "status", [s.value for s in TaskStatus]) or [s.value for s in TaskStatus]
        parts = [tasks.filter(status=status) for status in statuses]
        return Response(self._pages.answer(request, parts, lambda rows: list(TaskShown(rows, many=True).data)))

    def post(self, request: Request) -> Response:
        body = self.accept(TaskAccepted)
        if isinstance(request.user, NovaAgent):
            halts.demand_may_act(request.user.nova_id)
        task_id, replayed = task_services.request_task(
            body.request(),
            sender=self.actor,
            now=self.now,
            cause=f"request:{getattr(request, 'request_id', '')}",
            idempotency_key=idempotency.key_of(request),
        )
        headers = {"Location": reverse("api:task", args=[task_id])}
        if replayed:
            headers["Idempotency-Replayed"] = "true"
        return Response(show_task(task_id), status=200 if replayed else 201, headers=headers)

    @staticmethod
    def _filtered(request: Request) -> QuerySet[Task]:
        tasks = Task.objects.filter(personal=False).defer("results", "metrics", "insights", "metadata")
        query = request.query_params
        if isinstance(request.user, NovaAgent):
            tasks = tasks.filter(assignee=request.user.nova_id)
        if "assignee" in query:  # empty: those that nobody has taken yet
            tasks = tasks.filter(assignee=query["assignee"] or None)
        if priorities := choices_of(request, "priority", [p.value for p in Priority]):
            tasks = tasks.filter(priority__in=priorities)
        if team := query.get("team"):
            tasks = tasks.filter(team=team)
        if words := query.get("search"):
            tasks = tasks.filter(Q(title__icontains=words) | Q(description__icontains=words) | Q(id__icontains=words))
        return tasks


class TaskDetail(Door):
    """One task; an agent sees its own Nova's. PATCH with a reason: change it while nobody works on it."""

    permissions_needed = {"GET": "workflow.view_task", "PATCH": "workflow.change_task"}
    agents_too = frozenset({"GET"})

    def get(self, request: Request, task_id: str) -> Response:
        user: Any = request.user
        if isinstance(user, NovaAgent) and not Task.objects.filter(id=task_id, assignee=user.nova_id).exists():
            raise TaskNotFound(f"There is no task {task_id}.")
        return Response(show_task(task_id))

    def patch(self, request: Request, task_id: str) -> Response:
        demand_visible(task_id)
        body = self.accept(EditAccepted)
        task_services.edit_task(task_id, body.edit(), reason=body.validated_data["reason"], now=self.now)
        return Response(show_task(task_id))


class TaskVerb(Door):
    """POST with a reason: cancel, unblock or rank a task. Answers the task as it stands then."""

    permissions_needed = {"POST": "workflow.change_task"}

    def post(self, request: Request, task_id: str, verb: str) -> Response:
        demand_visible(task_id)
        if verb == "priority":
            data = self.accept(PriorityAccepted).validated_data
            task_services.set_priority(task_id, Priority(data["priority"]), reason=data["reason"], now=self.now)
        else:
            reason = self.accept(ReasonAccepted).validated_data["reason"]
            act = task_services.cancel_task if verb == "cancel" else task_services.unblock_task
            act(task_id, reason=reason, now=self.now)
        return Response(show_task(task_id))


class Root(Door):
    """What there is."""

    def get(self, request: Request) -> Response:
        return Response({name: request.build_absolute_uri(reverse(f"api:{name}")) for name in _LISTS})


class Nothing(Door):
    """Every other address below the API: known callers hear 404, the others 401, as everywhere."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound


def show_one_nova(door: Door, nova_id: str) -> dict[str, Any]:
    """Show a Nova as it stands.

    :raises NovaNotFound: there is none.
    """
    nova = Nova.objects.select_related("state", "personality").filter(nova_id=nova_id).first()
    if nova is None:
        raise services.NovaNotFound(f"There is no Nova {nova_id}.")
    shown = show_nova(nova, load_verdicts([nova_id]), load_fleet(), now=door.now)
    candidate = nova.candidate_policy_id
    return shown | {"candidate": show_candidate(candidate, observation_of(nova_id, candidate))}


def show_task(task_id: str) -> dict[str, Any]:
    """Show a task with everything.

    :raises TaskNotFound: there is none, or it is personal.
    """
    executions = Prefetch("executions", Execution.objects.order_by("attempt"))
    task = Task.objects.filter(id=task_id, personal=False).prefetch_related("dependencies", executions).first()
    if task is None:
        raise TaskNotFound(f"There is no task {task_id}.")
    return dict(TaskDetailShown(task).data)


def demand_visible(task_id: str) -> None:
    """Treat a Nova's personal task as if it weren't there.

    :raises TaskNotFound: it is personal, or there is none.
    """
    if not Task.objects.filter(id=task_id, personal=False).exists():
        raise TaskNotFound(f"There is no task {task_id}; nothing was changed.")


def choices_of(request: Request, name: str, known: list[str]) -> list[str]:
    """Give the values of a filter that may be repeated or hold commas.

    :raises ValidationError: one is unknown.
    """
    values = [value for text in request.query_params.getlist(name) for value in text.split(",") if value]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValidationError({name: [f"Unknown: {', '.join(unknown)}; known are {', '.join(known)}."]}, code="unknown_choice")
    return list(dict.fromkeys(values))
