"""Which roll-up rows cover a period: whole days and hours where they fit, quarters of an hour at its edges. Pure.

Quarters are kept for two days, hours for 35, days for good: an older period has its edges where a row begins that is kept.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from reporting.core.metrics import Period

QUARTER, HOUR, DAY = 15, 60, 1440  # minutes
GRAINS = (DAY, HOUR, QUARTER)
EVER = 0  # the grain of the one row that holds everything; it starts at BEGINNING
BEGINNING = datetime.fromtimestamp(0, UTC)
KEPT = {QUARTER: timedelta(days=2), HOUR: timedelta(days=35), DAY: timedelta(days=36_500)}
MARGIN = timedelta(hours=2)  # rows are kept this much longer than any reader asks for them


def start_of(at: datetime, grain: int) -> datetime:
    """Give the beginning of the bucket that an instant falls into (UTC)."""
    seconds = int(at.timestamp())
    return datetime.fromtimestamp(seconds - seconds % (grain * 60), UTC)


def finest_kept(at: datetime, now: datetime) -> int:
    """Give the shortest bucket that is still kept of an instant."""
    return next((grain for grain in reversed(GRAINS) if now - at <= KEPT[grain]), DAY)


def aligned(period: Period, now: datetime) -> Period:
    """Move the edges of a period on to the next edges of buckets that are kept, but its end not past now."""
    since = _on_edge(period.since, now)
    until = period.until if period.until >= now else min(_on_edge(period.until, now), now)
    return Period(min(since, until), until)


def cover(period: Period, now: datetime) -> Iterator[tuple[int, datetime]]:
    """Give the buckets, as (grain, start), that together are an aligned period, each instant once.

    The bucket that now falls into is taken whole: it holds nothing that comes later.
    """
    at, until = period.since, period.until
    while at < until:
        grain = next((g for g in GRAINS if start_of(at, g) == at and _fits(at, g, until, now)), QUARTER)
        yield grain, at
        at += timedelta(minutes=grain)


def _on_edge(at: datetime, now: datetime) -> datetime:
    grain = finest_kept(at, now)
    start = start_of(at, grain)
    return start if start == at else start + timedelta(minutes=grain)


def _fits(at: datetime, grain: int, until: datetime, now: datetime) -> bool:
    return at + timedelta(minutes=grain) <= until or until >= now
