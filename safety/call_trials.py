"""Tries the API guardian itself, on the real stream server, for a Nova that does not exist; nothing of it stays.

Its clock is moved by the trial, so that no trial waits. What is granted to Novas that do exist is not touched.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from django.db import transaction

from safety.api_guardian import REFUSALS_A_MINUTE, ApiGuardian, ApiLimitExceeded, Outcome, Permit, keys_of
from safety.core.objections import in_words
from safety.core.status import SafetyRules
from safety.models import Installation
from safety.stream_client import StreamClient, StreamError
from safety.validation import Result

_SOURCE = "spec Security: API Protection"
_NO_LIMIT = 1_000_000


class CallTrials:
    """Tries one set of rules."""

    def __init__(self, rules: SafetyRules, client: StreamClient, *, now: datetime) -> None:
        self._rules = rules
        self._client = client
        self._now = now
        self._ms = int(now.timestamp() * 1000)
        self._guardian = ApiGuardian(client, lambda: self._ms)
        self._free = replace(
            rules, requests_per_minute=_NO_LIMIT, requests_per_hour=_NO_LIMIT, requests_per_day=_NO_LIMIT,
            burst_requests=_NO_LIMIT, concurrent_requests=_NO_LIMIT,
        )  # fmt: skip

    def run(self) -> Iterator[Result]:
        """Try everything; without an installation or its stream server, say that nothing could be tried."""
        why = self._obstacle()
        if why:
            yield Result("The API guardian", _SOURCE, "nothing", "calls to providers", f"not tried: {why}", None)
            return
        yield self._at_once()
        yield self._window("Granted calls in a burst", "burst", "burst_requests", self._rules.burst_window)
        yield self._window("Granted calls a minute", "minute", "requests_per_minute", timedelta(minutes=1))
        yield self._hammering()

    def _obstacle(self) -> str:
        if not Installation.objects.exists():
            return "there is no installation yet; run manage.py seed"
        try:
            self._guardian.begin(now=self._now)
        except StreamError:
            return "the stream server can't be reached; run this beside a running NOVAWF"
        return ""

    def _at_once(self) -> Result:
        """Hold as many calls as may run at once, ask for one more, and again once the slots have expired."""
        most = self._rules.concurrent_requests
        rules = replace(self._free, concurrent_requests=most)
        with self._scratch() as nova_id:
            held = [self._guardian.acquire(nova_id, rules, now=self._now) for _ in range(most)]
            refused = self._refusal(nova_id, rules)
            life = held[0].expires_at - self._now
            self._ms += int(life.total_seconds() * 1000) + 1
            freed = self._refusal(nova_id, rules) is None
        measured = f"{'refused' if refused else 'granted'} call {most + 1}; slots {'expired' if freed else 'did not expire'}"
        return Result(
            "Calls at once", _SOURCE, f"{most} calls, one more, and one when {in_words(life)} had passed",
            f"{most}, each for {in_words(self._rules.request_timeout)}", measured, bool(refused) and freed,
        )  # fmt: skip

    def _window(self, requirement: str, name: str, limit: str, length: timedelta) -> Result:
        most = getattr(self._rules, limit)
        rules = replace(self._free, **{limit: most})
        with self._scratch() as nova_id:
            for _ in range(most):
                self._give_back(self._guardian.acquire(nova_id, rules, now=self._now))
            refused = self._refusal(nova_id, rules)
            self._ms += int(length.total_seconds() * 1000)
            after = self._refusal(nova_id, rules) is None
        right = refused is not None and refused.limit == f"nova {name}"
        measured = f"{'refused' if right else 'granted'} call {most + 1}; {'room' if after else 'no room'} after the window"
        return Result(
            requirement, _SOURCE, f"{most} calls, one more, and one when {in_words(length)} had passed",
            f"{most} in {in_words(length)}", measured, right and after,
        )  # fmt: skip

    def _hammering(self) -> Result:
        """Ask on and on in vain: that must end in a cooldown, and be reported as a violation."""
        rules = replace(self._free, requests_per_minute=1)
        with self._scratch() as nova_id:
            self._give_back(self._guardian.acquire(nova_id, rules, now=self._now))
            refusals = [self._refusal(nova_id, rules) for _ in range(REFUSALS_A_MINUTE + 1)]
        patient = [refusal for refusal in refusals[:-1] if refusal and not refusal.violation]
        last = refusals[-1]
        violation = last is not None and last.violation
        rest = timedelta(seconds=last.retry_after) if last else timedelta(0)
        return Result(
            "Cooldown after hammering", _SOURCE, f"{REFUSALS_A_MINUTE + 1} calls asked for in vain within a minute",
            f"{REFUSALS_A_MINUTE} refusals, then {in_words(self._rules.cooldown)} of cooldown",
            f"{len(patient)} refusals, then {f'{in_words(rest)} of cooldown' if violation else 'no cooldown'}",
            len(patient) == REFUSALS_A_MINUTE and violation and rest == min(self._rules.cooldown, self._rules.cooldown_limit),
        )  # fmt: skip

    # -- details

    def _refusal(self, nova_id: str, rules: SafetyRules) -> ApiLimitExceeded | None:
        """Ask for a call; give why there is none."""
        try:
            self._give_back(self._guardian.acquire(nova_id, rules, now=self._now))
        except ApiLimitExceeded as refusal:
            return refusal
        return None

    def _give_back(self, permit: Permit) -> None:
        self._guardian.release(permit, Outcome.SUCCESS, now=self._now)

    @contextmanager
    def _scratch(self) -> Iterator[str]:
        """Give the name of a Nova that does not exist; what is counted for it is rolled back here and deleted there."""
        nova_id = f"validation-{secrets.token_hex(4)}"
        keys: Sequence[str] = keys_of(nova_id)
        with transaction.atomic():
            try:
                yield nova_id
            finally:
                self._client.call("DEL", *keys)
                transaction.set_rollback(True)
