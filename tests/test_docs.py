"""The documents say what is true: diagram, settings, names of the specification, links, readiness checks, commands."""

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands

from reporting.health import CHECKS
from workflow.core.state import TRANSITIONS, WorkflowState, state_diagram

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

# The names that stay wherever the specification's reader would look for them.
KEPT_NAMES = re.findall(
    r"\w+",
    """
WorkflowState WorkflowPhase WorkflowStateData WorkflowStateMachine SafetyOrchestrator FrostyCooldownManager
ReallyChillWillyEmergency HookHealthMonitor APIHammeringPrevention StreamHealthMonitor SafetyStatus SafetyLevel StreamController
WakeSignalProcessor WakeSignalPriorityClassifier TaskTracker NOVAProtocolValidator WorkQueueProcessor PriorityWorkDiscovery
StreamBasedWorkDiscovery MomentumTaskGenerator StrategicWorkPlanner CompletionRoutineManager EnterpriseReportingSystem
MetricsCollector NovaPersonalityConfig WorkItem EnterpriseMetric STREAM_PATTERNS TASK_MESSAGE_SCHEMA
""",
)


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_readmes_diagram_is_drawn_from_the_table_of_transitions():
    begin, end = "<!-- state diagram: generated, begin -->\n", "<!-- state diagram: generated, end -->"
    drawn = text("README.md").partition(begin)[2].partition(end)[0]
    assert drawn == f"```mermaid\n{state_diagram()}```\n"


def test_a_changed_table_changes_the_diagram():
    changed = {**TRANSITIONS, WorkflowState.PHASE_TRANSITION: frozenset({WorkflowState.TASK_EXECUTION})}
    assert state_diagram(changed) != state_diagram()


def test_every_setting_from_the_environment_is_documented():
    source = text("novawf_site/settings.py")
    read = set(re.findall(r"""(?:\benv(?:\.\w+)?|_integer|_secret)\(\s*f?["']([A-Z][A-Z0-9_]+)["']""", source))
    documented = set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)` \|", text("docs/operations.md"), re.MULTILINE))
    assert len(read) > 15
    assert documented == read


def spec_map() -> list[tuple[str, str]]:
    """Give name and place of each row of the table of names."""
    return re.findall(r"^\| `(\w+)` \| `([\w./]+)` \|", text("docs/spec-map.md"), re.MULTILINE)


@pytest.mark.parametrize(("name", "place"), spec_map())
def test_a_name_of_the_specification_is_where_the_map_says(name, place):
    path = ROOT / place
    assert path.exists()
    if path.is_file() and name not in ("persist_to_redis", "EnterpriseMetric"):  # these two became data
        assert re.search(rf"^\s*(class|def) {name}\b|^{name}\b", path.read_text(), re.MULTILINE)


def test_every_kept_name_of_the_specification_is_on_the_map():
    assert set(KEPT_NAMES) <= {name for name, _ in spec_map()}


def test_every_readiness_check_is_explained():
    explained = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", text("docs/operations.md"), re.MULTILINE)
    assert set(CHECKS) <= set(explained)


def test_the_lengths_of_streams_are_those_of_the_settings():
    words = text("docs/streams.md")
    for stream, length in settings.STREAM_MAXLEN.items():
        assert f"| `{stream}` | {length:,} |" in words
    own = settings.STREAM_MAXLEN_OWN
    share = f"{own['all_novas']:,} divided by the number of Novas, at least {own['least']:,} and at most {own['most']:,}"
    assert share in words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_commands_lead_somewhere(document):
    words = document.read_text()
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", words)
    assert [target for target in targets if not (document.parent / target).exists()] == []
    named = set(re.findall(r"manage\.py ([a-z_]+)", words))
    assert named <= get_commands().keys() | {"test"}
    made = set(re.findall(r"`?make ([a-z-]+)", words)) & set(re.findall(r"^`?make ([a-z-]+)", words, re.MULTILINE))
    assert made <= set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_speaks_of_one_machine(document):
    assert not re.search(r"(?<![\w.])/(?:home|root|work|tmp)/", document.read_text())


@pytest.mark.parametrize("decision", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda path: path.stem)
def test_a_decision_is_short_and_says_why(decision):
    words = decision.read_text()
    assert len(words.splitlines()) < 40
    assert words.startswith(f"# {int(decision.name[:4])}. ")
    assert all(f"**{part}.**" in words for part in ("Context", "Decision", "Consequence"))
