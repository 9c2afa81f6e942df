"""The model executor against a provider on this machine: a real host, a real guardian, real HTTP."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from django.utils import timezone

from safety.encryption import encrypt
from safety.models import AuditEntry, Observation, ProviderAccount, SafetyPolicy
from safety.stream_client import StreamClient
from tests import factories
from tests.workflow.driving import Driver, silence_momentum
from tests.workflow.execution.conftest import dispatch, ended, wait_until
from tests.workflow.execution.provider import Answer, Provider, fails, hangs, raw, reports, says, trickles
from workflow import approvals, halts
from workflow.execution.host import ExecutionHost
from workflow.models import Approval, Execution, InboxMessage, ModelPrice, Nova, NovaUsage, Task

# in one worker: the packages of models are large
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("models")]

KEY = "sk-planted-000000000000"
Serve = Callable[..., Provider]
Background = Callable[..., threading.Event]


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """Load what the executor loads with its first task: large packages, which shall not count within a test's time."""
    import_module("workflow.execution.model_agent")


@pytest.fixture
def serve(stream: StreamClient) -> Iterator[Serve]:
    """Set up a provider with these answers, its account and the Nova `torch` that uses it."""
    factories.make_installation()
    begun: list[Provider] = []

    def begin(*answers: Answer, streaming: bool = False, nova: dict[str, Any] | None = None, **account: Any) -> Provider:
        provider = Provider(*answers)
        row = ProviderAccount.objects.create(
            **{
                "slug": "local",
                "kind": "openai",
                "base_url": provider.url,
                "streaming": streaming,
                "key_source": "encrypted",
                "encrypted_key": encrypt(KEY),
                **account,
            }
        )
        factories.make_nova("torch", provider_account=row, model="small-1", **(nova or {}))
        begun.append(provider.__enter__())
        return provider

    yield begin
    for provider in begun:
        provider.__exit__()


@pytest.fixture
def later() -> list[Provider]:
    """Where an answer that hangs finds its provider."""
    return []


def run(**fields: Any) -> Execution:
    if "task" not in fields:
        fields |= {"title": "Sum up", "description": "Sum up the week."}
    execution = dispatch("", executor="model", **fields)
    return ended(execution)


def limits(**fields: Any) -> None:
    SafetyPolicy.objects.update(**fields)


# -- the work


@pytest.mark.parametrize("streaming", [False, True])
def test_a_task_is_done_with_tools_and_a_structured_result(serve: Serve, streaming: bool) -> None:
    factories.make_inbox_message(nova_id="torch", sender="echo", fields={"message": "The figures are in."})
    provider = serve(
        says("Let me look.", ("read_inbox", {})),
        says("", ("report_progress", {"update": "half of it", "percent": 50})),
        reports("All is summed up.", metrics={"pages": 3}, evidence=["the figures"]),
        streaming=streaming,
    )
    execution = run()
    assert (execution.status, execution.error, execution.results) == ("succeeded", "", "All is summed up.")
    metrics = execution.metrics
    assert (metrics["pages"], metrics["evidence"], metrics["model"]) == (3, ["the figures"], "small-1")
    assert (metrics["requests"], metrics["tool_uses"], metrics["input_tokens"], metrics["output_tokens"]) == (3, 2, 30, 15)
    assert all(bool(asked.get("stream")) is streaming for asked in provider.asked)
    first = provider.asked[0]
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert "builder focused" in json.dumps(first["messages"])
    assert "Sum up the week." in json.dumps(first["messages"])
    assert "The figures are in." in json.dumps(provider.asked[1]["messages"])
    usage = NovaUsage.objects.get()
    assert (usage.requests, usage.input_tokens, usage.output_tokens, usage.tool_uses) == (3, 30, 15, 2)


def test_plain_text_is_a_result_too(serve: Serve) -> None:
    serve(says("It is done."))
    assert run().results == "It is done."


def test_what_only_somebody_else_can_do_is_no_success_of_the_task(serve: Serve) -> None:
    serve(reports("I may not.", needs={"owner": "ada", "action": "open the vault"}))
    execution = run()
    assert (execution.status, execution.needs) == ("succeeded", {"owner": "ada", "action": "open the vault"})


@pytest.mark.parametrize("streaming", [False, True])
def test_every_call_and_every_tool_is_seen_by_the_judges(serve: Serve, streaming: bool) -> None:
    serve(says("", ("read_inbox", {}), ("post_message", {"to": "nobody", "text": "hi"})), says("Done."), streaming=streaming)
    assert run().status == "succeeded"
    seen = {
        kind: sum(Observation.objects.filter(nova_id="torch", kind=kind).values_list("count", flat=True))
        for kind in ("api_request", "tool_use", "tool_failure")
    }
    assert seen == {"api_request": 2, "tool_use": 2, "tool_failure": 1}


def test_a_message_reaches_the_other_nova_once_however_often_it_is_sent(serve: Serve) -> None:
    post = says("", ("post_message", {"to": "echo", "text": "Look at page 3."}))
    provider = serve(post, post, says("Done."))
    factories.make_nova("echo", personality="echo")
    run()
    message = InboxMessage.objects.get(nova_id="echo")
    assert (message.sender, message.status, message.fields["message"]) == ("torch", "waiting", "Look at page 3.")
    assert "was sent to echo before" in json.dumps(provider.asked[2]["messages"])
    posted = AuditEntry.objects.get(action="workflow.message.posted")
    assert (posted.actor, posted.stream) == ("nova:torch", "nova.coordination.echo")


def test_a_task_may_ask_for_another_task(serve: Serve) -> None:
    given = {"title": "Check page 3", "description": "Is it right?", "assignee": "echo", "priority": "high"}
    serve(says("", ("create_task", given)), says("", ("create_task", {**given, "assignee": "ghost"})), says("Done."))
    factories.make_nova("echo", personality="echo")
    execution = run()
    task = Task.objects.get(title="Check page 3")
    assert (task.assignee_id, task.priority, task.sender, task.cause) == ("echo", "high", "nova:torch", execution.task_id)


@pytest.mark.parametrize("granted", [True, False])
def test_a_tool_that_needs_approval_waits_for_a_person(serve: Serve, granted: bool) -> None:
    write = says("I will write.", ("post_message", {"to": "echo", "text": "x"}))
    provider = serve(write, write, says("Done."), nova={"approval_tools": ["post_message"]})
    factories.make_nova("echo", personality="echo")
    execution = run()
    assert (execution.status, execution.retryable, len(provider.asked)) == ("failed", False, 1)
    asked = Approval.objects.get()
    assert (execution.needs or {})[
        "action"
    ] == f"approve or deny request {asked.pk} (post_message for torch), then unblock the task"
    assert (asked.requested_by, asked.arguments, asked.task_id) == (
        "nova:torch",
        {"to": "echo", "text": "x"},
        execution.task_id,
    )
    assert not InboxMessage.objects.exists()
    assert "I will write." in execution.results
    (approvals.approve if granted else approvals.deny)(asked.pk, reason="looked at it", now=timezone.now())
    again = run(task=execution.task, attempt=2)
    assert again.results == "Done."
    assert InboxMessage.objects.filter(nova_id="echo").exists() is granted
    assert Approval.objects.get().status == ("used" if granted else "denied")
    assert ("denied this: looked at it" in json.dumps(provider.asked[2]["messages"])) is not granted


def test_a_second_run_is_told_that_it_is_one_and_what_was_noted(serve: Serve) -> None:
    provider = serve(says("Done."))
    execution = run(runs=1, results="half of it is done")
    said = json.dumps(provider.asked[0]["messages"])
    assert "run 2" in said
    assert "half of it is done" in said
    assert execution.metrics["runs"] == 2


def test_a_task_goes_from_request_to_completion_over_a_429(serve: Serve) -> None:
    serve(fails(429, Retry_After="1"), reports("All is summed up."), breaker_rest=0.1)
    Nova.objects.update(default_executor="model", allowed_executors=["model", "agent"])
    silence_momentum()
    driver = Driver()
    driver.now = timezone.now()
    task = factories.make_task("Sum up", max_attempts=1, now=driver.now)
    driver.run()
    ended(Execution.objects.get())
    driver.now = timezone.now()
    driver.run()
    task.refresh_from_db()
    assert (task.status, task.attempts, task.max_attempts) == ("pending", 1, 2)
    assert task.not_before is not None
    assert task.not_before >= driver.now
    driver.now = task.not_before + timedelta(seconds=1)
    driver.run()
    ended(Execution.objects.get(attempt=2))
    driver.now += timedelta(minutes=1)
    driver.run()
    task.refresh_from_db()
    assert (task.status, task.outcome, task.results) == ("completed", "succeeded", "All is summed up.")


# -- what may go wrong


def test_a_429_puts_the_execution_off_and_opens_the_breaker(serve: Serve) -> None:
    provider = serve(fails(429, "slow down", Retry_After="120"))
    before = timezone.now()
    execution = run()
    assert (execution.status, execution.retryable, len(provider.asked)) == ("failed", True, 1)
    assert execution.not_before is not None
    assert timedelta(seconds=115) < execution.not_before - before < timedelta(seconds=150)
    assert ProviderAccount.objects.get().breaker == "open"
    again = run()
    assert len(provider.asked) == 1  # the open breaker lets no further call out
    assert "breaker" in again.error
    assert again.not_before is not None


def test_a_used_up_quota_is_an_operators(serve: Serve) -> None:
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}
    serve(lambda asked, handler: fails(429, json.dumps(body))(asked, handler))
    execution = run()
    assert (execution.retryable, (execution.needs or {})["owner"]) == (False, "operator")


def test_500s_open_the_breaker(serve: Serve) -> None:
    provider = serve(fails(500, "oops"))
    limits(burst_requests=100)
    for _ in range(5):
        assert "failed (500). It said: oops" in run().error
    assert (len(provider.asked), ProviderAccount.objects.get().breaker) == (5, "open")
    assert "breaker" in run().error
    assert len(provider.asked) == 5


@pytest.mark.parametrize("streaming", [False, True])
def test_a_provider_that_hangs_is_left_when_its_time_is_over(serve: Serve, later: list[Provider], streaming: bool) -> None:
    later.append(serve(says("Working on it.", ("read_inbox", {})), hangs(later), streaming=streaming))
    limits(request_timeout=0.3)
    execution = run()
    assert "did not answer within 0.3 s" in execution.error
    assert (execution.status, execution.retryable, execution.not_before) == ("failed", True, None)
    assert "Working on it." in execution.results
    assert execution.metrics["tool_uses"] == 1


def test_a_stream_that_never_ends_is_left_too(serve: Serve, later: list[Provider]) -> None:
    later.append(serve(trickles(later), streaming=True))
    limits(request_timeout=0.3)
    assert "did not answer within 0.3 s" in run().error


@pytest.mark.parametrize("body", [b"{not json", b"", b"<html>busy</html>"])
def test_an_answer_that_is_no_json_counts_for_the_breaker(serve: Serve, body: bytes) -> None:
    serve(raw(body), breaker_failures=1)
    execution = run()
    assert "is no JSON" in execution.error
    assert (execution.status, execution.retryable) == ("failed", True)
    assert ProviderAccount.objects.get().breaker == "open"


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": 3}]}', b"null"])
def test_json_that_is_no_answer_is_a_failure_of_the_execution_only(serve: Serve, body: bytes) -> None:
    serve(raw(body))
    execution = run()
    assert (execution.status, execution.retryable) == ("failed", True)
    assert "could not be used" in execution.error


def test_a_stream_of_nonsense_is_a_failure_of_the_execution_only(serve: Serve) -> None:
    serve(raw(b"data: {not json\n\ndata: [DONE]\n\n", "text/event-stream"), streaming=True)
    execution = run()
    assert (execution.status, execution.retryable) == ("failed", True)


def test_tools_that_are_called_wrongly_are_refused_to_the_model(serve: Serve) -> None:
    provider = serve(says("", ("post_message", {"to": 3})), says("", ("nonesuch", {})), says("Done."))
    assert run().status == "succeeded"
    assert len(provider.asked) == 3


def test_a_key_that_is_refused_is_an_operators_and_is_told_nowhere(serve: Serve, capfd: Any, caplog: Any) -> None:
    caplog.set_level("DEBUG")
    serve(fails(401, f"Incorrect API key provided: {KEY}"))
    execution = run()
    assert (execution.retryable, (execution.needs or {})["owner"]) == (False, "operator")
    printed = capfd.readouterr()
    outputs = [str(list(model.objects.values())) for model in (Execution, AuditEntry, Task)]
    outputs += [printed.out, printed.err, *(str(record.__dict__) for record in caplog.records)]
    assert [text[:200] for text in outputs if KEY in text] == []


def test_what_a_provider_says_is_kept_without_our_key(serve: Serve) -> None:
    serve(fails(400, f"bad request of {KEY}"))
    execution = run()
    assert "bad request of [redacted]" in execution.error
    assert execution.retryable is False


def test_a_redirect_is_not_followed(serve: Serve) -> None:
    provider = serve(fails(307, "there", Location="http://127.0.0.1:9/"))
    assert "not followed" in run().error
    assert len(provider.asked) == 1


@pytest.mark.parametrize(
    ("nova", "account", "word"),
    [({"model": ""}, {}, "model"), ({}, {"key_source": "environment", "key_location": "NOVAWF_NO_KEY"}, "key")],
)
def test_what_is_not_configured_is_an_operators(serve: Serve, nova: Any, account: Any, word: str) -> None:
    provider = serve(says("x"), **account)
    Nova.objects.update(**nova)
    execution = run()
    assert (execution.retryable, (execution.needs or {})["owner"], provider.asked) == (False, "operator", [])
    assert word in execution.error
    assert "NOVAWF_NO_KEY" not in execution.error


# -- budgets, limits, halts


@pytest.mark.parametrize(
    ("budget", "calls"), [({"budget_requests": 2}, 2), ({"budget_tokens": 20}, 2), ({"budget_cost": 0.0001}, 3)]
)
def test_a_spent_budget_stops_before_the_request(serve: Serve, budget: dict[str, Any], calls: int) -> None:
    provider = serve(says("More.", ("read_inbox", {})), nova=budget)
    ModelPrice.objects.create(account_id="local", model="small-1", input_price=1.0, output_price=5.0)  # 35 millionths a call
    execution = run()
    assert (len(provider.asked), NovaUsage.objects.get().requests) == (calls, calls)
    assert (execution.status, execution.retryable) == ("failed", False)
    assert (execution.needs or {})["action"].startswith("raise the budget of torch")
    assert "More." in execution.results
    assert NovaUsage.objects.get().cost_micros == 35 * calls


def test_a_budget_in_money_without_a_price_lets_no_call_out(serve: Serve) -> None:
    provider = serve(says("x"), nova={"budget_cost": 1.0})
    execution = run()
    assert provider.asked == []
    assert "give a price" in (execution.needs or {})["action"]


def test_budgets_begin_anew_each_day(serve: Serve) -> None:
    serve(says("Done."), nova={"budget_requests": 1})
    NovaUsage.objects.create(nova_id="torch", day=(datetime.now(UTC) - timedelta(days=1)).date(), requests=5)
    assert run().status == "succeeded"
    assert run().status == "failed"


def test_a_limit_of_the_guardian_puts_the_execution_off_and_counts_no_call(serve: Serve) -> None:
    provider = serve(says("More.", ("read_inbox", {})), nova={"budget_requests": 50})
    limits(burst_requests=2, burst_window=60.0)
    execution = run()
    assert (len(provider.asked), NovaUsage.objects.get().requests) == (2, 2)
    assert execution.not_before is not None
    assert execution.not_before > timezone.now() + timedelta(seconds=30)
    assert "More." in execution.results


def test_an_unsafe_nova_makes_no_call(serve: Serve) -> None:
    provider = serve(says("x"))
    until = timezone.now() + timedelta(minutes=5)
    factories.make_safety_state("torch", is_safe=False, mechanism="frosty", reason="A burst.", until=until)
    execution = run()
    assert (provider.asked, execution.retryable) == ([], True)
    assert execution.not_before is not None
    assert abs(execution.not_before - until) < timedelta(seconds=5)


def test_without_the_guardians_counters_no_call_is_made(serve: Serve, stream_server: Any) -> None:
    provider = serve(says("x"))
    stream_server.stop()
    execution = run()
    assert (provider.asked, execution.status) == ([], "failed")
    assert execution.not_before is not None


@pytest.mark.parametrize("streaming", [False, True])
def test_a_halt_in_the_middle_ends_the_call_and_keeps_what_there_was(
    serve: Serve, later: list[Provider], quick: None, background: Background, streaming: bool
) -> None:
    wait = trickles(later) if streaming else hangs(later)
    later.append(serve(says("Half of it is done.", ("read_inbox", {})), wait, streaming=streaming))
    execution = dispatch("", executor="model", title="Sum up")
    background(ExecutionHost("here"))
    wait_until(lambda: len(later[0].asked) == 2, 20)
    order = halts.order("halt", "nova", "torch", reason="stop", now=timezone.now())
    wait_until(lambda: Execution.objects.get().lease_until is None and Execution.objects.get().results)
    execution.refresh_from_db()
    assert execution.status == "cancelled"
    assert "Half of it is done." in execution.results
    assert execution.metrics["requests"] == 2
    halts.settle(now=timezone.now())
    assert halts.get(order.pk).confirmations.get().status == "confirmed"
    assert ProviderAccount.objects.get().breaker == "closed"  # a call that was stopped is no failure of the provider


def test_an_anthropic_account_is_spoken_to_in_its_own_protocol(serve: Serve) -> None:
    body = {
        "id": "m", "type": "message", "role": "assistant", "model": "small-1", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "Bonjour."}], "usage": {"input_tokens": 7, "output_tokens": 3},
    }  # fmt: skip
    provider = serve(raw(json.dumps(body).encode()), kind="anthropic")
    execution = run()
    assert (execution.error, execution.results, execution.metrics["input_tokens"]) == ("", "Bonjour.", 7)
    assert provider.asked[0].path.partition("?")[0] == "/v1/messages"
    assert KEY in str(provider.asked[0].headers)
