"""What `manage.py doctor` tries on a stream server: every command we rely on, with the answer that we rely on.

All keys stand under a random prefix and are deleted at the end. It must not know what our streams mean.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from safety.stream_client import StreamClient, StreamError, StreamRefused, connect, translated

BLOCK_SECONDS = 0.2
WAKE_LIMIT = 0.05  # seconds from an XADD to the reader that waited for it
PIPELINE = 500
_ADD_ONE = "return redis.call('INCRBY', KEYS[1], ARGV[1])"


@dataclass(frozen=True, slots=True)
class Finding:
    """One command tried. Where `needed` is false, a difference is good to know and no more."""

    command: str
    expected: str
    got: str
    ok: bool
    needed: bool = True


class Unexpected(Exception):
    """The server answered, but not what we rely on; the text is what it answered."""


Trial = Callable[["Examination"], str]


class Examination:
    """Tries commands on one server under one random prefix."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self.url = url
        self.prefix = f"novawf:doctor:{secrets.token_hex(6)}:"
        self.client = StreamClient(url, name="doctor", timeout=timeout)
        self._timeout = timeout

    def run(self) -> list[Finding]:
        """Try everything, clean up, and give what was found; only the first finding if the server can't be reached."""
        first = self._try(*TRIALS[0])
        if not first.ok:
            return [first]
        try:
            return [first, *(self._try(*trial) for trial in TRIALS[1:])]
        finally:
            self._clean()
            self.client.close()

    def call(self, *command: Any) -> Any:
        return self.client.call(*command)

    def key(self, name: str) -> str:
        return self.prefix + name

    def _try(self, command: str, expected: str, trial: Trial, needed: bool = True) -> Finding:
        try:
            return Finding(command, expected, trial(self), True, needed)
        except (Unexpected, StreamError) as difference:
            return Finding(command, expected, str(difference), False, needed)

    def _clean(self) -> None:
        with contextlib.suppress(StreamError):
            for key in _scan(self):
                self.call("DEL", key)

    @contextlib.contextmanager
    def second(self) -> Iterator[StreamClient]:
        """Another connection, for what takes two."""
        other = StreamClient(self.url, name="doctor-2", timeout=self._timeout)
        try:
            yield other
        finally:
            other.close()


def expect(condition: bool, got: object) -> str:
    """Give the answer as text, or raise it if it is not what we rely on."""
    text = got.decode(errors="replace") if isinstance(got, bytes) else str(got)
    if not condition:
        raise Unexpected(text)
    return text


def _ping(server: Examination) -> str:
    reply = server.call("PING")
    return expect(reply in (True, b"PONG", "PONG"), "PONG" if reply is True else reply)


def _login(server: Examination) -> str:
    parts = urlsplit(server.url)
    if not parts.password:
        raise Unexpected("our URL has no password")
    user = (parts.username or "") + ":"
    place = parts.netloc.rpartition("@")[2]
    stranger = StreamClient(urlunsplit(parts._replace(netloc=f"{user}wrong-{secrets.token_hex(4)}@{place}")), timeout=3.0)
    try:
        stranger.call("PING")
    except StreamRefused:
        return "refused"
    finally:
        stranger.close()
    raise Unexpected("accepted: the server asks for no password")


def _name(server: Examination) -> str:
    server.call("CLIENT", "SETNAME", "novawf-doctor")
    reply = server.call("CLIENT", "GETNAME")
    return expect(reply in (b"novawf-doctor", "novawf-doctor"), reply)


def _add(server: Examination) -> str:
    for number in range(3):
        last = server.call("XADD", server.key("stream"), "MAXLEN", "~", 1000, "*", "n", number)
    return expect(b"-" in last, last)


def _length(server: Examination) -> str:
    reply = server.call("XLEN", server.key("stream"))
    return expect(reply == 3, reply)


def _range(server: Examination) -> str:
    entries = server.call("XRANGE", server.key("stream"), "-", "+", "COUNT", 2)
    return expect(len(entries) == 2 and entries[0][1] == {b"n": b"0"}, f"{len(entries)} entries")


def _reverse(server: Examination) -> str:
    entries = server.call("XREVRANGE", server.key("stream"), "+", "-", "COUNT", 1)
    return expect(len(entries) == 1 and entries[0][1] == {b"n": b"2"}, f"{len(entries)} entries")


def _read(server: Examination) -> str:
    found = server.client.read({server.key("stream"): "0-0", server.key("other"): "0-0"}, count=10)
    return expect(len(found) == 1 and len(found[0][1]) == 3, f"{sum(len(entries) for _, entries in found)} entries")


def _block(server: Examination) -> str:
    begun = time.monotonic()
    found = server.client.read({server.key("nothing"): "$"}, count=10, block=BLOCK_SECONDS)
    waited = time.monotonic() - begun
    return expect(not found and BLOCK_SECONDS * 0.9 <= waited <= BLOCK_SECONDS + 0.3, f"nothing after {waited * 1000:.0f} ms")


def _wake(server: Examination) -> str:
    added: list[float] = []

    def add() -> None:
        threading.Event().wait(0.1)
        with server.second() as other:
            other.call("PING")  # the connection stands before the clock starts
            added.append(time.monotonic())
            other.call("XADD", server.key("wake"), "*", "n", 1)

    adder = threading.Thread(target=add)
    adder.start()
    found = server.client.read({server.key("asleep"): "$", server.key("wake"): "$"}, count=10, block=1.0)
    arrived = time.monotonic()
    adder.join()
    if not found:
        raise Unexpected("the reader was not woken")
    took = arrived - added[0]
    return expect(took < WAKE_LIMIT, f"woken after {took * 1000:.1f} ms")


def _bytes(server: Examination) -> str:
    raw = b"\xff\x00\xfe nul"
    server.call("XADD", server.key("raw"), "*", b"field\xff", raw)
    (_, entries) = server.client.read({server.key("raw"): "0-0"}, count=1)[0]
    return expect(entries[0][1] == {b"field\xff": raw}, "the same bytes")


def _delete_entry(server: Examination) -> str:
    first = server.call("XRANGE", server.key("stream"), "-", "+", "COUNT", 1)[0][0]
    reply = server.call("XDEL", server.key("stream"), first)
    return expect(reply == 1, reply)


def _trim(server: Examination) -> str:
    last = server.call("XREVRANGE", server.key("stream"), "+", "-", "COUNT", 1)[0][0]
    server.call("XTRIM", server.key("stream"), "MINID", last)
    reply = server.call("XLEN", server.key("stream"))
    return expect(reply == 1, f"{reply} left")


def _info_stream(server: Examination) -> str:
    reply = server.call("XINFO", "STREAM", server.key("stream"))
    names = {str(n.decode() if isinstance(n, bytes) else n) for n in (reply if isinstance(reply, dict) else reply[::2])}
    return expect({"length", "last-generated-id"} <= names, ", ".join(sorted(names))[:80])


def _hash(server: Examination) -> str:
    server.call("HSET", server.key("hash"), "a", "1", "b", "2")
    reply = server.call("HGETALL", server.key("hash"))
    pairs = reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))
    return expect(pairs == {b"a": b"1", b"b": b"2"}, f"{len(pairs)} fields")


def _expire(server: Examination) -> str:
    server.call("EXPIRE", server.key("hash"), 60)
    reply = server.call("TTL", server.key("hash"))
    return expect(0 < reply <= 60, f"{reply} s left")


def _set_once(server: Examination) -> str:
    first = server.call("SET", server.key("once"), "1", "NX", "PX", 60_000)
    second = server.call("SET", server.key("once"), "2", "NX", "PX", 60_000)
    value = server.call("GET", server.key("once"))
    return expect(bool(first) and second is None and value == b"1", "the first only")


def _delete(server: Examination) -> str:
    reply = server.call("DEL", server.key("once"))
    return expect(reply == 1 and server.call("GET", server.key("once")) is None, reply)


def _count(server: Examination) -> str:
    replies = [server.call("INCRBY", server.key("counted"), by) for by in (1, 2, 0)]
    return expect(replies == [1, 3, 3], replies)


def _evaluate(server: Examination) -> str:
    reply = server.call("EVAL", _ADD_ONE, 1, server.key("count"), 1)
    return expect(reply == 1, reply)


def _unknown_script(server: Examination) -> str:
    try:
        reply = server.call("EVALSHA", "0" * 40, 1, server.key("count"), 1)
    except StreamRefused as refusal:
        return expect("script" in str(refusal).lower(), "NOSCRIPT")
    raise Unexpected(str(reply))


def _known_script(server: Examination) -> str:
    digest = server.call("SCRIPT", "LOAD", _ADD_ONE)
    reply = server.call("EVALSHA", digest, 1, server.key("count"), 1)
    return expect(reply == 2, reply)


def _undeclared(server: Examination) -> str:
    try:
        server.call("EVAL", f"return redis.call('GET', '{server.key('count')}')", 0)
    except StreamRefused:
        return "refused"
    raise Unexpected("accepted (DragonflyDB refuses; our scripts declare every key)")


def _publish(server: Examination) -> str:
    channel = server.key("channel")
    listener = connect(server.url, name="doctor-listener", timeout=3.0)
    try:
        with translated():
            subscription = listener.pubsub()  # type: ignore[no-untyped-call]
            subscription.subscribe(channel)
            subscription.get_message(timeout=2.0)
            server.call("PUBLISH", channel, b"hello")
            message = subscription.get_message(timeout=2.0)
            subscription.close()
    finally:
        listener.close()
    return expect(bool(message) and message["data"] == b"hello", "delivered" if message else "nothing arrived")


def _pipeline(server: Examination) -> str:
    stream = server.key("pipeline")
    replies = server.client.execute([("XADD", stream, "MAXLEN", "~", 10_000, "*", "n", n) for n in range(PIPELINE)])
    begun = time.monotonic()
    length = server.call("XLEN", stream)
    took = time.monotonic() - begun
    in_order = replies == sorted(replies, key=lambda entry: tuple(int(part) for part in entry.split(b"-")))
    return expect(len(replies) == length == PIPELINE and in_order, f"{length} in order, round trip {took * 1000:.2f} ms")


def _scan(server: Examination) -> list[bytes]:
    cursor, keys = b"0", []
    while True:
        cursor, page = server.call("SCAN", cursor, "MATCH", server.prefix + "*", "COUNT", 500)
        keys += page
        if int(cursor) == 0:
            return keys


def _scan_all(server: Examination) -> str:
    keys = _scan(server)
    return expect(server.key("stream").encode() in keys, f"{len(keys)} keys")


def _info(server: Examination) -> str:
    reply = server.call("INFO")
    return expect(
        reply["used_memory"] > 0,
        f"{reply['used_memory'] / 1e6:.1f} MB used, limit {reply.get('maxmemory', 0) / 1e6:.0f} MB (0: none)",
    )


def _policy(server: Examination) -> str:
    reply = server.call("CONFIG", "GET", "maxmemory-policy")
    value = (
        reply.get("maxmemory-policy") or reply.get(b"maxmemory-policy")
        if isinstance(reply, dict)
        else dict(zip(reply[::2], reply[1::2], strict=True)).get(b"maxmemory-policy")
    )
    return expect(value in ("noeviction", b"noeviction"), value)


TRIALS: list[tuple[str, str, Trial] | tuple[str, str, Trial, bool]] = [
    ("PING", "PONG", _ping),
    ("AUTH", "a wrong password is refused", _login, False),
    ("CLIENT SETNAME", "the name is kept", _name),
    ("XADD MAXLEN ~", "an entry id", _add),
    ("XLEN", "3", _length),
    ("XRANGE COUNT", "2 entries, oldest first", _range),
    ("XREVRANGE COUNT", "1 entry, the newest", _reverse),
    ("XREAD of 2 streams", "3 entries of one of them", _read),
    ("XREAD BLOCK", f"nothing after {BLOCK_SECONDS * 1000:.0f} ms", _block),
    ("XREAD BLOCK, XADD", f"woken within {WAKE_LIMIT * 1000:.0f} ms", _wake),
    ("XADD of raw bytes", "the same bytes come back", _bytes),
    ("XDEL", "1", _delete_entry),
    ("XTRIM MINID", "1 left", _trim),
    ("XINFO STREAM", "length, last-generated-id", _info_stream),
    ("HSET, HGETALL", "2 fields", _hash),
    ("EXPIRE, TTL", "up to 60 s left", _expire),
    ("SET NX PX", "the first only", _set_once),
    ("GET, DEL", "1", _delete),
    ("INCRBY", "[1, 3, 3]", _count),
    ("EVAL, declared key", "1", _evaluate),
    ("EVALSHA, unknown", "NOSCRIPT", _unknown_script),
    ("SCRIPT LOAD, EVALSHA", "2", _known_script),
    ("EVAL, undeclared key", "refused", _undeclared, False),
    ("PUBLISH, SUBSCRIBE", "delivered", _publish),
    (f"pipeline of {PIPELINE}", "all, in order", _pipeline),
    ("SCAN MATCH", "our keys", _scan_all),
    ("INFO", "memory figures", _info),
    ("maxmemory-policy", "noeviction", _policy, False),
]


def versions(url: str) -> dict[str, str]:
    """What the server calls itself; {} if it can't be asked."""
    client = StreamClient(url, name="doctor")
    try:
        reply = client.call("INFO")
    except StreamError:
        return {}
    finally:
        client.close()
    wanted = ("dragonfly_version", "valkey_version", "redis_version", "server_name", "os")
    return {name: str(reply[name]) for name in wanted if name in reply}
