"""Those who look into things, in a real browser: the journal filtered and paged, a report made and printed, a wall screen."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from reporting.models import Report
from safety import audit
from safety.audit import Entry

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]


def write(number: int, action: str) -> None:
    with transaction.atomic():
        audit.record([Entry(action, "torch", reason=f"reason {place}") for place in range(number)], now=timezone.now())


def test_the_journal_is_filtered_paged_and_opened_and_what_is_new_waits(visit: Any, admin: User) -> None:
    write(70, "test.thing.done")
    window = visit(admin)
    page = window.page
    page.goto("/journal/")
    page.fill("#filter-action", "test.thing")
    page.click("text=Filter >> nth=-1")
    page.wait_for_selector("text=Action begins with")
    assert page.locator(".journal tbody tr").count() == 50
    page.click("#page-older")
    page.wait_for_selector("#page-newer")
    assert page.locator(".journal tbody tr").count() == 20
    page.click("#page-newer")
    page.wait_for_selector("#page-older")
    window.wait_for_link("live")
    write(3, "test.thing.done")
    page.wait_for_selector("text=3 newer entries, show")
    assert page.locator(".journal tbody tr").count() == 50, "rows stay where they are until they are asked for"
    page.click("#show-newer")
    page.wait_for_selector("text=reason 2")
    page.click(".journal tbody th a >> nth=0")
    page.wait_for_selector("text=Not sealed yet")
    assert window.complaints == []


def test_a_report_is_made_and_printed(visit: Any, admin: User) -> None:
    window = visit(admin)
    page = window.page
    page.goto("/reports/")
    page.select_option("#period", "24h")
    page.click("#make-report")
    page.wait_for_selector("#print")
    report = Report.objects.get()
    assert page.locator(".section").count() == 6
    page.click("#all-quality_indicators summary")
    page.wait_for_selector("text=succeeded with evidence / succeeded, over 7 days")
    page.click("#print")
    page.wait_for_selector(f"text=Report {report.id}")
    assert page.there(lambda there: there.pdf())[:4] == b"%PDF"
    page.goto("/reports/?kiosk=1")
    page.click("#hold")
    page.click("#section-next")
    page.wait_for_selector("h1:has-text('Productivity')")
    assert window.complaints == []
