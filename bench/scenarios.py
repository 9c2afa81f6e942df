"""The scenarios: what each does to a NOVAWF of its own, and which figures come out (docs/benchmarks.md: how to read them)."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench import agents as agents_outside
from bench import floor, outside
from bench.databases import Database
from bench.figures import Bar, Figure, percentile
from bench.stack import environment, inside, pause, running, used

_WARM_UP = 10.0
_BACKLOG = 5_000
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Options:
    """How thorough to be. `quick` is for a look; figures for the record are made without it."""

    quick: bool = False

    def pick(self, thorough: float, quick: float) -> float:
        return quick if self.quick else thorough


def throughput(database: Database, options: Options) -> list[Figure]:
    """200 Novas under more work than they can do: audited tasks a second, and what each costs."""
    with running(database, novas=200) as stack:
        journal = database.number("SELECT count(*) FROM safety_auditentry")
        counters = outside.Counters()
        streams = [f"nova.tasks.{nova_id}.completed" for nova_id in stack.nova_ids]
        counter = outside.process(outside.count, stack.stream_url, streams, counters)
        stop_feeding = outside.Counters(counters.sent, counters.done)
        feeder = outside.process(outside.feed, stack.stream_url, stop_feeding, _BACKLOG)
        pause(_WARM_UP)
        done, cpu, begun, each = counters.done.value, stack.cpu(), time.monotonic(), []
        while (seconds := time.monotonic() - begun) < options.pick(60, 15):
            before = counters.done.value
            pause(1.0)
            each.append(counters.done.value - before)
        finished, spent = counters.done.value - done, used(cpu, stack.cpu())
        memory = stack.memory()
        if not feeder.is_alive():
            raise RuntimeError("The feeder died; the stream server refused its entries.")
        stop_feeding.stop.set()
        feeder.join()
        newest, stopped = database.number("SELECT max(id) FROM safety_outboxentry"), time.monotonic()
        oldest = "SELECT min(id) FROM safety_outboxentry"
        published = _seconds_until(lambda: not 0 < database.number(oldest) <= newest, stopped, 60)
        finished_all = _seconds_until(lambda: not counters.unfinished, stopped, 120)
        emptied = _seconds_until(lambda: not database.number(oldest), stopped, 150) - finished_all
        counters.stop.set()
        counter.join()
        journal = database.number("SELECT count(*) FROM safety_auditentry") - journal
        by_hand = floor.by_hand(database, stack.stream_url)
    tasks = max(finished, 1)
    shares = {part: round(value / seconds, 3) for part, value in spent.items()}
    least = 1_200 if database.server_pid else 1_500
    return [
        Figure("throughput", "audited tasks", finished / seconds, "a second", Bar(least), {"each_second": each}),
        Figure("throughput", "the same by hand, no framework", by_hand, "a second"),
        Figure("throughput", "audited tasks, share of that", finished / seconds / by_hand * 100, "%"),
        Figure("throughput", "CPU, all processes", sum(spent.values()) * 1000 / tasks, "ms a task", None, {"cores": shares}),
        *(Figure("throughput", f"CPU of {part}", share, "cores") for part, share in shares.items() if part != "up"),
        Figure("throughput", "journal rows", journal / max(counters.done.value, 1), "a task", Bar(4)),
        Figure("throughput", "outbox of the feed's end, published after", published, "s", Bar(2, at_most=True)),
        Figure("throughput", "outbox empty after the last completed", emptied, "s", Bar(2, at_most=True)),
        Figure("throughput", "backlog finished after", finished_all, "s", None, {"unfinished": counters.unfinished}),
        Figure("throughput", "memory under load, PSS", sum(memory.values()), "MB", None, {"parts": memory}),
    ]


def _seconds_until(condition: Callable[[], bool], begun: float, limit: float) -> float:
    """Give the seconds from `begun` until it is true; the limit if it is not by then."""
    while (passed := time.monotonic() - begun) < limit:
        if condition():
            return passed
        pause(0.02)
    return limit


def cycles(database: Database, options: Options) -> list[Figure]:
    """One engine, nothing else: cycles of idle Novas a second."""
    found = inside(environment(database), "cycles", "2048", str(int(options.pick(9, 3))))
    detail = {"rounds": found["all"], "batch_ms": found["batch_ms"], "states": found["states"]}
    return [Figure("cycles", "one engine process", found["per_second"], "cycles a second", Bar(2_500), detail)]


def idle(database: Database, options: Options) -> list[Figure]:
    """10,000 Novas with nothing to do: do they keep their own cycle times, and what does it cost?"""
    number = int(options.pick(10_000, 1_000))
    with running(database, novas=number) as stack:
        pause(options.pick(90, 65))  # until the slowest has been through a cycle
        before, cpu = inside(stack.environment, "progress"), stack.cpu()
        pause(options.pick(180, 60))  # whole cycles of nearly all personalities, so that the window's edges don't count
        after, spent = inside(stack.environment, "progress"), used(cpu, stack.cpu())
        memory = stack.memory()
    seconds = after["at"] - before["at"]
    kept = {}
    for slug, (length, novas, total) in after["personalities"].items():
        kept[slug] = (total - before["personalities"][slug][2]) / (novas * seconds / length)
    cores = (spent["loops"] + spent["streams"]) / seconds
    return [
        Figure("idle", f"{number:,} Novas, cycles kept (worst personality)", min(kept.values()) * 100, "%", Bar(95), kept),
        Figure("idle", f"{number:,} Novas, loops and stream server", cores, "cores", Bar(0.6, at_most=True), spent),
        Figure("idle", f"{number:,} Novas, all processes", sum(spent.values()) / seconds, "cores"),
        Figure("idle", f"{number:,} Novas, memory of all, PSS", sum(memory.values()), "MB", None, {"parts": memory}),
    ]


def ten(database: Database, options: Options) -> list[Figure]:
    """10 Novas and 100 tasks, evenly over a minute."""
    del options  # a minute is a minute
    with running(database, novas=10) as stack:
        counters = outside.Counters()
        streams = [f"nova.tasks.{nova_id}.completed" for nova_id in stack.nova_ids]
        counter = outside.process(outside.count, stack.stream_url, streams, counters)
        server, begun = outside.client(stack.stream_url), time.monotonic()
        for i in range(100):
            pause(begun + i * 0.595 - time.monotonic())
            server.execute_command("XADD", outside.QUEUE, "*", *outside.work(i))
        pause(begun + 60 - time.monotonic())
        done = counters.done.value
        counters.stop.set()
        counter.join()
    return [Figure("ten", "10 Novas, tasks completed of 100", done, "in a minute", Bar(100))]


def latency(database: Database, options: Options) -> list[Figure]:
    """The starting fleet in mid-cycle: from an alert's XADD to the `progress` entry that it caused, read by another client."""
    with running(database) as stack:
        pause(options.pick(20, 5))
        streams = [f"nova.tasks.{nova_id}.progress" for nova_id in stack.nova_ids]
        found, stop = outside.queue(), outside.event()
        watcher = outside.process(outside.watch, stack.stream_url, streams, found, stop)
        found.get(timeout=30)
        chance = random.Random(20_261_120)  # noqa: S311 - the same instants in every run
        sent = outside.send_alerts(stack.stream_url, stack.nova_ids, int(options.pick(200, 40)), chance, pause)
        pause(2.0)
        stop.set()
        seen: dict[str, float] = {}
        watcher.join(5)
        while not found.empty():
            cause, at = found.get()
            seen.setdefault(cause, at)
    missing = len(sent.keys() - seen.keys())
    waits = [(seen[cause] - at) * 1000 for cause, (at, _) in sent.items() if cause in seen]
    named = [(seen[cause] - at) * 1000 for cause, (at, addressee) in sent.items() if cause in seen and addressee]
    detail = {"all_ms": [round(wait, 2) for wait in waits], "named_p99": percentile(named, 0.99)}
    return [
        Figure("latency", "alert to progress entry, p50", percentile(waits, 0.5), "ms"),
        Figure("latency", "alert to progress entry, p95", percentile(waits, 0.95), "ms"),
        Figure("latency", "alert to progress entry, p99", percentile(waits, 0.99), "ms", Bar(50, at_most=True), detail),
        Figure("latency", "alerts without an answer", missing, "", Bar(0, at_most=True)),
    ]


def memory(database: Database, options: Options) -> list[Figure]:
    """The starting fleet, a while after the start: memory of every process, and what a further Nova adds."""
    more, settling = int(options.pick(2_000, 500)), options.pick(75, 30)
    readings = []
    for novas in (0, more):
        with running(database, novas=5 + novas) as stack:  # the second time the same installation, grown
            pause(settling)
            readings.append(stack.memory())
    few, many = (sum(parts.values()) for parts in readings)
    return [
        Figure("memory", "whole stack, PSS", few, "MB", Bar(500, at_most=True), {"parts": readings[0]}),
        Figure("memory", "for each further Nova", max(many - few, 0) * 1024 / more, "kB", Bar(20, at_most=True)),
    ]


def resources(database: Database, options: Options) -> list[Figure]:
    """10 Novas under the throughput that the specification asks of the system: the resource table, for each Nova."""
    novas, seconds = 10, options.pick(600, 60)
    with running(database, novas=novas) as stack:
        pause(10)
        server = outside.client(stack.stream_url)
        logged, moved, cpu, begun = stack.log_bytes(), _traffic(server), stack.cpu(), time.monotonic()
        peak, total, at, number = 0.0, sum(cpu.values()), begun, 0
        while at - begun < seconds:
            pause(1.0)
            now, spent = time.monotonic(), sum(stack.cpu().values())
            peak, total, at = max(peak, (spent - total) / (now - at)), spent, now
            while number < (at - begun) * 1_000 / 3_600:
                _message(server, number, stack.nova_ids[number % novas])
                number += 1
        seconds = time.monotonic() - begun
        mean = sum(used(cpu, stack.cpu()).values()) / seconds
        hourly = 3_600 / seconds / novas / _MB
        log_rate, stream_rate = (stack.log_bytes() - logged) * hourly, (_traffic(server) - moved) * hourly
    return [
        Figure("resources", "CPU of one Nova, mean", mean * 100 / novas, "% of a core", Bar(10, at_most=True)),
        Figure("resources", "CPU of one Nova, peak second", peak * 100 / novas, "% of a core", Bar(50, at_most=True)),
        Figure("resources", "log of one Nova", log_rate, "MB an hour", Bar(10, at_most=True)),
        Figure("resources", "stream traffic of one Nova", stream_rate, "MB an hour", Bar(1, at_most=True)),
    ]


def _traffic(server: Any) -> int:
    """Give the bytes that the stream server has received and sent, its own bookkeeping and every reader's included."""
    found = server.info("stats")
    return int(found["total_net_input_bytes"]) + int(found["total_net_output_bytes"])


def _message(server: Any, number: int, nova_id: str) -> None:
    """Send a coordination message; one in 240 is a task: 100 a day beside 1,000 messages an hour."""
    if number % 240 == 0:
        server.execute_command("XADD", outside.QUEUE, "*", *outside.work(number, nova_id=nova_id))
        return
    fields = ["type", "signal", "priority", "low", "sender", "bench", "message", f"For your information: message {number}."]
    server.execute_command("XADD", f"nova.coordination.{nova_id}", "*", *fields)


def safety(database: Database, options: Options) -> list[Figure]:
    """All five judges: 100 Novas at once, and one alone."""
    found = inside(environment(database), "safety", str(int(options.pick(300, 50))))
    batch, alone = found["batch"], found["alone"]
    detail = {"median_ms": statistics.median(batch["ms"]), "queries": batch["queries"]}
    return [
        Figure(
            "safety", "check in a batch of 100, p99", percentile(batch["ms"], 0.99), "ms a Nova", Bar(2, at_most=True), detail
        ),
        Figure("safety", "check alone, p99", percentile(alone["ms"], 0.99), "ms", Bar(10, at_most=True)),
        Figure("safety", "queries, 100 Novas more than one", batch["queries"] - alone["queries"], "", Bar(0, at_most=True)),
    ]


def agents(database: Database, options: Options) -> list[Figure]:
    """Four agents over HTTP: tasks created a thousand at a time, then claimed and completed one by one and in batches."""
    seconds = options.pick(20, 6)
    with running(database) as stack:
        keys = inside(stack.environment, "agents", "4")
        created = agents_outside.create(stack.address, stack.operator_key, int(options.pick(60_000, 20_000)))
        pause(5)
        cpu = stack.cpu()
        single = agents_outside.one_by_one(stack.address, keys, seconds)
        spent = used(cpu, stack.cpu())
        batches = agents_outside.in_batches(stack.address, keys, seconds)
        pause(5)
        paced = agents_outside.one_by_one(stack.address, keys, seconds, rate=50)
    waits = [each * 1000 for each in paced.each]
    shares = {part: round(value / seconds, 3) for part, value in spent.items()}
    return [
        Figure("agents", "tasks created in bulk", created.rate, "a second", Bar(3_000)),
        Figure("agents", "claim and complete, one by one", single.rate, "a second", Bar(120), {"cores": shares}),
        Figure("agents", "CPU of the web process", spent["web"] * 1000 / max(single.tasks, 1), "ms a pair"),
        Figure("agents", "claim and complete, in batches", batches.rate, "tasks a second", Bar(1_500)),
        Figure("agents", "pairs a second, when 50 are wanted", paced.rate, "a second", Bar(49)),
        Figure("agents", "a request at 50 pairs a second, p50", percentile(waits, 0.5), "ms"),
        Figure("agents", "a request at 50 pairs a second, p99", percentile(waits, 0.99), "ms", Bar(100, at_most=True)),
    ]


# What the scenario `dashboard` asks for over HTTP, and what the slowest of a hundred may take, in ms.
ADDRESSES: Mapping[str, float] = {
    "/api/v1/dashboard": 100,
    "/api/v1/teams/team-7/dashboard": 100,
    "/api/v1/novas/bench-00007/dashboard": 100,
    "/api/v1/novas/bench-00007/series": 100,
}


def dashboard(database: Database, options: Options) -> list[Figure]:
    """10,000 Novas, 1,000,000 tasks and 5,000,000 journal entries in PostgreSQL: what the dashboards' data take."""
    if not database.server_pid:
        return []  # one machine's SQLite is not where such a fleet runs, and the filler doesn't speak it
    novas, tasks, repeats = ("10000", "1000000", "200") if not options.quick else ("1000", "50000", "50")
    filled = inside(environment(database), "fill", novas, tasks, str(int(tasks) * 5))
    found = inside(environment(database), "dashboards", repeats)
    size = f"{int(tasks):,} tasks"
    rate = filled["entries"] / filled["sum_seconds"]
    figures = [Figure("dashboard", "journal entries summed up", rate, "a second", None, filled)]
    for name, measured in found.items():
        for what in ("dashboard", "series"):
            times = measured[f"{what}_ms"]
            bar, detail = Bar(100, at_most=True), {key: measured[key] for key in ("queries", "slowest")}
            figures.append(Figure("dashboard", f"{what} of {name}, {size}, p50", percentile(times, 0.5), "ms"))
            figures.append(Figure("dashboard", f"{what} of {name}, {size}, p99", percentile(times, 0.99), "ms", bar, detail))
    for name, times in inside(environment(database), "pages", repeats).items():
        figures.append(Figure("dashboard", f"page {name}, p99", percentile(times, 0.99), "ms", Bar(300, at_most=True)))
    with running(database, novas=0) as stack:
        pause(10)
        for address, limit in ADDRESSES.items():
            door = agents_outside.Door(stack.address, stack.operator_key)
            for _ in range(int(repeats) // 2):
                door.get(address)
            times = [each * 1000 for each in door.seconds[1:]]
            figures.append(Figure("dashboard", f"GET {address}, p99", percentile(times, 0.99), "ms", Bar(limit, at_most=True)))
    return figures


Scenario = Callable[[Database, Options], list[Figure]]
SCENARIOS: Mapping[str, Scenario] = {
    "throughput": throughput,
    "cycles": cycles,
    "safety": safety,
    "agents": agents,
    "latency": latency,
    "ten": ten,
    "memory": memory,
    "idle": idle,
    "resources": resources,
    "dashboard": dashboard,
}
REPEATED = frozenset({"cycles", "safety"})  # short ones: the median of three
