"""What this process and the programs it runs use of the machine. No other room measures processes."""

import os
import time

import psutil

_MEGABYTE = 1_000_000


class Usage:
    """Measures this process; processor time counts from one reading to the next, at first from the start of the process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._read_at, self._spent = self._process.create_time(), 0.0

    def read(self) -> tuple[float, float]:
        """Give memory in MB, with that of its children, and the share of the machine's processors since the last reading."""
        family = [self._process, *self._process.children(recursive=True)]
        memory, spent = 0, 0.0
        for process in family:
            try:
                memory += process.memory_info().rss
                times = process.cpu_times()
            except psutil.NoSuchProcess:  # a program that has just ended; its parent's times hold it
                continue
            spent += times.user + times.system + times.children_user + times.children_system
        at = time.time()
        cpu = max(spent - self._spent, 0.0) / max(at - self._read_at, 0.001) / (psutil.cpu_count() or 1)
        self._read_at, self._spent = at, spent
        return memory / _MEGABYTE, min(cpu, 1.0)


_usage: dict[int, Usage] = {}  # by process: a forked one measures itself anew


def of_this_process() -> tuple[float, float]:
    """Give this process's memory in MB and its share of the processors, see `Usage.read`."""
    return _usage.setdefault(os.getpid(), Usage()).read()
