"""Configuration and records at the API: created, changed under an ETag, archived, read back; private things are not there."""

import json
from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from safety import audit
from safety.audit import Entry
from safety.models import AuditEntry, SafetyPolicy
from tests import factories
from tests.workflow.test_api import _operator_key, api, get, post, problem  # noqa: F401 - fixtures
from workflow.models import Nova, NovaState, Objective, Personality

pytestmark = pytest.mark.django_db

SPARK = {
    "slug": "spark", "base_cycle_time": 30.0, "reflection_frequency": 0.2, "celebration_style": "burst_energy",
    "work_style": "builder_focused", "communication_pattern": "direct_collaborative",
}  # fmt: skip


def patch(client: Client, address: str, body: Any, **headers: str) -> Any:
    return client.patch(f"/api/v1/{address}", json.dumps(body), content_type="application/json", headers=headers)


class TestPersonalities:
    def test_are_created_listed_and_journalled(self, api: Client) -> None:  # noqa: F811
        response = post(api, "personalities", {**SPARK, "reason": "a new kind"})
        assert response.status_code == 201
        assert response["Location"] == "/api/v1/personalities/spark"
        assert get(api, "personalities")["results"][0]["slug"] == "spark"
        entry = AuditEntry.objects.get(action="workflow.personality.created")
        assert (entry.actor, entry.reason, entry.after["work_style"]) == ("operator", "a new kind", "builder_focused")

    def test_refuse_what_is_wrong_or_unknown(self, api: Client) -> None:  # noqa: F811
        found = problem(post(api, "personalities", {**SPARK, "base_cycle_time": 0}), 400, "invalid")
        assert [error["pointer"] for error in found["errors"]] == ["/base_cycle_time"]
        found = problem(post(api, "personalities", {**SPARK, "colour": "red"}), 400, "invalid")
        assert [error["pointer"] for error in found["errors"]] == ["/colour"]
        assert not Personality.objects.exists()

    def test_are_archived_and_restored_with_a_reason(self, api: Client) -> None:  # noqa: F811
        post(api, "personalities", SPARK)
        problem(post(api, "personalities/spark/archive", {}), 400)
        assert post(api, "personalities/spark/archive", {"reason": "unused"}).json()["archived_at"]
        assert get(api, "personalities")["results"] == []
        assert len(get(api, "personalities", archived="true")["results"]) == 1
        assert post(api, "personalities/spark/restore", {"reason": "used again"}).json()["archived_at"] is None

    def test_in_use_are_not_archived(self, api: Client) -> None:  # noqa: F811
        factories.make_nova()
        problem(post(api, "personalities/torch/archive", {"reason": "gone"}), 409, "still_in_use")


class TestPolicies:
    def test_change_under_their_etag(self, api: Client) -> None:  # noqa: F811
        factories.make_policy()
        etag = api.get("/api/v1/policies/standard")["ETag"]
        changed = patch(api, "policies/standard", {"requests_per_minute": 20, "reason": "calmer"}, **{"If-Match": etag})
        assert changed.status_code == 200
        assert changed.json()["requests_per_minute"] == 20
        assert changed["ETag"] != etag
        found = patch(api, "policies/standard", {"requests_per_minute": 10, "reason": "calmer"}, **{"If-Match": etag})
        problem(found, 412, "changed_meanwhile")
        assert SafetyPolicy.objects.get().requests_per_minute == 20
        entry = AuditEntry.objects.get(action="safety.policy.changed")
        assert (entry.before, entry.after) == ({"requests_per_minute": 30}, {"requests_per_minute": 20})

    def test_need_a_reason(self, api: Client) -> None:  # noqa: F811
        factories.make_policy()
        problem(patch(api, "policies/standard", {"requests_per_minute": 20}), 400, "reason_missing")

    def test_keep_their_name(self, api: Client) -> None:  # noqa: F811
        factories.make_policy()
        problem(patch(api, "policies/standard", {"slug": "other", "reason": "x"}), 400, "invalid")

    def test_refuse_limits_that_contradict_each_other(self, api: Client) -> None:  # noqa: F811
        factories.make_policy()
        body = {"meditation_stress": 95.0, "reason": "x"}
        problem(patch(api, "policies/standard", body), 400, "invalid")


class TestNovas:
    def test_are_created_with_a_state_and_changed(self, api: Client) -> None:  # noqa: F811
        factories.make_nova()
        response = post(api, "novas", {"nova_id": "nyx", "team": "night", "reason": "more hands"})
        assert response.status_code == 201
        assert NovaState.objects.get(nova="nyx").mode == "running"
        assert Nova.objects.get(nova_id="nyx").personality_id == "torch"
        etag = api.get("/api/v1/novas/nyx")["ETag"]
        assert response["ETag"] == etag
        body = {"tasks_per_phase": 2, "candidate_policy": "standard", "reason": "watch it"}
        assert patch(api, "novas/nyx", body, **{"If-Match": etag}).status_code == 200
        assert Nova.objects.get(nova_id="nyx").tasks_per_phase == 2

    def test_are_refused_with_an_executor_that_could_never_run(self, api: Client) -> None:  # noqa: F811
        factories.make_nova()
        found = problem(patch(api, "novas/torch", {"allowed_executors": ["nobody"], "reason": "x"}), 400, "invalid")
        assert found["errors"][0]["pointer"] == "/allowed_executors"

    def test_unknown_ones_are_404(self, api: Client) -> None:  # noqa: F811
        problem(patch(api, "novas/nobody", {"reason": "x"}), 404)
        problem(api.get("/api/v1/policies/nobody"), 404)
        problem(api.get("/api/v1/objectives/999999999999999999"), 404)


def test_objectives_are_created_and_changed(api: Client, now: datetime) -> None:  # noqa: F811
    factories.make_nova()
    body = {"title": "Watch lag", "nova": "torch", "cadence": 3600, "due_at": now.isoformat(), "reason": "standing order"}
    response = post(api, "objectives", body)
    assert response.status_code == 201, response.content
    row = Objective.objects.get()
    assert response["Location"] == f"/api/v1/objectives/{row.pk}"
    assert patch(api, f"objectives/{row.pk}", {"priority": "high", "reason": "urgent"}).json()["priority"] == "high"
    assert [found["id"] for found in get(api, "objectives")["results"]] == [row.pk]


class TestRecords:
    def test_the_journal_can_be_filtered_and_paged(self, api: Client, now: datetime) -> None:  # noqa: F811
        from django.db import transaction

        with transaction.atomic():
            entries = [Entry("workflow.task.created", "torch", "task", f"T-{number}") for number in range(5)]
            entries += [Entry("workflow.nova.paused", "echo", "nova", "echo")]
            entries += [Entry("workflow.nova.reflected", "torch", "nova", "torch", after={"text": "private"}, personal=True)]
            audit.record(entries, now=now)
        first = get(api, "journal", action="workflow.task.*", limit=2)
        assert [entry["object_id"] for entry in first["results"]] == ["T-4", "T-3"]
        second = api.get(first["next"]).json()
        assert [entry["object_id"] for entry in second["results"]] == ["T-2", "T-1"]
        assert [entry["nova_id"] for entry in get(api, "journal", nova_id="echo")["results"]] == ["echo"]
        everything = get(api, "journal")["results"]
        assert "private" not in json.dumps(everything)
        one = get(api, f"journal/{everything[0]['id']}")
        assert one["action"] == everything[0]["action"]

    def test_a_private_entry_is_not_there(self, api: Client, now: datetime) -> None:  # noqa: F811
        from django.db import transaction

        with transaction.atomic():
            ids = audit.record([Entry("workflow.nova.reflected", "torch", "nova", "torch", personal=True)], now=now)
        problem(api.get(f"/api/v1/journal/{ids[0]}"), 404)

    def test_executions_insights_and_celebrations_are_listed(self, api: Client, now: datetime) -> None:  # noqa: F811
        factories.make_nova()
        task = factories.make_task(
            id="T-1",
            assignee="torch",
            status="completed",
            outcome="succeeded",
            completed_at=now,
            insights={"lessons_learned": "a"},
        )
        factories.make_execution(task, status="succeeded", finished_at=now)
        own = factories.make_task(
            id="T-2", assignee="torch", status="completed", outcome="succeeded", completed_at=now, personal=True
        )
        factories.make_execution(own, status="succeeded")
        assert [row["task_id"] for row in get(api, "executions", status="succeeded")["results"]] == ["T-1"]
        assert [row["insights"] for row in get(api, "insights", nova_id="torch")["results"]] == [{"lessons_learned": "a"}]
        assert get(api, "celebrations")["results"] == []

    def test_an_odd_cursor_is_refused(self, api: Client) -> None:  # noqa: F811
        import base64

        for position in ([False, True], [False, 2**70], [False, [1]], [False, {"a": 1}], [False, "x"]):
            cursor = base64.urlsafe_b64encode(json.dumps(position).encode()).decode()
            problem(api.get(f"/api/v1/journal?cursor={cursor}"), 400)
