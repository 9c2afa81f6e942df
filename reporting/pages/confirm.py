"""One page for every control: what will happen, to whom, a reason, and a POST that acts. It works without script.

How to offer a control: a view that returns `confirm(request, question, act)`. `act(reason, now)` calls the service and gives
where to go then; what the service refuses is shown above the form, and nothing was changed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils import timezone

from safety.incident_services import IncidentError
from workflow.errors import WorkflowError
from workflow.task_tracker import TaskError

REFUSALS = (WorkflowError, TaskError, IncidentError)


@dataclass(frozen=True, slots=True)
class Question:
    """What a control asks before it acts."""

    title: str  # "Pause torch"
    verb: str  # on the button: "Pause"
    effect: str  # what will happen
    back: str  # where Cancel leads
    facts: Sequence[tuple[str, str]] = ()  # what is true of it now
    danger: bool = False
    word: str = ""  # to be typed, so that nobody does it by accident
    rows: Sequence[str] = ()  # the first of many that it is done to
    more: int = 0  # how many others there are


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, in a sentence, and the address to go to."""

    text: str
    url: str
    level: int = messages.SUCCESS


class ReasonForm(forms.Form):
    """Why, and where it is much at once, a word to type."""

    reason = forms.CharField(
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3, "autofocus": True}),
        help_text="Kept in the journal, with your name.",
        error_messages={"required": "Say why. Nothing was changed."},
    )
    word = forms.CharField(max_length=40, required=False, widget=forms.TextInput(attrs={"autocomplete": "off"}))

    def __init__(self, *args: object, word: str = "", **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._word = word
        if not word:
            del self.fields["word"]
        else:
            self.fields["word"].label = f"Type {word} to confirm"

    def clean_word(self) -> str:
        given = str(self.cleaned_data["word"]).strip()
        if given.upper() != self._word:
            raise forms.ValidationError(f"Type {self._word}. Nothing was changed.")
        return given


def confirm(request: HttpRequest, question: Question, act: Callable[[str, datetime], Outcome]) -> HttpResponse:
    """Ask on GET, act on POST."""
    form = ReasonForm(request.POST or None, word=question.word)
    return confirm_with(request, question, form, lambda said, now: act(said["reason"], now))


def confirm_with(
    request: HttpRequest, question: Question, form: ReasonForm, act: Callable[[dict[str, Any], datetime], Outcome]
) -> HttpResponse:
    """Ask with a form that holds more than the reason; `act` is given all that it says."""
    if request.method == "POST" and form.is_valid():
        try:
            outcome = act(form.cleaned_data, timezone.now())
        except REFUSALS as refusal:
            form.add_error(None, str(refusal))
        else:
            messages.add_message(request, outcome.level, outcome.text)
            return HttpResponseRedirect(outcome.url)
    status = 200 if request.method == "GET" else 409 if form.non_field_errors() else 400
    return render(request, "reporting/confirm.html", {"question": question, "form": form}, status=status)
