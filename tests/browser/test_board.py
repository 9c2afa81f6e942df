"""Board, task and waiting pages in a real browser: what agents do over REST is seen at once; all of it goes by keyboard."""

import json
from typing import Any
from urllib.request import Request, urlopen

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from safety.api_keys import create_key
from tests import factories
from tests.web_server import OPERATOR_KEY
from workflow import approvals
from workflow.models import Approval, Task

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]


def post(server: Any, path: str, key: str, **body: Any) -> Any:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with urlopen(Request(f"{server.url}/api/v1/{path}", json.dumps(body).encode(), headers), timeout=60) as answer:
        return json.loads(answer.read())


def test_a_task_made_over_rest_moves_across_the_board_without_reload(visit: Any, admin: User, server: Any) -> None:
    factories.make_nova("scribe", default_executor="agent", now=timezone.now())
    key = create_key("scribe", now=timezone.now())[0]
    window = visit(admin)
    page = window.page
    page.goto("/board/")
    window.wait_for_link("live")
    page.evaluate("window.same = true")
    page.focus("#id_q")
    made = post(server, "tasks", OPERATOR_KEY, title="Count the beans", assignee="scribe", executor="agent")["task_id"]
    card = f"a#task-{made}"
    page.wait_for_selector(f"section:has(#column-pending) {card}")
    (claimed,) = post(server, "tasks/claim", key)["tasks"]
    page.wait_for_selector(f"section:has(#column-in_progress) {card}")
    post(server, f"tasks/{made}/complete", key, fence=claimed["fence"], results="There are 12.")
    page.wait_for_selector(f"section:has(#column-completed) {card}")
    assert not page.locator(f"section:has(#column-in_progress) {card}").count()
    assert page.evaluate("document.activeElement.id") == "id_q"
    page.click(card)
    page.wait_for_selector("text=There are 12.")
    assert window.complaints == []


def test_a_task_is_made_changed_and_ended_by_keyboard_alone(visit: Any, admin: User) -> None:
    window = visit(admin)
    page = window.page
    page.goto("/board/")
    window.wait_for_link("live")
    to(page, "new-task").press("Enter")
    page.wait_for_selector("#id_title")
    page.keyboard.type("Count the beans")
    page.keyboard.press("Enter")
    page.wait_for_selector("#do-priority")
    to(page, "do-priority").press("Enter")
    page.wait_for_selector("#id_priority")
    to(page, "id_priority").press("c")
    to(page, "id_reason").type("It is urgent.")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".chips .text-bad:has-text('Critical')")
    task = Task.objects.get()
    assert (task.title, task.priority) == ("Count the beans", "critical")
    page.goto("/board/?view=table")
    window.wait_for_link("live")
    to(page, f"tick-{task.pk}").press("Space")
    page.locator("#bulk button[value=cancel]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Cancel: 1 task")
    page.keyboard.type("Nobody wants it.")
    page.click("form.ask button")
    page.wait_for_selector("text=1 task cancelled.")
    assert window.complaints == []


def to(page: Any, element_id: str) -> Any:
    """Go on by Tab until an element has the focus; give the keyboard."""
    for _ in range(80):
        if page.evaluate("document.activeElement.id") == element_id:
            return page.keyboard
        page.keyboard.press("Tab")
    raise AssertionError(f"#{element_id} is not reached by Tab.")


def test_ticks_stay_while_rows_come(visit: Any, admin: User, server: Any) -> None:
    first = factories.make_task("The first", now=timezone.now())
    window = visit(admin)
    page = window.page
    page.goto("/board/?view=table")
    window.wait_for_link("live")
    page.check(f"#tick-{first.pk}")
    page.focus("#new-task")
    post(server, "tasks", OPERATOR_KEY, title="The second")
    page.wait_for_selector("text=The second")
    assert page.is_checked(f"#tick-{first.pk}")


def test_what_waits_is_counted_in_the_menu_and_decided(visit: Any, admin: User) -> None:
    window = visit(admin)
    page = window.page
    page.goto("/waiting/")
    window.wait_for_link("live")
    page.wait_for_selector("text=Nothing waits for you")
    asked = approvals.request_approval("torch", "deploy", {"branch": "main"}, reason="It is ready.", now=timezone.now())
    page.wait_for_selector(f"#approve-{asked.pk}")
    page.wait_for_selector("nav .count:has-text('1')")
    page.click(f"#approve-{asked.pk}")
    page.fill("#id_reason", "Go.")
    page.click("form.ask button")
    page.wait_for_selector("text=Nothing waits for you")
    assert Approval.objects.get().status == "approved"
    assert window.complaints == []
