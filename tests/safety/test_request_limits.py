"""Counters of requests: shared by all processes, kept by each for itself while the stream server is away."""

from datetime import datetime, timedelta

import pytest

from safety.request_limits import RequestCounters, Window, owner_of_address
from safety.stream_client import StreamClient
from tests.conftest import StreamServer

SECOND = timedelta(seconds=1)
THREE = Window("tests", 3)


def test_a_window_is_used_up_and_begins_anew(stream: StreamClient, now: datetime) -> None:
    counters = RequestCounters()
    standings = [counters.count(THREE, "key-1", now=now) for _ in range(4)]
    assert [(s.count, s.left, s.exceeded) for s in standings] == [(1, 2, False), (2, 1, False), (3, 0, False), (4, 0, True)]
    assert standings[0].resets_in == 60
    assert counters.count(THREE, "key-1", now=now + 59 * SECOND).resets_in == 1
    assert counters.count(THREE, "key-1", now=now + 60 * SECOND).count == 1
    assert counters.count(THREE, "key-2", now=now).count == 1
    assert counters.count(THREE, "key-2", now=now, by=0).count == 1
    counters.forget()


def test_all_processes_count_together_and_nothing_is_left_behind(stream: StreamClient, now: datetime) -> None:
    one, other = RequestCounters(), RequestCounters()
    one.count(THREE, "key-1", now=now)
    assert other.count(THREE, "key-1", now=now).count == 2
    (key,) = stream.call("KEYS", "novawf:requests:*")
    assert 0 < stream.call("TTL", key) <= 120
    one.forget()
    other.forget()


def test_a_window_without_a_limit_is_never_used_up(stream: StreamClient, now: datetime) -> None:
    counters = RequestCounters()
    assert not counters.count(Window("tests", 0), "key-1", now=now, by=1_000_000).exceeded
    counters.forget()


def test_while_the_server_is_away_each_process_counts_for_itself(
    stream_server: StreamServer, stream_url: str, now: datetime
) -> None:
    counters = RequestCounters()
    assert counters.count(THREE, "key-1", now=now).count == 1
    stream_server.stop()
    assert [counters.count(THREE, "key-1", now=now).count for _ in range(4)] == [1, 2, 3, 4]
    assert counters.count(THREE, "key-1", now=now).exceeded
    stream_server.start()
    assert counters.count(THREE, "key-1", now=now + 4 * SECOND).count == 6  # left alone for a while
    assert counters.count(THREE, "key-1", now=now + 5 * SECOND).count == 1  # the new server knows nothing yet
    counters.forget()


def test_what_a_process_remembers_is_bounded(now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety.request_limits._REMEMBERED", 10)
    counters = RequestCounters()
    for number in range(100):
        counters.count(THREE, f"key-{number}", now=now)
    assert len(counters._own) <= 10
    counters.forget()


@pytest.mark.parametrize(
    ("address", "owner"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", "nowhere"),
        ("unix:", "nowhere"),
    ],
)
def test_a_host_is_counted_once_whichever_of_its_addresses_it_uses(address: str, owner: str) -> None:
    assert owner_of_address(address) == owner
