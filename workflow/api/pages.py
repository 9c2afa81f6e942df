"""Cursor pages: a list is read from where the last page ended, so rows that come or go meanwhile don't shift it.

A cursor holds the last row's key. Rows may be read in parts (one per status, say), each along its own index, and merged.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Generic, TypeVar

import orjson
from django.core.exceptions import ValidationError as Malformed
from django.db.models import Model, Q, QuerySet
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

LIMIT_DEFAULT = 50
LIMIT_MOST = 200
PAGING = frozenset({"limit", "cursor", "format"})

Row = TypeVar("Row", bound=Model)


class Pages(Generic[Row]):
    """How one list is paged: by `key` (its last field unique), newest first where `descending`."""

    def __init__(self, *key: str, descending: bool = False) -> None:
        self._key = key
        self._descending = descending

    def answer(
        self, request: Request, parts: Sequence[QuerySet[Row]], represent: Callable[[list[Row]], list[Any]]
    ) -> dict[str, Any]:
        """Give one page of the parts together as {results, next, previous}; one query a part.

        :raises ValidationError: limit or cursor is not one of ours.
        """
        limit = _limit(request.query_params.get("limit"))
        backwards, position = self._cursor(request.query_params.get("cursor"), parts[0].model)
        descending = self._descending != backwards
        order = [f"-{name}" if descending else name for name in self._key]
        rows: list[Row] = []
        for part in parts:
            rows += part.filter(self._beyond(position, descending)).order_by(*order)[: limit + 1]
        rows.sort(key=attrgetter(*self._key), reverse=descending)
        more = len(rows) > limit
        rows = rows[:limit]
        if backwards:
            rows.reverse()
        following = rows and (more or backwards)
        preceding = rows and position and (more or not backwards)
        return {
            "results": represent(rows),
            "next": self._link(request, rows[-1], backwards=False) if following else None,
            "previous": self._link(request, rows[0], backwards=True) if preceding else None,
        }

    def _beyond(self, position: list[Any], descending: bool) -> Q:
        """Give the condition of lying beyond a position; its first part is a plain range, so that an index serves it."""
        if not position:
            return Q()
        side = "lt" if descending else "gt"
        first = Q(**{f"{self._key[0]}__{side}e": position[0]})
        beyond, equal = Q(), Q()
        for name, value in zip(self._key, position, strict=True):
            beyond |= equal & Q(**{f"{name}__{side}": value})
            equal &= Q(**{name: value})
        return first & beyond

    def _link(self, request: Request, row: Row, *, backwards: bool) -> str:
        position = [getattr(row, name) for name in self._key]
        cursor = base64.urlsafe_b64encode(orjson.dumps([backwards, *position])).decode().rstrip("=")
        query = request.query_params.copy()
        query["cursor"] = cursor
        return request.build_absolute_uri(f"{request.path}?{query.urlencode()}")

    def _cursor(self, text: str | None, model: type[Model]) -> tuple[bool, list[Any]]:
        if not text:
            return False, []
        try:
            backwards, *position = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            if not isinstance(backwards, bool) or len(position) != len(self._key):
                raise ValueError
            return backwards, [_value(model, name, value) for name, value in zip(self._key, position, strict=True)]
        except (ValueError, TypeError, binascii.Error, Malformed):
            problem = "This is not a cursor of this list; take next or previous as they were given."
            raise ValidationError({"cursor": [problem]}, code="invalid_cursor") from None


def _value(model: type[Model], name: str, value: Any) -> Any:
    """Read a part of a cursor as the column holds it."""
    if isinstance(value, bool) or not isinstance(value, str | int) or "\x00" in str(value):
        raise ValueError
    field = model._meta.get_field(name)
    read = field.to_python(value)  # type: ignore[union-attr]
    if isinstance(read, datetime) and read.tzinfo is None:
        raise ValueError
    if isinstance(read, int) and not -(2**63) <= read < 2**63:
        raise ValueError
    return read


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= LIMIT_MOST:
        raise ValidationError({"limit": [f"Give a whole number from 1 to {LIMIT_MOST}."]}, code="invalid_limit")
    return int(text)


def refuse_unknown_parameters(request: Request, known: frozenset[str]) -> None:
    """Refuse a mistyped filter: ignoring it would list everything.

    :raises ValidationError: it names each one.
    """
    unknown = sorted(set(request.query_params) - known - PAGING)
    if unknown:
        allowed = ", ".join(sorted(known | PAGING))
        raise ValidationError(
            {name: [f"Unknown parameter; known are {allowed}."] for name in unknown}, code="unknown_parameter"
        )
