"""Tasks as the board and its table show them. The cost doesn't grow with the table: every list is read along an index.

Counts end at COUNTED. A filter that no index serves looks at the next LOOKED tasks of a status only, and the page says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet

from reporting.core.statuses import Look
from reporting.core.task_looks import PRIORITIES, STATUSES, look_of
from reporting.task_filters import TaskFilters
from workflow.core.work import TaskStatus
from workflow.models import Task

COLUMN_ROWS = 20
TABLE_ROWS = 50
COUNTED = 1_000  # beyond that a column says 999+
LOOKED = 20_000  # tasks of a status that filters look at
RECENT = timedelta(hours=24)  # what the column of completed tasks holds
COLUMNS = (TaskStatus.PENDING, TaskStatus.IN_PROGRESS, TaskStatus.BLOCKED, TaskStatus.COMPLETED)
_LONG = ("description", "results", "metrics", "insights", "metadata", "block_reason")


@dataclass(frozen=True, slots=True)
class Card:
    """A task in a list."""

    task: Task
    look: Look
    priority: Look
    at: datetime  # since when it stands there

    @property
    def is_generated(self) -> bool:
        return self.task.work_type in ("momentum", "strategic", "reflection")


@dataclass(slots=True)
class Column:
    """A column: how many there are at least, since when the oldest waits, and the newest of them."""

    status: str
    look: Look
    count: int
    oldest: datetime | None
    keys: list[str]
    cards: list[Card] = field(default_factory=list)

    @property
    def number(self) -> str:
        return f"{COUNTED - 1}+" if self.count >= COUNTED else str(self.count)

    @property
    def more(self) -> bool:
        return self.count > len(self.cards)


def columns(filters: TaskFilters, now: datetime) -> list[Column]:
    """Give the board's four columns, the newest first in each."""
    found = [_column(filters, status, now) for status in COLUMNS]
    cards = {card.task.pk: card for card in _cards([key for column in found for key in column.keys])}
    for column in found:
        column.cards = [cards[key] for key in column.keys if key in cards]
    return found


def _column(filters: TaskFilters, status: TaskStatus, now: datetime) -> Column:
    done = status is TaskStatus.COMPLETED
    instant = "completed_at" if done else "created_at"
    standing = Task.objects.filter(status=status)
    if done:
        standing = standing.filter(completed_at__gte=now - RECENT)
    tasks = filters.filter_queryset(standing.filter(personal=False))
    if filters.given:
        tasks = tasks.filter(_window(standing, instant, oldest_first=False))
    keys = list(tasks.order_by(f"-{instant}").values_list("pk", instant)[:COUNTED])
    oldest = keys[-1][1] if keys else None
    if len(keys) == COUNTED and not filters.given:
        oldest = tasks.order_by(instant).values_list(instant, flat=True)[:1][0]
    return Column(status, STATUSES[status], len(keys), oldest, [key for key, _ in keys[:COLUMN_ROWS]])


def _window(standing: QuerySet[Task], instant: str, *, oldest_first: bool) -> Q:
    """Give the condition that leaves only the next LOOKED tasks."""
    last = standing.order_by(instant if oldest_first else f"-{instant}").values_list(instant, flat=True)[LOOKED : LOOKED + 1]
    edge = list(last)
    if not edge:
        return Q()
    return Q(**{f"{instant}__lte" if oldest_first else f"{instant}__gte": edge[0]})


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the table: behind this task; without a key: where this instant begins."""

    at: datetime
    key: str = ""

    def __str__(self) -> str:
        return f"{self.at.isoformat()}~{self.key}"

    @classmethod
    def of(cls, text: str) -> "Place | None":
        """Read a place; None where it is none."""
        at, _, key = text.partition("~")
        try:
            instant = datetime.fromisoformat(at)
        except ValueError:
            return None
        return cls(instant, key) if instant.tzinfo and "\0" not in key else None


@dataclass(frozen=True, slots=True)
class TablePage:
    """A page of the table; `rest`: where the next begins. `cut`: filters looked at LOOKED tasks and there are more."""

    cards: Sequence[Card]
    rest: Place | None
    cut: bool = False


def table_page(
    filters: TaskFilters,
    *,
    status: str = "",
    after: Place | None = None,
    oldest_first: bool = False,
    rows: int = TABLE_ROWS,
) -> TablePage:
    """Give a page of all tasks, or of those with a status, the newest or the oldest first."""
    keys, edge = _table_keys(filters, status, after, oldest_first, rows)
    cards = _cards([key for _, key in keys[:rows]])
    cards.sort(key=lambda card: (card.task.created_at, card.task.pk), reverse=not oldest_first)
    if len(keys) > rows:
        return TablePage(cards, Place(*keys[rows - 1]))
    return TablePage(cards, edge, cut=edge is not None)


def matching(filters: TaskFilters, *, status: str, oldest_first: bool, most: int) -> tuple[list[str], bool]:
    """Give the ids of what the table lists, and whether there are more."""
    keys, edge = _table_keys(filters, status, None, oldest_first, most)
    return [key for _, key in keys[:most]], len(keys) > most or edge is not None


def _table_keys(
    filters: TaskFilters, status: str, after: Place | None, oldest_first: bool, rows: int
) -> tuple[list[tuple[datetime, str]], Place | None]:
    """Give (created_at, id) of the next rows and one more, and where the filters stopped looking.

    Each status is read along its own index, and the parts are merged.
    """
    order = ("created_at", "pk") if oldest_first else ("-created_at", "-pk")
    parts = [Task.objects.filter(status=one) for one in ([status] if status else list(TaskStatus))]
    if after is not None:
        beyond = "gt" if oldest_first else "lt"
        parts = [part.filter(**{f"created_at__{beyond}e": after.at}) for part in parts]  # bounds the walk along the index
        if after.key:
            behind = Q(**{f"created_at__{beyond}": after.at}) | Q(created_at=after.at, **{f"pk__{beyond}": after.key})
            parts = [part.filter(behind) for part in parts]
    edges: list[datetime] = []
    if filters.given:
        for part in parts:
            edges += part.order_by(order[0]).values_list("created_at", flat=True)[LOOKED : LOOKED + 1]
    edge = (min if oldest_first else max)(edges) if edges else None
    found: list[tuple[datetime, str]] = []
    for part in parts:
        tasks: Any = filters.filter_queryset(part.filter(personal=False))
        if edge is not None:
            tasks = tasks.filter(**{"created_at__lt" if oldest_first else "created_at__gt": edge})
        found += tasks.order_by(*order).values_list("created_at", "pk")[: rows + 1]
    found.sort(reverse=not oldest_first)
    return found, None if edge is None else Place(edge)


def _cards(keys: Sequence[str]) -> list[Card]:
    rows = Task.objects.filter(pk__in=keys).defer(*_LONG) if keys else ()
    return [card_of(row) for row in rows]


def card_of(task: Task) -> Card:
    """Give a task as lists show it."""
    look = look_of(task.status, task.outcome)
    at = (task.completed_at if task.status == TaskStatus.COMPLETED else task.blocked_at) or task.created_at
    return Card(task, look, PRIORITIES[task.priority], at)
