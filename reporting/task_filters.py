"""What lists of tasks may be asked for: Nova, team, priority, executor, the beginning of a title or an id."""

from typing import Any

import django_filters
from django import forms
from django.conf import settings
from django.db.models import Q, QuerySet

from workflow.core.work import Priority
from workflow.execution.registry import EXTERNAL
from workflow.models import Nova, Task

KEYS = frozenset({"nova", "team", "priority", "executor", "q"})


def known_executors() -> list[tuple[str, str]]:
    """Give what can run a task here, or claim it from outside, as choices."""
    return [(name, name) for name in sorted({*settings.EXECUTORS, *EXTERNAL})]


class TaskFilters(django_filters.FilterSet):
    """The filters; what they can't read filters nothing, and `errors` says so."""

    q = django_filters.CharFilter(
        method="begins",
        label="Title or id begins with",
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "Title or id"}),
    )
    nova = django_filters.CharFilter(
        method="of_nova", label="Nova", widget=forms.TextInput(attrs={"placeholder": "Nova", "autocomplete": "off"})
    )
    team = django_filters.CharFilter(
        method="of_team", label="Team", widget=forms.TextInput(attrs={"placeholder": "Team", "autocomplete": "off"})
    )
    priority = django_filters.ChoiceFilter(
        choices=[(p.value, p.value.capitalize()) for p in Priority], label="Priority", empty_label="Any priority"
    )
    executor = django_filters.ChoiceFilter(choices=known_executors, label="Executor", empty_label="Any executor")

    class Meta:
        model = Task
        fields: tuple[str, ...] = ()

    @property
    def given(self) -> dict[str, str]:
        """Give the filters that were understood, as words of a query."""
        self.form.is_valid()
        return {name: str(value) for name, value in self.form.cleaned_data.items() if value}

    def begins(self, tasks: QuerySet[Task], name: str, value: str) -> QuerySet[Task]:
        return tasks.filter(Q(title__istartswith=value) | Q(id__istartswith=value))

    def of_nova(self, tasks: QuerySet[Task], name: str, value: str) -> QuerySet[Task]:
        return tasks.filter(assignee=value.lower())

    def of_team(self, tasks: QuerySet[Task], name: str, value: str) -> QuerySet[Task]:
        """Give a team's work: what its Novas have, and what is open to it."""
        return tasks.filter(Q(team=value) | Q(assignee__in=Nova.objects.filter(team=value).values("nova_id")))


def filters_of(query: Any) -> TaskFilters:
    """Read the filters of a query."""
    words = {name: query.get(name, "").replace("\0", "").strip()[:100] for name in KEYS}
    filters = TaskFilters({name: word for name, word in words.items() if word}, queryset=Task.objects.filter(personal=False))
    filters.form.is_valid()
    return filters
