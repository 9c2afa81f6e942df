"""What deploy/ holds for Prometheus and Grafana speaks of metrics that /metrics tells, by their very names and labels."""

import json
import re
from datetime import datetime
from typing import Any

import pytest
import yaml
from django.utils import timezone

from reporting import alerting
from reporting.models import AlertChannel
from tests import factories
from tests.processes.stack import ROOT
from tests.reporting.test_metrics_endpoint import scrape
from workflow.models import Lease

pytestmark = pytest.mark.django_db

DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "novawf-alerts.yml").read_text())
SCRAPE = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "novawf.json").read_text())
_USED = re.compile(r"(novawf_\w+)(?:\{([^}]*)\})?")
_LABELS = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


def expressions() -> list[str]:
    rules = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    return rules + [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


@pytest.fixture
def exported(stream_url: str) -> dict[str, set[str]]:
    """Scrape a house in which everything exists that has a label of its own; give labels by name of the sample."""
    now = timezone.now()
    factories.make_healthy_fleet(now=now)
    factories.make_nova("torch", now=now)
    factories.make_incident("torch", now=now)
    factories.make_provider("main")
    Lease.objects.create(name="slot:loops:here:0", heartbeat_at=now)
    AlertChannel.objects.create(slug="ops", kind="webhook")
    alerting.evaluate_if_due(now=now)
    found: dict[str, set[str]] = {}
    for name, labels in scrape():
        found.setdefault(name, set()).update(label for label, _ in labels)
    return found


def test_they_ask_for_nothing_that_is_not_told(exported: dict[str, set[str]]) -> None:
    for expression in expressions():
        used = _USED.findall(expression)
        assert used or "up{" in expression
        for name, selector in used:
            assert name in exported, f"{name} of {expression}"
            assert set(_LABELS.findall(selector)) <= exported[name], f"{selector} of {expression}"
        legends = set(re.findall(r"by \((\w+)\)", expression))
        assert legends <= set().union(*(exported[name] for name, _ in used), set())


def test_whatever_is_told_is_shown(exported: dict[str, set[str]]) -> None:
    shown = {name for expression in expressions() for name, _ in _USED.findall(expression)}
    stems = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exported}
    assert {stem for stem in stems if stem.startswith("novawf_")} - {re.sub(r"_bucket$", "", name) for name in shown} == set()


def test_labels_in_texts_are_those_of_the_metric(exported: dict[str, set[str]]) -> None:
    panels = [(t["expr"], t["legendFormat"]) for panel in DASHBOARD["panels"] for t in panel.get("targets", [])]
    rules = [(rule["expr"], rule["annotations"]["summary"]) for group in RULES["groups"] for rule in group["rules"]]
    for expression, text in panels + rules:
        labels = set(re.findall(r"{{\s*(?:\$labels\.)?(\w+)\s*}}", text)) - {"value"}
        known = set().union(*(exported[name] for name, _ in _USED.findall(expression)), set())
        assert labels <= known, (expression, text)


def test_the_files_are_what_their_readers_take(now: datetime) -> None:
    assert SCRAPE["rule_files"] == ["novawf-alerts.yml"]
    assert SCRAPE["scrape_configs"][0]["metrics_path"] == "/metrics"
    names = [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]
    assert len(names) == len(set(names))
    for group in RULES["groups"]:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert set(rule["annotations"]) == {"summary", "action"}
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert DASHBOARD["templating"]["list"][0]["name"] == "source"
    assert all(_fits(panel["gridPos"]) for panel in DASHBOARD["panels"])


def _fits(place: dict[str, Any]) -> bool:
    return bool(place["x"] + place["w"] <= 24 and place["h"] >= 1)
