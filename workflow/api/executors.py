"""What executors reach and cost, at the API: commands, HTTP endpoints, prices and usage of models; does a provider answer?"""

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from workflow import provider_trial
from workflow.api.configuration_views import PROVIDERS, Kind, _Written, encrypted
from workflow.api.serializers import Accepted, Shown
from workflow.api.views import Door
from workflow.models import CommandTemplate, HttpEndpoint, ModelPrice, NovaUsage
from workflow.models.endpoint import problem_of_secret

_OWN = ["updated_at", "archived_at"]


class CommandWritten(_Written, Shown):
    class Meta:
        model = CommandTemplate
        fields = [*(field.name for field in CommandTemplate._meta.concrete_fields), "reason"]
        read_only_fields = _OWN


class EndpointWritten(_Written, Shown):
    """Where tasks are posted to. The secret comes in here, and out nowhere."""

    secret = serializers.CharField(max_length=200, required=False, write_only=True)
    has_secret = serializers.SerializerMethodField()

    class Meta:
        model = HttpEndpoint
        fields = [
            "slug", "description", "url", "secret", "has_secret", "allow_private", "timeout", "response_limit", "updated_at",
            "archived_at", "reason",
        ]  # fmt: skip
        read_only_fields = _OWN

    def get_has_secret(self, endpoint: HttpEndpoint) -> bool:
        return bool(endpoint.encrypted_secret)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        secret = attrs.pop("secret", None)
        if secret is None and self.instance is None:
            raise serializers.ValidationError({"secret": ["A secret is needed: what is sent is signed with it."]}, "required")
        if secret is not None:
            if problem := problem_of_secret(secret):
                raise serializers.ValidationError({"secret": [problem]}, "invalid")
            attrs["encrypted_secret"] = encrypted("secret", secret)
        return attrs


class PriceWritten(_Written, Shown):
    class Meta:
        model = ModelPrice
        fields = ["id", "account", "model", "input_price", "output_price", "updated_at", "archived_at", "reason"]
        read_only_fields = ["id", *_OWN]


COMMANDS = Kind(CommandTemplate, CommandWritten, "command", "slug", own=frozenset({"updated_at"}))
ENDPOINTS = Kind(HttpEndpoint, EndpointWritten, "http-endpoint", "slug", own=frozenset())
PRICES = Kind(ModelPrice, PriceWritten, "model-price", "id", own=frozenset({"updated_at"}))


class TrialShown(serializers.Serializer[Any]):
    answers = serializers.BooleanField()
    said = serializers.CharField()
    seconds = serializers.FloatField()
    models = serializers.ListField(child=serializers.CharField())


class ProviderTried(Door):
    """POST: make one guarded call to a provider, which costs nothing, and tell how it went."""

    permissions_needed = {"POST": PROVIDERS.permissions["PATCH"]}

    def post(self, request: Request, pk: str) -> Response:
        self.accept(Accepted)
        trial = provider_trial.try_account(pk, now=self.now)
        return Response({"answers": trial.answers, "said": trial.said, "seconds": trial.seconds, "models": trial.models})


class UsageShown(Shown):
    cost = serializers.FloatField(read_only=True)

    class Meta:
        model = NovaUsage
        fields = ["day", "requests", "input_tokens", "output_tokens", "tool_uses", "cost"]
