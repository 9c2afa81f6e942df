"""Agents from outside: they know an address and a key, claim tasks over HTTP and complete them. Nothing of ours is imported."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_CREATED = 1_000  # tasks in one request
_BATCH = 64  # as many as a policy lets a Nova have in hand


class Door:
    """One kept connection to the API, with a key."""

    def __init__(self, address: str, key: str) -> None:
        self._web = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.seconds: list[float] = []  # what each request took

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask, and give the answer; empty for one without content."""
        text = self._ask("POST", f"/api/v1/{path}", json.dumps(body))
        return json.loads(text) if text else {}

    def get(self, path: str) -> bytes:
        """Ask for what is at an address of the whole site."""
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, body: str | None) -> bytes:
        begun = time.perf_counter()
        self._web.request(method, path, body, self._headers)
        response = self._web.getresponse()
        text = response.read()
        self.seconds.append(time.perf_counter() - begun)
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise RuntimeError(f"{path} was answered with {response.status}: {text[:500]!r}")
        return text

    def close(self) -> None:
        self._web.close()


@dataclass(slots=True)
class Worked:
    """What agents did together."""

    tasks: int
    seconds: float
    each: list[float] = field(default_factory=list)  # what each request took

    @property
    def rate(self) -> float:
        return self.tasks / self.seconds


def create(address: str, key: str, number: int) -> Worked:
    """Create open tasks for agents, a thousand with each request."""
    door, done, begun = Door(address, key), 0, time.perf_counter()
    while done < number:
        tasks = [{"title": f"Agent's work {done + i}", "executor": "agent", "action": "bench"} for i in range(_CREATED)]
        done += int(door.post("tasks/bulk/", {"tasks": tasks})["accepted"])
    worked = Worked(done, time.perf_counter() - begun, door.seconds)
    door.close()
    return worked


def one_by_one(address: str, keys: Sequence[str], seconds: float, rate: float = 0.0) -> Worked:
    """Claim a task, complete it, and so on, each agent by itself; with `rate`, so many pairs a second of all together."""

    def work(door: Door, until: float, turn: Callable[[], None]) -> int:
        done = 0
        while time.perf_counter() < until:
            turn()
            for task in door.post("tasks/claim/", {}).get("tasks", ()):
                door.post(f"tasks/{task['task_id']}/complete/", {"fence": task["fence"], "results": "Done."})
                done += 1
        return done

    return _together(address, keys, seconds, work, len(keys) / rate if rate else 0.0)


def in_batches(address: str, keys: Sequence[str], seconds: float) -> Worked:
    """Claim as many tasks as a policy allows, complete all with one request, and so on."""

    def work(door: Door, until: float, turn: Callable[[], None]) -> int:
        done = 0
        while time.perf_counter() < until:
            claimed = door.post("tasks/claim/", {"limit": _BATCH}).get("tasks", ())
            if claimed:
                tasks = [{"task_id": task["task_id"], "fence": task["fence"], "results": "Done."} for task in claimed]
                answers = door.post("tasks/complete/", {"tasks": tasks})["results"]
                done += sum(answer["status"] == "completed" for answer in answers)
        return done

    return _together(address, keys, seconds, work, 0.0)


def _together(
    address: str,
    keys: Sequence[str],
    seconds: float,
    work: Callable[[Door, float, Callable[[], None]], int],
    pace: float,
) -> Worked:
    doors, done = [Door(address, key) for key in keys], [0] * len(keys)
    begun = time.perf_counter()

    def run(number: int) -> None:
        turns = 0

        def turn() -> None:
            nonlocal turns
            at = begun + (turns + number / len(keys)) * pace
            turns += 1
            threading.Event().wait(max(0.0, at - time.perf_counter()) if pace else 0.0)

        done[number] = work(doors[number], begun + seconds, turn)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(keys))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worked = Worked(sum(done), time.perf_counter() - begun, [each for door in doors for each in door.seconds])
    for door in doors:
        door.close()
    return worked
