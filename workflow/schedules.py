"""What runs by the clock: django-q2's schedules of this installation. Living hosts take them; one host runs each at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django_q.models import Schedule

from safety import audit
from safety.audit import Entry

SCHEDULE_CREATED = "workflow.schedule.created"


@dataclass(frozen=True, slots=True)
class Planned:
    """A job and how often it runs."""

    job: str
    minutes: int
    first_after: timedelta


SCHEDULES: Mapping[str, Planned] = {
    "seal-journal": Planned("workflow.jobs.seal_journal", 1, timedelta(0)),
    "verify-journal": Planned("workflow.jobs.verify_journal", 24 * 60, timedelta(minutes=10)),
    "make-reports": Planned("reporting.jobs.make_due_reports", 1, timedelta(0)),  # of an upper floor, known by its name
    "keep-retention": Planned("workflow.jobs.keep_retention", 24 * 60, timedelta(minutes=30)),
}


def seed_schedules(*, now: datetime) -> list[str]:
    """Plan what is not planned yet, in the caller's transaction; give the names. What is planned stays as it is."""
    known = set(Schedule.objects.filter(name__in=SCHEDULES).values_list("name", flat=True))
    missing = {name: planned for name, planned in SCHEDULES.items() if name not in known}
    for name, planned in missing.items():
        Schedule.objects.create(
            name=name,
            func=planned.job,
            schedule_type=Schedule.MINUTES,
            minutes=planned.minutes,
            repeats=-1,
            next_run=now + planned.first_after,
        )
    told = [
        Entry(SCHEDULE_CREATED, "", "schedule", name, after={"job": planned.job, "minutes": planned.minutes})
        for name, planned in missing.items()
    ]
    audit.record(told, now=now)
    return [f"schedule {name}" for name in missing]
