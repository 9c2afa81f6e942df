"""Safety in a real browser: the fleet is halted and confirms Nova by Nova, an incident is acknowledged, single keys act."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from safety.models import SafetyIncident
from safety.violations import report_violation
from tests import factories
from workflow import halts
from workflow.models import Execution, Halt

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]


def test_the_fleet_is_halted_and_each_nova_is_seen_to_confirm(visit: Any, admin: User) -> None:
    task = factories.make_task(assignee="torch", status="in_progress", now=timezone.now())
    factories.make_execution(task, status="running", lease_until=timezone.now() + timedelta(minutes=10), now=timezone.now())
    window = visit(admin)
    page = window.page
    page.goto("/safety/")
    window.wait_for_link("live")
    page.click("#halt-fleet")
    page.fill("#id_reason", "fire")
    page.fill("#id_word", "STOP")
    page.click("form.ask button")
    page.wait_for_selector("text=4 of 5 confirmed; not stopped yet.")
    halt = Halt.objects.get()
    page.goto("/safety/")
    window.wait_for_link("live")
    page.wait_for_selector("text=requested 5, confirmed 4")
    assert page.is_visible(f"#late-{halt.pk}-torch")
    page.evaluate("window.same = true")
    Execution.objects.update(lease_until=timezone.now())  # its host lets go
    halts.settle(now=timezone.now())
    page.wait_for_selector("text=requested 5, confirmed 5")
    assert page.evaluate("window.same")
    assert not page.is_visible(f"#late-{halt.pk}-torch")
    page.click(f"#to-order-{halt.pk}")
    page.wait_for_selector("text=All 5 confirmed: stopped.")
    assert window.complaints == []


def test_an_incident_appears_and_is_acknowledged(visit: Any, admin: User) -> None:
    window = visit(admin)
    page = window.page
    page.goto("/safety/")
    window.wait_for_link("live")
    page.focus("#guarded-torch")
    report_violation("echo", "tool_burst", {"tool": "search"}, now=timezone.now())
    incident = SafetyIncident.objects.get()
    page.wait_for_selector(f"#incident-{incident.pk}")
    assert page.evaluate("document.activeElement.id") == "guarded-torch"
    page.click(f"#incident-{incident.pk}")
    page.click("#do-acknowledge")
    page.fill("#id_reason", "I look at it")
    page.click("form.ask button")
    page.wait_for_selector(f"text=Incident {incident.pk} is acknowledged.")
    page.wait_for_selector(".story >> text=I look at it")
    incident.refresh_from_db()
    assert (incident.status, incident.acknowledged_by) == ("acknowledged", "user:admin")
    assert window.complaints == []


def test_single_keys_act_but_not_while_somebody_types_or_when_switched_off(visit: Any, admin: User) -> None:
    window = visit(admin)
    page = window.page
    page.goto("/")
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    first = page.evaluate("document.activeElement.id")
    assert first.startswith("nova-")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/novas/{first.removeprefix('nova-')}/")
    page.keyboard.press("g")
    page.keyboard.press("s")
    page.wait_for_url("**/safety/")
    page.keyboard.press("/")
    page.keyboard.type("gs?t")
    assert page.evaluate("document.activeElement.value") == "gs?t"
    assert not page.is_visible("#keys[open]")
    page.keyboard.press("Tab")
    page.keyboard.press("t")
    page.keyboard.press("Escape")
    page.locator("body").click(position={"x": 700, "y": 5})
    page.keyboard.press("t")
    page.wait_for_selector('html[data-theme="light"]', state="attached")
    page.click("#user-menu summary")
    page.click("#switch-keys")
    page.wait_for_selector('html[data-keys="off"]', state="attached")
    page.keyboard.press("?")
    page.click("#user-menu summary")
    assert not page.is_visible("#keys[open]")
    page.click("#show-keys")
    page.wait_for_selector("#keys[open]")
    assert window.complaints == []
