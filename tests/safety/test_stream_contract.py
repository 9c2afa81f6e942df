"""What we rely on a stream server for: one contract, held by the real Valkey and by a fake that knows DragonflyDB's rules.

The fake speaks no TCP, knows no INFO and takes undeclared Lua keys, so it is asked for the commands of intake, relay and mirror
only; `manage.py doctor` asks a real server for everything.
"""

import threading
import time
from collections.abc import Iterator

import fakeredis
import pytest
from django.conf import settings

from safety import stream_client
from safety.stream_client import StreamClient, StreamRefused


class StreamServerContract:
    """Every server must pass these. Subclasses give `client`, of an empty server."""

    @pytest.fixture
    def client(self) -> StreamClient:
        raise NotImplementedError

    def test_ping_is_answered(self, client: StreamClient) -> None:
        assert client.call("PING") in (True, b"PONG", "PONG")

    def test_ids_of_entries_rise_and_fields_come_back_in_order(self, client: StreamClient) -> None:
        ids = [client.call("XADD", "s", "*", "b", str(number), "a", "x") for number in range(5)]
        assert all(isinstance(entry_id, bytes) for entry_id in ids)
        assert [tuple(map(int, entry_id.split(b"-"))) for entry_id in ids] == sorted(
            tuple(map(int, entry_id.split(b"-"))) for entry_id in ids
        )
        assert [entry_id for entry_id, _ in client.call("XRANGE", "s", "-", "+")] == ids
        assert list(client.call("XRANGE", "s", "-", "+")[3][1].items()) == [(b"b", b"3"), (b"a", b"x")]

    def test_any_bytes_are_carried(self, client: StreamClient) -> None:
        raw = bytes(range(256))
        client.call("XADD", "s", "*", raw, raw)
        assert client.read({"s": "0-0"}, count=1)[0][1][0][1] == {raw: raw}

    def test_maxlen_about_trims_far_below_what_was_written_and_keeps_the_newest(self, client: StreamClient) -> None:
        client.execute([["XADD", "s", "MAXLEN", "~", "100", "*", "number", str(number)] for number in range(1000)])
        length = client.call("XLEN", "s")
        assert 100 <= length < 500  # whole nodes are trimmed, of a size that is the server's
        assert client.call("XREVRANGE", "s", "+", "-", "COUNT", 1)[0][1] == {b"number": b"999"}

    def test_xread_gives_what_stands_behind_each_cursor_of_several_streams(self, client: StreamClient) -> None:
        client.execute([["XADD", "a", "1-1", "f", "1"], ["XADD", "a", "2-1", "f", "2"], ["XADD", "b", "1-1", "f", "3"]])
        found = client.read({"a": "1-1", "b": "0-0", "empty": "0-0"}, count=10)
        assert found == [(b"a", [(b"2-1", {b"f": b"2"})]), (b"b", [(b"1-1", {b"f": b"3"})])]

    def test_xread_counts_for_each_stream_and_is_empty_behind_the_last_entry(self, client: StreamClient) -> None:
        client.execute([["XADD", name, f"{number}-1", "f", "v"] for name in ("a", "b") for number in range(1, 6)])
        assert [len(entries) for _, entries in client.read({"a": "0-0", "b": "0-0"}, count=3)] == [3, 3]
        assert client.read({"a": "5-1", "b": "5-1"}, count=3) == []

    def test_xread_of_a_thousand_streams_is_one_call(self, client: StreamClient) -> None:
        client.call("XADD", "s997", "1-1", "f", "v")
        assert client.read({f"s{number}": "0-0" for number in range(1000)}, count=1) == [(b"s997", [(b"1-1", {b"f": b"v"})])]

    def test_a_blocking_xread_ends_by_itself(self, client: StreamClient) -> None:
        begun = time.monotonic()
        assert client.read({"a": "0-0", "b": "0-0"}, count=1, block=0.05) == []
        assert time.monotonic() - begun >= 0.04

    def test_xrange_and_xrevrange_take_bounds_and_a_count(self, client: StreamClient) -> None:
        client.execute([["XADD", "s", f"{number}-1", "f", "v"] for number in range(1, 6)])

        def ids(*command: object) -> list[bytes]:
            return [entry_id for entry_id, _ in client.call(*command)]

        assert ids("XRANGE", "s", "2-0", "4-1") == [b"2-1", b"3-1", b"4-1"]
        assert ids("XRANGE", "s", "(2-1", "+", "COUNT", 1) == [b"3-1"]
        assert ids("XREVRANGE", "s", "+", "-", "COUNT", 2) == [b"5-1", b"4-1"]
        assert ids("XREVRANGE", "nothing", "+", "-", "COUNT", 1) == []

    def test_xtrim_takes_away_what_is_older_than_an_id(self, client: StreamClient) -> None:
        client.execute([["XADD", "s", f"{number}-1", "f", "v"] for number in range(1, 6)])
        assert client.call("XTRIM", "s", "MINID", "4-1") == 3
        assert client.call("XLEN", "s") == 2

    def test_xinfo_stream_tells_what_gaps_are_found_by(self, client: StreamClient) -> None:
        client.execute([["XADD", "s", f"{number}-1", "f", "v"] for number in range(1, 6)])
        client.call("XDEL", "s", "2-1")
        known, unknown = client.execute([["XINFO", "STREAM", "s"], ["XINFO", "STREAM", "nothing"]], tolerant=True)
        facts = dict(zip(known[::2], known[1::2], strict=True))
        assert facts[b"length"] == 4
        assert facts[b"last-generated-id"] == b"5-1"
        assert facts[b"max-deleted-entry-id"] == b"2-1"
        assert isinstance(unknown, Exception)

    def test_an_entry_id_that_does_not_rise_is_refused(self, client: StreamClient) -> None:
        client.call("XADD", "s", "2-1", "f", "v")
        with pytest.raises(StreamRefused, match="equal or smaller"):
            client.call("XADD", "s", "1-1", "f", "v")

    def test_a_hash_has_its_fields_and_a_time_to_live(self, client: StreamClient) -> None:
        client.execute([["HSET", "h", "mode", "running", "due_at", ""], ["EXPIRE", "h", settings.STATE_HASH_TTL]])
        assert client.call("HGETALL", "h") in ({b"mode": b"running", b"due_at": b""}, [b"mode", b"running", b"due_at", b""])
        assert settings.STATE_HASH_TTL - 5 <= client.call("TTL", "h") <= settings.STATE_HASH_TTL
        client.call("HSET", "h", "mode", "paused")
        assert client.call("TTL", "h") > 0  # a field written later does not take it away

    def test_a_key_is_set_read_and_missed(self, client: StreamClient) -> None:
        assert client.call("GET", "nova:epoch") is None
        client.call("SET", "nova:epoch", "abc")
        assert client.call("GET", "nova:epoch") == b"abc"

    def test_a_counter_rises_is_looked_at_and_ends_by_itself(self, client: StreamClient) -> None:
        counted = [client.execute([("INCRBY", "n", by), ("EXPIRE", "n", 60)]) for by in (1, 2, 0)]
        assert counted == [[1, 1], [3, 1], [3, 1]]
        assert 0 < client.call("TTL", "n") <= 60

    def test_a_pipeline_answers_in_order(self, client: StreamClient) -> None:
        commands = [["SET", f"k{number}", str(number)] for number in range(300)]
        commands += [["GET", f"k{number}"] for number in range(300)]
        assert client.execute(commands)[300:] == [str(number).encode() for number in range(300)]

    def test_a_pipeline_with_one_refusal_says_so_and_the_client_stays_usable(self, client: StreamClient) -> None:
        client.call("SET", "text", "no stream")
        commands = [["XADD", "s", "1-1", "f", "v"], ["XADD", "text", "*", "f", "v"], ["XADD", "s", "2-1", "f", "v"]]
        with pytest.raises(StreamRefused, match="WRONGTYPE"):
            client.execute(commands)
        assert client.call("XLEN", "s") == 2
        first, second = client.execute([["GET", "text"], ["XLEN", "text"]], tolerant=True)
        assert first == b"no stream"
        assert isinstance(second, Exception)


class TestValkey(StreamServerContract):
    """The server we embed."""

    @pytest.fixture
    def client(self, stream: StreamClient) -> StreamClient:
        return stream

    def test_a_blocking_xread_is_woken_by_an_entry_on_any_of_its_streams(self, client: StreamClient, stream_url: str) -> None:
        other = StreamClient(stream_url, name="test-writer")
        writer = threading.Timer(0.1, lambda: other.call("XADD", "b", "1-1", "f", "v"))
        writer.start()
        begun = time.monotonic()
        assert client.read({"a": "0-0", "b": "0-0"}, count=1, block=5.0) == [(b"b", [(b"1-1", {b"f": b"v"})])]
        assert time.monotonic() - begun < settings.STREAM_BLOCK_LIMIT
        writer.join()
        other.close()

    def test_a_block_is_never_longer_than_the_limit(self, client: StreamClient) -> None:
        begun = time.monotonic()
        client.read({"a": "0-0"}, count=1, block=60.0)
        assert time.monotonic() - begun < settings.STREAM_BLOCK_LIMIT + 1.0

    def test_info_memory_holds_what_the_stream_judge_reads(self, client: StreamClient) -> None:
        info = client.call("INFO", "memory")
        assert {"used_memory", "maxmemory"} <= info.keys()


class TestDragonflyRules(StreamServerContract):
    """DragonflyDB, as far as a fake knows it."""

    @pytest.fixture
    def client(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamClient]:
        fake = fakeredis.FakeRedis(server_type="dragonfly", protocol=2)
        monkeypatch.setattr(stream_client, "connect", lambda *_, **__: fake)
        client = StreamClient(name="test-dragonfly")
        yield client
        client.close()
