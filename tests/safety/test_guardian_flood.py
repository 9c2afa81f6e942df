"""A hundred threads in four processes ask for more than there is: not one call too many passes, the dead free their slots."""

import multiprocessing
import os
import secrets
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import django
import pytest
from django.db import connections

from safety.api_guardian import ApiGuardian, ApiLimitExceeded, Outcome, Permit
from safety.core.status import SafetyRules
from safety.stream_client import StreamClient
from tests import factories

# rows that other threads and processes must see are committed
pytestmark = pytest.mark.django_db(transaction=True)

RULES = SafetyRules()


class Unobserved(ApiGuardian):
    """A guardian whose script is asked from outside any database: what is granted is told to nobody."""

    def __init__(self, client: StreamClient, epoch: str, clock: Callable[[], int] | None = None) -> None:
        super().__init__(client, clock)
        self.epoch = epoch

    def ask(self, nova_id: str, rules: SafetyRules, permit_id: str) -> bool:
        from safety import api_guardian as module

        keys = [module.START_KEY, *module._ordered(nova_id)]
        values = [permit_id, 35_000, self.epoch, 30_000, 600_000, 1_000_000_000, *module._limits(rules)]
        return bool(self._run("acquire", keys, values)[0] == "granted")


def _flood(url: str, epoch: str, rules: SafetyRules, asks: int, ms: int, granted: Any) -> None:
    """Ask on and on from many threads."""

    def ask() -> None:
        client = StreamClient(url)
        guardian = Unobserved(client, epoch, lambda: ms)
        for _ in range(asks):
            if guardian.ask("torch", rules, secrets.token_hex(12)):
                with granted.get_lock():
                    granted.value += 1
        client.close()

    threads = [threading.Thread(target=ask) for _ in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def flood(url: str, epoch: str, rules: SafetyRules, asks: int, ms: int) -> int:
    """Let a hundred threads in four processes ask at one instant of the guardian's clock; give how many calls were allowed."""
    context = multiprocessing.get_context("fork")
    granted: Synchronized[int] = context.Value("i", 0)
    processes = [context.Process(target=_flood, args=(url, epoch, rules, asks, ms, granted)) for _ in range(4)]
    connections.close_all()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return granted.value


def begin(stream: StreamClient, now: datetime) -> str:
    """Let the counters of the Nova begin; give the installation's epoch."""
    installation = factories.make_installation()
    guardian = ApiGuardian(stream, lambda: int((now - timedelta(days=2)).timestamp() * 1000))
    guardian.release(guardian.acquire("torch", RULES, now=now - timedelta(days=2)), Outcome.NOTHING, now=now)
    return str(installation.epoch)


@pytest.mark.parametrize(
    ("most", "loosened"),
    [
        (5, {}),
        (12, {"concurrent_requests": 100_000}),
        (30, {"concurrent_requests": 100_000, "burst_requests": 100_000}),
        (500, {"concurrent_requests": 100_000, "burst_requests": 100_000, "requests_per_minute": 100_000}),
    ],
    ids=["at once", "in a burst", "in a minute", "in an hour"],
)
def test_not_one_passes_too_many(
    stream: StreamClient, stream_url: str, now: datetime, most: int, loosened: dict[str, int]
) -> None:
    epoch = begin(stream, now)
    rules = replace(RULES, **loosened)
    assert flood(stream_url, epoch, rules, asks=10, ms=int(now.timestamp() * 1000)) == most


def _hold(url: str, now: datetime, ready: Any) -> None:
    django.setup()
    guardian = ApiGuardian(StreamClient(url), lambda: int(now.timestamp() * 1000))
    held: list[Permit] = [guardian.acquire("torch", RULES, now=now) for _ in range(5)]
    ready.set()
    signal.pause()
    del held


def test_a_killed_process_frees_its_slots_by_expiry(stream: StreamClient, stream_url: str, now: datetime) -> None:
    begin(stream, now)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    connections.close_all()
    holder = context.Process(target=_hold, args=(stream_url, now, ready))
    holder.start()
    assert ready.wait(20)
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()

    ms = int(now.timestamp() * 1000)
    with pytest.raises(ApiLimitExceeded, match="running at once"):
        ApiGuardian(stream, lambda: ms).acquire("torch", RULES, now=now)
    ApiGuardian(stream, lambda: ms + 36_000).acquire("torch", RULES, now=now + timedelta(seconds=36))


def test_a_half_open_breaker_lets_exactly_one_of_many_through(stream: StreamClient, stream_url: str, now: datetime) -> None:
    from safety.api_guardian import AccountLimits
    from safety.models import ProviderAccount

    begin(stream, now)
    account = AccountLimits.of(ProviderAccount.objects.create(slug="claude"))
    ms = int(now.timestamp() * 1000)
    ApiGuardian(stream, lambda: ms).open_breaker("claude", reason="rate_limit", now=now)
    found: list[bool] = []
    lock = threading.Lock()

    def ask(number: int) -> None:
        client = StreamClient(stream_url)
        try:
            permit = ApiGuardian(client, lambda: ms + 30_000).acquire(f"nova-{number}", RULES, account, now=now)
            with lock:
                found.append(permit.probe)
        except ApiLimitExceeded:
            pass
        finally:
            client.close()
            connections.close_all()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True]
