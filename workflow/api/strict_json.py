"""The API's parser: JSON that every store and stream behind it can keep, and nothing else.

What a database or the stream server can't hold (NUL, lone surrogates, numbers beyond 64 bits, towers of brackets) is refused
here, with a pointer to the place.
"""

from collections.abc import Iterator, Mapping
from typing import IO, Any

from django.http import HttpRequest
from rest_framework.exceptions import APIException, ParseError, ValidationError
from rest_framework.parsers import JSONParser

BODY_LIMIT = 512 * 1024  # bytes
MANY_LIMIT = 8 * 1024 * 1024  # where one request speaks of many tasks
DEPTH_LIMIT = 32


class BodyTooLarge(APIException):
    """The body is larger than any request needs to be."""

    status_code = 413
    default_code = "body_too_large"
    default_detail = f"The body is larger than {BODY_LIMIT} bytes."


class LengthMissing(APIException):
    """The body comes in pieces of unknown length."""

    status_code = 411
    default_code = "length_required"
    default_detail = "Say with Content-Length how long the body is; it was not read, and nothing was changed."


def demand_length(request: HttpRequest, limit: int = BODY_LIMIT) -> None:
    """Refuse a body whose length is unknown, no number, or too much, before anything reads it.

    :raises LengthMissing: it comes in pieces. :raises ParseError: no number. :raises BodyTooLarge: too much.
    """
    length = request.META.get("CONTENT_LENGTH") or ""
    if not length:
        if request.META.get("HTTP_TRANSFER_ENCODING"):
            raise LengthMissing
    elif not length.isascii() or not length.isdigit():
        raise ParseError("Content-Length is no number.")
    elif int(length[:20]) > limit:
        raise BodyTooLarge(f"The body is larger than {limit} bytes.")


class StrictJSONParser(JSONParser):
    """JSON, one object, every value storable."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Read the body.

        :raises ParseError: it is no JSON object. :raises ValidationError: a value can't be kept.
        """
        try:
            data = super().parse(stream, media_type, parser_context)
        except RecursionError:
            raise ParseError("JSON parse error - nested too deeply") from None
        if not isinstance(data, dict):
            raise ParseError("The body must be one JSON object.")
        problems: dict[str, Any] = {}
        for path, text in _unstorable(data, ()):
            place = problems
            for name in path[:-1]:
                place = place.setdefault(name, {})
            place[path[-1]] = [text]
        if problems:
            raise ValidationError(problems, code="unstorable")
        return data


def unstorable_text(text: str) -> str:
    """Say why a text can't be kept; empty if it can."""
    if "\x00" in text:
        return "NUL characters are refused."
    try:
        text.encode()
    except UnicodeEncodeError:
        return "Lone surrogates are refused: this is not a Unicode text."
    return ""


def _unstorable(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Give the path to each value that can't be kept, and why not."""
    if len(path) > DEPTH_LIMIT:
        yield path, f"Nested deeper than {DEPTH_LIMIT} levels."
    elif isinstance(value, str):
        if problem := unstorable_text(value):
            yield path, problem
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            yield path, "Whole numbers must fit in 64 bits."
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unstorable(inner, (*path, str(index)))
    elif isinstance(value, dict):
        for name, inner in value.items():
            if problem := unstorable_text(name):
                yield (*path, "?"), f"A key here is refused: {problem}"
            else:
                yield from _unstorable(inner, (*path, name))
