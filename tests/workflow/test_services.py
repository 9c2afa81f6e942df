"""The operator's verbs: what they change, what they leave alone, what they write into the journal."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from safety import audit
from safety.models import AuditEntry, FleetFact, OutboxEntry
from tests import factories
from workflow import configuration, services, task_services
from workflow.configuration import ReasonMissing, StillInUse
from workflow.core.work import Priority
from workflow.derived_status import STATUSES, derived_status
from workflow.models import Nova, NovaState, Task
from workflow.services import IllegalModeChange, NovaNotFound
from workflow.task_services import IdempotencyKeyReused, RequestRefused, TaskRequest
from workflow.task_tracker import IllegalTaskMove

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def state_of(nova_id: str = "torch") -> NovaState:
    return NovaState.objects.get(nova_id=nova_id)


def entries(action: str) -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(action=action).order_by("id"))


class TestPause:
    def test_stops_the_clock_and_resume_gives_the_rest_back(self, now: datetime) -> None:
        deadline = now + timedelta(seconds=50)
        factories.make_nova(
            state={"due_at": now + timedelta(seconds=20), "completion_stage_until": deadline, "completion_until": deadline}
        )
        services.pause_nova("torch", reason="maintenance", now=now)
        assert state_of().mode == "paused"
        assert state_of().paused_remaining == 20
        services.resume_nova("torch", reason="done", now=now + HOUR)
        state = state_of()
        assert state.mode == "running"
        assert state.due_at == now + HOUR + timedelta(seconds=20)
        assert state.completion_stage_until == state.completion_until == deadline + HOUR
        assert state.paused_remaining == 0

    def test_a_second_time_changes_nothing_and_answers_the_same(self, now: datetime) -> None:
        factories.make_nova(state={"due_at": now + timedelta(seconds=20)})
        first = services.pause_nova("torch", reason="maintenance", now=now)
        before = NovaState.objects.values().get()
        second = services.pause_nova("torch", reason="again", now=now + HOUR)
        assert (first.mode, second.mode) == ("paused", "paused")
        assert (first.changed, second.changed) == (True, False)
        assert NovaState.objects.values().get() == before
        assert len(entries(services.NOVA_PAUSED)) == 1

    def test_is_journalled_and_told_on_the_status_stream(self, now: datetime) -> None:
        factories.make_nova()
        with audit.acting("user:ada", "r-1"):
            services.pause_nova("torch", reason="maintenance", now=now)
        (entry,) = entries(services.NOVA_PAUSED)
        assert (entry.actor, entry.request_id, entry.reason) == ("user:ada", "r-1", "maintenance")
        assert entry.before is not None
        assert entry.before["mode"] == "running"
        assert entry.after is not None
        assert entry.after["mode"] == "paused"
        assert entry.stream == "nova.status.torch"
        assert entry.message is not None
        assert entry.message["status"] == "paused"
        assert set(entry.message) == {"nova_id", "state", "phase", "status", "message", "timestamp"}
        assert OutboxEntry.objects.get().entry_ids == [entry.id]
        assert state_of().mode_actor == "user:ada"
        assert state_of().mode_reason == "maintenance"

    def test_needs_a_reason(self, now: datetime) -> None:
        factories.make_nova()
        with pytest.raises(ReasonMissing):
            services.pause_nova("torch", reason="  ", now=now)
        assert state_of().mode == "running"

    def test_refuses_an_unknown_nova(self, now: datetime) -> None:
        with pytest.raises(NovaNotFound):
            services.pause_nova("nobody", reason="why", now=now)

    def test_stops_cooldowns_too(self, now: datetime) -> None:
        factories.make_nova()
        ends = now + timedelta(minutes=5)
        verdict = factories.make_safety_state(cooldown_until=ends, meditation_until=now - HOUR)
        services.pause_nova("torch", reason="maintenance", now=now)
        services.resume_nova("torch", reason="done", now=now + HOUR)
        verdict.refresh_from_db()
        assert verdict.cooldown_until == ends + HOUR
        assert verdict.meditation_until == now - HOUR

    def test_does_not_pass_for_work_in_the_personal_phase(self, now: datetime) -> None:
        factories.make_nova(state={"current_phase": "personal_phase", "phase_started_at": now - timedelta(minutes=2)})
        services.pause_nova("torch", reason="maintenance", now=now)
        services.resume_nova("torch", reason="done", now=now + HOUR)
        assert state_of().phase_started_at == now - timedelta(minutes=2) + HOUR

    @pytest.mark.parametrize("verb", ["pause", "drain", "archive"])
    def test_fences_off_a_step_under_way(self, now: datetime, verb: str) -> None:
        lease = {"lease_holder": "w1", "lease_until": now + timedelta(seconds=6), "fence": 5, "crashes": 1}
        factories.make_nova(state=lease)
        services.apply_verb(verb, ["torch"], reason="stop", now=now)
        state = state_of()
        assert (state.fence, state.lease_holder, state.lease_until, state.crashes) == (6, "", None, 0)


class TestOtherVerbs:
    def test_drain_makes_the_nova_due_and_leaves_the_pausing_to_the_engine(self, now: datetime) -> None:
        factories.make_nova(state={"due_at": now + HOUR})
        assert services.drain_nova("torch", reason="upgrade", now=now).changed
        assert (state_of().mode, state_of().due_at) == ("draining", now)

    def test_resume_of_a_draining_nova_leaves_its_deadlines_alone(self, now: datetime) -> None:
        deadline = now + timedelta(seconds=50)
        factories.make_nova(state={"completion_until": deadline})
        services.drain_nova("torch", reason="upgrade", now=now)
        services.resume_nova("torch", reason="not today", now=now + timedelta(seconds=10))
        assert (state_of().mode, state_of().completion_until) == ("running", deadline)

    def test_wake_makes_a_resting_nova_due_now(self, now: datetime) -> None:
        factories.make_nova(state={"due_at": now + HOUR})
        assert services.wake_nova("torch", reason="look again", now=now).changed
        assert (state_of().due_at, state_of().wakes) == (now, 1)
        assert not services.wake_nova("torch", reason="look again", now=now).changed

    def test_wake_reaches_a_nova_whose_step_is_under_way_without_disturbing_it(self, now: datetime) -> None:
        lease = {"lease_holder": "w1", "lease_until": now + timedelta(seconds=6), "fence": 5}
        factories.make_nova(state=lease)
        assert services.wake_nova("torch", reason="look again", now=now).changed
        assert (state_of().wakes, state_of().fence, state_of().lease_holder) == (1, 5, "w1")

    @pytest.mark.parametrize(
        ("mode", "verb"),
        [
            ("paused", "wake"),
            ("quarantined", "pause"),
            ("quarantined", "drain"),
            ("archived", "pause"),
            ("archived", "resume"),
            ("archived", "wake"),
        ],
    )
    def test_a_mode_that_does_not_allow_it_refuses(self, now: datetime, mode: str, verb: str) -> None:
        factories.make_nova(state={"mode": mode})
        with pytest.raises(IllegalModeChange, match=mode):
            getattr(services, f"{verb}_nova")("torch", reason="why", now=now)
        assert state_of().mode == mode
        assert not AuditEntry.objects.exists()

    def test_resume_ends_a_quarantine_and_forgives_its_crashes(self, now: datetime) -> None:
        factories.make_nova(state={"mode": "quarantined", "crashes": 3})
        services.resume_nova("torch", reason="fixed", now=now)
        assert (state_of().mode, state_of().crashes, state_of().due_at) == ("running", 0, now)

    def test_a_selection_goes_through_in_a_constant_number_of_queries(
        self, now: datetime, django_assert_max_num_queries: Any
    ) -> None:
        nova_ids = factories.make_novas(100)
        NovaState.objects.filter(nova_id=nova_ids[0]).update(mode="quarantined")
        with django_assert_max_num_queries(12):
            results = services.apply_verb("pause", nova_ids, reason="everyone", now=now)
        assert [r.nova_id for r in results if r.problem] == [nova_ids[0]]
        assert NovaState.objects.filter(mode="paused").count() == 99
        assert len(entries(services.NOVA_PAUSED)) == 99


class TestArchive:
    def test_takes_a_nova_out_of_service_and_back_paused(self, now: datetime) -> None:
        factories.make_nova()
        services.archive_nova("torch", reason="retired", now=now)
        assert Nova.objects.get().archived_at == now
        assert state_of().mode == "archived"
        services.unarchive_nova("torch", reason="needed again", now=now + HOUR)
        assert Nova.objects.get().archived_at is None
        assert state_of().mode == "paused"

    def test_refuses_while_somebody_waits_for_its_work(self, now: datetime) -> None:
        factories.make_nova()
        task = factories.make_task(assignee="torch")
        with pytest.raises(IllegalModeChange, match="1 unfinished"):
            services.archive_nova("torch", reason="retired", now=now)
        assert state_of().mode == "running"
        task_services.cancel_task(task.id, reason="no more", now=now)
        services.archive_nova("torch", reason="retired", now=now)

    def test_cancels_what_the_nova_only_planned_for_itself(self, now: datetime) -> None:
        factories.make_nova()
        factories.make_task(assignee="torch", work_type="momentum")
        services.archive_nova("torch", reason="retired", now=now)
        assert Task.objects.get().outcome == "cancelled"


class TestConfiguration:
    def test_a_new_nova_gets_torchs_personality_and_is_due_now(self, now: datetime) -> None:
        factories.make_personality("torch")
        factories.make_policy()
        nova = services.create_nova("nova-9", now=now, reason="more hands")
        assert (nova.personality_id, nova.policy_id) == ("torch", "standard")
        assert state_of("nova-9").due_at == now
        (entry,) = entries("workflow.nova.created")
        assert (entry.object_id, entry.reason) == ("nova-9", "more hands")

    @pytest.mark.parametrize("nova_id", ["", "Torch", "-x", "a b", "x" * 64, "ünder"])
    def test_refuses_a_nova_id_that_no_stream_name_could_hold(self, now: datetime, nova_id: str) -> None:
        factories.make_personality()
        factories.make_policy()
        with pytest.raises(ValidationError):
            services.create_nova(nova_id, now=now)
        assert not Nova.objects.exists()
        assert not AuditEntry.objects.exists()

    def test_refuses_a_nova_id_that_is_taken(self, now: datetime) -> None:
        factories.make_nova()
        with pytest.raises(ValidationError):
            services.create_nova("torch", now=now)

    def test_a_change_is_journalled_field_by_field(self, now: datetime) -> None:
        factories.make_nova()
        services.update_nova("torch", {"team": "forge", "tasks_per_phase": 5}, now=now, reason="regrouped")
        (entry,) = entries("workflow.nova.changed")
        assert (entry.before, entry.after, entry.reason) == ({"team": ""}, {"team": "forge"}, "regrouped")
        services.update_nova("torch", {"team": "forge"}, now=now)
        assert len(entries("workflow.nova.changed")) == 1

    @pytest.mark.parametrize(
        "changes",
        [
            {"nova_id": "other"},
            {"state": "x"},
            {"tasks_per_phase": 0},
            {"personality": "nobody"},
            {"default_executor": "command"},
            {"allowed_executors": ["builtin", "nonsense"]},
            {"allowed_executors": "builtin"},
            {"allowed_executors": ["builtin"], "stream_executors": ["agent"]},
        ],
    )
    def test_refuses_a_change_that_makes_no_sense(self, now: datetime, changes: dict[str, Any]) -> None:
        factories.make_nova()
        before = Nova.objects.values().get()
        with pytest.raises(ValidationError):
            services.update_nova("torch", changes, now=now)
        assert Nova.objects.values().get() == before
        assert not AuditEntry.objects.exists()

    def test_a_stale_form_takes_nobody_elses_change_back(self, now: datetime) -> None:
        stale = factories.make_nova()
        services.update_nova("torch", {"team": "forge"}, now=now)
        stale.name = "The builder"
        configuration.save_configured(stale, now=now, fields=["name"])
        nova = Nova.objects.get()
        assert (nova.name, nova.team) == ("The builder", "forge")

    def test_a_personality_in_use_is_not_archived(self, now: datetime) -> None:
        factories.make_nova()
        personality = factories.make_personality("torch")
        with pytest.raises(StillInUse, match="torch"):
            configuration.archive(personality, now=now, reason="old")
        idle = factories.make_personality("echo")
        assert configuration.archive(idle, now=now, reason="old")
        assert not configuration.archive(idle, now=now, reason="old")
        assert configuration.restore(idle, now=now, reason="wanted")
        assert [e.action for e in AuditEntry.objects.order_by("id")] == [
            "workflow.personality.archived",
            "workflow.personality.restored",
        ]


class TestTasks:
    def test_a_repeated_key_gives_the_same_task(self, now: datetime) -> None:
        factories.make_nova()
        request = TaskRequest("Write it", assignee="torch", metadata={"a": 1})
        first = task_services.request_task(request, sender="operator", now=now, idempotency_key="k1")
        again = task_services.request_task(request, sender="operator", now=now + HOUR, idempotency_key="k1")
        other = task_services.request_task(request, sender="user:ada", now=now, idempotency_key="k1")
        assert (first[1], again) == (False, (first[0], True))
        assert other[0] != first[0]
        with pytest.raises(IdempotencyKeyReused):
            task_services.request_task(TaskRequest("Else"), sender="operator", now=now, idempotency_key="k1")
        assert Task.objects.count() == 2

    @pytest.mark.parametrize(
        ("request_", "field"),
        [
            (TaskRequest("x", assignee="nobody"), "assignee"),
            (TaskRequest("x", assignee="gone"), "assignee"),
            (TaskRequest("x", executor="nonsense"), "executor"),
            (TaskRequest("x", assignee="torch", team="forge"), "team"),
        ],
    )
    def test_refuses_what_nobody_could_take_up(self, now: datetime, request_: TaskRequest, field: str) -> None:
        factories.make_nova()
        factories.make_nova("gone", archived_at=now, state={"mode": "archived"})
        with pytest.raises(RequestRefused) as refusal:
            task_services.request_task(request_, sender="operator", now=now)
        assert refusal.value.field == field
        assert not Task.objects.exists()

    def test_refuses_an_executor_that_the_nova_may_not_use(self, now: datetime) -> None:
        factories.make_nova(allowed_executors=["agent"], default_executor="agent")
        with pytest.raises(RequestRefused, match="agent"):
            task_services.request_task(TaskRequest("x", assignee="torch", executor="builtin"), sender="operator", now=now)

    def test_verbs_change_nothing_the_second_time(self, now: datetime) -> None:
        factories.make_nova()
        task = factories.make_task(assignee="torch", status="blocked")
        assert task_services.unblock_task(task.id, reason="tools are here", now=now)
        assert not task_services.unblock_task(task.id, reason="tools are here", now=now)
        assert task_services.set_priority(task.id, Priority.HIGH, reason="customer waits", now=now)
        assert not task_services.set_priority(task.id, Priority.HIGH, reason="customer waits", now=now)
        assert task_services.cancel_task(task.id, reason="customer left", now=now)
        assert not task_services.cancel_task(task.id, reason="customer left", now=now)
        with pytest.raises(IllegalTaskMove):
            task_services.unblock_task(task.id, reason="tools are here", now=now)
        task.refresh_from_db()
        assert (task.status, task.outcome, task.priority) == ("completed", "cancelled", "high")


class TestDerivedStatus:
    def look(self, now: datetime, *, safe: bool = True, reachable: bool = True, **state: Any) -> str:
        nova = factories.make_nova(state={"total_cycles_completed": 1, **state})
        verdict = factories.make_safety_state(is_safe=safe, mechanism="" if safe else "frosty", reason="" if safe else "burst")
        fleet = {"stream_reachable": FleetFact(name="stream_reachable", value=reachable, observed_at=now)}
        found = derived_status(nova, nova.state, verdict, fleet, now)
        assert found.status in STATUSES
        return found.status

    @pytest.mark.parametrize("mode", ["quarantined", "archived", "paused", "draining"])
    def test_a_mode_comes_before_everything_else(self, now: datetime, mode: str) -> None:
        assert self.look(now, mode=mode, safe=False, reachable=False) == mode

    def test_an_unsafe_verdict_is_a_safety_pause(self, now: datetime) -> None:
        assert self.look(now, safe=False, tasks_in_flight=1) == "safety_pause"

    def test_no_stream_server_is_a_safety_pause_of_all(self, now: datetime) -> None:
        assert self.look(now, reachable=False) == "safety_pause"

    def test_an_error_is_told(self, now: datetime) -> None:
        assert self.look(now, current_state="error_recovery") == "error_recovery"

    def test_a_nova_that_nobody_steps_is_silent_however_busy_it_says_it_is(self, now: datetime) -> None:
        assert self.look(now, due_at=now - timedelta(seconds=76), tasks_in_flight=1) == "silent"

    def test_one_cycle_late_is_not_silent(self, now: datetime) -> None:
        assert self.look(now, due_at=now - timedelta(seconds=70), tasks_in_flight=1) == "working"

    def test_a_celebration_is_completing(self, now: datetime) -> None:
        assert self.look(now, current_state="completion_routine") == "completing"

    def test_the_rest_is_idle_or_new(self, now: datetime) -> None:
        assert self.look(now) == "idle"
        NovaState.objects.all().delete()
        nova = factories.make_nova("echo")
        assert derived_status(nova, nova.state, None, {}, now).status == "new"
