"""Whether a provider account works: one guarded call that costs nothing, made because a person asks for it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import httpx2
import orjson
from django.db import transaction

from safety import audit
from safety.api_guardian import AccountLimits, ApiGuardian
from safety.audit import Entry
from safety.core.status import SafetyRules
from safety.models import ProviderAccount
from safety.provider_keys import KeyUnavailable, key_of
from safety.stream_client import StreamClient
from workflow.breakers import AccountNotFound
from workflow.execution.model import address_of, clock
from workflow.execution.model_calls import Caller, GuardedTransport
from workflow.execution.registry import ExecutionFailed

PROVIDER_TRIED = "workflow.provider.tried"
_NOBODY = "~operator"  # no Nova is called so: the call counts against the account only
_SHOWN_MODELS = 50


@dataclass(frozen=True, slots=True)
class Trial:
    """How the call went; `said` is for a person."""

    answers: bool
    said: str
    seconds: float = 0.0
    models: Sequence[str] = field(default_factory=list)


def try_account(slug: str, *, now: datetime) -> Trial:
    """Ask a provider for the list of its models.

    :raises AccountNotFound: there is no such account.
    """
    account = ProviderAccount.objects.filter(slug=slug).first()
    if account is None:
        raise AccountNotFound(f"There is no provider account {slug}; no call was made.")
    begun = time.monotonic()
    try:
        models = _ask(account)
    except (ExecutionFailed, KeyUnavailable) as error:
        trial = Trial(False, str(error), round(time.monotonic() - begun, 3))
    else:
        known = f"it knows {len(models)} model{'' if len(models) == 1 else 's'}"
        trial = Trial(True, f"Account {slug} works: {known}.", round(time.monotonic() - begun, 3), models[:_SHOWN_MODELS])
    with transaction.atomic():
        entry = Entry(PROVIDER_TRIED, "", "provider", slug, after={"answers": trial.answers, "said": trial.said})
        audit.record([entry], now=now)
    return trial


def _ask(account: ProviderAccount) -> list[str]:
    key, base_url = key_of(account), address_of(account)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if account.kind == ProviderAccount.Kind.ANTHROPIC:
        base_url += "/v1"
        headers |= {"anthropic-version": "2023-06-01", **({"x-api-key": key} if key else {})}
    client = StreamClient(name="novawf-trial", timeout=1.0)
    caller = Caller(
        _NOBODY, account.slug, AccountLimits.of(account), SafetyRules(), key, clock, _nothing, _nothing, counted=False
    )
    transport = GuardedTransport(caller, ApiGuardian(client))
    try:
        body = asyncio.run(_get(transport, f"{base_url}/models", headers))
    finally:
        client.close()
    found = orjson.loads(body)
    rows = found.get("data") if isinstance(found, dict) else None
    return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row] if isinstance(rows, list) else []


async def _get(transport: GuardedTransport, url: str, headers: dict[str, str]) -> bytes:
    async with httpx2.AsyncClient(transport=transport, timeout=None, trust_env=False) as http:
        return (await http.get(url, headers=headers)).content


def _nothing() -> None:
    """Ask nobody: it is a person who calls."""
