"""What a figure is: a value that says how it was computed, over which period, from how many cases, and where its rows are.

Too few cases give no value: "not enough data (3 of 20)" is an answer, 100 % of three is none. Pure.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

LEAST_CASES = 20  # for a share to mean something
LEAST_FOR_QUANTILES = 20
LEAST_FOR_TREND = 10  # in the period before


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time, its end not included."""

    since: datetime
    until: datetime

    @property
    def length(self) -> timedelta:
        return self.until - self.since

    @property
    def hours(self) -> float:
        return self.length.total_seconds() / 3600

    @property
    def previous(self) -> "Period":
        """Give the period of the same length before it."""
        return Period(self.since - self.length, self.since)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. `value` None: not enough data. `link`: list and query at /api/v1/ of the rows behind it; empty: none."""

    value: float | int | str | None
    unit: str  # tasks, tasks/h, percent, seconds, …; empty: a word
    formula: str  # in words
    period: Period | None  # None: as things stand now
    cases: int
    least_cases: int = 0
    link: str = ""

    @property
    def text(self) -> str:
        """Say the value in words."""
        if self.value is None:
            return f"not enough data ({self.cases} of {self.least_cases})"
        if isinstance(self.value, str):
            return self.value
        number = f"{self.value:,.4g}" if isinstance(self.value, float) and abs(self.value) < 1000 else f"{self.value:,.0f}"
        return f"{number} {'%' if self.unit == 'percent' else self.unit}".strip()

    def shown(self) -> dict[str, Any]:
        """Give it as plain values, for pages, API and files."""
        return {
            "value": self.value,
            "text": self.text,
            "unit": self.unit,
            "formula": self.formula,
            "since": self.period.since.isoformat() if self.period else None,
            "until": self.period.until.isoformat() if self.period else None,
            "cases": self.cases,
            "least_cases": self.least_cases,
            "link": self.link,
        }


def count(value: float, unit: str, formula: str, period: Period | None, link: str = "") -> Figure:
    """Make a figure of a plain number: it is its own number of cases."""
    return Figure(value, unit, formula, period, int(value), 0, link)


def share(part: int, whole: int, formula: str, period: Period | None, link: str = "", least: int = LEAST_CASES) -> Figure:
    """Make a figure of `part` of `whole` in percent."""
    value = round(100 * part / whole, 1) if whole and whole >= least else None
    return Figure(value, "percent", formula, period, whole, least, link)


def ratio(part: float, whole: int, unit: str, formula: str, period: Period | None, link: str = "", least: int = 1) -> Figure:
    """Make a figure of `part` for each one of `whole`."""
    value = round(part / whole, 3) if whole and whole >= least else None
    return Figure(value, unit, formula, period, whole, least, link)


def per_hour(number: int, observed: Period, formula: str, link: str = "") -> Figure:
    """Make a figure of a number for each hour of the time observed; under a quarter of an hour says nothing."""
    if observed.hours < 0.25:
        return Figure(None, "tasks/h", formula, observed, number, number + 1, link)
    return Figure(round(number / observed.hours, 3), "tasks/h", formula, observed, number, 0, link)


def trend(now: int, before: int, formula: str, period: Period, link: str = "") -> Figure:
    """Make a figure of the change in percent against the period before."""
    value = round(100 * (now - before) / before, 1) if before >= LEAST_FOR_TREND else None
    return Figure(value, "percent", formula, period, before, LEAST_FOR_TREND, link)
