"""The alert rules that every installation begins with. What exists is left as the officers made it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.dispatch import receiver

from reporting.core.alerting import Tier
from reporting.models import AlertRule
from workflow.configuration import save_configured
from workflow.seeding import SEEDED, seeding

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

# slug: title, condition, threshold, duration, tier, cooldown
RULES: Mapping[str, tuple[str, str, float, float, Tier, float]] = {
    "nova-silent": ("Nova silent", "nova_silent", 2 * MINUTE, 0.0, Tier.CRITICAL, 15 * MINUTE),
    "nova-stalled": ("Nova stalled", "nova_stalled", 30 * MINUTE, 0.0, Tier.WARNING, HOUR),
    "critical-incident": ("Critical incident open", "critical_incident", 0.0, 30.0, Tier.CRITICAL, 15 * MINUTE),
    "incident-unattended": ("Incident that nobody looks at", "incident_unattended", 30 * MINUTE, 0.0, Tier.WARNING, HOUR),
    "breaker-open": ("Breaker of a provider account open", "breaker_open", MINUTE, 0.0, Tier.WARNING, 15 * MINUTE),
    "queue-old": ("Work waits too long", "queue_old", 15 * MINUTE, MINUTE, Tier.WARNING, HOUR),
    "outbox-old": ("Entries are published late", "outbox_old", 30.0, MINUTE, Tier.CRITICAL, 15 * MINUTE),
    "intake-late": ("Streams are read late", "intake_late", 10.0, MINUTE, Tier.WARNING, 15 * MINUTE),
    "stream-away": ("Stream server away", "stream_away", 30.0, 0.0, Tier.CRITICAL, 15 * MINUTE),
    "stream-gap": ("Entries vanished from a stream", "stream_gap", 0.0, 0.0, Tier.CRITICAL, HOUR),
    "no-worker": ("No worker", "no_worker", 30.0, 30.0, Tier.CRITICAL, 15 * MINUTE),
    "budget-nearly-used": ("Budget nearly used", "budget_used", 0.9, 0.0, Tier.WARNING, 6 * HOUR),
    "approval-waiting": ("An approval waits", "approval_waiting", 10 * MINUTE, 0.0, Tier.INFO, 30 * MINUTE),
    "halt-unconfirmed": ("A halt is not confirmed", "halt_unconfirmed", 60.0, 0.0, Tier.CRITICAL, 15 * MINUTE),
    "seal-overdue": ("The journal's seal is overdue", "seal_overdue", 2 * HOUR, 0.0, Tier.WARNING, 6 * HOUR),
    "journal-damaged": ("The journal was tampered with", "journal_damaged", 0.0, 0.0, Tier.CRITICAL, 6 * HOUR),
    "disk-low": ("Disk nearly full", "disk_low", 0.1, MINUTE, Tier.CRITICAL, 6 * HOUR),
    "channel-failing": ("Alerts do not come through", "channel_failing", 5 * MINUTE, 0.0, Tier.WARNING, 6 * HOUR),
}


@receiver(seeding, dispatch_uid="alert-rules")
def seed_alert_rules(*, now: datetime, **kwargs: Any) -> list[str]:
    """Make the rules that are missing; give the names of what was made."""
    known = set(AlertRule.objects.filter(slug__in=RULES).values_list("slug", flat=True))
    missing = [slug for slug in RULES if slug not in known]
    for slug in missing:
        title, condition, threshold, duration, tier, cooldown = RULES[slug]
        rule = AlertRule(
            slug=slug, title=title, condition=condition, threshold=threshold, duration=duration, tier=tier.value,
            cooldown=cooldown,
        )  # fmt: skip
        save_configured(rule, now=now, reason=SEEDED, creating=True)
    return [f"alert rule {slug}" for slug in missing]
