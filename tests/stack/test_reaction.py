"""How soon a Nova acts: from the XADD of an alert to its `progress` entry, seen by another raw client that blocks in XREAD.

Only that every alert is acted on is asserted here; the time is printed. `make bench --assert` holds it to its limit.
"""

import random
import threading
import time

import pytest
import redis

from tests.processes.stack import wait_until
from tests.stack.outside import ALERTS, Outside
from workflow.seeding import FLEET

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

NUMBER = 60


class Watcher:
    """Reads the fleet's progress streams as they grow and notes when each cause was first seen."""

    def __init__(self, url: str) -> None:
        self.seen: dict[str, float] = {}
        self._redis = redis.Redis.from_url(url, protocol=2, socket_timeout=10)
        self._cursors = {f"nova.tasks.{nova_id}.progress": self._newest(f"nova.tasks.{nova_id}.progress") for nova_id in FLEET}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="watcher")

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._redis.close()

    def _newest(self, stream: str) -> str:
        entries = self._redis.execute_command("XREVRANGE", stream, "+", "-", "COUNT", 1)
        return entries[0][0].decode() if entries else "0-0"

    def _read(self) -> None:
        while not self._over.is_set():
            reply = self._redis.execute_command("XREAD", "BLOCK", 500, "STREAMS", *self._cursors, *self._cursors.values())
            at = time.perf_counter()
            for stream, entries in reply:
                self._cursors[stream.decode()] = entries[-1][0].decode()
                for _, fields in entries:
                    self.seen.setdefault(fields.get(b"cause", b"").decode(), at)


def test_every_alert_at_a_random_instant_is_acted_on(outside: Outside) -> None:
    instants = random.Random(20261122)
    sent: dict[str, float] = {}
    with Watcher(outside.stack.run_file()["dragonfly_url"]) as watcher:
        for number in range(NUMBER):
            time.sleep(instants.uniform(0.05, 0.35))
            at = time.perf_counter()
            alert = {"title": f"Alert {number}", "priority": "critical", "executor": "builtin", "action": "echo"}
            sent[outside.add(ALERTS, dict(alert))] = at
        wait_until(lambda: sent.keys() <= watcher.seen.keys(), seconds=60, what="every alert is acted on")
    milliseconds = sorted((watcher.seen[cause] - at) * 1000 for cause, at in sent.items())
    half, most = milliseconds[NUMBER // 2], milliseconds[int(NUMBER * 0.99)]
    print(f"alert to progress entry: p50 {half:.0f} ms, p99 {most:.0f} ms, of {NUMBER}")  # noqa: T201 - the figure a person wants
