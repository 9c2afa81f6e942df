"""`Idempotency-Key` on every POST: the same request again gets the stored answer again, and has no second effect.

Effect and answer are one transaction; where that can't be (the request waits, or asks the stream server), the key is marked
before and the answer kept after. Only answers that say it was done are kept: what was refused, or found nothing to do, changed
nothing, and may be tried again under the same key.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from django.db import transaction
from django.http import HttpResponse, HttpResponseBase
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from safety import answers
from safety.answers import Answer, StillInFlight
from workflow.api.problem import ANTICIPATED

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_KEPT_HEADERS = ("Location", "ETag", "Retry-After", REPLAYED)

Handler = Callable[..., HttpResponseBase]


class _SomebodyWasFirst(Exception):
    """Another request of this key was answered meanwhile: this one's effect is taken back."""


@dataclass(frozen=True, slots=True)
class Once:
    """One request that is to have its effect once."""

    caller: str
    key: str
    fingerprint: str
    now: datetime

    def known(self) -> HttpResponseBase | None:
        """Give the stored answer, if there is one.

        :raises AnswerError: the key is another request's, or its first request is still in flight.
        """
        found = answers.find(self.caller, self.key, self.fingerprint, now=self.now)
        if found is None:
            return None
        headers = {**found.headers, REPLAYED: "true"}
        return HttpResponse(found.body, status=found.status, headers=headers, content_type="application/json")

    def keep(self, answer: Answer) -> bool:
        return answers.keep(self.caller, self.key, self.fingerprint, answer, now=self.now)

    def begin(self) -> bool:
        return answers.begin(self.caller, self.key, self.fingerprint, now=self.now)

    def finish(self, answer: Answer | None) -> None:
        answers.finish(self.caller, self.key, self.fingerprint, answer)


def key_of(request: Request) -> str | None:
    """Give the request's idempotency key; None if it has none.

    :raises ValidationError: it is not one.
    """
    key = request.headers.get(HEADER)
    if key is not None and not _KEY.fullmatch(key):
        raise ValidationError({HEADER: ["Give 1 to 128 visible ASCII characters."]}, code="invalid_key")
    return key


def answer_once(door: Any, request: Request, handler: Handler, *, apart: bool) -> HttpResponseBase:
    """Let a door's handler answer, or answer as before.

    :raises AnswerError: the key was used for another request, or its first request is still being worked on.
    """
    key = key_of(request)
    if key is None:
        return handler(request, *door.args, **door.kwargs)
    once = Once(door.actor, key, _fingerprint(request), door.now)
    with _in_hand(once):
        if apart:
            return _apart(once, door, request, handler)
        try:
            return _together(once, door, request, handler)
        except _SomebodyWasFirst:
            return once.known() or _lost()


def _together(once: Once, door: Any, request: Request, handler: Handler) -> HttpResponseBase:
    with transaction.atomic():
        if not answers.hold(once.caller, once.key):
            _lost()
        if known := once.known():
            return known
        try:
            response = handler(request, *door.args, **door.kwargs)
        except ANTICIPATED as exc:
            # what a refusal writes on purpose (a late result as evidence) stays, as it would without a key; a failure that
            # nobody foresaw goes on upwards, and takes everything back
            return door.handle_exception(exc)  # type: ignore[no-any-return]
        answer = _answer(door, request, response)
        if answer and not once.keep(answer):
            raise _SomebodyWasFirst
        return response


def _apart(once: Once, door: Any, request: Request, handler: Handler) -> HttpResponseBase:
    if known := once.known():
        return known
    if not once.begin():
        return once.known() or _lost()
    answer = None
    try:
        response = handler(request, *door.args, **door.kwargs)
        answer = _answer(door, request, response)
    finally:
        once.finish(answer)
    return response


def _answer(door: Any, request: Request, response: HttpResponseBase) -> Answer | None:
    """Give what is kept of a response: nothing where nothing was done, and no secret that is shown once."""
    if not 200 <= response.status_code < 300 or response.status_code == 204:
        return None
    headers = {name: response[name] for name in _KEPT_HEADERS if name in response}
    if isinstance(response, Response):
        door.finalize_response(request, response)
        body = response.render().content
        if shown_once := set(door.shown_once).intersection(response.data or ()):
            body = response.accepted_renderer.render({**response.data, **dict.fromkeys(shown_once)})
    else:
        body = getattr(response, "content", b"")
    return Answer(response.status_code, headers, body.decode())


def _lost() -> HttpResponseBase:
    raise StillInFlight("The first request with this Idempotency-Key is still being worked on. Ask again in a moment.")


def _fingerprint(request: Request) -> str:
    body = orjson.dumps(request.data, option=orjson.OPT_SORT_KEYS)
    said = b"\0".join((str(request.method).encode(), request.get_full_path().rstrip("/").encode(), body))
    return hashlib.sha256(said).hexdigest()


_hands: set[tuple[str, str]] = set()
_lock = threading.Lock()


@contextmanager
def _in_hand(once: Once) -> Iterator[None]:
    """Hold a key while this process works on it; elsewhere the database holds it.

    :raises StillInFlight: another thread holds it.
    """
    held = (once.caller, once.key)
    with _lock:
        if held in _hands:
            _lost()
        _hands.add(held)
    try:
        yield
    finally:
        with _lock:
            _hands.discard(held)
