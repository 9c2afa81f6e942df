"""The bars of a small chart, in the units of its view box. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 600.0, 120.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; `label` says what it stands for."""

    x: float
    y: float
    width: float
    height: float
    label: str


def bars(values: Sequence[float], labels: Sequence[str]) -> list[Bar]:
    """Draw values, none below zero, as bars beside each other, the highest as high as the box."""
    if not values:
        return []
    highest, step = max([*values, 1e-9]), WIDTH / len(values)
    return [
        Bar(round(step * place, 2), round(HEIGHT * (1 - value / highest), 2), round(step * 0.8, 2),
            round(HEIGHT * value / highest, 2), label)
        for place, (value, label) in enumerate(zip(values, labels, strict=True))
    ]  # fmt: skip
