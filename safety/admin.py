"""The admin's pages of the ground floor: the journal, users and groups; and what every admin page here shares.

One trail: Django's own LogEntry is never written. What a page changes is journalled by the code that changes it.
"""

import json
from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth.admin import GroupAdmin as StockGroupAdmin
from django.contrib.auth.admin import UserAdmin as StockUserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.core.paginator import InvalidPage
from django.db.models import Count, Prefetch, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import FieldTextFilter
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.paginator import InfinitePaginator
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from safety import access_journal, texts  # noqa: F401 - connects its receivers
from safety.models import AuditEntry

admin.site.site_header = admin.site.site_title = "NOVAWF"
admin.site.index_title = "Operator console"

PRIVATE = "(private reflection)"
WITHHELD = "(for those who act or audit)"
STORY_PAGE = 50  # journal entries on a page of a row's history
RECENT = 200_000  # rows among which a filter looks that no index serves: the newest ones
CLIPPED = 300  # characters of a value shown in a list of changes
_NO_FILTERS = frozenset({"p", "q", "o", "e", "all", "_changelist_filters", "_facets"})
_CELL = "padding:4px 16px 4px 0;vertical-align:top;overflow-wrap:anywhere"


def may_read_texts(request: HttpRequest) -> bool:
    """Tell whether who asks may read texts and names."""
    return texts.may_read(request.user)


def dashboard_url(name: str, *args: Any) -> str:
    """Give the address of a dashboard page, or nothing where this installation has none of that name."""
    try:
        return reverse(name, args=args)
    except NoReverseMatch:
        return ""


def unbroken(text: Any) -> SafeString:
    """Show a text on one line."""
    return format_html('<span class="whitespace-nowrap">{}</span>', text)


def table(heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> SafeString:
    """Show rows of texts as a plain table."""
    head = format_html_join("", '<th scope="col" style="text-align:left;{}">{}</th>', [(_CELL, name) for name in heads])
    cells = [format_html_join("", '<td style="{}">{}</td>', [(_CELL, cell) for cell in row]) for row in rows]
    body = format_html_join("", "<tr>{}</tr>", [(row,) for row in cells])
    return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)


def story_line(entry: AuditEntry, whole: bool) -> list[Any]:
    """Tell a journal entry in a row of a table; not `whole`: without persons and texts."""
    when = unbroken(date_format(localtime(entry.created_at), "DATETIME_FORMAT"))
    if not whole:
        return [when, entry.action, WITHHELD, WITHHELD, WITHHELD]
    if entry.personal:
        return [when, entry.action, entry.actor, PRIVATE, PRIVATE]
    changes = format_html_join(
        "", "<div>{}: {} → {}</div>", [(name, before[:CLIPPED], after[:CLIPPED]) for name, before, after in _changes(entry)]
    )
    return [when, entry.action, entry.actor, entry.reason or "-", changes or "-"]


class ExactTextFilter(FieldTextFilter):
    """A filter by a whole word, so that an index serves it; an empty field filters nothing."""

    def __init__(self, field: Any, request: HttpRequest, params: dict[str, Any], *args: Any, field_path: str) -> None:
        given = params.pop(f"{field_path}__exact", None)
        super().__init__(field, request, params, *args, field_path=field_path)
        self.lookup_kwarg = f"{field_path}__exact"
        self.lookup_val = given
        if given and given[-1]:
            self.used_parameters[self.lookup_kwarg] = given


class KnownWordsFilter(admin.SimpleListFilter):
    """A filter by words that are known: asking the table which there are would read all of it."""

    words: Sequence[str] = ()

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(word, word.replace("_", " ")) for word in self.words]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else queryset


class JournalledAdmin(ModelAdmin):
    """An admin page whose changes are journalled where they are made, and whose rows are archived, never deleted."""

    compressed_fields = True
    warn_unsaved_form = True
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # counting every choice of every filter reads whole tables
    journal_type = ""  # AuditEntry.object_type of these rows
    dashboard = ""  # the dashboard page of a row, by its name in reporting/urls.py
    texts: frozenset[str] = frozenset()  # fields and columns for those who may read texts
    # of a table that grows for ever: the parameters that an index serves; filtered by others, it shows newest rows only
    served: frozenset[str] | None = None

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.readable(request, super().get_fieldsets(request, obj))

    def readable(self, request: HttpRequest, fieldsets: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        """Leave the texts out of a page for those who may not read them, and parts that would be empty."""
        if not self.texts or may_read_texts(request):
            return list(fieldsets)
        lines = [(title, options, [_without(line, self.texts) for line in options["fields"]]) for title, options in fieldsets]
        return [(title, {**options, "fields": [line for line in rest if line]}) for title, options, rest in lines if any(rest)]

    def get_list_display(self, request: HttpRequest) -> Any:
        shown = super().get_list_display(request)
        return shown if may_read_texts(request) else [name for name in shown if name not in self.texts]

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Refuse to filter by what the caller may not read: it could be guessed letter by letter."""
        if lookup.split("__", 1)[0] in self.texts and not may_read_texts(request):
            return False
        return bool(super().lookup_allowed(lookup, value, request))

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> tuple[QuerySet[Any], bool]:
        """Search; where no index serves a filter, look at the newest rows only, so that a list never reads a whole table."""
        rows, repeats = super().get_search_results(request, queryset, search_term)
        filters = {name for name, value in request.GET.items() if value and name not in _NO_FILTERS}
        costly = {name for name in filters if not name.endswith(("__gte", "__lt"))}
        if self.served is not None and costly and not costly & self.served and not search_term:
            newest = self.model._default_manager.order_by("-pk").values_list("pk", flat=True).first() or 0
            rows = rows.filter(pk__gt=newest - RECENT)
        return rows, repeats

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Give the list; one that nothing narrows does not offer to show all."""
        changelist: ChangeList = super().get_changelist_instance(request)
        if not changelist.query and not changelist.has_active_filters:
            changelist.full_result_count = changelist.result_count
        return changelist

    # Django would write its LogEntry here; the journal has the story already
    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None:
        return None

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None:
        return None

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        return None

    def history_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the journal's story of this row, the newest first, to whoever may see the row."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, object_id)
        if row is None:
            raise Http404
        kind, name = self.journal_key(object_id)
        entries = AuditEntry.objects.filter(object_type=kind, object_id=name).order_by("-id")
        try:
            page = InfinitePaginator(entries, STORY_PAGE).page(request.GET.get("p", 1))
        except InvalidPage:
            raise Http404 from None
        told = [story_line(entry, may_read_texts(request)) for entry in page.object_list]
        query = urlencode({"object_id__exact": name, "object_type__exact": kind})
        journal = f"{reverse('admin:safety_auditentry_changelist')}?{query}"
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"History: {row}",
            "table": {"headers": ["when", "what", "who", "why", "before and after"], "rows": told},
            "newer": page.number - 1,
            "older": page.number + 1 if len(told) == STORY_PAGE else 0,
            "row_url": reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", args=[object_id]),
            "journal_url": journal if request.user.has_perm("safety.view_auditentry") else "",
        }
        return TemplateResponse(request, "admin/safety/history.html", context)

    def view_on_site(self, obj: Any) -> str | None:
        """Lead to the row's page among the dashboards; None where it has none."""
        return dashboard_url(self.dashboard, obj.pk) or None if self.dashboard else None

    def journal_key(self, object_id: str) -> tuple[str, str]:
        """Give object_type and object_id under which the journal keeps a row."""
        return self.journal_type, object_id


class ReadOnlyAdmin(JournalledAdmin):
    """A window: nothing is added, changed or deleted through it."""

    paginator = InfinitePaginator
    sortable_by: Any = ()  # an order that no index has would read the whole table

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """The journal. The text of personal entries is not shown here."""

    journal_type = "journal"
    list_display = ["id", "show_created", "action", "actor", "nova_id", "show_object", "show_reason"]
    list_display_links = ["id", "show_created"]
    list_filter = [
        ("action", FieldTextFilter),
        ("nova_id", ExactTextFilter),
        ("actor", ExactTextFilter),
        ("request_id", ExactTextFilter),
        "created_at",
    ]
    search_fields = ["object_id__exact"]
    search_help_text = f"Whole id of a task, a Nova, … Filters without an id or a Nova look at the newest {RECENT:,} entries."
    served = frozenset({"object_id__exact", "nova_id__exact"})
    ordering = ["-id"]
    fieldsets = [
        (None, {"fields": ["id", "created_at", "action", "actor", "nova_id", "seq", "object_type", "object_id"]}),
        ("Why", {"fields": ["show_reason", "cause", "request_id"]}),
        ("What changed", {"fields": ["show_changes"]}),
        ("Told on a stream", {"fields": ["stream", "show_message"]}),
    ]
    readonly_fields = ["show_reason", "show_changes", "show_message"]

    def journal_key(self, object_id: str) -> tuple[str, str]:
        """Lead from an entry to the whole story of its object."""
        entry = AuditEntry.objects.filter(pk=object_id).first() if object_id.isdigit() else None
        return (entry.object_type, entry.object_id) if entry else ("", "")

    @display(description="when", ordering="id")
    def show_created(self, entry: AuditEntry) -> SafeString:
        return unbroken(date_format(localtime(entry.created_at), "DATETIME_FORMAT"))

    @display(description="object")
    def show_object(self, entry: AuditEntry) -> str:
        return f"{entry.object_type} {entry.object_id}" if entry.object_id else "-"

    @display(description="reason")
    def show_reason(self, entry: AuditEntry) -> str:
        return PRIVATE if entry.personal else (entry.reason[:200] or "-")

    @display(description="before and after")
    def show_changes(self, entry: AuditEntry) -> SafeString | str:
        if entry.personal:
            return PRIVATE
        rows = _changes(entry)
        return table(["field", "before", "after"], rows) if rows else "-"

    @display(description="fields")
    def show_message(self, entry: AuditEntry) -> SafeString | str:
        if entry.personal:
            return PRIVATE
        return table(["field", "value"], list(entry.message.items())) if entry.message else "-"


def _without(line: Any, names: frozenset[str]) -> Any:
    """Leave names out of a line of a fieldset, which is one name or several."""
    if isinstance(line, str):
        return "" if line in names else line
    return tuple(name for name in line if name not in names)


def _changes(entry: AuditEntry) -> list[tuple[str, str, str]]:
    """Give what an entry changed: field, before, after."""
    before, after = entry.before or {}, entry.after or {}
    return [(name, _text(before.get(name)), _text(after.get(name))) for name in dict.fromkeys([*before, *after])]


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(StockUserAdmin, JournalledAdmin):  # type: ignore[misc, type-arg]
    """People and their roles. Somebody who leaves is made inactive, not deleted."""

    journal_type = "user"
    compressed_fields = False  # the two lists side by side need the room
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["username", "show_name", "show_roles", "show_standing", "is_staff", "last_login"]
    list_filter = ["groups", "is_active", "is_staff", "is_superuser"]
    fieldsets = [
        (None, {"fields": ["username", "password"]}),
        ("Who it is", {"fields": ["first_name", "last_name", "email"]}),
        ("What they may", {"fields": ["is_active", "is_staff", "is_superuser", "groups"]}),
        ("When", {"fields": ["last_login", "date_joined"]}),
    ]
    filter_horizontal = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        people: QuerySet[User] = super().get_queryset(request)
        return people.prefetch_related(Prefetch("groups", Group.objects.order_by("name")))

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Let superusers alone make superusers."""
        fields = [*super().get_readonly_fields(request, obj), "last_login", "date_joined"]
        return fields if request.user.is_superuser else [*fields, "is_superuser"]

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Show the roles as boxes to tick."""
        field = super().formfield_for_manytomany(db_field, request, widget=UnfoldAdminCheckboxSelectMultipleWidget, **kwargs)
        if field is not None:
            field.label, field.help_text = "Roles", "A person may do what any of the roles allows."
        return field

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Keep superusers from being changed, their passwords with them, by anybody who is none."""
        if obj is not None and obj.is_superuser and not request.user.is_superuser:
            return False
        return bool(super().has_change_permission(request, obj))

    def journal_key(self, object_id: str) -> tuple[str, str]:
        user = User.objects.filter(pk=object_id).first() if object_id.isdigit() else None
        return "user", user.get_username() if user else object_id

    @display(description="name")
    def show_name(self, user: User) -> str:
        return user.get_full_name() or user.email or "-"

    @display(description="roles")
    def show_roles(self, user: User) -> str:
        names = [group.name for group in user.groups.all()]
        return ", ".join(["superuser", *names] if user.is_superuser else names) or "none"

    @display(description="standing", label={"active": "success", "inactive": "default"})
    def show_standing(self, user: User) -> str:
        return "active" if user.is_active else "inactive"


@admin.register(Group)
class GroupAdmin(StockGroupAdmin, JournalledAdmin):  # type: ignore[misc]
    """Roles."""

    journal_type = "group"
    compressed_fields = False
    list_display = ["name", "show_people", "show_rights"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        groups: QuerySet[Group] = super().get_queryset(request)
        return groups.annotate(people=Count("user", distinct=True), rights=Count("permissions", distinct=True))

    def journal_key(self, object_id: str) -> tuple[str, str]:
        group = Group.objects.filter(pk=object_id).first() if object_id.isdigit() else None
        return "group", group.name if group else object_id

    @display(description="people", ordering="people")
    def show_people(self, group: Any) -> int:
        return int(group.people)

    @display(description="rights", ordering="rights")
    def show_rights(self, group: Any) -> int:
        return int(group.rights)
