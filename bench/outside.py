"""What stands outside: processes that know the stream server's address and the formats of docs/streams.md, and nothing else.

They use redis-py alone, as a stranger would; nothing of NOVAWF may be imported here.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import redis

QUEUE, ALERTS = "nova.work.queue", "nova.priority.alerts"
_BURST = 100  # entries of one pipeline
_LOOK = 0.1  # seconds between two looks at the completed streams
_SPAWN = get_context("spawn")  # a fresh process each: nothing is inherited from the bench


def client(url: str) -> Any:
    """Give a plain client whose replies are what the server sent."""
    found: Any = redis.Redis.from_url(url, protocol=2, socket_timeout=30)
    found.response_callbacks.pop("XREAD", None)
    return found


def work(number: int, **more: str) -> list[str]:
    """Give a work item's fields: the no-op that still goes the whole way."""
    fields = {
        "title": f"Echo {number}",
        "description": f"Give back what came in: entry {number} of the bench.",
        "priority": "medium",
        "executor": "builtin",
        "action": "echo",
        "sender": "bench",
        **more,
    }
    return [text for pair in fields.items() for text in pair]


@dataclass(slots=True)
class Counters:
    """Numbers that two processes and the bench share, and the word to stop."""

    sent: Any = field(default_factory=lambda: _SPAWN.Value("Q", 0, lock=False))
    done: Any = field(default_factory=lambda: _SPAWN.Value("Q", 0, lock=False))
    stop: Any = field(default_factory=_SPAWN.Event)

    @property
    def unfinished(self) -> int:
        return int(self.sent.value) - int(self.done.value)


def feed(url: str, counters: Counters, backlog: int) -> None:
    """Put work into the queue as fast as it is finished, with at most `backlog` entries unfinished, until told to stop."""
    server = client(url)
    while not counters.stop.is_set():
        if backlog - counters.unfinished < _BURST:
            counters.stop.wait(0.01)
            continue
        pipeline = server.pipeline(transaction=False)
        for number in range(counters.sent.value, counters.sent.value + _BURST):
            pipeline.execute_command("XADD", QUEUE, "MAXLEN", "~", "100000", "*", *work(number))
        pipeline.execute()
        counters.sent.value += _BURST


def count(url: str, streams: Sequence[str], counters: Counters) -> None:
    """Count the entries on the completed streams that the queue's entries caused, each event once, until told to stop."""
    server = client(url)
    cursors = dict.fromkeys((name.encode() for name in streams), b"0-0")
    prefix, seen = f"{QUEUE}/".encode(), set()
    while not counters.stop.is_set():
        for stream, entries in server.execute_command("XREAD", "COUNT", 1000, "STREAMS", *cursors, *cursors.values()) or ():
            cursors[stream] = entries[-1][0]
            for _, fields in entries:
                named = dict(zip(fields[0:6:2], fields[1:6:2], strict=True))  # the envelope stands in front
                if named[b"cause"].startswith(prefix):
                    seen.add(named[b"event_id"])
        counters.done.value = len(seen)
        counters.stop.wait(_LOOK)


def watch(url: str, streams: Sequence[str], found: Any, stop: Any) -> None:
    """Send (cause, instant) of each entry that these streams bring, in a blocking read, until told to stop."""
    server = client(url)
    newest = {name: server.xrevrange(name, count=1) for name in streams}
    cursors = {name.encode(): entries[0][0] if entries else b"0-0" for name, entries in newest.items()}
    found.put(("ready", 0.0))
    while not stop.is_set():
        reply = server.execute_command("XREAD", "BLOCK", 500, "STREAMS", *cursors, *cursors.values())
        at = time.monotonic()
        for stream, entries in reply or ():
            cursors[stream] = entries[-1][0]
            for _, fields in entries:
                found.put((fields[fields.index(b"cause") + 1].decode(), at))


def process(target: Any, *arguments: Any) -> Any:
    """Start one of the functions above as a process of its own."""
    child = _SPAWN.Process(target=target, args=arguments, daemon=True)
    child.start()
    return child


def queue() -> Any:
    """Give a queue on which `watch` may answer."""
    return _SPAWN.Queue()


def event() -> Any:
    """Give an event that stops `watch`."""
    return _SPAWN.Event()


def send_alerts(url: str, names: Sequence[str], number: int, chance: random.Random, wait: Any) -> dict[str, tuple[float, str]]:
    """Put alerts on the stream at random instants, every other one to all Novas; give instant and addressee by cause."""
    server = client(url)
    sent: dict[str, tuple[float, str]] = {}
    for i in range(number):
        wait(chance.uniform(0.1, 0.6))
        addressee = names[(i // 2) % len(names)] if i % 2 else ""
        fields = work(i, title=f"Alert {i}", priority="high", **({"nova_id": addressee} if addressee else {}))
        at = time.monotonic()
        entry_id: bytes = server.execute_command("XADD", ALERTS, "*", *fields)
        sent[f"{ALERTS}/{entry_id.decode()}"] = (at, addressee)
    return sent
