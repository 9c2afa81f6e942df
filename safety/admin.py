"""The admin's pages of the ground floor: the journal, users and groups; and what every admin page here shares.

One trail: Django's own LogEntry is never written. What a page changes is journalled by the code that changes it.
"""

import json
from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as StockGroupAdmin
from django.contrib.auth.admin import UserAdmin as StockUserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
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

from safety import access_journal  # noqa: F401 - connects its receivers
from safety.models import AuditEntry

admin.site.site_header = admin.site.site_title = "NOVAWF"
admin.site.index_title = "Control plane"

PRIVATE = "(private reflection)"
_CELL = "padding:4px 16px 4px 0;vertical-align:top;overflow-wrap:anywhere"


def unbroken(text: Any) -> SafeString:
    """Show a text on one line."""
    return format_html('<span class="whitespace-nowrap">{}</span>', text)


def table(heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> SafeString:
    """Show rows of texts as a plain table."""
    head = format_html_join("", '<th scope="col" style="text-align:left;{}">{}</th>', [(_CELL, name) for name in heads])
    cells = [format_html_join("", '<td style="{}">{}</td>', [(_CELL, cell) for cell in row]) for row in rows]
    body = format_html_join("", "<tr>{}</tr>", [(row,) for row in cells])
    return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)


class ExactTextFilter(FieldTextFilter):
    """A filter by a whole word, so that an index serves it; an empty field filters nothing."""

    def __init__(self, field: Any, request: HttpRequest, params: dict[str, Any], *args: Any, field_path: str) -> None:
        given = params.pop(f"{field_path}__exact", None)
        super().__init__(field, request, params, *args, field_path=field_path)
        self.lookup_kwarg = f"{field_path}__exact"
        self.lookup_val = given
        if given and given[-1]:
            self.used_parameters[self.lookup_kwarg] = given


class JournalledAdmin(ModelAdmin):
    """An admin page whose changes are journalled where they are made, and whose rows are archived, never deleted."""

    compressed_fields = True
    warn_unsaved_form = True
    list_per_page = 50
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # counting every choice of every filter reads whole tables
    journal_type = ""  # AuditEntry.object_type of these rows

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    # Django would write its LogEntry here; the journal has the story already
    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None:
        return None

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None:
        return None

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        return None

    def history_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Send the History button to the journal's story of this row."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        kind, name = self.journal_key(object_id)
        query = {"object_id__exact": name, "object_type__exact": kind}
        return HttpResponseRedirect(f"{reverse('admin:safety_auditentry_changelist')}?{urlencode(query)}")

    def journal_key(self, object_id: str) -> tuple[str, str]:
        """Give object_type and object_id under which the journal keeps a row."""
        return self.journal_type, object_id


class ReadOnlyAdmin(JournalledAdmin):
    """A window: nothing is added, changed or deleted through it."""

    paginator = InfinitePaginator

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
    search_help_text = "whole id of a task, a Nova, ..."
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
        before, after = entry.before or {}, entry.after or {}
        rows = [(name, _text(before.get(name)), _text(after.get(name))) for name in dict.fromkeys([*before, *after])]
        return table(["field", "before", "after"], rows) if rows else "-"

    @display(description="fields")
    def show_message(self, entry: AuditEntry) -> SafeString | str:
        if entry.personal:
            return PRIVATE
        return table(["field", "value"], list(entry.message.items())) if entry.message else "-"


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class UserAdmin(StockUserAdmin, JournalledAdmin):  # type: ignore[misc, type-arg]
    """People. Somebody who leaves is made inactive, not deleted."""

    journal_type = "user"
    compressed_fields = False  # the two lists side by side need the room
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm

    def journal_key(self, object_id: str) -> tuple[str, str]:
        user = User.objects.filter(pk=object_id).first() if object_id.isdigit() else None
        return "user", user.get_username() if user else object_id


@admin.register(Group)
class GroupAdmin(StockGroupAdmin, JournalledAdmin):  # type: ignore[misc]
    """Roles."""

    journal_type = "group"
    compressed_fields = False

    def journal_key(self, object_id: str) -> tuple[str, str]:
        group = Group.objects.filter(pk=object_id).first() if object_id.isdigit() else None
        return "group", group.name if group else object_id
