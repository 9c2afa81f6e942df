"""A report's figures beside those of the period before, and as the rows of a table. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

COLUMNS = (
    "section", "figure", "value", "unit", "previous", "change_percentage", "change_points", "cases", "least_cases", "since",
    "until", "formula",
)  # fmt: skip


def compare(figures: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give for each figure of a period what it was in the period before, and the change (None: can't be said).

    A number changes by percent, a share by points.

    What stands as of now has no period, and so nothing before.
    """
    found: dict[str, dict[str, Any]] = {}
    for section, ours in figures.items():
        found[section] = {}
        for name, figure in ours.items():
            previous = before.get(section, {}).get(name) if figure["since"] else None
            was = previous["value"] if previous else None
            found[section][name] = {
                "previous": was,
                "previous_text": previous["text"] if previous else "",
                "change_percentage": None,
                "change_points": None,
            } | _change(figure["unit"], figure["value"], was)
    return found


def _change(unit: str, value: Any, was: Any) -> dict[str, float]:
    if not isinstance(value, int | float) or not isinstance(was, int | float):
        return {}
    if unit == "percent":
        return {"change_points": round(value - was, 1)}
    return {"change_percentage": round(100 * (value - was) / was, 1)} if was else {}


def rows(payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give a report's figures as rows with the COLUMNS."""
    for section, figures in payload["dashboard"]["figures"].items():
        for name, figure in figures.items():
            compared = payload["comparison"].get(section, {}).get(name, {})
            yield {
                "section": section,
                "figure": name,
                "value": figure["text"] if figure["value"] is None else figure["value"],
                "previous": compared.get("previous"),
                "change_percentage": compared.get("change_percentage"),
                "change_points": compared.get("change_points"),
                **{key: figure[key] for key in ("unit", "cases", "least_cases", "since", "until", "formula")},
            }


def unformulated(value: Any) -> Any:
    """Keep a spreadsheet from taking a text for a formula: one that begins like one gets an apostrophe (OWASP)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
