"""Figures: what was measured, against which bar, and the table in which a person reads them."""

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to reach: at least `limit`, or, with `at_most`, no more than it."""

    limit: float
    at_most: bool = False

    def holds(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {number(self.limit)}"


@dataclass(slots=True)
class Figure:
    """One measured number of one scenario on one database; `detail` goes into the JSON record only."""

    scenario: str
    name: str
    value: float
    unit: str = ""
    bar: Bar | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.bar is None or self.bar.holds(self.value)


def number(value: float) -> str:
    """Write a number with as many digits as mean something."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value below which `share` of all values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(columns: dict[str, list[Figure]]) -> str:
    """Write the figures of each database side by side, one line a figure, in the order in which they were measured."""
    names = list(dict.fromkeys((figure.scenario, figure.name, figure.unit) for found in columns.values() for figure in found))
    rows = [["scenario", "figure", *columns, "bar", "ok"]]
    for key in names:
        cells, bars, ok = [], [], True
        for found in columns.values():
            figure = next((f for f in found if (f.scenario, f.name, f.unit) == key), None)
            cells.append(number(figure.value) if figure else "-")
            if figure:
                ok = ok and figure.ok
                bars += [str(figure.bar)] if figure.bar else []
        bar = ", ".join(dict.fromkeys(bars))
        rows.append([key[0], f"{key[1]} ({key[2]})" if key[2] else key[1], *cells, bar, ("yes" if ok else "NO") if bar else ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for place, row in enumerate(rows):
        numbers = range(2, 2 + len(columns))
        cells = [cell.rjust(widths[i]) if i in numbers else cell.ljust(widths[i]) for i, cell in enumerate(row)]
        lines.append("| " + " | ".join(cells) + " |")
        if place == 0:
            lines.append(
                "|" + "|".join("-" * (width + 1) + (":" if i in numbers else "-") for i, width in enumerate(widths)) + "|"
            )
    return "\n".join(lines)


def machine(folder: Path) -> dict[str, Any]:
    """Say on what it was measured; the last two show a machine that was busy, and a disk that does not flush."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": model,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "spin_ms": round(_spin_ms(), 1),
        "flush_us": round(_flush_us(folder), 1),
    }


def _spin_ms() -> float:
    """Time a fixed loop."""
    begun = time.perf_counter()
    x = 0
    for i in range(300_000):
        x = (x * 31 + i) & 0xFFFFFFFF
    return (time.perf_counter() - begun) * 1000


def _flush_us(folder: Path) -> float:
    """Time writing 4 KiB and flushing it to the disk that the databases are on."""
    path = folder / "flush"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(50):
            begun = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - begun) * 1e6)
    path.unlink()
    return statistics.median(times)
