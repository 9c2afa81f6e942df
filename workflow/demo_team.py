"""The demonstration team: five Novas with days of believable history, made through the real services, the clock an argument.

It is labelled (team, ids, names, actor) and kept out of every real figure: nothing of it goes out on streams, its Novas are
paused for good, no report counts it. Removing it deletes its rows; what the journal says of it stays, since it only grows.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from django.apps import apps
from django.conf import settings
from django.db import models, transaction
from django.db.models import Max

from safety import audit, incidents
from safety.audit import Entry
from safety.models import AuditEntry, JournalHead, OutboxEntry, SafetyIncident
from workflow import services
from workflow.carrying import INSIGHT_RECORDED, TASK_CELEBRATED
from workflow.configuration import NOVA_CREATED
from workflow.core.demonstration import TEAM
from workflow.core.personality import phrase
from workflow.core.work import Priority
from workflow.errors import WorkflowError
from workflow.models import Nova, Personality, Task
from workflow.task_rows import ROW_COLUMNS, TaskRow, task_row
from workflow.task_tracker import TaskTracker

ACTOR = "demo"
LABEL = "a demonstration: this history is made up"
DEMO_SEEDED = "workflow.demo.seeded"
DEMO_REMOVED = "workflow.demo.removed"
MOST_DAYS = 90

_MARGIN = timedelta(hours=1)  # nothing of it is younger: what is younger in the outbox is real
_OPENS, _CLOSES = 6, 20  # hours, UTC
_PRIORITIES = (Priority.CRITICAL, *[Priority.HIGH] * 3, *[Priority.MEDIUM] * 8, *[Priority.LOW] * 3)
_KEPT = (AuditEntry, JournalHead)  # the journal, and its numbers, which go on where they were


class DemoError(WorkflowError):
    """The demonstration team can't be made or removed. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Removed:
    """How many rows of each kind were deleted."""

    rows: Mapping[str, int]


@dataclass(slots=True)
class _Happening:
    """Something that happens to a piece of work at an instant."""

    at: datetime
    verb: str
    work: "_Work"
    text: str = ""
    percent: int = 0


@dataclass(slots=True)
class _Work:
    """A piece of work, and the task it became."""

    nova_id: str
    pattern: str
    kind: Mapping[str, Any]
    priority: Priority
    minutes: float
    task_id: str = ""


def seed(*, days: int, now: datetime) -> dict[str, int]:
    """Make the team and its history of so many days, one transaction a day; give how many of what were made.

    :raises DemoError: it is there already, or a Nova of such a name is.
    """
    if not 1 <= days <= MOST_DAYS:
        raise DemoError(f"Give 1 to {MOST_DAYS} days. Nothing was made.")
    story = _story()
    names = list(story["novas"])
    if there := list(Nova.objects.filter(pk__in=names).values_list("pk", flat=True)):
        raise DemoError(f"There is {', '.join(there)} already; remove the demonstration first. Nothing was made.")
    wanted = {nova["personality"] for nova in story["novas"].values()}
    if missing := sorted(wanted - set(Personality.objects.filter(archived_at=None).values_list("pk", flat=True))):
        raise DemoError(f"There is no personality {', '.join(missing)} in use; `manage.py seed` makes it. Nothing was made.")
    chance = random.Random(f"demonstration {now:%Y-%m-%d}")  # noqa: S311 - the same day tells the same story
    end = now - _MARGIN
    begin = end - timedelta(days=days)
    with _unpublished(now), audit.acting(ACTOR):
        for name, nova in story["novas"].items():
            services.create_nova(
                name, now=begin, team=TEAM, reason=LABEL, default_executor="agent", allowed_executors=["agent"],
                stream_executors=["agent"], **nova,
            )  # fmt: skip
            services.pause_nova(name, reason=LABEL, now=begin)
    happenings = sorted(_happenings(story, begin, end, chance), key=lambda one: one.at)
    for day in range(days + 1):
        since, until = begin + timedelta(days=day), begin + timedelta(days=day + 1)
        with _unpublished(now), audit.acting(ACTOR):
            for one in happenings:
                if since <= one.at < until:
                    _carry_out(one)
    violations = _violations(story, names, begin, end, chance, now)
    made = {"novas": len(names), "tasks": Task.objects.filter(team=TEAM, assignee__in=names).count(), "incidents": violations}
    with transaction.atomic():
        after: dict[str, Any] = {"days": days, **made}
        audit.record([Entry(DEMO_SEEDED, object_type="team", object_id=TEAM, after=after, reason=LABEL)], now=now)
    return made


def remove(*, now: datetime) -> Removed:
    """Delete every row of the team that `seed` made; the journal keeps its entries, and says that they are gone.

    :raises DemoError: there is none.
    """
    with transaction.atomic():
        names = _made_here()
        if not names:
            raise DemoError("There is no demonstration team. Nothing was removed.")
        rows: dict[str, int] = {}
        for model, column in _holders():
            count, _ = model._base_manager.filter(**{f"{column}__in": names}).delete()
            if count:
                rows[model._meta.label_lower] = rows.get(model._meta.label_lower, 0) + count
        audit.record([Entry(DEMO_REMOVED, object_type="team", object_id=TEAM, after=rows, reason=LABEL)], now=now)
    return Removed(rows)


def _story() -> dict[str, Any]:
    path = Path(settings.BASE_DIR) / "templates" / "enterprise_demo" / "team.yaml"
    story: dict[str, Any] = yaml.safe_load(path.read_text())
    return story


def _made_here() -> list[str]:
    """Give the team's Novas, as the journal says who made them: one that an operator made by such a name is not ours."""
    wanted = list(_story()["novas"])
    present = list(Nova.objects.select_for_update().filter(pk__in=wanted).values_list("pk", flat=True))
    made = AuditEntry.objects.filter(object_id__in=present, action=NOVA_CREATED).values("object_id").annotate(last=Max("id"))
    ours = AuditEntry.objects.filter(id__in=[row["last"] for row in made], actor=ACTOR)
    return sorted(ours.values_list("object_id", flat=True))


def _holders() -> Iterator[tuple[type[models.Model], str]]:
    """Give every table that holds rows of a Nova, and by which column: what points at tasks first, the Novas last."""
    tables = apps.get_models()
    for model in tables:
        for field in model._meta.concrete_fields:
            if field.related_model is Task:
                yield model, f"{field.name}__assignee"
    late: list[tuple[type[models.Model], str]] = []
    for model in tables:
        if model in _KEPT or model is Nova:
            continue
        for field in model._meta.concrete_fields:
            if field.related_model is Nova:
                late.append((model, field.name))
            elif field.name == "nova_id":
                yield model, field.name
    yield from sorted(late, key=lambda pair: pair[0] is not Task)
    yield Nova, "nova_id"


class _unpublished:
    """A transaction whose entries go out on no stream, and so into no figure that is derived there."""

    def __init__(self, now: datetime) -> None:
        self._before_margin = now - _MARGIN / 2

    def __enter__(self) -> None:
        self._atomic = transaction.atomic()
        self._atomic.__enter__()
        self._newest = OutboxEntry.objects.order_by("-id").values_list("id", flat=True).first() or 0

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            # others may have written meanwhile: theirs is younger than anything of ours
            OutboxEntry.objects.filter(id__gt=self._newest, created_at__lt=self._before_margin).delete()
        self._atomic.__exit__(*error)


def _happenings(story: Mapping[str, Any], begin: datetime, end: datetime, chance: random.Random) -> Iterator[_Happening]:
    """Tell what happens: each Nova has a day's work, one piece after the other, less of it at weekends."""
    patterns = dict(Personality.objects.values_list("pk", "communication_pattern"))
    for name, nova in story["novas"].items():
        pattern = patterns[nova["personality"]]
        midnight = begin.replace(hour=0, minute=0, second=0, microsecond=0)
        while midnight < end:
            closes = midnight + timedelta(hours=_CLOSES)
            free = midnight + timedelta(hours=_OPENS, minutes=chance.uniform(0, 90))
            pieces = chance.randint(1, 3) if midnight.weekday() >= 5 else chance.randint(5, 9)
            for _ in range(pieces):
                kind = chance.choice(story["work"])
                work = _Work(name, pattern, kind, chance.choice(_PRIORITIES), chance.uniform(*kind["minutes"]))
                asked = max(begin, free - timedelta(minutes=chance.uniform(1, 50)))
                if free < begin or free >= closes:
                    break
                yield from _until(end, _course(story, work, asked, free, chance))
                free += timedelta(minutes=work.minutes * chance.uniform(1.1, 1.6) + chance.uniform(4, 40))
            midnight += timedelta(days=1)


def _course(
    story: Mapping[str, Any], work: _Work, asked: datetime, taken: datetime, chance: random.Random
) -> Iterator[_Happening]:
    """Tell one piece of work: asked for, taken up, and one of the ways it may end."""
    span = timedelta(minutes=work.minutes)
    yield _Happening(asked, "create", work)
    fate = chance.random()
    if fate < 0.02:
        yield _Happening(taken, "cancel", work, "no longer needed")
        return
    yield _Happening(taken, "start", work, phrase(work.pattern, "take", title=work.kind["title"]))
    if fate < 0.08:
        yield _Happening(taken + span / 3, "retry", work, chance.choice(story["failures"]))
        yield _Happening(taken + span / 2, "start", work, phrase(work.pattern, "retake", title=work.kind["title"], attempt=2))
    elif fate < 0.13:
        block = chance.choice(story["blocks"])
        yield _Happening(taken + span / 2, "block", _with_block(work, block), block["reason"])
        waited = timedelta(hours=chance.uniform(1, 30))
        yield _Happening(taken + waited, "unblock", work, "done")
        yield _Happening(taken + waited + span / 4, "start", work, phrase(work.pattern, "take", title=work.kind["title"]))
        taken += waited
    text = phrase(work.pattern, "progress", title=work.kind["title"], percent=60)
    yield _Happening(taken + span * 0.6, "progress", work, text, 60)
    results = work.kind["results"].format(n=chance.randint(20, 90), few=chance.randint(2, 9))
    yield _Happening(taken + span, "complete", work, results)


def _until(end: datetime, course: Iterator[_Happening]) -> list[_Happening]:
    """Cut a course where the history ends: nobody holds a task then."""
    told = [one for one in course if one.at < end]
    while told and told[-1].verb in ("start", "progress"):
        told.pop()
    return told


def _with_block(work: _Work, block: Mapping[str, str]) -> _Work:
    work.kind = {**work.kind, "block": block}
    return work


def _carry_out(one: _Happening) -> None:
    """Let it happen, by the tracker, at its instant."""
    work, tracker = one.work, TaskTracker(now=one.at)
    if one.verb == "create":
        work.task_id = tracker.create_task(
            work.kind["title"], work.kind["description"], work.priority, assignee=work.nova_id, team=TEAM,
            executor="agent", estimated_duration=timedelta(minutes=sum(work.kind["minutes"]) / 2), sender=ACTOR,
            metadata={"demonstration": True},
        )  # fmt: skip
    else:
        _change(tracker, one, task_row(Task.objects.values_list(*ROW_COLUMNS).get(pk=work.task_id)))
    tracker.flush()


def _change(tracker: TaskTracker, one: _Happening, row: TaskRow) -> None:
    work = one.work
    tracker.add_rows([row])
    if one.verb == "start":
        tracker.start_task(row, nova_id=work.nova_id, update=one.text, attempt=row.attempts + 1)
    elif one.verb == "progress":
        tracker.update_progress(row, one.text, one.percent)
    elif one.verb == "retry":
        tracker.retry_task(row, not_before=one.at, reason=one.text)
    elif one.verb == "block":
        block = work.kind["block"]
        tracker.block_task(row, owner=block["owner"], action=block["action"], reason=one.text)
    elif one.verb == "unblock":
        tracker.unblock_task(row, one.text)
    elif one.verb == "cancel":
        tracker.cancel_task(row, one.text)
    else:
        _complete(tracker, one, row)


def _complete(tracker: TaskTracker, one: _Happening, row: TaskRow) -> None:
    """End it well, with what was learned, and celebrate."""
    work = one.work
    tracker.complete_task(row, one.text, {"minutes": round(work.minutes, 1)})
    insights = {"learning": work.kind["insight"]}
    tracker.record_insights(row, insights)
    impact = "It was asked for, and is done."
    message = phrase(work.pattern, "celebrate", title=work.kind["title"], impact=impact)
    tracker.journal.entries += [
        Entry(TASK_CELEBRATED, work.nova_id, "task", row.id, after={"level": "steady", "impact": impact}, reason=message),
        Entry(INSIGHT_RECORDED, work.nova_id, "task", row.id, after=insights),
    ]


def _violations(
    story: Mapping[str, Any], names: list[str], begin: datetime, end: datetime, chance: random.Random, now: datetime
) -> int:
    """Let a few limits be exceeded, one incident after the other; give how many."""
    for number, told in enumerate(story["incidents"]):
        nova_id = names[number % len(names)]
        at = begin + (end - begin) * chance.uniform(0.1, 0.9)
        over = at + timedelta(minutes=told["minutes"])
        violation = incidents.Violation(nova_id, told["mechanism"], told["reason"], told["evidence"], level="cooldown")
        with _unpublished(now), audit.acting(ACTOR):
            audit.record(incidents.open_incidents([violation], now=at), now=at)
            ended = incidents.end_incidents([(nova_id, told["mechanism"])], now=over)
            audit.record(list(ended.values()), now=over)
            SafetyIncident.objects.filter(nova_id=nova_id, ended_at=over).update(conclusion=told["conclusion"])
    return len(story["incidents"])
