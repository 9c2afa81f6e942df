"""The journal's seals and verifications, for auditors. Nothing is changed here; a verification is asked for."""

from dataclasses import asdict
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from safety import anchors, verification
from safety.models import AuditSeal, VerificationRun
from workflow import sealing
from workflow.api.pages import Pages
from workflow.api.serializers import AnyCase, Instant, ReasonAccepted, Shown
from workflow.api.views import Door


class SealShown(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    first_id = serializers.IntegerField()
    last_id = serializers.IntegerField()
    count = serializers.IntegerField()
    digest = serializers.CharField()
    leaves = serializers.CharField()
    previous = serializers.CharField()
    salt_digest = serializers.CharField()
    sealed_at = serializers.CharField()  # as it was signed, to the microsecond
    key_id = serializers.CharField()
    format = serializers.IntegerField()
    head = serializers.CharField()
    public_key = serializers.CharField()
    signature = serializers.CharField()
    archive = serializers.CharField(allow_null=True)
    pruned_at = Instant(allow_null=True)


class FindingShown(serializers.Serializer[Any]):
    damage = serializers.CharField()
    seal = serializers.IntegerField()
    first_id = serializers.IntegerField()
    last_id = serializers.IntegerField()
    words = serializers.CharField()


class VerificationShown(Shown):
    findings = FindingShown(many=True)

    class Meta:
        model = VerificationRun
        fields = [
            "id", "scope", "requested_at", "requested_by", "reason", "started_at", "finished_at", "first_seal", "last_seal",
            "last_id", "entries", "anchored", "damages", "findings",
        ]  # fmt: skip


class ChainStatusShown(serializers.Serializer[Any]):
    state = serializers.ChoiceField(["verified", "damaged", "overdue", "unverified", "unsealed", "no_key"])
    words = serializers.CharField()
    sealed_to = serializers.IntegerField()
    sealed_at = Instant(allow_null=True)
    seals = serializers.IntegerField()
    verified_to = serializers.IntegerField()
    verified_at = Instant(allow_null=True)
    damages = serializers.IntegerField()
    last_run = serializers.IntegerField(allow_null=True)
    anchored = serializers.BooleanField()
    running = serializers.BooleanField()
    sealing_overdue = serializers.BooleanField()
    verification_overdue = serializers.BooleanField()
    key_id = serializers.CharField()


class VerifyAccepted(ReasonAccepted):
    scope = AnyCase(choices=VerificationRun.Scope.values, required=False, default="full")


class SealList(Door):
    """Seals, newest first, each with all that was signed."""

    permissions_needed = {"GET": "safety.view_auditseal"}
    _pages: Pages[AuditSeal] = Pages("number", descending=True)

    def get(self, request: Request) -> Response:
        rows = AuditSeal.objects.select_related("archive")
        return Response(self._pages.answer(request, [rows], lambda found: [self._show(row) for row in found]))

    @staticmethod
    def _show(row: AuditSeal) -> Any:
        archive = getattr(row, "archive", None)
        kept = {"archive": archive.file if archive else None, "pruned_at": archive.pruned_at if archive else None}
        return SealShown({**anchors.shown(row), **kept}).data


class JournalVerification(Door):
    """GET: how far the journal is sealed and verified. POST with a reason: have it verified; a worker does it."""

    permissions_needed = {"GET": "safety.view_auditseal", "POST": "safety.add_verificationrun"}

    def get(self, request: Request) -> Response:
        return Response(ChainStatusShown(asdict(verification.chain_status(now=self.now))).data)

    def post(self, request: Request) -> Response:
        data = self.accept(VerifyAccepted).validated_data
        asked = sealing.ask_verification(data["scope"], reason=data["reason"], now=self.now)
        return Response(VerificationShown(asked).data, status=201)


class VerificationList(Door):
    """Verifications, newest first, with what each found."""

    permissions_needed = {"GET": "safety.view_auditseal"}
    _pages: Pages[VerificationRun] = Pages("id", descending=True)

    def get(self, request: Request) -> Response:
        rows = VerificationRun.objects.all()
        return Response(self._pages.answer(request, [rows], lambda found: list(VerificationShown(found, many=True).data)))
