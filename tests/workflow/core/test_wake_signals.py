"""Wake signals: their tiers, and what becomes of each."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflow.core.facts import NOW, SECOND, make_config, make_signal
from workflow.core.wake_signals import SignalTier, WakeSignalPriorityClassifier, WakeSignalProcessor
from workflow.core.work import Priority, WorkType

COORDINATION = "nova.coordination.torch"
ALERTS = "nova.priority.alerts"
CLASSIFIER = WakeSignalPriorityClassifier()
PROCESSOR = WakeSignalProcessor()
CONFIG = make_config(team="builders")


def process(*signals):
    return PROCESSOR.process_wake_signals(signals, CONFIG, NOW)


@pytest.mark.parametrize(
    ("fields", "stream", "tier"),
    [
        ({"priority": "critical", "message": "fyi"}, COORDINATION, "critical"),
        ({"priority": " HIGH "}, COORDINATION, "high"),
        ({"priority": "background", "message": "emergency"}, ALERTS, "background"),
        ({"type": "heartbeat", "message": "urgent"}, COORDINATION, "background"),
        ({"message": "Emergency: the database is corrupted"}, COORDINATION, "critical"),
        ({"message": "the build is failing"}, COORDINATION, "high"),
        ({"title": "Please review the plan"}, COORDINATION, "medium"),
        ({"text": "fyi, all is well"}, COORDINATION, "low"),
        ({"message": "pong"}, COORDINATION, "background"),
        ({"message": "anything at all"}, ALERTS, "high"),
        ({"message": "a breach"}, ALERTS, "critical"),
        ({"type": "alert", "message": "fyi"}, COORDINATION, "high"),
        ({"message": "something nobody thought of"}, COORDINATION, "medium"),
        ({"priority": "nonsense"}, COORDINATION, "medium"),
        ({}, COORDINATION, "medium"),
    ],
)
def test_a_signal_has_the_tier_of_its_priority_kind_stream_or_words(fields, stream, tier):
    assert CLASSIFIER.classify_signal(fields, stream) == tier


def test_a_word_counts_only_as_a_whole():
    assert CLASSIFIER.classify_signal({"message": "crashing waves, a breachless wall"}, COORDINATION) == SignalTier.MEDIUM


def test_a_huge_text_is_read_from_its_beginning_only():
    assert CLASSIFIER.classify_signal({"message": "x " * 50_000 + "emergency"}, COORDINATION) == SignalTier.MEDIUM


def test_an_actionable_signal_becomes_a_whole_work_item():
    fields = {"title": "Please  review\nthe plan", "message": "It is long.", "sender": "echo", "page": "7"}
    signal = make_signal(**fields)
    (handled,) = process(signal)
    item = handled.item
    assert item is not None
    assert (handled.outcome, handled.tier) == ("work", SignalTier.MEDIUM)
    assert item.id == f"signal:{COORDINATION}:{signal.entry_id}"
    assert item.title == "Please review the plan"
    assert item.description == "It is long."
    assert (item.priority, item.work_type) == (Priority.MEDIUM, WorkType.SIGNAL)
    assert (item.assigned_to, item.team) == ("torch", "builders")
    assert item.cause == f"{COORDINATION}/{signal.entry_id}"
    assert item.metadata == {"page": "7", "signal_id": signal.id, "sender": "echo"}


def test_a_signal_without_a_title_is_named_after_its_text_and_sender():
    (handled,) = process(make_signal(message="help with the report", sender="echo"))
    assert handled.item is not None
    assert handled.item.title == "Answer echo: help with the report"
    (handled,) = process(make_signal())
    assert handled.item is not None
    assert handled.item.title == "Answer a signal: a message without text"


def test_an_executor_is_taken_over_only_where_the_nova_may_use_it():
    (handled,) = process(make_signal(title="please", executor="builtin", action="echo"))
    assert handled.item is not None
    assert (handled.item.executor, handled.item.action) == ("builtin", "echo")
    (handled,) = process(make_signal(title="please", executor="command", action="rm"))
    assert handled.item is not None
    assert (handled.item.executor, handled.item.action) == ("", "")


@pytest.mark.parametrize("text", ["fyi, all is well", "ping"])
def test_a_signal_of_little_weight_is_noted(text):
    (handled,) = process(make_signal(message=text))
    assert handled.outcome == "noted"
    assert text in handled.note
    assert handled.item is None


def test_an_alert_is_work_however_little_it_presses():
    (handled,) = process(make_signal("alert", priority="background", title="A small leak"))
    assert handled.item is not None
    assert (handled.item.priority, handled.item.work_type) == (Priority.LOW, WorkType.ALERT)


@pytest.mark.parametrize("kind", ["alert", "signal"])
def test_a_message_to_all_wakes_and_makes_no_task(kind):
    (handled,) = process(make_signal(kind, stream=ALERTS, message="emergency"))
    assert (handled.outcome, handled.item) == ("wake", None)
    assert handled.note == "Woke up: emergency"


def test_an_alert_that_names_the_nova_is_its_work():
    (handled,) = process(make_signal("alert", stream=ALERTS, message="emergency", nova_id="torch"))
    assert handled.item is not None
    assert handled.item.priority == Priority.CRITICAL


def test_the_most_urgent_and_then_the_oldest_signal_comes_first():
    late = make_signal(priority="critical", title="late")
    early = make_signal(priority="critical", title="early", received_at=NOW - SECOND)
    note = make_signal(priority="low", title="note", received_at=NOW - 9 * SECOND)
    assert [handled.signal for handled in process(note, late, early)] == [early, late, note]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(
        st.builds(
            lambda kind, stream, fields: make_signal(kind, stream=stream, **fields),
            st.sampled_from(("signal", "alert", "work_item", "foreign")),
            st.sampled_from((COORDINATION, ALERTS, "nova.status.torch")),
            st.dictionaries(st.sampled_from(("title", "message", "priority", "type_", "nova_id", "executor", "x")), st.text()),
        ),
        max_size=5,
    )
)
def test_nothing_is_dropped_silently(signals):
    handled = process(*signals)
    assert sorted(entry.signal.id for entry in handled) == sorted(signal.id for signal in signals)
    for entry in handled:
        assert entry.outcome in ("work", "noted", "wake")
        assert (entry.item is not None) == (entry.outcome == "work")
        assert entry.note
        if entry.item is not None:
            assert 1 <= len(entry.item.title) <= 500
