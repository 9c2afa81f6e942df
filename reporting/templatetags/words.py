"""The words of reporting.core.words, for templates."""

from datetime import datetime

from django import template

from reporting.core import words

register = template.Library()


@register.filter
def lasting(since: datetime | None, now: datetime) -> str:
    """Say how long ago something was."""
    return words.lasting((now - since).total_seconds()) if since else ""


@register.filter
def plain(name: object) -> str:
    """Write a value of an enum as words."""
    return words.plain(str(name))
