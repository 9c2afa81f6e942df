"""How pages put times and names into words: short, the same everywhere. Pure."""

_STEPS = ((86_400 * 2, 86_400, "d"), (3_600 * 2, 3_600, "h"), (120, 60, "min"), (0, 1, "s"))


def lasting(seconds: float) -> str:
    """Say how long something lasted, in one unit: `45 s`, `12 min`, `5 h`, `3 d`."""
    seconds = max(0.0, seconds)
    for least, unit, name in _STEPS:
        if seconds >= least:
            return f"{int(seconds // unit):,} {name}"
    return "0 s"


def plain(name: str) -> str:
    """Write a value of an enum as words."""
    return name.replace("_", " ")
