"""Alerts: the rules, what became of them, where they are sent, and every delivery."""

from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from reporting.core.alerting import CONDITIONS, Scope, Tier

# Services that apprise speaks to, by the scheme of their address: those that have one place in the world ...
PUBLIC_SCHEMES = frozenset({"discord", "gchat", "opsgenie", "pagerduty", "pover", "slack", "tgram", "wxteams"})
# ... and those whose address names the host: it must not lie in a private network, unless that is allowed.
HOST_SCHEMES = frozenset(
    {"form", "forms", "gotify", "gotifys", "json", "jsons", "mailto", "mailtos", "mmost", "mmosts", "ntfy", "ntfys", "rocket",
     "rockets", "workflow", "workflows", "xml", "xmls"}
)  # fmt: skip


def _choices(kinds: Any) -> list[tuple[str, str]]:
    return [(str(kind), str(kind).replace("_", " ")) for kind in kinds]


def _seconds(default: float, most: float = 604_800.0) -> Any:
    return models.FloatField(default=default, validators=[MinValueValidator(0.0), MaxValueValidator(most)], help_text="seconds")


class AlertRule(models.Model):
    """When to alert, how urgently, and whom."""

    JOURNAL: ClassVar[tuple[str, str]] = ("alert_rule", "reporting.alert_rule")

    slug = models.SlugField(max_length=64, primary_key=True)
    title = models.CharField(max_length=120)
    condition = models.CharField(max_length=32, help_text="what is looked at, by its name")
    threshold = models.FloatField(help_text="seconds, or a share from 0 to 1: what the condition counts")
    duration = _seconds(60.0)
    tier = models.CharField(max_length=8, choices=_choices(Tier), default=Tier.WARNING.value)
    cooldown = _seconds(900.0)
    scope = models.CharField(max_length=8, choices=_choices(Scope), default=Scope.FLEET.value)
    target = models.CharField(max_length=64, blank=True, help_text="the team or nova_id; empty for the fleet")
    channels = models.JSONField(default=list, blank=True, help_text="slugs of channels; none: every channel")
    enabled = models.BooleanField(default=True)
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(tier__in=[tier.value for tier in Tier]), name="alertrule_tier"),
            models.CheckConstraint(
                condition=Q(scope="fleet", target="") | (Q(scope__in=["team", "nova"]) & ~Q(target="")), name="alertrule_scope"
            ),
            models.CheckConstraint(condition=Q(duration__gte=0, cooldown__gte=0), name="alertrule_durations"),
        ]

    def __str__(self) -> str:
        return self.slug

    def clean(self) -> None:
        """Refuse a rule that could never mean what it says."""
        problems: dict[str, str] = {}
        condition = CONDITIONS.get(self.condition)
        if condition is None:
            problems["condition"] = f"There is no such condition; known are {', '.join(CONDITIONS)}."
        if (self.scope == Scope.FLEET) == bool(self.target):
            problems["target"] = "Name the team or Nova that the rule is about; nothing where it is about the fleet."
        if condition and not condition.of_novas and self.scope != Scope.FLEET:
            problems["scope"] = "What this condition looks at belongs to no Nova; the rule can be about the fleet only."
        if self.threshold is not None and self.threshold < 0:
            problems["threshold"] = "Give a number that is not negative."
        if not isinstance(self.channels, list) or not all(isinstance(slug, str) for slug in self.channels):
            problems["channels"] = "Give a list of channels' slugs."
        elif unknown := set(self.channels) - set(AlertChannel.objects.values_list("slug", flat=True)):
            problems["channels"] = f"There is no channel {', '.join(sorted(unknown))}."
        if problems:
            raise ValidationError(problems)


class AlertChannel(models.Model):
    """Where alerts are sent. Addresses that hold a secret, and secrets, are kept encrypted and shown nowhere."""

    JOURNAL: ClassVar[tuple[str, str]] = ("alert_channel", "reporting.alert_channel")
    HIDDEN: ClassVar[frozenset[str]] = frozenset({"encrypted_address", "encrypted_secret", "encrypted_former"})
    OWN: ClassVar[frozenset[str]] = frozenset({"failing_since", "delivered_at", "closed_at", "closed_reason"})

    class Kind(models.TextChoices):
        WEBHOOK = "webhook"  # signed after Standard Webhooks
        APPRISE = "apprise"  # a service's own form of message

    slug = models.SlugField(max_length=64, primary_key=True)
    description = models.TextField(blank=True)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    url = models.URLField(max_length=500, blank=True, help_text="of a webhook")
    service = models.CharField(max_length=16, blank=True, editable=False)  # the scheme of apprise's address
    encrypted_address = models.TextField(blank=True, editable=False)  # apprise's: it holds tokens
    encrypted_secret = models.TextField(blank=True, editable=False)  # a webhook's
    encrypted_former = models.TextField(blank=True, editable=False)  # the secret before, while both sign
    former_until = models.DateTimeField(null=True, blank=True, editable=False)
    least_tier = models.CharField(
        max_length=8, choices=_choices(Tier), default=Tier.INFO.value, help_text="milder ones are not sent"
    )
    timeout = models.FloatField(
        default=5.0, validators=[MinValueValidator(0.5), MaxValueValidator(8.0)], help_text="seconds, of the whole exchange"
    )
    enabled = models.BooleanField(default=True)
    failing_since = models.DateTimeField(null=True, editable=False)  # nothing has come through since
    delivered_at = models.DateTimeField(null=True, editable=False)
    closed_at = models.DateTimeField(null=True, editable=False)  # given up: its host said so, or it failed for days
    closed_reason = models.TextField(blank=True, editable=False)
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=["webhook", "apprise"]), name="alertchannel_kind"),
        ]

    def __str__(self) -> str:
        return self.slug

    @property
    def is_open(self) -> bool:
        """Tell whether anything is sent there."""
        return self.enabled and self.closed_at is None and self.archived_at is None

    def clean(self) -> None:
        """Refuse a channel that leads nowhere; what was given is not repeated."""
        problems: dict[str, str] = {}
        if self.kind == self.Kind.WEBHOOK:
            if problem := _problem_of_url(self.url):
                problems["url"] = problem
            if not self.encrypted_secret:
                problems["__all__"] = "A webhook needs a secret: what is sent is signed with it."
            if self.encrypted_address:
                problems["__all__"] = "A webhook has a url and a secret, and no address of a service."
        elif self.kind == self.Kind.APPRISE:
            if self.url or self.encrypted_secret:
                problems["url"] = "A service has an address, and neither url nor secret."
            if not self.encrypted_address:
                problems["__all__"] = "A service needs an address, in the form of apprise: slack://…, mailto://…"
        if problems:
            raise ValidationError(problems)


def _problem_of_url(text: str) -> str:
    """Say what is wrong with a webhook's address; empty: nothing."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return "Give an address that begins with https://."
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "Give an address that begins with https://."
    if "@" in parts.netloc or parts.fragment:
        return "Give the address without a user, a password and #."
    return ""


def problem_of_address(text: str) -> str:
    """Say what is wrong with an address in the form of apprise, without repeating it; empty: nothing."""
    scheme, separator, rest = text.partition("://")
    if not separator or not rest or len(text) > 2_000 or any(c.isspace() or not c.isprintable() for c in text):
        return "Give one address in the form of apprise: slack://…, mailto://…"
    if scheme.lower() not in PUBLIC_SCHEMES | HOST_SCHEMES:
        return f"Services are known by these schemes: {', '.join(sorted(PUBLIC_SCHEMES | HOST_SCHEMES))}."
    return ""


class AlertEvent(models.Model):
    """One alert, from its first subject until none is left."""

    class Status(models.TextChoices):
        FIRING = "firing"
        RESOLVED = "resolved"

    id = models.BigAutoField(primary_key=True)
    rule = models.ForeignKey(AlertRule, on_delete=models.PROTECT, related_name="events", db_index=False)
    title = models.CharField(max_length=120)
    tier = models.CharField(max_length=8, choices=_choices(Tier))
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.FIRING)
    subjects = models.JSONField(default=list)  # the worst at the last look: {subject, value, says, nova_id}
    count = models.PositiveIntegerField(default=0)  # of subjects at the last look
    most = models.PositiveIntegerField(default=0)  # the most at once
    fired_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    resolved_at = models.DateTimeField(null=True)
    resolution = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(status="firing", resolved_at=None) | Q(status="resolved", resolved_at__isnull=False),
                name="alertevent_status",
            ),
            # a rule speaks with one voice
            models.UniqueConstraint(fields=["rule"], condition=Q(status="firing"), name="alertevent_one_firing"),
        ]
        indexes = [
            # lists by status, and one rule's story, newest first
            models.Index(fields=["status", "id"], name="alertevent_by_status"),
            models.Index(fields=["rule", "id"], name="alertevent_of_rule"),
        ]

    def __str__(self) -> str:
        return f"{self.title} {self.status}"


class AlertMemory(models.Model):
    """What the evaluation remembers of a rule between two looks; its row lock makes each look happen once."""

    rule = models.OneToOneField(AlertRule, on_delete=models.CASCADE, primary_key=True, related_name="memory")
    since = models.JSONField(default=dict)  # subject: ISO instant from which the condition holds
    told = models.JSONField(default=list)  # subjects that messages of the present alert spoke of
    told_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "alert memory"

    def __str__(self) -> str:
        return str(self.rule_id)


class AlertDelivery(models.Model):
    """One message to one channel: what was sent, each attempt, and how it ended."""

    class Status(models.TextChoices):
        WAITING = "waiting"
        SENT = "sent"
        FAILED = "failed"  # given up

    id = models.BigAutoField(primary_key=True)
    channel = models.ForeignKey(AlertChannel, on_delete=models.PROTECT, related_name="deliveries", db_index=False)
    event = models.ForeignKey(AlertEvent, on_delete=models.PROTECT, null=True, related_name="deliveries")  # null: a test
    kind = models.CharField(max_length=8)  # fired, grew, resolved, test
    message_id = models.CharField(max_length=64)  # the same however often it is sent: receivers tell repeats by it
    title = models.CharField(max_length=200)
    body = models.TextField(blank=True)
    data = models.JSONField(default=dict)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    log = models.JSONField(default=list)  # of each attempt: {at, ok, detail, seconds}; the newest 20
    created_at = models.DateTimeField()
    due_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "alert deliveries"
        constraints = [
            models.CheckConstraint(condition=Q(status__in=["waiting", "sent", "failed"]), name="alertdelivery_status"),
        ]
        indexes = [
            # what is to be sent now
            models.Index(fields=["due_at"], name="alertdelivery_due", condition=Q(status="waiting")),
            # lists: a channel's log, and what has failed, newest first
            models.Index(fields=["channel", "id"], name="alertdelivery_of_channel"),
            models.Index(fields=["status", "id"], name="alertdelivery_by_status"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} to {self.channel_id} {self.status}"
