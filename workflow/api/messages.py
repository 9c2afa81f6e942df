"""Messages between Novas at the API: post one, read one's own, acknowledge them."""

from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from workflow import messages
from workflow.api.agent_tasks import agent_of
from workflow.api.authentication import ACT_AS_NOVA, NovaAgent
from workflow.api.pages import Pages
from workflow.api.serializers import Accepted, AnyCase, Shown, short_text
from workflow.api.views import Door
from workflow.core.protocol import TASK_ID_LIMIT, TITLE_LIMIT
from workflow.core.wake_signals import SignalTier
from workflow.models import InboxMessage


class MessageAccepted(Accepted):
    title = serializers.CharField(required=False, allow_blank=True, default="", max_length=TITLE_LIMIT)
    message = serializers.CharField(
        required=False, allow_blank=True, default="", trim_whitespace=False, validators=[short_text]
    )
    priority = AnyCase(choices=[tier.value for tier in SignalTier], required=False)
    message_id = serializers.CharField(required=False, allow_blank=True, default="", max_length=200)
    task_id = serializers.CharField(required=False, allow_blank=True, default="", max_length=TASK_ID_LIMIT)
    reply_to = serializers.CharField(required=False, allow_blank=True, default="", max_length=200)


class AckAccepted(Accepted):
    ids = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**63 - 1), allow_empty=False, max_length=200
    )


class MessageShown(Shown):
    class Meta:
        model = InboxMessage
        fields = ["id", "sender", "tier", "status", "outcome", "fields", "received_at", "acked_at"]


class NovaMessages(Door):
    """POST: send a Nova a message, as a Nova's agent or an operator. GET: its messages, newest first; agents read their own."""

    permissions_needed = {"GET": "workflow.view_inboxmessage", "POST": "workflow.add_inboxmessage"}
    agents_too = frozenset({"GET", "POST"})
    parameters = frozenset({"unread"})
    _pages: Pages[InboxMessage] = Pages("id", descending=True)

    def get(self, request: Request, nova_id: str) -> Response:
        user: Any = request.user
        if isinstance(user, NovaAgent) and user.nova_id != nova_id:
            raise NotFound
        rows = InboxMessage.objects.filter(nova_id=nova_id, kind="signal").exclude(status=InboxMessage.Status.REJECTED)
        if request.query_params.get("unread") == "true":
            rows = rows.filter(acked_at=None)
        return Response(self._pages.answer(request, [rows], lambda found: list(MessageShown(found, many=True).data)))

    def post(self, request: Request, nova_id: str) -> Response:
        user: Any = request.user
        sender = user.nova_id if isinstance(user, NovaAgent) else self.actor
        data = self.accept(MessageAccepted).validated_data
        row = messages.post_message(sender, nova_id, data, now=self.now)
        return Response(MessageShown(row).data, status=201)


class MessagesAcknowledged(Door):
    """POST: the agent has read these messages of its Nova. 200 with those that it had not acknowledged before."""

    permissions_needed = {"POST": ACT_AS_NOVA}

    def post(self, request: Request) -> Response:
        ids = self.accept(AckAccepted).validated_data["ids"]
        return Response({"acknowledged": messages.ack_messages(agent_of(request), ids, now=self.now)})
