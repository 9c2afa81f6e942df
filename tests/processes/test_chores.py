"""Chores are done by one process at a time; one that fails is tried again and stops nobody."""

import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from django.db import connections, transaction

from reporting.models import RollUp
from safety import audit
from safety.audit import Entry
from workflow.hosting import chores
from workflow.hosting.chores import Chores
from workflow.models import Lease

pytestmark = pytest.mark.django_db(transaction=True)
ROUNDS = threading.Semaphore(0)
FAILS: list[bool] = []


def sometimes(now: datetime) -> float:
    """Count a turn; fail where a test says so."""
    ROUNDS.release()
    if FAILS:
        FAILS.pop()
        raise RuntimeError("the test says so")
    return 0.01


@pytest.fixture(autouse=True)
def _quick(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.CHORES = [f"{__name__}.sometimes"]
    monkeypatch.setattr(chores, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(chores, "_TROUBLE_SECONDS", 0.01)
    while ROUNDS.acquire(blocking=False):
        pass
    yield
    connections.close_all()


def test_one_does_them_and_gives_them_back() -> None:
    with Chores("first"):
        assert ROUNDS.acquire(timeout=20)
        assert Lease.objects.get(name=chores.CHORES).holder == "first"
        with Chores("second"):
            for _ in range(3):
                assert ROUNDS.acquire(timeout=20)
            assert Lease.objects.get(name=chores.CHORES).holder == "first"
    assert Lease.objects.get(name=chores.CHORES).holder == ""
    with Chores("third"):
        assert ROUNDS.acquire(timeout=20)


def test_one_that_fails_is_tried_again() -> None:
    FAILS.append(True)
    with Chores("first"):
        for _ in range(3):
            assert ROUNDS.acquire(timeout=20)
    assert not FAILS


def test_the_roll_ups_are_one_of_them(settings: Any, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CHORES = ["reporting.jobs.keep_roll_ups", "reporting.jobs.keep_figures", f"{__name__}.sometimes"]
    with transaction.atomic():
        audit.record([Entry("safety.incident.opened")], now=now)
    with Chores("first"):
        for _ in range(2):
            assert ROUNDS.acquire(timeout=20)  # it comes after the others
    assert RollUp.objects.filter(scope="fleet").exists()
