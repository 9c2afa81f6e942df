"""The journal: what was done, by whom, to what, and why; whether it is what was sealed; as a file.

Who may see journal entries sees them whole; everybody else sees which actions happened, to which Novas, and how often.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods

from reporting import journal_rows
from reporting.fragments import demand, fragment, page
from reporting.journal_export import JournalExportRefused, export_journal
from reporting.journal_rows import JournalFilter
from reporting.pages.confirm import Outcome, Question, ReasonForm, confirm
from reporting.pages.diff import Difference, differences, written
from reporting.pages.links import page_of, story_of
from safety import verification
from safety.models import AuditEntry, VerificationRun
from workflow import sealing

_RIGHT, _IN_FULL, _VERIFY = "workflow.view_nova", "safety.view_auditentry", "safety.add_verificationrun"
# parameter of the address: (field of the filter, its words)
_TEXTS: Mapping[str, tuple[str, str]] = {
    "actor": ("actor", "Who"), "action": ("action", "Action begins with"), "type": ("object_type", "Kind"),
    "object": ("object_id", "Object"), "nova": ("nova_id", "Nova"), "request": ("request_id", "Request"),
}  # fmt: skip
_TIMES: Mapping[str, tuple[str, str]] = {"since": ("since", "From"), "until": ("until", "Before")}
_NAMES = {**_TEXTS, **_TIMES}
KEYS = frozenset(_NAMES)
_BADGES = {  # state of the chain: (word, tone, icon)
    "verified": ("Verified", "good", "check"), "damaged": ("Damaged", "bad", "alert"), "overdue": ("Overdue", "warn", "clock"),
    "unverified": ("Not verified yet", "info", "clock"), "unsealed": ("Not sealed yet", "info", "clock"),
    "no_key": ("Not sealed", "warn", "alert"),
}  # fmt: skip


def asked_for(request: HttpRequest) -> tuple[JournalFilter, dict[str, str], list[str]]:
    """Give the filter that the query asks for, its words by parameter, and what of it could not be read."""
    said = {name: request.GET.get(name, "").replace("\0", "").strip()[:128] for name in KEYS}
    said = {name: said[name] for name in _NAMES if said[name]}
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, text in list(said.items()):
        if name in _TEXTS:
            values[_TEXTS[name][0]] = text
            continue
        try:
            at = parse_datetime(text) or parse_datetime(f"{text}T00:00")
        except ValueError:
            at = None
        if at is None:
            problems.append(f"“{text}” is no time, so it filters nothing. Write it as 2026-11-26T06:00.")
            del said[name]
        else:
            values[name] = at if at.tzinfo else timezone.make_aware(at)
    asked = JournalFilter(**values)
    if not request.user.has_perm(_IN_FULL):
        asked = asked.without_people()
        said = {name: text for name, text in said.items() if getattr(asked, _NAMES[name][0])}
    return asked, said, problems


@fragment("journal", "reporting/journal/badge.html", right=_RIGHT)
def journal_badge(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Give how far the journal is sealed and verified, and what the last verification found."""
    status = verification.chain_status(now=now)
    word, tone, icon = _BADGES[status.state]
    findings: list[Any] = []
    if status.damages and status.last_run and request.user.has_perm(_IN_FULL):
        findings = VerificationRun.objects.values_list("findings", flat=True).get(pk=status.last_run)[:10]
    return {"status": status, "word": word, "tone": tone, "icon": icon, "findings": findings}


@fragment("journal", "reporting/journal/newer.html", right=_RIGHT, keys=KEYS)
def journal_newer(request: HttpRequest, now: datetime, after: int) -> Mapping[str, Any]:
    """Give how many entries came after the newest that is shown: they wait until they are asked for."""
    asked, said, _ = asked_for(request)
    number = journal_rows.newer_than(asked, after)
    return {"number": number, "most": journal_rows.NEWER_MOST, "query": urlencode(said)}


@page("reporting/journal/page.html", _RIGHT)
def journal(request: HttpRequest, now: datetime) -> Mapping[str, Any]:
    """Show a page of the journal."""
    asked, said, problems = asked_for(request)
    in_full = request.user.has_perm(_IN_FULL)
    before, after = (_number(request.GET.get(name, "")) for name in ("before", "after"))
    ends = journal_rows.bounds(asked)
    shown = journal_rows.journal_page(asked, ends, before=before, after=after, in_full=in_full)
    counted, among = journal_rows.verbs(asked, ends) if shown.rows or not asked.needs_stretches else ([], 0)
    newest = shown.newer is None and before is None
    query = urlencode(said)
    return {
        "in_full": in_full,
        "page": shown,
        "rows": [(row, page_of(row.object_type, row.object_id) if in_full else "") for row in shown.rows],
        "asked": said,
        "problems": problems,
        "chips": [(_NAMES[name][1], text, f"?{urlencode({n: t for n, t in said.items() if n != name})}")
                  for name, text in said.items()],
        "verbs": [(action, number, f"?{urlencode({**said, 'action': action})}", said.get("action") == action)
                  for action, number in counted],
        "among": among,
        "query": query,
        "badge": journal_badge.show(request, now),
        "newer": journal_newer.show(request, now, after=shown.rows[0].id) if newest and shown.rows else "",
    }  # fmt: skip


@page("reporting/journal/entry.html", _IN_FULL)
def journal_entry(request: HttpRequest, now: datetime, entry_id: int) -> Mapping[str, Any]:
    """Show one entry: what changed, why, by which request, and its digest."""
    entry = AuditEntry.objects.filter(pk=entry_id, personal=False).first() if entry_id < 2**63 else None
    if entry is None:
        raise Http404
    story = AuditEntry.objects.filter(object_id=entry.object_id, object_type=entry.object_type, personal=False).only("id")
    return {
        "entry": entry,
        "differences": differences(entry.before, entry.after),
        "message": [Difference(name, "", written(value), "same") for name, value in (entry.message or {}).items()],
        "raw": written({"before": entry.before, "after": entry.after, "message": entry.message}),
        "object_page": page_of(entry.object_type, entry.object_id),
        "story": story_of(entry.object_type, entry.object_id) if entry.object_id else "",
        "earlier": story.filter(id__lt=entry.id).order_by("-id").first() if entry.object_id else None,
        "later": story.filter(id__gt=entry.id).order_by("id").first() if entry.object_id else None,
        "proof": journal_rows.prove(entry),
    }


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def verify_journal(request: HttpRequest) -> HttpResponse:
    """Ask why, then have the whole journal verified."""
    demand(request, _VERIFY)
    back = reverse("journal")

    def act(reason: str, now: datetime) -> Outcome:
        sealing.ask_verification("full", reason=reason, now=now)
        return Outcome("A worker verifies the journal now. What it finds is shown here.", back, messages.INFO)

    effect = "Recomputes every digest, signature and link, from the first seal to the last. A worker does it; work goes on."
    return confirm(request, Question("Verify the journal", "Verify now", effect, back), act)


class ExportForm(ReasonForm):
    """In which form, and why."""

    kind = forms.ChoiceField(
        label="Form",
        choices=[
            ("jsonl", "JSON lines with seals: whoever gets it can verify it with audit_verify"),
            ("csv", "CSV with a manifest, in a ZIP file"),
        ],
        initial="jsonl",
    )
    field_order = ("kind", "reason")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def export(request: HttpRequest) -> HttpResponse:
    """Ask in which form and why, then give the entries that fit the filter as a file."""
    demand(request, _IN_FULL)
    asked, said, problems = asked_for(request)
    form = ExportForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        now = timezone.now()  # noqa: TID251 - a door
        try:
            file = export_journal(asked, form.cleaned_data["kind"], reason=form.cleaned_data["reason"], now=now)
        except JournalExportRefused as refusal:
            form.add_error(None, str(refusal))
        else:
            headers = {"Content-Disposition": f'attachment; filename="{file.name}"', "Cache-Control": "private, no-store"}
            return HttpResponse(file.content, content_type=file.media_type, headers=headers)
    facts = [(_NAMES[name][1], text) for name, text in said.items()] or [("Filter", "none: all entries")]
    effect = "Writes the entries that fit into a file. Private reflections are left out. The export itself is journalled."
    back = f"{reverse('journal')}?{urlencode(said)}"
    question = Question("Export the journal", "Export", " ".join([*problems, effect]), back, facts)
    status = 200 if request.method == "GET" else 409 if form.non_field_errors() else 400
    return render(request, "reporting/confirm.html", {"question": question, "form": form}, status=status)


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 19 else None
