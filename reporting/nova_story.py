"""A Nova's story: its journal entries, newest first, a page at a time. What is personal is not told.

Who may not read texts is told what happened and to what, not who did it or why. Queries are few, whatever the history.
"""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from reporting.core.story import CHAPTERS, PEOPLE, detail_of, icon_of, tone_of, words_of
from reporting.series import oldest_of_newest
from safety.models import AuditEntry

PAGE = 40
LOOKED_AT = 4_000  # of the newest entries, where only one chapter is wanted: no index knows chapters


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened. `task_id` is empty where it is about none; `actor` and `reason` for who may read texts."""

    id: int
    at: datetime
    text: str
    detail: str
    tone: str
    icon: str
    task_id: str
    actor: str
    reason: str


def story_of(nova_id: str, *, chapter: str = "", before: int = 0, texts: bool = False) -> tuple[list[Line], int]:
    """Give a page of lines, and the `before` that leads to the next one (0: this is the last)."""
    rows = AuditEntry.objects.filter(nova_id=nova_id, personal=False)
    if before:
        rows = rows.filter(id__lt=before)
    if chapter in CHAPTERS:
        rows = rows.filter(_condition(chapter), id__gte=oldest_of_newest(nova_id, LOOKED_AT, before=before))
    columns = ("id", "created_at", "action", "object_type", "object_id", "after", "actor", "reason")
    own = f"nova:{nova_id}"  # who acts is said only where it is somebody else
    found = list(rows.order_by("-id").values_list(*columns)[: PAGE + 1])
    lines = [
        Line(
            entry_id, at, words_of(action), detail_of(action, after), tone_of(action), icon_of(action),
            object_id if kind == "task" else "", actor if texts and actor != own else "", reason if texts else "",
        )
        for entry_id, at, action, kind, object_id, after, actor, reason in found[:PAGE]
    ]  # fmt: skip
    return lines, lines[-1].id if len(found) > PAGE else 0


def _condition(chapter: str) -> Q:
    column, beginnings = ("actor", PEOPLE) if chapter == "people" else ("action", CHAPTERS[chapter][1])
    condition = Q(pk__in=())
    for beginning in beginnings:
        condition |= Q(**{f"{column}__startswith": beginning})
    return condition
