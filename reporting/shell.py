"""What stands around every page: menu, theme, and what must be seen on all of them. Lazy: most answers use none.

A menu entry is shown to whoever has its right, as soon as its name leads somewhere.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.safestring import SafeString

from reporting.pages.orders import banner
from reporting.pages.waiting import waiting_number

THEMES = ("system", "light", "dark")
THEME_COOKIE = "theme"
KEYS_COOKIE = "keys"
_MENU = (
    ("Fleet", "fleet", "fleet", "workflow.view_nova"),
    ("Board", "board", "board", "workflow.view_task"),
    ("Waiting for you", "waiting", "hand", "workflow.view_approval"),
    ("Handover", "handover", "check", "workflow.view_nova"),
    ("Safety", "safety", "shield", "safety.view_safetyincident"),
    ("Journal", "journal", "book", "workflow.view_nova"),
    ("Reports", "reports", "chart", "reporting.view_report"),
    ("Admin", "admin:index", "gear", ""),
)
# the key after g that leads there
_GO = {"fleet": "f", "board": "b", "waiting": "w", "handover": "h", "safety": "s", "journal": "j", "reports": "r"}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the menu; `icon` is a symbol of reporting/icons.html, `key` leads there after g."""

    title: str
    url: str
    icon: str
    here: bool
    key: str = ""


class Shell:
    """The surroundings of one request's page."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    @property
    def theme(self) -> str:
        """The chosen theme; `system`: whatever the browser prefers."""
        chosen = self._request.COOKIES.get(THEME_COOKIE, "")
        return chosen if chosen in THEMES else "system"

    @property
    def themes(self) -> tuple[str, ...]:
        return THEMES

    @property
    def keys(self) -> str:
        """Tell whether single keys are shortcuts: on or off."""
        return "off" if self._request.COOKIES.get(KEYS_COOKIE) == "off" else "on"

    @cached_property
    def menu(self) -> list[Entry]:
        found, user = [], self._request.user
        for title, name, icon, right in _MENU:
            try:
                url = reverse(name)
            except NoReverseMatch:
                continue
            if user.has_perm(right) if right else user.is_staff:
                here = self._request.path == url or (url != "/" and self._request.path.startswith(url))
                found.append(Entry(title, url, icon, here, _GO.get(name, "")))
        return found

    @property
    def may_stop(self) -> bool:
        return bool(self._request.user.has_perm("workflow.order_stop"))

    @property
    def banner(self) -> SafeString:
        """What all must know: standing orders over the fleet, a stream server that is away."""
        return banner.show(self._request, timezone.now())

    @property
    def waiting(self) -> SafeString:
        """How much waits for a person."""
        return waiting_number.show(self._request, timezone.now())


def shell(request: HttpRequest) -> dict[str, Any]:
    """Give templates their surroundings (a context processor)."""
    return {"shell": Shell(request)}
