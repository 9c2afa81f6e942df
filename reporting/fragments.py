"""Pages and their live parts. A part ("fragment") is rendered once a topic version and permission scope, whoever asks.

How to add a page, in five steps:

1. In reporting/pages/, write what a part shows: `@fragment("board", "reporting/board/columns.html")` over a function of
   (request, now, **words of the address) that gives the template's context. It must read nothing of the request but its
   user's permissions and its query; the template gets `perms`, `now`, and no request, since its text is shared.
2. Write the page: `@page("reporting/board/page.html", "workflow.view_task")` over a function that gives the context, with
   `"columns": columns.show(request, now)`. Its template extends base.html and says `{{ columns }}` where the part belongs.
3. Put both into reporting/urls.py: `path("board/", board, name="board")` and `path("parts/board/columns/", columns,
   name="part-columns")`, by the function's name. The menu shows an entry as soon as its name leads somewhere.
4. If it listens to a new kind of topic, give that a line in reporting/core/topics.py. Elements that can have the focus, and
   every <details>, need an id: then updates keep focus and openness.
5. Name the page in tests/browser/pages.py: there it is looked at in both themes and widths, by axe too, and photographed.
"""

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import update_wrapper, wraps
from typing import Any

from django.contrib.auth.context_processors import PermWrapper
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotModified
from django.shortcuts import render
from django.template.loader import get_template
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.http import require_safe

from reporting.broadcast import broadcast
from reporting.core.topics import RIGHTS

FRESH_SECONDS = 15  # what only time changes ("silent for 2 minutes") is rendered anew after
KEPT_BYTES = 16_000_000  # of rendered parts, in this process
_RELEASE = secrets.token_hex(4)  # of this process: another one may run other templates

Gather = Callable[..., Mapping[str, Any]]


def page(template: str, right: str) -> Callable[[Gather], Callable[..., HttpResponse]]:
    """Make a page of a function (request, now, **words of the address) that gives its context; for whoever has the right."""

    def decorate(gather: Gather) -> Callable[..., HttpResponse]:
        @require_safe
        @login_required
        @wraps(gather)
        def view(request: HttpRequest, **words: Any) -> HttpResponse:
            demand(request, right)
            response = render(request, template, dict(gather(request, timezone.now(), **words)))
            response["Cache-Control"] = "private, no-cache"
            return response

        return view

    return decorate


def demand(request: HttpRequest, right: str) -> None:
    """Refuse whoever lacks a right.

    :raises PermissionDenied: it is missing.
    """
    if right and not request.user.has_perm(right):
        raise PermissionDenied


def fragment(
    topic: str, template: str, *, right: str = "", keys: frozenset[str] = frozenset()
) -> Callable[[Gather], "Fragment"]:
    """Make a live part of a function (request, now, **words) that gives its context.

    `topic` may use words of the address: `nova:{nova_id}`. `right` is the topic's unless given. `keys` are the query's names
    that it reads; others are ignored.
    """
    return lambda gather: Fragment(topic, template, right or RIGHTS[topic.partition(":")[0]], keys, gather)


class Fragment:
    """A part of a page: a view that answers with its HTML, or 304; `show` puts it into a page."""

    def __init__(self, topic: str, template: str, right: str, keys: frozenset[str], gather: Gather) -> None:
        self._topic, self._template, self._right, self._keys, self._gather = topic, template, right, keys, gather
        self.name = gather.__name__
        update_wrapper(self, gather)

    def __call__(self, request: HttpRequest, **words: Any) -> HttpResponse:
        """Answer with what it shows now."""
        if request.method not in ("GET", "HEAD"):
            return HttpResponse(status=405, headers={"Allow": "GET, HEAD"})
        if not request.user.is_authenticated:
            return HttpResponse("Your session has ended. Log in again.", status=401, content_type="text/plain")
        demand(request, self._right)
        now = timezone.now()
        key = self._key(request, now, words)
        headers = {"ETag": f'"{key}"', "Cache-Control": "private, no-cache", "Vary": "Cookie"}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return HttpResponseNotModified(headers=headers)
        return HttpResponse(_store.give(key, lambda: self._render(request, now, words)), headers=headers)

    def show(self, request: HttpRequest, now: datetime, **words: Any) -> SafeString:
        """Give it for a page, always as it is now; empty for whoever lacks the right."""
        if not request.user.has_perm(self._right):
            return mark_safe("")
        query = self._query(request)
        url = reverse(f"part-{self.name.replace('_', '-')}", kwargs=words) + (f"?{query}" if query else "")
        return format_html(
            '<div class="live" id="live-{}" data-topic="{}" data-asof="{}" hx-get="{}" hx-trigger="live">{}</div>',
            self.name.replace("_", "-"),
            self._topic.format(**words),
            timezone.localtime(now).strftime("%H:%M:%S"),
            url,
            mark_safe(self._render(request, now, words)),  # noqa: S308 - a template's output
        )

    def _query(self, request: HttpRequest) -> str:
        query = request.GET.copy()
        for name in [name for name in query if name not in self._keys]:
            del query[name]
        return query.urlencode()

    def _key(self, request: HttpRequest, now: datetime, words: Mapping[str, Any]) -> str:
        topic = self._topic.format(**words)
        scope = ",".join(sorted(request.user.get_all_permissions()))
        turn = int(now.timestamp()) // FRESH_SECONDS
        text = "\0".join((_RELEASE, self.name, topic, str(broadcast.version(topic)), str(turn), scope, self._query(request)))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _render(self, request: HttpRequest, now: datetime, words: Mapping[str, Any]) -> str:
        context = {"now": now, "perms": PermWrapper(request.user), **self._gather(request, now, **words)}
        return str(get_template(self._template).render(context))


@dataclass(slots=True)
class _Kept:
    lock: threading.Lock
    text: str | None = None


class _Store:
    """What was rendered lately. Who asks for what is just being rendered waits for it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def give(self, key: str, render: Callable[[], str]) -> str:
        with self._lock:
            kept = self._kept.setdefault(key, _Kept(threading.Lock()))
            self._kept.move_to_end(key)
        with kept.lock:
            if kept.text is None:
                try:
                    kept.text = render()
                except BaseException:
                    with self._lock:
                        self._kept.pop(key, None)
                    raise
                self._make_room(key, kept)
            return kept.text

    def _make_room(self, key: str, kept: _Kept) -> None:
        with self._lock:
            if self._kept.get(key) is kept:  # it may have been dropped while it was rendered
                self._size += len(kept.text or "")
            while self._size > KEPT_BYTES and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._size -= len(dropped.text or "")


_store = _Store()
