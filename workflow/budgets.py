"""What a Nova's calls to models may come to in a day: asked before each call, counted after it. Days are UTC.

A budget that is spent stops the next call, whichever process makes it; calls under way at that moment may still go beyond it
by their own tokens. What a call is, and who makes it, is not known here.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime

from django.db import transaction
from django.db.models import F

from safety import bulk
from workflow.errors import WorkflowError
from workflow.models import ModelPrice, Nova, NovaUsage


class BudgetSpent(WorkflowError):
    """No further call today. `action` is what an operator can do."""

    def __init__(self, text: str, *, action: str) -> None:
        super().__init__(text)
        self.action = action


@dataclass(frozen=True, slots=True)
class Used:
    """What one answer of a model came to."""

    input_tokens: int = 0
    output_tokens: int = 0
    tool_uses: int = 0


def reserve_request(nova_id: str, account: str, model: str, *, now: datetime) -> None:
    """Count one call before it is made.

    :raises BudgetSpent: a budget of the Nova is spent, or can't be kept for want of a price; nothing was counted.
    """
    day = _day(now)
    with transaction.atomic():
        bulk.insert(
            NovaUsage,
            ("nova", "day", "requests", "input_tokens", "output_tokens", "tool_uses", "cost_micros"),
            [(nova_id, day.isoformat(), 0, 0, 0, 0, 0)],
            on_conflict="(nova_id, day) DO NOTHING",
        )
        used = NovaUsage.objects.select_for_update().get(nova=nova_id, day=day)
        nova = Nova.objects.only("nova_id", "budget_requests", "budget_tokens", "budget_cost").get(pk=nova_id)
        _check(nova, used)
        if nova.budget_cost is not None and _price(account, model) is None:
            raise BudgetSpent(
                f"Nova {nova_id} has a budget in money, and there is no price for the model {model} of account {account}; "
                "no call was made.",
                action=f"give a price for {model} of {account}, or take the money budget of {nova_id} away",
            )
        NovaUsage.objects.filter(pk=used.pk).update(requests=F("requests") + 1)


def give_back_request(nova_id: str, *, now: datetime) -> None:
    """Take back a call that was counted and not made."""
    NovaUsage.objects.filter(nova=nova_id, day=_day(now), requests__gt=0).update(requests=F("requests") - 1)


def note_used(nova_id: str, account: str, model: str, used: Used, *, now: datetime, requests: int = 0) -> int:
    """Add what an answer came to; give what it cost, in millionths. `requests`: calls that nobody counted before."""
    price = _price(account, model)
    cost = round(used.input_tokens * price.input_price + used.output_tokens * price.output_price) if price else 0
    row = NovaUsage.objects.filter(nova=nova_id, day=_day(now))
    changes = {
        "requests": F("requests") + requests,
        "input_tokens": F("input_tokens") + used.input_tokens,
        "output_tokens": F("output_tokens") + used.output_tokens,
        "tool_uses": F("tool_uses") + used.tool_uses,
        "cost_micros": F("cost_micros") + cost,
    }
    if not row.update(**changes):  # the day has turned since the call was counted
        NovaUsage.objects.get_or_create(nova_id=nova_id, day=_day(now))
        row.update(**changes)
    return cost


def used_today(nova_id: str, *, now: datetime) -> NovaUsage:
    """Give what a Nova has used today; an unsaved row of zeros if nothing."""
    return NovaUsage.objects.filter(nova=nova_id, day=_day(now)).first() or NovaUsage(nova_id=nova_id, day=_day(now))


def _check(nova: Nova, used: NovaUsage) -> None:
    for name, budget, spent, unit in (
        ("requests", nova.budget_requests, used.requests, "calls"),
        ("tokens", nova.budget_tokens, used.tokens, "tokens"),
        ("cost", nova.budget_cost, used.cost, "in money"),
    ):
        if budget is not None and spent >= budget:
            raise BudgetSpent(
                f"Nova {nova.pk} has used {spent:,.6g} of {budget:,.6g} {unit} today (UTC); no further call was made.",
                action=f"raise the budget of {nova.pk} (budget_{name}), or wait for the next day",
            )


def _price(account: str, model: str) -> ModelPrice | None:
    return ModelPrice.objects.filter(account=account, model=model, archived_at=None).first()


def _day(now: datetime) -> date:
    return now.astimezone(UTC).date()
