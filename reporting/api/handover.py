"""The handover at the API: what changed since the caller last took over, what is broken, what waits; and taking over."""

from collections.abc import Mapping
from typing import Any, ClassVar

from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from reporting import handover
from workflow.api.described import Described
from workflow.api.serializers import Accepted, Instant
from workflow.api.views import Door


class HandoverShown(serializers.Serializer[Any]):
    """Lists are {count, rows, more}: how many there are, the first of them, how many are not shown."""

    since = Instant()
    until = Instant()
    data_until = Instant(allow_null=True)  # how far the counts tell
    changed = serializers.DictField()
    broken = serializers.DictField()
    waiting = serializers.DictField()


class TakeAccepted(Accepted):
    until = Instant(required=False)


class TakenShown(serializers.Serializer[Any]):
    read_until = Instant()
    changed = serializers.BooleanField()


class HandoverDoor(Door):
    """What changed since you last took over, or since `since`; what is broken now; what waits for a person."""

    permissions_needed: ClassVar[dict[str, str]] = {"GET": "workflow.view_nova"}
    parameters = frozenset({"since"})
    described: ClassVar[Mapping[str, Described]] = {"GET": Described(None, {200: HandoverShown})}

    def get(self, request: Request) -> Response:
        since = handover.since_for(self.actor, now=self.now)
        if text := request.query_params.get("since"):
            try:
                since = Instant().to_internal_value(text)
            except ValidationError as wrong:
                raise ValidationError({"since": wrong.detail}, code="invalid") from None
        found = handover.make_handover(since=since, now=self.now, in_full=handover.knows_people(request.user))
        return Response(found)


class HandoverTaken(Door):
    """POST: you have read it, up to `until`, or to now; the next one begins there."""

    permissions_needed: ClassVar[dict[str, str]] = {"POST": "workflow.view_nova"}
    described: ClassVar[Mapping[str, Described]] = {
        "POST": Described(TakeAccepted, {200: TakenShown}, {"until": "2026-11-20T06:00:00Z"})
    }

    def post(self, request: Request) -> Response:
        until = self.accept(TakeAccepted).validated_data.get("until", self.now)
        changed = handover.take_over(self.actor, until=until, now=self.now)
        return Response({"read_until": handover.since_for(self.actor, now=self.now), "changed": changed})
