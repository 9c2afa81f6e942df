"""What a fresh installation begins with: its name, the policy presets, the spec's five personalities, a fleet of five Novas.

Everything here may run any number of times: what exists is left as the operators made it.
"""

import secrets
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.dispatch import Signal

from safety import audit
from safety.audit import Entry
from safety.core.status import SafetyRules
from safety.models import RULE_DURATIONS, Installation, SafetyPolicy
from workflow.configuration import create_nova, save_configured
from workflow.core.personality import NovaPersonalityConfig
from workflow.models import Nova, Personality
from workflow.schedules import seed_schedules

# Sent inside seed_all's transaction with `now`: upper floors make what is theirs, and give the names of what they made.
seeding = Signal()

INSTALLATION_CREATED = "safety.installation.created"
SEEDED = "seeded: part of every installation"

STANDARD = SafetyRules()
STRICT = SafetyRules(
    requests_per_minute=25,
    requests_per_hour=400,
    requests_per_day=8_000,
    concurrent_requests=3,
    burst_requests=10,
    burst_window=timedelta(seconds=30),
    process_memory_limit=400,
    process_cpu_limit=0.9,
)
POLICIES = {
    "standard": ("The specification's limits.", STANDARD),
    "strict": ("Tighter limits on calls to model providers and on processes.", STRICT),
}
FLEET = ("torch", "echo", "helix", "vaeris", "synergy")


def seed_all(*, now: datetime) -> list[str]:
    """Make whatever is missing; give the names of what was made."""
    with transaction.atomic():
        made = seed_installation(now=now) + seed_policies(now=now) + seed_personalities(now=now)
        made += seed_fleet(now=now) + seed_schedules(now=now)
        answers: list[Any] = seeding.send(sender=Installation, now=now)
        return made + [name for _, names in answers for name in names]


def seed_installation(*, now: datetime) -> list[str]:
    """Name this installation, once: event ids begin with the name, the epoch tells our stream server from a stranger."""
    with transaction.atomic():
        installation, created = Installation.objects.get_or_create(
            id=1, defaults={"name": secrets.token_hex(4), "epoch": secrets.token_hex(16)}
        )
        if not created:
            return []
        entry = Entry(
            INSTALLATION_CREATED,
            object_type="installation",
            object_id=installation.name,
            after={"name": installation.name, "epoch": installation.epoch},
            reason=SEEDED,
        )
        audit.record([entry], now=now)
        return [f"installation {installation.name}"]


def seed_policies(*, now: datetime) -> list[str]:
    """Make the presets `standard` and `strict` where they are missing."""
    known = set(SafetyPolicy.objects.filter(slug__in=POLICIES).values_list("slug", flat=True))
    missing = [slug for slug in POLICIES if slug not in known]
    for slug in missing:
        description, rules = POLICIES[slug]
        row = SafetyPolicy(slug=slug, preset=slug, description=description, **_columns(rules))
        save_configured(row, now=now, reason=SEEDED, creating=True)
    return [f"policy {slug}" for slug in missing]


def seed_personalities(*, now: datetime) -> list[str]:
    """Make the five personalities of spec section 8 where they are missing."""
    configs = NovaPersonalityConfig.PERSONALITY_CONFIGS
    known = set(Personality.objects.filter(slug__in=configs).values_list("slug", flat=True))
    missing = [slug for slug in configs if slug not in known]
    for slug in missing:
        save_configured(Personality(slug=slug, **configs[slug]), now=now, reason=SEEDED, creating=True)
    return [f"personality {slug}" for slug in missing]


def seed_fleet(*, now: datetime) -> list[str]:
    """Make the Novas of the starting fleet that are missing, each with the personality of its name."""
    known = set(Nova.objects.filter(nova_id__in=FLEET).values_list("nova_id", flat=True))
    missing = [nova_id for nova_id in FLEET if nova_id not in known]
    for nova_id in missing:
        create_nova(nova_id, personality=nova_id, now=now, reason=SEEDED)
    return [f"nova {nova_id}" for nova_id in missing]


def _columns(rules: SafetyRules) -> dict[str, Any]:
    return {
        name: getattr(rules, name).total_seconds() if name in RULE_DURATIONS else getattr(rules, name)
        for name in SafetyRules.__dataclass_fields__
    }
