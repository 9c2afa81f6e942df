"""An address outside that tasks may be sent to, and the secret that signs what is sent."""

import base64
import binascii
from typing import ClassVar
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

SECRET_PREFIX = "whsec_"  # noqa: S105 - how Standard Webhooks writes secrets


def problem_of_secret(secret: str) -> str:
    """Say what is wrong with a secret for signatures, without repeating it; empty: nothing."""
    try:
        length = len(base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if not secret.startswith(SECRET_PREFIX) or not 24 <= length <= 64:
        return f"Give a secret of Standard Webhooks: {SECRET_PREFIX} and 24 to 64 random bytes in base64."
    return ""


class HttpEndpoint(models.Model):
    """Where the http executor posts to. A task names it as its action. The secret is kept encrypted and shown nowhere."""

    HIDDEN: ClassVar[frozenset[str]] = frozenset({"encrypted_secret"})

    slug = models.SlugField(max_length=64, primary_key=True)
    description = models.TextField(blank=True)
    url = models.URLField(max_length=500)
    encrypted_secret = models.TextField(blank=True, editable=False)
    allow_private = models.BooleanField(
        default=False, help_text="may lie in a private network, on this machine, or be spoken to without TLS"
    )
    timeout = models.FloatField(
        default=30.0, validators=[MinValueValidator(0.1), MaxValueValidator(900.0)], help_text="seconds, of the whole exchange"
    )
    response_limit = models.PositiveIntegerField(
        default=65_536,
        validators=[MinValueValidator(1), MaxValueValidator(1_048_576)],
        help_text="bytes; a longer one is refused",
    )
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.slug

    def clean(self) -> None:
        """Refuse an address that could hold a secret, or could be listened to; what was given is not repeated."""
        problem = self._problem_of_url()
        if problem:
            raise ValidationError({"url": problem})

    def _problem_of_url(self) -> str:
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError:
            return "Give an address that begins with https://."
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return "Give an address that begins with https://."
        if parts.scheme == "http" and not self.allow_private:
            return "Give an https:// address; http:// only where private addresses are allowed."
        if "@" in parts.netloc or parts.fragment:
            return "Give the address without a user, a password and #."
        return ""
