"""The board: what is to be done, by whom, since when. As columns, or as a table; small screens get the table first."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils.http import urlencode

from reporting.board_rows import LOOKED, Place, columns, table_page
from reporting.core.task_looks import STATUSES
from reporting.fragments import fragment, page
from reporting.task_filters import KEYS, filters_of
from safety.admin import may_read_texts
from workflow.models import Task

TABLE_KEYS = KEYS | {"status", "order", "after", "view"}


@fragment("board", "reporting/board/columns.html", keys=KEYS)
def board_columns(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give the four columns."""
    filters = filters_of(request.GET)
    return {
        "columns": columns(filters, now),
        "query": urlencode({"view": "table", **filters.given}),
        "looked": LOOKED if filters.given else 0,
        "texts": may_read_texts(request),
    }


@fragment("board", "reporting/board/table.html", keys=TABLE_KEYS)
def board_table(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give a page of the table."""
    filters, words = filters_of(request.GET), table_words(request.GET)
    oldest_first = words.get("order") == "oldest"
    shown = table_page(
        filters, status=words.get("status", ""), after=Place.of(request.GET.get("after", "")), oldest_first=oldest_first
    )
    kept = {"view": "table", **filters.given, **words}
    links = [("", "All", _without(kept, "status"))]
    links += [(look.status, look.word, {**kept, "status": look.status}) for look in STATUSES.values()]
    return {
        "page": shown,
        "links": [(status, word, f"?{urlencode(query)}", words.get("status", "") == status) for status, word, query in links],
        "oldest_first": oldest_first,
        "turned": f"?{urlencode(_without(kept, 'order') if oldest_first else {**kept, 'order': 'oldest'})}",
        "first": f"?{urlencode(kept)}" if request.GET.get("after") else "",
        "next": f"?{urlencode({**kept, 'after': str(shown.rest)})}" if shown.rest else "",
        "filters": len(filters.given) + ("status" in words),
        "looked": LOOKED,
        "texts": may_read_texts(request),
        "any": bool(shown.cards) or Task.objects.filter(personal=False).exists(),
    }


@page("reporting/board/page.html", "workflow.view_task")
def board(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Show the board."""
    filters = filters_of(request.GET)
    as_table = request.GET.get("view", "table" if is_small(request) else "columns") == "table"
    part = board_table if as_table else board_columns
    return {
        "part": part.show(request, now),
        "filters": filters,
        "as_table": as_table,
        "words": table_words(request.GET) if as_table else {},
        "query": urlencode({**filters.given, **(table_words(request.GET) if as_table else {})}),
        "columns_link": f"?{urlencode({'view': 'columns', **filters.given})}",
        "table_link": f"?{urlencode({'view': 'table', **filters.given})}",
    }


def table_words(query: Any) -> dict[str, str]:
    """Give what a query asks of the table alone; what means nothing is left out."""
    status, order = query.get("status", ""), query.get("order", "")
    return {**({"status": status} if status in STATUSES else {}), **({"order": order} if order == "oldest" else {})}


def is_small(request: HttpRequest) -> bool:
    """Tell whether the browser says that it is on a telephone."""
    return request.headers.get("Sec-CH-UA-Mobile") == "?1" or "Mobi" in request.headers.get("User-Agent", "")


def _without(words: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: word for key, word in words.items() if key != name}
