"""Verbs on rows of the admin: a form that asks why, then one POST that acts. Nothing changes on GET.

The form keeps the rows as they were chosen, so that a list that grows meanwhile can't widen what is done.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.http import urlencode
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextareaWidget

from safety.admin import JournalledAdmin
from safety.incident_services import IncidentError
from workflow.errors import WorkflowError
from workflow.task_tracker import TaskError

SHOWN_ROWS = 20
SELECTION_LIMIT = 10_000


class ReasonForm(forms.Form):
    """Why: required, and kept in the journal."""

    reason = forms.CharField(
        max_length=2000,
        help_text="Required. It is kept in the journal, with your name.",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3, "autofocus": True}),
    )


@dataclass(slots=True)
class Done:
    """What a verb did to a selection: rows changed, rows that needed no change, and why the others refused."""

    changed: int = 0
    unchanged: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AdminVerb:
    """A verb that a page offers. `act` takes the rows' keys, the form's answers and the instant."""

    name: str
    title: str
    past: str
    effect: str
    act: Callable[[Sequence[str], Mapping[str, Any], datetime], Done]
    form: type[ReasonForm] = ReasonForm
    icon: str = ""
    danger: bool = False
    offered: Callable[[Any], bool] = lambda row: True  # on the page of a row for which this is true
    right: Callable[[Sequence[str]], str] = lambda keys: ""  # the permission it needs for these rows; empty: the page's own


def one_by_one(act: Callable[[str, Mapping[str, Any], datetime], bool]) -> Callable[..., Done]:
    """Make the act of a selection from one that takes a single row, says whether it changed, and raises what it refuses."""

    def act_on_all(keys: Sequence[str], answers: Mapping[str, Any], now: datetime) -> Done:
        done = Done()
        for key in keys:
            try:
                changed = act(key, answers, now)
            except (WorkflowError, TaskError, IncidentError) as refusal:
                done.problems.append(str(refusal))
                continue
            done.changed += changed
            done.unchanged += not changed
        return done

    return act_on_all


class VerbAdmin(JournalledAdmin):
    """A page whose rows have verbs: offered on a selection in the list and on the page of one row."""

    verbs: ClassVar[Sequence[AdminVerb]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for verb in cls.verbs:
            setattr(cls, f"offer_{verb.name}", _offer(verb))
        if cls.verbs:
            cls.actions_detail = [f"offer_{verb.name}" for verb in cls.verbs]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        if self.has_change_permission(request) or self.may_use_verbs(request):
            for verb in self.verbs:
                actions[verb.name] = (_ask(verb), verb.name, verb.title)
        return actions

    def may_use_verbs(self, request: HttpRequest) -> bool:
        """Tell whether the caller may use verbs; pages that allow no editing may still have some."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}"))

    def has_verb_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may_use_verbs(request)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[UnfoldAction]:
        """Offer on a row's page only what would change it."""
        row = self.get_object(request, str(object_id))
        useless = {f"offer_{verb.name}" for verb in self.verbs if row is None or not verb.offered(row)}
        actions: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        return [found for found in actions if found.method.__name__ not in useless]

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_verb"
        view = self.admin_site.admin_view(self.verb_view)
        return [path("verb/<slug:verb_name>/", view, name=name), *super().get_urls()]

    def verb_view(self, request: HttpRequest, verb_name: str) -> HttpResponse:
        """Ask why, and act on POST."""
        verb = next((verb for verb in self.verbs if verb.name == verb_name), None)
        if verb is None:
            raise Http404
        if not self.may_use_verbs(request):
            raise PermissionDenied
        given = request.POST if request.method == "POST" else request.GET
        keys = given.get("rows", "").splitlines()  # browsers send \r\n
        try:
            rows = self.get_queryset(request).filter(pk__in=[self.opts.pk.to_python(key) for key in keys if "\0" not in key])
        except ValidationError:  # not a key of these rows
            raise Http404 from None
        if request.method != "POST" or "ask" in request.POST:
            return self.ask(request, verb, rows, verb.form())
        form = verb.form(request.POST)
        if not form.is_valid():
            return self.ask(request, verb, rows, form)
        found = [str(pk) for pk in rows.values_list("pk", flat=True)]
        right = verb.right(found)
        if right and not request.user.has_perm(right):
            raise PermissionDenied
        done = self.carry_out(request, verb, found, form.cleaned_data, timezone.now())  # noqa: TID251 - a door
        if isinstance(done, HttpResponse):
            return done
        self._report(request, verb, done)
        changelist = f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"
        if len(found) == 1:
            return HttpResponseRedirect(reverse(changelist.replace("changelist", "change"), args=found))
        return HttpResponseRedirect(reverse(changelist))

    def carry_out(
        self, request: HttpRequest, verb: AdminVerb, keys: Sequence[str], answers: Mapping[str, Any], now: datetime
    ) -> Done | HttpResponse:
        """Do it; a page may answer by itself what can't be told in a line."""
        return verb.act(keys, answers, now)

    def ask(self, request: HttpRequest, verb: AdminVerb, rows: QuerySet[Any], form: ReasonForm) -> HttpResponse:
        """Show what would be done to which rows, with the form."""
        keys = [str(pk) for pk in rows.values_list("pk", flat=True)[: SELECTION_LIMIT + 1]]
        if not keys:
            raise Http404("These rows are gone.")
        if len(keys) > SELECTION_LIMIT:
            text = f"More than {SELECTION_LIMIT} rows are selected; narrow the list first. Nothing was changed."
            self.message_user(request, text, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"{verb.title}: {_count(len(keys), self.opts)}",
            "verb": verb,
            "form": form,
            "keys": "\n".join(keys),
            "shown": self.describe(list(rows[:SHOWN_ROWS])),
            "more": max(0, len(keys) - SHOWN_ROWS),
            "breakdown": self.breakdown(rows),
            "action_url": reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_verb", args=[verb.name]),
            "back_url": reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"),
        }
        return TemplateResponse(request, "admin/workflow/verb.html", context)

    def describe(self, rows: Sequence[Any]) -> list[str]:
        """Name the chosen rows in a line each."""
        return [text if (text := str(row)).startswith(str(row.pk)) else f"{row.pk}: {text}" for row in rows]

    def breakdown(self, rows: QuerySet[Any]) -> list[tuple[str, int]]:
        """Tell how many of the chosen rows stand where; empty where that says nothing."""
        return []

    def _report(self, request: HttpRequest, verb: AdminVerb, done: Done) -> None:
        if done.changed:
            self.message_user(request, f"{_count(done.changed, self.opts)} {verb.past}.", messages.SUCCESS)
        if done.unchanged:
            self.message_user(request, f"{_count(done.unchanged, self.opts)} needed no change.", messages.INFO)
        for problem in done.problems[:10]:
            self.message_user(request, problem, messages.ERROR)
        if len(done.problems) > 10:
            self.message_user(request, f"{len(done.problems) - 10} more refused.", messages.ERROR)


def _count(number: int, opts: Any) -> str:
    return f"{number} {opts.verbose_name if number == 1 else opts.verbose_name_plural}"


def _ask(verb: AdminVerb) -> Callable[[VerbAdmin, HttpRequest, QuerySet[Any]], HttpResponse]:
    def ask(page: VerbAdmin, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse:
        return page.ask(request, verb, queryset, verb.form())

    return ask


def _offer(verb: AdminVerb) -> Any:
    """Make the button on a row's page: it leads to the form and changes nothing."""

    def offer(self: VerbAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
        url = reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_verb", args=[verb.name])
        return HttpResponseRedirect(f"{url}?{urlencode({'rows': object_id})}")

    offer.__name__ = f"offer_{verb.name}"
    variant = ActionVariant.DANGER if verb.danger else ActionVariant.DEFAULT
    return action(
        offer,
        description=verb.title,
        url_path=f"offer-{verb.name}",
        icon=verb.icon or None,
        variant=variant,
        permissions=["verb"],
    )
