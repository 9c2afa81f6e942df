"""A key: the secret by which an agent shows which Nova it is."""

from django.db import models


class ApiKey(models.Model):
    """One bearer key. Only its digest is kept: the key itself is shown once, when it is made."""

    id = models.BigAutoField(primary_key=True)
    nova_id = models.CharField(max_length=63)
    name = models.CharField(max_length=64, blank=True)
    prefix = models.CharField(max_length=16)  # the key's first characters, to tell keys apart
    digest = models.CharField(max_length=64, unique=True)  # SHA-256, hex; the key has 256 random bits, so no salt is needed
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=128)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True)
    suspended_at = models.DateTimeField(null=True)
    suspended_reason = models.TextField(blank=True)
    suspended_by_kill = models.BooleanField(default=False, db_default=False)  # then a safety officer's resume takes it back
    revoked_at = models.DateTimeField(null=True)  # for good

    class Meta:
        indexes = [
            # suspending and showing the keys of a Nova
            models.Index(fields=["nova_id"], name="apikey_nova"),
        ]

    def __str__(self) -> str:
        return f"{self.prefix}… {self.nova_id}"
