"""Permits to call a model provider, for agents that call it themselves: asked for here, given back here, or expired.

The API guardian decides; while a Nova is stopped or unsafe it gets none.
"""

from typing import Any

from django.http import HttpResponse
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from safety.api_guardian import AccountLimits, ApiGuardian, ApiLimitExceeded, Outcome
from safety.models import ProviderAccount
from safety.stream_client import StreamClient, StreamError
from workflow import halts
from workflow.api.authentication import ACT_AS_NOVA, NovaAgent
from workflow.api.serializers import Accepted, AnyCase, show_instant
from workflow.api.views import Door
from workflow.models import Nova
from workflow.safety_checks import check_safety


class PermitAccepted(Accepted):
    provider = serializers.SlugField(max_length=63, required=False, allow_blank=True, default="")


class OutcomeAccepted(Accepted):
    outcome = AnyCase(choices=[outcome.value for outcome in Outcome], required=False, default=Outcome.SUCCESS.value)


class Permits(Door):
    """POST: ask for one call. 201 with the permit, 429 while there is no room, 423 while the Nova may not act."""

    permissions_needed = {"POST": ACT_AS_NOVA}

    def post(self, request: Request, nova_id: str) -> Response:
        given = self.accept(PermitAccepted).validated_data["provider"]
        nova = own_nova(request, nova_id)
        halts.demand_may_act(nova_id)
        account = _account(nova, given)
        client = StreamClient(name="novawf-permits", timeout=1.0)
        try:
            permit = ApiGuardian(client).acquire(nova_id, nova.policy.rules, account, now=self.now)
        except ApiLimitExceeded as refusal:
            if refusal.violation:
                check_safety([nova_id], now=self.now)  # the verdict does not wait for the next cycle
            raise
        finally:
            client.close()
        return Response(
            {
                "permit_id": permit.id,
                "nova_id": nova_id,
                "provider": account.slug if account else None,
                "expires_at": show_instant(permit.expires_at),
                "timeout": permit.timeout.total_seconds(),
                "probe": permit.probe,
                "left_in_minute": permit.left_in_minute,
                "left_in_hour": permit.left_in_hour,
            },
            status=201,
        )


class PermitReturn(Door):
    """DELETE: give a permit back, and say how the call went. It may have expired: that is no error."""

    permissions_needed = {"DELETE": ACT_AS_NOVA}
    parameters = frozenset({"outcome", "provider"})

    def delete(self, request: Request, nova_id: str, permit_id: str) -> HttpResponse:
        nova = own_nova(request, nova_id)
        body = OutcomeAccepted(data={"outcome": request.query_params.get("outcome", Outcome.SUCCESS.value)})
        body.is_valid(raise_exception=True)
        account = _account(nova, request.query_params.get("provider", ""))
        client = StreamClient(name="novawf-permits", timeout=1.0)
        try:
            ApiGuardian(client).give_back(nova_id, permit_id, account, Outcome(body.validated_data["outcome"]), now=self.now)
        except StreamError as error:
            reason = "The API guardian's counters can't be reached; the permit expires by itself."
            raise ApiLimitExceeded(reason, limit="counters", retry_after=1.0) from error
        finally:
            client.close()
        return HttpResponse(status=204)


def own_nova(request: Request, nova_id: str) -> Any:
    """Give the Nova, if the caller may act for it.

    :raises PermissionDenied: the key is another Nova's. :raises NotFound: there is no such Nova.
    """
    if isinstance(request.user, NovaAgent) and request.user.nova_id != nova_id:
        raise PermissionDenied("This key is another Nova's; nothing was changed.")
    nova = Nova.objects.select_related("policy", "provider_account").filter(nova_id=nova_id).first()
    if nova is None:
        raise NotFound
    return nova


def _account(nova: Any, given: str) -> AccountLimits | None:
    """Give the limits of the account that is used: the Nova's own, or the one it names."""
    account = nova.provider_account
    if given and (account is None or given != account.slug):
        account = ProviderAccount.objects.filter(slug=given, archived_at=None).first()
        if account is None:
            raise serializers.ValidationError({"provider": [f"There is no provider account {given}."]}, "unknown")
    return AccountLimits.of(account) if account else None
