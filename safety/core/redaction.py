"""Makes what a stranger sent fit to be kept: cut to size, without what looks like a secret, storable everywhere. Pure.

What is cut or taken out says so in its place. A secret that looks like nothing in particular stays: this is a net, not a wall.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"
CUT = "… [cut]"
TEXT_LIMIT = 2_000  # characters of one text
ITEMS_LIMIT = 50  # of one list or object
DEPTH_LIMIT = 8
TOTAL_LIMIT = 16_000  # characters of all texts together

# the whole value behind such a name goes
_SECRET_NAME = re.compile(
    r"pass(?:word|wd|phrase)|secret|api[_-]?key|auth(?:orization)?$|credential|private[_-]?key|cookie|"
    r"(?:access|refresh|auth|bearer|session|id|bot|api)[_-]?token|^token$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"""
      (?P<block>-----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z))
    | (?P<scheme>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}
    | (?P<userinfo>\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{0,64}:)[^\s/@]{1,256}(?=@)
    | (?P<named>\b[\w-]{0,40}(?:password|passwd|secret|token|api[_-]?key)["']?\s*[=:]\s*["']?)[^\s"'&;,]{4,}
    | (?P<known>\b(?:nova_[0-9a-f]{6}_[\w-]{20,}|sk-[\w-]{16,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|
        xox[abposr]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*))
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


def fit(value: Any) -> Any:
    """Give a value of JSON cut to size, storable and without what looks like a secret."""
    return _Fitting().fit(value, DEPTH_LIMIT)


def fit_text(text: str, limit: int = TEXT_LIMIT) -> str:
    """Give a text without what looks like a secret, storable, of at most `limit` characters and a mark where it was cut."""
    # twice the limit is looked at, so that a secret that the cut would split is still seen whole
    cleaned = _SECRET_TEXT.sub(_hide, _storable(text[: 2 * limit]))
    return cleaned if len(cleaned) <= limit and len(text) <= 2 * limit else cleaned[:limit] + CUT


def cut(value: Any, limit: int) -> str:
    """Give the text of a field that identifies something: storable, cut without a mark; anything else than a text is none."""
    return _storable(value)[:limit] if isinstance(value, str) else ""


def _hide(found: "re.Match[str]") -> str:
    kept = found["scheme"] or found["userinfo"] or found["named"] or ""
    return f"{kept}{REDACTED}"


def _storable(text: str) -> str:
    """Replace what databases and JSON can't hold: NUL and lone surrogates."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()


class _Fitting:
    """One value being fitted: knows how much room is left."""

    def __init__(self) -> None:
        self._room = TOTAL_LIMIT

    def fit(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            text = fit_text(value, min(TEXT_LIMIT, self._room)) if self._room > 0 else CUT
            self._room -= len(text)
            return text
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if -(2**63) <= value < 2**63 else str(value)[:40]
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if depth == 0:
            return CUT
        if isinstance(value, Mapping):
            return self._object(value, depth)
        items = [self.fit(item, depth - 1) for item in value[:ITEMS_LIMIT]]
        return items if len(value) <= ITEMS_LIMIT else [*items, CUT]

    def _object(self, value: Mapping[str, Any], depth: int) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, inner in list(value.items())[:ITEMS_LIMIT]:
            self._room -= len(name)
            hidden = isinstance(inner, str) and inner and _SECRET_NAME.search(name)
            kept[_storable(name[:100])] = REDACTED if hidden else self.fit(inner, depth - 1)
        if len(value) > ITEMS_LIMIT:
            kept["…"] = CUT
        return kept
