"""Approvals: for one exact action, once, in time; and their clock stands with their Nova's."""

from datetime import timedelta

import pytest

from safety import audit
from safety.models import AuditEntry, SafetyState
from tests import factories
from workflow import approvals, halts, services
from workflow.approvals import ApprovalNotFound, ApprovalRequired, ArgumentsMismatch, IllegalApprovalMove, demand_approval
from workflow.models import Approval
from workflow.task_tracker import TaskNotFound

pytestmark = pytest.mark.django_db

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
ARGUMENTS = {"branch": "main", "force": False}


@pytest.fixture(autouse=True)
def nova(db: None) -> None:
    factories.make_nova("torch")


def ask(now, action="deploy", arguments=ARGUMENTS, **more) -> Approval:
    return approvals.request_approval("torch", action, arguments, now=now, **more)


def actions(approval: Approval) -> list[str]:
    rows = AuditEntry.objects.filter(object_type="approval", object_id=str(approval.pk)).order_by("id")
    return [action.rpartition(".")[2] for action in rows.values_list("action", flat=True)]


def test_an_approved_action_may_be_done_once(now):
    approval = ask(now, reason="The release is ready.")
    with pytest.raises(ApprovalRequired) as waiting:
        demand_approval("torch", "deploy", ARGUMENTS, approval.pk, now=now)
    assert (waiting.value.approval_id, waiting.value.status) == (approval.pk, "pending")
    with audit.acting("user:alice"):
        approvals.approve(approval.pk, reason="Go.", now=now)
    used = demand_approval("torch", "deploy", {"force": False, "branch": "main"}, approval.pk, now=now)
    assert (used.status, used.decided_by) == ("used", "user:alice")
    with pytest.raises(ApprovalRequired):
        demand_approval("torch", "deploy", ARGUMENTS, approval.pk, now=now)
    assert actions(approval) == ["requested", "approved", "used"]


@pytest.mark.parametrize(("action", "arguments"), [("deploy", {"branch": "main", "force": True}), ("delete", ARGUMENTS)])
def test_another_action_or_other_arguments_are_not_what_was_approved(now, action, arguments):
    approval = ask(now)
    approvals.approve(approval.pk, reason="Go.", now=now)
    with pytest.raises(ArgumentsMismatch):
        demand_approval("torch", action, arguments, approval.pk, now=now)
    approval.refresh_from_db()
    assert approval.status == "approved"


def test_without_a_request_an_action_is_refused(now):
    with pytest.raises(ApprovalRequired):
        demand_approval("torch", "deploy", ARGUMENTS, None, now=now)
    factories.make_nova("echo")
    theirs = approvals.request_approval("echo", "deploy", ARGUMENTS, now=now)
    approvals.approve(theirs.pk, reason="Go.", now=now)
    with pytest.raises(ApprovalRequired):
        demand_approval("torch", "deploy", ARGUMENTS, theirs.pk, now=now)
    with pytest.raises(ApprovalNotFound):
        approvals.get_approval(theirs.pk, now=now, nova_id="torch")


def test_asking_twice_is_asking_once_until_it_is_settled(now):
    first = ask(now)
    assert ask(now) == first
    approvals.deny(first.pk, reason="Not today.", now=now)
    assert ask(now) != first


def test_a_denied_action_is_not_done_and_an_approval_can_be_taken_back(now):
    approval = ask(now)
    approvals.approve(approval.pk, reason="Go.", now=now)
    approvals.deny(approval.pk, reason="Stop.", now=now)
    with pytest.raises(ApprovalRequired) as refused:
        demand_approval("torch", "deploy", ARGUMENTS, approval.pk, now=now)
    assert refused.value.status == "denied"
    with pytest.raises(IllegalApprovalMove):
        approvals.approve(approval.pk, reason="Go after all.", now=now)


def test_a_request_expires_and_that_is_no_denial(now):
    approval = ask(now, good_for=HOUR)
    assert approvals.get_approval(approval.pk, now=now + 59 * MINUTE).status == "pending"
    assert approvals.get_approval(approval.pk, now=now + HOUR).status == "expired"
    with pytest.raises(IllegalApprovalMove):
        approvals.approve(approval.pk, reason="Too late.", now=now + HOUR)
    assert actions(approval) == ["requested", "expired"]


def test_an_approval_that_is_not_used_in_time_expires(now):
    approval = ask(now, good_for=HOUR)
    approvals.approve(approval.pk, reason="Go.", now=now)
    with pytest.raises(ApprovalRequired) as refused:
        demand_approval("torch", "deploy", ARGUMENTS, approval.pk, now=now + HOUR)
    assert refused.value.status == "expired"


def test_a_pause_keeps_the_time_that_was_left(now):
    approval = ask(now, good_for=HOUR)
    services.pause_nova("torch", reason="look", now=now + 20 * MINUTE)
    assert approvals.settle(now=now + 5 * HOUR) == 0
    approval.refresh_from_db()
    assert approval.frozen_at == now + 20 * MINUTE
    services.resume_nova("torch", reason="go on", now=now + 6 * HOUR)
    approvals.settle(now=now + 6 * HOUR)
    approval = Approval.objects.get()
    assert approval.frozen_at is None
    assert approval.expires_at == now + 6 * HOUR + 40 * MINUTE


def test_a_safety_pause_keeps_the_time_that_was_left(now):
    approval = ask(now, good_for=HOUR)
    factories.make_safety_state("torch", is_safe=False, since=now + 30 * MINUTE, reason="hot", mechanism="frosty")
    approvals.settle(now=now + 2 * HOUR)
    SafetyState.objects.update(is_safe=True)
    assert approvals.get_approval(approval.pk, now=now + 2 * HOUR).expires_at == now + 2 * HOUR + 30 * MINUTE


def test_a_stopped_nova_asks_for_nothing_and_does_nothing(now):
    approval = ask(now)
    approvals.approve(approval.pk, reason="Go.", now=now)
    services.halt_nova("torch", reason="stop", now=now)
    with pytest.raises(halts.NovaStopped):
        ask(now, action="other")
    with pytest.raises(halts.NovaStopped):
        demand_approval("torch", "deploy", ARGUMENTS, approval.pk, now=now)


def test_a_request_names_only_the_novas_own_task(now):
    theirs = factories.make_task()
    with pytest.raises(TaskNotFound):
        ask(now, task_id=theirs.id)
    mine = factories.make_task(assignee="torch")
    assert ask(now, task_id=mine.id).task_id == mine.id
