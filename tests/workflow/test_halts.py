"""Orders to stop: asked for once, confirmed by evidence, unreachable Novas killed, clocks kept, lifted staggered."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from safety import api_keys
from safety.models import ApiKey, AuditEntry, HookSession, SafetyState
from tests import factories
from tests.workflow.driving import Driver, silence_momentum
from workflow import halts, services
from workflow.configuration import ReasonMissing
from workflow.execution import ledger
from workflow.execution.registry import Kept
from workflow.models import Execution, Halt, HaltConfirmation, NovaState, Task
from workflow.services import NovaNotFound

pytestmark = pytest.mark.django_db

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def modes() -> dict[str, str]:
    return dict(NovaState.objects.values_list("nova_id", "mode"))


def statuses(halt: Halt) -> dict[str, str]:
    return dict(halt.confirmations.values_list("nova_id", "status"))


def story(halt: Halt) -> list[str]:
    entries = AuditEntry.objects.filter(object_type="halt", object_id=str(halt.pk)).order_by("id")
    return [action.removeprefix("workflow.halt.") for action in entries.values_list("action", flat=True)]


def halt_of(nova_id: str, now: datetime, kind: str = "halt", **more: Any) -> Halt:
    return halts.order(kind, "nova", nova_id, reason="a look is needed", now=now, **more)


def session(nova_id: str, now: datetime) -> HookSession:
    return HookSession.objects.create(nova_id=nova_id, session_id="s", started_at=now, last_seen_at=now)


class TestOrdering:
    def test_an_idle_nova_is_confirmed_at_once(self, now: datetime) -> None:
        factories.make_nova()
        halt = halt_of("torch", now)
        assert statuses(halt) == {"torch": "confirmed"}
        assert modes() == {"torch": "halted"}
        assert halt.settled_at == now
        assert story(halt) == ["ordered", "confirmed", "settled"]

    def test_asking_twice_is_asking_once(self, now: datetime) -> None:
        factories.make_nova()
        first = halt_of("torch", now)
        assert halt_of("torch", now + SECOND).pk == first.pk
        assert Halt.objects.count() == 1

    def test_a_reason_and_somebody_it_is_for_are_required(self, now: datetime) -> None:
        factories.make_nova()
        with pytest.raises(ReasonMissing):
            halts.order("halt", "fleet", reason=" ", now=now)
        for scope, target in (("nova", "nobody"), ("team", "nowhere")):
            with pytest.raises(NovaNotFound):
                halts.order("halt", scope, target, reason="x", now=now)
        assert not Halt.objects.exists()

    def test_a_team_and_the_fleet_are_stopped_as_one(self, now: datetime) -> None:
        for nova_id, team in (("torch", "red"), ("echo", "red"), ("helix", "blue")):
            factories.make_nova(nova_id, team=team)
        halts.order("pause", "team", "red", reason="x", now=now)
        assert modes() == {"torch": "paused", "echo": "paused", "helix": "running"}
        halts.order("halt", "fleet", reason="x", now=now)
        assert set(modes().values()) == {"halted"}

    def test_a_step_under_way_can_commit_nothing_any_more(self, now: datetime) -> None:
        factories.make_nova()
        fence = NovaState.objects.get().fence
        halt_of("torch", now)
        assert NovaState.objects.get().fence > fence


class TestConfirmation:
    def test_waits_until_the_host_has_let_go(self, now: datetime) -> None:
        factories.make_nova()
        task = factories.make_task("long", assignee="torch", status="in_progress", attempts=1)
        execution = factories.make_execution(task, status="running", lease_until=now + 6 * SECOND)
        halt = halt_of("torch", now)
        assert Execution.objects.get().status == "cancelled"
        assert statuses(halt) == {"torch": "requested"}
        assert "1 execution not let go" in halt.confirmations.get().detail
        host = ledger.Claimed(execution.pk, task.pk, "torch", "builtin", "", 1, 60.0, execution.fence, 1)
        ledger.let_go([ledger.Held(host, 40, Kept("half of it", {"pages": 2}))])
        execution.refresh_from_db()
        assert (execution.status, execution.results, execution.metrics) == ("cancelled", "half of it", {"pages": 2})
        halts.settle(now=now + SECOND)
        assert statuses(halt) == {"torch": "confirmed"}

    def test_a_dead_host_counts_as_gone_with_its_lease(self, now: datetime) -> None:
        factories.make_nova()
        task = factories.make_task("long", assignee="torch", status="in_progress", attempts=1)
        factories.make_execution(task, status="running", lease_until=now + 6 * SECOND)
        halt = halt_of("torch", now)
        halts.settle(now=now + 5 * SECOND)
        assert statuses(halt) == {"torch": "requested"}
        halts.settle(now=now + 6 * SECOND)
        assert statuses(halt) == {"torch": "confirmed"}

    def test_an_agent_must_acknowledge_and_be_quiet(self, now: datetime) -> None:
        factories.make_nova()
        heard = session("torch", now)
        halt = halt_of("torch", now)
        assert statuses(halt) == {"torch": "requested"}
        halts.note_delivered("torch", now=now + SECOND)
        assert statuses(halt) == {"torch": "delivered"}
        halts.note_acknowledged("torch", now=now + 2 * SECOND)
        HookSession.objects.filter(pk=heard.pk).update(last_seen_at=now + 2 * SECOND)  # it goes on working
        halts.settle(now=now + 3 * SECOND)
        assert statuses(halt) == {"torch": "acknowledged"}
        HookSession.objects.filter(pk=heard.pk).update(at_rest=True)
        halts.settle(now=now + 4 * SECOND)
        assert statuses(halt) == {"torch": "confirmed"}
        confirmation = halt.confirmations.get()
        assert (confirmation.delivered_at, confirmation.acknowledged_at) == (now + SECOND, now + 2 * SECOND)

    def test_a_deaf_nova_is_killed_and_its_late_word_does_not_confirm_it(self, now: datetime) -> None:
        for nova_id in ("torch", "echo"):
            factories.make_nova(nova_id)
        session("torch", now + 20 * SECOND)
        key, _ = api_keys.create_key("torch", now=now)
        halt = halts.order("halt", "fleet", reason="x", now=now)
        halts.settle(now=now + 29 * SECOND)
        assert statuses(halt) == {"torch": "requested", "echo": "confirmed"}
        halts.settle(now=now + 30 * SECOND)
        assert statuses(halt) == {"torch": "unreachable", "echo": "confirmed"}
        assert modes() == {"torch": "killed", "echo": "halted"}
        with pytest.raises(api_keys.KeyRefused):
            api_keys.find_key(key, now=now + 31 * SECOND)
        halts.note_acknowledged("torch", now=now + 31 * SECOND)
        halts.settle(now=now + 40 * SECOND)
        assert statuses(halt)["torch"] == "unreachable"
        assert story(halt) == ["ordered", "confirmed", "unreachable", "settled"]
        assert AuditEntry.objects.get(action="workflow.nova.killed").nova_id == "torch"

    def test_a_drain_is_confirmed_when_it_is_done(self, now: datetime) -> None:
        factories.make_nova()
        halt = halt_of("torch", now, "drain")
        halts.settle(now=now + HOUR)
        assert statuses(halt) == {"torch": "requested"}
        NovaState.objects.update(mode="paused")
        halts.settle(now=now + HOUR)
        assert statuses(halt) == {"torch": "confirmed"}

    @pytest.mark.parametrize("count", [1, 50])
    def test_the_number_of_queries_does_not_grow(self, now: datetime, count: int, django_assert_max_num_queries: Any) -> None:
        for number in range(count):
            factories.make_nova(f"nova-{number}")
            session(f"nova-{number}", now)
        halts.order("halt", "fleet", reason="x", now=now)
        with django_assert_max_num_queries(12):
            halts.settle(now=now + SECOND)


class TestLifting:
    def test_brings_every_nova_back_staggered_with_the_rest_it_had(self, now: datetime) -> None:
        for number in range(60):
            factories.make_nova(f"nova-{number:02}", state={"due_at": now + 10 * SECOND})
        halt = halts.order("halt", "fleet", reason="x", now=now)
        halts.lift(halt.pk, reason="over", now=now + 2 * HOUR)
        due = sorted(NovaState.objects.values_list("due_at", flat=True))
        assert due[0] == now + 2 * HOUR + 10 * SECOND
        assert due[-1] - due[0] == timedelta(seconds=59 / 50)
        assert set(modes().values()) == {"running"}
        assert halts.lift(halt.pk, reason="again", now=now + 3 * HOUR).lifted_at == now + 2 * HOUR

    def test_gives_a_killed_nova_its_keys_back(self, now: datetime) -> None:
        factories.make_nova()
        key, _ = api_keys.create_key("torch", now=now)
        halt = halt_of("torch", now, "kill")
        assert ApiKey.objects.get().suspended_at == now
        halts.lift(halt.pk, reason="over", now=now + SECOND)
        assert api_keys.find_key(key, now=now + SECOND).nova_id == "torch"

    def test_a_stopped_execution_costs_no_attempt(self, now: datetime) -> None:
        factories.make_nova()
        task = factories.make_task("long", assignee="torch", status="in_progress", attempts=3, max_attempts=3)
        factories.make_execution(task, status="running", attempt=3)
        halt_of("torch", now)
        assert Task.objects.get().max_attempts == 4

    @pytest.mark.parametrize("paused_before", [False, True])
    def test_what_a_halt_stopped_is_taken_up_again_at_once(self, now: datetime, paused_before: bool) -> None:
        silence_momentum()
        factories.make_nova(personality="vaeris")
        task = factories.make_task(assignee="torch", executor="builtin", action="echo")
        driver = Driver(now=now)
        driver.begin()
        driver.run()
        if paused_before:
            services.pause_nova("torch", reason="x", now=now + SECOND)
        halt = halt_of("torch", now + 2 * SECOND)
        halts.lift(halt.pk, reason="over", now=now + MINUTE)
        driver.now = now + MINUTE
        driver.step()
        task.refresh_from_db()
        assert (task.status, task.attempts, task.max_attempts) == ("pending", 1, 4)

    def test_resuming_the_last_nova_by_itself_lifts_the_order(self, now: datetime) -> None:
        for nova_id in ("torch", "echo"):
            factories.make_nova(nova_id)
        halt = halts.order("halt", "fleet", reason="x", now=now)
        halts.resume(["torch"], reason="it may", now=now + SECOND)
        halt.refresh_from_db()
        assert halt.lifted_at is None
        halts.resume(["echo"], reason="it may", now=now + 2 * SECOND)
        halt.refresh_from_db()
        assert halt.lifted_at == now + 2 * SECOND


class TestClocks:
    def test_two_hours_of_a_pause_lose_no_lease_no_deadline_and_no_wait(self, now: datetime) -> None:
        deadline = now + 50 * SECOND
        factories.make_nova(
            state={"due_at": now + 20 * SECOND, "completion_stage_until": deadline, "completion_until": deadline}
        )
        held = factories.make_task(
            "held", assignee="torch", status="in_progress", executor="agent", reserved_until=now + 40 * SECOND
        )
        waiting = factories.make_task("again", assignee="torch", not_before=now + 30 * SECOND)
        SafetyState.objects.create(
            nova_id="torch",
            cooldown_until=now + 15 * SECOND,
            meditation_until=now + 16 * SECOND,
            quarantine_until=now + 17 * SECOND,
            api_cooldown_until=now + 15 * SECOND,
        )
        services.pause_nova("torch", reason="x", now=now)
        later = now + 2 * HOUR
        services.resume_nova("torch", reason="x", now=later)
        state = NovaState.objects.get()
        assert state.due_at == later + 20 * SECOND
        assert state.completion_stage_until == state.completion_until == later + 50 * SECOND
        held.refresh_from_db()
        waiting.refresh_from_db()
        assert held.reserved_until == later + 40 * SECOND
        assert waiting.not_before == later + 30 * SECOND
        verdict = SafetyState.objects.get()
        assert verdict.cooldown_until == later + 15 * SECOND
        assert verdict.meditation_until == later + 16 * SECOND
        assert verdict.quarantine_until == later + 17 * SECOND
        assert verdict.api_cooldown_until == now + 15 * SECOND  # of the provider: wall time

    def test_a_halt_during_a_pause_keeps_what_was_left(self, now: datetime) -> None:
        factories.make_nova(state={"due_at": now + 20 * SECOND, "completion_until": now + 50 * SECOND})
        services.pause_nova("torch", reason="x", now=now)
        halt_of("torch", now + HOUR)
        services.resume_nova("torch", reason="x", now=now + 2 * HOUR)
        state = NovaState.objects.get()
        assert state.due_at == now + 2 * HOUR + 20 * SECOND
        assert state.completion_until == now + 2 * HOUR + 50 * SECOND

    def test_a_fleet_that_comes_back_after_two_hours_finishes_what_it_had_in_hand_and_does_not_come_in_one_instant(
        self, now: datetime
    ) -> None:
        silence_momentum()
        driver = Driver(now=now)
        for number in range(60):
            factories.make_nova(f"nova-{number:02}")
            factories.make_task(f"task {number}", assignee=f"nova-{number:02}", executor="builtin", action="echo")
        driver.run()
        halt = halts.order("pause", "fleet", reason="x", now=now + SECOND)
        assert Execution.objects.filter(status="dispatched").count() == 60  # a pause lets what runs end
        Execution.objects.update(status="succeeded", results="Done.", progress=100, finished_at=now + MINUTE)
        driver.now = now + HOUR
        assert driver.step() is None
        later = now + 2 * HOUR
        halts.lift(halt.pk, reason="over", now=later)
        due: dict[datetime, int] = {}
        for at in NovaState.objects.values_list("due_at", flat=True):
            due[at] = due.get(at, 0) + 1
        assert max(due.values()) == 1
        assert len([at for at in due if at <= later + SECOND + MINUTE]) == 60
        driver.run_until(lambda: not Task.objects.exclude(outcome="succeeded").exists(), limit=200)
        assert not SafetyState.objects.filter(is_safe=False).exists()


class TestDrill:
    def test_stops_nobody_and_measures(self, now: datetime) -> None:
        for nova_id in ("torch", "echo"):
            factories.make_nova(nova_id, state={"due_at": now + MINUTE})
        services.pause_nova("echo", reason="x", now=now)
        drill = halts.order("halt", "fleet", reason="drill", now=now, drill=True)
        assert modes() == {"torch": "running", "echo": "paused"}
        assert statuses(drill) == {"torch": "requested", "echo": "confirmed"}
        halts.settle(now=now + SECOND)
        assert statuses(drill)["torch"] == "requested"
        driver = Driver(now=now + 2 * SECOND)
        driver.run()
        halts.settle(now=now + 3 * SECOND)
        assert statuses(drill)["torch"] == "confirmed"
        assert halts.standing_order("torch") is None

    @pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
    def test_a_nova_whose_own_cycle_takes_a_minute_answers_at_once(self, now: datetime, busy: bool) -> None:
        factories.make_nova(personality="vaeris")
        driver = Driver(now=now)
        if busy:
            factories.make_task(assignee="torch", executor="builtin", action="echo")
        driver.run()
        asked = now + 5 * SECOND
        drill = halts.order("halt", "fleet", reason="drill", now=asked, drill=True)
        assert statuses(drill) == {"torch": "requested"}
        driver.now = asked + SECOND
        driver.run()
        halts.settle(now=asked + 2 * SECOND)
        assert statuses(drill) == {"torch": "confirmed"}

    def test_a_nova_that_shows_nothing_is_unreachable_but_not_killed(self, now: datetime) -> None:
        factories.make_nova(state={"due_at": now + MINUTE})
        drill = halts.order("halt", "fleet", reason="drill", now=now, drill=True)
        halts.settle(now=now + 30 * SECOND)
        assert statuses(drill) == {"torch": "unreachable"}
        assert modes() == {"torch": "running"}


def test_the_standing_order_is_what_an_agent_is_told(now: datetime) -> None:
    factories.make_nova()
    assert halts.standing_order("torch") is None
    halt = halt_of("torch", now)
    order = halts.standing_order("torch")
    assert order is not None
    assert (order.halt_id, order.kind, order.actor, order.reason) == (halt.pk, "halt", "system", "a look is needed")


def test_what_safety_imposed_can_be_lifted(now: datetime) -> None:
    factories.make_nova()
    SafetyState.objects.create(nova_id="torch", meditation_until=now + HOUR, is_safe=False, mechanism="really_chill_willy")
    assert halts.lift_safety("torch", reason="false alarm", now=now)
    assert SafetyState.objects.get().meditation_until is None
    assert not halts.lift_safety("torch", reason="false alarm", now=now)
    entry = AuditEntry.objects.get(action="safety.verdict.lifted")
    assert list(entry.before or {}) == ["meditation_until"]


def test_nothing_may_begin_while_stopped_or_unsafe(now: datetime) -> None:
    factories.make_nova()
    halts.demand_may_act("torch")
    SafetyState.objects.create(nova_id="torch", is_safe=False, mechanism="frosty", reason="61 tool uses", until=now)
    with pytest.raises(halts.NovaStopped, match="61 tool uses") as refused:
        halts.demand_may_act("torch")
    assert (refused.value.mechanism, refused.value.until) == ("frosty", now)
    halt_of("torch", now)
    with pytest.raises(halts.NovaStopped, match="halted: a look is needed"):
        halts.demand_may_act("torch")


def test_confirmations_are_of_this_order_only(now: datetime) -> None:
    factories.make_nova()
    halts.lift(halt_of("torch", now).pk, reason="over", now=now)
    session("torch", now)
    second = halt_of("torch", now + SECOND)
    assert HaltConfirmation.objects.filter(halt=second).get().status == "requested"


@pytest.mark.django_db(transaction=True)
def test_a_nova_that_is_resumed_at_the_api_lifts_its_order(now: datetime, settings: Any) -> None:
    """Outside of a test's transaction: what lifts the order is journalled, and so needs one of its own."""
    settings.OPERATOR_KEY = "an-operator-key-for-tests"
    factories.make_nova()
    halt = halt_of("torch", now)
    client = Client(headers={"Authorization": f"Bearer {settings.OPERATOR_KEY}"}, raise_request_exception=False)
    answer = client.post("/api/v1/novas/torch/resume", '{"reason": "seen to"}', content_type="application/json")
    assert answer.status_code == 200
    halt.refresh_from_db()
    assert halt.lifted_at is not None
    assert modes() == {"torch": "running"}
