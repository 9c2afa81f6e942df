"""`manage.py nova` and `manage.py safety_drill`: what they do, print and end with."""

import json
from datetime import datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from safety.models import AuditEntry, HookSession
from tests import factories
from workflow.models import Halt, NovaState

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _fleet() -> None:
    for nova_id, team in (("torch", "red"), ("echo", "red"), ("helix", "")):
        factories.make_nova(nova_id, team=team)


def run(*words: Any, code: int = 0, **options: Any) -> str:
    out = StringIO()
    if code:
        with pytest.raises(SystemExit) as ended:
            call_command(*words, stdout=out, **options)
        assert ended.value.code == code
    else:
        call_command(*words, stdout=out, **options)
    return out.getvalue()


def modes() -> dict[str, str]:
    return dict(NovaState.objects.values_list("nova_id", "mode"))


def test_a_team_is_halted_and_confirmed() -> None:
    found = json.loads(run("nova", "halt", team="red", reason="a look", json=True))
    assert found[0]["counts"] == {"requested": 0, "delivered": 0, "acknowledged": 0, "confirmed": 2, "unreachable": 0}
    assert modes() == {"torch": "halted", "echo": "halted", "helix": "running"}
    assert AuditEntry.objects.get(action="workflow.halt.ordered").actor.startswith("cli:")


def test_one_that_does_not_confirm_is_named_and_the_exit_code_says_it() -> None:
    moment = timezone.now()
    HookSession.objects.create(nova_id="torch", session_id="s", started_at=moment, last_seen_at=moment)
    text = run("nova", "halt", fleet=True, reason="a look", wait=0.3, code=1)
    assert "2 confirmed" in text
    assert "torch: requested. its agent is at work." in text


def test_pause_resume_and_wake_go_by_id() -> None:
    run("nova", "pause", "torch", reason="a look")
    assert modes()["torch"] == "paused"
    assert run("nova", "resume", "torch", reason="over") == "torch: done\n"
    assert modes()["torch"] == "running"
    assert json.loads(run("nova", "wake", "torch", reason="work", json=True))[0]["problem"] == ""


def test_a_verb_that_a_mode_does_not_allow_is_told() -> None:
    run("nova", "pause", "torch", reason="a look")
    assert "resume it first" in run("nova", "wake", "torch", reason="x", code=1)


def test_the_list_says_where_each_stands() -> None:
    assert {row["nova_id"]: row["team"] for row in json.loads(run("nova", "list", json=True))} == {
        "torch": "red", "echo": "red", "helix": "",
    }  # fmt: skip
    assert run("nova", "list", team="red").splitlines()[0].startswith("echo")


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["halt"], {"reason": "x"}, "Name Novas, or --team"),
        (["halt", "torch"], {"reason": " "}, "reason is required"),
        (["halt", "nobody"], {"reason": "x"}, "no Nova nobody"),
        (["resume", "nobody"], {"reason": "x"}, "no Nova for nobody"),
        (["resume"], {"reason": "x", "team": "blue"}, "no Nova for blue"),
    ],
)
def test_what_is_wrong_changes_nothing(words: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("nova", *words, **options)
    assert set(modes().values()) == {"running"}
    assert not Halt.objects.exists()


def test_a_drill_of_stopped_novas_is_confirmed_and_kept(now: datetime) -> None:
    NovaState.objects.update(mode="paused", mode_since=now)
    found = json.loads(run("safety_drill", json=True))
    assert found["counts"]["confirmed"] == 3
    assert found["seconds"]["most"] >= 0
    assert Halt.objects.get().drill
    assert set(modes().values()) == {"paused"}
