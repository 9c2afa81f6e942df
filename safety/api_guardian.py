"""The API guardian: no call to a model provider without a permit, whatever process or machine asks (design section 5).

Windows, slots, cooldown and breaker of a Nova and of its provider account are judged by one script on the stream server, so by
one after the other. The counters live there; the database remembers what was granted, and they are begun anew from it. Which
Nova uses which account is not known here.
"""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any

from django.db import connections, transaction

from safety import audit, observations
from safety.audit import Entry
from safety.core.objections import in_words
from safety.core.status import SafetyRules
from safety.models import Installation, Observation, ProviderAccount
from safety.observations import Kind, Seen, observe_many
from safety.stream_client import ScriptUnknown, StreamClient, StreamError
from safety.violations import report_violation

API_REFUSED = "safety.api.refused"
BREAKER_OPENED = "safety.breaker.opened"
BREAKER_HALF_OPENED = "safety.breaker.half_opened"
BREAKER_CLOSED = "safety.breaker.closed"
COUNTERS_LOST = "safety.api.counters_lost"

PREFIX = "novawf:guardian"
REFUSALS_A_MINUTE = 10  # more of them, asked for in vain, are hammering
_CLEAN_START = 60_000  # ms: one window
_MARGIN = timedelta(seconds=5)  # a slot outlives the request's timeout by this much
_LUA = Path(__file__).parent / "lua"


class Outcome(StrEnum):
    """How a call to a provider went, for the account's breaker."""

    SUCCESS = "success"
    FAILURE = "failure"
    RATE_LIMITED = "rate_limited"  # the provider itself said so: the breaker opens at once
    NOTHING = "nothing"  # never made


class ApiLimitExceeded(Exception):
    """The call must not be made now. `retry_after`: seconds."""

    def __init__(self, reason: str, *, limit: str, retry_after: float, violation: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.limit = limit
        self.retry_after = retry_after
        self.violation = violation
        self.mechanism = "api_guardian"


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What a provider account allows, for all its Novas together."""

    slug: str
    requests_per_minute: int
    requests_per_hour: int
    requests_per_day: int
    concurrent_requests: int
    burst_requests: int
    burst_window: timedelta
    breaker_failures: int
    breaker_rest: timedelta
    breaker_rest_limit: timedelta

    @classmethod
    def of(cls, account: ProviderAccount) -> "AccountLimits":
        """Give the limits of a row."""
        return cls(
            account.slug,
            account.requests_per_minute,
            account.requests_per_hour,
            account.requests_per_day,
            account.concurrent_requests,
            account.burst_requests,
            timedelta(seconds=account.burst_window),
            account.breaker_failures,
            timedelta(seconds=account.breaker_rest),
            timedelta(seconds=account.breaker_rest_limit),
        )


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to make one call before `expires_at`; it gives its slot back when it is released or expires."""

    id: str
    nova_id: str
    account: AccountLimits | None
    expires_at: datetime
    timeout: timedelta  # of the call
    left_in_minute: int
    left_in_hour: int
    probe: bool = False  # the one call by which a half-open breaker learns


@cache
def _script(name: str) -> tuple[str, str]:
    text = (_LUA / f"{name}.lua").read_text()
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()


def keys_of(owner: str) -> list[str]:
    """Give the keys of a Nova, or of an account (`@slug`): memory, grants, days, slots."""
    return [f"{PREFIX}:{owner}:{name}" for name in ("memory", "grants", "days", "slots")]


START_KEY = f"{PREFIX}:start"


class ApiGuardian:
    """Grants permits. May be used by several threads; without a `clock` (ms) the stream server's own counts, one for all."""

    def __init__(self, client: StreamClient, clock: Callable[[], int] | None = None) -> None:
        self._client = client
        self._clock = clock or (lambda: 0)
        self._lock = threading.Lock()

    @contextmanager
    def permit(
        self, nova_id: str, rules: SafetyRules, account: AccountLimits | None = None, *, now: datetime
    ) -> Iterator[Permit]:
        """Hold a permit for the length of the block; an exception in it counts as a failure of the provider.

        `permit.timeout` is what the call's own timeout must be: a thread can't be stopped from outside.

        :raises ApiLimitExceeded: no permit.
        """
        permit = self.acquire(nova_id, rules, account, now=now)
        try:
            yield permit
        except BaseException:
            self.release(permit, Outcome.FAILURE, now=now)
            raise
        self.release(permit, Outcome.SUCCESS, now=now)

    @asynccontextmanager
    async def apermit(
        self, nova_id: str, rules: SafetyRules, account: AccountLimits | None = None, *, now: datetime, enforced: bool = True
    ) -> AsyncIterator[Permit]:
        """Hold a permit as `permit` does, without blocking the event loop, for as long as a call may take.

        A cancelled call is no failure of the provider; one that takes too long is. An exception with an `outcome` of its own is
        counted as that. Not `enforced`: the caller itself keeps to `permit.timeout`.

        :raises TimeoutError: the block took longer than the policy's request timeout.
        """
        permit = await asyncio.to_thread(_in_thread, self.acquire, nova_id, rules, account, now=now)
        outcome = Outcome.FAILURE
        try:
            async with asyncio.timeout(permit.timeout.total_seconds() if enforced else None):
                yield permit
            outcome = Outcome.SUCCESS
        except asyncio.CancelledError:
            outcome = Outcome.NOTHING
            raise
        except Exception as error:
            outcome = getattr(error, "outcome", Outcome.FAILURE)
            raise
        finally:
            await asyncio.shield(asyncio.to_thread(_in_thread, self.release, permit, outcome, now=now))

    def acquire(self, nova_id: str, rules: SafetyRules, account: AccountLimits | None = None, *, now: datetime) -> Permit:
        """Ask for one call.

        1. The script judges and counts, atomically. 2. What it says is counted in the database: a grant, a refusal, which is
        journalled once a minute for each Nova and limit, or a violation, which is reported.

        :raises ApiLimitExceeded: a limit of the Nova or of the account is reached, or the counters can't be read.
        """
        permit_id, life = secrets.token_hex(12), rules.request_timeout + _MARGIN
        verdict, *answer = self._ask(nova_id, rules, account, permit_id, life, now)
        if verdict != "granted":
            self._refuse(nova_id, rules, account, verdict, answer, now)
        probe, expires, minute, hour, _ = answer
        seen = [Seen(nova_id, Kind.API_REQUEST)]
        if account:
            seen.append(Seen(_owner(account), Kind.API_REQUEST))
        observe_many(seen, now=now)
        if account and probe:
            self._note_breaker(account.slug, ProviderAccount.Breaker.HALF_OPEN, None, "It is tried with one call.", now)
        expires_at = datetime.fromtimestamp(int(expires) / 1000, UTC)
        return Permit(permit_id, nova_id, account, expires_at, rules.request_timeout, int(minute), int(hour), bool(probe))

    def release(self, permit: Permit, outcome: Outcome, *, now: datetime) -> bool:
        """Give a permit back and say how the call went; False if it had expired, then only the outcome counts."""
        return self.give_back(permit.nova_id, permit.id, permit.account, outcome, now=now)

    def give_back(
        self, nova_id: str, permit_id: str, account: AccountLimits | None, outcome: Outcome, *, now: datetime
    ) -> bool:
        """Give back a permit of which only the id is known, as over REST.

        :raises StreamError: the counters can't be reached; the slot expires by itself.
        """
        keys = [keys_of(nova_id)[3]]
        if account:
            memory, _, _, slots = keys_of(_owner(account))
            keys += [slots, memory]
        held, change, until = self._run("release", keys, [permit_id, outcome.value, *_breaker(account)])
        if account and change:
            opened = change == "open"
            why = "the provider refused" if outcome is Outcome.RATE_LIMITED else "too many calls failed in a row"
            reason = f"The breaker opened: {why}." if opened else "The provider answers again."
            state = ProviderAccount.Breaker.OPEN if opened else ProviderAccount.Breaker.CLOSED
            self._note_breaker(account.slug, state, _instant(until) if opened else None, reason, now)
        return bool(held)

    def report_success(self, nova_id: str, account: AccountLimits, *, now: datetime) -> None:
        """Count a call that went well and of which no permit is held."""
        self.give_back(nova_id, "", account, Outcome.SUCCESS, now=now)

    def report_failure(self, nova_id: str, account: AccountLimits, *, now: datetime) -> None:
        """Count a call that failed and of which no permit is held."""
        self.give_back(nova_id, "", account, Outcome.FAILURE, now=now)

    def open_breaker(self, account_slug: str, *, reason: str, now: datetime) -> None:
        """Open an account's breaker: the provider itself said that it has enough."""
        row = ProviderAccount.objects.filter(slug=account_slug).first()
        if row is None:
            return
        account = AccountLimits.of(row)
        memory, _, _, slots = keys_of(_owner(account))
        keys = [f"{PREFIX}:nobody:slots", slots, memory]
        _, change, until = self._run("release", keys, ["", Outcome.RATE_LIMITED.value, *_breaker(account)])
        if change:
            self._note_breaker(account.slug, ProviderAccount.Breaker.OPEN, _instant(until), reason, now)

    def close_breaker(self, account_slug: str, *, reason: str, now: datetime) -> bool:
        """Let calls of an account pass again because a person says so; False if its breaker is closed, or there is none.

        :raises StreamError: the counters can't be reached; nothing was changed.
        """
        if not ProviderAccount.objects.filter(slug=account_slug).exists():
            return False
        memory = keys_of(f"@{account_slug}")[0]
        was_open = bool(self._run("close", [memory], [])[0])
        closed = ProviderAccount.Breaker.CLOSED
        return self._note_breaker(account_slug, closed, None, reason, now, even_so=was_open)

    def begin(self, *, now: datetime) -> None:
        """Begin to count, if nobody has yet or if the counters were lost; a loss is journalled.

        :raises StreamError: the counters can't be reached.
        """
        self._seed("start", "", None, self._clock() or _ms_of(now), now)

    # -- details

    def _ask(
        self,
        nova_id: str,
        rules: SafetyRules,
        account: AccountLimits | None,
        permit_id: str,
        life: timedelta,
        now: datetime,
    ) -> list[Any]:
        keys = [START_KEY, *_ordered(nova_id), *(_ordered(_owner(account)) if account else [])]
        values = [
            permit_id, _ms(life), _epoch(), _ms(rules.cooldown), _ms(rules.cooldown_limit), REFUSALS_A_MINUTE,
            *_limits(rules), *(_limits(account) if account else []),
        ]  # fmt: skip
        try:
            answer = self._run("acquire", keys, values)
            for _ in range(3):  # what was lost, or is new: the start, the Nova, the account
                if answer[0] != "unseeded":
                    break
                self._seed(answer[1], nova_id, account, int(answer[2]), now)
                answer = self._run("acquire", keys, values)
        except StreamError as error:
            reason = "The API guardian's counters can't be reached, so no call is allowed."
            raise self._refusal(nova_id, account, reason, "counters", 1.0, now) from error
        if answer[0] == "unseeded":
            reason = "The API guardian's counters were lost while it was asked, so no call is allowed. Try again."
            raise self._refusal(nova_id, account, reason, "counters", 1.0, now)
        return answer

    def _run(self, name: str, keys: Sequence[str], values: Sequence[Any]) -> list[Any]:
        text, digest = _script(name)
        command = [len(keys), *keys, self._clock(), *values] if name != "seed" else [len(keys), *keys, *values]
        with self._lock:
            try:
                answer = self._client.call("EVALSHA", digest, *command)
            except ScriptUnknown:
                answer = self._client.call("EVAL", text, *command)
        if not isinstance(answer, list):
            return [answer]
        return [part.decode() if isinstance(part, bytes) else part for part in answer]

    def _seed(self, who: str, nova_id: str, account: AccountLimits | None, clock: int, now: datetime) -> None:
        """Begin to count: for all after a window's wait if something was lost, for one owner from what the database knows."""
        epoch = _epoch()
        if who == "start":
            day = now - timedelta(hours=24)
            lost = Observation.objects.filter(kind=Kind.API_REQUEST_BY_QUARTER, at__gt=day).exists()
            if self._run("seed", [START_KEY], [epoch, clock + _CLEAN_START if lost else 0, 0, 0])[0] and lost:
                reason = "The API guardian's counters were lost; for one window no call is allowed."
                with transaction.atomic():
                    audit.record([Entry(COUNTERS_LOST, object_type="fleet", reason=reason)], now=now)
            return
        owner = nova_id if who == "nova" or account is None else _owner(account)
        memory, grants, days, _ = keys_of(owner)
        observed = Observation.objects.filter(nova_id=owner)
        skew = clock - _ms_of(now)  # the database's instants are ours, the windows run on the server's clock
        made = [
            # at the end of its minute, so never too early; not after now
            min(_ms_of(at) + 60_000 + skew, clock)
            for at, count in observed.filter(
                kind=Kind.API_REQUEST_BY_MINUTE, at__gt=now - timedelta(hours=1, minutes=1)
            ).values_list("at", "count")
            for _ in range(count)
        ]
        quarters: list[int] = []
        for at, count in observed.filter(
            kind=Kind.API_REQUEST_BY_QUARTER, at__gt=now - timedelta(hours=24, minutes=15)
        ).values_list("at", "count"):
            moved = _ms_of(at) + skew
            quarters += [moved - moved % 900_000, count]
        self._run("seed", [memory, grants, days], [epoch, 0, _open_until(owner, skew), len(made), *made, *quarters])

    def _refuse(
        self,
        nova_id: str,
        rules: SafetyRules,
        account: AccountLimits | None,
        verdict: str,
        answer: Sequence[Any],
        now: datetime,
    ) -> None:
        limit, wait, measured, most, _ = answer
        seconds = max(float(wait) / 1000, 0.001)
        words = in_words(timedelta(seconds=seconds))
        if verdict == "violation":
            reason = (
                f"It asked for {measured} calls within a minute although there was no room ({limit.replace('_', ' ')}); "
                f"{most} refusals are patience, more are hammering. It cools down for {words}."
            )
            details = {"limit": limit, "refusals": int(measured), "allowed": int(most), "seconds": seconds}
            until = now + timedelta(seconds=seconds)
            report_violation(nova_id, "api_hammering", details, now=now, rules=rules, until=until)
            raise ApiLimitExceeded(reason, limit=limit, retry_after=seconds, violation=True)
        name = account.slug if account else ""
        reason = _why(limit, words, int(measured), int(most), name)
        raise self._refusal(nova_id, account, reason, limit, seconds, now, measured=int(measured), allowed=int(most))

    @staticmethod
    def _refusal(
        nova_id: str, account: AccountLimits | None, reason: str, limit: str, seconds: float, now: datetime, **figures: int
    ) -> ApiLimitExceeded:
        """Count a refusal, and journal the first of its Nova and limit in each minute: who asks in vain must not fill it."""
        with transaction.atomic():
            if observations.count_up(nova_id, Kind.API_REFUSAL, detail=limit, now=now) == 1:
                after = {"limit": limit, "retry_after": seconds, "account": account.slug if account else "", **figures}
                audit.record([Entry(API_REFUSED, nova_id, "nova", nova_id, after=after, reason=reason)], now=now)
        return ApiLimitExceeded(reason, limit=limit, retry_after=seconds)

    def _note_breaker(
        self, slug: str, state: str, until: datetime | None, reason: str, now: datetime, *, even_so: bool = False
    ) -> bool:
        """Show the breaker on its account's row and journal the change; False if the row says so already, unless `even_so`."""
        actions = {"open": BREAKER_OPENED, "half_open": BREAKER_HALF_OPENED, "closed": BREAKER_CLOSED}
        with transaction.atomic():
            row = ProviderAccount.objects.select_for_update().get(slug=slug)
            before = {"breaker": row.breaker, "open_until": row.breaker_open_until}
            after = {"breaker": str(state), "open_until": until}
            if before == after and not even_so:
                return False
            ProviderAccount.objects.filter(slug=slug).update(
                breaker=state, breaker_since=now, breaker_open_until=until, breaker_reason=reason
            )
            entry = Entry(actions[state], "", "provider", slug, before=before, after=after, reason=reason)
            audit.record([entry], now=now)
        return True


def _why(limit: str, wait: str, measured: int, most: int, account: str) -> str:
    """Say in words why a call is refused, and what to do."""
    if limit == "counters":
        return f"The API guardian's counters were lost; calls are allowed again in {wait}."
    if limit == "breaker":
        return f"The breaker of account {account} is open: the provider failed too often. Ask again in {wait}."
    if limit == "probe":
        return f"The breaker of account {account} is half-open and one call is trying it. Ask again in {wait}."
    if limit == "cooldown":
        return f"The Nova cools down after a violation. Ask again in {wait}."
    owner, _, window = limit.partition(" ")
    whose = f"account {account}" if owner == "account" else "the Nova"
    when = {"at_once": "running at once", "burst": "in the burst window"}.get(window, f"in the last {window}")
    return f"{measured} calls of {whose} {when}, {most} are allowed. Ask again in {wait}."


def _in_thread(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run in a thread of the pool and leave no database connection behind."""
    try:
        return call(*args, **kwargs)
    finally:
        connections.close_all()


def _open_until(owner: str, skew: int) -> int:
    """Give until when the database knows an account's breaker to be open, on the server's clock (ms); 0: it is closed."""
    row = ProviderAccount.objects.filter(slug=owner.removeprefix("@")).first() if owner.startswith("@") else None
    if row is None or row.breaker == ProviderAccount.Breaker.CLOSED:
        return 0
    return _ms_of(row.breaker_open_until or row.breaker_since or row.updated_at) + skew


def _epoch() -> str:
    """Give the mark of this installation's stream server: counters of another one, or of before a loss, are not ours."""
    return Installation.objects.get().epoch


def _owner(account: AccountLimits) -> str:
    """Name an account among the owners of counters; no Nova is called so."""
    return f"@{account.slug}"


def _ordered(owner: str) -> list[str]:
    memory, grants, days, slots = keys_of(owner)
    return [grants, days, slots, memory]


def _limits(rules: SafetyRules | AccountLimits) -> list[int]:
    return [
        rules.requests_per_minute, rules.requests_per_hour, rules.requests_per_day, rules.concurrent_requests,
        rules.burst_requests, _ms(rules.burst_window),
    ]  # fmt: skip


def _breaker(account: AccountLimits | None) -> list[int]:
    if account is None:
        return [0, 0, 0]
    return [account.breaker_failures, _ms(account.breaker_rest), _ms(account.breaker_rest_limit)]


def _ms(length: timedelta) -> int:
    return int(length.total_seconds() * 1000)


def _ms_of(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _instant(ms: Any) -> datetime:
    return datetime.fromtimestamp(int(ms) / 1000, UTC)
