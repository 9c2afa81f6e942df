"""How stressed a Nova and its machine are: one number from what was observed of both. Pure."""

from datetime import timedelta

# What adds to the stress score, each from `low` (adds nothing) to `high` (adds all of its points). The processor alone can't
# exceed 40, so a machine that is merely busy never stops a Nova; memory and errors together can.
_CPU_POINTS, _CPU_LOW, _CPU_HIGH = 40.0, 1.0, 4.0  # load average of a minute per core
_PROCESS_POINTS, _PROCESS_LOW, _PROCESS_HIGH = 20.0, 0.90, 1.0  # of the processors that our own processes may use
_MEMORY_POINTS, _MEMORY_LOW, _MEMORY_HIGH = 45.0, 0.80, 0.98  # share of the machine's memory in use, or of a process's limit
_ERROR_POINTS, _ERROR_LOW, _ERROR_HIGH = 35.0, 0.20, 1.0  # share of recent executions that failed
_LAG_POINTS, _LAG_LOW, _LAG_HIGH = 15.0, 60.0, 600.0  # seconds that work or the Nova itself waits past its time
_ROW_POINTS, _ROW_LOW, _ROW_HIGH = 25.0, 1.0, 4.0  # cooldowns in a row


def _part(value: float, low: float, high: float, points: float) -> float:
    return points * min(1.0, (value - low) / (high - low)) if value > low else 0.0


def stress_score(
    cpu_load: float,
    memory_ratio: float,
    error_ratio: float,
    queue_lag: timedelta,
    repeated_cooldowns: int,
    *,
    process_cpu: float = 0.0,
    process_memory: float = 0.0,
) -> float:
    """Give the stress of a Nova and its machine, 0 to 100: the sum of five parts, each rising evenly.

    - load average per core, 1 to 4: up to 40 points; or our processes' share of the processors they may use, 90 % to 100 %: up
      to 20; whichever is more
    - memory in use, 80 % to 98 %, of the machine or of what a process may use: up to 45
    - recent executions that failed, 20 % to 100 %: up to 35
    - lag of the queue, 1 to 10 minutes: up to 15
    - cooldowns in a row, the second to the fourth: up to 25
    """
    score = (
        max(
            _part(cpu_load, _CPU_LOW, _CPU_HIGH, _CPU_POINTS),
            _part(process_cpu, _PROCESS_LOW, _PROCESS_HIGH, _PROCESS_POINTS),
        )
        + _part(max(memory_ratio, process_memory), _MEMORY_LOW, _MEMORY_HIGH, _MEMORY_POINTS)
        + _part(error_ratio, _ERROR_LOW, _ERROR_HIGH, _ERROR_POINTS)
        + _part(queue_lag.total_seconds(), _LAG_LOW, _LAG_HIGH, _LAG_POINTS)
        + _part(repeated_cooldowns, _ROW_LOW, _ROW_HIGH, _ROW_POINTS)
    )
    return min(100.0, score)
