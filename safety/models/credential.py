"""A key: the secret by which an agent shows which Nova it is, or a program whose rights it uses."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from safety.core.scopes import NOVA_SCOPES


def all_nova_scopes() -> list[str]:
    """Give what keys could be used for before they had scopes."""
    return [scope.value for scope in NOVA_SCOPES]


class ApiKey(models.Model):
    """One bearer key. Only its digest is kept: the key itself is shown once, when it is made.

    Its holder is one of three: a Nova, a person (`user`), or a program that is given a name and a role (`operator`, `role`).
    """

    id = models.BigAutoField(primary_key=True)
    nova_id = models.CharField(max_length=63, blank=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="+")
    operator = models.SlugField(max_length=64, blank=True, db_index=False)
    role = models.CharField(max_length=150, blank=True)  # the name of a group
    name = models.CharField(max_length=64, blank=True)
    prefix = models.CharField(max_length=16)  # the key's first characters, to tell keys apart
    digest = models.CharField(max_length=64, unique=True)  # SHA-256, hex; the key has 256 random bits, so no salt is needed
    scopes = models.JSONField(default=all_nova_scopes)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True)
    suspended_at = models.DateTimeField(null=True)
    suspended_reason = models.TextField(blank=True)
    suspended_by_kill = models.BooleanField(default=False, db_default=False)  # then a safety officer's resume takes it back
    revoked_at = models.DateTimeField(null=True)  # for good
    successor_id = models.BigIntegerField(null=True)  # the key that took its place when it was rotated

    class Meta:
        indexes = [
            # suspending and showing the keys of a Nova
            models.Index(fields=["nova_id"], name="apikey_nova"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=(
                    (~Q(nova_id="") & Q(user=None, operator="", role=""))
                    | Q(nova_id="", user__isnull=False, operator="", role="")
                    | (Q(nova_id="", user=None) & ~Q(operator="") & ~Q(role=""))
                ),
                name="apikey_one_holder",
            )
        ]

    def __str__(self) -> str:
        return f"{self.prefix}… {self.holder}"

    @property
    def holder(self) -> str:
        """Name who acts with this key, as the journal does."""
        if self.nova_id:
            return f"nova:{self.nova_id}"
        return f"user:{self.user.get_username()}"[:128] if self.user else f"operator:{self.operator}"
