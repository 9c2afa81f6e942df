"""Where pages lead to: the page of an object that the journal names, and filters of the journal."""

from collections.abc import Mapping
from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode

# kind of an object in the journal: the name of its page
_PAGES: Mapping[str, str] = {
    "nova": "nova", "task": "task", "halt": "order", "incident": "incident", "report": "report", "approval": "waiting",
}  # fmt: skip


def address_of(name: str, *args: Any) -> str:
    """Give the address of a page, or nothing where there is none of that name for such an object."""
    try:
        return reverse(name, args=args)
    except NoReverseMatch:
        return ""


def page_of(kind: str, object_id: str) -> str:
    """Give the address of an object's page; empty: it has none."""
    name = _PAGES.get(kind, "")
    if not name or not object_id:
        return ""
    return address_of(name, object_id) or address_of(name)


def story_of(kind: str, object_id: str) -> str:
    """Give the address of an object's story in the journal."""
    return f"{reverse('journal')}?{urlencode({'type': kind, 'object': object_id})}"
