"""The API guardian on a real stream server: windows, slots, violation, breaker, lost counters, declared keys."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from safety.api_guardian import REFUSALS_A_MINUTE, START_KEY, AccountLimits, ApiGuardian, ApiLimitExceeded, Outcome, keys_of
from safety.core.status import SafetyRules
from safety.models import AuditEntry, Observation, ProviderAccount, SafetyIncident, SafetyState
from safety.stream_client import StreamClient
from tests import factories
from tests.conftest import StreamServer

pytestmark = pytest.mark.django_db

RULES = SafetyRules()
LOOSE = replace(RULES, burst_requests=1_000_000, concurrent_requests=1_000_000)
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000


class Clock:
    """The guardian's clock, in ms, moved by the test."""

    def __init__(self, now: datetime) -> None:
        self.ms = int(now.timestamp() * 1000)

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock(now: datetime) -> Clock:
    return Clock(now)


@pytest.fixture
def guardian(stream: StreamClient, clock: Clock) -> ApiGuardian:
    factories.make_installation()
    return ApiGuardian(stream, clock)


def account(slug: str = "claude", **limits: int) -> AccountLimits:
    return AccountLimits.of(ProviderAccount.objects.create(slug=slug, **limits))


def refused(
    guardian: ApiGuardian, nova_id: str, now: datetime, rules: SafetyRules = RULES, of: AccountLimits | None = None
) -> ApiLimitExceeded:
    with pytest.raises(ApiLimitExceeded) as caught:
        guardian.acquire(nova_id, rules, of, now=now)
    return caught.value


def take(
    guardian: ApiGuardian,
    count: int,
    now: datetime,
    rules: SafetyRules = RULES,
    of: AccountLimits | None = None,
    nova_id: str = "torch",
) -> None:
    for _ in range(count):
        with guardian.permit(nova_id, rules, of, now=now):
            pass


class TestWindows:
    def test_a_minute_is_any_sixty_seconds(self, guardian: ApiGuardian, clock: Clock, now: datetime) -> None:
        for _ in range(30):
            take(guardian, 1, now)
            clock.ms += SECOND
        error = refused(guardian, "torch", now)
        assert error.limit == "nova minute"
        assert error.retry_after == 30
        clock.ms += 30 * SECOND - 1
        refused(guardian, "torch", now)
        clock.ms += 1
        take(guardian, 1, now)
        refused(guardian, "torch", now)

    def test_a_burst_waits_for_its_window(self, guardian: ApiGuardian, clock: Clock, now: datetime) -> None:
        take(guardian, 12, now)
        assert refused(guardian, "torch", now).limit == "nova burst"
        clock.ms += 10 * SECOND
        take(guardian, 12, now)

    def test_an_hour_has_no_room_for_one_more(self, guardian: ApiGuardian, clock: Clock, now: datetime) -> None:
        granted = 0
        for _ in range(3_000):  # as much as it gets, for fifty minutes
            try:
                take(guardian, 1, now)
                granted += 1
            except ApiLimitExceeded:
                clock.ms += 5 * SECOND
            clock.ms += SECOND
            if granted == 500:
                break
        assert granted == 500
        error = refused(guardian, "torch", now)
        assert error.limit in ("nova hour", "cooldown")

    def test_a_day_is_never_counted_short(self, guardian: ApiGuardian, clock: Clock, now: datetime) -> None:
        rules = replace(LOOSE, requests_per_minute=1_000, requests_per_hour=1_000, requests_per_day=40)
        for _ in range(40):
            take(guardian, 1, now, rules)
            clock.ms += 20 * 60 * SECOND
        error = refused(guardian, "torch", now, rules)
        assert error.limit == "nova day"
        clock.ms += int(error.retry_after * 1000)
        take(guardian, 1, now, rules)

    def test_slots_are_given_back_or_expire(self, guardian: ApiGuardian, clock: Clock, now: datetime) -> None:
        held = [guardian.acquire("torch", RULES, now=now) for _ in range(5)]
        assert refused(guardian, "torch", now).limit == "nova at_once"
        assert guardian.release(held[0], Outcome.SUCCESS, now=now)
        guardian.acquire("torch", RULES, now=now)
        clock.ms += 36 * SECOND
        guardian.acquire("torch", RULES, now=now)
        assert not guardian.release(held[1], Outcome.SUCCESS, now=now)

    def test_both_must_grant(self, guardian: ApiGuardian, clock: Clock, now: datetime) -> None:
        shared = account(requests_per_minute=3)
        for nova_id in ("torch", "echo", "helix"):
            take(guardian, 1, now, of=shared, nova_id=nova_id)
        error = refused(guardian, "vaeris", now, of=shared)
        assert error.limit == "account minute"
        assert "claude" in error.reason
        take(guardian, 1, now, nova_id="vaeris")  # with another account, or none
        guardian.acquire("vaeris", RULES, now=now)

    def test_what_is_granted_is_observed_for_the_nova_and_the_account(self, guardian: ApiGuardian, now: datetime) -> None:
        take(guardian, 4, now, of=account())
        counts = Observation.objects.filter(kind="api_request").values_list("nova_id", "count")
        assert dict(counts) == {"torch": 4, "@claude": 4}


class TestViolations:
    def test_patience_is_no_violation(self, guardian: ApiGuardian, now: datetime) -> None:
        take(guardian, 12, now)
        for _ in range(REFUSALS_A_MINUTE):
            assert not refused(guardian, "torch", now).violation
        assert not SafetyIncident.objects.exists()
        assert not SafetyState.objects.exists()

    def test_a_refusal_is_counted_each_time_and_journalled_once_a_minute_for_each_limit(
        self, guardian: ApiGuardian, clock: Clock, now: datetime
    ) -> None:
        for minute in range(2):
            later = now + timedelta(minutes=minute)
            take(guardian, 12, later)
            for _ in range(3):
                refused(guardian, "torch", later)
            clock.ms += MINUTE
        held = [guardian.acquire("torch", RULES, now=later) for _ in range(5)]
        refused(guardian, "torch", later)
        assert held
        entries = AuditEntry.objects.filter(action="safety.api.refused").order_by("id")
        assert [(entry.nova_id, entry.after["limit"]) for entry in entries if entry.after] == [
            ("torch", "nova burst"), ("torch", "nova burst"), ("torch", "nova at_once"),
        ]  # fmt: skip
        first = entries[0]
        assert first.after == {"limit": "nova burst", "retry_after": 10.0, "account": "", "measured": 12, "allowed": 12}
        assert "12 calls of the Nova in the burst window" in first.reason
        counted = Observation.objects.filter(kind="api_refusal").order_by("id").values_list("detail", "count")
        assert list(counted) == [("nova burst", 3), ("nova burst", 3), ("nova at_once", 1)]

    def test_hammering_cools_the_nova_down_once_and_tells(self, guardian: ApiGuardian, clock: Clock, now: datetime) -> None:
        take(guardian, 12, now)
        violations = [refused(guardian, "torch", now).violation for _ in range(50)]
        assert violations.count(True) == 1
        clock.ms += 20 * SECOND
        assert refused(guardian, "torch", now).limit == "cooldown"
        assert SafetyState.objects.get().api_cooldown_until == now + RULES.cooldown
        incident = SafetyIncident.objects.get()
        assert (incident.mechanism, incident.violation) == ("api_guardian", "api_hammering")
        assert AuditEntry.objects.filter(action="safety.violation.reported").count() == 1
        clock.ms += 10 * SECOND
        take(guardian, 1, now)

    def test_hammering_again_doubles_the_cooldown(self, guardian: ApiGuardian, clock: Clock, now: datetime) -> None:
        lengths = []
        for _ in range(7):
            take(guardian, 12, now)
            errors = [refused(guardian, "torch", now) for _ in range(REFUSALS_A_MINUTE + 1)]
            lengths.append(errors[-1].retry_after)
            clock.ms += int(max(errors[-1].retry_after * 1000, 60 * SECOND))
        assert lengths == [30, 60, 120, 240, 480, 600, 600]


class TestBreaker:
    def fail(self, guardian: ApiGuardian, of: AccountLimits, now: datetime, times: int) -> None:
        for _ in range(times):
            with pytest.raises(ConnectionError), guardian.permit("torch", LOOSE, of, now=now):
                raise ConnectionError

    def test_five_failures_in_a_row_open_it_for_all_novas(self, guardian: ApiGuardian, now: datetime) -> None:
        shared = account()
        self.fail(guardian, shared, now, 4)
        take(guardian, 1, now, LOOSE, shared)
        self.fail(guardian, shared, now, 5)
        error = refused(guardian, "echo", now, of=shared)
        assert (error.limit, error.retry_after) == ("breaker", 30)
        row = ProviderAccount.objects.get()
        assert (row.breaker, row.breaker_open_until) == ("open", now + timedelta(seconds=30))
        assert AuditEntry.objects.filter(action="safety.breaker.opened").count() == 1

    def test_half_open_lets_one_probe_through(self, guardian: ApiGuardian, clock: Clock, now: datetime) -> None:
        shared = account()
        self.fail(guardian, shared, now, 5)
        clock.ms += 30 * SECOND
        probe = guardian.acquire("torch", RULES, shared, now=now)
        assert probe.probe
        assert ProviderAccount.objects.get().breaker == "half_open"
        assert refused(guardian, "echo", now, of=shared).limit == "probe"
        guardian.release(probe, Outcome.SUCCESS, now=now)
        assert ProviderAccount.objects.get().breaker == "closed"
        take(guardian, 2, now, of=shared, nova_id="echo")

    def test_a_failed_probe_doubles_the_rest(self, guardian: ApiGuardian, clock: Clock, now: datetime) -> None:
        shared = account()
        self.fail(guardian, shared, now, 5)
        rests = []
        for _ in range(6):
            rests.append(refused(guardian, "echo", now, of=shared).retry_after)
            clock.ms += int(rests[-1] * 1000)
            self.fail(guardian, shared, now, 1)
        assert rests == [30, 60, 120, 240, 480, 600]

    def test_a_probe_whose_holder_died_makes_room_for_the_next(
        self, guardian: ApiGuardian, clock: Clock, now: datetime
    ) -> None:
        shared = account()
        self.fail(guardian, shared, now, 5)
        clock.ms += 30 * SECOND
        guardian.acquire("torch", RULES, shared, now=now)
        clock.ms += 36 * SECOND
        assert guardian.acquire("echo", RULES, shared, now=now).probe

    def test_the_provider_may_say_it_itself(self, guardian: ApiGuardian, now: datetime) -> None:
        account()
        guardian.open_breaker("claude", reason="rate_limit", now=now)
        guardian.open_breaker("claude", reason="rate_limit", now=now)
        guardian.open_breaker("nobody", reason="rate_limit", now=now)
        assert ProviderAccount.objects.get().breaker_reason == "rate_limit"
        assert AuditEntry.objects.filter(action="safety.breaker.opened").count() == 1

    def test_a_loss_of_the_counters_does_not_close_it(
        self, guardian: ApiGuardian, stream: StreamClient, clock: Clock, now: datetime
    ) -> None:
        shared = account()
        take(guardian, 1, now, of=shared)
        self.fail(guardian, shared, now, 5)
        ProviderAccount.objects.update(breaker_open_until=now + timedelta(minutes=5))
        stream.call("FLUSHALL")
        refused(guardian, "torch", now)
        clock.ms += MINUTE
        assert refused(guardian, "torch", now + timedelta(minutes=1), of=shared).limit == "breaker"

    def test_a_cancelled_call_is_no_failure(self, guardian: ApiGuardian, now: datetime) -> None:
        shared = account(breaker_failures=1)
        guardian.release(guardian.acquire("torch", RULES, shared, now=now), Outcome.NOTHING, now=now)
        take(guardian, 1, now, of=shared)


class TestLostCounters:
    def test_the_first_use_does_not_wait(self, guardian: ApiGuardian, now: datetime) -> None:
        take(guardian, 1, now)

    def test_a_loss_closes_for_one_window_and_gives_no_free_burst(
        self, guardian: ApiGuardian, stream: StreamClient, clock: Clock, now: datetime
    ) -> None:
        rules = replace(LOOSE, requests_per_minute=400, requests_per_hour=100, requests_per_day=110)
        take(guardian, 90, now, rules)
        stream.call("FLUSHALL")
        error = refused(guardian, "torch", now, rules)
        assert (error.limit, error.retry_after) == ("counters", 60)
        assert AuditEntry.objects.filter(action="safety.api.counters_lost").count() == 1
        clock.ms += MINUTE
        later = now + timedelta(minutes=1)
        take(guardian, 10, later, rules)
        assert refused(guardian, "torch", later, rules).limit == "nova hour"
        clock.ms += HOUR
        later += timedelta(hours=1)
        take(guardian, 10, later, rules)
        assert refused(guardian, "torch", later, rules).limit == "nova day"

    def test_a_server_that_is_away_allows_nothing(self, stream_server: StreamServer, stream_url: str, now: datetime) -> None:
        factories.make_installation()
        client = StreamClient(stream_url, timeout=0.5)
        guardian = ApiGuardian(client)
        stream_server.stop()
        error = refused(guardian, "torch", now)
        assert error.limit == "counters"
        assert AuditEntry.objects.get(action="safety.api.refused").after["limit"] == "counters"
        client.close()

    def test_another_epoch_is_another_servers_counters(
        self, guardian: ApiGuardian, now: datetime, stream: StreamClient
    ) -> None:
        from safety.models import Installation

        take(guardian, 1, now)
        Installation.objects.update(epoch="another")
        assert refused(guardian, "torch", now).limit == "counters"


def test_only_declared_keys_are_touched(stream: StreamClient, stream_url: str, now: datetime) -> None:
    factories.make_installation()
    shared = account()
    keys = [START_KEY, *keys_of("torch"), *keys_of("@claude")]
    patterns = [part for key in keys for part in (f"~{key}",)]
    stream.call("ACL", "SETUSER", "guard", "reset", "on", ">pw", "+@all", *patterns)
    address = stream_url.replace(stream_url.split("//:")[1].split("@")[0], "pw").replace("//:", "//guard:")
    guarded = StreamClient(address)
    try:
        take(ApiGuardian(guarded), 3, now, of=shared)
        with pytest.raises(ApiLimitExceeded, match="can't be reached"):
            ApiGuardian(guarded).acquire("echo", RULES, shared, now=now)
    finally:
        guarded.close()
        stream.call("ACL", "DELUSER", "guard")


@pytest.mark.django_db(transaction=True)
def test_the_async_twin_does_the_same(stream: StreamClient, now: datetime) -> None:
    factories.make_installation()
    guardian, shared = ApiGuardian(stream), account()

    async def call(fails: bool) -> None:
        async with guardian.apermit("torch", LOOSE, shared, now=now):
            if fails:
                raise ConnectionError

    async def all_at_once(fails: bool, count: int) -> Counter[str]:
        found = await asyncio.gather(*(call(fails) for _ in range(count)), return_exceptions=True)
        return Counter(type(one).__name__ for one in found)

    assert asyncio.run(all_at_once(False, 7)) == {"NoneType": 7}
    assert asyncio.run(all_at_once(True, 4)) == {"ConnectionError": 4}
    assert ProviderAccount.objects.get().breaker == "closed"
    assert asyncio.run(all_at_once(True, 1)) == {"ConnectionError": 1}
    assert ProviderAccount.objects.get().breaker == "open"
    assert asyncio.run(all_at_once(False, 3)) == {"ApiLimitExceeded": 3}
    assert stream.call("ZCARD", keys_of("torch")[3]) == 0


@pytest.mark.django_db(transaction=True)
def test_a_call_that_takes_too_long_is_ended_and_counts_as_a_failure(stream: StreamClient, now: datetime) -> None:
    factories.make_installation()
    guardian, shared = ApiGuardian(stream), account(breaker_failures=1)
    hasty = replace(RULES, request_timeout=timedelta(milliseconds=50))

    async def call() -> None:
        async with guardian.apermit("torch", hasty, shared, now=now):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(call())
    assert stream.call("ZCARD", keys_of("torch")[3]) == 0
    assert ProviderAccount.objects.get().breaker == "open"


@pytest.mark.django_db(transaction=True)
def test_a_cancelled_call_gives_its_slot_back_and_blames_nobody(stream: StreamClient, now: datetime) -> None:
    factories.make_installation()
    guardian, shared = ApiGuardian(stream), account(breaker_failures=1)

    async def call(held: asyncio.Event) -> None:
        async with guardian.apermit("torch", RULES, shared, now=now):
            held.set()
            await asyncio.Event().wait()

    async def cancel() -> None:
        held = asyncio.Event()
        task = asyncio.create_task(call(held))
        await held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert stream.call("ZCARD", keys_of("torch")[3]) == 0
    assert ProviderAccount.objects.get().breaker == "closed"


def test_two_guardians_share_what_they_count(stream: StreamClient, stream_url: str, now: datetime, clock: Clock) -> None:
    factories.make_installation()
    other = StreamClient(stream_url)
    take(ApiGuardian(stream, clock), 6, now)
    take(ApiGuardian(other, clock), 6, now)
    refused(ApiGuardian(stream, clock), "torch", now)
    other.close()


def test_the_wait_is_told_in_words(guardian: ApiGuardian, now: datetime) -> None:
    take(guardian, 12, now)
    assert refused(guardian, "torch", now).reason == (
        "12 calls of the Nova in the burst window, 12 are allowed. Ask again in 10 s."
    )
