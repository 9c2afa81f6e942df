"""What waits for a person: approvals, blocked tasks by whom they wait for, incidents nobody looks at, orders not confirmed yet.

Bounded, whatever there is; the number in the menu is counted by the same rules.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet

from reporting.board_rows import Card, card_of
from safety.models import SafetyIncident
from workflow.models import Approval, Halt, Task

SHOWN = 20  # approvals, incidents and orders
OF_OWNER = 10  # blocked tasks of each owner
LOOKED = 1_000  # blocked tasks, the oldest, among which owners are counted
COUNTED = 100  # of each kind; beyond that the menu says 99+
OPERATOR = "operator"

Right = Callable[[str], bool]


@dataclass(slots=True)
class Owner:
    """Whom blocked tasks wait for, how many (of those looked at), and the oldest of them."""

    name: str
    count: int
    cards: list[Card] = field(default_factory=list)

    @property
    def more(self) -> int:
        return self.count - len(self.cards)


@dataclass(frozen=True, slots=True)
class Listed:
    """The first rows of a list, and how many there are; `is_more`: at least."""

    rows: Sequence[Any]
    count: int
    is_more: bool

    @property
    def number(self) -> str:
        return f"{self.count - 1}+" if self.is_more else str(self.count)


def approvals() -> QuerySet[Approval]:
    """Give the approvals that nobody has decided, the first to expire first."""
    return Approval.objects.filter(status=Approval.Status.PENDING).order_by("expires_at")


def incidents() -> QuerySet[SafetyIncident]:
    """Give the incidents that last and that nobody has acknowledged."""
    return SafetyIncident.objects.filter(status=SafetyIncident.Status.OPEN).order_by("id")


def orders() -> QuerySet[Halt]:
    """Give the orders to stop that not every Nova has been seen to obey."""
    return Halt.objects.filter(settled_at=None, lifted_at=None, drill=False).order_by("id")


def blocked() -> QuerySet[Task]:
    """Give the blocked tasks, the oldest first."""
    return Task.objects.filter(status="blocked", personal=False).order_by("created_at")


_KINDS: Sequence[tuple[str, Callable[[], QuerySet[Any]]]] = (
    ("workflow.view_approval", approvals),
    ("workflow.view_task", blocked),
    ("safety.view_safetyincident", incidents),
    ("workflow.view_halt", orders),
)


def number_waiting(may: Right) -> str:
    """Give how much waits, as the menu says it; empty for nothing."""
    counts = [rows()[:COUNTED].count() for right, rows in _KINDS if may(right)]
    total = sum(counts)
    return "99+" if total >= COUNTED else str(total or "")


def listed(rows: QuerySet[Any]) -> Listed:
    """Give the first rows of a list."""
    count = rows[:COUNTED].count()
    return Listed(list(rows[:SHOWN]), count, count >= COUNTED)


def owners() -> tuple[list[Owner], bool]:
    """Give whom blocked tasks wait for, operators first, and whether there are more than were looked at."""
    keys = list(blocked().values_list("pk", "block_owner")[: LOOKED + 1])
    counts = Counter(owner for _, owner in keys[:LOOKED])
    found = {name: Owner(name, number) for name, number in sorted(counts.items(), key=lambda one: (one[0] != OPERATOR, one[0]))}
    chosen: dict[str, list[str]] = {}
    for key, owner in keys[:LOOKED]:
        if len(mine := chosen.setdefault(owner, [])) < OF_OWNER:
            mine.append(key)
    wanted = [key for mine in list(chosen.values())[:SHOWN] for key in mine]
    rows = Task.objects.filter(pk__in=wanted).defer("description", "results", "metrics", "insights", "metadata")
    for task in rows.order_by("created_at"):
        if owner := found.get(task.block_owner):
            owner.cards.append(card_of(task))
    return [owner for owner in found.values() if owner.cards], len(keys) > LOOKED
