"""Observe and limits, through the doors: engine, hook check, configuration, REST and admin; and an edit holds at once."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from safety.limits import MEANINGS
from safety.models import AuditEntry, CandidateVerdict, OutboxEntry, SafetyIncident, SafetyPolicy, SafetyState
from safety.observations import Kind, observe
from safety.observe import WOULD_ALLOW, WOULD_BLOCK
from tests import factories
from tests.workflow.driving import Driver, silence_momentum, state_of
from tests.workflow.test_api import _operator_key, api, get, post, problem  # noqa: F401 - fixtures
from tests.workflow.test_api_configuration import patch
from tests.workflow.test_permits import agent, ask  # noqa: F401 - fixtures
from workflow.configuration import save_configured, update_nova
from workflow.models import Nova, NovaState
from workflow.safety_checks import check_safety

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _quick_settings(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


@pytest.fixture
def page(client: Client, admin_user: User) -> Client:
    """A browser in which the superuser `admin` is logged in."""
    client.force_login(admin_user)
    return client


@pytest.fixture
def torch() -> Nova:
    """A Nova that observes the policy `calm`: 30 tool uses a minute instead of 60."""
    silence_momentum()
    return factories.make_nova(candidate_policy=factories.make_policy("calm", tool_uses_per_minute=30))


def edit_policy(page: Client, slug: str, **changes: Any) -> None:
    """Fill in the admin's form."""
    policy = SafetyPolicy.objects.get(pk=slug)
    fields = [f.name for f in SafetyPolicy._meta.fields if f.editable and f.name not in ("slug", "updated_at")]
    values = {f: getattr(policy, f) for f in fields} | changes | {"reason": "tried in Observe"}
    response = page.post(f"/admin/safety/safetypolicy/{slug}/change/", values)
    assert response.status_code == 302, response.context["errors"]


def candidates_entries() -> list[str]:
    found = AuditEntry.objects.filter(action__startswith="safety.candidate").order_by("id")
    return list(found.values_list("action", flat=True))


class TestEngine:
    def test_records_what_the_candidate_would_have_blocked_and_steps_the_nova_all_the_same(self, torch: Nova) -> None:
        driver = Driver()
        driver.run()
        driver.now += timedelta(seconds=60)
        observe("torch", Kind.TOOL_USE, now=driver.now, count=40)
        factories.make_task(assignee="torch", executor="builtin", action="echo")
        (execution,) = driver.begin()
        assert execution.task.status == "in_progress"
        assert state_of().current_state == "task_execution"
        row = CandidateVerdict.objects.get()
        assert (row.policy, row.is_safe, row.blocks, row.last_block_at) == ("calm", False, 1, driver.now)
        assert not SafetyIncident.objects.exists()
        assert not SafetyState.objects.filter(is_safe=False).exists()
        entry = AuditEntry.objects.get(action=WOULD_BLOCK)
        assert all(entry.id not in ids for ids in OutboxEntry.objects.values_list("entry_ids", flat=True))
        driver.run_until(lambda: CandidateVerdict.objects.filter(is_safe=True).exists())
        assert candidates_entries() == [WOULD_BLOCK, WOULD_ALLOW]

    def test_a_nova_without_a_candidate_leaves_no_row(self, torch: Nova) -> None:
        factories.make_nova("echo")
        Driver().run()
        assert CandidateVerdict.objects.get().nova_id == "torch"

    def test_what_it_is_due_for_is_not_the_candidates_business(self, torch: Nova) -> None:
        factories.make_nova("echo")
        for nova_id in ("echo", "torch"):
            observe(nova_id, Kind.TOOL_USE, now=factories.NOW, count=40)
        Driver().run()
        assert not CandidateVerdict.objects.get().is_safe
        assert state_of("torch").due_at == state_of("echo").due_at

    def test_a_nova_whose_lease_was_lost_is_not_recorded(self, torch: Nova) -> None:
        driver = Driver()
        observe("torch", Kind.TOOL_USE, now=driver.now, count=40)
        cycle = driver.claim_gather_step()
        NovaState.objects.update(fence=99)
        driver.engine.commit(*cycle)
        assert not CandidateVerdict.objects.exists()
        assert candidates_entries() == []


def test_a_check_between_two_cycles_judges_the_candidate_too(torch: Nova, now: datetime) -> None:
    factories.make_healthy_fleet()
    observe("torch", Kind.TOOL_USE, now=now, count=40)
    wakes = state_of().wakes
    assert check_safety(["torch"], now=now)["torch"].status.is_safe
    assert check_safety(["torch"], now=now + timedelta(seconds=1))["torch"].status.is_safe
    assert CandidateVerdict.objects.get().blocks == 1
    assert candidates_entries() == [WOULD_BLOCK]
    assert state_of().wakes == wakes


class TestChangingTheCandidate:
    def observed(self, now: datetime) -> None:
        factories.make_healthy_fleet()
        observe("torch", Kind.TOOL_USE, now=now, count=40)
        check_safety(["torch"], now=now)
        assert CandidateVerdict.objects.get().blocks == 1

    def test_to_another_one_begins_anew(self, torch: Nova, now: datetime) -> None:
        self.observed(now)
        factories.make_policy("strict")
        update_nova("torch", {"candidate_policy": "strict"}, now=now)
        assert not CandidateVerdict.objects.exists()
        later = now + timedelta(seconds=5)
        check_safety(["torch"], now=later)
        row = CandidateVerdict.objects.get()
        assert (row.policy, row.blocks, row.observed_since) == ("strict", 0, later)

    def test_to_none_and_back_begins_anew_and_the_journal_keeps_its_story(self, torch: Nova, now: datetime) -> None:
        self.observed(now)
        update_nova("torch", {"candidate_policy": None}, now=now, reason="seen enough")
        check_safety(["torch"], now=now + timedelta(seconds=1))
        assert not CandidateVerdict.objects.exists()
        later = now + timedelta(minutes=5)
        update_nova("torch", {"candidate_policy": "calm"}, now=later)
        factories.make_healthy_fleet(now=later)
        check_safety(["torch"], now=later)
        row = CandidateVerdict.objects.get()
        assert (row.blocks, row.observed_since, row.is_safe) == (0, later, True)
        assert candidates_entries() == [WOULD_BLOCK]
        changed = AuditEntry.objects.filter(action="workflow.nova.changed").earliest("id")
        assert (changed.before, changed.after) == ({"candidate_policy": "calm"}, {"candidate_policy": None})

    def test_another_field_does_not(self, torch: Nova, now: datetime) -> None:
        self.observed(now)
        update_nova("torch", {"team": "forge"}, now=now)
        assert CandidateVerdict.objects.get().blocks == 1

    def test_a_policy_that_is_observed_is_in_use(self, torch: Nova, api: Client) -> None:  # noqa: F811
        problem(post(api, "policies/calm/archive", {"reason": "gone"}), 409, "still_in_use")


class TestApi:
    def test_shows_a_candidate_before_and_after_it_was_judged(self, torch: Nova, api: Client, now: datetime) -> None:  # noqa: F811
        assert get(api, "novas/torch")["candidate"] == {
            "policy": "calm", "observed_since": None, "is_safe": None, "since": None, "blocks": 0, "last_block": None,
        }  # fmt: skip
        factories.make_healthy_fleet()
        observe("torch", Kind.TOOL_USE, now=now, count=40)
        check_safety(["torch"], now=now)
        nova = get(api, "novas/torch")
        assert nova["config"]["candidate_policy"] == "calm"
        assert nova["candidate"] == {
            "policy": "calm",
            "observed_since": "2026-11-20T12:00:00Z",
            "is_safe": False,
            "since": "2026-11-20T12:00:00Z",
            "blocks": 1,
            "last_block": {
                "at": "2026-11-20T12:00:00Z",
                "mechanism": "frosty",
                "reason": "40 tool uses in the last minute, more than the 30 allowed.",
                "measured": 40.0,
                "limit": 30.0,
                "enforced": {
                    "is_safe": True, "safety_level": "normal", "mechanism": "", "reason": "No mechanism objects.",
                },
            },
        }  # fmt: skip

    def test_shows_none_where_there_is_none_and_does_not_take_it_back(self, torch: Nova, api: Client) -> None:  # noqa: F811
        factories.make_nova("echo")
        assert get(api, "novas/echo")["candidate"] is None
        found = patch(api, "novas/torch", {"candidate": None, "reason": "x"})
        problem(found, 400, "invalid")
        answer = patch(api, "novas/torch", {"candidate_policy": None, "reason": "x"})
        assert answer.json()["candidate"] is None


class TestAdmin:
    def test_a_novas_page_tells_what_is_observed_and_which_limits_hold(self, torch: Nova, page: Client, now: datetime) -> None:
        url = "/admin/workflow/nova/torch/change/"
        assert "not judged yet" in page.get(url).content.decode()
        factories.make_healthy_fleet()
        observe("torch", Kind.TOOL_USE, now=now, count=40)
        check_safety(["torch"], now=now)
        content = page.get(url).content.decode()
        for text in (
            "since 2026-11-20", "once; now it would have the Nova stopped", "frosty: 40 tool uses in the last minute",
            "No mechanism objects.", "candidate calm", "policy standard, as in standard", "tool uses in a minute",
        ):  # fmt: skip
            assert text in content, text
        Nova.objects.update(candidate_policy=None, policy=factories.make_policy("strict"))
        content = page.get(url).content.decode()
        assert "there is no candidate" in content
        assert "policy strict, differs from standard (30)" in content
        assert "candidate calm" not in content

    def test_a_candidate_is_chosen_there(self, page: Client) -> None:
        from tests.workflow.test_admin import NOVA_FORM

        factories.make_nova()
        factories.make_policy("strict")
        body = NOVA_FORM | {"name": "Torch", "stream_executors": ["builtin", "agent"], "candidate_policy": "strict"}
        response = page.post("/admin/workflow/nova/torch/change/", body)
        assert response.status_code == 302, response.context["errors"]
        assert Nova.objects.get().candidate_policy_id == "strict"

    def test_the_list_of_what_is_observed_leaves_out_what_is_not_any_more(
        self, torch: Nova, page: Client, now: datetime
    ) -> None:
        row = {"is_safe": False, "mechanism": "frosty", "reason": "too much", "observed_since": now, "since": now}
        CandidateVerdict.objects.create(nova_id="torch", policy="calm", **row)
        CandidateVerdict.objects.create(nova_id="echo", policy="calm", **row)
        content = page.get("/admin/safety/candidateverdict/").content.decode()
        assert "torch" in content
        assert "echo" not in content
        assert "would stop" in content
        assert page.post("/admin/safety/candidateverdict/torch/change/", {"blocks": 0}).status_code == 403

    def test_a_policys_page_tells_where_it_holds_and_how_it_differs(self, torch: Nova, page: Client) -> None:
        content = page.get("/admin/safety/safetypolicy/calm/change/").content.decode()
        assert "0 Novas" in content
        assert "1 Nova<" in content
        assert "?candidate_policy__slug__exact=calm" in content
        assert "tool_uses_per_minute</td>" in content
        content = page.get("/admin/safety/safetypolicy/standard/change/").content.decode()
        assert "?policy__slug__exact=standard" in content
        assert "nothing" in content
        found = page.get("/admin/workflow/nova/?candidate_policy__slug__exact=calm").content.decode()
        assert "torch" in found
        assert "torch</a>" not in page.get("/admin/workflow/nova/?policy__slug__exact=calm").content.decode()


class TestAnEdit:
    """All values are rows: an edit is in force within a second, and journals before and after."""

    def test_can_be_made_of_every_limit(self, torch: Nova, page: Client) -> None:
        form = page.get("/admin/safety/safetypolicy/standard/change/").context["adminform"].form
        assert set(form.fields) >= set(MEANINGS)

    def test_is_in_force_in_a_running_engine(self, torch: Nova, page: Client) -> None:
        driver = Driver()
        driver.run()
        driver.step(60)
        observe("torch", Kind.TOOL_USE, now=driver.now, count=20)
        NovaState.objects.update(due_at=driver.now)
        driver.run()
        assert not SafetyState.objects.filter(is_safe=False).exists()
        edit_policy(page, "standard", tool_uses_per_minute=10)
        entry = AuditEntry.objects.get(action="safety.policy.changed")
        assert (entry.before, entry.after) == ({"tool_uses_per_minute": 60}, {"tool_uses_per_minute": 10})
        assert (entry.actor, entry.reason) == ("user:admin", "tried in Observe")
        NovaState.objects.update(due_at=driver.now)
        driver.step(0.9)
        state = SafetyState.objects.get()
        assert (state.is_safe, state.measured, state.limit) == (False, 20, 10)
        assert state_of().current_state == "safety_pause"
        assert CandidateVerdict.objects.get().is_safe

    def test_of_a_candidate_is_in_force_too(self, torch: Nova, page: Client) -> None:
        driver = Driver()
        driver.run()
        observe("torch", Kind.TOOL_USE, now=driver.now, count=20)
        edit_policy(page, "calm", tool_uses_per_minute=10)
        NovaState.objects.update(due_at=driver.now)
        driver.step(0.9)
        assert CandidateVerdict.objects.get().limit == 10
        assert not SafetyState.objects.filter(is_safe=False).exists()

    def test_finds_a_nova_that_rests_although_the_engine_has_just_looked(self, torch: Nova) -> None:
        driver = Driver()
        driver.run()
        observe("torch", Kind.TOOL_USE, now=driver.now, count=20)
        assert state_of().due_at > driver.now + timedelta(seconds=10)
        policy = SafetyPolicy.objects.get(pk="standard")
        policy.tool_uses_per_minute = 10
        save_configured(policy, now=driver.now)
        assert driver.step(0.2) is None
        driver.step(0.7)
        assert not SafetyState.objects.get().is_safe

    def test_makes_the_novas_due_that_it_concerns(self, torch: Nova, page: Client) -> None:
        factories.make_nova("echo", policy="strict")
        factories.make_nova("halted", state={"mode": "halted"})
        far = factories.NOW + timedelta(days=10_000)
        for slug, concerned in (("standard", {"torch"}), ("strict", {"echo"}), ("calm", {"torch"})):
            NovaState.objects.update(due_at=far)
            edit_policy(page, slug, description=f"about {slug}")
            assert not NovaState.objects.exclude(due_at=far).exists()
            edit_policy(page, slug, cooldown=45)
            assert set(NovaState.objects.exclude(due_at=far).values_list("nova_id", flat=True)) == concerned

    def test_is_in_force_in_a_check_between_two_cycles(self, torch: Nova, page: Client, now: datetime) -> None:
        factories.make_healthy_fleet()
        observe("torch", Kind.TOOL_USE, now=now, count=20)
        assert check_safety(["torch"], now=now)["torch"].status.is_safe
        edit_policy(page, "standard", tool_uses_per_minute=10)
        assert not check_safety(["torch"], now=now)["torch"].status.is_safe

    def test_is_in_force_at_the_door_of_permits(self, agent: Client, admin_user: User) -> None:  # noqa: F811
        page = Client()
        page.force_login(admin_user)
        assert ask(agent).status_code == 201
        edit_policy(page, "standard", concurrent_requests=1)
        refused = ask(agent)
        assert (refused.status_code, refused.json()["limit"]) == (429, "nova at_once")
        edit_policy(page, "standard", concurrent_requests=2, request_timeout=12)
        permit = ask(agent)
        assert (permit.status_code, permit.json()["timeout"]) == (201, 12.0)
