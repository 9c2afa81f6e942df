"""The page of a Nova in a real browser: it follows what happens, and a person steers by it."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from safety.models import AuditEntry
from tests.browser.test_pages import pause
from workflow import services
from workflow.models import NovaState

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]


def test_the_page_follows_a_pause_and_a_resume_of_others_without_reload(visit: Any, admin: User) -> None:
    window = visit(admin)
    page = window.page
    page.goto("/novas/torch/")
    window.wait_for_link("live")
    page.evaluate("window.same = true")
    page.focus("#chapter-people")
    pause("torch", "out of paper")
    page.wait_for_selector("#live-nova-standing >> text=out of paper")
    page.wait_for_selector("#live-nova-tab >> text=Nova paused")
    page.wait_for_selector("#do-resume")
    assert page.evaluate("document.activeElement.id") == "chapter-people"
    services.apply_verb("resume", ["torch"], reason="paper came", now=timezone.now())
    page.wait_for_selector("#live-nova-tab >> text=paper came")
    page.wait_for_selector("#do-pause")
    assert page.evaluate("window.same")
    assert window.complaints == []


def test_a_person_pauses_and_resumes_a_nova_on_its_page(visit: Any, admin: User) -> None:
    window = visit(admin)
    page = window.page
    page.goto("/novas/torch/?tab=tasks")
    page.click("#tab-activity")
    page.wait_for_selector('#tab-activity[aria-current="page"]')
    for verb, mode in (("pause", "paused"), ("resume", "running")):
        page.click(f"#do-{verb}")
        page.fill("#id_reason", f"to {verb} it")
        page.click("form.ask button")
        page.wait_for_selector(f"#live-nova-tab >> text=to {verb} it")
        assert NovaState.objects.get(pk="torch").mode == mode
    actors = AuditEntry.objects.filter(action__in=["workflow.nova.paused", "workflow.nova.resumed"]).values_list(
        "actor", flat=True
    )
    assert set(actors) == {"user:admin"}
    assert window.complaints == []
