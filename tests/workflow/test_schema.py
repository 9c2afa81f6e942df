"""The OpenAPI document: it is what is committed, it says all, and the API keeps to it whatever schemathesis sends."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import schemathesis
import yaml
from django.core.management import call_command
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from safety.api_keys import create_key
from tests import factories
from tests.web_server import OPERATOR_KEY, WebServer
from workflow.api.schema import _CSP

pytestmark = pytest.mark.django_db

COMMITTED = Path(__file__).resolve().parent.parent.parent / "docs" / "api" / "openapi.yaml"
DOCUMENT = yaml.load(COMMITTED.read_text(), yaml.CSafeLoader)
KEY = "an-operator-key-for-tests"
EXPECTED = ["2xx", 400, 401, 403, 404, 409, 412, 422, 423, 429, 503]  # of requests that fit the document
EXAMPLES = int(os.environ.get("NOVAWF_SCHEMA_EXAMPLES", "2"))  # an address; more in the soak


@pytest.fixture(autouse=True)
def _quick_settings(settings: Any, tmp_path: Path) -> None:
    settings.OPERATOR_KEY = KEY
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }


def generated(folder: Path) -> str:
    call_command("spectacular", file=str(folder / "openapi.yaml"), fail_on_warn=True, validate=True)
    return (folder / "openapi.yaml").read_text()


class TestTheDocument:
    def test_the_committed_document_is_what_the_addresses_say(self, tmp_path: Path) -> None:
        assert generated(tmp_path) == COMMITTED.read_text(), "run: manage.py spectacular --file docs/api/openapi.yaml"

    def test_every_operation_says_who_may_and_what_refusals_look_like(self) -> None:
        assert DOCUMENT["openapi"].startswith("3.1")
        assert DOCUMENT["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
        names = []
        for path in DOCUMENT["paths"].values():
            for method, operation in path.items():
                names.append(operation["operationId"])
                assert operation["security"]
                assert operation["description"]
                assert operation["responses"]["401"] == {"$ref": "#/components/responses/Problem"}
                assert any(status.startswith("2") for status in operation["responses"])
                if body := operation.get("requestBody"):
                    assert body["content"]["application/json"]["examples"], (
                        f"{method} {operation['operationId']} has no example"
                    )
        assert len(names) == len(set(names))

    def test_it_is_served(self) -> None:
        response = Client().get("/api/v1/schema/")
        assert response.status_code == 200
        assert "openapi" in response["Content-Type"]

    def test_its_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(self) -> None:
        response = Client().get("/api/docs/")
        text = response.content.decode()
        assert response["Content-Security-Policy"] == _CSP
        assert "unsafe" not in _CSP
        assert not re.search(r"<script(?![^>]*src=)", text)
        assert not re.search(r"(src|href)=\"(?!/)", text)
        assert "style=" not in text
        assert "on" not in re.findall(r"\s(on\w+)=", text)


@cache
def loaded() -> Any:
    """Read the document from its address, once."""
    config = SchemathesisConfig.from_dict(
        {
            "headers": {},
            "generation": {"max-examples": EXAMPLES, "mode": "all", "deterministic": True, "database": "none"},
            "phases": {"coverage": {"enabled": EXAMPLES > 10}, "stateful": {"enabled": False}},
            # what fits the schema may still not go as things stand; that is said with these statuses
            "checks": {"positive_data_acceptance": {"expected-statuses": EXPECTED}},
        }
    )
    return schemathesis.openapi.from_wsgi("/api/v1/schema/?format=json", get_wsgi_application(), config=config)


@pytest.fixture
def _one_connection() -> Iterator[None]:
    """Let requests leave the test's connection open, as Django's own test client does."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def api(stream_url: str, _one_connection: None) -> Any:
    """The API with a fleet, on a machine that is well, as schemathesis sees it."""
    factories.make_installation()
    factories.make_healthy_fleet(now=timezone.now())
    factories.make_nova("torch", default_executor="agent", allowed_executors=["agent", "builtin"])
    key, _ = create_key("torch", now=timezone.now())
    task = factories.make_task(assignee="torch")
    _known.clear()
    _known.update(nova_id="torch", task_id=task.id, pk="standard", key=key)
    return loaded()


_known: dict[str, str] = {}  # what there is, for the paths; and the key of Nova torch's agent


OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]
SHARES = 8  # each with one fleet: to make it takes longer than to ask an address


@pytest.mark.parametrize("share", range(SHARES))
def test_the_api_keeps_to_its_schema(api: Any, subtests: pytest.Subtests, share: int) -> None:
    for path, method in OPERATIONS[share::SHARES]:
        with subtests.test(path=path, method=method), transaction.atomic():
            keeps_to_its_schema(api[path][method])
            transaction.set_rollback(True)


def keeps_to_its_schema(operation: Any) -> None:
    """Send an operation what fits the document and what does not."""
    for_agents = operation.definition.raw["security"] == [{"key": []}]
    headers = {"Authorization": f"Bearer {_known['key'] if for_agents else KEY}"}

    def send(case: Any) -> None:
        if case.meta.generation.mode.is_positive:
            for name, value in (case.path_parameters or {}).items():
                if name in _known and len(str(value)) % 2:  # half of the time something that is there
                    case.path_parameters[name] = _known[name]
        case.call_and_validate(headers=headers)

    for mode in GenerationMode:
        strategy = operation.as_strategy(generation_mode=mode)
        bounds = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        try:
            seed(17)(bounds(given(case=strategy)(send)))()
        except (Unsatisfiable, SkipTest):
            continue  # nothing of that kind can be sent there


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("role", ["operator", "agent"])
def test_the_api_keeps_to_its_schema_for_long(web_server: WebServer, role: str, tmp_path: Path) -> None:
    """All phases and all checks of schemathesis, from outside; the events, which never end, have tests of their own."""
    factories.make_installation()
    factories.make_healthy_fleet(now=timezone.now() + timedelta(minutes=10))
    factories.make_nova("torch", default_executor="agent", allowed_executors=["agent", "builtin"])
    for number in range(3):
        factories.make_task(f"Task {number}", assignee="torch")
    begun = len(web_server.log())
    key = OPERATOR_KEY if role == "operator" else create_key("torch", now=timezone.now())[0]
    (tmp_path / "schemathesis.toml").write_text(
        "[checks.positive_data_acceptance]\n"
        f"expected-statuses = {json.dumps(EXPECTED)}\n"
        "[checks.negative_data_rejection]\n"
        "expected-statuses = [400, 401, 403, 404, 405, 406, 409, 412, 413, 415, 422, 423, 428, 429, 503]\n"
    )
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("st"), "--config-file", tmp_path / "schemathesis.toml", "run"),
            *(f"{web_server.url}/api/v1/schema/?format=json", "-H", f"Authorization: Bearer {key}", "--no-color"),
            *("--exclude-path", "/api/v1/events", "--max-time", "10", "--request-timeout", "60", "--seed", "17"),
            *("--generation-database", "none", "--continue-on-failure", "--warnings", "off"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
    assert "Traceback" not in web_server.log()[begun:]
