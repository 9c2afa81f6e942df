"""Durations as counts in fixed buckets, each the square root of two times as long as the one before: such counts can be summed.

A quantile read from them is at most a fifth off. Pure.
"""

from collections.abc import Mapping
from math import ceil, log2

LEAST_MS = 10  # shorter is counted as this
HIGHEST = 56  # the last bucket, of about a month; longer is counted there


def bucket(milliseconds: int) -> int:
    """Give the number of the bucket of a duration: bucket b ends at 10 ms times the square root of two to the b."""
    if milliseconds <= LEAST_MS:
        return 0
    return min(HIGHEST, ceil(2 * log2(milliseconds / LEAST_MS) - 1e-9))


def ends_at(number: int) -> float:
    """Give the longest duration of a bucket, in seconds."""
    return float(LEAST_MS / 1000 * 2 ** (number / 2))


def quantile(counts: Mapping[int, int], wanted: float) -> float | None:
    """Give the duration in seconds under which a share of the cases lies; None without cases."""
    whole = sum(counts.values())
    if not whole:
        return None
    rank, below = wanted * whole, 0
    for number in sorted(counts):
        if below + counts[number] >= rank and counts[number]:
            begins = ends_at(number - 1) if number else 0.0
            return round(begins + (ends_at(number) - begins) * max(0.0, rank - below) / counts[number], 3)
        below += counts[number]
    return ends_at(max(counts))
