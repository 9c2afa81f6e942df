"""Pages in a real browser: login, the policy, accessibility, live updates, focus."""

from datetime import timedelta
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import User
from django.utils import timezone

from reporting import reports
from reporting.core.metrics import Period
from reporting.scope import Scope
from tests import factories
from tests.browser.pages import PAGES, SIZES, THEMES
from workflow import approvals, services
from workflow.models import NovaState

# one server and one browser for all; a busy machine takes its time over axe
pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(180)]
_SERIOUS = ("serious", "critical")


def pause(nova_id: str, reason: str) -> None:
    services.pause_nova(nova_id, reason=reason, now=timezone.now())


def test_a_person_logs_in_pauses_a_nova_and_resumes_it(visit: Any, admin: User) -> None:
    window = visit()
    page = window.page
    page.goto("/")
    page.fill("#id_login", "admin")
    page.fill("#id_password", "password")
    page.click("text=Log in >> visible=true >> nth=-1")
    page.wait_for_selector("#pause-torch")
    page.click("#pause-torch")
    page.fill("#id_reason", "a look")
    page.click("form.ask button")
    page.wait_for_selector("text=torch paused.")
    assert NovaState.objects.get(pk="torch").mode == "paused"
    page.click("#do-resume")
    page.fill("#id_reason", "seen")
    page.click("form.ask button")
    page.wait_for_selector("text=torch resumed.")
    assert NovaState.objects.get(pk="torch").mode == "running"
    assert window.complaints == []


@pytest.mark.soak  # each takes half a minute
@pytest.mark.parametrize("size", SIZES, ids=["desk", "telephone"])
@pytest.mark.parametrize("theme", THEMES)
def test_every_page_is_accessible_and_breaks_no_rule_of_the_policy(visit: Any, admin: User, theme: str, size: Any) -> None:
    found: dict[str, Any] = {}
    now = timezone.now()
    words = {"description": "What lags, and why?", "metadata": {"repository": "docs"}, "now": now}
    task = factories.make_task("Look at the streams", assignee="torch", status="blocked", **words)
    factories.make_task("Write the notes", assignee="echo", status="in_progress", priority="high", progress=30, **words)
    factories.make_task("Count the beans", assignee="helix", status="completed", results="There are 12.", **words)
    approvals.request_approval("torch", "deploy", {"branch": "main"}, reason="It is ready.", now=now)
    evidence = {"measured": 61, "limit": 60, "recommended_action": "activate_cooldown"}
    factories.make_incident("torch", id=1, now=now, mechanism="frosty", safety_level="cooldown", evidence=evidence)
    reports.make_report(Scope(), Period(now - timedelta(days=1), now), now=now)
    pause("vaeris", "a look")  # something for the journal
    known, stranger = visit(admin, theme=theme, size=size), visit(theme=theme, size=size)
    for one in PAGES:
        window = known if one.logged_in else stranger
        window.page.goto(one.at(task.pk))
        if one.follow:
            window.page.click(f"{one.follow} >> nth=0")
            window.page.wait_for_load_state()
        if one.logged_in and window.page.locator("[data-topic]").count():
            window.wait_for_link("live")
        results = window.page.there(lambda page: Axe().run(page)).response["violations"]
        serious = [
            (rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in results if rule["impact"] in _SERIOUS
        ]
        wider = window.page.evaluate("document.documentElement.scrollWidth > innerWidth")
        if serious or wider or window.complaints:
            found[one.name] = (serious, wider, window.complaints)
    assert not found


def test_what_happens_is_seen_without_reload_and_the_focus_stays(visit: Any, admin: User) -> None:
    window = visit(admin)
    page = window.page
    page.goto("/")
    window.wait_for_link("live")
    page.evaluate("window.same = true")
    page.focus("#pause-vaeris")
    pause("torch", "out of paper")
    page.wait_for_selector("text=out of paper")
    assert page.evaluate("document.activeElement.id") == "pause-vaeris"
    assert page.evaluate("window.same")
    assert window.complaints == []


def test_a_lost_line_marks_data_as_stale_until_it_is_back(visit: Any, admin: User, server: Any) -> None:
    window = visit(admin)
    page = window.page
    page.goto("/")
    window.wait_for_link("live")
    server.stop()
    window.wait_for_link("lost")
    page.wait_for_selector("#stale:visible")
    assert "as of" in page.inner_text("#stale")
    pause("torch", "while nobody was told")
    server.start(same_port=True)
    window.wait_for_link("live")
    page.wait_for_selector("text=while nobody was told")
    assert not page.is_visible("#stale")


def test_a_page_that_gets_no_socket_asks_by_itself(visit: Any, admin: User) -> None:
    window = visit(admin)
    page = window.page
    page.add_init_script("window.WebSocket = class { constructor() { setTimeout(() => this.onclose({code: 1006}), 10); } };")
    page.add_init_script("const slow = window.setInterval; window.setInterval = (call, ms) => slow(call, ms / 10);")
    page.goto("/")
    window.wait_for_link("polling")
    pause("torch", "told by polling")
    page.wait_for_selector("text=told by polling")


def test_pages_and_controls_work_without_script(visit: Any, admin: User) -> None:
    window = visit(admin)
    page = window.page
    page.route("**/*.js", lambda route: route.abort())
    page.goto("/")
    page.click("#pause-torch")
    page.fill("#id_reason", "no script")
    page.click("form.ask button")
    page.wait_for_selector("text=torch paused.")
    page.click("#user-menu summary")
    page.click("text=Dark")
    assert page.get_attribute("html", "data-theme") == "dark"
