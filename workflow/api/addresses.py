"""What an address asks of a key: its scope, the window its requests are counted in, whether its answers are kept apart.

One table for all addresses, also for those that are yet to come: what it doesn't name gets the narrower rule.
"""

import re
from collections.abc import Mapping

from django.conf import settings

from safety.core.scopes import Scope
from safety.request_limits import Window

BASE = "/api/v1/"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

# Where an agent's words must always come through, whatever its key was made for.
_ALWAYS = re.compile(r"novas/[^/]+/(halt-ack|heartbeat|violations|safety-check|usage)/?|whoami/?|")
_AREAS: Mapping[Scope, re.Pattern[str]] = {
    Scope.PERMITS: re.compile(r"novas/[^/]+/api-permits(/.*)?"),
    Scope.MESSAGES: re.compile(r"(novas/[^/]+/)?messages(/.*)?"),
    Scope.EVENTS: re.compile(r"events(/.*)?"),
}
# Words that end or keep up work, and orders to stop: a caller that asks for too much else must still get them through.
_VITAL = re.compile(
    r"tasks/complete/?|tasks/[^/]+/(complete|fail|block|release|renew|progress)/?"
    r"|novas/[^/]+/(heartbeat|halt-ack|pause|drain|halt|kill)/?|halts(/[0-9]+)?/?"
)
# What must not happen within a transaction: it waits, or it asks the stream server.
_APART = re.compile(r"tasks/claim/?|novas/[^/]+/api-permits/?|provider-accounts/[^/]+/(close-breaker|test)/?")


def scopes_for(method: str, path: str) -> frozenset[Scope]:
    """Give the scopes of which a Nova's key needs one; none: any key will do."""
    place = path.removeprefix(BASE)
    if _ALWAYS.fullmatch(place):
        return frozenset()
    area = next((scope for scope, pattern in _AREAS.items() if pattern.fullmatch(place)), None)
    if area is Scope.EVENTS:
        return frozenset({area})
    if method in SAFE:
        own = area or (Scope.TASKS if place.startswith(("tasks", "approvals")) else None)
        return frozenset({Scope.READ, own} if own else {Scope.READ})
    return frozenset({area or Scope.TASKS})


def window_of(path: str, *, agent: bool) -> Window:
    """Give the window in which a request is counted."""
    if _VITAL.fullmatch(path.removeprefix(BASE)):
        return Window("vital", settings.VITAL_REQUESTS_PER_MINUTE)
    if agent:
        return Window("requests", settings.REQUESTS_PER_MINUTE)
    return Window("requests", settings.OPERATOR_REQUESTS_PER_MINUTE)


def is_apart(path: str) -> bool:
    """Tell whether a POST's effect can't share a transaction with its stored answer."""
    return bool(_APART.fullmatch(path.removeprefix(BASE)))
