"""Named leases: one holder at a time, none for ever, and a late one is told so."""

import threading
from datetime import timedelta

import pytest
from django.db import connections

from tests.factories import NOW
from workflow import leases
from workflow.leases import LeaseLost
from workflow.models import Lease

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(seconds=10)


def take(holder: str, *, at=NOW, seconds: float = 6.0) -> leases.Held | None:
    return leases.acquire("intake", holder, now=at, seconds=seconds)


def held(holder: str, *, at=NOW) -> leases.Held:
    lease = take(holder, at=at)
    assert lease is not None
    return lease


def row() -> Lease:
    return Lease.objects.get(name="intake")


def test_a_free_lease_is_taken_and_nobody_else_gets_it():
    assert held("first").fence == 1
    assert take("second") is None
    assert (row().holder, row().expires_at, row().heartbeat_at) == ("first", NOW + timedelta(seconds=6), NOW)


def test_a_lease_holds_to_its_last_instant_and_is_free_after_it():
    held("first")
    assert take("second", at=NOW + timedelta(seconds=6)) is None
    assert held("second", at=NOW + timedelta(seconds=6, microseconds=1)).fence == 2


def test_its_holder_may_take_it_again_and_the_fence_rises():
    first = held("first")
    again = held("first")
    assert again.fence == first.fence + 1
    with pytest.raises(LeaseLost):
        leases.renew(first, now=NOW, seconds=6)


def test_renewing_keeps_it_and_may_leave_a_note():
    lease = held("first")
    leases.renew(lease, now=LATER, seconds=6)
    leases.renew(lease, now=LATER, seconds=6, note={"shares": True})
    leases.renew(lease, now=LATER, seconds=6)
    assert (row().expires_at, row().heartbeat_at, row().note) == (LATER + timedelta(seconds=6), LATER, {"shares": True})
    assert take("second", at=LATER) is None


def test_a_late_renewal_counts_as_long_as_nobody_else_has_taken_over():
    lease = held("first")
    leases.renew(lease, now=LATER, seconds=6)
    held("second", at=LATER + timedelta(minutes=1))
    with pytest.raises(LeaseLost, match="no longer held by first"):
        leases.renew(lease, now=LATER + timedelta(minutes=1), seconds=6)
    assert row().holder == "second"


def test_a_lease_given_back_is_free_at_once():
    lease = held("first")
    assert leases.release(lease) is True
    assert leases.release(lease) is False
    assert held("second").fence == 2


def test_a_late_holder_can_not_give_back_what_another_has():
    lease = held("first")
    held("second", at=LATER)
    assert leases.release(lease) is False
    assert row().holder == "second"


def test_the_fence_never_falls():
    fences = []
    for number in range(5):
        lease = held(f"holder-{number}")
        fences.append(lease.fence)
        leases.release(lease)
    assert fences == [1, 2, 3, 4, 5]


def test_leases_of_different_names_do_not_touch():
    held("first")
    assert leases.acquire("relay", "second", now=NOW, seconds=6) is not None
    assert row().holder == "first"


@pytest.mark.django_db(transaction=True)
def test_of_two_that_try_at_once_one_gets_it():
    together, won = threading.Barrier(4), []

    def compete(holder: str) -> None:
        try:
            together.wait(10)
            if take(holder):
                won.append(holder)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=compete, args=(f"holder-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(won) == 1
    assert (row().holder, row().fence) == (won[0], 1)
