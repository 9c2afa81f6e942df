"""What a request with an idempotency key was answered, so that the same request again is answered the same."""

from django.db import models


class StoredAnswer(models.Model):
    """One answer, kept for a day under its caller's key. Status 0: the request is still being worked on."""

    id = models.BigAutoField(primary_key=True)
    caller = models.CharField(max_length=128)
    key = models.CharField(max_length=128)
    fingerprint = models.CharField(max_length=64)  # SHA-256 of method, address and body, hex
    status = models.PositiveSmallIntegerField(default=0)
    headers = models.JSONField(default=dict)
    body = models.TextField(blank=True)
    created_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["caller", "key"], name="answer_of_caller")]
        indexes = [
            # forgetting what is older than a day
            models.Index(fields=["created_at"], name="answer_age"),
        ]

    def __str__(self) -> str:
        return f"{self.caller} {self.key}"
