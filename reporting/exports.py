"""A report as a file: CSV and XLSX for spreadsheets, JSON for programs. What begins like a formula is none in either."""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import xlsxwriter

from reporting.core.comparison import COLUMNS, rows, unformulated
from reporting.models import Report


@dataclass(frozen=True, slots=True)
class Export:
    """A file to hand over."""

    content: bytes
    media_type: str
    name: str


def about(report: Report) -> dict[str, Any]:
    """Say what a report is, without who made it."""
    return {
        "id": report.id,
        "scope": report.scope,
        "since": report.since.isoformat(),
        "until": report.until.isoformat(),
        "generated_at": report.generated_at.isoformat(),
        "journal_head": report.journal_head,
        "seal_head": report.seal_head,
        "digest": report.digest,
    }


def _csv(report: Report) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    for name, value in about(report).items():
        writer.writerow([name, unformulated(value)])
    writer.writerow([])
    writer.writerow(COLUMNS)
    for row in rows(report.payload):
        writer.writerow(["" if row[name] is None else unformulated(row[name]) for name in COLUMNS])
    return text.getvalue().encode("utf-8-sig")  # the mark tells spreadsheets that it is UTF-8


def _json(report: Report) -> bytes:
    return orjson.dumps({"report": about(report), **report.payload}, option=orjson.OPT_INDENT_2)


def _xlsx(report: Report) -> bytes:
    file = io.BytesIO()
    book = xlsxwriter.Workbook(file, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False})
    bold = book.add_format({"bold": True})
    sheet = book.add_worksheet("Figures")
    for column, (name, width) in enumerate(zip(COLUMNS, (22, 30, 18, 10, 12, 12, 12, 10, 10, 26, 26, 80), strict=True)):
        sheet.set_column(column, column, width)
        sheet.write(0, column, name, bold)
    for line, row in enumerate(rows(report.payload), 1):
        for column, name in enumerate(COLUMNS):
            sheet.write(line, column, row[name])
    sheet.freeze_panes(1, 2)
    sheet.autofilter(0, 0, line, len(COLUMNS) - 1)
    for title, points in report.payload["series"].items():
        if isinstance(points, list) and points:
            _write_points(book.add_worksheet(title.replace("_", " ")[:31]), points, bold)
    last = book.add_worksheet("About")
    last.set_column(0, 1, 40)
    for line, (name, value) in enumerate(about(report).items()):
        last.write(line, 0, name, bold)
        last.write(line, 1, value)
    book.close()
    return file.getvalue()


def _write_points(sheet: Any, points: list[Mapping[str, Any]], bold: Any) -> None:
    sheet.set_column(0, 0, 28)
    for column, name in enumerate(points[0]):
        sheet.write(0, column, name, bold)
        for line, point in enumerate(points, 1):
            sheet.write(line, column, point[name])


_SPREADSHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
FORMATS: Mapping[str, tuple[Callable[[Report], bytes], str]] = {
    "csv": (_csv, "text/csv; charset=utf-8"),
    "xlsx": (_xlsx, _SPREADSHEET),
    "json": (_json, "application/json"),
}


def export(report: Report, kind: str) -> Export:
    """Give a report as a file of one of the FORMATS."""
    make, media_type = FORMATS[kind]
    return Export(make(report), media_type, f"{report.id}.{kind}")
