"""A command that tasks may run: the program, its arguments and its limits, as an operator allowed them."""

import re
import string
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


def _limit(default: int, most: int, unit: str) -> Any:
    validators = [MinValueValidator(1), MaxValueValidator(most)]
    return models.PositiveIntegerField(default=default, validators=validators, help_text=unit)


class CommandTemplate(models.Model):
    """One allowed command. A task names it as its action and may fill in its placeholders, nothing else."""

    slug = models.SlugField(max_length=64, primary_key=True)
    description = models.TextField(blank=True)
    program = models.CharField(max_length=255, help_text="absolute path; it is started without a shell")
    arguments = models.JSONField(default=list, blank=True, help_text='a list of texts: ["--since", "{day}"]')
    placeholders = models.JSONField(
        default=dict, blank=True, help_text='the pattern that a whole value must match: {"day": "[0-9-]{10}"}'
    )
    environment = models.JSONField(
        default=list, blank=True, help_text="names of variables that are passed on; PATH, HOME and LANG are always set"
    )
    timeout = models.FloatField(
        default=60.0, validators=[MinValueValidator(0.1), MaxValueValidator(900.0)], help_text="seconds"
    )
    cpu_limit = _limit(60, 900, "seconds of processor time, of each process")
    memory_limit = _limit(512, 65_536, "MiB, of each process and of all together")
    process_limit = _limit(32, 4096, "processes at once")
    file_limit = _limit(64, 65_536, "MiB, of each file that it writes")
    output_limit = _limit(65_536, 1_048_576, "bytes of output that are kept; the rest is dropped")
    archived_at = models.DateTimeField(null=True, blank=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.slug

    def clean(self) -> None:
        """Refuse a command line that is none, or whose placeholders and patterns don't fit each other."""
        problems: dict[str, str] = {}
        if not self.program.startswith("/") or "\0" in self.program or "/../" in self.program:
            problems["program"] = "Give the absolute path of the program."
        if not _texts(self.arguments):
            problems["arguments"] = "Give a list of texts."
        if not _texts(self.environment) or not all(_VARIABLE.fullmatch(name) for name in self.environment):
            problems["environment"] = "Give a list of names of variables: letters, digits and _."
        if problem := self._problem_of_placeholders(problems):
            problems.setdefault("placeholders", problem)
        if problems:
            raise ValidationError(problems)

    def _problem_of_placeholders(self, problems: dict[str, str]) -> str:
        patterns = self.placeholders
        if not isinstance(patterns, dict) or not _texts(list(patterns.values())):
            return 'Give a pattern for each placeholder: {"name": "pattern"}.'
        for name, pattern in patterns.items():
            if not _NAME.fullmatch(name):
                return f"{name} is no name: lower-case letters, digits and _, at most 32."
            try:
                re.compile(pattern)
            except re.error as error:
                return f"The pattern of {name} can't be read: {error}."
        if "arguments" in problems:
            return ""
        try:
            used = self.used_placeholders()
        except ValueError:
            return "The arguments have a brace that belongs to no placeholder; write {{ or }} for a brace itself."
        if used != set(patterns):
            return f"The arguments use {', '.join(sorted(used)) or 'none'}; each of them needs a pattern, and nothing else."
        return ""

    def used_placeholders(self) -> set[str]:
        """Name the placeholders of the arguments.

        :raises ValueError: a brace is out of place.
        """
        used = set()
        for argument in self.arguments:
            for _, name, form, conversion in string.Formatter().parse(argument):
                if name is not None:
                    if form or conversion or not _NAME.fullmatch(name):
                        raise ValueError(name)
                    used.add(name)
        return used


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) and "\0" not in part for part in value)
