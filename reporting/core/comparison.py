"""A report's figures beside those of the period before, and as the rows of a table. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

COLUMNS = (
    "section", "figure", "value", "unit", "previous", "change_percentage", "cases", "least_cases", "since", "until", "formula",
)  # fmt: skip


def compare(figures: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give for each figure of a period what it was in the period before, and the change in percent (None: can't be said).

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
                "change_percentage": _change(figure["value"], was),
            }
    return found


def _change(value: Any, was: Any) -> float | None:
    if not isinstance(value, int | float) or not isinstance(was, int | float) or not was:
        return None
    return round(100 * (value - was) / was, 1)


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
                **{key: figure[key] for key in ("unit", "cases", "least_cases", "since", "until", "formula")},
            }


def unformulated(value: Any) -> Any:
    """Keep a spreadsheet from taking a text for a formula: one that begins like one gets an apostrophe (OWASP)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
