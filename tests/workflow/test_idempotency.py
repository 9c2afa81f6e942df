"""`Idempotency-Key` on every POST: one effect, the stored answer again, and what may not share a key."""

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from safety import answers, api_keys
from safety.answers import Answer, KeyReused, StillInFlight
from safety.models import AuditEntry, StoredAnswer
from safety.stream_client import StreamClient
from tests import factories
from tests.workflow.test_api import KEY, _operator_key, api, post, problem  # noqa: F401 - fixtures
from workflow import services
from workflow.models import NovaState, Objective, Task

pytestmark = pytest.mark.django_db

K1 = {"Idempotency-Key": "k-1"}
DAY, MINUTE = timedelta(hours=24), timedelta(minutes=1)
YES = Answer(201, {"Location": "/x"}, '{"a":1}')


class TestStore:
    def test_an_answer_is_found_for_a_day(self, now: datetime) -> None:
        assert answers.find("ann", "k", "f", now=now) is None
        assert answers.keep("ann", "k", "f", YES, now=now)
        assert answers.find("ann", "k", "f", now=now + DAY - MINUTE) == YES
        assert answers.find("ann", "k", "f", now=now + DAY) is None
        assert answers.find("bob", "k", "f", now=now) is None
        with pytest.raises(KeyReused):
            answers.find("ann", "k", "other", now=now)

    def test_the_first_one_stays_until_it_is_a_day_old(self, now: datetime) -> None:
        assert answers.keep("ann", "k", "f", YES, now=now)
        assert not answers.keep("ann", "k", "g", YES, now=now + DAY - MINUTE)
        assert answers.keep("ann", "k", "g", YES, now=now + DAY)
        assert StoredAnswer.objects.get().fingerprint == "g"

    def test_what_was_begun_is_in_flight_until_it_is_finished_or_given_up(self, now: datetime) -> None:
        assert answers.begin("ann", "k", "f", now=now)
        assert not answers.begin("ann", "k", "f", now=now + MINUTE)
        with pytest.raises(StillInFlight):
            answers.find("ann", "k", "f", now=now + MINUTE)
        assert answers.find("ann", "k", "f", now=now + answers.GIVEN_UP) is None
        assert answers.begin("ann", "k", "f", now=now + answers.GIVEN_UP)
        answers.finish("ann", "k", "f", YES)
        assert answers.find("ann", "k", "f", now=now + 3 * MINUTE) == YES
        answers.begin("ann", "l", "f", now=now)
        answers.finish("ann", "l", "f", None)
        assert answers.find("ann", "l", "f", now=now) is None

    def test_old_ones_are_forgotten(self, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(answers, "_FORGOTTEN_AT_ONCE", 2)
        for number in range(5):
            answers.keep("ann", str(number), "f", YES, now=now)
        answers.keep("ann", "new", "f", YES, now=now + MINUTE)
        assert answers.forget_old(now=now + DAY) == 5
        assert StoredAnswer.objects.get().key == "new"


class TestEveryPost:
    def test_a_verb_has_its_effect_once(self, api: Client) -> None:  # noqa: F811
        factories.make_nova()
        first = post(api, "novas/torch/pause", {"reason": "x"}, **K1)
        NovaState.objects.update(mode="running")
        again = post(api, "novas/torch/pause", {"reason": "x"}, **K1)
        assert (first.status_code, again.status_code) == (200, 200)
        assert (again["Idempotency-Replayed"], "Idempotency-Replayed" in first) == ("true", False)
        assert again.content == first.content
        assert NovaState.objects.get().mode == "running"
        assert AuditEntry.objects.filter(action="workflow.nova.paused").count() == 1

    def test_a_new_row_comes_back_with_its_headers(self, api: Client) -> None:  # noqa: F811
        body = {"title": "Keep the docs true", "due_at": "2026-11-20T12:00:00Z"}
        first, again = (post(api, "objectives", body, **K1) for _ in range(2))
        assert (first.status_code, again.status_code) == (201, 201)
        assert (again["Location"], again["ETag"]) == (first["Location"], first["ETag"])
        assert Objective.objects.count() == 1

    def test_spelling_of_the_body_does_not_matter(self, api: Client) -> None:  # noqa: F811
        one = '{"title": "Once", "priority": "high"}'
        two = '{"priority":"high","title":"Once"}'
        for body in (one, two):
            answer = api.post("/api/v1/tasks", body, content_type="application/json", headers=K1)
            assert answer.status_code == 201
        assert Task.objects.count() == 1

    @pytest.mark.parametrize(
        ("address", "body"), [("tasks", {"title": "Other"}), ("novas/torch/wake", {"reason": "x"}), ("tasks/", {"title": "x"})]
    )
    def test_another_request_under_the_key_is_refused(self, api: Client, address: str, body: dict[str, Any]) -> None:  # noqa: F811
        factories.make_nova()
        post(api, "tasks", {"title": "Once"}, **K1)
        problem(post(api, address, body, **K1), 422, "idempotency_key_reused")
        assert Task.objects.count() == 1

    def test_what_was_refused_may_be_tried_again(self, api: Client) -> None:  # noqa: F811
        problem(post(api, "novas/torch/pause", {"reason": "x"}, **K1), 404)
        assert not StoredAnswer.objects.exists()
        factories.make_nova()
        assert post(api, "novas/torch/pause", {"reason": "x"}, **K1).status_code == 200

    def test_an_agent_keeps_its_keys_when_its_own_key_is_rotated(self, now: datetime) -> None:
        factories.make_nova()
        old, key = api_keys.create_key("torch", now=now)
        new, _ = api_keys.rotate_key(key.pk, reason="x", now=now, overlap=timedelta(days=30))
        clients = [Client(headers={"Authorization": f"Bearer {text}"}) for text in (old, new)]
        first, again = (post(client, "novas/torch/halt-ack", {}, **K1) for client in clients)
        assert (first.status_code, again.status_code) == (200, 200)
        assert again["Idempotency-Replayed"] == "true"

    def test_after_a_day_a_task_still_knows_its_key(self, api: Client) -> None:  # noqa: F811
        first = post(api, "tasks", {"title": "Once"}, **K1)
        StoredAnswer.objects.update(created_at=factories.NOW - 400 * DAY)
        again = post(api, "tasks", {"title": "Once"}, **K1)
        assert (again.status_code, again["Idempotency-Replayed"]) == (200, "true")
        assert again.json()["task_id"] == first.json()["task_id"]

    def test_what_a_refusal_keeps_on_purpose_is_kept_under_a_key_too(self, now: datetime) -> None:
        factories.make_nova("torch", default_executor="agent", allowed_executors=["agent"])
        task = factories.make_task(assignee="torch")
        text, _ = api_keys.create_key("torch", now=now)
        agent = Client(headers={"Authorization": f"Bearer {text}"})
        (held,) = post(agent, "tasks/claim", {}, **K1).json()["tasks"]
        body = {"fence": held["fence"] + 7, "results": "Too late."}
        problem(post(agent, f"tasks/{task.id}/complete", body, **{"Idempotency-Key": "k-2"}), 409, "lease_lost")
        assert "Too late." in str(list(AuditEntry.objects.filter(object_id=task.id).values_list("after", flat=True)))
        again = post(
            agent, f"tasks/{task.id}/complete", {"fence": held["fence"], "results": "Done."}, **{"Idempotency-Key": "k-2"}
        )
        assert again.json()["status"] == "completed"

    def test_a_claim_under_a_key_takes_once(self, now: datetime) -> None:
        factories.make_nova("torch", default_executor="agent", allowed_executors=["agent"])
        text, _ = api_keys.create_key("torch", now=now)
        agent = Client(headers={"Authorization": f"Bearer {text}"})
        assert post(agent, "tasks/claim", {}, **K1).status_code == 204
        for number in range(2):
            factories.make_task(f"Task {number}", assignee="torch")
        first, again = (post(agent, "tasks/claim", {}, **K1) for _ in range(2))
        assert first.json() == again.json()
        assert Task.objects.filter(status="in_progress").count() == 1

    def test_a_failure_nobody_foresaw_leaves_nothing(self, api: Client, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
        from workflow.api import views

        def explode(task_id: str) -> None:
            raise RuntimeError("after the effect")

        monkeypatch.setattr(views, "show_task", explode)
        problem(post(api, "tasks", {"title": "Once"}, **K1), 500)
        assert not Task.objects.exists()
        assert not StoredAnswer.objects.exists()
        monkeypatch.undo()
        assert post(api, "tasks", {"title": "Once"}, **K1).status_code == 201

    def test_it_costs_two_statements(self, api: Client) -> None:  # noqa: F811
        post(api, "tasks", {"title": "Warm up"})
        counts = []
        for headers in ({}, K1):
            with CaptureQueriesContext(connection) as queries:
                post(api, "tasks", {"title": "x"}, **headers)
            counts.append([q["sql"] for q in queries if "SAVEPOINT" not in q["sql"] and "advisory" not in q["sql"]])
        looked_up = [sql for sql in counts[1] if '"idempotency_key" = ' in sql]  # the task's own
        assert len(counts[1]) - len(looked_up) == len(counts[0]) + 2

    def test_a_permit_is_asked_for_once(self, stream: StreamClient, now: datetime) -> None:
        factories.make_installation()
        factories.make_nova()
        key, _ = api_keys.create_key("torch", now=now)
        agent = Client(headers={"Authorization": f"Bearer {key}"})
        first, again = (post(agent, "novas/torch/api-permits", {}, **K1) for _ in range(2))
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json()
        assert stream.call("ZCARD", "novawf:guardian:torch:slots") == 1
        StoredAnswer.objects.update(status=0, created_at=answers_now())
        answer = post(agent, "novas/torch/api-permits", {}, **K1)
        problem(answer, 409, "idempotency_key_in_flight")
        assert answer["Retry-After"] == "1"


def answers_now() -> datetime:
    from django.utils import timezone

    return timezone.now()


@pytest.mark.django_db(transaction=True)
def test_a_request_in_flight_is_not_begun_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second comes while the first is in its handler: 409, and one effect."""
    factories.make_nova()
    entered, go_on = threading.Event(), threading.Event()
    order = services.pause_nova

    def slowly(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        assert go_on.wait(20)
        return order(*args, **kwargs)

    monkeypatch.setattr(services, "pause_nova", slowly)
    found: list[Any] = []

    def ask() -> None:
        client = Client(headers={"Authorization": f"Bearer {KEY}"})
        found.append(post(client, "novas/torch/pause", {"reason": "x"}, **K1))
        connection.close()

    first = threading.Thread(target=ask)
    first.start()
    assert entered.wait(20)
    second = post(Client(headers={"Authorization": f"Bearer {KEY}"}), "novas/torch/pause", {"reason": "x"}, **K1)
    problem(second, 409, "idempotency_key_in_flight")
    go_on.set()
    first.join(20)
    assert found[0].status_code == 200
    third = post(Client(headers={"Authorization": f"Bearer {KEY}"}), "novas/torch/pause", {"reason": "x"}, **K1)
    assert third["Idempotency-Replayed"] == "true"
    assert AuditEntry.objects.filter(action="workflow.nova.paused").count() == 1


@pytest.mark.django_db(transaction=True)
def test_many_at_once_make_one_task() -> None:
    """Whatever the others hear (the task, or that it is in flight), there is one."""
    factories.make_nova()
    found: list[Any] = []

    def ask() -> None:
        client = Client(headers={"Authorization": f"Bearer {KEY}"})
        found.append(post(client, "tasks", {"title": "Once"}, **K1))
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {answer.status_code for answer in found} <= {201, 409}
    assert len({answer.json()["task_id"] for answer in found if answer.status_code == 201}) == 1
    assert Task.objects.count() == 1
